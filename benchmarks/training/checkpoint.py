"""Checkpoints: nested tensors and plain values in one safetensors file, with a checksum; the previous one is kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

PREVIOUS = "previous"  # marks the name of the checkpoint before the last one


class DamagedCheckpoint(ValueError):
    """The file is no checkpoint, is cut, or its checksum is that of another content."""


def save(path: Path, state: Any) -> None:
    """Writes dicts, lists, numbers, strings and tensors, whole or not at all; what was there stays as `previous(path)`."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_strip(state, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file(tensors, unfinished, metadata={"tree": tree, "sha256": _digest(tree, tensors)})
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    if path.exists():  # a second name for it, so that there is a checkpoint at every moment
        second = unfinished.with_suffix(".old.part")
        _link(path, second)
        os.replace(second, previous(path))
    os.replace(unfinished, path)


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(f"{path.stem}.{PREVIOUS}{path.suffix}")


def delete(path: Path) -> None:
    """Removes a checkpoint and the one before it."""
    for file in (path, previous(path)):
        file.unlink(missing_ok=True)


def load(path: Path, device: str | torch.device = "cpu") -> Any:
    """The state that `save` wrote, tensors on `device`, tuples as lists.

    Raises FileNotFoundError where there is none, `DamagedCheckpoint` where its content is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no dict
        tree = metadata["tree"]
        content = json.loads(tree)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is damaged, or no checkpoint: {error}") from error
    # Older checkpoints have no checksum.
    if "sha256" in metadata and metadata["sha256"] != _digest(tree, tensors):
        raise DamagedCheckpoint(f"{path} is damaged: its checksum is that of another content")
    return _fill(content, {name: tensor.to(device) for name, tensor in tensors.items()})


def latest(path: Path, device: str | torch.device = "cpu") -> Any | None:
    """The state from which training goes on: of `path`, or where that is damaged, of the one before; None where nothing is.

    Raises `DamagedCheckpoint` where neither is whole.
    """
    if not path.exists():
        return None
    try:
        return load(path, device)
    except DamagedCheckpoint as error:
        try:
            state = load(previous(path), device)
        except (FileNotFoundError, DamagedCheckpoint) as other:
            raise DamagedCheckpoint(f"{error}; {other}: there is nothing to go on from; --restart begins anew") from other
        tqdm.write(f"{error}; training goes on from {previous(path).name}", file=sys.stderr)
        return state


def _link(path: Path, name: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)


def _digest(tree: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the tree and, in the order of their names, of the tensors' bytes."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _strip(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().contiguous().clone()  # tensors that share memory are refused
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _strip(v, tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_strip(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value)}")


def _fill(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _fill(v, tensors) for key, v in content}
    return [_fill(v, tensors) for v in content]
