"""LC: every C step against brute force, the augmented Lagrangian against a problem with a known answer, and the file."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.methods import codebooks, lc
from benchmarks.methods.codebooks import Quantiser
from benchmarks.methods.direct import Direct
from benchmarks.methods.lc import LC
from zoo import codec, partitionings, reparam

weights_ = st.lists(st.integers(-40, 40), min_size=1, max_size=7).map(lambda v: np.array(v) / 16)
tie_free = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=7).map(np.array)


def error(w, codebook, indices):
    return float(((w - codebook[indices]) ** 2).sum())


@functools.lru_cache
def all_choices(k, n):
    """Every assignment of n weights to k entries: (k^n, n)."""
    return np.array(list(itertools.product(range(k), repeat=n)))


def least_error(w, base, scaled):
    """The minimum over every assignment of weights to entries, each with its own best scale a >= 0."""
    c = base[all_choices(len(base), len(w))]
    squares = np.maximum((c**2).sum(1, keepdims=True), 1e-300)
    a = np.maximum(0.0, (c @ w)[:, None] / squares) if scaled else 1.0
    return float(((w - a * c) ** 2).sum(1).min())


def least_kmeans(w, k):
    """The minimum over every assignment of weights to k clusters."""
    onehot = np.eye(k)[all_choices(k, len(w))]  # (k^n, n, k)
    means = (w @ onehot) / np.maximum(onehot.sum(1), 1)
    return float(((w - (onehot @ means[:, :, None])[..., 0]) ** 2).sum(1).min())


def check(w, codebook, indices, size):
    assert codebook.shape == (size,) and indices.shape == w.shape
    assert np.isfinite(codebook).all() and (np.diff(codebook) >= 0).all()
    assert indices.min() >= 0 and indices.max() < size


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@settings(max_examples=40, deadline=None)
@given(w=st.one_of(weights_, tie_free))
def test_exact_kmeans_is_the_least_over_all_clusterings(k, w):
    codebook, indices = codebooks.kmeans_exact(w, k)
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
    general, general_indices = codebooks.scaled(w, quantiser.base())
    assert codebook == pytest.approx(general, abs=1e-12)
    assert np.array_equal(indices, general_indices)


@settings(max_examples=60, deadline=None)
@given(w=tie_free, k=st.integers(1, 4), seed=st.integers(0, 9))
def test_lloyd_never_gets_worse_and_ends_at_a_fixed_point(w, k, seed):
    start = np.sort(np.random.default_rng(seed).standard_normal(k))
    codebook, indices = codebooks.kmeans(w, start)
    check(w, codebook, indices, k)
    assert error(w, codebook, indices) <= error(w, start, codebooks.nearest(w, start)) + 1e-9
    for entry in set(indices):
        assert codebook[entry] == pytest.approx(w[indices == entry].mean(), abs=1e-9)
    assert error(w, codebook, indices) >= least_kmeans(w, k) - 1e-9


def test_exact_kmeans_beats_lloyd_where_lloyd_is_stuck():
    w = np.array([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
    stuck = codebooks.kmeans(w, np.array([0.0, 1.0, 15.0]))
    best = codebooks.kmeans_exact(w, 3)
    assert error(w, *stuck) > 50 and error(w, *best) == pytest.approx(1.5)


def test_exact_kmeans_of_many_weights_is_no_worse_than_lloyd_from_many_starts():
    rng = np.random.default_rng(1)
    w = np.concatenate([rng.laplace(size=20000), rng.normal(4, 0.3, 3000)])
    best = error(w, *codebooks.kmeans_exact(w, 5))
    others = [error(w, *codebooks.kmeans(w, rng.choice(w, 5))) for _ in range(10)]
    assert best <= min(others) * (1 + 1e-9)
    assert min(others) == pytest.approx(best, rel=1e-3)


def test_a_bad_codebook_is_named():
    with pytest.raises(ValueError, match="septenary"):
        Quantiser("septenary")
    with pytest.raises(ValueError, match="entries"):
        Quantiser("fixed")


# The method, on a least-squares problem whose quantised optimum can be found by brute force.


class Line(nn.Module):
    """y = x . w + b: one layer of 6 weights and a bias."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 1)


GROUPS = (
    partitionings.Group("fc", "scalar", ("fc.weight",), ((1, 6),)),
    partitionings.Group("biases", "scalar", ("fc.bias",), ((1,),)),
)
LINE = partitionings.Partitioning("line", "layers", GROUPS, {})
LAYOUT = {g.name: g.shapes for g in GROUPS}


def problem(seed=0):
    """Correlated inputs, so that rounding each weight by itself is far from the best; the network is the exact fit."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 6, generator=generator) @ torch.randn(6, 6, generator=generator) / 2
    y = x @ torch.linspace(-1, 1.3, 6)[:, None] + 0.5
    network = Line()
    with torch.no_grad():
        network.fc.weight.copy_(torch.linspace(-1, 1.3, 6)[None])
        network.fc.bias.fill_(0.5)
    return network, x, y


def loss_of(weights, x, y):
    return ((x @ weights["fc.weight"].T + weights["fc.bias"] - y) ** 2).mean() / 2


def train(method, x, y, steps, lr=0.02):
    optimizer = torch.optim.SGD(method.parameter_sets()[0].parameters, lr=lr, momentum=0.9, nesterov=True)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(method.weights(), x, y).backward()
        method.regularise(step, None)
        optimizer.param_groups[0]["lr"] = min(lr, method.max_lr(step))
        optimizer.step()
        method.after_step(step)
    return float(loss_of(method.weights(averaged=True), x, y))


def least_loss(k, x, y):
    """Over all assignments of 6 weights to k free values, each solved exactly together with the bias."""
    best = np.inf
    for choice in itertools.product(range(k), repeat=6):
        onehot = np.eye(k)[list(choice)]
        design = np.concatenate([x.numpy().astype(np.float64) @ onehot, np.ones((len(x), 1))], 1)
        solution = np.linalg.lstsq(design, y.numpy()[:, 0], rcond=None)[0]
        best = min(best, float(((design @ solution - y.numpy()[:, 0]) ** 2).mean() / 2))
    return best


OPTIONS = {"codebook": "adaptive", "k": 2, "l_steps": 25, "mu": 0.01, "mu_last": 100.0}


def test_lc_comes_near_the_best_quantised_network_and_direct_compression_does_not():
    network, x, y = problem()
    direct = float(loss_of(Direct(network, LINE, {"k": 2}, 0).weights(averaged=True), x, y))
    method = LC(network, LINE, OPTIONS, 750)
    result, best = train(method, x, y, 750), least_loss(2, x, y)
    assert best * 0.98 <= result <= 1.6 * best < 0.6 * direct
    assert float(method.distance) < 1e-2


def test_multipliers_end_as_the_gradient_of_the_loss():
    network, x, y = problem()
    method = LC(network, LINE, OPTIONS | {"mu_last": 5.0}, 1000)
    train(method, x, y, 1000)
    weights = {name: w.detach().requires_grad_() for name, w in method.weights().items()}
    (gradient,) = torch.autograd.grad(loss_of(weights, x, y), weights["fc.weight"])
    assert gradient.abs().max() > 0.01  # the constraint holds the weights away from the minimum of the loss
    torch.testing.assert_close(method.latents[0].multiplier, gradient.reshape(-1), rtol=0.02, atol=2e-3)
    quantised = method.weights(averaged=True)["fc.weight"].reshape(-1)
    torch.testing.assert_close(method.latents[0].theta.detach(), quantised, rtol=0, atol=0.01)


def test_the_penalty_gradient_is_that_of_the_augmented_lagrangian():
    network, x, y = problem()
    method = LC(network, LINE, OPTIONS, 1000)
    train(method, x, y, 60)
    w, step = method.latents[0].theta, 60
    mu = method.mu(step)
    delta = method.latents[0].codebook.float()[method.latents[0].indices.long()]
    penalty = mu / 2 * ((w - delta - method.latents[0].multiplier / mu) ** 2).sum()
    (expected,) = torch.autograd.grad(penalty, w)
    w.grad = torch.ones_like(w)
    method.regularise(step, None)
    assert method.latents[0].multiplier.abs().max() > 0
    torch.testing.assert_close(w.grad, 1 + expected)


def test_mu_grows_exponentially_and_bounds_the_learning_rate():
    method = LC(problem()[0], LINE, OPTIONS | {"l_steps": 50}, 500)
    ratios = [method.mu(50 * (i + 1)) / method.mu(50 * i) for i in range(9)]
    assert ratios == pytest.approx([ratios[0]] * 9) and ratios[0] > 1
    assert (method.mu(0), method.mu(49), method.mu(499)) == pytest.approx((0.01, 0.01, 100.0))
    assert method.max_lr(499) == pytest.approx(0.01)


@pytest.mark.parametrize("options", [
    {"k": 3}, {"k": 1}, {"codebook": "binary"}, {"codebook": "ternary", "scaled": True}, {"codebook": "pow2", "scaled": True},
    {"codebook": "fixed", "entries": [-0.5, 0.25, 1.0]}, {"k": 4, "exact": True},
], ids=str)  # fmt: skip
def test_the_file_holds_the_weights_that_were_evaluated(options):
    network, x, y = problem()
    method = LC(network, LINE, OPTIONS | {"k": 2} | options, 200)
    train(method, x, y, 200)
    promised = method.weights(averaged=True)
    blob = codec.encode("line", "layers", method.finish(), LAYOUT)
    _, groups = codec.decode(blob, lambda header: LAYOUT)
    for group in GROUPS:
        coded = groups[group.name]
        (stored,) = reparam.decode(coded.decoder, coded.phi, coded.psi, list(group.shapes))
        assert np.array_equal(stored, promised[group.tensors[0]].numpy())
    assert len(set(stored.tolist())) <= method.latents[0].quantiser.size
    if options.get("codebook") == "fixed":
        assert set(groups["fc"].psi["codebook"][0].tolist()) <= {-0.5, 0.25, 1.0}


def test_the_papers_counting_of_a_file():
    groups = {group.name: group for group in partitionings.get("lenet300-100", "layers").groups}
    coded = {
        name: codec.Coded("codebook", "static", np.zeros((group.size, 1), np.int32), {"codebook": np.zeros((1, 3), np.float32)})
        for name, group in groups.items()
    }
    biases = np.zeros((410, 1), np.int32)
    coded["biases"] = codec.Coded("scalar", "static", biases, {"scale": np.ones((1, 1), np.float32)})
    blob = codec.encode("lenet300-100", "layers", coded, {name: group.shapes for name, group in groups.items()})
    weights = 784 * 300 + 300 * 100 + 100 * 10
    assert LC.paper_bytes(blob)[0] == Direct.paper_bytes(blob)[0] == (weights * 2 + 3 * 3 * 32 + 410 * 32) / 8


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped():
    network, x, y = problem()
    whole = LC(network, LINE, OPTIONS, 200)
    half = LC(network, LINE, OPTIONS, 200)
    # without momentum, so that the method's state is the whole state
    def go(method, first, last):
        for step in range(first, last):
            gradients = torch.autograd.grad(loss_of(method.weights(), x, y), method.parameter_sets()[0].parameters)
            for p, g in zip(method.parameter_sets()[0].parameters, gradients, strict=True):
                p.grad = g
            method.regularise(step, None)
            with torch.no_grad():
                for p in method.parameter_sets()[0].parameters:
                    p -= min(0.02, method.max_lr(step)) * p.grad
            method.after_step(step)

    go(whole, 0, 200)
    go(half, 0, 85)
    resumed = LC(Line(), LINE, OPTIONS, 200)
    resumed.load_state_dict(half.state_dict())
    go(resumed, 85, 200)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_direct_compression_is_the_c_step_of_the_trained_network():
    network, _, _ = problem()
    weights = Direct(network, LINE, {"k": 2}, 0).weights(averaged=True)["fc.weight"].reshape(-1).numpy()
    codebook, indices = codebooks.kmeans_exact(network.fc.weight.detach().numpy().reshape(-1).astype(np.float64), 2)
    assert weights == pytest.approx(codebook[indices], rel=2**-8)


def test_iterated_direct_compression_puts_the_weights_on_the_codebook_every_so_often():
    network, x, y = problem()
    method = Direct(network, LINE, {"k": 2, "l_steps": 30}, 90)
    train(method, x, y, 60)
    assert len(torch.unique(method.latents[0].theta.detach())) == 2
    train(method, x, y, 5)
    assert len(torch.unique(method.latents[0].theta.detach())) > 2


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="mu_lost"):
        LC(problem()[0], LINE, {"mu_lost": 1.0}, 10)
    with pytest.raises(ValueError, match="options of Direct: mu is unknown"):
        Direct(problem()[0], LINE, {"mu": 1.0}, 10)
    with pytest.raises(ValueError, match="codebook is 'septenary', .*; l_steps is 0, "):
        LC(problem()[0], LINE, {"codebook": "septenary", "l_steps": 0}, 10)
    with pytest.raises(ValueError, match="a fixed codebook needs its entries"):
        LC(problem()[0], LINE, {"codebook": "fixed"}, 10)


def test_indices_are_stored_under_the_model_with_fewer_bytes():
    group = partitionings.Group("fc", "scalar", ("fc.weight",), ((40, 500),))
    network = nn.Module()
    network.fc = nn.Linear(500, 40, bias=False)
    with torch.no_grad():  # whole columns are zero, which a table of one symbol at a time cannot tell
        network.fc.weight[:, torch.arange(500) % 100 < 60] = 0.0
    layout, sizes, chosen = {"fc": group.shapes}, {}, {}
    for model in (*lc.SMALLEST, "smallest"):
        options = {"codebook": "ternary", "scaled": True, "model": model}
        result = Direct(network, partitionings.Partitioning("line", "layers", (group,), {}), options, 0).finish()
        sizes[model], chosen[model] = len(codec.encode("line", "layers", result, layout)), result["fc"].model
    assert sizes["smallest"] == min(sizes.values()) < sizes["static"]
    assert chosen["smallest"] == "context"
