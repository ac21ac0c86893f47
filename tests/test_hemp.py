"""HEMP: the soft entropy and its gradient, the quantiser, pruning, and what a short training leaves behind."""

import math
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.methods import find
from benchmarks.methods.hemp import HEMP, lloyd_max, nearest, quantise, rate
from zoo import codec, networks, partitionings, reparam
from zoo.partitionings import Group, Partitioning

LEVELS = torch.tensor([-1.5, -0.4, 0.1, 0.7, 2.0], dtype=torch.float64)


def interior(lanes: int, rows: int, levels: torch.Tensor) -> torch.Tensor:
    """Weights away from levels, where the soft counts have no kinks, some of them outside the outer levels."""
    draw = torch.Generator().manual_seed(0)
    cell = torch.randint(0, len(levels) - 1, (lanes, rows), generator=draw)
    share = 0.15 + 0.7 * torch.rand(lanes, rows, generator=draw, dtype=torch.float64)
    w = levels[cell] + share * torch.diff(levels)[cell]
    w[0, 0], w[1, 2] = 3.0, -2.5
    return w


def entropy(grams: list[tuple]) -> float:
    """Bits of one item under the empirical distribution of the list."""
    return -sum(n / len(grams) * math.log2(n / len(grams)) for n in Counter(grams).values())


def grams(indices: np.ndarray, order: int) -> list[tuple]:
    return [tuple(lane[r : r + order]) for lane in indices.tolist() for r in range(len(lane) - order + 1)]


# ---- the soft entropy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_estimate_is_the_empirical_entropy_when_weights_sit_on_levels(order):
    indices = np.random.default_rng(0).choice(5, (20, 30), p=[0.1, 0.1, 0.6, 0.1, 0.1])
    indices[:, 1::2] = np.maximum(indices[:, 1::2], indices[:, ::2])  # something for higher orders to find
    bits, slope = rate(LEVELS[indices], LEVELS, order)
    expected = entropy(grams(indices, order)) / order
    assert float(bits) == pytest.approx(indices.size * expected, rel=1e-9)
    assert slope.shape == (20, 30)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_slope_is_the_gradient(order):
    levels = LEVELS if order < 4 else LEVELS[1:4]  # an n-gram that hardly ever occurs has a bounded slope
    w, h = interior(6, 40, levels), 1e-5
    _, slope = rate(w, levels, order)
    for lane, row in [(0, 0), (0, 1), (1, 2), (3, 0), (3, 17), (5, 39), (2, 38), (4, 1)]:
        moved = []
        for sign in (1, -1):
            other = w.clone()
            other[lane, row] += sign * h
            moved.append(float(rate(other, levels, order)[0]))
        numeric = (moved[0] - moved[1]) / (2 * h)
        assert float(slope[lane, row]) == pytest.approx(numeric, rel=1e-4, abs=1e-6)
    assert slope[0, 0] == slope[1, 2] == 0  # beyond the outer levels mass does not move


def test_order_one_is_indifferent_to_order_and_higher_ones_are_not():
    indices = np.sort(np.random.default_rng(0).choice(5, (10, 40)), axis=1)
    shuffled = np.random.default_rng(1).permuted(indices, axis=1)
    one, two = (float(rate(LEVELS[x], LEVELS, 1)[0]) for x in (indices, shuffled))
    assert one == pytest.approx(two)
    one, two = (float(rate(LEVELS[x], LEVELS, 2)[0]) for x in (indices, shuffled))
    assert one < 0.8 * two


def test_mass_moves_linearly():
    w = LEVELS[torch.full((1, 10), 2)].clone()
    w[0, 3] = 0.1 + 0.25 * 0.6  # a quarter of the way to 0.7
    bits, _ = rate(w, LEVELS, 1)
    shares = [0.025, 0.975]
    assert float(bits) == pytest.approx(-10 * sum(p * math.log2(p) for p in shares))


def test_cost_grows_linearly_with_the_weights():
    def seconds(lanes: int) -> float:
        w, best = torch.randn(lanes, 200), math.inf
        for _ in range(5):
            start = time.process_time()
            rate(w, LEVELS.float(), 2)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(1600) < 8 * 4 * max(seconds(200), 1e-4)


def test_lanes_too_short_for_the_order_are_refused():
    with pytest.raises(ValueError, match="3-grams"):
        rate(torch.zeros(5, 2), LEVELS.float(), 3)


# ---- the quantiser ---------------------------------------------------------------------------------------------------


def test_lloyd_max_descends_to_centroids_of_nearest_cells():
    w = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    levels, errors = torch.linspace(-4, 4, 8), []
    for _ in range(200):
        errors.append(float((w - quantise(w, levels)).square().mean()))
        levels = lloyd_max(w, levels)
        assert (torch.diff(levels) > 0).all()
    assert all(b <= a + 1e-7 for a, b in zip(errors, errors[1:], strict=False))
    cells = nearest(w, levels)
    for k in range(8):
        assert float(levels[k]) == pytest.approx(float(w[cells == k].mean()), abs=2e-3)
    assert float((w - quantise(w, levels)).square().mean()) == pytest.approx(0.03454, abs=0.004)  # Max 1960, 8 levels


def test_a_level_without_weights_stays_and_zero_can_be_kept():
    w = torch.tensor([-1.0, -0.9, 0.2, 0.3])
    levels = lloyd_max(w, torch.tensor([-1.0, 0.0, 9.0]))
    assert levels.tolist() == pytest.approx([-0.95, 0.25, 9.0])
    assert lloyd_max(w, torch.tensor([-1.0, 0.0, 9.0]), zero=True).tolist() == pytest.approx([-0.95, 0.0, 9.0])


@pytest.mark.parametrize("count", [2, 9, 40])
def test_nearest_is_the_smallest_distance(count):
    w, levels = torch.randn(300), torch.randn(count).sort().values
    expected = (w[:, None] - levels).abs().argmin(1)
    assert nearest(w, levels).tolist() == expected.tolist()


# ---- the method ------------------------------------------------------------------------------------------------------


GROUPS = (
    Group("a", "scalar", ("0.weight",), ((40, 60),)),
    Group("b", "scalar", ("1.weight",), ((10, 40),)),
    Group("biases", "scalar", ("0.bias", "1.bias"), ((40,), (10,))),
)
LAYOUT = {group.name: group.shapes for group in GROUPS}


def small(options: dict | None = None, steps: int = 60) -> tuple[HEMP, nn.Module]:
    """A network of 2,800 weights, those of the first layer in smooth rows, and its HEMP."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(60, 40), nn.Linear(40, 10))
    with torch.no_grad():
        network[0].weight.copy_(torch.randn(40, 60).cumsum(1).sub_(2) / 60)
    return HEMP(network, Partitioning("two-layers", "layers", GROUPS, {}), options or {}, steps), network


def descend(method: HEMP, steps: int, rate_lr: float = 1e-3) -> None:
    """Steps of Adam on a task that holds the weights near where they started."""
    start = {name: theta.detach().clone() for name, theta in method.weights().items()}
    optimizer = torch.optim.Adam(method.parameter_sets()[0].parameters, lr=rate_lr)
    for step in range(steps):
        optimizer.zero_grad()
        sum((theta - start[name]).square().sum() for name, theta in method.weights().items()).mul(1e-4).backward()
        method.regularise(step, torch.Generator())
        optimizer.step()
        method.after_step(step)


def stored(method: HEMP) -> tuple[bytes, dict]:
    """The file, and the weights that it decodes to."""
    blob = codec.encode("two-layers", "layers", method.finish(), LAYOUT)
    _, coded = codec.decode(blob, lambda header: LAYOUT)
    state = {}
    for group in GROUPS:
        group_coded = coded[group.name]
        arrays = reparam.decode(group_coded.decoder, group_coded.phi, group_coded.psi, list(group.shapes))
        state |= {name: torch.from_numpy(array) for name, array in zip(group.tensors, arrays, strict=True)}
    return blob, state


def test_the_registry_finds_it():
    assert find("hemp") is HEMP


@pytest.mark.parametrize("order", [1, 2])
def test_file_holds_the_weights_that_were_evaluated(order):
    method, network = small({"order": order, "lambda": 1e-5, "lambda_r": 1e-3})
    descend(method, 20)
    blob, state = stored(method)
    expected = method.weights(averaged=True)
    assert set(state) == set(expected)
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    for group in method.finish().values():
        assert group.model == ("static" if group.decoder == "scalar" or order == 1 else "context")


def test_penalty_lowers_the_entropy_that_it_is_made_of():
    soft = {}
    for order, strength in ((1, 0.0), (1, 1e-4), (2, 1e-4)):
        method, _ = small({"order": order, "lambda": strength, "lambda_r": 1e-3, "refit_every": 1000})
        descend(method, 60)
        for n in (1, 2):
            indices = nearest(method.latents[0].theta.detach(), method.latents[0].levels).numpy()
            soft[order, strength, n] = entropy(grams(indices, n)) / n
    assert soft[1, 1e-4, 1] < 0.7 * soft[1, 0.0, 1]
    assert soft[2, 1e-4, 2] < 0.9 * soft[1, 0.0, 2]


def test_reconstruction_term_ends_on_the_levels():
    method, _ = small({"lambda": 0.0, "lambda_r": 1.0, "ramp": 0.2})
    before = method.estimate()["distance ppm"]
    descend(method, 60)
    method.regularise(0, torch.Generator())  # renews the targets
    assert method.estimate()["distance ppm"] < 0.02 * before


def test_levels_follow_their_cells_until_the_given_share_and_once_at_the_end():
    method, _ = small({"lambda": 1e-4, "refit_every": 5, "refit_until": 0.5}, steps=20)
    optimizer, levels = torch.optim.Adam(method.parameter_sets()[0].parameters, lr=1e-3), []
    for step in range(20):
        optimizer.zero_grad()
        sum(theta.square().sum() for theta in method.weights().values()).mul(0.01).backward()
        method.regularise(step, torch.Generator())
        optimizer.step()
        method.after_step(step)
        levels.append(method.latents[0].levels.tolist())
    moved = [step for step in range(1, 20) if levels[step] != levels[step - 1]]
    assert moved == [4, 9, 19]


def test_quantised_forward_passes_gradients_unchanged():
    method, _ = small({"forward": "quantised"})
    theta = method.weights()["1.weight"]
    levels = method.latents[1].levels
    assert torch.isin(theta.detach(), levels).all()
    theta.mul(torch.arange(400.0).reshape(10, 40)).sum().backward()
    assert torch.equal(method.latents[1].theta.grad, torch.arange(400.0).reshape(10, 40))


@pytest.mark.parametrize("forward", ["continuous", "quantised"])
def test_pruned_weights_become_zero_and_stay(forward):
    prune = {"sparsity": 0.9, "end": 0.5, "every": 5}
    method, _ = small({"prune": prune, "lambda": 1e-5, "forward": forward, "lambda_r": 1e-3}, steps=60)
    shares = []
    for _ in range(3):
        descend(method, 20)  # restarts the schedule's clock; masks only ever shrink
        masks = torch.cat([latent.mask.reshape(-1) for latent in method.latents])
        shares.append(float((masks == 0).float().mean()))
    assert shares[0] > 0.3 and shares == sorted(shares)
    for latent in method.latents:
        assert (latent.theta[latent.mask == 0] == 0).all()
        assert (latent.levels == 0).sum() == 1
    method._prune(60)
    masks = torch.cat([latent.mask.reshape(-1) for latent in method.latents])
    assert float((masks == 0).float().mean()) == pytest.approx(0.9, abs=1e-4)
    state = stored(method)[1]
    zeros = sum(int((state[f"{i}.weight"] == 0).sum()) for i in (0, 1))
    assert zeros >= 0.9 * masks.numel()


def test_state_is_complete():
    method, _ = small({"lambda": 1e-5})
    descend(method, 7)
    other, _ = small({"lambda": 1e-5})
    other.load_state_dict(method.state_dict())
    assert stored(other)[0] == stored(method)[0]


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="lamda"):
        small({"lamda": 1.0})
    with pytest.raises(ValueError, match=r"forward is 'backward', .* prune.sparsity is 1.5, .* prune.often is unknown"):
        small({"forward": "backward", "prune": {"sparsity": 1.5, "often": True}})
    with pytest.raises(ValueError, match="several"):
        HEMP(networks.build("lenet300-100"), partitionings.get("lenet300-100"), {}, 10)
