"""Vectors of a rounded network (normalisation, biases) trained to give the uncompressed network's answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from zoo.compress.calibration import BATCH, TEMPERATURE, Examples, logits


def tune(
    network: nn.Module, units: Mapping[str, torch.Tensor], examples: Examples, targets: torch.Tensor,
    mirrored: torch.Tensor | None, epochs: float, seed: int,
    rate: float = 1e-3, size: int = BATCH, dtype: torch.dtype = torch.float32,
) -> None:
    """Trains the parameters in `units`, in place, towards the outputs `targets`; on mirror images of pictures towards `mirrored`.

    Loss: KL divergence at TEMPERATURE. Adam on changes of each parameter in its unit: its own size for a scale, the deviation
    of its channel for a bias. targets, mirrored: as `calibration.logits` gives them, for all examples.
    """
    if not units or not epochs:
        return
    start = {name: network.get_parameter(name).detach().clone() for name in units}
    moved = {name: torch.zeros_like(value, requires_grad=True) for name, value in start.items()}
    optimizer = torch.optim.Adam(moved.values(), lr=rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, round(epochs * len(examples) / size))
    bar = tqdm(range(steps), desc="tuning", disable=None)
    order: list[int] = []
    for step in bar:
        while len(order) < size:
            order += torch.randperm(len(examples), generator=generator).tolist()
        chosen, order = order[:size], order[size:]
        flip = bool(torch.randint(2, (), generator=generator)) and mirrored is not None
        x = examples[chosen]
        if x.is_floating_point():
            x = x.to(dtype)
        if x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        goal = mirrored if flip else targets
        goal = goal.reshape(len(examples), -1, goal.shape[-1])[chosen].flatten(0, 1)
        values = {name: start[name] + units[name] * moved[name] for name in units}
        answers = logits(functional_call(network, values, (x.flip(3) if flip else x,))).float()
        loss = divergence(goal, answers, TEMPERATURE).mean() * TEMPERATURE**2
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        bar.set_postfix_str(f"divergence {loss.item():.4f}")
    with torch.no_grad():
        for name, value in moved.items():
            network.get_parameter(name).copy_(start[name] + units[name] * value)


def divergence(targets: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL divergence (nats) of the answers `logits` from the answers `targets`: logits (N, classes) both -> (N,)."""
    p, q = torch.log_softmax(targets / temperature, 1), torch.log_softmax(logits / temperature, 1)
    return (p.exp() * (p - q)).sum(1)
