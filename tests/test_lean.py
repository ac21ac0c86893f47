"""LEAN: prices of lines by hand, slopes that they make, and units in another order of which the network is the same."""

import math

import numpy as np
import pytest
import torch

from benchmarks.methods.epr import EPR
from benchmarks.methods.lean import Lean, in_order, surplus
from zoo import codec, networks, partitionings
from zoo.codec import Coded


def test_surplus_by_hand():
    """[[1, 1, 0], [0, 1, 0], [0, 0, 0]] 4 more of the tensor in each line: a full one is cheap, an empty one dear."""
    hit = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])[..., None] > 0
    share = 3.5 / 10

    def odds(count):
        line = (count + 4 * share) / (3 + 4)
        return line / (1 - line)

    average = share / (1 - share)
    expected = [[-math.log2(odds(r) * odds(c) / average**2) for c in (1, 2, 0)] for r in (2, 1, 0)]
    bits = surplus(hit, 4.0)
    torch.testing.assert_close(bits[..., 0], torch.tensor(expected))
    assert bits[0, 1, 0] < 0 < bits[2, 2, 0]


def methods(**options) -> tuple[EPR, Lean]:
    made = []
    for cls in (EPR, Lean):
        torch.manual_seed(0)
        network = networks.build("lenet5-caffe")
        made.append(cls(network, partitionings.get("lenet5-caffe"), {"lambda": 1.0, **options}, 100))
        options |= {"fit": 0}
    return made


def slopes(method: EPR, step: int) -> dict[str, torch.Tensor]:
    """d bits / d phi of the tensors, as `regularise` leaves them."""
    method.regularise(step, torch.Generator().manual_seed(0))
    names = [name for latent in method.latents for name in latent.group.tensors]
    parts = [part for latent in method.latents for part in latent.slope.split(latent.counts)]
    return {name: part.reshape(-1) for name, part in zip(names, parts, strict=True)}


def test_densities_begin_at_a_sparse_start():
    """One weight in 50 is other than zero: the start costs about the entropy of its integers, not what a wide guess asks."""
    network, draw = networks.build("lenet300-100"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=draw) < 0.02) * 0.1)
    bits = {}
    for fit in (0, 300):
        made = Lean(network, partitionings.get("lenet300-100"), {"fit": fit, "weight": 0.0}, 100)
        slopes(made, 0)
        bits[fit] = made.estimate()["bits"]
        assert all(parameter.grad is not None for parameter in made.density.parameters())
    count = partitionings.get("lenet300-100").parameters
    entropy = -count * (0.02 * math.log2(0.02) + 0.98 * math.log2(0.98))
    assert entropy < bits[300] < 2 * entropy < bits[0]


@pytest.mark.parametrize("step, weight", [(0, 1.0), (100, 0.0)])
def test_without_prices_of_lines_it_is_epr(step, weight):
    epr, lean = methods(densities="tensor")
    lean.options = lean.options.model_copy(update={"weight": weight})
    expected = slopes(epr, step)
    for name, slope in slopes(lean, step).items():
        assert torch.equal(slope, expected[name])


def test_lines_change_the_slope_of_what_may_be_zero():
    """Row 0 of fc1 is full, the others empty: there the slope falls, elsewhere it rises; beyond 1, and of biases, it stays."""
    epr, lean = methods(densities="tensor")
    for method in (epr, lean):
        fc1 = method.latents[1].phi.value
        with torch.no_grad():
            fc1.fill_(0.3).view(500, 800)[0] = 0.9
            fc1.view(500, 800)[1, 0] = 1.4
    before, after = slopes(epr, 100), slopes(lean, 100)
    assert torch.equal(before["fc1.bias"], after["fc1.bias"])
    ratio = (after["fc1.weight"] / before["fc1.weight"]).view(500, 800)
    assert ratio[1, 0] == 1
    assert (ratio[0] < 1).all() and (ratio[2:] > 1).all()


def integers(seed: int) -> dict[str, Coded]:
    """Of lenet5-caffe: every other unit of each space is dead, the others hold more, the later they stand."""
    draw, coded = np.random.default_rng(seed), {}
    for group in partitionings.get("lenet5-caffe").groups:
        arrays = []
        for shape in group.shapes:
            row = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
            full = draw.random(shape) < (row + 1) / shape[0]
            arrays.append(np.where((row % 2 == 0) & full, draw.integers(-3, 4, shape), 0).reshape(-1, 1))
        phi = np.concatenate(arrays).astype(np.int32)
        coded[group.name] = Coded("scalar", "live", phi, {"scale": np.full((1, 1), 0.125, np.float32)})
    return coded


def test_units_in_order_are_the_same_network_in_a_smaller_file():
    partitioning, before = partitionings.get("lenet5-caffe"), integers(1)
    after = in_order(partitioning, before)
    x, logits, sizes = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(2)), [], []
    for coded in (before, after):
        network = networks.build("lenet5-caffe").eval()
        network.load_state_dict(partitionings.weights(partitioning, coded), strict=True)
        with torch.no_grad():
            logits.append(network(x))
        sizes.append(len(codec.encode("lenet5-caffe", "paper", coded, {g.name: g.shapes for g in partitioning.groups})))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    assert sizes[1] < sizes[0]
    assert [before[g].psi == after[g].psi for g in before] == [True] * 4
    left = np.count_nonzero(after["fc1"].phi.reshape(500, 800), 1) + np.count_nonzero(after["fc2"].phi.reshape(10, 500), 0)
    assert (np.diff(left) <= 0).all()


def test_the_file_holds_what_is_evaluated_and_order_may_be_left_out():
    network, partitioning = networks.build("lenet5-caffe"), partitionings.get("lenet5-caffe")
    for order in (True, False):
        made = Lean(network, partitioning, {"order": order, "fit": 1}, 100)
        assert {coded.model for coded in made.finish().values()} == {"live"}
        stored = partitionings.weights(partitioning, made.finish())
        for name, theta in made.weights(averaged=True).items():
            assert torch.equal(theta, stored[name])
    plain = EPR(network, partitioning, {"model": "live"}, 100).finish()
    for name, coded in made.finish().items():
        assert np.array_equal(coded.phi, plain[name].phi)
