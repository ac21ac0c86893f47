"""Plain training: the uncompressed references that other methods start from and are compared with.

    theta --loss--> gradients       average of theta over the steps --round once--> phi

The parameters are the weights themselves; nothing penalises the size of the file. At the end their running average is
rounded to a grid of `bits` bits a weight at most, which entropy coding makes smaller still (README, "The methods").
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.methods import Method, ParameterSet
from benchmarks.methods.common import Averaged, fine_step, scalar
from benchmarks.training.tables import Table
from zoo.codec import Coded


class Plain(Method):
    """One trainable tensor and its average for each tensor of the network.

    Weight decay (optimizer.weight_decay of the recipe) acts on weights, not on biases.
    """

    class Options(Table):
        ema: float = 0.999  # decay of the average that is stored
        bits: int = 10  # of the grid: 2^(bits-1) steps from zero to the largest weight of a group
        step: float | dict[str, float] | None = None  # of the grid, instead of `bits`: a number, or one for each group

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        weights = dict(network.named_parameters())
        self.names = [name for group in self.groups for name in group.tensors]
        self.tensors = nn.ModuleList(Averaged(weights[name].detach().clone()) for name in self.names)

    def parameter_sets(self) -> list[ParameterSet]:
        values = [tensor.value for tensor in self.tensors]
        return [
            ParameterSet([value for value in values if value.dim() > 1], decay=True),
            ParameterSet([value for value in values if value.dim() <= 1]),
        ]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        if not averaged:
            return {name: tensor.value for name, tensor in zip(self.names, self.tensors, strict=True)}
        means, state = self._means(), {}
        for group in self.groups:
            step = self._step(group, means)
            state |= {name: means[name].div(step).round().mul(step) for name in group.tensors}
        return state

    def after_step(self, step: int) -> None:
        for tensor in self.tensors:
            tensor.update(step, self.options.ema)

    def finish(self) -> dict[str, Coded]:
        means = self._means()
        return {g.name: scalar([means[name] for name in g.tensors], self._step(g, means)) for g in self.groups}

    def _means(self) -> dict[str, torch.Tensor]:
        return {name: tensor.mean for name, tensor in zip(self.names, self.tensors, strict=True)}

    def _step(self, group, means: dict[str, torch.Tensor]) -> float:
        fixed = self.options.step
        fixed = fixed.get(group.name) if isinstance(fixed, dict) else fixed
        return fine_step([means[name] for name in group.tensors], self.options.bits, fixed)


METHOD = Plain
