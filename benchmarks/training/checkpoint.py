"""Nested states of tensors and plain values in one safetensors file: no pickle, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save(path: Path, state: Any) -> None:
    """Writes dicts, lists, numbers, strings and tensors; the file is there whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_strip(state, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file(tensors, part, metadata={"tree": tree})
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def load(path: Path, device: str | torch.device = "cpu") -> Any:
    """The state that `save` wrote, tensors on `device`, tuples as lists. Raises FileNotFoundError where there is none."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        return _fill(json.loads(file.metadata()["tree"]), file)


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


def _fill(value: Any, file) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "dict":
        return {key: _fill(v, file) for key, v in content}
    return [_fill(v, file) for v in content]
