"""Networks without dead channels answer as the whole ones do, and are as small as the zeros allow."""

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo import networks, registry
from zoo.compact import fold_norms, remove_dead
from zoo.networks.frozen import freeze
from zoo.networks.spaces import WITHIN, spaces, widths

LISTED = [name for name in networks.names() if spaces(name)]
SIDE = {"imagenet": 64}  # pixels of the pictures that ImageNet's networks see here: few suffice


def network(name: str, seed: int = 1) -> nn.Module:
    """Random weights; BN has statistics, scales and shifts of its own in every channel, as before folding."""
    torch.manual_seed(seed)
    module = networks.build(name)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module.eval()


def pictures(name: str, count: int = 3) -> torch.Tensor:
    spec = networks.spec(name)
    channels, *sides = spec.input_shape
    sides = [SIDE.get(spec.dataset, side) for side in sides]
    return torch.randn(count, channels, *sides, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def assert_same_answers(name: str, whole: nn.Module, small: nn.Module, tolerance: float = 1e-5) -> None:
    expected, answers = whole(pictures(name)), small(pictures(name))
    assert (answers - expected).abs().max() <= tolerance * expected.abs().max()


def silence(name: str, module: nn.Module, space: str, channels: torch.Tensor) -> None:
    """Zeros in all that writes to these channels, BN's scales and shifts included."""
    for tensor, where in spaces(name).items():
        if where[0] == space and not tensor.endswith(("running_mean", "running_var")):
            module.state_dict()[tensor][channels] = 0.0


def deafen(name: str, module: nn.Module, space: str, channels: torch.Tensor) -> None:
    """Zeros in all that reads these channels."""
    count = widths(name)[space]
    for tensor, where in spaces(name).items():
        if len(where) == 2 and where[1] == space:
            weight = module.state_dict()[tensor]
            weight.view(len(weight), count, -1)[:, channels] = 0.0


@pytest.mark.parametrize("name", LISTED)
def test_every_tensor_with_channels_is_listed(name):
    listed, shapes, counts = spaces(name), networks.shapes(name), widths(name)
    assert list(listed) == [n for n in shapes if not n.endswith("num_batches_tracked")]
    assert {space for where in listed.values() for space in where if space} == set(counts)
    for tensor, where in listed.items():
        assert len(where) == min(len(shapes[tensor]), 2), tensor
        for space, side in zip(where, shapes[tensor], strict=False):
            if space is not None:
                assert side % counts[space] == 0 and (where[1:] == (space,) or side == counts[space]), tensor


@pytest.mark.parametrize("kill", [silence, deafen])
@pytest.mark.parametrize("name", LISTED)
def test_dead_channels_leave_and_the_answers_stay(name, kill):
    whole, draw = network(name), torch.Generator().manual_seed(2)
    counts = widths(name)
    stays = {space: torch.rand(count, generator=draw) < 0.5 for space, count in counts.items()}
    for space, first in WITHIN.get(name, {}).items():
        stays[space][: counts[first]] = stays[first]  # what a shortcut brings is read
    for space, staying in stays.items():
        kill(name, whole, space, ~staying)
    small = copy.deepcopy(whole)
    kept = remove_dead(name, small)
    assert {space: sorted(numbers.tolist()) for space, numbers in kept.items()} == {
        space: staying.nonzero().flatten().tolist() for space, staying in stays.items()
    }
    assert_same_answers(name, whole, small)
    for path, layer in small.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            attributes = ("out_channels", "in_channels") if isinstance(layer, nn.Conv2d) else ("out_features", "in_features")
            assert tuple(getattr(layer, a) for a in attributes) == layer.weight.shape[:2], path
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.running_mean) == len(layer.bias), path


def test_what_only_dead_channels_read_is_dead():
    whole = network("vgg16")
    deafen("vgg16", whole, "conv3", torch.arange(100))
    whole.conv3.weight.data[100:, :40] = 0.0  # conv2's first 40 are read by dead channels alone
    silence("vgg16", whole, "conv5", torch.arange(7))
    whole.conv6.weight.data[9, 7:] = 0.0  # written by dead channels alone, and its shift is not positive
    whole.bn6.bias.data[9], whole.bn6.running_mean.data[9] = -0.1, 0.0
    small = copy.deepcopy(whole)
    kept = {space: len(numbers) for space, numbers in remove_dead("vgg16", small).items()}
    assert (kept["conv2"], kept["conv3"], kept["conv5"], kept["conv6"], kept["conv4"]) == (24, 28, 249, 255, 128)
    assert_same_answers("vgg16", whole, small)


def test_a_constant_moves_into_the_next_bias_where_that_is_exact():
    whole = network("lenet5-caffe")
    whole.conv1.weight.data[3] = 0.0  # no ReLU follows: negative constants pass
    whole.conv1.bias.data[3] = -0.7
    whole.conv2.weight.data[5] = 0.0
    whole.conv2.bias.data[5] = 0.4
    whole.fc1.weight.data[[1, 2]] = 0.0
    whole.fc1.bias.data[[1, 2]] = torch.tensor([0.9, -0.9])  # behind a ReLU the second is zero
    small = copy.deepcopy(whole)
    kept = remove_dead("lenet5-caffe", small)
    assert [len(kept[space]) for space in ("conv1", "conv2", "fc1")] == [19, 49, 498]
    expected = whole.fc2.bias + 0.9 * whole.fc2.weight[:, 1]
    torch.testing.assert_close(small.fc2.bias, expected)
    assert_same_answers("lenet5-caffe", whole, small)


def test_a_constant_stays_where_padding_would_change_it_at_the_border():
    whole = network("vgg16")
    whole.conv4.weight.data[[0, 1]] = 0.0
    whole.bn4.bias.data[[0, 1]] = torch.tensor([0.8, -0.8])
    whole.bn4.running_mean.data[[0, 1]] = 0.0
    small = copy.deepcopy(whole)
    kept = remove_dead("vgg16", small)
    assert kept["conv4"].tolist() == [0, *range(2, 128)]
    assert_same_answers("vgg16", whole, small)


def test_a_shortcut_finds_its_channels_though_another_was_dead_before():
    """Stage 2 writes to a channel that stage 1 leaves dead: it stands behind those that the shortcut brings."""
    whole = network("resnet20-4")
    silence("resnet20-4", whole, "stage1", torch.tensor([0, 5]))
    silence("resnet20-4", whole, "stage2", torch.tensor([9, 100]))  # 9 still comes from stage 1
    small = copy.deepcopy(whole)
    kept = remove_dead("resnet20-4", small)
    assert kept["stage1"].tolist() == [n for n in range(64) if n not in (0, 5)]
    assert kept["stage2"].tolist() == [*kept["stage1"].tolist(), 0, 5, *(n for n in range(64, 128) if n != 100)]
    assert_same_answers("resnet20-4", whole, small)


@pytest.mark.parametrize("name", ["lenet300-100", "lenet5-caffe", "vgg16"])
def test_a_network_of_constants_keeps_one_channel_of_each_space(name):
    whole = network(name)
    for tensor in whole.state_dict().values():
        if tensor.dim() > 1:
            tensor.zero_()
    last = list(whole.children())[-1]
    nn.init.normal_(last.weight)
    whole.get_submodule("fc2" if name != "lenet5-caffe" else "fc1").bias.data[0] = 0.5  # it goes into the last bias, once
    small = copy.deepcopy(whole)
    kept = remove_dead(name, small)
    assert all(len(numbers) == 1 for numbers in kept.values())
    assert_same_answers(name, whole, small)


@pytest.mark.parametrize("name", registry.ids())
def test_committed_entries_answer_alike(name):
    network, whole = registry.find(name).network, zoo.load(name)
    small = copy.deepcopy(whole)
    remove_dead(network, small)
    assert_same_answers(network, whole, small)
    fold_norms(small)
    assert_same_answers(network, whole, small, 5e-5)  # rounded in other places


# BN that follows one convolution alone: not that of a sum, as most units of ResNet-20-4 begin.
LEFT = {"vgg16": 0, "resnet20-4": 9, "resnet18": 0, "resnet50": 0}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("frozen", [False, True])
def test_norms_become_a_part_of_their_convolution(name, frozen):
    whole = network(name)
    if frozen:
        freeze(whole)
    folded = copy.deepcopy(whole)
    fold_norms(folded)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules()) == LEFT[name]
    assert_same_answers(name, whole, folded)


def test_a_network_is_loaded_compact():
    small, whole = zoo.load("lenet5-caffe-sq", compact=True), zoo.load("lenet5-caffe-sq")
    assert type(small) is type(whole) and not small.training
    assert sum(map(torch.numel, small.parameters())) < sum(map(torch.numel, whole.parameters())) / 10
    assert_same_answers("lenet5-caffe", whole, small)
