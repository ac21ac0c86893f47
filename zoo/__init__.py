"""A zoo of entropy-coded neural networks: from a file of a few kilobytes to a ready torch module.

    import zoo

    zoo.list_models("lenet*")                     # ids
    zoo.info("lenet5-caffe-sq").top1_error        # percent, re-derived from the file by `zoo verify`
    network = zoo.load("lenet5-caffe-sq")         # torch.nn.Module in eval mode, the same bits on every machine
    batch = zoo.transforms("lenet5-caffe-sq")(image)
    zoo.classes("lenet5-caffe-sq")[network(batch).argmax()]

Importing this package is cheap: torch is imported by the first call that needs it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.errors import CorruptArtifact, ZooError

if TYPE_CHECKING:
    import torch

    from zoo.codec import Coded, Header
    from zoo.loading import File
    from zoo.measurement import measure
    from zoo.records import Entry
    from zoo.saving import save

__all__ = [
    "Entry", "ZooError", "classes", "decode", "encode", "from_bytes", "info", "list_models", "load", "load_state_dict",
    "measure", "save", "transforms",
]  # fmt: skip


def load(
    name_or_path: str | os.PathLike,
    *,
    compact: bool = False,
    into: torch.nn.Module | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> torch.nn.Module:
    """The network of an entry, or of a model file at a path, in eval mode on the CPU. Needs no network connection.

    With `compact` it comes without the channels that cannot change its answers, which equal those of the whole network
    but for rounding: see `zoo.compact`. Its state dict is then smaller, and it is often several times faster.

    The network can be fine-tuned. Batch normalisation that a file holds folded, as a scale and a bias for each channel, is
    frozen, so that `.train()` changes no answer (`zoo.networks.frozen`).

    A file that names no network needs a module to go `into`, which is filled and returned. `device` and `dtype` are those of
    the weights. The result has `num_classes` and `input_size` (C, H, W) where the network is known.

    Raises `UnknownModel` with the nearest ids, `CorruptArtifact` or a subclass when the file is not what it should be;
    `LayoutMismatch` with what is missing, unexpected or of another shape in `into`.
    """
    entry = registry.locate(name_or_path)  # unknown name: error with the nearest names
    blob = registry.read(entry)  # length and digest checked
    return from_bytes(blob, compact=compact, into=into, device=device, dtype=dtype)


def from_bytes(
    blob: bytes,
    *,
    compact: bool = False,
    into: torch.nn.Module | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> torch.nn.Module:
    """The network in the bytes of a model file, as `load` returns it. Raises `CorruptArtifact` or a subclass."""
    from zoo import loading

    return loading.module(blob, compact, into, device, dtype)


def load_state_dict(name_or_path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of an entry or of a model file by name, as they were saved; tied names share one tensor.

    Raises `UnknownModel`, `CorruptArtifact` or a subclass.
    """
    from zoo import loading

    return loading.state_dict(registry.read(registry.locate(name_or_path)))


def list_models(pattern: str = "*") -> list[str]:
    """Sorted ids of the entries that match a shell pattern."""
    return registry.ids(pattern)


def info(name_or_path: str | os.PathLike) -> Entry | File:
    """The record of an entry, read-only; for a model file without a record what the file says of itself.

    Raises `UnknownModel` with the nearest ids, `CorruptArtifact` for a record or file that cannot be read.
    """
    source = registry.described(name_or_path)
    if not isinstance(source, Path):
        return source
    from zoo import loading

    return loading.describe(source, registry.read(source))


def transforms(name_or_path: str | os.PathLike) -> Callable[..., torch.Tensor]:
    """The function that turns pictures into an entry's input, float32 (N, C, H, W), as in the entry's evaluation.

    It takes a PIL image, a list of them, or a uint8 batch: see `zoo.preprocessing.preprocess`.
    Raises as `info` does, `CorruptArtifact` for a record with a preprocessing that is not known, and `ZooError` for a file
    that says nothing of its pictures.
    """
    from zoo.preprocessing import preprocess

    source = registry.described(name_or_path)
    if not isinstance(source, Path):
        return _by_record(source, lambda entry: preprocess(entry.preprocessing))
    file = info(source)
    if file.preprocessing is None:
        raise ZooError(f"{source} does not say what its pictures go through: zoo.save(..., preprocessing=...) writes it")
    return preprocess(file.preprocessing)


def classes(name_or_path: str | os.PathLike) -> tuple[str, ...]:
    """Names of an entry's classes, in the order of its outputs.

    Raises as `info` does, `CorruptArtifact` for a record with a data set that is not known, and `ZooError` for a file that
    names no classes.
    """
    from zoo import datasets

    source = registry.described(name_or_path)
    if not isinstance(source, Path):
        return _by_record(source, lambda entry: datasets.classes(entry.dataset))
    file = info(source)
    if not file.classes:
        raise ZooError(f"{source} names no classes: zoo.save(..., classes=[...]) writes them")
    return file.classes


def _by_record(entry: Entry, use: Callable[[Entry], Any]):
    """The result of `use` for an entry; raises `CorruptArtifact` if the record holds a name that is not known."""
    try:
        return use(entry)
    except ValueError as error:
        raise CorruptArtifact(f"the record of {entry.id} is wrong: {error}") from error


def encode(network: str, partitioning: str, groups: Mapping[str, Coded]) -> bytes:
    """The model file of a network from its coded groups: `zoo.codec.encode` with the layout filled in.

    groups: for each group of the partitioning, in its order, phi int32 (d, l) and psi as in `zoo.reparam.psi_shapes`.

    Raises `UnknownName` for a network, partitioning, decoder or model, `LayoutMismatch` for groups or shapes that are not
    the network's, `TypeError` for phi that is not int32, `ValueError` for a psi that is not finite (or 2^64 and more).
    """
    from zoo import codec, partitionings

    target = partitionings.get(network, partitioning)
    return codec.encode(target.network, partitioning, groups, {group.name: group.shapes for group in target.groups})


def decode(blob: bytes) -> tuple[Header, dict[str, Coded]]:
    """What a model file holds, as integers phi (d, l) for each group: `zoo.codec.decode` with the layout filled in.

    Raises `CorruptArtifact` or a subclass.
    """
    from zoo import codec, partitionings

    return codec.decode(blob, partitionings.layout)


_MODULES = (
    "codec", "compact", "compress", "datasets", "evidence", "measurement", "networks", "partitionings", "preprocessing",
    "records", "reparam", "verify",
)  # fmt: skip
_ELSEWHERE = {"Entry": "zoo.records", "measure": "zoo.measurement", "save": "zoo.saving"}


def __getattr__(name: str):  # modules and functions that import numpy or torch, on first use
    if name in _MODULES:
        return importlib.import_module(f"zoo.{name}")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    if name == "__version__":
        from importlib import metadata

        return metadata.version("entropy-coded-zoo")
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
