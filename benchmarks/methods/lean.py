"""LEAN: entropy-penalised reparameterisation that knows the price of a line.

    phi_hat float --round, straight through--> phi --times the tensor's step--> theta --> cross-entropy, teacher
       |                                        |
       |             counts of non-zeros by row, column, tensor --> price of every integer, as the coder `live` asks it
       `-- + lambda * slope of the interpolated price <---------------'

    unit without inputs or outputs for some time --> leaves the network: its row, its columns and its bias

It differs from EPR (Oktay et al. 2019) in four things. The rate is the length that the file's own coder will need, not
a learned density: a zero in a row or column that holds nothing is free, and a non-zero there pays for the whole line, so
that lines empty themselves. Units that have died leave training, which begins with as many as the recipe says. Each weight
tensor has a step of its own. A teacher is usual.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks import thin
from benchmarks.methods.epr import _Round
from zoo.codec import Coded, psi_round


class Lean(nn.Module):
    """The trainable side of one network's parameter groups.

    options: lambda (nats a bit), step (initial quantisation step), units ({space: how many units training begins with}),
    ramp (share of the steps in which lambda rises from zero), ema (decay of the average of phi that is stored),
    lines (integers that a row or column must hold to be believed half: the strength of the coder's prior), check (steps
    between looks for dead units), model (of the file's tables).
    """

    def __init__(self, network: nn.Module, partitioning, options: dict, steps: int):
        super().__init__()
        defaults = {
            "lambda": 1e-5, "step": 0.05, "units": {}, "ramp": 0.1, "settle": 0.6, "flat": 7.0, "ema": 0.999, "lines": 4.0,
            "check": 500, "model": "live", "every": 50, "apply": 2,
        }
        if unknown := set(options) - set(defaults):
            raise ValueError(f"LEAN does not know the options {sorted(unknown)}; it has {sorted(defaults)}")
        self.options, self.steps, self.partitioning = defaults | options, steps, partitioning
        weights, spaces = dict(network.named_parameters()), thin.spaces(partitioning.network)
        sizes = {where[0]: len(weights[name]) for name, where in spaces.items() if where[0]}
        if unknown := set(self.options["units"]) - set(sizes):
            raise ValueError(f"LEAN's units names {sorted(unknown)}; the spaces are {', '.join(sizes)}")
        self.units = {space: min(self.options["units"].get(space, n), n) for space, n in sizes.items()}
        self.tensors, parts, scales = [], [], 0
        for group in partitioning.groups:
            several = len(group.shapes) > 1 and all(len(shape) > 1 for shape in group.shapes)
            for t, (name, shape) in enumerate(zip(group.tensors, group.shapes, strict=True)):
                out, into = (*spaces[name], None)[:2]
                block = shape[1] // sizes[into] if into else 1
                theta = weights[name].detach()
                if out:
                    theta = theta[: self.units[out]]
                if into:
                    theta = theta[:, : self.units[into] * block] * math.sqrt(sizes[into] / self.units[into])
                scales += several or t == 0
                self.tensors.append(_Tensor(name, group.name, out, into, block, theta.shape, scales - 1))
                parts.append(theta.reshape(-1))
        flat = torch.cat(parts) / self.options["step"]
        self.phi = nn.Parameter(flat)
        self.log_scale = nn.Parameter(torch.full((scales,), math.log(self.options["step"])))
        self.register_buffer("mean", flat.clone())
        self.register_buffer("rise", torch.zeros_like(flat))
        self.register_buffer("tail", torch.ones_like(flat))
        self.register_buffer("slope", torch.zeros_like(flat))
        for space, n in self.units.items():
            self.register_buffer(f"alive_{space}", torch.ones(n, dtype=torch.bool))
        self.register_buffer("bits", torch.zeros(()))
        self._places = None

    def parameter_sets(self) -> list[dict]:
        return [
            {"optimizer": "main", "params": [self.phi], "unit": self.options["step"]},
            {"optimizer": "psi", "params": [self.log_scale]},
        ]

    def _index(self) -> dict[str, torch.Tensor | None]:
        """Numbers of the live units of each space; None where all live."""
        if self._places is None:
            alive = {space: getattr(self, f"alive_{space}") for space in self.units}
            self._places = {space: None if bool(a.all()) else a.nonzero()[:, 0] for space, a in alive.items()}
        return self._places

    def _split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The tensors that the flat vector holds, live rows and columns of each."""
        index, cut = self._index(), []
        for tensor, part in zip(self.tensors, flat.split([math.prod(t.shape) for t in self.tensors]), strict=True):
            part = part.reshape(tensor.shape)
            for side, space, block in ((0, tensor.out, 1), (1, tensor.into, tensor.block)):
                if space and index[space] is not None:
                    part = part.index_select(side, _columns(index[space], block))
            cut.append(part)
        return cut

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        scale = self.log_scale.exp()
        if averaged:
            scale = torch.from_numpy(psi_round(scale.detach().numpy()))
            phi = self.mean.round()
        else:
            phi = _Round.apply(self.phi)
        return {t.name: part * scale[t.scale] for t, part in zip(self.tensors, self._split(phi), strict=True)}

    @torch.no_grad()
    def regularise(self, step: int, generator: torch.Generator) -> None:
        if step % self.options["every"] == 0:
            self._price(step)
        if step % self.options["apply"] == 0:
            rate = self.options["lambda"] * min(1.0, (step + 1) / max(1.0, self.options["ramp"] * self.steps))
            torch.where(self.phi.abs() < 1, self.rise, self.tail, out=self.slope)
            self.slope.mul_((4 * self.phi).clamp_(-1, 1)).mul_(rate)
        self.phi.grad.add_(self.slope)

    def _price(self, step: int) -> None:
        """Bits that a non-zero costs over a zero, by row and column, and each step beyond 1."""
        s, total = self.options["lines"], 0.0
        settled = min(1.0, step / max(1.0, self.options["settle"] * self.steps))
        self.rise.fill_(0.0)
        places = self._split(torch.arange(len(self.phi)))
        for phi, place in zip(self._split(self.phi), places, strict=True):
            cut = phi.round().abs_()
            hit = (cut > 0).float()
            nonzero, magnitude = float(hit.sum()), float(cut.sum())
            stop = (nonzero + 1) / (magnitude + 2)  # of the geometric distribution of magnitudes
            tail = max(-math.log2(1 - stop), 0.2)
            if cut.dim() == 1:
                t = (nonzero + 0.5) / (len(cut) + 1)
                rise = torch.full_like(cut, math.log2((1 - t) / t))
                zeros = -math.log2(1 - t) * len(cut)
            else:
                hit = hit.reshape(*hit.shape[:2], math.prod(hit.shape[2:]))  # (O, I, P)
                rows, columns = hit.sum((1, 2)), hit.sum((0, 2))
                o, c, p = int((rows > 0).sum()), int((columns > 0).sum()), hit.shape[2]
                t = min((nonzero + 0.5) / (o * c * p + 1), 0.95)
                r = ((rows + s * t) / (c * p + s)).clamp(max=0.98)
                q = ((columns + s * t) / (o * p + s)).clamp(max=0.98)
                odds = (r / (1 - r))[:, None] * (q / (1 - q))[None] * ((1 - t) / t)
                rise = -odds.log2()
                zeros = float((odds[rows > 0][:, columns > 0] + 1).log2().sum()) * p
                rise = rise.reshape(*rise.shape, *[1] * (cut.dim() - 2)).expand_as(cut)
            rise = (rise + 1 - math.log2(stop)).clamp(max=16.0)
            total += zeros + float((rise * (cut > 0)).sum()) + (magnitude - nonzero) * tail
            rise = settled * rise + (1 - settled) * self.options["flat"]
            self.rise[place.reshape(-1)] = rise.clamp(min=2.0).reshape(-1)
            self.tail[place.reshape(-1)] = tail
        self.bits.fill_(total)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.mean.lerp_(self.phi, 1 - min(self.options["ema"], (1 + step) / (10 + step)))
        if (step + 1) % self.options["check"] == 0 and step > 2 * self.options["ramp"] * self.steps:
            self._bury()

    def _bury(self) -> None:
        """Units whose row or columns hold nothing, in phi and in its average, leave."""
        index = {space: getattr(self, f"alive_{space}").nonzero()[:, 0] for space in self.units}
        for tensor, phi, mean in zip(self.tensors, self._split(self.phi), self._split(self.mean), strict=True):
            if phi.dim() == 1:
                continue
            held = (phi.round() != 0) | (mean.round() != 0)
            held = held.reshape(*held.shape[:2], math.prod(held.shape[2:])).any(2)
            if tensor.out:
                getattr(self, f"alive_{tensor.out}")[index[tensor.out][~held.any(1)]] = False
            if tensor.into:
                empty = ~held.any(0).reshape(-1, tensor.block).any(1)
                getattr(self, f"alive_{tensor.into}")[index[tensor.into][empty]] = False
        self._places = None

    def load_state_dict(self, *args, **kwargs):
        self._places = None
        return super().load_state_dict(*args, **kwargs)

    def estimate(self) -> dict[str, float]:
        return {"bytes": float(self.bits) / 8, **{s: int(getattr(self, f"alive_{s}").sum()) for s in self.units}}

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Groups of the file: rounded averages, live units first, and steps at file precision."""
        parts, coded = dict(zip((t.name for t in self.tensors), self._split(self.mean.round()), strict=True)), {}
        scale = psi_round(self.log_scale.exp().numpy())
        for group in self.partitioning.groups:
            whole = []
            for name, shape in zip(group.tensors, group.shapes, strict=True):
                out = np.zeros(shape, np.int32)
                out[tuple(slice(n) for n in parts[name].shape)] = parts[name].to(torch.int32).numpy()
                whole.append(out.reshape(-1, 1))
            psi = {"scale": scale[sorted({t.scale for t in self.tensors if t.group == group.name})][:, None]}
            coded[group.name] = Coded("scalar", self.options["model"], np.concatenate(whole), psi)
        return coded


class _Tensor(NamedTuple):
    """Where a tensor of the flat vector belongs: spaces of its rows and columns, columns a unit, the number of its step."""

    name: str
    group: str
    out: str | None
    into: str | None
    block: int
    shape: tuple[int, ...]
    scale: int


def _columns(index: torch.Tensor, block: int) -> torch.Tensor:
    return index if block == 1 else (index[:, None] * block + torch.arange(block)).reshape(-1)


METHOD = Lean
