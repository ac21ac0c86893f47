"""LEAN: prices by hand, the slope that they make, units that leave, and that the file holds what was trained."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from benchmarks.methods.lean import Lean, _odds
from benchmarks.training import checkpoint
from zoo import codec, networks, partitionings


def method(network: str = "lenet300-100", **options) -> tuple[Lean, nn.Module]:
    torch.manual_seed(0)
    built = networks.build(network)
    return Lean(built, partitionings.get(network), options, 100), built


def decoded(made: Lean, network: str) -> dict[str, torch.Tensor]:
    """The state dict of the file."""
    partitioning = partitionings.get(network)
    layout = {group.name: group.shapes for group in partitioning.groups}
    blob = codec.encode(network, "paper", made.finish(), layout)
    return partitionings.join(*codec.decode(blob, partitionings.layout))


def settled(made: Lean, step: float) -> None:
    """Averages are phi, and the network is far from empty."""
    with torch.no_grad():
        made.log_step.fill_(math.log(step))
        made.phi.value.mul_(0.1 / step)
        made.phi.mean.copy_(made.phi.value)


def test_odds_by_hand():
    """[[1, 1, 0], [0, 1, 0], [0, 0, 0]]: two live rows and columns hold 3 of 4, so t = 3.5 / 5."""
    hit = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]) > 0
    t = 3.5 / 5
    row = (1 + 4 * t) / (2 + 4), (0 + 4 * t) / (2 + 4)
    column = (2 + 4 * t) / (2 + 4), (1 + 4 * t) / (2 + 4)
    odds = _odds(hit, 4.0)
    expected = row[0] / (1 - row[0]) * column[1] / (1 - column[1]) * (1 - t) / t
    assert float(odds[1, 0]) == pytest.approx(expected)
    assert float(odds[2, 0]) == pytest.approx(row[1] / (1 - row[1]) * column[1] / (1 - column[1]) * (1 - t) / t)
    assert float(odds[0, 1]) > float(odds[1, 1]) > float(odds[1, 2])


def test_the_odds_of_a_kernel_are_those_of_its_channels():
    hit = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    hit[0, 1, 0, 0] = hit[0, 1, 1, 1] = True
    odds = _odds(hit, 4.0)
    assert odds.shape == hit.shape and (odds[0, 1] == odds[0, 1, 0, 0]).all()
    t = 0.5  # (2 + 0.5) / (4 + 1): two of the four places of the one live row and column
    assert float(odds[0, 1, 0, 0]) == pytest.approx(1.0)  # row and column: (2 + 4 t) / (4 + 4), odds of 1 each
    row, column = (0 + 4 * t) / (4 + 4), (2 + 4 * t) / (4 + 4)
    assert float(odds[1, 1, 1, 0]) == pytest.approx(row / (1 - row) * column / (1 - column))


def test_the_penalty_is_the_slope_of_the_price():
    made, _ = method(**{"lambda": 1e-3, "ramp": 0.0, "slope_every": 1})
    made.phi.value.grad = torch.zeros_like(made.phi.value)
    with torch.no_grad():
        made.phi.value.zero_()
        made.phi.value[:4] = torch.tensor([0.1, 0.6, -0.9, 2.4])
    made.regularise(0, torch.Generator())  # the flat price
    tail = float(made.tail[0])
    expected = [0.4 * 7, 7.0, -7.0, tail]
    assert made.phi.value.grad[:4].tolist() == pytest.approx([1e-3 * x for x in expected])
    assert not made.phi.value.grad[4:].any()


@pytest.mark.parametrize("network, decoder, units", [
    ("lenet300-100", "pool:28", {"fc1": 40, "fc2": 20}), ("lenet300-100", "", {}),
    ("lenet5-caffe", "pool:4", {"conv1": 4, "conv2": 7, "fc1": 30}), ("lenet5-caffe", "", {}),
])
def test_the_file_computes_what_the_method_does(network, decoder, units):
    made, built = method(network, decoder=decoder, units=units)
    settled(made, 0.01)
    images = torch.randn(3, 1, 28, 28)
    expected = functional_call(built, made.weights(averaged=True), (images,))
    built.load_state_dict(decoded(made, network))
    torch.testing.assert_close(built(images), expected, rtol=1e-4, atol=1e-5)


def test_units_without_rows_or_columns_leave_and_nothing_else_changes():
    made, built = method(units={"fc1": 40, "fc2": 20})
    settled(made, 0.01)
    with torch.no_grad():
        for flat in (made.phi.value, made.phi.mean):
            tensors = dict(zip([slot.name for slot in made.slots], made._split(flat), strict=True))
            tensors["fc1.weight"][3] = 0.2  # a row that rounds to nothing
            tensors["fc1.bias"][3] = 0.0
            tensors["fc3.weight"][:, 5] = 0.0
    images = torch.randn(3, 1, 28, 28)
    before = functional_call(built, made.weights(averaged=True), (images,))
    made._bury()
    theta = made.weights(averaged=True)
    assert theta["fc1.weight"].shape == (39, 784) and theta["fc2.weight"].shape == (19, 39)
    torch.testing.assert_close(functional_call(built, theta, (images,)), before)
    assert made.estimate()["fc1"] == 39 and made.estimate()["fc2"] == 19
    built.load_state_dict(decoded(made, "lenet300-100"))
    torch.testing.assert_close(built(images), before, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_remembers_who_left(tmp_path):
    made, _ = method(units={"fc1": 40, "fc2": 20})
    made.alive_fc1[7] = False
    made._live = None
    checkpoint.save(tmp_path / "state.safetensors", made.state_dict())
    again, _ = method(units={"fc1": 40, "fc2": 20})
    again.weights()
    again.load_state_dict(checkpoint.load(tmp_path / "state.safetensors"))
    assert again.weights()["fc1.weight"].shape == (39, 784)


def test_gradients_pass_the_rounding_to_all_pixels_of_a_block():
    made, _ = method(decoder="pool:28", units={"fc1": 40, "fc2": 20})
    theta = made.weights()["fc1.weight"]
    theta.backward(torch.ones_like(theta))
    torch.testing.assert_close(made.phi.value.grad[:196], torch.full((196,), 4 * 0.1))


def test_units_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"\['fc1', 'fc9'\] cannot be"):
        method(units={"fc1": 301, "fc9": 3})
