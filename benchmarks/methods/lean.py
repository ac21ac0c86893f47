"""LEAN: entropy-penalised reparameterisation that knows the price of a row and a column.

    phi_hat float --round, straight through--> phi --f, the tensor's step--> theta --> cross-entropy, teacher
       |                                        |
       |             counts of non-zeros by row, column, tensor --> price of each integer, as the coder `live` asks it
       `-- + lambda * slope of the price <--------------'

    unit whose row or columns hold nothing --> leaves the network for good: its row, its columns, its bias

It differs from EPR (Oktay et al. 2019) in its rate: not that of a learned density, but the length of the code in the file. In
that code a zero costs nothing if its row or column is empty, and a single integer in a row or column costs as much as the
whole line does. So lines become empty. The price of an integer k that is other than zero with the probability p

    bits(0) = -log2(1 - p)      bits(k) = -log2(p) + 1 - log2(s) - (|k| - 1) log2(1 - s)

is interpolated between integers. p follows from the counts of its row and column (`_odds`), s from the mean size. At first
most integers are other than zero, so that this price would be too low: training begins with a flat price and moves to this
one gradually. It may begin with fewer units than the network has (`units`). Each weight tensor has a step of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from benchmarks.methods import Method, ParameterSet
from benchmarks.methods.common import Averaged, straight_through
from benchmarks.training.tables import Table
from zoo import reparam
from zoo.codec import Coded, psi_round
from zoo.networks.spaces import spaces as spaces_of

DEAREST = 16.0  # bits: no price is higher


class Options(Table):
    lambda_: float = Field(1e-5, alias="lambda")  # nats a bit
    step: float = 0.1  # initial quantisation step
    units: dict[str, int] = {}  # space -> number of units with which training begins; all units of other spaces
    ramp: float = 0.1  # share of the steps in which lambda rises from zero
    flat: float = 7.0  # bits: the price of a non-zero at first, the same everywhere
    settle: float = Field(0.6, gt=0)  # share of the steps after which the price is that of the coder
    floor: float = 4.0  # bits: no weight other than zero is taken to cost less
    bias: float = 1.0  # bits: the price of a bias other than zero; at the flat price of weights all biases would become zero
    lines: float = 4.0  # the share of non-zeros in the whole tensor counts as so many integers of each row and column
    phi_ema: float = 0.999  # decay of the running average of phi
    price_every: int = Field(50, gt=0)  # steps for which prices hold
    slope_every: int = Field(2, gt=0)  # steps for which the rate's gradient is reused
    bury_every: int = Field(500, gt=0)  # steps between looks for dead units
    decoder: str = ""  # of all groups, where not the partitioning's
    model: str = "live"  # entropy model of the file


class TensorSlot(NamedTuple):
    """A tensor's place in the vector of latents.

    out, into: spaces of its rows and columns; block: latent columns of a unit; shape: of its latents; step: number of its
    quantisation step; pooled: whether the decoder is `pool:SIDE` and applies to it.
    """

    name: str
    group: str
    out: str | None
    into: str | None
    block: int
    shape: tuple[int, ...]
    step: int
    decoder: str
    pooled: bool


class Lean(Method):
    """All latents in one vector, the tensors one after another; a step for each weight tensor, one for all biases."""

    Options = Options

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        o, weights, spaces = self.options, dict(network.named_parameters()), spaces_of(partitioning.network)
        sizes = {where[0]: len(weights[name]) for name, where in spaces.items() if where[0]}
        if unknown := {space for space, n in o.units.items() if not 1 <= n <= sizes.get(space, 0)}:
            raise ValueError(f"LEAN's units for {sorted(unknown)} cannot be; the spaces have {sizes}")
        self.units = {space: o.units.get(space, n) for space, n in sizes.items()}
        self.slots: list[TensorSlot] = []
        latents, steps = [], 0
        for group in self.groups:
            decoder = o.decoder or group.decoder
            of_weights = all(len(shape) > 1 for shape in group.shapes)
            for t, (name, shape) in enumerate(zip(group.tensors, group.shapes, strict=True)):
                out, into = (*spaces[name], None)[:2]
                block = shape[1] // sizes[into] if into else 1
                theta = weights[name].detach()
                if out:
                    theta = theta[: self.units[out]]
                if into:  # fewer inputs, each the louder
                    theta = theta[:, : self.units[into] * block] * math.sqrt(sizes[into] / self.units[into])
                pooled = reparam.pools(decoder, shape)
                if pooled:
                    side = int(decoder.partition(":")[2]) // 2
                    theta = theta.reshape(len(theta), -1, side, 2, side, 2).mean((3, 5)).reshape(len(theta), -1) * 2
                    block = max(block // 4, 1)
                steps += of_weights or t == 0
                shape = tuple(theta.shape)
                self.slots.append(TensorSlot(name, group.name, out, into, block, shape, steps - 1, decoder, pooled))
                latents.append(theta.reshape(-1))
        flat = torch.cat(latents) / o.step
        self.phi = Averaged(flat)
        self.log_step = nn.Parameter(torch.full((steps,), math.log(o.step)))
        for name in ("rise", "tail", "slope"):  # bits of the first step from zero, and of each further one; nats a unit
            self.register_buffer(name, torch.zeros_like(flat))
        for space, n in self.units.items():
            self.register_buffer(f"alive_{space}", torch.ones(n, dtype=torch.bool))
        self.register_buffer("bits", torch.zeros(()))
        self._live = None  # numbers of the live units by space, derived from alive_*

    def parameter_sets(self) -> list[ParameterSet]:
        return [
            ParameterSet([self.phi.value], decay=True, weight_per_unit=self.options.step),
            ParameterSet([self.log_step], "psi"),
        ]

    def load_state_dict(self, *args, **kwargs):
        self._live = None
        return super().load_state_dict(*args, **kwargs)

    def _index(self) -> dict[str, torch.Tensor | None]:
        """Numbers of the live units of each space; None where all live."""
        if self._live is None:
            alive = {space: getattr(self, f"alive_{space}") for space in self.units}
            self._live = {space: None if bool(a.all()) else a.nonzero()[:, 0] for space, a in alive.items()}
        return self._live

    def _split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of the vector, cut down to the rows and columns of live units."""
        index, tensors = self._index(), []
        for slot, piece in zip(self.slots, flat.split([math.prod(slot.shape) for slot in self.slots]), strict=True):
            tensor = piece.reshape(slot.shape)
            for side, space, block in ((0, slot.out, 1), (1, slot.into, slot.block)):
                if space and index[space] is not None:
                    tensor = tensor.index_select(side, _columns(index[space], block))
            tensors.append(tensor)
        return tensors

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """Of live units alone: the networks of zoo.networks.spaces compute with any number of units."""
        step = self.log_step.exp()
        if averaged:
            step, phi = torch.from_numpy(psi_round(step.detach().cpu().numpy())).to(step.device), self.phi.mean.round()
        else:
            phi = straight_through(self.phi.value, self.phi.value.detach().round())
        theta = {}
        for slot, integers in zip(self.slots, self._split(phi), strict=True):
            scaled = integers * step[slot.step]
            theta[slot.name] = _spread(scaled, slot.decoder) if slot.pooled else scaled
        return theta

    @torch.no_grad()
    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds lambda times the slope of the interpolated price; near zero the slope fades, where its sign means nothing."""
        o, phi = self.options, self.phi.value
        if step % o.price_every == 0:
            self._price(min(1.0, step / (o.settle * self.steps)))
        if step % o.slope_every == 0:
            rate = o.lambda_ * min(1.0, (step + 1) / max(1.0, o.ramp * self.steps))
            torch.where(phi.abs() < 1, self.rise, self.tail, out=self.slope)
            self.slope.mul_((4 * phi).clamp_(-1, 1)).mul_(rate)
        phi.grad.add_(self.slope)

    def _price(self, settled: float) -> None:
        """Renews `rise`, `tail` and `bits` from what phi rounds to. settled: 0 for the flat price, 1 for the coder's."""
        o, total = self.options, 0.0
        places = self._split(torch.arange(len(self.phi.value), device=self.rise.device))
        self.rise.fill_(DEAREST)
        for phi, place in zip(self._split(self.phi.value.detach()), places, strict=True):
            sizes = phi.round().abs_()
            hit = sizes > 0
            nonzero, magnitude = float(hit.sum()), float(sizes.sum())
            stop = (nonzero + 1) / (magnitude + 2)
            tail = max(-math.log2(1 - stop), 0.2)
            odds = _odds(hit, o.lines)
            rise = (1 - math.log2(stop) - odds.log2()).clamp(max=DEAREST)
            rows, columns = (hit.any(1), hit.any(0)) if hit.dim() == 2 else (slice(None), slice(None))
            if hit.dim() > 2:
                flat = hit.flatten(2)
                rows, columns = flat.any(2).any(1), flat.any(2).any(0)
            cells = odds[rows][:, columns] if hit.dim() > 1 else odds
            total += float((1 + cells).log2().sum()) + float(rise[hit].sum()) + (magnitude - nonzero) * tail
            if hit.dim() > 1:
                price = (settled * rise + (1 - settled) * o.flat).clamp(min=o.floor)
            else:
                price = torch.full_like(rise, o.bias)
            self.rise[place.reshape(-1)] = price.reshape(-1)
            self.tail[place.reshape(-1)] = tail
        self.bits.fill_(total)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Updates the average of phi; removes dead units once lambda has had its full value for long."""
        self.phi.update(step, self.options.phi_ema)
        if (step + 1) % self.options.bury_every == 0 and step > 2 * self.options.ramp * self.steps:
            self._bury()

    def _bury(self) -> None:
        """Removes units whose row, or whose column, is zero in phi and in its average."""
        numbers = {space: getattr(self, f"alive_{space}").nonzero()[:, 0] for space in self.units}
        for slot, phi, mean in zip(self.slots, self._split(self.phi.value), self._split(self.phi.mean), strict=True):
            if phi.dim() == 1 or not phi.numel():
                continue
            occupied = ((phi.round() != 0) | (mean.round() != 0)).reshape(*phi.shape[:2], -1).any(2)
            if slot.out:
                getattr(self, f"alive_{slot.out}")[numbers[slot.out][~occupied.any(1)]] = False
            if slot.into:
                empty = ~occupied.any(0).reshape(-1, slot.block).any(1)
                getattr(self, f"alive_{slot.into}")[numbers[slot.into][empty]] = False
        self._live = None

    def estimate(self) -> dict[str, float]:
        """Bytes of the integers under the present prices, and the units that are left."""
        return {"bytes": float(self.bits) / 8, **{s: int(getattr(self, f"alive_{s}").sum()) for s in self.units}}

    @property
    def bit_price(self) -> float:
        return self.options.lambda_

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Rounded averages at the full size of the network, live units first."""
        integers, coded = self._split(self.phi.mean.round()), {}
        step = psi_round(self.log_step.exp().cpu().numpy())
        for group in self.groups:
            tensors, steps = [], []
            for slot, phi in zip(self.slots, integers, strict=True):
                if slot.group != group.name:
                    continue
                if slot.pooled:
                    phi = _first_of_blocks(phi, slot.decoder)
                out = np.zeros(group.shapes[len(tensors)], np.int32)
                out[tuple(map(slice, phi.shape))] = phi.to(torch.int32).cpu().numpy()
                tensors.append(out.reshape(-1, 1))
                steps.append(slot.step)
            psi = {"scale": step[sorted(set(steps))][:, None]}
            decoder = self.options.decoder or group.decoder
            coded[group.name] = Coded(decoder, self.options.model, np.concatenate(tensors), psi)
        return coded


def _odds(hit: torch.Tensor, lines: float) -> torch.Tensor:
    """Odds of being other than zero, for each place of a tensor, from those of its row, its column and the tensor.

    A line's share is that of its integers and of `lines` more like the tensor's; the tensor's counts live lines alone.
    """
    if hit.dim() == 1:
        share = (float(hit.sum()) + 0.5) / (len(hit) + 1)
        return torch.full(hit.shape, share / (1 - share), device=hit.device)
    counts = hit.flatten(2).float() if hit.dim() > 2 else hit[..., None].float()  # (O, I, P)
    rows, columns = counts.sum((1, 2)), counts.sum((0, 2))
    o, i, p = int((rows > 0).sum()), int((columns > 0).sum()), counts.shape[2]
    share = min((float(counts.sum()) + 0.5) / (o * i * p + 1), 0.95)
    of_row = ((rows + lines * share) / (i * p + lines)).clamp(max=0.98)
    of_column = ((columns + lines * share) / (o * p + lines)).clamp(max=0.98)
    odds = (of_row / (1 - of_row))[:, None] * (of_column / (1 - of_column)) * ((1 - share) / share)
    return odds.reshape(*odds.shape, *[1] * (hit.dim() - 2)).expand(hit.shape)


def _spread(theta: torch.Tensor, decoder: str) -> torch.Tensor:
    """(O, n) -> (O, 4 n): each weight for a block of 2 x 2 pixels of images of the decoder's side."""
    half = int(decoder.partition(":")[2]) // 2
    blocks = theta.reshape(len(theta), -1, half, 1, half, 1)
    return blocks.expand(-1, -1, -1, 2, -1, 2).reshape(len(theta), -1)


def _first_of_blocks(phi: torch.Tensor, decoder: str) -> torch.Tensor:
    """(O, n) -> (O, 4 n): each integer at the first pixel of its block, zeros at the others."""
    full = _spread(phi, decoder)
    half = int(decoder.partition(":")[2]) // 2
    full = full.reshape(len(phi), -1, half, 2, half, 2).clone()
    full[:, :, :, 1], full[..., 1] = 0, 0
    return full.reshape(len(phi), -1)


def _columns(index: torch.Tensor, block: int) -> torch.Tensor:
    """Columns of units that have `block` each."""
    return index if block == 1 else (index[:, None] * block + torch.arange(block, device=index.device)).reshape(-1)


METHOD = Lean
