"""Networks without some of their channels: the file's full network computes what the thin one does."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.training import bn, thin
from zoo import compact, networks, partitionings
from zoo.codec import Coded

KEEP = {
    "lenet300-100": {"fc1": 21, "fc2": 9},
    "lenet5-caffe": {"conv1": 4, "conv2": 7, "fc1": 12},
    "vgg16": {"conv1": 5, "conv?": 7, "conv1?": 6, "fc1": 9, "fc2": 11},
    "resnet20-4": {"stage1": 6, "stage2": 10, "stage3": 17, "layer1.*": 5, "layer[23].*": 8},
}


def network(name: str) -> nn.Module:
    """Every BN layer scales and shifts each channel in its own way."""
    torch.manual_seed(1)
    made = networks.build(name)
    for layer in bn.layers(made).values():
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.5, 0.5)
        nn.init.uniform_(layer.running_mean, -0.1, 0.1)
    return made.eval()


def chosen(name: str) -> thin.Kept:
    draw = torch.Generator().manual_seed(3)
    widths = {space: networks.shapes(name)[t][0] for t, (space, *_) in thin.spaces(name).items() if space}
    return thin.choose({space: torch.rand(n, generator=draw) + 0.1 for space, n in widths.items()}, KEEP[name])


@pytest.mark.parametrize("name", KEEP)
def test_every_tensor_with_channels_is_listed(name):
    listed = thin.spaces(name)
    assert {n for n in networks.shapes(name) if not n.endswith("num_batches_tracked")} == set(listed)
    for tensor, where in listed.items():
        assert len(where) == min(len(networks.shapes(name)[tensor]), 2), tensor


@pytest.mark.parametrize("decoder", ["scalar", "codebook"])
@pytest.mark.parametrize("name", KEEP)
def test_the_full_network_of_the_expanded_file_computes_what_the_thin_one_does(name, decoder):
    kept, full = chosen(name), partitionings.get(name, "paper" if decoder == "scalar" else "layers")
    made = network(name)
    compact.remove(name, made, kept)
    small = thin.partitioning(full, kept)
    state, coded = made.state_dict(), {}
    for layer in bn.layers(made):  # fold, as every file is
        scale = state[f"{layer}.weight"] / (state[f"{layer}.running_var"] + partitionings.BN_EPS).sqrt()
        state[f"{layer}.bias"] -= state[f"{layer}.running_mean"] * scale
        state[f"{layer}.weight"] = scale
    for group in small.groups:
        assert all(tuple(state[t].shape) == s for t, s in zip(group.tensors, group.shapes, strict=True))
        flat = np.concatenate([state[t].numpy().reshape(-1) for t in group.tensors])
        step = np.float32(np.abs(flat).max() / 2**14)
        if decoder == "codebook" and len(group.shapes[0]) > 1:
            levels = np.linspace(flat.min(), flat.max(), 255, dtype=np.float32)
            levels[np.abs(levels).argmin()] = 0  # in the middle: its index is not 0
            phi = np.abs(flat[:, None] - levels).argmin(1).astype(np.int32)[:, None]
            coded[group.name] = Coded("codebook", "context", phi, {"codebook": levels[None]})
            continue
        phi = np.rint(flat / step).astype(np.int32)
        l = 9 if group.decoder == "dft" else 1
        kind = "sq" if l == 9 else "scalar"
        coded[group.name] = Coded(kind, "static", phi.reshape(-1, l), {"scale": np.full((1, l), step, np.float32)})
    thin_state = partitionings.weights(small, coded) | partitionings.constants(small)
    whole = thin.expand(full, kept, coded)
    assert {g: c.phi.shape for g, c in whole.items()}.keys() == coded.keys()
    full_network = networks.build(name).eval()
    full_network.load_state_dict(partitionings.weights(full, whole) | partitionings.constants(full), strict=True)
    x = torch.randn(4, *networks.spec(name).input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.func.functional_call(made, thin_state, (x,))
        torch.testing.assert_close(full_network(x), expected, rtol=1e-4, atol=1e-5)


def test_a_channel_matters_as_much_as_the_loss_changes_without_it():
    """Channels that change the loss most to first order come first; dead ones score zero."""
    made = network("vgg16")
    with torch.no_grad():
        made.bn3.weight[:20] = 0.0
        made.bn3.bias[:20] = 0.0
        made.fc1.weight[7] = 0.0
        made.fc1.bias[7] = 0.0
    draw = torch.Generator().manual_seed(5)
    batches = [(torch.randn(8, 3, 32, 32, generator=draw), torch.randint(0, 10, (8,), generator=draw)) for _ in range(2)]
    state = copy.deepcopy(made.state_dict())
    scores = thin.scores("vgg16", made, batches, nn.functional.cross_entropy)
    assert set(scores) == {*(f"conv{n}" for n in range(1, 14)), "fc1", "fc2"}
    assert not scores["conv3"][:20].any() and scores["conv3"][20:].all() and scores["fc1"][7] == 0
    # by hand, channel 30 of conv3: the loss with its BN output times 1 +- h
    made.load_state_dict(state)
    expected, h = 0.0, 1e-2
    for images, labels in batches:
        losses = []
        for sign in (1, -1):
            double_network = copy.deepcopy(made).double().train()
            with torch.no_grad():
                double_network.bn3.weight[30] *= 1 + sign * h
                double_network.bn3.bias[30] *= 1 + sign * h
                losses.append(float(nn.functional.cross_entropy(double_network(images.double()), labels)))
        expected += ((losses[0] - losses[1]) / (2 * h)) ** 2
    assert float(scores["conv3"][30]) == pytest.approx(expected, rel=0.05)


def test_without_normalisation_a_convolution_matters_by_what_it_puts_out():
    """By hand, map 3 of conv2: the loss with its weights and bias times 1 +- h; a neuron that nothing reads scores zero."""
    made = network("lenet5-caffe").double()
    with torch.no_grad():
        made.fc2.weight[:, 5] = 0.0
    images, labels = torch.randn(8, 1, 28, 28, dtype=torch.float64), torch.randint(0, 10, (8,))
    scores = thin.scores("lenet5-caffe", made, [(images, labels)], nn.functional.cross_entropy)
    assert {space: len(score) for space, score in scores.items()} == {"conv1": 20, "conv2": 50, "fc1": 500}
    assert scores["fc1"][5] == 0
    losses, h = [], 1e-3
    for sign in (1, -1):
        scaled = copy.deepcopy(made)
        with torch.no_grad():
            scaled.conv2.weight[3] *= 1 + sign * h
            scaled.conv2.bias[3] *= 1 + sign * h
            losses.append(float(nn.functional.cross_entropy(scaled(images), labels)))
    assert float(scores["conv2"][3]) == pytest.approx(((losses[0] - losses[1]) / (2 * h)) ** 2, rel=0.01)


def test_identity_shortcuts_keep_what_the_stage_before_kept():
    kept = chosen("resnet20-4")
    inherited = kept["stage2"][kept["stage2"] < 64]
    assert torch.equal(inherited, kept["stage1"]) and len(kept["stage2"]) == 10
    assert torch.equal(kept["stage3"][kept["stage3"] < 128], kept["stage2"])


def test_wrong_counts_are_refused():
    scores = {"conv1": torch.ones(64)}
    with pytest.raises(ValueError, match=r"keep names \['conv14'\]"):
        thin.choose(scores, {"conv14": 3})
    with pytest.raises(ValueError, match="65 channels of conv1, which has 64"):
        thin.choose(scores, {"conv1": 65})
    with pytest.raises(ValueError, match="resnet18 are not listed"):
        thin.spaces("resnet18")
    with pytest.raises(ValueError, match="at least the 6 channels of stage1"):
        thin.choose({"stage1": torch.ones(64), "stage2": torch.ones(128)}, {"stage1": 6, "stage2": 5})


def test_what_has_no_integer_for_the_weight_zero_cannot_be_expanded():
    full, kept = partitionings.get("vgg16"), chosen("vgg16")
    small = thin.partitioning(full, kept)
    levels = {"codebook": np.array([[-1, 1]], np.float32)}
    coded = {g.name: Coded("codebook", "static", np.zeros((g.size, 1), np.int32), levels) for g in small.groups}
    with pytest.raises(ValueError, match="convs: no entry of its codebook is the weight 0"):
        thin.expand(full, kept, coded)
    coded = {g.name: Coded("float32", "static", np.zeros((g.size, 1), np.float32), {}) for g in small.groups}
    with pytest.raises(ValueError, match="convs: no integer is the weight 0 under float32"):
        thin.expand(full, kept, coded)
