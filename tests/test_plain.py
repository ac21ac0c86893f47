"""Reference training: the stored average, its grid, and what a file of it decodes to."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from benchmarks.methods.common import fine_step
from benchmarks.methods.plain import Plain
from benchmarks.training import recipe
from zoo import codec, networks, partitionings

PAPER = partitionings.get("lenet300-100")
LAYOUT = {group.name: group.shapes for group in PAPER.groups}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return networks.build("lenet300-100")


def largest_error(promised, network):
    return max(float((promised[n] - w.detach()).abs().max()) for n, w in network.named_parameters())


@pytest.mark.parametrize("bits", [8, 10])
def test_the_file_decodes_to_the_weights_that_were_evaluated(network, bits):
    method = Plain(network, PAPER, {"bits": bits}, 10)
    promised = method.weights(averaged=True)
    blob = codec.encode("lenet300-100", "paper", method.finish(), LAYOUT)
    header, groups = codec.decode(blob, partitionings.layout)
    state = partitionings.join(header, groups)
    assert state.keys() == promised.keys()
    for name, stored in state.items():
        assert torch.equal(stored, promised[name]), name


def test_more_bits_lose_less_and_cost_more(network):
    errors, sizes = [], []
    for bits in (6, 8, 10):
        method = Plain(network, PAPER, {"bits": bits}, 10)
        errors.append(largest_error(method.weights(averaged=True), network))
        sizes.append(len(codec.encode("lenet300-100", "paper", method.finish(), LAYOUT)))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert sizes[0] < sizes[1] < sizes[2] < 4 * 266_610


def test_rounding_is_within_half_a_step_of_the_group(network):
    method = Plain(network, PAPER, {"step": {"fc1+fc2": 2.0**-9, "fc3": 0.5, "biases": 0.25}}, 10)
    promised = method.weights(averaged=True)
    weights = dict(network.named_parameters())
    for name, step in {"fc1.weight": 2.0**-9, "fc2.weight": 2.0**-9, "fc3.weight": 0.5, "fc1.bias": 0.25}.items():
        assert float((promised[name] - weights[name].detach()).abs().max()) <= step / 2
        assert torch.equal((promised[name] / step).round() * step, promised[name])


def test_the_grid_reaches_the_largest_weight_at_file_precision():
    step = fine_step([torch.tensor([0.1, -0.73]), torch.tensor([0.2])], bits=9)
    assert step == pytest.approx(0.73 / 256, rel=2**-8)
    assert np.float32(step).view(np.uint32) & 0xFFFF == 0
    assert fine_step([torch.zeros(3)], bits=9) > 0


def test_what_is_stored_is_the_running_average(network):
    method = Plain(network, PAPER, {"ema": 0.5, "bits": 20}, 10)
    start = method.tensors[0].value.detach().clone()
    expected = start.clone()
    for step in range(12):
        with torch.no_grad():
            method.tensors[0].value.add_(0.01)
        method.after_step(step)
        decay = min(0.5, (1 + step) / (10 + step))  # warm-up: 1/10, 2/11, ..
        expected = decay * expected + (1 - decay) * (start + 0.01 * (step + 1))
    torch.testing.assert_close(method.weights(averaged=True)["fc1.weight"], expected, rtol=0, atol=1e-5)
    assert torch.equal(method.weights()["fc1.weight"], method.tensors[0].value)


def test_weights_decay_and_biases_do_not(network):
    method = Plain(network, PAPER, {}, 10)
    decaying = [p.shape for s in method.parameter_sets() if s.decay for p in s.parameters]
    without_decay = [p.shape for s in method.parameter_sets() if not s.decay for p in s.parameters]
    assert decaying == [(300, 784), (100, 300), (10, 100)] and without_decay == [(300,), (100,), (10,)]


def test_unknown_options_are_named(network):
    with pytest.raises(ValueError, match="bitz"):
        Plain(network, PAPER, {"bitz": 3}, 10)


@pytest.mark.parametrize("name", sorted(p.stem for p in recipe.FOLDER.glob("*-ref.toml") if p.stem.startswith("lenet")))
def test_reference_recipes_start_from_nothing_and_say_what_they_cost(name):
    result = recipe.read(name)
    assert result.id == name and result.method == "plain" and not result.warm_start and re.search("minute|second", result.comment)
