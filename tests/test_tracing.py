"""Networks in other people's tools: torch.fx, TorchScript, features of a layer."""

import warnings

import pytest
import torch
from torch.fx import symbolic_trace

from zoo import networks

NAMES = networks.names()


def small(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    shape = networks.spec(name).input_shape
    return networks.build(name).eval(), torch.rand(1, shape[0], min(shape[1], 64), min(shape[2], 64))


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_traces_answer_the_same(name):
    network, x = small(name)
    with torch.no_grad():
        assert torch.equal(symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vgg16"])  # its layers are looked up by name
def test_scripts_answer_the_same(name):
    network, x = small(name)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        assert torch.allclose(torch.jit.script(network)(x), network(x), atol=1e-6)
