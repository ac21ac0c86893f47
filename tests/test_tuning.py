"""Loaded networks can be trained on: `.train()` does not ruin those whose batch normalisation is folded."""

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo import datasets
from zoo.networks.frozen import FrozenBatchNorm2d

NAME = "resnet20-4-dft"


def tune(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int = 5, lr: float = 1e-3) -> None:
    """SGD in train mode, as anybody would."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    for indices in torch.arange(len(images)).chunk(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[indices]), labels[indices]).backward()
        optimizer.step()
    network.eval()


def test_train_mode_changes_no_answer():
    network = zoo.load(NAME, compact=True)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == 19 and all(isinstance(m, FrozenBatchNorm2d) for m in layers)
    assert "the same in train and eval mode" in repr(layers[0])
    with torch.no_grad():
        torch.testing.assert_close(network.train()(images), network.eval()(images), rtol=0, atol=0)


def test_some_steps_on_its_own_answers_change_few_of_them():
    network = zoo.load(NAME, compact=True)
    images = torch.randn(100, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = network(images).argmax(1)
    before = copy.deepcopy(network.state_dict())
    tune(network, images, answers)
    with torch.no_grad():
        assert (network(images).argmax(1) == answers).float().mean() >= 0.99
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "bn.weight" in changed and "conv1.weight" in changed
    assert not any("running" in name or "tracked" in name for name in changed)


@pytest.mark.data
@pytest.mark.parametrize(("name", "lr"), [("resnet20-4-dft", 1e-3), ("vgg16-dft-small", 1e-4)])
def test_some_steps_keep_the_error_within_a_point(name, lr):
    train, test, transform = datasets.load("cifar10", "train"), datasets.load("cifar10", "test"), zoo.transforms(name)
    network = zoo.load(name, compact=True)
    images, labels = transform(test.pixels[:1000]), torch.from_numpy(test.labels[:1000].astype("int64"))

    def errors() -> int:
        with torch.inference_mode():
            return int((network(images).argmax(1) != labels).sum())

    before = errors()
    tune(network, transform(train.pixels[:250]), torch.from_numpy(train.labels[:250].astype("int64")), lr=lr)
    assert abs(errors() - before) <= 10
