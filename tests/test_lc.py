"""LC: every C step against brute force, the augmented Lagrangian against a problem with a known answer, and the file."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import quantisers
from benchmarks.quantisers import Quantiser

weights_ = st.lists(st.integers(-40, 40), min_size=1, max_size=7).map(lambda v: np.array(v) / 16)
tie_free = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=7).map(np.array)


def error(w, codebook, indices):
    return float(((w - codebook[indices]) ** 2).sum())


def least_error(w, base, scaled):
    """The minimum over every assignment of weights to entries, each with its own best scale a >= 0."""
    best = np.inf
    for choice in itertools.product(range(len(base)), repeat=len(w)):
        c = base[list(choice)]
        a = max(0.0, float(w @ c) / float(c @ c)) if scaled and c.any() else 1.0
        best = min(best, float(((w - a * c) ** 2).sum()))
    return best


def least_kmeans(w, k):
    """The minimum over every assignment of weights to k clusters."""
    best = np.inf
    for choice in itertools.product(range(k), repeat=len(w)):
        labels = np.array(choice)
        best = min(best, sum(float(((w[labels == c] - w[labels == c].mean()) ** 2).sum()) for c in set(choice)))
    return best


def check(w, codebook, indices, size):
    assert codebook.shape == (size,) and indices.shape == w.shape
    assert np.isfinite(codebook).all() and (np.diff(codebook) >= 0).all()
    assert indices.min() >= 0 and indices.max() < size


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@settings(max_examples=40, deadline=None)
@given(w=st.one_of(weights_, tie_free))
def test_exact_kmeans_is_the_least_over_all_clusterings(k, w):
    codebook, indices = quantisers.kmeans_exact(w, k)
    check(w, codebook, indices, k)
    assert error(w, codebook, indices) == pytest.approx(least_kmeans(w, k), abs=1e-9)


@pytest.mark.parametrize(
    ("quantiser", "longest"),
    [
        (Quantiser("binary"), 7),
        (Quantiser("binary", scaled=True), 7),
        (Quantiser("ternary"), 7),
        (Quantiser("ternary", scaled=True), 7),
        (Quantiser("pow2", c=1), 6),
        (Quantiser("pow2", c=2), 5),
        (Quantiser("pow2", c=1, scaled=True), 6),
        (Quantiser("pow2", c=2, scaled=True), 5),
        (Quantiser("fixed", entries=(0.7, -1.1, 0.2)), 7),
        (Quantiser("fixed", entries=(0.7, -1.1, 0.2), scaled=True), 7),
        (Quantiser("fixed", entries=(0.5, 1.0, 2.0), scaled=True), 7),
        (Quantiser("fixed", entries=(-1.0, -0.5), scaled=True), 7),
    ],
    ids=str,
)
@settings(max_examples=60, deadline=None)
@given(w=st.one_of(weights_, tie_free))
def test_c_step_is_the_least_over_all_assignments(quantiser, longest, w):
    w = w[:longest]
    codebook, indices = quantiser.fit(w)
    check(w, codebook, indices, quantiser.size)
    assert error(w, codebook, indices) == pytest.approx(least_error(w, quantiser.base(), quantiser.scaled), abs=1e-9)
    if quantiser.scaled:
        a = codebook[-1] / quantiser.base()[-1]
        assert a >= 0 and codebook == pytest.approx(a * quantiser.base())
    else:
        assert np.array_equal(codebook, quantiser.base())


@pytest.mark.parametrize("base", ["binary", "ternary"])
def test_closed_forms_agree_with_the_general_search(base):
    w = np.random.default_rng(0).standard_normal(5000)
    quantiser = Quantiser(base, scaled=True)
    codebook, indices = quantiser.fit(w)
    general, general_indices = quantisers.scaled(w, quantiser.base())
    assert codebook == pytest.approx(general, abs=1e-12)
    assert np.array_equal(indices, general_indices)


@settings(max_examples=60, deadline=None)
@given(w=tie_free, k=st.integers(1, 4), seed=st.integers(0, 9))
def test_lloyd_never_gets_worse_and_ends_at_a_fixed_point(w, k, seed):
    start = np.sort(np.random.default_rng(seed).standard_normal(k))
    codebook, indices = quantisers.kmeans(w, start)
    check(w, codebook, indices, k)
    assert error(w, codebook, indices) <= error(w, start, quantisers.nearest(w, start)) + 1e-9
    for entry in set(indices):
        assert codebook[entry] == pytest.approx(w[indices == entry].mean(), abs=1e-9)
    assert error(w, codebook, indices) >= least_kmeans(w, k) - 1e-9


def test_exact_kmeans_beats_lloyd_where_lloyd_is_stuck():
    w = np.array([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
    stuck = quantisers.kmeans(w, np.array([0.0, 1.0, 15.0]))
    best = quantisers.kmeans_exact(w, 3)
    assert error(w, *stuck) > 50 and error(w, *best) == pytest.approx(1.5)


def test_exact_kmeans_of_many_weights_is_no_worse_than_lloyd_from_many_starts():
    rng = np.random.default_rng(1)
    w = np.concatenate([rng.laplace(size=20000), rng.normal(4, 0.3, 3000)])
    best = error(w, *quantisers.kmeans_exact(w, 5))
    others = [error(w, *quantisers.kmeans(w, rng.choice(w, 5))) for _ in range(10)]
    assert best <= min(others) * (1 + 1e-9)
    assert min(others) == pytest.approx(best, rel=1e-3)


def test_a_bad_codebook_is_named():
    with pytest.raises(ValueError, match="septenary"):
        Quantiser("septenary")
    with pytest.raises(ValueError, match="entries"):
        Quantiser("fixed")
