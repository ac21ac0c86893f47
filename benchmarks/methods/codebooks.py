"""C steps of LC: the codebook and assignment nearest to given weights (Carreira-Perpinan & Idelbayev 2017).

    w (n,) --Quantiser.fit--> codebook (K,), ascending, and indices (n,):   minimise sum (w - codebook[indices])^2

Every one is the exact minimum, but for `kmeans` (a local one, as in the paper; `kmeans_exact` is the global one).
All sums run in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("adaptive", "fixed", "binary", "ternary", "pow2")


@dataclass(frozen=True)
class Quantiser:
    """What a codebook may be: `kind`, and whether one learned scale a layer multiplies a codebook that is fixed.

    adaptive: any `k` values (k-means, warm-started; with `exact` the global optimum every time);
    fixed: `entries`; binary: -1, 1; ternary: -1, 0, 1; pow2: 0 and +-1, +-1/2, .., +-2^-c.
    """

    kind: str
    k: int = 2
    c: int = 5
    entries: tuple[float, ...] = ()
    scaled: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown codebook {self.kind!r}; known: {', '.join(KINDS)}")
        if self.kind == "adaptive" and (self.k < 1 or self.scaled):
            raise ValueError("an adaptive codebook has k >= 1 entries, and no scale beside them")
        if self.kind == "fixed" and not self.entries:
            raise ValueError("a fixed codebook needs its entries")
        if self.kind == "pow2" and not 0 <= self.c <= 30:
            raise ValueError(f"powers of two down to 2^-c need 0 <= c <= 30, found {self.c}")

    @property
    def size(self) -> int:
        """Entries K of the codebook."""
        return self.k if self.kind == "adaptive" else len(self.base())

    def base(self) -> np.ndarray:
        """The fixed entries, ascending, before any scale."""
        if self.kind == "fixed":
            return np.unique(np.asarray(self.entries, np.float64))
        if self.kind == "binary":
            return np.array([-1.0, 1.0])
        if self.kind == "ternary":
            return np.array([-1.0, 0.0, 1.0])
        powers = 2.0 ** -np.arange(self.c + 1.0)
        return np.concatenate([-powers, [0.0], powers[::-1]])

    def fit(self, w: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Codebook float64 (K,) and indices int64 (n,) of weights (n,). `start`: the last codebook (k-means only)."""
        w = np.asarray(w, np.float64)
        if self.kind == "adaptive":
            return kmeans_exact(w, self.k) if self.exact or start is None else kmeans(w, start)
        if self.kind == "binary":
            return binary(w, self.scaled)
        if self.kind == "ternary" and self.scaled:
            return ternary_scaled(w)
        if self.scaled:
            return scaled(w, self.base())
        if self.kind == "pow2":
            return powers_of_two(w, self.c)
        return self.base(), nearest(w, self.base())


def nearest(w: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index (n,) of the entry nearest to each weight; codebook (K,) ascending. A tie goes to the smaller entry."""
    return np.searchsorted((codebook[:-1] + codebook[1:]) / 2, w)


def kmeans(w: np.ndarray, start: np.ndarray, iterations: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's iterations from the codebook `start` (K,) until no weight changes its entry.

    In one dimension a cluster is an interval of the sorted weights, so one sort and prefix sums make an iteration
    cost K log n. An entry without weights stays where it is.
    """
    codebook = np.sort(np.asarray(start, np.float64))
    ordered = np.sort(w)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    ends = None
    for _ in range(iterations):
        inner = np.searchsorted(ordered, (codebook[:-1] + codebook[1:]) / 2, side="right")
        bounds = np.concatenate([[0], inner, [len(w)]])
        if ends is not None and np.array_equal(bounds, ends):
            break
        ends, counts = bounds, np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        codebook = np.sort(np.where(counts > 0, means, codebook))
    return codebook, nearest(w, codebook)


def kmeans_exact(w: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The global optimum of one-dimensional k-means: codebook (k,), ascending, and indices (n,).

    Fewer than k distinct weights: the last one is repeated.
    """
    import kmeans1d

    distinct = np.unique(w)
    if len(distinct) <= k:
        return np.concatenate([distinct, np.full(k - len(distinct), distinct[-1])]), np.searchsorted(distinct, w)
    centred = w - np.mean(w)  # keeps the differences of prefix sums accurate
    indices = np.asarray(kmeans1d.cluster(centred, k).clusters)
    return np.bincount(indices, centred) / np.bincount(indices) + np.mean(w), indices


def binary(w: np.ndarray, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """{-a, a} with a = mean |w|, or a = 1. Zero counts as positive."""
    a = float(np.abs(w).mean()) if scaled else 1.0
    return np.array([-a, a]), (w >= 0).astype(np.int64)


def ternary_scaled(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """{-a, 0, a}: the j largest |w| become +-a = their mean, where j maximises (sum of the first j) / sqrt(j)."""
    size = np.abs(w)
    order = np.argsort(-size, kind="stable")
    sums = np.cumsum(size[order])
    j = int(np.argmax(sums / np.sqrt(np.arange(1, len(w) + 1)))) + 1
    a = sums[j - 1] / j
    indices = np.ones(len(w), np.int64)
    indices[order[:j]] = np.where(w[order[:j]] < 0, 0, 2)
    return np.array([-a, 0.0, a]), indices


def powers_of_two(w: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    """{0, +-1, +-1/2, .., +-2^-c}: the nearest in closed form, through f = -log2 |w|.

    |w| goes to 2^-floor(f + log2(3/2)), to 1 where f <= 0, to 2^-c where c < f <= c + 1, and to 0 beyond.
    """
    with np.errstate(divide="ignore"):
        f = -np.log2(np.abs(w))
    power = np.where(f > c, c, np.clip(np.floor(np.minimum(f, c) + np.log2(1.5)), 0, c)).astype(np.int64)
    indices = np.where(w < 0, power, 2 * c + 2 - power)
    indices[f > c + 1] = c + 1
    return Quantiser("pow2", c=c).base(), indices


def scaled(w: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a * base with the best a > 0, for any fixed ascending base (K,): the global optimum.

    The nearest entry of a weight changes only where a passes w / (a midpoint of the base). Between two such places the
    assignment c is constant, its best a is A / B with A = sum w c and B = sum c^2, and the error falls by A^2 / B: one
    sort of all n (K-1) places and two running sums find the best.
    """
    middle = (base[:-1] + base[1:]) / 2
    positive, negative = w > 0, w < 0
    places, rise_a, rise_b = [], [], []
    for m, lower, upper in zip(middle, base[:-1], base[1:], strict=True):
        if m > 0:
            weights, step, square = w[positive], lower - upper, lower**2 - upper**2
        elif m < 0:
            weights, step, square = w[negative], upper - lower, upper**2 - lower**2
        else:
            continue
        places.append(weights / m)
        rise_a.append(weights * step)
        rise_b.append(np.full(len(weights), square))
    total_a = base[-1] * w[positive].sum() + base[0] * w[negative].sum()
    at_zero = np.abs(base).min() ** 2 * (len(w) - positive.sum() - negative.sum())
    total_b = base[-1] ** 2 * positive.sum() + base[0] ** 2 * negative.sum() + at_zero
    place = np.concatenate([*places, np.zeros(0)])
    order = np.argsort(place, kind="stable")
    a_sums = np.concatenate([[total_a], total_a + np.cumsum(np.concatenate([*rise_a, np.zeros(0)])[order])])
    b_sums = np.concatenate([[total_b], total_b + np.cumsum(np.concatenate([*rise_b, np.zeros(0)])[order])])
    edge = np.concatenate([[0.0], place[order], [np.inf]])
    valid = (a_sums > 0) & (b_sums > 1e-12) & (np.diff(edge) > 0)
    if not valid.any():  # nothing to gain from any a > 0
        return base * 0.0, nearest(np.zeros(len(w)), base)
    gain = np.where(valid, a_sums**2 / np.maximum(b_sums, 1e-12), -np.inf)
    best = int(np.argmax(gain))
    indices = nearest(w, base * _between(edge[best], edge[best + 1]))
    c = base[indices]
    a = float(w @ c) / float(c @ c)
    return base * a, indices


def _between(low: float, high: float) -> float:
    return (low + high) / 2 if np.isfinite(high) else (2 * low or 1.0)
