"""What a method does not code: batch normalisation, and whatever else it leaves as floats.

    gamma, beta, averaged over the steps ------------------.
    weights as stored -> training batches -> mean, variance -+-> scale, bias a channel -> integers in few bits

The statistics of BN are estimated anew under the weights that the file will hold, then every BN layer is folded to
y = scale * x + bias (zoo.partitionings), because a file needs no more. The precision is chosen group by group where
loss + lambda * bits, the objective of training (Oktay et al. 2019, equation 7), is least on held-out images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from benchmarks.methods.common import update_average
from benchmarks.training.batches import Batch
from zoo import codec, partitionings
from zoo.codec import Coded
from zoo.compress.bn import DEAD, Statistics, layers, statistics
from zoo.compress.coding import code, shortest, size
from zoo.partitionings import BN_EPS, Partitioning

FINEST, START, COARSEST = 10, 6, 0  # a step is 2^-k of a tensor's typical size


class Rest(nn.Module):
    """The running average of the network's parameters that a method does not own; a method averages its own."""

    def __init__(self, network: nn.Module, owned: Iterable[str], decay: float):
        super().__init__()
        self.decay, owned = decay, set(owned)
        self.parameter = {name: p for name, p in network.named_parameters() if name not in owned}
        for name, p in self.parameter.items():
            self.register_buffer(_buffer(name), p.detach().clone())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for name, p in self.parameter.items():
            update_average(getattr(self, _buffer(name)), p, step, self.decay)

    def averages(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, _buffer(name)) for name in self.parameter}


def complete(
    partitioning: Partitioning, coded: dict[str, Coded], rest: dict[str, torch.Tensor], found: Statistics,
    loss: Callable[[dict[str, torch.Tensor]], float], penalty: float,
) -> dict[str, Coded]:
    """All groups of the file, from those that a method has coded.

    rest: the averaged parameters that `coded` lacks; found: BN statistics under `coded`; loss(state) is the held-out
    loss in nats with the weights of a state dict, and a bit costs `penalty` nats.
    """
    missing = [group for group in partitioning.groups if group.name not in coded]
    if not missing:
        return coded
    search = _Search(partitioning, missing, coded, rest, found, loss, penalty)
    best = search.price({group.name: (START, True) for group in missing})
    for group in missing:  # one group after the other: fewer bits as long as it pays, else finer; then one step for all tensors
        for way in (-1, 1):
            while COARSEST <= (k := best.choice[group.name][0] + way) <= FINEST:
                option = search.price(best.choice | {group.name: (k, best.choice[group.name][1])})
                if option.cost >= best.cost:
                    break
                best = option
        option = search.price(best.choice | {group.name: (best.choice[group.name][0], False)})
        best = min(best, option, key=lambda candidate: candidate.cost)
    every = coded | best.groups
    return {group.name: every[group.name] for group in partitioning.groups}


def fewest(partitioning: Partitioning, coded: dict[str, Coded]) -> dict[str, Coded]:
    """The same integers, BN's under the entropy model with the fewest bytes: zeros in a row cost nothing in context."""
    best = dict(coded)
    for group in partitioning.groups:
        if group.kind == "bn":
            best[group.name] = shortest(group, [coded[group.name], replace(coded[group.name], model="context")])
    return best


@torch.no_grad()
def unfold(network: nn.Module, batches: Iterable[Batch], reduce: Callable[[torch.Tensor], None] = lambda sums: None) -> None:
    """The inverse of folding, for warm starts: gamma and beta with which a network that normalises computes what this does.

    Changes BN's tensors in place. The network comes from a file, so its BN layers only scale and add; in train mode
    they will divide by the deviation of their input first.
    """
    found = statistics(network.eval(), {}, batches, reduce)
    for name, bn in layers(network).items():
        mean, deviation = found[f"{name}.running_mean"], (found[f"{name}.running_var"] + bn.eps).sqrt()
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        bn.bias.add_((mean - bn.running_mean) * scale)
        bn.weight.copy_(scale * deviation)
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(found[f"{name}.running_var"])


@dataclass
class _Option:
    """A precision 2^-k, and a step for each tensor or one for all, group by group; what that gives, and its cost in nats."""

    choice: dict[str, tuple[int, bool]]
    groups: dict[str, Coded]
    cost: float


class _Search:
    """Tries precisions for the missing groups."""

    def __init__(self, partitioning, missing, coded, rest, found, loss, penalty):
        self.partitioning, self.missing, self.loss, self.penalty = partitioning, missing, loss, penalty
        self.fixed = partitionings.weights(partitioning, coded) | partitionings.constants(partitioning)
        self.rest = {name: p.double().cpu().numpy() for name, p in rest.items()}
        self.found = {name: s.double().cpu().numpy() for name, s in found.items()}

    def price(self, choice: dict[str, tuple[int, bool]]) -> _Option:
        state, groups, size = dict(self.fixed), {}, 0
        for group in self.missing:
            k, own = choice[group.name]
            part = {group.name: code([self._target(name, state) for name in group.tensors], k, own)}
            state |= partitionings.weights(self.partitioning, part)
            groups |= part
            size += len(codec.encode(self.partitioning.network, "", part, {group.name: group.shapes}))
        return _Option(choice, groups, self.loss(state) + self.penalty * 8 * size)

    def _target(self, name: str, state: dict[str, torch.Tensor]) -> tuple[np.ndarray, float]:
        """What a tensor should hold, and the size against which an error in it counts.

        BN is folded here: its scale, and its bias given the scale that is already coded.
        """
        layer, _, kind = name.rpartition(".")
        if f"{layer}.running_var" not in self.found:
            return self.rest[name], size(self.rest[name])
        gamma, beta = self.rest[f"{layer}.weight"], self.rest[f"{layer}.bias"]
        mean, variance = self.found[f"{layer}.running_mean"], self.found[f"{layer}.running_var"]
        scale = np.where(variance > DEAD, gamma / np.sqrt(variance + BN_EPS), 0.0)
        if kind == "weight":
            return scale, size(scale)
        if name.replace(".bias", ".weight") in state:
            scale = state[f"{layer}.weight"].double().numpy()
        return beta - mean * scale, size(scale * np.sqrt(variance))  # against the deviation of the layer's output


def _buffer(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name has no dots


assert partitionings.BN_EPS == nn.BatchNorm2d(1).eps
