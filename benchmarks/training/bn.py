"""Batch normalisation, which methods do not compress: averaged, estimated anew, folded and coded for the file.

    gamma, beta, averaged over the steps -------------------.
    weights as stored -> training batches -> mean, variance -+-> scale, bias of each channel -> integers in few bits

The statistics of BN are estimated anew under the weights that the file will hold. Then every BN layer is folded to
y = scale * x + bias (zoo.partitionings), because a file needs no more. The precision is chosen group by group: the one
with the least loss + lambda * bits on held-out images, the objective of training (Oktay et al. 2019, equation 7). A warm
start goes the other way: `unfold` makes trainable BN layers of folded ones.
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

FINEST, START, COARSEST = 10, 6, 0  # precisions k: a step is 2^-k of a tensor's typical size


class Averages(nn.Module):
    """Running averages of the parameters that the method does not own: those of batch normalisation."""

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
    partitioning: Partitioning, coded: dict[str, Coded], averages: dict[str, torch.Tensor], moments: Statistics,
    loss: Callable[[dict[str, torch.Tensor]], float], penalty: float,
) -> dict[str, Coded]:
    """All groups of the file: those that the method has coded, and the others in the precision of least cost.

    averages: the averaged parameters that `coded` lacks; moments: BN statistics under `coded`; loss(state) is the held-out
    loss in nats with the weights of a state dict, and a bit costs `penalty` nats.
    """
    missing = [group for group in partitioning.groups if group.name not in coded]
    if not missing:
        return coded
    search = _Search(partitioning, missing, coded, averages, moments, loss, penalty)
    best = search.price({group.name: (START, True) for group in missing})
    for group in missing:  # coarser as long as it pays, then finer as long as it pays, then one step for all tensors
        for way in (-1, 1):
            while COARSEST <= (k := best.choice[group.name][0] + way) <= FINEST:
                option = search.price(best.choice | {group.name: (k, best.choice[group.name][1])})
                if option.cost >= best.cost:
                    break
                best = option
        option = search.price(best.choice | {group.name: (best.choice[group.name][0], False)})
        best = min(best, option, key=lambda candidate: candidate.cost)
    groups = coded | best.groups
    return {group.name: groups[group.name] for group in partitioning.groups}


def shortest_bn(partitioning: Partitioning, coded: dict[str, Coded]) -> dict[str, Coded]:
    """The same groups, those of BN under the entropy model that takes the fewest bytes.

    In an expanded file (thin.py) that is "context": removed channels stand side by side, and a zero after zeros costs little.
    """
    best = dict(coded)
    for group in partitioning.groups:
        if group.kind == "bn":
            best[group.name] = shortest(group, [coded[group.name], replace(coded[group.name], model="context")])
    return best


@torch.no_grad()
def unfold(network: nn.Module, batches: Iterable[Batch], reduce: Callable[[torch.Tensor], None] = lambda sums: None) -> None:
    """The inverse of folding, for warm starts: sets gamma and beta so that the network computes the same in train mode.

    The network comes from a file, so its BN layers only scale and add. In train mode they also normalise their input by its
    mean and deviation, which are therefore estimated and put into gamma and beta. Changes BN's tensors in place.
    """
    moments = statistics(network.eval(), {}, batches, reduce)
    for name, bn in layers(network).items():
        mean, deviation = moments[f"{name}.running_mean"], (moments[f"{name}.running_var"] + bn.eps).sqrt()
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        bn.bias.add_((mean - bn.running_mean) * scale)
        bn.weight.copy_(scale * deviation)
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(moments[f"{name}.running_var"])


@dataclass
class _Option:
    """A way to code the missing groups, and its cost in nats."""

    choice: dict[str, tuple[int, bool]]  # group -> precision k, and whether each tensor has its own step
    groups: dict[str, Coded]
    cost: float


class _Search:
    """Tries precisions for the missing groups."""

    def __init__(self, partitioning, missing, coded, averages, moments, loss, penalty):
        self.partitioning, self.missing, self.loss, self.penalty = partitioning, missing, loss, penalty
        self.fixed = partitionings.weights(partitioning, coded) | partitionings.constants(partitioning)
        self.averages = {name: p.double().cpu().numpy() for name, p in averages.items()}
        self.moments = {name: s.double().cpu().numpy() for name, s in moments.items()}

    def price(self, choice: dict[str, tuple[int, bool]]) -> _Option:
        state, groups, size = dict(self.fixed), {}, 0
        for group in self.missing:
            k, step_each = choice[group.name]
            coded = {group.name: code([self._target(name, state) for name in group.tensors], k, step_each)}
            state |= partitionings.weights(self.partitioning, coded)
            groups |= coded
            size += len(codec.encode(self.partitioning.network, "", coded, {group.name: group.shapes}))
        return _Option(choice, groups, self.loss(state) + self.penalty * 8 * size)

    def _target(self, name: str, state: dict[str, torch.Tensor]) -> tuple[np.ndarray, float]:
        """Values that a tensor should hold, and its typical size. Folded BN: the bias makes up for the coded scale's error."""
        layer, _, kind = name.rpartition(".")
        if f"{layer}.running_var" not in self.moments:
            return self.averages[name], size(self.averages[name])
        gamma, beta = self.averages[f"{layer}.weight"], self.averages[f"{layer}.bias"]
        mean, variance = self.moments[f"{layer}.running_mean"], self.moments[f"{layer}.running_var"]
        scale = np.where(variance > DEAD, gamma / np.sqrt(variance + BN_EPS), 0.0)
        if kind == "weight":
            return scale, size(scale)
        if name.replace(".bias", ".weight") in state:
            scale = state[f"{layer}.weight"].double().numpy()
        return beta - mean * scale, size(scale * np.sqrt(variance))  # against the deviation of the layer's output


def _buffer(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name has no dots


assert partitionings.BN_EPS == nn.BatchNorm2d(1).eps
