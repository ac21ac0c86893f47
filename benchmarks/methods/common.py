"""What methods share: running averages, straight-through gradients, and groups stored on a grid too fine to matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from zoo.codec import Coded, psi_round
from zoo.partitionings import Group


@torch.no_grad()
def update_average(mean: torch.Tensor, value: torch.Tensor, step: int, decay: float) -> None:
    """mean <- decay * mean + (1 - decay) * value, in place; early steps have a smaller decay, so that they are forgotten."""
    mean.lerp_(value.detach(), 1 - min(decay, (1 + step) / (10 + step)))


class Averaged(nn.Module):
    """A trained tensor `value` and its running average over the steps, `mean`."""

    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.value = nn.Parameter(value)
        self.register_buffer("mean", value.detach().clone())

    def update(self, step: int, decay: float) -> None:
        update_average(self.mean, self.value, step, decay)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def straight_through(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, such as the rounded parameter, whose gradient goes to the parameter unchanged (Oktay et al. 2019, section 2.3)."""
    return _StraightThrough.apply(parameter, value)


class Fine(nn.Module):
    """Groups that a method does not quantise, biases as a rule: trained as they are, stored on a fine grid of `bits` bits."""

    def __init__(self, groups: Iterable[Group], weights: Mapping[str, torch.Tensor], bits: int):
        super().__init__()
        self.groups, self.bits = list(groups), bits
        names = [name for group in self.groups for name in group.tensors]
        self.theta = nn.ParameterDict({_key(name): nn.Parameter(weights[name].detach().clone()) for name in names})

    def weights(self, averaged: bool) -> dict[str, torch.Tensor]:
        """State-dict name -> theta, or with `averaged` what `finish` stores."""
        state = {}
        for group in self.groups:
            tensors = {name: self.theta[_key(name)] for name in group.tensors}
            if averaged:
                step = fine_step(tensors.values(), self.bits)
                tensors = {name: theta.detach().div(step).round().mul(step) for name, theta in tensors.items()}
            state |= tensors
        return state

    def finish(self) -> dict[str, Coded]:
        """Groups of the file: integers (d, 1) under one scalar step a group, at file precision."""
        coded = {}
        for group in self.groups:
            tensors = [self.theta[_key(name)] for name in group.tensors]
            coded[group.name] = scalar(tensors, fine_step(tensors, self.bits))
        return coded


def fine_step(tensors: Iterable[torch.Tensor], bits: int, step: float | None = None) -> float:
    """`step`, or max |theta| / 2^(bits-1), at the precision of a file; 1 for tensors of zeros."""
    largest = max(float(theta.detach().abs().max()) for theta in tensors)
    value = step if step is not None else largest / 2 ** (bits - 1)
    return float(psi_round(np.float32([value or 1.0]))[0])


def scalar(tensors: Iterable[torch.Tensor], step: float) -> Coded:
    """The tensors rounded to multiples of one step: integers (d, 1), tensor after tensor."""
    flat = torch.cat([theta.detach().reshape(-1) for theta in tensors])
    phi = flat.div(step).round().to(torch.int32).cpu().numpy()[:, None]
    return Coded("scalar", "static", phi, {"scale": np.full((1, 1), step, np.float32)})


def _key(name: str) -> str:
    return name.replace(".", "/")  # the keys of a ParameterDict have no dots
