"""`zoo.save`: any network or state dict to a file that describes itself."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo import datasets, preprocessing, states
from zoo.codec import Picture
from zoo.files import write

if TYPE_CHECKING:
    from zoo.compress.calibration import Examples


def save(
    network: nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike,
    *,
    bytes: int | str | None = None,
    bits: float | None = None,
    step: float | None = None,
    name: str = "",
    preprocessing: str | preprocessing.Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    calibration: Examples | None = None,
) -> int:
    """Writes a network or state dict as a model file of version 2; returns its size in bytes.

    Without one of the first three every number comes back exactly, in about six sevenths of the space. With one of them
    the weights are rounded, where rounding is cheapest in bits for its error; everything else (biases, normalisation,
    integers, float64) is kept, float32 vectors to 12 significant bits.

    Args:
        network: a module, or names and tensors of any type; tied tensors are stored once.
        path: of the file; written whole or not at all.
        bytes: bound of the file, as a number or "2MB", "400kB"; it is filled to 97 % or more, or the file is exact.
        bits: the same as bits a number of the network, on average over the file.
        step: of the rounding, in units of the root mean square of each tensor.
        name: of the network, so that `zoo.load` builds it: a zoo name, "timm/NAME" or "torchvision/NAME".
        preprocessing: of its input, a name in `zoo.datasets.PREPROCESSINGS` or a `Preprocessing`; stored in the file.
        classes: their names, in the order of the outputs; stored in the file.
        calibration: inputs of the module, a few hundred (N, ...), for `bytes` or `bits`: the weights are then rounded by what
            errors in them do to the module's answers (`zoo.compress.modules`), which a few bits a number need.

    Raises ValueError for a bound that cannot be met and for weights that are not finite, TypeError for what is no tensor.
    """
    if sum(option is not None for option in (bytes, bits, step)) > 1:
        raise ValueError("give one of bytes, bits and step")
    if calibration is not None and (not isinstance(network, nn.Module) or (bytes is None and bits is None)):
        raise ValueError("calibration needs a module, and a bound: bytes or bits")
    state = states.check(network.state_dict() if isinstance(network, nn.Module) else network)
    facts = {"network": name, "picture": picture(preprocessing), "classes": tuple(classes or ())}
    if (bytes, bits, step) == (None, None, None):
        blob = states.pack(state, **facts)
    else:
        from zoo.compress import plain

        if step is not None:
            blob = plain.at_step(state, step, **facts)
        else:
            bound = plain.bound(state, bytes, bits)
            if calibration is None:
                blob = plain.within(state, bound, **facts)
            else:
                blob = _calibrated(network, calibration, state, bound, facts)
    write(Path(path), blob)
    return len(blob)


def _calibrated(network: nn.Module, examples: Examples, state: dict[str, torch.Tensor], bound: int, facts: dict) -> bytes:
    """The exact file where it fits, else that of second-order rounding."""
    from zoo.compress import modules, plain

    plain.refuse(state)
    exact = states.pack_within(state, bound, **facts)
    if exact is not None:
        return exact
    copied = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        return modules.compress(copied, state, examples, bound, Path(folder), facts=facts, tell=lambda text: None)


def picture(spec: str | preprocessing.Preprocessing | Picture | None) -> Picture | None:
    """A preprocessing, or its name, as a file holds it. Raises ValueError for a name that is not known."""
    if spec is None or isinstance(spec, Picture):
        return spec
    if isinstance(spec, str):
        spec = datasets.preprocessing(spec)
    return Picture(**{field: getattr(spec, field) for field in Picture.__dataclass_fields__})
