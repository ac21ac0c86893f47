"""The networks: sizes, names, and outputs against independent definitions with the same random weights."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from zoo import datasets, networks
from zoo._torchvision import torchvision
from zoo.errors import ZooError
from zoo.networks import SPECS, build, names

ROOT = Path(__file__).resolve().parents[1]
CONVOLUTIONAL_WITH_BN = [name for name in names() if any(key.endswith("running_mean") for key in networks.shapes(name))]


def randomised(name: str, **options) -> torch.nn.Module:
    """A network in eval mode whose BN statistics, gamma and beta differ from channel to channel."""
    torch.manual_seed(sum(name.encode()))
    network = build(name, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def images(name: str, batch: int = 2, size: int | None = None) -> torch.Tensor:
    channels, height, width = SPECS[name].input_shape
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, channels, size or height, size or width, generator=generator)


def sizes(network: torch.nn.Module, x: torch.Tensor, *layers: str) -> list[tuple[int, ...]]:
    """Shapes (C, H, W) of the outputs of the named modules."""
    actual = {}
    hooks = [
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: actual.__setitem__(layer, tuple(output.shape[1:]))
        )
        for layer in layers
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return [actual[layer] for layer in layers]


def bn(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    """Batch normalisation in eval mode, written out with the default epsilon of 1e-5."""
    mean, var, gamma, beta = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    mean, var, gamma, beta = (t[:, None, None] for t in (mean, var, gamma, beta))
    return (x - mean) / torch.sqrt(var + 1e-5) * gamma + beta


# --- all of them --------------------------------------------------------------------------------------------


def test_ids():
    released = {"lenet300-100", "lenet5-caffe", "vgg16", "resnet20-4", "resnet18", "resnet50", "resnet50-v1.5"}
    assert released <= set(names())  # files name them
    assert all(SPECS[name].name == name for name in names())


@pytest.mark.parametrize("name", names())
def test_parameter_count_is_the_one_in_specs(name):
    with torch.device("meta"):
        network = build(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == SPECS[name].parameters


def test_parameter_counts_of_the_literature():
    counts = {name: spec.parameters for name, spec in SPECS.items()}
    assert counts["lenet300-100"] == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    assert counts["lenet5-caffe"] == 431_080
    assert counts["resnet18"] == 11_689_512
    assert counts["resnet20"] == 269_722  # He et al. 2016a, table 6: 0.27M
    assert counts["resnet50"] == counts["resnet50-v1.5"] == 25_557_032
    # Table 1 of the paper: 60 MB and 17.2 MB, in units and with a rounding that it does not state.
    assert 4 * counts["vgg16"] == pytest.approx(60e6, rel=0.02)
    assert 4 * counts["resnet20-4"] == pytest.approx(17.2e6, rel=0.01)


@pytest.mark.parametrize("name, kilobytes", [("vgg16", 20), ("resnet20-4", 11)])
def test_biases_weigh_what_the_paper_says(name, kilobytes):
    # Section 3.2: the biases, BN's beta among them, "add up to about 20 KB" and "about 11 KB" in float32.
    with torch.device("meta"):
        network = build(name)
    biases = sum(tensor.numel() for key, tensor in network.named_parameters() if key.endswith("bias"))
    assert 4 * biases / 1024 == pytest.approx(kilobytes, abs=0.9)


@pytest.mark.parametrize("name", names())
def test_meta_build_has_the_same_state_and_allocates_nothing(name):
    with torch.device("meta"):
        hollow = build(name)
    tensors = hollow.state_dict()
    assert all(tensor.is_meta for tensor in tensors.values())
    state = {key: torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in tensors.items()}
    result = hollow.load_state_dict(state, strict=True, assign=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert not any(True for module in hollow.modules() if module._non_persistent_buffers_set)
    with torch.no_grad():
        assert hollow.eval()(images(name, 1, 64 if name.startswith("resnet5") else None)).eq(0).all()


@pytest.mark.parametrize("name", names())
def test_shapes_are_those_of_a_real_build(name):
    state = build(f"{name}:12").state_dict()
    actual = networks.shapes(f"{name}:12")
    assert list(actual) == list(state)
    assert actual == {key: tuple(tensor.shape) for key, tensor in state.items()}
    with pytest.raises(ZooError, match="no network is called"):
        networks.shapes(name + "?")


@pytest.mark.parametrize("name", names())
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    network = build(name)
    assert network.training
    size = 64 if SPECS[name].dataset == "imagenet" else None
    logits = network(images(name, 2, size))
    assert logits.shape == (2, SPECS[name].classes_count)
    F.cross_entropy(logits, torch.tensor([1, 3])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", names())
def test_a_name_may_carry_a_number_of_classes(name):
    with torch.device("meta"):
        default, network = build(name).state_dict(), build(f"{name}:7")
    other = network.state_dict()
    assert default.keys() == other.keys()
    last = [key for key in default if key.startswith("fc")][-2:]
    assert [tuple(other[key].shape) for key in last] == [(7, default[last[0]].shape[1]), (7,)]
    assert all(default[key].shape == other[key].shape for key in default if key not in last)
    own_spec = networks.spec(f"{name}:7")
    assert own_spec.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert (own_spec.name, own_spec.base, own_spec.classes_count, own_spec.dataset) == (f"{name}:7", name, 7, SPECS[name].dataset)
    assert networks.spec(name) is SPECS[name] and networks.spec(name).base == name


def test_a_name_may_carry_a_data_set_with_pictures_of_the_same_shape():
    spec = networks.spec("lenet5-caffe:fashion-mnist")
    assert (spec.dataset, spec.base, spec.classes_count) == ("fashion-mnist", "lenet5-caffe", 10)
    assert networks.shapes(spec.name) == networks.shapes("lenet5-caffe")
    assert networks.spec("lenet5-caffe:mnist") is SPECS["lenet5-caffe"]
    with pytest.raises(ZooError, match=r"takes pictures of shape \(1, 28, 28\), cifar10 has \(3, 32, 32\)"):
        networks.spec("lenet5-caffe:cifar10")
    with pytest.raises(ZooError, match="no data set 'svhn'; there are mnist"):
        networks.spec("resnet20:svhn")


def test_a_data_set_of_other_classes_has_another_last_layer(monkeypatch):
    hundred = dataclasses.replace(datasets.get("cifar10"), name="hundred", class_names=lambda: tuple(map(str, range(100))))
    monkeypatch.setitem(datasets.DATASETS, "hundred", hundred)
    spec = networks.spec("resnet20:hundred")
    assert (spec.classes_count, spec.parameters) == (100, 269_722 + 90 * 65)
    assert networks.build("resnet20:hundred").fc.weight.shape == (100, 64)


@pytest.mark.parametrize("classes", ["0", "-1", "", "07", "1e3", "7 ", "7:7", "²", "32769", "9" * 5000])
def test_other_numbers_of_classes_are_refused(classes):
    with pytest.raises(ZooError, match="1 to 32,768 classes|no network"):
        networks.spec(f"resnet18:{classes}")


@pytest.mark.parametrize("name", CONVOLUTIONAL_WITH_BN)
def test_initialisation_is_he_normal_over_the_fan_out(name):
    torch.manual_seed(0)
    for key, module in build(name).named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is None
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), key
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.eps == 1e-5 and module.weight.eq(1).all() and module.bias.eq(0).all(), key


@pytest.mark.parametrize(
    "wrong, near",
    [("resnet-50", "resnet50"), ("LeNet5", "lenet5-caffe"), ("vgg-16", "vgg16"), ("zzz", "lenet300-100")],
)
def test_unknown_name_lists_the_nearest(wrong, near):
    with pytest.raises(ZooError, match=f"'{wrong}'.*{near}"):
        build(wrong)


def test_names_and_specs_do_not_import_torch():
    code = "import sys; from zoo.networks import SPECS, names; print(len(names()), len(SPECS), *sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{len(names())} {len(SPECS)} ")
    assert not {"torch", "torchvision", "timm", "numpy"} & set(result.stdout.split())


def test_meta_build_is_cheap():
    # The first normal draw on the meta device imports 800 modules of torch: 1.5 s in every first load.
    code = """
import sys, torch
from zoo.networks import build, names
random, modules = torch.get_rng_state(), len(sys.modules)
with torch.device("meta"):
    for name in names():
        build(name)
assert torch.equal(random, torch.get_rng_state())
assert len(sys.modules) < modules + 50, len(sys.modules) - modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_networks_know_nothing_of_the_rest():
    for path in Path(networks.__file__).parent.glob("*.py"):
        words = [line.split() for line in path.read_text().splitlines()]
        imported = {line[1] for line in words if len(line) > 1 and line[0] in ("import", "from")}
        ours = {module for module in imported if module.split(".")[0] in ("zoo", "benchmarks")}
        assert ours <= {"zoo.errors", "zoo.networks", "zoo.networks.conv", "zoo.datasets"}, path


# --- MNIST --------------------------------------------------------------------------------------------------


def test_lenet300_100_forward():
    network = randomised("lenet300-100")
    s, x = network.state_dict(), images("lenet300-100", 3)
    assert list(s) == [f"fc{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    hidden = (x.reshape(3, 784) @ s["fc1.weight"].T + s["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ s["fc2.weight"].T + s["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(network(x), hidden @ s["fc3.weight"].T + s["fc3.bias"])


def patches(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A 5x5 convolution without padding as sums over windows."""
    return torch.einsum("bihwkl,oikl->bohw", x.unfold(2, 5, 1).unfold(3, 5, 1), weight) + bias[:, None, None]


def test_lenet5_caffe_forward():
    network = randomised("lenet5-caffe")
    s, x = network.state_dict(), images("lenet5-caffe", 3)
    assert list(s) == [f"{name}.{k}" for name in ("conv1", "conv2", "fc1", "fc2") for k in ("weight", "bias")]
    h = patches(x, s["conv1.weight"], s["conv1.bias"])  # (3, 20, 24, 24)
    h = h.reshape(3, 20, 12, 2, 12, 2).amax((3, 5))
    h = patches(h, s["conv2.weight"], s["conv2.bias"])  # (3, 50, 8, 8)
    h = h.reshape(3, 50, 4, 2, 4, 2).amax((3, 5)).reshape(3, 800)
    h = (h @ s["fc1.weight"].T + s["fc1.bias"]).clamp(min=0)
    torch.testing.assert_close(network(x), h @ s["fc2.weight"].T + s["fc2.bias"], atol=1e-5, rtol=1e-5)


# --- CIFAR-10 -----------------------------------------------------------------------------------------------


def test_vgg16_forward():
    network = randomised("vgg16")
    s, x = network.state_dict(), images("vgg16")
    h = x
    for number in range(1, 14):
        h = bn(s, f"bn{number}", F.conv2d(h, s[f"conv{number}.weight"], padding=1)).clamp(min=0)
        if number in (2, 4, 7, 10, 13):
            h = h.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    assert h.shape == (2, 512, 1, 1)
    h = h.reshape(2, 512)
    for layer in ("fc1", "fc2"):
        h = (h @ s[f"{layer}.weight"].T + s[f"{layer}.bias"]).clamp(min=0)
    expected = h @ s["fc3.weight"].T + s["fc3.bias"]
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-4)


def test_vgg16_tensors_and_dropout():
    network = randomised("vgg16")
    convs = [tensor for tensor in network.parameters() if tensor.ndim == 4]
    assert [tensor.shape[0] for tensor in convs] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert all(tensor.shape[2:] == (3, 3) for tensor in convs)
    dense = [tuple(network.get_submodule(f"fc{i}").weight.shape) for i in (1, 2, 3)]
    assert dense == [(512, 512), (512, 512), (10, 512)]
    x = images("vgg16")
    assert torch.equal(network(x), network(x))
    network.train()
    assert torch.equal(network(x), network(x))  # no dropout unless it is asked for
    network.dropout = 0.5
    assert not torch.equal(network(x), network(x))


def test_resnet20_4_forward():
    network = randomised("resnet20-4")
    s, x = network.state_dict(), images("resnet20-4")
    h = F.conv2d(x, s["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for index in range(3):
            name, first = f"layer{stage}.{index}", index == 0
            stride = 2 if first and stage > 1 else 1
            active = bn(s, f"{name}.bn1", h).clamp(min=0)
            residual = F.conv2d(active, s[f"{name}.conv1.weight"], stride=stride, padding=1)
            residual = bn(s, f"{name}.bn2", residual).clamp(min=0)
            residual = F.conv2d(residual, s[f"{name}.conv2.weight"], padding=1)
            shortcut = active if first else h
            if stride == 2:
                half = shortcut[..., ::2, ::2]
                shortcut = torch.cat([half, torch.zeros_like(half)], dim=1)
            h = residual + shortcut
    h = bn(s, "bn", h).clamp(min=0).mean((2, 3))
    expected = h @ s["fc.weight"].T + s["fc.bias"]
    torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)


def test_resnet20_4_sizes():
    stages = ["conv1", "layer1", "layer2", "layer3", "fc"]
    actual = sizes(randomised("resnet20-4"), images("resnet20-4"), *stages)
    assert actual == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (10,)]


def test_resnet20_forward():
    network = randomised("resnet20")
    s, x = network.state_dict(), images("resnet20")
    h = bn(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)).clamp(min=0)
    for stage in (1, 2, 3):
        for index in range(3):
            name, stride = f"layer{stage}.{index}", 2 if index == 0 and stage > 1 else 1
            residual = bn(s, f"{name}.bn1", F.conv2d(h, s[f"{name}.conv1.weight"], stride=stride, padding=1)).clamp(min=0)
            residual = bn(s, f"{name}.bn2", F.conv2d(residual, s[f"{name}.conv2.weight"], padding=1))
            if stride == 2:
                half = h[..., ::2, ::2]
                h = torch.cat([half, torch.zeros_like(half)], dim=1)
            h = (h + residual).clamp(min=0)
    expected = h.mean((2, 3)) @ s["fc.weight"].T + s["fc.bias"]
    torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)


def test_resnet20_sizes():
    stages = ["conv1", "layer1", "layer2", "layer3", "fc"]
    actual = sizes(randomised("resnet20"), images("resnet20"), *stages)
    assert actual == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (10,)]


@pytest.mark.parametrize("name", ["resnet20-4", "resnet20"])
def test_resnet20_has_twenty_layers_and_shortcuts_without_parameters(name):
    network = build(name)
    weights = [key for key, tensor in network.named_parameters() if tensor.ndim > 1]
    expected = [f"layer{s}.{b}.conv{c}.weight" for s in (1, 2, 3) for b in range(3) for c in (1, 2)]
    assert weights == ["conv1.weight", *expected, "fc.weight"] and len(weights) == 20
    assert all(network.get_parameter(key).shape[2:] == (3, 3) for key in weights[:-1])
    for stage in (1, 2, 3):
        for block in getattr(network, f"layer{stage}"):
            assert {key.split(".")[0] for key in block.state_dict()} == {"bn1", "conv1", "bn2", "conv2"}
            torch.nn.init.zeros_(block.conv2.weight)  # now the block is its shortcut
            x = torch.randn(1, block.conv1.in_channels, 8, 8)
            y = block.eval()(x)
            kept = y[:, : x.shape[1]]
            source = x
            if name == "resnet20" or block.shared:  # activated after the sum, or before
                source = F.relu(x if name == "resnet20" else block.bn1(x))
            stride = block.conv1.stride[0]
            assert torch.equal(kept, source[:, :, ::stride, ::stride])
            assert y[:, x.shape[1] :].eq(0).all()


# --- ImageNet -----------------------------------------------------------------------------------------------


def reference(name: str) -> torch.nn.Module:
    """torchvision's network; for v1, which neither torchvision nor timm offers, with the strides moved."""
    models = torchvision().models
    if name == "resnet18":
        return models.resnet18(weights=None).eval()
    network = models.resnet50(weights=None).eval()
    if name == "resnet50":
        for layer in (network.layer2, network.layer3, network.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50-v1.5"])
def test_imagenet_networks_equal_torchvision(name):
    ours, torchvisions = randomised(name), reference(name)
    assert list(ours.state_dict()) == list(torchvisions.state_dict())
    torchvisions.load_state_dict(ours.state_dict(), strict=True)
    x = images(name, 2, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torchvisions(x), rtol=1e-5, atol=1e-5)
        odd = images(name, 1, 75)  # sizes that halve unevenly
        torch.testing.assert_close(ours(odd), torchvisions(odd), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.train()(x), torchvisions.train()(x), rtol=1e-4, atol=1e-4)
    # The other way round: a released state dict loads into ours.
    ours.load_state_dict(reference(name).state_dict(), strict=True)


def test_stride_placement_of_resnet50():
    x = images("resnet50", 1, 64)
    layers = [f"layer2.0.{layer_name}" for layer_name in ("conv1", "conv2", "conv3", "downsample")]
    v1, v15 = randomised("resnet50"), randomised("resnet50-v1.5")
    assert sizes(v1, x, *layers) == [(128, 8, 8), (128, 8, 8), (512, 8, 8), (512, 8, 8)]
    assert sizes(v15, x, *layers) == [(128, 16, 16), (128, 8, 8), (512, 8, 8), (512, 8, 8)]
    stages = ["layer1", "layer2", "layer3", "layer4"]
    assert sizes(v1, x, *stages) == sizes(v15, x, *stages)

    def strided(network):
        convs = [(key, m) for key, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)]
        return [key for key, m in convs if m.stride != (1, 1)]

    def expected(conv):
        return ["conv1"] + [f"layer{s}.0.{layer_name}" for s in (2, 3, 4) for layer_name in (conv, "downsample.0")]

    assert strided(v1) == expected("conv1") and strided(v15) == expected("conv2")
    # The same tensors fit both silently, so the two must be told apart by their outputs.
    v15.load_state_dict(v1.state_dict(), strict=True)
    with torch.no_grad():
        assert (v1(x) - v15(x)).abs().max() > 1e-2
