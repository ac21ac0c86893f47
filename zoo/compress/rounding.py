"""Rate-aware second-order rounding: integers that keep a layer's output and cost few bits, without training.

For the rows y_o of a layer, in units of the quantisation step, this minimises over integers q

    J(q) = sum over rows o of  a_o (y_o - q_o)^T H (y_o - q_o)  +  lambda * bits(q)

with H the covariance of the layer's inputs and a_o the importance of output o. `sequential` fixes one column after
another and lets the columns still to come make up for the error (optimal brain surgeon: Hassibi & Stork 1993; GPTQ:
Frantar et al. 2022, section 3; with a rate term: CERWU, arXiv 2505.18758). `descend` then revisits every integer while
the others stay, which can only lower J. Both choose among the nearest integer, its neighbour towards zero, and zero.

The rows of a convolution in G groups have a Hessian for each group, (G, d, d): rows of a group follow one another.

`Rate` is the code length under tables by class of row and column, as `zoo.codec`'s model "classes" has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

LARGEST = 63  # magnitudes above share one entry of a rate table
SPACING = 2.0  # classes an octave of mean magnitude
LOWEST, HIGHEST = -16, 12  # class k has mean magnitude 2^(k / SPACING)
BLOCK = 64

Factor = tuple[np.ndarray, torch.Tensor]  # (order, factor) of `factorise`; groups keep the order of the columns


@dataclass
class Rate:
    """Bits of an integer: tables[class of row + class of column, |q|], sign included.

    rows (R,), columns (d,): int64 class shares; tables float32 (classes, LARGEST + 1).
    """

    rows: np.ndarray
    columns: np.ndarray
    tables: np.ndarray

    @classmethod
    def fit(cls, q: np.ndarray, kernel: int = 1, pseudo: float = 30.0) -> Rate:
        """Classes and tables from integers q (R, d), d = inputs * kernel, which the next q will resemble.

        The mean magnitude of an entry is taken as the product of its row's, its input channel's and its place's in
        the kernel; a geometric distribution counts as `pseudo` observations of every class.
        """
        m = np.abs(q).astype(np.float32)
        mean = max(float(m.mean()), 1e-4)
        cube = m.reshape(len(m), -1, kernel)
        floor = mean * 2.0**-6

        def share(values):
            return np.log2(np.maximum(values, floor) / mean)

        offset = np.log2(mean)
        places = share(cube.mean((0, 1)))
        inputs = share(cube.mean((0, 2)))
        rows = np.rint(SPACING * (offset + share(cube.mean((1, 2))))).astype(np.int64)
        columns = np.rint(SPACING * (inputs[:, None] + places[None, :])).astype(np.int64).reshape(-1)
        return cls(rows, columns, _tables(q, rows, columns, pseudo))

    def classes(self, column: int) -> np.ndarray:
        """Class of each row's entry in that column."""
        return np.clip(self.rows + self.columns[column], LOWEST, HIGHEST) - LOWEST

    def bits(self, q: np.ndarray) -> float:
        """Code length of all integers q (R, d)."""
        k = np.clip(self.rows[:, None] + self.columns[None, :], LOWEST, HIGHEST) - LOWEST
        return float(self.tables[k, np.minimum(np.abs(q), LARGEST).astype(np.int64)].sum(dtype=np.float64))


def objective(y: np.ndarray, q: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, rate: Rate) -> float:
    """J as in the module's docstring. y, q: (R, d); hessian (d, d) or (G, d, d); importance a (R,)."""
    error = torch.from_numpy(np.asarray(y - q, np.float32))
    error = error.reshape(*hessian.shape[:-2], -1, hessian.shape[-1])
    quadratic = (error @ torch.from_numpy(np.asarray(hessian, np.float32)) * error).sum(-1).double().reshape(-1)
    return float(quadratic @ torch.from_numpy(np.asarray(importance, np.float64))) + lam * rate.bits(q)


def sequential(
    y: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, rate: Rate, factor: Factor | None = None
) -> np.ndarray:
    """One pass over the columns, most important first; the columns that follow make up for the error of each.

    y (R, d) float32, hessian (d, d) float32 positive definite, importance (R,) positive -> integers float32 (R, d).
    """
    order, upper = factor or factorise(hessian)
    if upper.dim() == 3:
        return _sequential_groups(y, upper.numpy(), importance, lam, rate)
    remaining = torch.from_numpy(np.ascontiguousarray(y[:, order].T))  # (d, R)
    out = torch.empty_like(remaining)
    price = (lam / importance).astype(np.float32)
    d = len(remaining)
    for begin in range(0, d, BLOCK):
        end = min(begin + BLOCK, d)
        errors = torch.empty(end - begin, remaining.shape[1])
        block, corner = remaining[begin:end], upper[begin:end, begin:end].contiguous()
        for j in range(end - begin):
            pivot = float(corner[j, j])
            target = block[j].numpy()
            chosen = _choose(target, 1 / pivot**2, price, rate, int(order[begin + j]))
            out[begin + j] = torch.from_numpy(chosen)
            errors[j] = torch.from_numpy((target - chosen) / pivot)
            if j + 1 < end - begin:
                block[j + 1 :].addr_(corner[j, j + 1 :], errors[j], alpha=-1)
        if end < d:
            remaining[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
    q = np.empty_like(y)
    q[:, order] = out.numpy().T
    return q


def conditional(factor: Factor) -> np.ndarray:
    """(d,) or (G, d): what an error in a column costs once the columns that `sequential` treats after it have adapted."""
    order, upper = factor
    if upper.dim() == 3:
        return 1 / upper.diagonal(dim1=1, dim2=2).numpy() ** 2
    out = np.empty(len(order), np.float32)
    out[order] = 1 / upper.diagonal().numpy() ** 2
    return out


def descend(y: np.ndarray, q: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, rate: Rate) -> np.ndarray:
    """One sweep of coordinate descent on J from integers q: no choice raises J."""
    if hessian.ndim == 3:
        return _descend_groups(y, q, hessian, importance, lam, rate)
    h = torch.from_numpy(np.ascontiguousarray(hessian))
    present = torch.from_numpy(np.ascontiguousarray(q.T))  # (d, R)
    error = torch.from_numpy(np.ascontiguousarray(y.T)) - present
    price = (lam / importance).astype(np.float32)
    d = len(present)
    for begin in range(0, d, BLOCK):
        end = min(begin + BLOCK, d)
        slope = h[begin:end] @ error  # (B, R): H (y - q)
        corner = h[begin:end, begin:end].contiguous()
        for j in range(end - begin):
            curvature = float(corner[j, j])
            if curvature <= 0:
                continue
            before = present[begin + j].numpy()
            chosen = _choose(before + slope[j].numpy() / curvature, curvature, price, rate, begin + j, before)
            step = torch.from_numpy(chosen - before)
            present[begin + j] += step
            error[begin + j] -= step
            if j + 1 < end - begin:
                slope[j + 1 :].addr_(corner[j, j + 1 :], step, alpha=-1)
    return np.ascontiguousarray(present.numpy().T)


def minimise(
    y: np.ndarray,
    hessian: np.ndarray,
    importance: np.ndarray,
    lam: float,
    kernel: int = 1,
    sweeps: int = 3,
    factor: Factor | None = None,
) -> tuple[np.ndarray, Rate]:
    """Integers (R, d) float32 and the tables they were chosen under, re-estimated between sweeps."""
    sketch = np.rint(y * (np.abs(y) > 0.6))  # tables of plain rounding know too few zeros
    rate = Rate.fit(sketch, kernel)
    q = sequential(y, hessian, importance, lam, rate, factor)
    for _ in range(sweeps):
        rate = Rate.fit(q, kernel)
        q = descend(y, q, hessian, importance, lam, rate)
    return q, rate


def factorise(hessian: np.ndarray) -> Factor:
    """Order of the columns, and the upper Cholesky factor of the inverse: its row j spreads the error of column j."""
    if hessian.ndim == 3:
        factors = [_cholesky(torch.cholesky_inverse(_cholesky(torch.from_numpy(h)))).T for h in hessian]
        return np.arange(hessian.shape[-1]), torch.stack(factors)
    order = np.argsort(-np.diag(hessian), kind="stable")
    matrix = torch.from_numpy(hessian[np.ix_(order, order)])
    for step in (_cholesky, torch.cholesky_inverse, _cholesky):  # one name: each is freed when the next one is there
        matrix = step(matrix)
    return order, matrix.T.contiguous()


def rescale(factor: Factor, columns: np.ndarray) -> Factor:
    """The factor of D H D for a diagonal D, given that of H."""
    order, upper = factor
    return order, upper / torch.from_numpy(columns[order])


def _sequential_groups(y, upper: np.ndarray, importance, lam: float, rate: Rate) -> np.ndarray:
    """`sequential` in all groups at once, with factors (G, d, d)."""
    groups, d, _ = upper.shape
    remaining, price = y.reshape(groups, -1, d).copy(), (lam / importance).astype(np.float32)
    for j in range(d):
        pivot = upper[:, j, j, None]  # (G, 1)
        target = remaining[:, :, j].copy()  # (G, rows of a group)
        curvature = np.broadcast_to(1 / pivot**2, target.shape).reshape(-1)
        chosen = _choose(target.reshape(-1), curvature, price, rate, j).reshape(target.shape)
        remaining[:, :, j] = chosen
        remaining[:, :, j + 1 :] -= ((target - chosen) / pivot)[:, :, None] * upper[:, None, j, j + 1 :]
    return remaining.reshape(y.shape)


def _descend_groups(y, q, hessian: np.ndarray, importance, lam: float, rate: Rate) -> np.ndarray:
    groups, d, _ = hessian.shape
    present, price = q.reshape(groups, -1, d).copy(), (lam / importance).astype(np.float32)
    error = y.reshape(groups, -1, d) - present
    for j in range(d):
        curvature = np.maximum(hessian[:, j, j, None], 1e-30)  # (G, 1)
        slope = np.einsum("grd,gd->gr", error, hessian[:, j])
        before = present[:, :, j].copy()
        all_rows = np.broadcast_to(curvature, before.shape).reshape(-1)
        target = (before + slope / curvature).reshape(-1)
        chosen = _choose(target, all_rows, price, rate, j, before.reshape(-1)).reshape(before.shape)
        present[:, :, j] = chosen
        error[:, :, j] -= chosen - before
    return present.reshape(y.shape)


def _choose(target, curvature: float | np.ndarray, price, rate: Rate, column: int, present=None) -> np.ndarray:
    """The best of: nearest integer, its neighbour towards zero, zero, and the present one."""
    base = rate.classes(column) * (LARGEST + 1)
    table = rate.tables.reshape(-1)
    near = np.rint(target)
    magnitude = np.abs(near)
    index = np.minimum(magnitude, LARGEST).astype(np.int64)
    best = near
    cost = curvature * (target - near) ** 2 + price * table[base + index]
    lower = near - np.sign(near)
    trial = curvature * (target - lower) ** 2 + price * table[base + np.maximum(index - 1, 0)]
    better = trial < cost
    best = np.where(better, lower, best)
    cost = np.where(better, trial, cost)
    trial = curvature * target**2 + price * table[base]
    better = trial < cost
    best = np.where(better, np.float32(0), best)
    if present is not None:
        cost = np.where(better, trial, cost)
        index = np.minimum(np.abs(present), LARGEST).astype(np.int64)
        trial = curvature * (target - present) ** 2 + price * table[base + index]
        best = np.where(trial <= cost, present, best)
    return best.astype(np.float32, copy=False)


def _tables(q: np.ndarray, rows: np.ndarray, columns: np.ndarray, pseudo: float) -> np.ndarray:
    count = HIGHEST - LOWEST + 1
    k = np.clip(rows[:, None] + columns[None, :], LOWEST, HIGHEST) - LOWEST
    index = (k * (LARGEST + 1) + np.minimum(np.abs(q), LARGEST).astype(np.int64)).reshape(-1)
    counts = np.bincount(index, minlength=count * (LARGEST + 1)).reshape(count, LARGEST + 1).astype(np.float64)
    mean = 2.0 ** (np.arange(LOWEST, HIGHEST + 1) / SPACING)
    theta = (np.sqrt(1 + mean**2) - 1) / mean
    powers = theta[:, None] ** np.arange(LARGEST + 1)
    prior = powers * ((1 - theta) / (1 + theta))[:, None] * np.where(np.arange(LARGEST + 1) > 0, 2.0, 1.0)
    counts += pseudo * np.maximum(prior, 1e-7)
    bits = -np.log2(counts / counts.sum(1, keepdims=True))
    bits[:, 1:] += 1.0  # the sign
    return bits.astype(np.float32)


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Lower factor; a matrix that rounding left indefinite gets a heavier diagonal."""
    extra = 0.0
    mean = float(matrix.diagonal().mean())
    while True:
        damped = matrix if not extra else matrix + extra * mean * torch.eye(len(matrix))
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return factor
        extra = max(10 * extra, 1e-5)
        if extra > 1:
            raise ValueError("the Hessian is not positive definite, nor near it")
