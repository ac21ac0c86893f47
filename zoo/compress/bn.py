"""The statistics of batch normalisation under given weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.func import functional_call

Statistics = dict[str, torch.Tensor]  # buffer name of a BN layer -> its mean or variance
DEAD = 1e-12  # variance of a channel whose input is constant: it is nothing but its bias


def layers(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The network's BN layers by name, those that have statistics."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: m for name, m in network.named_modules() if isinstance(m, kind) and m.running_mean is not None}


@torch.no_grad()
def statistics(
    network: nn.Module, weights: dict[str, torch.Tensor], batches: Iterable[tuple[torch.Tensor, object]],
    reduce: Callable[[torch.Tensor], None] = lambda sums: None,
) -> Statistics:
    """Mean and variance of every BN layer's input under `weights`, over all the batches together.

    A network in train mode normalises each batch by the batch's own statistics, one in eval mode by those that it has.
    `reduce` sums a tensor over all processes, in place. Parameters and buffers of the network stay as they are.
    """
    bn = layers(network)
    if not bn:
        return {}
    sums: dict[str, torch.Tensor] = {}

    def add(name: str):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            batch_totals = totals(inputs[0])
            sums[name] = sums[name] + batch_totals if name in sums else batch_totals

        return hook

    handles = [module.register_forward_pre_hook(add(name)) for name, module in bn.items()]
    scratch = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        for images, _ in batches:
            functional_call(network, {**weights, **scratch}, (images,))
    finally:
        for handle in handles:
            handle.remove()
    moments_by_buffer = {}
    for name, total in sums.items():
        reduce(total)
        moments_by_buffer[f"{name}.running_mean"], moments_by_buffer[f"{name}.running_var"] = moments(total)
    return moments_by_buffer


def totals(x: torch.Tensor) -> torch.Tensor:
    """Count, sum and sum of squares of each channel of x (N, C, ...): (3, C) float64, to be added over batches."""
    x = x.float()
    count = x.numel() / x.shape[1]
    variance, mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
    mean, variance = mean.double(), variance.double()
    return count * torch.stack([torch.ones_like(mean), mean, variance + mean * mean])


def moments(total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (C,) float32 from `totals`."""
    mean = total[1] / total[0]
    return mean.float(), (total[2] / total[0] - mean * mean).clamp_min(0).float()
