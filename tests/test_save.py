"""Any network to a file and back: zoo.save, zoo.load_state_dict, zoo.load(path, into=...)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo
from zoo import codec, named, networks, states
from zoo.compress import plain
from zoo.errors import LayoutMismatch, UnknownName


def small() -> nn.Module:
    """Convolutions of three kinds and dimensions, normalisation, attention, tied weights."""
    torch.manual_seed(0)
    network = nn.ModuleDict({
        "stem": nn.Conv2d(3, 16, 3), "bn": nn.BatchNorm2d(16), "depthwise": nn.Conv2d(16, 16, 3, groups=16),
        "signal": nn.Conv1d(8, 16, 5), "volume": nn.Conv3d(4, 8, 3), "attention": nn.MultiheadAttention(32, 4),
        "embedding": nn.Embedding(40, 32), "norm": nn.LayerNorm(32), "head": nn.Linear(32, 40, bias=False),
    })  # fmt: skip
    network["head"].weight = network["embedding"].weight
    network.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool).tril())
    network.register_buffer("bias", torch.full((3, 3), -torch.inf).triu(1))
    network.register_buffer("empty", torch.empty(0, 5))
    network.register_buffer("table", torch.arange(6, dtype=torch.int32).view(2, 3))
    return network


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )


def test_without_a_bound_every_number_comes_back(tmp_path):
    network, path = small(), tmp_path / "a.zoo"
    size = zoo.save(network, path)
    state = zoo.load_state_dict(path)
    assert size == path.stat().st_size < 0.87 * 4 * states.numbers(states.check(network.state_dict())) + 1500
    assert list(state) == list(network.state_dict())
    assert all(same(state[name], tensor) for name, tensor in network.state_dict().items())
    assert state["head.weight"] is state["embedding.weight"]


kinds = st.lists(st.tuples(st.sampled_from(list(states.KINDS)), st.lists(st.integers(0, 5), max_size=5)), max_size=5)


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(0, 99))
def test_tensors_of_every_kind_come_back(kinds, seed):
    draw, state = torch.Generator().manual_seed(seed), {}
    for i, (kind, shape) in enumerate(kinds):
        size = math.prod(shape) * torch.empty(0, dtype=kind).element_size()
        raw = torch.randint(0, 2 if kind is torch.bool else 256, (size,), generator=draw, dtype=torch.uint8)
        state[f"a.{i}"] = raw.view(kind).reshape(shape)
    _, again = states.unpack(states.pack(states.check(state)))
    assert list(again) == list(state) and all(same(again[name], tensor) for name, tensor in state.items())


def test_views_transposed_tensors_and_lone_dimensions():
    base = torch.arange(12.0).view(3, 4)
    state = {"a": base.T, "b": base[:, 1], "c": torch.tensor(3.5), "d": base.T, "e": base[:0]}
    _, again = states.unpack(states.pack(states.check(state)))
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert again["a"] is again["d"] and again["a"] is not again["b"]


@pytest.mark.parametrize("wrong", [3, torch.ones(3, device="meta"), torch.eye(3).to_sparse()])
def test_what_is_no_tensor_of_numbers_is_refused_by_name(wrong, tmp_path):
    with pytest.raises(TypeError, match="'some.name'"):
        zoo.save({"some.name": wrong}, tmp_path / "a.zoo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"bits": 3}, {"bytes": 20_000}, {"bytes": "20kB"}])
def test_a_bound_is_filled_to_97_percent(option, tmp_path):
    network, path = small(), tmp_path / "a.zoo"
    count = states.numbers(states.check(network.state_dict()))
    bound = 3 * count / 8 if "bits" in option else 20_000
    size = zoo.save(network, path, **option)
    assert 0.97 * bound <= size <= bound
    state, before = zoo.load_state_dict(path), network.state_dict()
    rounded = {name for names in plain.kinds(states.check(before)).values() for name in names}
    assert "head.weight" not in rounded and state["head.weight"] is state["embedding.weight"]
    for name, tensor in before.items():
        if name in rounded or name == "head.weight":
            error = (state[name] - tensor).square().mean() / tensor.square().mean()
            assert 0 < error < 0.2, name
        elif tensor.dtype == torch.float32:
            torch.testing.assert_close(state[name], tensor, rtol=2.0**-12, atol=0)
        else:
            assert same(state[name], tensor)


def test_a_generous_bound_makes_the_exact_file_and_one_too_small_says_so(tmp_path):
    network = small()
    exact = zoo.save(network, tmp_path / "a.zoo")
    assert zoo.save(network, tmp_path / "b.zoo", bytes="1MB") == exact
    assert (tmp_path / "a.zoo").read_bytes() == (tmp_path / "b.zoo").read_bytes()
    with pytest.raises(ValueError, match="1,000 bytes are too few"):
        zoo.save(network, tmp_path / "c.zoo", bytes=1000)
    for wrong in ({"bytes": 0}, {"bytes": -1}, {"bytes": "0"}, {"bits": 0}, {"bits": math.nan}, {"step": 0}, {"bytes": "5 GiB"}):
        with pytest.raises(ValueError, match="positive|no size"):
            zoo.save(network, tmp_path / "c.zoo", **wrong)
    with pytest.raises(ValueError, match="one of"):
        zoo.save(network, tmp_path / "c.zoo", bytes=1, bits=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zoo", "b.zoo"]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_rounded_weights_keep_their_type(kind, tmp_path):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(kind)
    zoo.save({"weight": weight}, tmp_path / "a.zoo", step=0.5)
    again = zoo.load_state_dict(tmp_path / "a.zoo")["weight"]
    assert again.dtype == kind and 0 < (again.double() - weight.double()).abs().max() < 0.75
    assert len(again.unique()) < 30


@pytest.mark.parametrize("name, value, message", [
    ("stem.weight", torch.nan, "stem.weight holds 1 numbers that are not finite"), ("norm.bias", torch.inf, "norm.bias holds 1"),
    ("bn.running_var", -1.0, "bn.running_var holds 1 negative variances"), ("bias", torch.nan, "bias holds 1"),
])  # fmt: skip
def test_weights_that_are_not_finite_are_refused_by_name(name, value, message, tmp_path):
    network = small()
    network.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=message):
        zoo.save(network, tmp_path / "a.zoo", bits=4)


def test_rounding_weighs_errors_against_bits():
    y = np.random.default_rng(0).laplace(0, 0.7, (20_000, 2))
    q = plain.round_rows(y)
    assert np.abs(y - q).max() < 1.5 and q.dtype == np.int8

    def cost(q):
        entropy = 0.0
        for column in q.T:
            p = np.unique(column, return_counts=True)[1] / len(column)
            entropy -= len(column) * (p * np.log2(p)).sum()
        return ((y - q) ** 2).sum() + plain.PRICE * entropy

    assert cost(q) < 0.98 * cost(np.rint(y).astype(np.int32))


def test_short_vectors_keep_their_significant_bits():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10
    x[:4] = torch.tensor([0.0, -0.0, torch.inf, torch.finfo(torch.float32).max])
    short = plain.shorten(x)
    assert ((short.numpy().view(np.uint32) & 0xFFF)[4:] == 0).all() and torch.equal(short[:4], x[:4])
    assert ((short - x)[4:].abs() <= 2.0**-12 * x[4:].abs()).all()


# ---- back into a network -----------------------------------------------------------------------------------------


def test_into_a_module_of_ones_own(tmp_path):
    network, path = small(), tmp_path / "a.zoo"
    zoo.save(network, path)
    other = small()
    for parameter in other.parameters():
        parameter.data.zero_()
    assert zoo.load(path, into=other) is other and not other.training
    assert all(same(a, b) for a, b in zip(other.state_dict().values(), network.state_dict().values(), strict=True))
    with torch.device("meta"):
        empty = small()
    loaded = zoo.load(path, into=empty)
    assert loaded["head"].weight is loaded["embedding"].weight
    assert all(same(a, b) for a, b in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True))
    with pytest.raises(UnknownName, match="into=module"):
        zoo.load(path)


def test_a_mismatch_lists_what_is_wrong_and_names_the_nearest_network(tmp_path):
    path = tmp_path / "a.zoo"
    state = networks.build("lenet5-caffe:7").state_dict()
    state["fc2.extra"] = state.pop("fc2.bias")
    zoo.save(state, path)
    with pytest.raises(LayoutMismatch) as caught:
        zoo.load(path, into=networks.build("lenet5-caffe"))
    message = str(caught.value)
    assert "missing: fc2.bias" in message and "unexpected: fc2.extra" in message
    assert "fc2.weight (7, 500), expected (10, 500)" in message and "7 classes: use lenet5-caffe:7" in message


def test_a_file_of_a_network_of_this_zoo(tmp_path):
    torch.manual_seed(0)
    network, path = networks.build("lenet300-100:4").eval(), tmp_path / "a.zoo"
    zoo.save(network, path, name="lenet300-100:4", preprocessing="mnist", classes=["a", "b", "c", "Ünïcode d"], bits=6)
    again = zoo.load(path, dtype=torch.float64)
    assert again.fc1.weight.dtype == torch.float64 and (again.num_classes, again.input_size) == (4, (1, 28, 28))
    x = torch.rand(8, 1, 28, 28)
    torch.testing.assert_close(again(x.double()).float(), network(x), atol=0.1, rtol=0)
    assert zoo.classes(path) == ("a", "b", "c", "Ünïcode d")
    pixels = np.zeros((2, 28, 28), np.uint8)
    assert torch.equal(zoo.transforms(path)(pixels), zoo.preprocessing.preprocess("mnist")(pixels))
    info = zoo.info(path)
    assert (info.network, info.size_bytes, info.version) == ("lenet300-100:4", path.stat().st_size, 2)
    assert info.parameters == networks.spec("lenet300-100:4").parameters and info.ratio > 5
    with pytest.raises(UnknownName, match="no network is called"):
        zoo.save(network, path, name="lenet300"), zoo.load(path)


@pytest.mark.parametrize("name", ["timm/test_vit.r160_in1k:5", "timm/test_resnet:5", "torchvision/squeezenet1_1:5"])
def test_networks_of_other_libraries_come_back_as_modules(name, tmp_path):
    torch.manual_seed(0)
    network, path = named.build(name).eval(), tmp_path / "a.zoo"
    zoo.save(network, path, name=name, preprocessing=named.picture(name))
    again = zoo.load(path)
    assert type(again) is type(network) and again.num_classes == 5 and again.input_size[0] == 3
    x = torch.randn(1, 3, *again.input_size[1:])
    with torch.no_grad():
        assert torch.equal(again(x), network(x))
    assert zoo.transforms(path)([__import__("PIL.Image").Image.new("RGB", (300, 250))]).shape == x.shape


@pytest.mark.parametrize("name", [
    "timm/hf-hub:someone/model", "timm/local-dir:x", "timm/resnet9000", "torchvision/../x", "timm/resnet18:0", "os/system",
])  # fmt: skip
def test_no_name_that_a_library_does_not_list_reaches_it(name, tmp_path):
    with pytest.raises(UnknownName):
        named.build(name)
    zoo.save({"a": torch.ones(3)}, tmp_path / "a.zoo", name=name)
    with pytest.raises(UnknownName):
        zoo.load(tmp_path / "a.zoo")


def test_the_same_tensors_with_other_strides_are_refused(tmp_path):
    """ResNet-50 v1 and v1.5 have the same tensors: torchvision's would compute something else."""
    path = tmp_path / "a.zoo"
    with torch.device("meta"):
        shapes = networks.build("resnet50").state_dict()
        other = networks.build("resnet50-v1.5")
    zoo.save({name: torch.zeros(t.shape, dtype=t.dtype) for name, t in shapes.items()}, path, name="resnet50")
    with pytest.raises(LayoutMismatch, match=r"layer2.0.conv1.stride is \(1, 1\), in the file's network \(2, 2\)"):
        zoo.load(path, into=other)
    assert zoo.load(path).layer2[0].conv1.stride == (2, 2)


def test_version_1_files_give_their_state_dict(lenet_blob, tmp_path):
    path = tmp_path / "a.zoo"
    path.write_bytes(lenet_blob)
    state = zoo.load_state_dict(path)
    network = zoo.load(path)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert zoo.load(path, into=networks.build("lenet300-100")).fc1.weight.equal(network.fc1.weight)
    assert zoo.classes(path) == tuple("0123456789") and zoo.info(path).version == 1
    assert codec.read_header(lenet_blob).version == 1
