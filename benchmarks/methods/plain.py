"""Plain training: the uncompressed references that other methods start from and are compared with.

    theta --loss--> gradients       average of theta over the steps --round to a fine step--> phi

The parameters are the weights themselves. Their running average is stored in `bits` bits a weight at most, far finer
than anything that a test set can see: what the file costs beside a compressed entry is the point of comparison.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from zoo.codec import Coded, psi_round


class Plain(nn.Module):
    """One trainable tensor for each tensor of the network.

    options: ema (decay of the average that is stored), bits (of the finest scalar grid: 2^(bits-1) steps reach each
    group's largest weight), step (fixes the step instead; a number, or one for each group by name).
    Weight decay (optimizer.weight_decay of the recipe) acts on weights, not on biases.
    """

    def __init__(self, network: nn.Module, partitioning, options: dict, steps: int):
        super().__init__()
        defaults = {"ema": 0.999, "bits": 10, "step": None}
        if unknown := set(options) - set(defaults):
            raise ValueError(f"plain does not know the options {sorted(unknown)}; it has {sorted(defaults)}")
        self.options = defaults | options
        weights = dict(network.named_parameters())
        self.groups = [g for g in partitioning.groups if not g.name.startswith("bn.")]  # BN is folded and coded at the end
        self.names = [name for group in self.groups for name in group.tensors]
        self.theta = nn.ParameterList(nn.Parameter(weights[name].detach().clone()) for name in self.names)
        for i, theta in enumerate(self.theta):
            self.register_buffer(f"mean_{i}", theta.detach().clone())

    def parameter_sets(self) -> list[dict]:
        """Weights, which decay, and one-dimensional tensors, which do not; both under the recipe's optimiser."""
        return [
            {"optimizer": "main", "params": [p for p in self.theta if p.dim() > 1], "decay": True},
            {"optimizer": "main", "params": [p for p in self.theta if p.dim() <= 1]},
        ]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """State-dict name -> theta; `averaged` gives the rounded averages that `finish` stores."""
        if not averaged:
            return dict(zip(self.names, self.theta, strict=True))
        return {name: rows.mul(step).reshape(shape) for _, step, rows, name, shape in self._rounded()}

    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Nothing: the reference pays for no bits."""

    def after_step(self, step: int) -> None:
        """The running average of theta, warmed up so that early steps are forgotten."""
        decay = min(self.options["ema"], (1 + step) / (10 + step))
        with torch.no_grad():
            for i, theta in enumerate(self.theta):
                getattr(self, f"mean_{i}").lerp_(theta, 1 - decay)

    def estimate(self) -> dict[str, float]:
        return {}

    def finish(self) -> dict[str, Coded]:
        """Groups of the file: rounded averages under one scalar step a group, at file precision."""
        phi: dict[str, list] = {}
        steps = {}
        for group, step, rows, _, _ in self._rounded():
            phi.setdefault(group, []).append(rows.to(torch.int32).cpu().numpy())
            steps[group] = step
        return {g: scalar(np.concatenate(rows), steps[g]) for g, rows in phi.items()}

    @torch.no_grad()
    def _rounded(self):
        """(group, step, integers as floats (d, 1), tensor name, shape) of every tensor."""
        means = {name: getattr(self, f"mean_{i}") for i, name in enumerate(self.names)}
        step = self.options["step"]
        for group in self.groups:
            own = step.get(group.name) if isinstance(step, dict) else step
            fine = fine_step([means[name] for name in group.tensors], self.options["bits"], own)
            for name, shape in zip(group.tensors, group.shapes, strict=True):
                yield group.name, fine, means[name].div(fine).round().reshape(-1, 1), name, shape


class Fine(nn.Module):
    """Groups that a method does not quantise, biases as a rule: trained as they are, stored on a grid too fine to matter."""

    def __init__(self, groups, weights: dict[str, torch.Tensor], bits: int):
        super().__init__()
        self.groups, self.bits = groups, bits
        self.theta = nn.ParameterDict(
            {_key(name): nn.Parameter(weights[name].detach().clone()) for group in groups for name in group.tensors}
        )

    def weights(self, averaged: bool) -> dict[str, torch.Tensor]:
        """State-dict name -> theta, or with `averaged` what `finish` stores."""
        found = {}
        for group in self.groups:
            tensors = {name: self.theta[_key(name)] for name in group.tensors}
            if averaged:
                step = fine_step(list(tensors.values()), self.bits)
                tensors = {name: theta.detach().div(step).round().mul(step) for name, theta in tensors.items()}
            found |= tensors
        return found

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Groups of the file: integers (d, 1) under one scalar step a group, at file precision."""
        coded = {}
        for group in self.groups:
            tensors = [self.theta[_key(name)] for name in group.tensors]
            step = fine_step(tensors, self.bits)
            flat = torch.cat([theta.reshape(-1) for theta in tensors])
            coded[group.name] = scalar(flat.div(step).round().to(torch.int32).cpu().numpy()[:, None], step)
        return coded


def _key(name: str) -> str:
    return name.replace(".", "/")  # the keys of a ParameterDict have no dots


def fine_step(tensors: list[torch.Tensor], bits: int, step: float | None = None) -> float:
    """`step`, or max |theta| / 2^(bits-1), at the precision of a file; 1 for tensors of zeros."""
    largest = max(float(t.detach().abs().max()) for t in tensors)
    wanted = step if step is not None else largest / 2 ** (bits - 1)
    return float(psi_round(np.float32([wanted or 1.0]))[0])


def scalar(phi: np.ndarray, step: float) -> Coded:
    """Integers phi (d, 1) under one scalar step."""
    return Coded("scalar", "static", phi, {"scale": np.full((1, 1), step, np.float32)})


METHOD = Plain
