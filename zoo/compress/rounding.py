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

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

LARGEST = 63  # magnitudes above share one entry of a rate table
SPACING = 2.0  # classes an octave of mean magnitude
LOWEST, HIGHEST = -16, 12  # class k has mean magnitude 2^(k / SPACING)
BLOCK = 64
ENTRIES = 1 << 18  # integers that are looked up in tables at a time

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
        m = np.abs(q).astype(np.float32, copy=False)
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
        table = self.tables.reshape(-1)
        return math.fsum(float(table[index].sum(dtype=np.float64)) for index in _entries(q, self.rows, self.columns))


def objective(
    y: np.ndarray, q: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, rate: Rate,
    columns: np.ndarray | float = 1.0,
) -> float:
    """J as in the module's docstring. y, q: (R, d); hessian (d, d) or (G, d, d); importance a (R,); columns: see `descend`."""
    error = np.asarray(y - q, np.float32)
    error *= columns
    error = torch.from_numpy(error)
    error = error.reshape(*hessian.shape[:-2], -1, hessian.shape[-1])
    quadratic = (error @ torch.from_numpy(np.asarray(hessian, np.float32)) * error).sum(-1).double().reshape(-1)
    return float(quadratic @ torch.from_numpy(np.asarray(importance, np.float64))) + lam * rate.bits(q)


def sequential(
    y: np.ndarray, hessian: np.ndarray | None, importance: np.ndarray, lam: float, rate: Rate, factor: Factor | None = None,
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """One pass over the columns, most important first; the columns that follow make up for the error of each.

    y (R, d) float32, hessian (d, d) float32 positive definite, importance (R,) positive -> integers float32 (R, d). Where its
    `factor` is given, hessian is not needed. columns: see `descend`.
    """
    order, upper = factor or factorise(hessian.copy)
    columns = np.ones(y.shape[1], np.float32) if columns is None else columns
    if upper.dim() == 3:
        return _sequential_groups(y, upper.numpy() / columns, importance, lam, rate)
    scale = torch.from_numpy(columns[order])
    remaining = torch.from_numpy(np.take(y.T, order, axis=0))  # (d, R); a column is replaced by its integers
    price = (lam / importance).astype(np.float32)
    d = len(remaining)
    for begin in range(0, d, BLOCK):
        end = min(begin + BLOCK, d)
        errors = torch.empty(end - begin, remaining.shape[1])
        rows = upper[begin:end] / scale  # not of the whole: a factor is as large as the Hessian
        block, corner = remaining[begin:end], rows[:, begin:end].contiguous()
        for j in range(end - begin):
            pivot = float(corner[j, j])
            target = block[j].numpy()
            chosen = _choose(target, 1 / pivot**2, price, rate, int(order[begin + j]))
            errors[j] = torch.from_numpy((target - chosen) / pivot)
            block[j] = torch.from_numpy(chosen)
            if j + 1 < end - begin:
                block[j + 1 :].addr_(corner[j, j + 1 :], errors[j], alpha=-1)
        if end < d:
            remaining[end:].addmm_(rows[:, end:].T, errors, alpha=-1)
    q = np.empty_like(y)
    q[:, order] = remaining.numpy().T
    return q


def conditional(factor: Factor) -> np.ndarray:
    """(d,) or (G, d): what an error in a column costs once the columns that `sequential` treats after it have adapted."""
    order, upper = factor
    if upper.dim() == 3:
        return 1 / upper.diagonal(dim1=1, dim2=2).numpy() ** 2
    out = np.empty(len(order), np.float32)
    out[order] = 1 / upper.diagonal().numpy() ** 2
    return out


def descend(
    y: np.ndarray, q: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, rate: Rate,
    columns: np.ndarray | None = None,
) -> np.ndarray:
    """One sweep of coordinate descent on J from integers q: no choice raises J.

    columns (d,): D, where y and q are in units of it and `hessian` is not: D H D stands in its place. float32.
    """
    columns = np.ones(y.shape[1], np.float32) if columns is None else columns
    if hessian.ndim == 3:
        return _descend_groups(y, q, hessian * columns[:, None] * columns, importance, lam, rate)
    present = torch.from_numpy(np.array(q.T, order="C"))  # (d, R)
    error = torch.from_numpy(np.array(y.T, order="C")).sub_(present)
    price = (lam / importance).astype(np.float32)
    d = len(present)
    for begin in range(0, d, BLOCK):
        end = min(begin + BLOCK, d)
        rows = torch.from_numpy(hessian[begin:end] * columns[begin:end, None] * columns)
        slope = rows @ error  # (B, R): H (y - q)
        corner = rows[:, begin:end].contiguous()
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
    del error
    return np.ascontiguousarray(present.numpy().T)


def minimise(
    y: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, kernel: int = 1, sweeps: int = 3
) -> tuple[np.ndarray, Rate]:
    """Integers (R, d) float32 and the tables they were chosen under, re-estimated between sweeps."""
    q = sequential(y, hessian, importance, lam, sketch(y, kernel))
    return sweep(y, q, hessian, importance, lam, kernel, sweeps)


def sketch(y: np.ndarray, kernel: int) -> Rate:
    """Tables before there are integers: those of plain rounding know too few zeros."""
    q = np.abs(y)
    small = q <= 0.6
    np.rint(q, out=q)
    q[small] = 0
    return Rate.fit(q, kernel)


def sweep(
    y: np.ndarray, q: np.ndarray, hessian: np.ndarray, importance: np.ndarray, lam: float, kernel: int, sweeps: int,
    columns: np.ndarray | None = None,
) -> tuple[np.ndarray, Rate]:
    """So many sweeps of `descend`, each under the tables of the integers before it; and the last tables."""
    for _ in range(sweeps):
        rate = Rate.fit(q, kernel)
        q = descend(y, q, hessian, importance, lam, rate, columns)
    return q, rate


def factorise(load: Callable[[], np.ndarray]) -> Factor:
    """Order of the columns, and the upper Cholesky factor of the inverse: its row j spreads the error of column j.

    load: gives a Hessian, in memory that the factor then takes; it may be called again.
    """
    hessian = load()
    if hessian.ndim == 3:
        factors = [_inverse_factor(partial(np.array, h.T, order="C")) for h in hessian]
        return np.arange(hessian.shape[-1]), torch.stack(factors)
    order = np.argsort(-np.diag(hessian), kind="stable")
    first = [hessian]
    del hessian
    return order, _inverse_factor(lambda: transpose(_permute(first.pop() if first else load(), order)))


def transpose(matrix: np.ndarray) -> np.ndarray:
    """A square matrix transposed in place."""
    for i in range(0, len(matrix), BLOCK):
        for j in range(i, len(matrix), BLOCK):
            block = matrix[i : i + BLOCK, j : j + BLOCK].copy()
            matrix[i : i + BLOCK, j : j + BLOCK] = matrix[j : j + BLOCK, i : i + BLOCK].T
            matrix[j : j + BLOCK, i : i + BLOCK] = block.T
    return matrix


def _permute(matrix: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows and columns of a square matrix in another order, in place."""
    for begin in range(0, len(matrix), BLOCK):
        matrix[begin : begin + BLOCK] = matrix[begin : begin + BLOCK, order]
    for begin in range(0, len(matrix), BLOCK):
        matrix[:, begin : begin + BLOCK] = matrix[order, begin : begin + BLOCK]
    return matrix


def _entries(q: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """Places of integers q (R, d) in the flattened tables of a `Rate`, int64, some rows at a time."""
    count = max(1, ENTRIES // max(q.shape[1], 1))
    for begin in range(0, len(q), count):
        block = slice(begin, begin + count)
        k = np.clip(rows[block, None] + columns, LOWEST, HIGHEST) - LOWEST
        yield k * (LARGEST + 1) + np.minimum(np.abs(q[block]), LARGEST).astype(np.int64)


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
    size = count * (LARGEST + 1)
    counts = sum((np.bincount(index.reshape(-1), minlength=size) for index in _entries(q, rows, columns)), np.zeros(size))
    counts = counts.reshape(count, LARGEST + 1)
    mean = 2.0 ** (np.arange(LOWEST, HIGHEST + 1) / SPACING)
    theta = (np.sqrt(1 + mean**2) - 1) / mean
    powers = theta[:, None] ** np.arange(LARGEST + 1)
    prior = powers * ((1 - theta) / (1 + theta))[:, None] * np.where(np.arange(LARGEST + 1) > 0, 2.0, 1.0)
    counts += pseudo * np.maximum(prior, 1e-7)
    bits = -np.log2(counts / counts.sum(1, keepdims=True))
    bits[:, 1:] += 1.0  # the sign
    return bits.astype(np.float32)


def _inverse_factor(load: Callable[[], np.ndarray]) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of a matrix whose transpose `load` gives, in the memory of that.

    A matrix that rounding left indefinite gets a heavier diagonal; LAPACK works in place on columns, hence the transpose.
    """
    extra = [0.0, 0.0]  # for each of two factorisations
    while True:
        matrix = torch.from_numpy(load()).T
        if not _failed(matrix, extra, 0):
            torch.cholesky_inverse(matrix, out=matrix)
            if not _failed(matrix, extra, 1):
                return matrix.T
        del matrix


def _failed(matrix: torch.Tensor, extra: list[float], number: int) -> bool:
    """Puts the lower factor in the place of the matrix, with `extra[number]` of its mean on the diagonal; else raises that."""
    if extra[number]:
        matrix.diagonal().add_(extra[number] * float(matrix.diagonal().mean()))
    info = torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(matrix, out=(matrix, info))
    if not info:
        return False
    extra[number] = max(10 * extra[number], 1e-5)
    if extra[number] > 1:
        raise ValueError("the Hessian is not positive definite, nor near it")
    return True
