"""Vectors (BN, biases) as integers, with a step for each or one for all; and the shortest of several codings of a group."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from zoo import codec
from zoo.codec import Coded
from zoo.partitionings import Group


def shortest(group: Group, options: Iterable[Coded]) -> Coded:
    """The option that makes the shortest file; the first of equal ones."""
    return min(options, key=lambda option: len(codec.encode("", "", {group.name: option}, {group.name: group.shapes})))


def code(tensors: list[tuple[np.ndarray, float]], k: int, step_each: bool) -> Coded:
    """Tensors, given as (values, size), as multiples of a step: of 2^-k of each tensor's size, or of their geometric mean."""
    sizes = np.array([size for _, size in tensors])
    if not step_each:
        sizes = np.exp(np.log(sizes).mean(keepdims=True))
    steps = codec.psi_round(np.float32(sizes * 2.0**-k)[:, None])  # (T or 1, 1)
    step_of = np.broadcast_to(steps, (len(tensors), 1)).astype(np.float64)
    phi = np.concatenate([np.rint(values.reshape(-1) / step) for (values, _), step in zip(tensors, step_of, strict=True)])
    return Coded("scalar", "static", phi.astype(np.int32)[:, None], {"scale": steps})


def size(values: np.ndarray) -> float:
    """Root mean square of the values that are not zero; 1 where all are."""
    values = values[values != 0]
    return float(np.sqrt(np.mean(values * values))) if values.size else 1.0
