"""Tensors by name in a safetensors file that is there whole or not at all: what a stopped run goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from zoo.files import write


def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write(path, lambda file: safetensors.torch.save_file(contiguous, file.name))  # large ones, without a copy of the whole


def load(path: Path) -> dict[str, torch.Tensor]:
    """What `save` wrote. Raises FileNotFoundError where there is nothing."""
    return safetensors.torch.load_file(path)
