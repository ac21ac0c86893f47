"""Pictures made from a network alone, to calibrate on where there are none (Cai et al. 2020, "ZeroQ"; Yin et al. 2020).

    noise --Adam--> pictures whose mean and deviation before every batch normalisation are those that it remembers,
                    that the network takes for given classes, and that are smooth

Batch normalisation keeps the moments of what it saw in training. Pictures that give the same moments have much of what the layers
need to know of their inputs. Small pictures serve where the network takes any size: they cost less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from zoo.compress import bn, tensors
from zoo.compress.calibration import logits
from zoo.preprocessing import Preprocessing

COUNT = 128  # pictures
STEPS = 150
BATCH = 32  # pictures that share their moments
SIDE = 96  # pixels at most, where the network takes any size
RATE = 0.1  # of Adam, in deviations of the input
CLASSES, SMOOTHNESS = 0.02, 0.02  # weights of these two losses beside that of the moments
JITTER = 2  # pixels by which pictures are moved in each step


def pictures(network: nn.Module, spec: Preprocessing, count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, Preprocessing]:
    """uint8 (count, H, W[, C]) as the network sees them, and the preprocessing with their size.

    The network is in eval mode and comes back as it was. Raises ValueError for one without batch normalisation's statistics.
    """
    channels = len(spec.mean)
    side = spec.size * spec.enlarge
    if side > SIDE and _takes(network, (channels, SIDE, SIDE)):
        side, spec = SIDE, replace(spec, size=SIDE, resize=None, enlarge=1)
    mean, deviation = torch.tensor(spec.mean), torch.tensor(spec.deviation)
    low, high = -mean / deviation, (255 / spec.scale - mean) / deviation
    x = inputs(network, (channels, side, side), count, seed, torch.minimum(low, high), torch.maximum(low, high))
    x = F.avg_pool2d(x, spec.enlarge)
    pixels = (x * deviation[:, None, None] + mean[:, None, None]) * spec.scale
    pixels = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return (pixels[..., 0] if spec.mode == "L" else pixels), spec


def kept(
    folder: Path, key: str, network: nn.Module, spec: Preprocessing, count: int = COUNT, seed: int = 0
) -> tuple[np.ndarray, Preprocessing]:
    """`pictures`, from `folder` where they were made before. key: names the network's weights."""
    path = folder / f"synthetic-{key[:16]}-{spec.name}-{count}-{seed}.safetensors"
    if not path.is_file():
        pixels, _ = pictures(network, spec, count, seed)
        tensors.save(path, {"pixels": torch.from_numpy(np.ascontiguousarray(pixels))})
    pixels = tensors.load(path)["pixels"].numpy()
    side = pixels.shape[1]
    return pixels, spec if side == spec.size else replace(spec, size=side, resize=None, enlarge=1)


def inputs(
    network: nn.Module, shape: Sequence[int], count: int = COUNT, seed: int = 0, low: torch.Tensor | float = -2.5,
    high: torch.Tensor | float = 2.5, steps: int | None = None,
) -> torch.Tensor:
    """Inputs float32 (count, C, H, W) of a network in eval mode, within low and high, numbers or (C,). Seeded.

    Raises ValueError for a network without batch normalisation's statistics.
    """
    normed, steps = bn.layers(network), steps or STEPS
    if not normed:
        raise ValueError("the network has no batch normalisation, whose statistics tell what its inputs are like")
    low, high = (torch.as_tensor(bound).float().reshape(-1, 1, 1) for bound in (low, high))
    generator, losses, made = torch.Generator().manual_seed(seed), [], []
    needing = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in needing:
        parameter.requires_grad_(False)
    handles = [module.register_forward_pre_hook(lambda m, x: losses.append(_distance(m, x[0]))) for module in normed.values()]
    bar = tqdm(total=-(-count // BATCH) * steps, desc="pictures from batch normalisation", disable=None)
    try:
        for begin in range(0, count, BATCH):
            x = _noise((min(BATCH, count - begin), *shape), generator).clamp(low, high).requires_grad_(True)
            optimizer = torch.optim.Adam([x], RATE, betas=(0.5, 0.9))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            classes = None
            for _ in range(steps):
                losses.clear()
                across, down = torch.randint(-JITTER, JITTER + 1, (2,), generator=generator).tolist()
                answers = logits(network(x.roll((across, down), (2, 3))))
                if classes is None:
                    classes = torch.randint(answers.shape[1], (len(answers),), generator=generator)
                rough = (x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()) / 2
                loss = torch.stack(losses).mean() + CLASSES * F.cross_entropy(answers, classes) + SMOOTHNESS * rough
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    x.clamp_(low, high)
                bar.update()
                bar.set_postfix_str(f"distance {loss.item():.3f}")
            made.append(x.detach())
    finally:
        for handle in handles:
            handle.remove()
        for parameter in needing:
            parameter.requires_grad_(True)
    return torch.cat(made)


def _distance(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of a batch's mean and deviation from those that the layer remembers, in units of these deviations, squared."""
    variance, mean = torch.var_mean(x.float(), (0, *range(2, x.dim())), correction=0)
    deviation = (layer.running_var + layer.eps).sqrt()
    return (((mean - layer.running_mean) / deviation).square() + ((variance + layer.eps).sqrt() / deviation - 1).square()).mean()


def _noise(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise of several sizes of grain, as pictures have: deviation 1."""
    total = torch.zeros(shape)
    for grain in (1, 4, 16):
        sides = [max(1, side // grain) for side in shape[2:]]
        grains = torch.randn(*shape[:2], *sides, generator=generator)
        total += F.interpolate(grains, tuple(shape[2:]), mode="bilinear", align_corners=False)
    return total / total.std()


def _takes(network: nn.Module, shape: Sequence[int]) -> bool:
    with torch.no_grad():
        try:
            network(torch.zeros(2, *shape))
        except (RuntimeError, AssertionError, ValueError):
            return False
    return True
