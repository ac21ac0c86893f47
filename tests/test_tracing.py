"""Networks in other people's tools: torch.fx, TorchScript, features of a layer."""

import warnings

import pytest
import torch
from torch.fx import symbolic_trace

from zoo import networks

NAMES = networks.names()
INNER = {"lenet300-100": "fc2", "lenet5-caffe": "conv2", "vgg16": "conv7"}  # a layer in the middle; of the others a stage


def small(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    shape = networks.spec(name).input_shape
    return networks.build(name).eval(), torch.rand(1, shape[0], min(shape[1], 64), min(shape[2], 64))


@pytest.mark.parametrize("name", NAMES)
def test_symbolic_traces_answer_the_same(name):
    network, x = small(name)
    with torch.no_grad():
        assert torch.equal(symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize("name", NAMES)
def test_scripts_answer_the_same(name):
    network, x = small(name)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        assert torch.allclose(torch.jit.script(network)(x), network(x), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_a_layer_are_what_it_gives(name):
    from zoo._torchvision import torchvision

    torchvision()
    from torchvision.models.feature_extraction import create_feature_extractor

    network, x = small(name)
    inner = INNER.get(name, "layer2")
    outputs = []
    handle = network.get_submodule(inner).register_forward_hook(lambda module, inputs, out: outputs.append(out.clone()))
    with torch.no_grad():
        network(x)
        handle.remove()
        features = create_feature_extractor(network, {inner: "features"})(x)["features"]
    torch.testing.assert_close(features, outputs[0])
