"""LEAN: entropy-penalised reparameterisation (EPR) that knows what the coder `live` asks for a row and a column.

    phi of the start --300 steps of the densities alone--> densities as narrow as a sparse start is
    phi --learned density of each tensor--> slope of the rate --x price of row and column--> lambda * slope
     |                                                              |
     |--round--> zeros and others by row, by column, in the tensor -'
     |
     `--after training: units in the order of how much is left of each--> integers of the file

A density that knows the tensor alone takes every integer other than zero for equally dear. In the file, where masks say
which rows and columns live, and where probabilities follow from counts by row and column (FORMAT.md, "live"), the first one
of a line is dearer than that, and one more in a full line cheaper. The rest of the method is what a recipe can say of any:
a sparse start of which some units go at once (`warm_start`, `keep`), a teacher, one integer for 2 x 2 pixels (`pool:SIDE`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from benchmarks.methods.epr import EPR, rate
from benchmarks.methods.epr import Options as OfEPR
from zoo.codec import Coded
from zoo.networks.spaces import spaces
from zoo.partitionings import Partitioning


class Options(OfEPR):
    lines: float = Field(4.0, gt=0)  # integers of a row or column that weigh as much as what is known of the tensor
    weight: float = Field(1.0, ge=0)  # of what a line's price differs by; 0: EPR's slopes
    settle: float = Field(0.5, gt=0)  # share of the steps in which that weight rises from 0
    order: bool = True  # units stand in the file in the order of how much is left of them
    fit: int = Field(300, ge=0)  # steps of the densities alone before training: a wide one would fill a sparse start
    densities: Literal["group", "tensor"] = "tensor"
    model: str = "live"


class Lean(EPR):
    Options = Options

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(self.density.parameters(), lr=0.03)
        for _ in range(self.options.fit):
            optimizer.zero_grad()
            rate(self._rows_by_density(), self.density, self.options.noise, generator)
            optimizer.step()
        optimizer.zero_grad()

    def priced(self, slopes: list[torch.Tensor], step: int) -> list[torch.Tensor]:
        """Slopes between -1 and 1, where an integer is zero or not, times the line's price over the tensor's."""
        o = self.options
        weight = o.weight * min(1.0, step / (o.settle * self.steps))
        if not weight:
            return slopes
        shapes = [shape for latent in self.latents for shape in latent.group.shapes]
        with torch.no_grad():
            bits = self.density.bits(torch.tensor([-1.0, 0.0, 1.0], device=self.bits.device))  # (columns, 3)
        rises = ((bits[:, 0] + bits[:, 2]) / 2 - bits[:, 1]).split([rows.shape[1] for rows in self._rows_by_density()])
        priced = []
        for phi, slope, shape, rise in zip(self._rows_by_density(), slopes, shapes, rises, strict=True):
            if len(shape) > 1:
                cube = phi.round().reshape(*shape[:2], -1) != 0
                dearer = surplus(cube, o.lines).expand(cube.shape).reshape(phi.shape)
                factor = (1 + weight * dearer / rise.clamp(min=1.0)).clamp(0.25, 4.0)
                slope = torch.where(phi.abs() < 1, slope * factor, slope)
            priced.append(slope)
        return priced

    def finish(self) -> dict[str, Coded]:
        coded = super().finish()
        whole = len(self.groups) == len(self.partitioning.groups)  # BN's numbers of a unit are not the method's to move
        return in_order(self.partitioning, coded) if self.options.order and whole else coded


def in_order(partitioning: Partitioning, coded: Mapping[str, Coded]) -> dict[str, Coded]:
    """The same network with its units in another order: those with most integers other than zero stand first.

    Masks of live lines then cost next to nothing. Raises KeyError unless all groups of the partitioning are given.
    """
    listed, tensors = spaces(partitioning.network), {}
    for group in partitioning.groups:
        phi, begin = coded[group.name].phi, 0
        for name, shape in zip(group.tensors, group.shapes, strict=True):
            end = begin + int(np.prod(shape)) // phi.shape[1]
            tensors[name] = phi[begin:end].reshape(*shape[:2], -1) if len(shape) > 1 else phi[begin:end]
            begin = end
    sizes = {where[0]: len(tensors[name]) for name, where in listed.items() if where[0]}
    for space, size in sizes.items():
        sides = [(name, side) for name, where in listed.items() for side, s in enumerate(where) if s == space]
        left = np.zeros(size, np.int64)
        for name, side in sides:
            if len(listed[name]) > 1:
                left += np.count_nonzero(np.moveaxis(tensors[name], side, 0).reshape(size, -1), axis=1)
        order = np.argsort(-left, kind="stable")
        for name, side in sides:
            numbers = np.arange(tensors[name].shape[side]).reshape(size, -1)[order].reshape(-1)
            tensors[name] = tensors[name].take(numbers, axis=side)
    sorted_groups = {}
    for group in partitioning.groups:
        before = coded[group.name]
        phi = np.concatenate([tensors[name].reshape(-1, before.phi.shape[1]) for name in group.tensors])
        sorted_groups[group.name] = replace(before, phi=phi)
    return sorted_groups


def surplus(hit: torch.Tensor, lines: float) -> torch.Tensor:
    """Bits that an integer other than zero costs beyond the tensor's average: (O, I, 1) of hit (O, I, P).

    The odds of a place are the product of those of its row and of its column, over the tensor's (FORMAT.md 5.5); a line's
    share is that of its integers and of `lines` more like the tensor's.
    """
    o, i, p = hit.shape
    counts = hit.sum(2, dtype=torch.float32)
    share = (counts.sum() + 0.5) / (hit.numel() + 1)
    share = share.clamp(max=0.95)

    def odds(count: torch.Tensor, size: int) -> torch.Tensor:
        of_line = ((count + lines * share) / (size + lines)).clamp(max=0.98)
        return of_line / (1 - of_line)

    ratio = odds(counts.sum(1), i * p)[:, None] * odds(counts.sum(0), o * p) / (share / (1 - share)) ** 2
    return -ratio.log2()[..., None]


METHOD = Lean
