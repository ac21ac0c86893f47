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

import numpy as np
import torch
from torch import nn

from benchmarks.methods.plain import Fine
from zoo.codec import Coded, psi_round


class HEMP(nn.Module):
    """Weights and levels of one network; each group of the partitioning holds one weight tensor ("layers") or biases.

    options:
      order        n of the n-grams, any n >= 1
      lambda       nats a bit
      objective    "block": H_n / n as in the paper; "conditional": H_n - H_(n-1), what a context model pays
      lambda_r     weight of the summed squares |w - Q(w)|^2, reached linearly at the share `ramp` of the steps
      levels       N of every layer, or {group: N}
      along        "inputs": n-grams run through the inputs of one output (the flattened tensor); "outputs": through
                   the outputs of one input
      forward      "continuous": the task sees w; "quantised": it sees Q(w), gradients pass to w unchanged
      zero         whether one level is zero, whatever its cell's mean
      refit_every  steps between updates of the levels, up to the share `refit_until` of the steps, and at the end: later
                   each cell's mean follows the slope of the bits, and levels that follow the mean creep to the next one
      rate_every   steps for which the gradient of the bits is reused
      prune        {"sparsity", "begin", "end", "every"}: between two shares of the steps the smallest weights of all
                   layers together become zero and remain it, up to that sparsity; implies zero
      bits         grid of the biases, as in plain; model: of the indices ("static", "context", "": by the order)
    """

    def __init__(self, network: nn.Module, partitioning, options: dict, steps: int):
        super().__init__()
        self.options = {
            "order": 1, "lambda": 1e-6, "objective": "block", "lambda_r": 1.0, "ramp": 0.5, "levels": 9,
            "along": "inputs", "forward": "continuous", "zero": False, "refit_every": 50, "refit_until": 0.5,
            "rate_every": 8, "prune": {}, "bits": 8, "model": "",
        }  # fmt: skip
        if unknown := set(options) - set(self.options):
            raise ValueError(f"HEMP does not know the options {sorted(unknown)}; it has {sorted(self.options)}")
        self.options.update(options)
        choices = {"objective": ("block", "conditional"), "along": ("inputs", "outputs"), "forward": ("continuous", "quantised")}
        for name, allowed in choices.items():
            if self.options[name] not in allowed:
                raise ValueError(f"HEMP's {name} is one of {allowed}, found {self.options[name]!r}")
        self.prune = {"sparsity": 0.0, "begin": 0.0, "end": 0.5, "every": 50, **self.options["prune"]}
        self.steps = steps
        weights = dict(network.named_parameters())
        groups = [g for g in partitioning.groups if not g.name.startswith("bn.")]  # BN is folded and coded at the end
        self.order = [g.name for g in groups]
        self.groups = [g for g in groups if all(len(shape) > 1 for shape in g.shapes)]
        self.fine = Fine([g for g in groups if g not in self.groups], weights, self.options["bits"])
        if several := [g.name for g in self.groups if len(g.tensors) > 1]:
            raise ValueError(f"HEMP quantises layer by layer (partitioning \"layers\"); {several} hold several tensors")
        self.theta = nn.ParameterList(nn.Parameter(weights[g.tensors[0]].detach().clone()) for g in self.groups)
        zero = self.options["zero"] or self.prune["sparsity"] > 0
        for i, (group, theta) in enumerate(zip(self.groups, self.theta, strict=True)):
            count = self.options["levels"]
            count = count[group.name] if isinstance(count, dict) else count
            low, high = theta.detach().min(), theta.detach().max()
            levels = low + (high - low) * torch.linspace(0, 1, count)
            for _ in range(100):
                levels = lloyd_max(theta.detach(), levels, zero)
            self.register_buffer(f"levels_{i}", levels)
            self.register_buffer(f"target_{i}", quantise(theta.detach(), levels))
            self.register_buffer(f"slope_{i}", torch.zeros_like(theta))
            self.register_buffer(f"mask_{i}", torch.ones_like(theta))
        self.zero = zero
        self.register_buffer("bits", torch.zeros(len(self.groups)))

    def parameter_sets(self) -> list[dict]:
        return [{"optimizer": "main", "params": [*self.theta, *self.fine.parameters()]}]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """State-dict name -> theta: what the task sees, or with `averaged` the network that `finish` stores."""
        theta = {}
        for i, group in enumerate(self.groups):
            w, levels = self.theta[i], getattr(self, f"levels_{i}")
            if averaged:
                theta[group.tensors[0]] = self.stored_levels(i)[nearest(w.detach(), levels).long()]
            elif self.options["forward"] == "quantised":
                theta[group.tensors[0]] = _Replace.apply(w, quantise(w.detach(), levels))
            else:
                theta[group.tensors[0]] = w
        return theta | self.fine.weights(averaged)

    @torch.no_grad()
    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds the gradients of lambda * bits and of lambda_r * |w - Q(w)|^2 to that of the task.

        Slopes and targets Q(w) are renewed every `rate_every` steps and reused in between, which keeps the term cheap.
        """
        o = self.options
        if step % o["rate_every"] == 0:
            for i, theta in enumerate(self.theta):
                levels = getattr(self, f"levels_{i}")
                if o["lambda"]:
                    bits, slope = rate(self.lanes(theta), levels, o["order"], o["objective"])
                    self.bits[i] = bits
                    getattr(self, f"slope_{i}").copy_(self.lanes(slope, theta.shape))
                getattr(self, f"target_{i}").copy_(quantise(theta, levels))
        pull = 2 * o["lambda_r"] * min(1.0, (step + 1) / max(1.0, o["ramp"] * self.steps))
        for i, theta in enumerate(self.theta):
            if o["lambda"]:
                theta.grad.add_(getattr(self, f"slope_{i}"), alpha=o["lambda"])
            if pull:
                theta.grad.add_(theta, alpha=pull).sub_(getattr(self, f"target_{i}"), alpha=pull)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Pruned weights stay zero; every `refit_every` steps one Lloyd-Max iteration from the last levels."""
        if self.prune["sparsity"]:
            if step % self.prune["every"] == 0:
                self._prune(step)
            for i, theta in enumerate(self.theta):
                theta.mul_(getattr(self, f"mask_{i}"))
        due = (step + 1) % self.options["refit_every"] == 0 and step < self.options["refit_until"] * self.steps
        if due or step + 1 == self.steps:
            for i, theta in enumerate(self.theta):
                levels = getattr(self, f"levels_{i}")
                levels.copy_(lloyd_max(theta, levels, self.zero))

    def lanes(self, tensor: torch.Tensor, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """A weight tensor as (lanes, rows), the n-grams running through the last dimension; with `shape`, back again."""
        if shape is None:
            matrix = tensor.reshape(tensor.shape[0], -1)
            return matrix if self.options["along"] == "inputs" else matrix.T.contiguous()
        return (tensor if self.options["along"] == "inputs" else tensor.T).reshape(shape)

    def estimate(self) -> dict[str, float]:
        """Bytes of the soft entropy, and the squared distance to the levels in millionths of the weights' squares."""
        squares = sum(float((t.detach() - getattr(self, f"target_{i}")).square().sum()) for i, t in enumerate(self.theta))
        total = sum(float(t.detach().square().sum()) for t in self.theta)
        return {"bytes": float(self.bits.sum()) / 8, "distance ppm": 1e6 * squares / max(total, 1e-30)}

    def stored_levels(self, i: int) -> torch.Tensor:
        """Levels (N,) of group i at file precision (bfloat16 values in float32)."""
        levels = getattr(self, f"levels_{i}")
        return torch.from_numpy(psi_round(levels.cpu().numpy())).to(levels.device)

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Groups of the file: indices into the levels that are in use, and biases on their fine grid."""
        model = self.options["model"] or ("static" if self.options["order"] == 1 else "context")
        coded = {}
        for i, group in enumerate(self.groups):
            indices = nearest(self.theta[i], getattr(self, f"levels_{i}")).reshape(-1).cpu().numpy()
            used, phi = np.unique(indices, return_inverse=True)
            codebook = self.stored_levels(i).cpu().numpy()[used]
            coded[group.name] = Coded("codebook", model, phi.astype(np.int32)[:, None], {"codebook": codebook[None]})
        coded |= self.fine.finish()
        return {name: coded[name] for name in self.order}

    @torch.no_grad()
    def _prune(self, step: int) -> None:
        """Sets masks so that the scheduled share of all weights is zero (Zhu & Gupta 2017: the cube slows down late)."""
        begin, end = self.prune["begin"] * self.steps, self.prune["end"] * self.steps
        if step < begin:
            return
        left = 1 - min(1.0, (step - begin) / max(1.0, end - begin))
        sparsity = self.prune["sparsity"] * (1 - left**3)
        sizes = torch.cat([theta.abs().reshape(-1) for theta in self.theta])
        drop = int(sparsity * len(sizes))
        if not drop:
            return
        threshold = torch.kthvalue(sizes, drop).values
        for i, theta in enumerate(self.theta):
            theta.mul_(getattr(self, f"mask_{i}").mul_(theta.abs() > threshold))


def rate(lanes: torch.Tensor, levels: torch.Tensor, order: int, objective: str = "block") -> tuple[torch.Tensor, torch.Tensor]:
    """Bits of all weights and d bits / d w.

    lanes: weights (L, R), n-grams run through R; levels: ascending (N,). Bits are L * R times H_n / n ("block") or
    H_n - H_(n-1) ("conditional") of the soft joint frequencies. An empty cell's slope is that of half an n-gram.
    """
    lower = _count_below(lanes, levels[1:-1])
    flat = lower.reshape(-1)
    slopes = (1 / torch.diff(levels)).index_select(0, flat).reshape(lanes.shape)  # d fraction / d w
    fraction = (lanes - levels.index_select(0, flat).reshape(lanes.shape)).mul_(slopes)
    slopes.mul_((fraction > 0) & (fraction < 1))  # no level beyond the last ones draws a weight
    fraction.clamp_(0, 1)
    if objective == "block" or order == 1:
        terms = [(order, 1 / order)]
    else:
        terms = [(order, 1.0), (order - 1, -1.0)]
    bits, slope = torch.zeros((), dtype=torch.float64, device=lanes.device), torch.zeros_like(lanes)
    for n, factor in terms:
        value, own = _gram_bits(lower, fraction, len(levels), n)
        bits += factor * lanes.numel() * value
        slope.add_(own, alpha=factor * lanes.numel())
    return bits, slope.mul_(slopes)


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
        own = price.index_select(0, cells).reshape(-1, rows)
        for j, b in enumerate(chosen):
            others = math.prod((shares[k][c] for k, c in enumerate(chosen) if k != j), start=own)
            slope[:, j : j + rows].add_(others, alpha=1 if b else -1)
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


class _Replace(torch.autograd.Function):
    """Another value with the same gradient (straight-through)."""

    @staticmethod
    def forward(context, w: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


METHOD = HEMP
