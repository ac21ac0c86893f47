"""Which tensors share a decoder: complete, without overlap, as in the paper; and from groups to a state dict."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo import networks, partitionings, reparam
from zoo.codec import Coded, Header
from zoo.errors import LayoutMismatch, UnknownName

NORMALISED = [name for name in partitionings.PARTITIONINGS if any("bn" in tensor for tensor in networks.shapes(name))]
ALL = [(network, name) for network, groupings in partitionings.PARTITIONINGS.items() for name in (*groupings, "layers")]

# Groups of the paper (section 3) and the numbers in each, worked out by hand from the architectures.
PAPER = {
    "lenet300-100": {"fc1+fc2": 784 * 300 + 300 * 100, "fc3": 1000, "biases": 410},
    "lenet5-caffe": {"convs": 20 * 25 + 50 * 20 * 25, "fc1": 800 * 500, "fc2": 5000, "biases": 20 + 50 + 500 + 10},
    "vgg16": {
        "convs": 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256**2 + 256 * 512 + 5 * 512**2),
        "fc1": 512 * 512, "fc2": 512 * 512, "fc3": 5120,
        "bn.scale": 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512, "bn.bias": 4224, "fc.biases": 512 + 512 + 10,
    },
    "resnet20-4": {
        "convs": 9 * (3 * 64 + 6 * 64**2 + 64 * 128 + 5 * 128**2 + 128 * 256 + 5 * 256**2), "fc": 2560,
        "bn.scale": 7 * 64 + 6 * 128 + 6 * 256, "bn.bias": 2752, "fc.bias": 10,
    },
    "resnet20": {
        "convs": 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2), "fc": 640,
        "bn.scale": 7 * 16 + 6 * 32 + 6 * 64, "bn.bias": 688, "fc.bias": 10,
    },
    "resnet18": {
        "conv1": 49 * 3 * 64,
        "convs3x3": 9 * (4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 3 * 512**2),
        "convs1x1": 64 * 128 + 128 * 256 + 256 * 512, "fc": 512_000,
        "bn.scale": 5 * 64 + 5 * 128 + 5 * 256 + 5 * 512, "bn.bias": 4800, "fc.bias": 1000,
    },
    "resnet50": {
        "conv1": 49 * 3 * 64, "convs3x3": 9 * (3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2), "convs1x1": sum(
            i * w + w * 4 * w + i * 4 * w + (n - 1) * 8 * w * w
            for i, w, n in ((64, 64, 3), (256, 128, 4), (512, 256, 6), (1024, 512, 3))
        ),
        "fc": 2_048_000, "bn.scale": 26_560, "bn.bias": 26_560, "fc.bias": 1000,
    },
}  # fmt: skip


@pytest.mark.parametrize("network", PAPER)
def test_the_groups_of_the_paper(network):
    assert {g.name: g.size for g in partitionings.get(network).groups} == PAPER[network]


def test_resnet50_has_the_four_groups_of_the_paper_and_its_normalisation():
    assert sum(PAPER["resnet50"][name] for name in ("conv1", "convs3x3", "convs1x1", "fc")) == 25_502_912


@pytest.mark.parametrize(("network", "name"), ALL)
def test_every_tensor_has_one_place(network, name):
    partitioning = partitionings.get(network, name)
    shapes = networks.shapes(network)
    placed = [tensor for group in partitioning.groups for tensor in group.tensors]
    assert len(placed) == len(set(placed))
    assert set(placed) | set(partitioning.constants) == set(shapes) and not set(placed) & set(partitioning.constants)
    order = list(shapes)
    for group in partitioning.groups:
        assert group.tensors and list(group.tensors) == sorted(group.tensors, key=order.index)
        assert group.shapes == tuple(shapes[t] for t in group.tensors)
        assert len({reparam.columns(group.decoder, shape) for shape in group.shapes}) == 1  # one table a column fits all
    assert all(tensor.endswith(("running_mean", "running_var", "num_batches_tracked")) for tensor in partitioning.constants)


@pytest.mark.parametrize(("network", "name"), ALL)
def test_a_file_stores_every_parameter_of_the_network_and_nothing_else(network, name):
    assert partitionings.get(network, name).parameters == networks.SPECS[network].parameters


@pytest.mark.parametrize("network", NORMALISED)
def test_normalisation_is_apart_from_weights(network):
    for group in partitionings.get(network).groups:
        normal = [("bn" in t or "downsample.1" in t) for t in group.tensors]
        assert all(normal) if group.name.startswith("bn.") else not any(normal)


@pytest.mark.parametrize("network", NORMALISED)
def test_kernels_of_3x3_are_transformed_and_matrices_are_not(network):
    for group in partitionings.get(network).groups:
        square = all(len(shape) == 4 and shape[2] == 3 for shape in group.shapes)
        assert group.decoder == ("dft" if square else "scalar")


def test_layers_gives_every_weight_a_group_of_its_own():
    groups = partitionings.get("lenet5-caffe", "layers").groups
    assert [g.name for g in groups] == ["conv1", "conv2", "fc1", "fc2", "biases"]
    groups = partitionings.get("resnet18", "layers").groups
    assert [g.name for g in groups][-3:] == ["bn.scale", "bn.bias", "biases"]
    assert all(len(g.tensors) == 1 for g in groups[:-3]) and len(groups) == 21 + 3


def test_both_resnet50_have_the_same_groups():
    assert partitionings.get("resnet50").groups == partitionings.get("resnet50-v1.5").groups


def test_unknown_names():
    with pytest.raises(UnknownName, match="lenet300-10'.*lenet300-100"):
        partitionings.get("lenet300-10")
    with pytest.raises(UnknownName, match="no partitioning 'papers'; known: layers, paper"):
        partitionings.get("vgg16", "papers")
    for name in ("", "paper", "../vgg16", "x" * 63, "resnet18:", "resnet18:0", "resnet18:-1", "resnet18:99999999"):
        with pytest.raises(UnknownName):
            partitionings.get(name)


@pytest.mark.parametrize(("network", "name"), ALL)
def test_layout_wants_the_right_count(network, name):
    count = networks.SPECS[network].parameters
    shapes = partitionings.layout(Header(1, network, name, count, 0))
    assert sum(math.prod(s) for group in shapes.values() for s in group) == count
    with pytest.raises(LayoutMismatch, match=f"{count + 1:,} parameters.*{count:,}"):
        partitionings.layout(Header(1, network, name, count + 1, 0))


def coded_groups(network: str, name: str = "paper", seed: int = 0) -> dict[str, Coded]:
    rng, groups = np.random.default_rng(seed), {}
    for group in partitionings.get(network, name).groups:
        l = reparam.columns(group.decoder, group.shapes[0])
        phi = rng.integers(-3, 4, (group.size // l, l)).astype(np.int32)
        groups[group.name] = Coded(group.decoder, "static", phi, {"scale": np.full((1, l), 0.05, np.float32)})
    return groups


@pytest.mark.parametrize(("network", "name"), [case for case in ALL if networks.spec(case[0]).dataset != "imagenet"])
def test_joined_groups_are_a_complete_state_dict(network, name):
    groups = coded_groups(network, name)
    state = partitionings.join(SimpleNamespace(network=network, partitioning=name), groups)
    module = networks.build(network)
    module.load_state_dict(state, strict=True)
    assert all(tensor.dtype == module.state_dict()[key].dtype for key, tensor in state.items())
    for group in partitionings.get(network, name).groups:
        coded = groups[group.name]
        arrays = reparam.decode(coded.decoder, coded.phi, coded.psi, list(group.shapes))
        for tensor, array in zip(group.tensors, arrays, strict=True):
            assert np.array_equal(state[tensor].numpy(), array)


def test_tensors_of_one_group_follow_one_another():
    phi = np.arange(266_200 - 1000, dtype=np.int32)[:, None]
    groups = coded_groups("lenet300-100") | {"fc1+fc2": Coded("scalar", "static", phi, {"scale": np.ones((1, 1), "f4")})}
    state = partitionings.join(SimpleNamespace(network="lenet300-100", partitioning="paper"), groups)
    assert state["fc1.weight"][1, 0] == 784 and state["fc2.weight"][0, 1] == 784 * 300 + 1
    assert state["fc2.weight"].shape == (100, 300)


def test_normalisation_constants_make_a_layer_scale_and_add():
    partitioning = partitionings.get("resnet20-4")
    (name,) = [n for n in partitioning.constants if n.endswith("running_var")][:1]
    layer = torch.nn.BatchNorm2d(partitioning.constants[name][1][0], eps=partitionings.BN_EPS).eval()
    state = partitionings.join(SimpleNamespace(network="resnet20-4", partitioning="paper"), coded_groups("resnet20-4"))
    prefix = name.removesuffix("running_var")
    layer.load_state_dict({key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}, strict=True)
    x = torch.randn((2, layer.num_features, 3, 3), generator=torch.Generator().manual_seed(0))
    expected = x * layer.weight[:, None, None] + layer.bias[:, None, None]
    assert torch.allclose(layer(x), expected, rtol=1e-6, atol=1e-7)
    assert {m.eps for m in networks.build("resnet20-4").modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-5}


def test_groups_are_used_up_as_they_become_weights():
    groups = coded_groups("lenet300-100")
    header = SimpleNamespace(network="lenet300-100", partitioning="paper")
    kept = partitionings.join(header, groups)
    assert len(groups) == 3
    consumed = partitionings.join(header, groups, consume=True)
    assert groups == {} and list(kept) == list(consumed)
    assert all(kept[name].equal(consumed[name]) for name in kept)
