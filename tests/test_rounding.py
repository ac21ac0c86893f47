"""Second-order rounding against brute force, a textbook version, and plain rounding."""

import itertools

import numpy as np
import pytest

from zoo.compress import rounding
from zoo.compress.rounding import Rate


def problem(rows: int, d: int, seed: int, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    mix = np.eye(d) + 0.6 * rng.standard_normal((d, d)) / np.sqrt(d)
    x = rng.standard_normal((40 * d, d)) @ mix * np.exp(0.5 * rng.standard_normal(d))
    hessian = (x.T @ x / len(x)).astype(np.float32)
    y = (spread * rng.laplace(size=(rows, d))).astype(np.float32)
    importance = np.exp(rng.standard_normal(rows)).astype(np.float32)
    return y, hessian, importance


def brute_force(y, hessian, importance, lam, rate, reach=4):
    """The best integers of a row each, among all with magnitude up to `reach`."""
    candidates = np.array(list(itertools.product(range(-reach, reach + 1), repeat=y.shape[1])), np.float32)
    out = []
    for o in range(len(y)):
        error = y[o] - candidates
        distortion = importance[o] * np.einsum("nd,de,ne->n", error, hessian, error)
        bits = np.zeros(len(candidates))
        for j in range(y.shape[1]):
            bits += rate.tables[rate.classes(j)[o], np.abs(candidates[:, j]).astype(int)]
        out.append(candidates[np.argmin(distortion + lam * bits)])
    return np.array(out)


@pytest.mark.parametrize("seed", range(4))
def test_independent_columns_give_the_best_of_all_integers(seed):
    y, hessian, importance = problem(5, 4, seed)
    hessian = np.diag(np.diag(hessian))
    rate = Rate.fit(np.rint(y))
    result = rounding.sequential(y, hessian, importance, 0.3, rate)
    best = brute_force(y, hessian, importance, 0.3, rate)
    np.testing.assert_array_equal(result, best)
    np.testing.assert_array_equal(rounding.descend(y, np.rint(y), hessian, importance, 0.3, rate), best)


@pytest.mark.parametrize("seed", range(4))
def test_dependent_columns_come_close_to_the_best_and_never_below(seed):
    y, hessian, importance = problem(6, 4, seed)
    rate, lam = Rate.fit(np.rint(y)), 0.3
    result = rounding.sequential(y, hessian, importance, lam, rate)
    for _ in range(3):
        result = rounding.descend(y, result, hessian, importance, lam, rate)

    def cost(q):
        return rounding.objective(y, q, hessian, importance, lam, rate)

    best, plain = cost(brute_force(y, hessian, importance, lam, rate)), cost(np.rint(y))
    assert best - 1e-3 <= cost(result) < plain
    assert cost(result) - best < 0.7 * (plain - best)


def test_without_a_rate_it_is_gptq():
    """Against GPTQ written out: quantise a column, solve anew for the rest."""
    y, hessian, importance = problem(3, 6, 1)
    free = Rate(np.zeros(3, np.int64), np.zeros(6, np.int64), np.zeros((64, rounding.LARGEST + 1), np.float32))
    order = np.argsort(-np.diag(hessian), kind="stable")
    h, left, wanted = hessian.astype(np.float64), y.astype(np.float64), np.zeros_like(y)
    for n, j in enumerate(order):
        columns_after = order[n:]
        inverse = np.linalg.inv(h[np.ix_(columns_after, columns_after)])
        wanted[:, j] = np.rint(left[:, j])
        left[:, columns_after] -= np.outer((left[:, j] - wanted[:, j]) / inverse[0, 0], inverse[0])
    np.testing.assert_array_equal(rounding.sequential(y, hessian, importance, 0.0, free), wanted)


@pytest.mark.parametrize("d", [5, 150])
def test_a_sweep_never_raises_the_objective(d):
    y, hessian, importance = problem(20, d, 7)
    rate = Rate.fit(np.rint(y))
    q = np.rint(y)
    costs = [rounding.objective(y, q, hessian, importance, 0.5, rate)]
    for _ in range(4):
        q = rounding.descend(y, q, hessian, importance, 0.5, rate)
        costs.append(rounding.objective(y, q, hessian, importance, 0.5, rate))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(costs))
    assert costs[-1] < 0.98 * costs[0]


@pytest.mark.parametrize("seed", range(3))
def test_fewer_bits_and_less_error_than_plain_rounding(seed):
    """At the same number of bits, plain rounding needs a coarser step and loses more."""
    y, hessian, importance = problem(64, 72, seed)
    q, _ = rounding.minimise(y, hessian, importance, 0.15 * float(np.median(importance * np.diag(hessian).mean())), kernel=9)
    rate = Rate.fit(q, 9)
    bits, error = rate.bits(q), rounding.objective(y, q, hessian, importance, 0.0, rate)
    steps = np.linspace(1.0, 4.0, 31)
    plain = [np.rint(y / s) for s in steps]
    enough = next(i for i, p in enumerate(plain) if Rate.fit(p, 9).bits(p) <= bits)
    coarse = rounding.objective(y, plain[enough] * steps[enough], hessian, importance, 0.0, rate)
    assert error < 0.8 * coarse


def test_rates_are_those_of_a_complete_code():
    rng = np.random.default_rng(0)
    q = np.rint(rng.laplace(size=(30, 45)) * np.exp(rng.standard_normal((30, 1)))).astype(np.float32)
    rate = Rate.fit(q, 9)
    mass = 2.0 ** -rate.tables[:, 0] + 2 * (2.0 ** -rate.tables[:, 1:]).sum(1)  # each sign has half
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)
    flat = Rate.fit(q * 0 + np.rint(np.abs(q).mean()), 9)
    assert rate.bits(q) < flat.bits(q)


def test_a_singular_hessian_is_made_heavier():
    y, hessian, importance = problem(4, 8, 3)
    hessian[:, 3] = hessian[:, 2]
    hessian[3] = hessian[2]
    hessian[3, 3] = hessian[2, 2]
    q = rounding.sequential(y, hessian, importance, 0.1, Rate.fit(np.rint(y)))
    assert np.isfinite(q).all()
    with pytest.raises(ValueError, match="positive definite"):
        rounding.sequential(y, -hessian, importance, 0.1, Rate.fit(np.rint(y)))
