"""Pictures made from a network alone: they have the moments that batch normalisation remembers, and calibrate."""

import numpy as np
import pytest
import torch

from zoo import datasets, networks
from zoo.compress import bn, synthesis
from zoo.networks import resnet
from zoo.preprocessing import preprocess


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A small residual network with the statistics of pictures that are no noise: bright, and different by channel."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = resnet.PreActivationResNet(1, (8, 16, 32), 10).train()
    with torch.no_grad():
        for _ in range(20):
            grey = torch.randn(32, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
            network(0.5 * grey + torch.tensor([1.0, 0.0, -1.0]).reshape(3, 1, 1))
    return network.eval()


def distance(network, x) -> float:
    """Of the moments of all BN layers' inputs from those that they remember."""
    moments, total = bn.statistics(network, {}, [(x, None)]), []
    for name, layer in bn.layers(network).items():
        mean, variance = moments[f"{name}.running_mean"], moments[f"{name}.running_var"]
        deviation = layer.running_var.sqrt()
        total.append((((mean - layer.running_mean) / deviation).square() + (variance.sqrt() / deviation - 1).square()).mean())
    return float(torch.stack(total).mean())


def test_pictures_have_the_moments_that_the_network_remembers(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = synthesis.inputs(network, (3, 32, 32), 24, seed=1, steps=60)
    assert x.shape == (24, 3, 32, 32) and float(x.abs().max()) <= 2.5
    assert distance(network, x) < 0.1 * distance(network, torch.randn(24, 3, 32, 32))
    first, again, other = (synthesis.inputs(network, (3, 32, 32), 24, seed=seed, steps=5) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    colours = x.mean((0, 2, 3))
    assert colours[0] > colours[1] > colours[2]  # as what it saw


def test_pixels_give_those_inputs_again_and_are_kept(network, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "STEPS", 10)
    spec = datasets.preprocessing("cifar10")
    pixels, same = synthesis.kept(tmp_path, "key", network, spec, 8)
    assert pixels.shape == (8, 32, 32, 3) and pixels.dtype == np.uint8 and same == spec
    assert preprocess(spec)(pixels).shape == (8, 3, 32, 32)
    monkeypatch.setattr(synthesis, "pictures", None)  # not made again
    np.testing.assert_array_equal(synthesis.kept(tmp_path, "key", network, spec, 8)[0], pixels)


def test_large_pictures_are_made_small_where_the_network_takes_them(network, monkeypatch):
    monkeypatch.setattr(synthesis, "STEPS", 1)
    monkeypatch.setattr(synthesis, "SIDE", 48)
    pixels, spec = synthesis.pictures(network, datasets.preprocessing("imagenet"), 2)
    assert pixels.shape == (2, 48, 48, 3) and preprocess(spec)(pixels).shape == (2, 3, 48, 48)
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4 * 62 * 62, 5))
    one_size = torch.nn.Sequential(*layers)
    pixels, spec = synthesis.pictures(one_size.eval(), datasets.preprocessing("cifar10-64"), 2)
    assert pixels.shape == (2, 32, 32, 3) and spec == datasets.preprocessing("cifar10-64")


def test_a_network_without_batch_normalisation_is_refused():
    with pytest.raises(ValueError, match="no batch normalisation"):
        synthesis.inputs(networks.build("lenet300-100"), (1, 28, 28))
