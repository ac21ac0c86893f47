"""HEMP: high-order entropy minimisation (Tartaglione et al. 2021).

    w --Lloyd-Max levels of the layer--> lower level a, fraction f --soft counts of n-grams--> H_n / n --> bits
      `--> task loss                    `--nearest--> Q(w) --> |w - Q(w)|^2

    loss = task + lambda * bits + lambda_r * |w - Q(w)|^2

A weight between two levels gives each of them the share of its unit of mass that a linear interpolation says, so n
consecutive weights of a lane (the order in which the codec's context model reads them) spread one n-gram over 2^n
joint cells. The counts, hence the entropy, are differentiable; their cost is linear in the number of weights. The
reconstruction term draws the weights to their levels, which are refitted while they move. `finish` stores the index of
each weight's level; the codec codes it given its n - 1 predecessors.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from benchmarks.methods import Method, ParameterSet
from benchmarks.methods.common import Fine, straight_through
from benchmarks.training.tables import Table
from zoo.codec import Coded, psi_round
from zoo.partitionings import Group

REFITS = 100  # Lloyd-Max iterations from evenly spaced levels


class Prune(Table):
    """Between two shares of the steps the smallest weights of all layers together become zero and remain it."""

    sparsity: float = Field(0.0, ge=0, lt=1)  # share of zeros at the end; above 0 it makes one level of each layer zero
    begin: float = 0.0
    end: float = 0.5
    every: int = Field(50, gt=0)  # steps between two choices of weights


class Options(Table):
    order: int = Field(1, ge=1)  # n of the n-grams
    lambda_: float = Field(1e-6, alias="lambda")  # nats a bit
    lambda_r: float = 1.0  # weight of the summed squares |w - Q(w)|^2
    ramp: float = 0.5  # share of the steps over which lambda_r grows linearly from 0
    levels: int | dict[str, int] = 9  # N of every layer, or of each by the name of its group
    forward: Literal["continuous", "quantised"] = "continuous"  # whether the task sees w or Q(w), gradients unchanged
    zero: bool = False  # whether one level is zero, whatever its cell's mean
    refit_every: int = Field(50, gt=0)  # steps between two updates of the levels
    # Share of the steps after which levels stay as they are, until one update at the end. The slope of the bits pulls the
    # weights of a cell towards one side; levels that followed their mean would drift into the next cell.
    refit_until: float = 0.5
    rate_every: int = Field(8, gt=0)  # steps for which the gradient of the bits is reused
    prune: Prune = Prune()
    bits: int = 8  # of the grid of the biases
    model: str = ""  # entropy model of the indices ("static", "context"); "": by the order


class HEMP(Method):
    """Weights and levels of one network; each group of the partitioning holds one weight tensor ("layers") or biases."""

    Options = Options

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        o, weights = self.options, dict(network.named_parameters())
        self.fine = Fine([group for group in self.groups if group.kind != "weight"], weights, o.bits)
        layers = [group for group in self.groups if group.kind == "weight"]
        if several := [group.name for group in layers if len(group.tensors) > 1]:
            raise ValueError(f"HEMP quantises layer by layer (partitioning \"layers\"); {several} hold several tensors")
        self.zero = o.zero or o.prune.sparsity > 0
        self.latents = nn.ModuleList()
        for group in layers:
            levels = o.levels[group.name] if isinstance(o.levels, dict) else o.levels
            self.latents.append(Latent(group, weights[group.tensors[0]].detach().clone(), levels, self.zero))
        self.register_buffer("bits", torch.zeros(len(layers)))

    def parameter_sets(self) -> list[ParameterSet]:
        return [ParameterSet([*(latent.theta for latent in self.latents), *self.fine.parameters()])]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """What the task sees, or with `averaged` the network that `finish` stores."""
        state = {}
        for latent in self.latents:
            name = latent.group.tensors[0]
            if averaged:
                state[name] = latent.stored_levels()[nearest(latent.theta.detach(), latent.levels).long()]
            elif self.options.forward == "quantised":
                state[name] = straight_through(latent.theta, quantise(latent.theta.detach(), latent.levels))
            else:
                state[name] = latent.theta
        return state | self.fine.weights(averaged)

    @torch.no_grad()
    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds the gradients of lambda * bits and of lambda_r * |w - Q(w)|^2 to that of the task.

        Slopes and targets Q(w) are renewed every `rate_every` steps and reused in between, which keeps the term cheap.
        """
        o = self.options
        if step % o.rate_every == 0:
            for i, latent in enumerate(self.latents):
                if o.lambda_:
                    lanes = latent.theta.reshape(len(latent.theta), -1)  # n-grams run through the inputs of one output
                    bits, slope = rate(lanes, latent.levels, o.order)
                    self.bits[i] = bits
                    latent.slope.copy_(slope.reshape(latent.slope.shape))
                latent.target.copy_(quantise(latent.theta, latent.levels))
        pull = 2 * o.lambda_r * min(1.0, (step + 1) / max(1.0, o.ramp * self.steps))
        for latent in self.latents:
            if o.lambda_:
                latent.theta.grad.add_(latent.slope, alpha=o.lambda_)
            if pull:
                latent.theta.grad.add_(latent.theta, alpha=pull).sub_(latent.target, alpha=pull)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Pruned weights stay zero; every `refit_every` steps one Lloyd-Max iteration from the last levels."""
        o = self.options
        if o.prune.sparsity:
            if step % o.prune.every == 0:
                self._prune(step)
            for latent in self.latents:
                latent.theta.mul_(latent.mask)
        due = (step + 1) % o.refit_every == 0 and step < o.refit_until * self.steps
        if due or step + 1 == self.steps:
            for latent in self.latents:
                latent.levels.copy_(lloyd_max(latent.theta, latent.levels, self.zero))

    def estimate(self) -> dict[str, float]:
        """Bytes of the soft entropy, and the squared distance to the levels in millionths of the weights' squares."""
        squares = sum(float((latent.theta.detach() - latent.target).square().sum()) for latent in self.latents)
        total = sum(float(latent.theta.detach().square().sum()) for latent in self.latents)
        return {"bytes": float(self.bits.sum()) / 8, "distance ppm": 1e6 * squares / max(total, 1e-30)}

    @property
    def bit_price(self) -> float:
        return self.options.lambda_

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Indices into the levels that are in use, and biases on their fine grid."""
        model = self.options.model or ("static" if self.options.order == 1 else "context")
        coded = self.fine.finish() | {latent.group.name: latent.coded(model) for latent in self.latents}
        return {group.name: coded[group.name] for group in self.groups}

    @torch.no_grad()
    def _prune(self, step: int) -> None:
        """Sets masks so that the scheduled share of all weights is zero (Zhu & Gupta 2017: the cube slows down late)."""
        prune = self.options.prune
        begin, end = prune.begin * self.steps, prune.end * self.steps
        if step < begin:
            return
        remaining = 1 - min(1.0, (step - begin) / max(1.0, end - begin))
        sparsity = prune.sparsity * (1 - remaining**3)
        sizes = torch.cat([latent.theta.abs().reshape(-1) for latent in self.latents])
        drop = int(sparsity * len(sizes))
        if not drop:
            return
        threshold = torch.kthvalue(sizes, drop).values
        for latent in self.latents:
            latent.theta.mul_(latent.mask.mul_(latent.theta.abs() > threshold))


class Latent(nn.Module):
    """The weights of one layer and their levels (N,), ascending.

    target: Q(w), and slope: d bits / d w, both as last computed; mask: 0 where a weight is pruned, else 1.
    """

    def __init__(self, group: Group, weights: torch.Tensor, count: int, zero: bool):
        super().__init__()
        self.group, self.theta = group, nn.Parameter(weights)
        levels = weights.min() + (weights.max() - weights.min()) * torch.linspace(0, 1, count)
        for _ in range(REFITS):
            levels = lloyd_max(weights, levels, zero)
        self.register_buffer("levels", levels)
        self.register_buffer("target", quantise(weights, levels))
        self.register_buffer("slope", torch.zeros_like(weights))
        self.register_buffer("mask", torch.ones_like(weights))

    def stored_levels(self) -> torch.Tensor:
        """Levels at file precision (bfloat16 values in float32)."""
        return torch.from_numpy(psi_round(self.levels.cpu().numpy())).to(self.levels.device)

    def coded(self, model: str) -> Coded:
        """Indices (n, 1) into the levels that are in use, and these levels."""
        used, phi = np.unique(nearest(self.theta, self.levels).reshape(-1).cpu().numpy(), return_inverse=True)
        codebook = self.stored_levels().cpu().numpy()[None, used]
        return Coded("codebook", model, phi.astype(np.int32)[:, None], {"codebook": codebook})


def rate(lanes: torch.Tensor, levels: torch.Tensor, order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bits of all weights, L * R times H_n / n of the soft joint frequencies, and d bits / d w.

    lanes: weights (L, R), n-grams run through R; levels: ascending (N,). An empty cell's slope is that of half an n-gram.
    """
    lower = _count_below(lanes, levels[1:-1])
    flat = lower.reshape(-1)
    slopes = (1 / torch.diff(levels)).index_select(0, flat).reshape(lanes.shape)  # d fraction / d w
    fraction = (lanes - levels.index_select(0, flat).reshape(lanes.shape)).mul_(slopes)
    slopes.mul_((fraction > 0) & (fraction < 1))  # no level beyond the last ones draws a weight
    fraction.clamp_(0, 1)
    entropy, slope = _gram_bits(lower, fraction, len(levels), order)
    factor = 1 / order * lanes.numel()
    return entropy * factor, slope.mul_(factor).mul_(slopes)


def _gram_bits(lower: torch.Tensor, fraction: torch.Tensor, levels: int, order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """H_n in bits an n-gram of soft counts, and its derivative with respect to each fraction."""
    rows = lower.shape[1] - order + 1
    if rows < 1:
        raise ValueError(f"lanes of {lower.shape[1]} weights hold no {order}-grams")
    grams = lower.shape[0] * rows
    upper = [fraction[:, j : j + rows] for j in range(order)]
    shares = [(1 - f, f) for f in upper]
    base = sum(lower[:, j : j + rows] * levels ** (order - 1 - j) for j in range(order))
    corners = []  # (cell of each n-gram, bits b_j: which neighbour of position j)
    counts = torch.zeros(levels**order, dtype=torch.float64, device=lower.device)
    for corner in range(2**order):
        chosen = [corner >> (order - 1 - j) & 1 for j in range(order)]
        cells = (base + sum(b * levels ** (order - 1 - j) for j, b in enumerate(chosen))).reshape(-1)
        mass = math.prod(shares[j][b] for j, b in enumerate(chosen)).reshape(-1)
        counts += torch.bincount(cells, weights=mass, minlength=len(counts))
        corners.append((cells, chosen))
    frequency = counts / grams
    logs = -torch.log2(frequency.clamp_min(0.5 / grams))
    bits = torch.special.entr(frequency).sum() / math.log(2)
    price = (logs / grams).to(fraction.dtype)  # d H / d count, up to a constant that moving mass cannot see
    slope = torch.zeros_like(fraction)
    for cells, chosen in corners:
        cell_price = price.index_select(0, cells).reshape(-1, rows)
        for j, b in enumerate(chosen):
            weights_of_others = math.prod((shares[k][c] for k, c in enumerate(chosen) if k != j), start=cell_price)
            slope[:, j : j + rows].add_(weights_of_others, alpha=1 if b else -1)
    return bits, slope


def lloyd_max(values: torch.Tensor, levels: torch.Tensor, zero: bool = False) -> torch.Tensor:
    """One iteration: each level becomes the mean of the values nearest to it; a level without any stays.

    Levels stay ascending, for a mean lies in its cell. With `zero`, the level nearest to zero becomes zero.
    """
    cells = nearest(values, levels).reshape(-1)
    sums = torch.bincount(cells, weights=values.reshape(-1), minlength=len(levels))
    counts = torch.bincount(cells, minlength=len(levels))
    means = torch.where(counts > 0, sums / counts.clamp_min(1), levels.to(sums.dtype)).to(levels.dtype)
    if zero:
        means[means.abs().argmin()] = 0.0
    return means


def nearest(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Index of the level nearest to each value: int32, of the values' shape."""
    return _count_below(values, (levels[1:] + levels[:-1]) / 2)


def quantise(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Q(w): each value's nearest level."""
    return levels.index_select(0, nearest(values, levels).reshape(-1)).reshape(values.shape)


def _count_below(values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """How many edges lie below each value: int32. What torch.bucketize counts, three times faster for a few edges."""
    if len(edges) > 32:
        return torch.bucketize(values, edges, out_int32=True)
    count = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for edge in edges.tolist():
        count += (values > edge).view(torch.uint8)
    return count.int()


METHOD = HEMP
