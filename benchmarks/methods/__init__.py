"""Methods of compression: one file each, whose METHOD is a subclass of `Method`. This page is all that one needs.

`find("epr")` imports benchmarks/methods/epr.py and returns its METHOD. A recipe with `method = "epr"` is then trained by
benchmarks/training/loop.py, which calls the method in this order:

    method = METHOD(network, partitioning, options, steps)     from the network's weights; moved to the device afterwards
    method.parameter_sets()                                    once: what the optimisers train
    for step in range(steps):
        weights = method.weights()                             forward and backward pass of the network with these
        method.regularise(step, generator)                     adds the gradient of the penalty to `.grad`
        learning rates = min(scheduled, method.max_lr(step))   then a step of the optimisers
        method.after_step(step)                                running averages, projections, codebooks
    method.weights(averaged=True)                              now and then: held-out errors of what would be stored
    method.estimate()                                          now and then: numbers for the progress bar and the log
    method.finish()                                            at the end: integers, decoders and tables of the file

A method owns `self.groups`: the weights and biases of the partitioning. BN's parameters are not among them: they are
trained beside the method, folded and coded at the end (benchmarks/training/bn.py). A method is a torch module, so what it
keeps in parameters and buffers is in the checkpoint, and a stopped run goes on exactly. Helpers that methods share are
in common.py: running averages, straight-through gradients, biases on a fine grid.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.training.tables import Table
from zoo.codec import Coded
from zoo.partitionings import Partitioning


@dataclass
class ParameterSet:
    """Parameters that are trained alike.

    role: who trains them. "main": the recipe's optimiser at its `lr`, under its schedule; for weights and latents.
        "psi": the same optimiser at the recipe's `psi_lr`; for steps and shifts of decoders. "density": Adam at the constant
        rate `lr` of this set; for probability models.
    decay: whether the recipe's weight decay acts on them.
    weight_per_unit: by how much the weights change when the parameter changes by 1. It is 1 for weights, and the
        quantisation step for latents phi = weight / step. The rate of SGD in a recipe is one for weights; the loop turns
        it into one for the parameter. Adam's steps do not depend on the gradient's size, so its rate is in the
        parameter's own units and this number has no effect.
    """

    parameters: list[nn.Parameter]
    role: Literal["main", "psi", "density"] = "main"
    decay: bool = False
    weight_per_unit: float = 1.0
    lr: float | None = None


class Method(nn.Module):
    """The trainable form of a network's weights and biases. `weights`, `parameter_sets` and `finish` must be written."""

    class Options(Table):
        """The table [options] of a recipe; a method lists its own as fields with defaults."""

    def __init__(self, network: nn.Module, partitioning: Partitioning, options: Mapping[str, Any] | Options, steps: int):
        """network: with the weights that training starts from; steps: of the whole training.

        Raises ValueError naming all options that are unknown or mean nothing.
        """
        super().__init__()
        self.options = self.Options.parse(options, f"options of {type(self).__name__}")
        self.partitioning, self.steps = partitioning, steps
        self.groups = [group for group in partitioning.groups if group.kind != "bn"]

    def parameter_sets(self) -> list[ParameterSet]:
        """All parameters of the method, each in one set."""
        raise NotImplementedError

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """State-dict name -> tensor of the network's shape, for every tensor of `self.groups`.

        Differentiable with respect to the parameters. With `averaged`: the weights that the file of `finish()` decodes to.
        """
        raise NotImplementedError

    def finish(self) -> dict[str, Coded]:
        """Group name -> integers phi (d, l) int32, name of decoder and entropy model, psi at file precision (`psi_round`).

        All of `self.groups`, in their order. The training may go on afterwards.
        """
        raise NotImplementedError

    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds the gradient of the penalty, such as lambda times the bits, to the parameters' `.grad`.

        It runs after the backward pass of the loss. Random numbers come from `generator`, seeded by run and step.
        """

    def after_step(self, step: int) -> None:
        """What follows a step of the optimisers. The first step is 0."""

    def max_lr(self, step: int) -> float:
        """Upper bound of the scheduled learning rates."""
        return math.inf

    def estimate(self) -> dict[str, float]:
        """Numbers by name for the progress bar, such as the bytes that the file would have."""
        return {}

    @property
    def bit_price(self) -> float:
        """Nats that a bit of BN's coding may cost, where the recipe does not say (`finish.penalty`)."""
        return 1e-8

    @staticmethod
    def paper_bytes(blob: bytes) -> tuple[int, str] | None:
        """Size of a model file as the method's paper would count it, and that counting in words; None: as the file is."""
        return None


def names() -> list[str]:
    """Files in benchmarks/methods/ that define a METHOD."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"common", "codebooks"})


def find(name: str) -> type[Method]:
    """The class of the method that recipes call `name`; ValueError lists those that exist."""
    if name not in names():
        raise ValueError(f"unknown method {name!r}; benchmarks/methods/ has {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").METHOD
