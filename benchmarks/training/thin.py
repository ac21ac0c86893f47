"""Training a network without some of its channels: several times faster, while the file still decodes to all of it.

    full network --scores--> kept channels of each space --remove--> thin network --method--> its groups, coded
                                                `------------------------------------expand--> groups of the full network

In the file, a removed channel has weights, BN scale and bias of zero, so the full network computes what the thin one does.
The order of channels is free: the kept ones stand first, and the zeros of the others then cost next to nothing. What a
*space* is: zoo/networks/spaces.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from benchmarks.training.batches import Batch
from zoo import networks
from zoo.codec import Coded
from zoo.compact import Kept
from zoo.networks import spaces as listing
from zoo.partitionings import Partitioning

THIN = ("lenet300-100", "lenet5-caffe", "vgg16", "resnet20-4")  # networks that are trained without some of their channels
WITHIN = listing.WITHIN["resnet20-4"]


def spaces(network: str) -> Mapping[str, tuple[str | None, ...]]:
    """The spaces of the network's tensors, as `zoo.networks.spaces` lists them.

    Raises ValueError for networks that cannot be trained thin.
    """
    if networks.spec(network).base not in THIN:
        raise ValueError(f"the channels of {network} are not listed in THIN: it cannot be trained thin")
    return listing.spaces(network)


def scores(network: str, module: nn.Module, batches: Iterable[Batch], loss: Callable) -> dict[str, torch.Tensor]:
    """Importance of each channel of each space: how much the loss changes without it, to first order, squared.

    A gate is a factor of 1 on the BN output of a channel (or on a neuron, or on a convolution's output where there is no
    BN). The squares of the loss's derivatives by it are summed over batches and over the layers of a space (Molchanov et
    al. 2019, section 3.2, "gate").
    """
    gates = {name.rpartition(".")[0]: where[0] for name, where in spaces(network).items() if where[0]}
    normalised = any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    gated = (nn.Linear, nn.BatchNorm2d if normalised else nn.Conv2d)
    gates = {layer: s for layer, s in gates.items() if isinstance(module.get_submodule(layer), gated)}
    total: dict[str, torch.Tensor] = {}
    module.train()
    for images, labels in batches:
        module.zero_grad()
        loss(module(images), labels).backward()
        for layer, space in gates.items():
            parameters = module.get_submodule(layer).parameters()
            slope = sum((p.detach() * p.grad).double().reshape(len(p), -1).sum(1) for p in parameters)
            total[space] = total.get(space, 0) + slope**2
    module.zero_grad(set_to_none=True)
    return total


def choose(scores: dict[str, torch.Tensor], counts: dict[str, int]) -> Kept:
    """The channels of highest score. counts: how many of each space stay, by name or pattern; all of a space that is not named.

    Channels of score zero are dead and never stay. Raises ValueError for a count that no space has.
    """
    unknown = [pattern for pattern in counts if not any(fnmatchcase(space, pattern) for space in scores)]
    if unknown:
        raise ValueError(f"keep names {unknown}; the network has the spaces {', '.join(scores)}")
    kept: Kept = {}
    for space in sorted(scores, key=lambda s: (s in WITHIN, s)):  # stage1 before stage2 before stage3
        score = scores[space].clone()
        count = next((c for pattern, c in counts.items() if fnmatchcase(space, pattern)), len(score))
        if not 1 <= count <= len(score):
            raise ValueError(f"keep asks for {count} channels of {space}, which has {len(score)}")
        first = WITHIN.get(space)
        if first is not None:  # exactly what the space before has kept, and the best of the rest
            score[: len(scores[first])] = 0.0
            score[kept[first]] = torch.inf
        order = score.argsort(descending=True, stable=True)[:count]
        kept[space] = order[score[order] > 0].sort().values
        if first is not None and len(kept[space]) < len(kept[first]):
            raise ValueError(f"{space} must keep at least the {len(kept[first])} channels of {first}")
    return kept


def partitioning(full: Partitioning, kept: Kept) -> Partitioning:
    """The same groups with the shapes of the thin network."""
    spaces_of, counts = spaces(full.network), listing.widths(full.network)

    def thin(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        sides = [side // counts[s] * len(kept[s]) if s else side for s, side in zip(spaces_of.get(name, ()), shape, strict=False)]
        return (*sides, *shape[len(sides) :])

    groups = [replace(g, shapes=tuple(thin(t, s) for t, s in zip(g.tensors, g.shapes, strict=True))) for g in full.groups]
    constants = {name: (value, thin(name, shape)) for name, (value, shape) in full.constants.items()}
    return replace(full, groups=tuple(groups), constants=constants)


def expand(full: Partitioning, kept: Kept, coded: dict[str, Coded]) -> dict[str, Coded]:
    """Groups of the thin network -> of the full one: the integer of the weight 0 for what was removed.

    Raises ValueError for groups that have no such integer: codebooks without an entry 0, floats, shifts.
    """
    spaces_of, thin_partitioning = spaces(full.network), partitioning(full, kept)
    groups, places, counts = {}, _places(full.network, kept), listing.widths(full.network)
    for group, thin in zip(full.groups, thin_partitioning.groups, strict=True):
        group_coded, zero = coded[group.name], _zero(group.name, coded[group.name])
        l, start, rows = group_coded.phi.shape[1], 0, []
        for name, shape, cut in zip(group.tensors, group.shapes, thin.shapes, strict=True):
            count = int(np.prod(cut)) // l
            sides = len(spaces_of[name])
            out = np.full(shape, zero, group_coded.phi.dtype).reshape(*shape[:sides], -1)
            index = [_numbers(n, places.get(s), counts.get(s)) for s, n in zip(spaces_of[name], shape, strict=False)]
            out[np.ix_(*index)] = group_coded.phi[start : start + count].reshape(*cut[:sides], -1)
            rows.append(out.reshape(-1, l))
            start += count
        groups[group.name] = replace(group_coded, phi=np.concatenate(rows))
    return groups


def _numbers(side: int, places: np.ndarray | None, count: int | None) -> np.ndarray:
    """Places in a side of a tensor: those of the channels that it reads or makes, `count` in the full network; else all."""
    if places is None:
        return np.arange(side)
    return np.arange(side).reshape(count, -1)[places].reshape(-1)  # a dense layer reads several numbers of each map


def _zero(name: str, coded: Coded) -> int:
    """The integer that stands for the weight 0."""
    if coded.decoder == "codebook":
        entries = np.flatnonzero((coded.psi["codebook"] == 0).all(0))
        if len(entries):
            return int(entries[0])
        raise ValueError(f"group {name}: no entry of its codebook is the weight 0, which stands for what was removed")
    if coded.decoder == "float32" or "shift" in coded.psi:
        raise ValueError(f"group {name}: no integer is the weight 0 under {coded.decoder}; it cannot be expanded")
    return 0


def _places(network: str, kept: Kept) -> dict[str, np.ndarray]:
    """Where the channels of the thin network stand in the full one: first, or behind those of the space before."""
    places = {space: np.arange(len(channels)) for space, channels in kept.items()}
    widths = listing.widths(network)
    for space, first in WITHIN.items():  # in order: a stage begins with the channels of the one before
        if space in kept:
            added = len(kept[space]) - len(kept[first])
            places[space] = np.concatenate([places[first], widths[first] + np.arange(added)])
    return places
