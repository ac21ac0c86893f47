"""What calibration images tell about a network: which BN layers follow its layers, and what errors in them will cost.

    network, images --sensitivity--> importance s of each layer's outputs, their moments, logits
              `------covariances--> H, the covariance of each layer's input patches
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

BATCH = 20  # images
POSITIONS = 4  # a Hessian of size d is estimated from 4 d output positions, if there are as many
TEMPERATURE = 2.0  # of the softmax whose divergence counts: at 1, images with a confident answer have no slope


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer, and the BN layers that can take up factors of its rows (outputs) and input channels."""

    name: str
    weight: str  # state-dict name
    kernel: int  # places in the kernel: numbers of a weight for one input and one output
    rows: str | None  # name of the BN layer right after it
    inputs: str | None  # name of the BN layer before it, with nothing but ReLU in between


def layers(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Layer]:
    """Layers in the order in which the network runs them.

    A BN layer takes up factors of a layer if the network's output stays the same when the layer is scaled by them and the BN
    layer by their inverse: that is tried out. The network's weights are restored.
    """
    side = min(input_shape[1], 64)  # convolutional networks take any size, and smaller is faster
    x = torch.rand(2, input_shape[0], side, side, generator=torch.Generator().manual_seed(0))
    order: list[tuple[str, nn.Module]] = []
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    handles = [
        m.register_forward_pre_hook(lambda module, _, name=name: order.append((name, module)))
        for name, m in network.named_modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        try:
            reference = network(x)
        except RuntimeError:  # a flattened size that fits only the true one
            order.clear()
            x = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
            reference = network(x)
        for handle in handles:
            handle.remove()
        scale = max(float(reference.abs().max()), 1e-6)

        def unchanged() -> bool:
            return float((network(x) - reference).abs().max()) < 1e-3 * scale

        records = []
        for i, (name, module) in enumerate(order):
            if isinstance(module, nn.BatchNorm2d):
                continue
            after = next(((n, m) for n, m in order[i + 1 : i + 2] if isinstance(m, nn.BatchNorm2d)), None)
            before = next(((n, m) for n, m in order[:i][::-1] if isinstance(m, nn.BatchNorm2d)), None)
            rows = inputs = None
            if after and after[1].num_features == len(module.weight) and module.bias is None:
                c = torch.linspace(0.5, 2, len(module.weight))
                with _scaled(module.weight, _along(c, module.weight, 0)), _scaled(after[1].weight, 1 / c):
                    rows = after[0] if unchanged() else None
            if before and before[1].num_features == module.weight.shape[1]:
                c = torch.linspace(0.5, 2, module.weight.shape[1])
                inverse = _along(1 / c, module.weight, 1)
                with _scaled(module.weight, inverse), _scaled(before[1].weight, c), _scaled(before[1].bias, c):
                    inputs = before[0] if unchanged() else None
            records.append(Layer(name, f"{name}.weight", math.prod(module.weight.shape[2:]), rows, inputs))
    return records


def batches(x: torch.Tensor, size: int = BATCH) -> Iterator[torch.Tensor]:
    for begin in range(0, len(x), size):
        batch = x[begin : begin + size]
        yield batch.to(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def sensitivity(
    network: nn.Module, x: torch.Tensor, names: list[str], seed: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(tensors by name, logits). Tensors of the outputs of each layer, (O,): "NAME/importance" s, "NAME/mean", "NAME/variance".

    Also the importance of every scale and bias of BN and every bias of a layer, by its state-dict name. An error in one of
    those is the same at all positions of an image, so the slopes are summed over positions before they are squared.

    Each image takes one backward pass of the logits times (diag(p) - p p^T)^(1/2) noise. The expected outer product of that
    vector is the Hessian of the KL divergence in the logits, so squared slopes estimate second derivatives.
    """
    generator, modules = torch.Generator().manual_seed(seed), dict(network.named_modules())
    sums: dict[str, torch.Tensor] = {}

    def add(key: str, value: torch.Tensor) -> None:
        sums[key] = sums[key] + value.double() if key in sums else value.double()

    def watch(name: str):
        def hook(module, inputs, out):
            dims = (0, 2, 3) if out.dim() == 4 else (0,)
            places = math.prod(out.shape[2:])
            flat = out.detach().float()
            add(f"{name}/mean", flat.sum(dims) / places)
            add(f"{name}/variance", (flat * flat).sum(dims) / places)
            if not out.requires_grad:
                out.requires_grad_(True)
            out.register_hook(lambda gradient: add(f"{name}/importance", gradient.float().square().sum(dims)))

        return hook

    def watch_vectors(name: str):
        def hook(module, inputs, out):
            x, dims = inputs[0].detach(), tuple(range(2, out.dim()))

            def add_slopes(gradient):
                gradient = gradient.float()
                add(f"{name}.bias", (gradient.sum(dims) if dims else gradient).square().sum(0))
                if isinstance(module, nn.BatchNorm2d):
                    mean, deviation = module.running_mean, (module.running_var + module.eps).sqrt()
                    scaled = (x.float() - _along(mean, x, 1)) / _along(deviation, x, 1)
                    add(f"{name}.weight", (gradient * scaled).sum(dims).square().sum(0))

            out.register_hook(add_slopes)

        return hook

    handles = [modules[name].register_forward_hook(watch(name)) for name in names]
    vectors = [n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d) or (n in names and m.bias is not None)]
    handles += [modules[name].register_forward_hook(watch_vectors(name)) for name in vectors]
    logits = []
    bar = tqdm(total=len(x), desc="importance of outputs", disable=None)
    for batch in batches(x, BATCH // 2):
        out = network(batch)
        p = torch.softmax(out.detach().float() / TEMPERATURE, 1)
        noise = torch.randn(p.shape, generator=generator)
        probe = p.sqrt() * noise - p * (p.sqrt() * noise).sum(1, keepdim=True)
        (out.float() * probe).sum().backward()
        logits.append(out.detach().float())
        bar.update(len(batch))
    for handle in handles:
        handle.remove()
    for key in sums:
        sums[key] /= len(x)
    for name in names:
        sums[f"{name}/variance"] -= sums[f"{name}/mean"] ** 2
    return {key: value.float() for key, value in sums.items()}, torch.cat(logits)


@torch.no_grad()
def covariances(network: nn.Module, x: torch.Tensor, names: list[str], seed: int = 0) -> dict[str, torch.Tensor]:
    """Covariance (d, d) of every layer's input patches, shrunk towards its diagonal (Ledoit & Wolf 2004).

    It is a covariance, not a second moment: the error that a mean input causes is made up for by the bias that follows
    every layer. For the strength of shrinkage, the positions of one image count as at most 16 independent samples.
    """
    modules = dict(network.named_modules())
    sums: dict[str, list] = {}
    generator = torch.Generator().manual_seed(seed)

    def watch(name: str):
        def hook(module, inputs):
            rows, places = patches(inputs[0], module, len(x), generator)
            if name not in sums:
                d = rows.shape[1]
                sums[name] = [torch.zeros(d, d), torch.zeros(d, dtype=torch.float64), 0, rows.mean(0), places]
            total = sums[name]
            rows = rows - total[3]  # not in place: these may be the activations themselves
            array = rows.numpy()
            total[0] += torch.from_numpy(array.T @ array)  # numpy notices the symmetry and does half the work
            total[1] += rows.double().sum(0)
            total[2] += len(rows)

        return hook

    handles = [modules[name].register_forward_pre_hook(watch(name)) for name in names]
    bar = tqdm(total=len(x), desc="second-order statistics", disable=None)
    for batch in batches(x, 2 * BATCH):
        network(batch)
        bar.update(len(batch))
    for handle in handles:
        handle.remove()
    out = {}
    for name in names:
        total, sums_of_rows, count, _, places = sums.pop(name)
        mean = (sums_of_rows / count).float()
        h = total.div_(count).sub_(torch.outer(mean, mean))
        variance = h.diagonal().clone()
        independent = len(x) * min(places, 16)
        off = float(h.square().sum() - variance.square().sum())
        shrink = min(1.0, float(variance.sum()) ** 2 / independent / max(off, 1e-30))
        h.mul_(1 - shrink)
        h.diagonal().copy_(variance + 1e-3 * variance.mean().clamp_min(1e-12))
        out[name] = h
    return out


def patches(x: torch.Tensor, module: nn.Module, images: int, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """What the layer multiplies its weights with, float32 (N, d), at some positions of each image; and how many of them."""
    if isinstance(module, nn.Linear):
        return x.float(), 1
    k, stride, pad = module.kernel_size[0], module.stride[0], module.padding[0]
    b, channels, height, width = x.shape
    high, wide = (height + 2 * pad - k) // stride + 1, (width + 2 * pad - k) // stride + 1
    d = channels * k * k
    count = min(max(1, math.ceil(max(POSITIONS * d, 12_000) / images)), high * wide)
    place = torch.randperm(high * wide, generator=generator)[:count]
    rows, columns = place // wide * stride, place % wide * stride
    if pad:
        x = F.pad(x, (pad, pad, pad, pad))
    cut = torch.stack([x[:, :, rows + i, columns + j] for i in range(k) for j in range(k)], 2)  # (B, C, k k, count)
    return cut.permute(0, 3, 1, 2).reshape(b * count, d).float(), count


@contextmanager
def _scaled(parameter: torch.Tensor, factor: torch.Tensor) -> Iterator[None]:
    values = parameter.data.clone()
    parameter.data.mul_(factor)
    try:
        yield
    finally:
        parameter.data.copy_(values)


def _along(values: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    return values.reshape([-1 if i == axis else 1 for i in range(weight.dim())])
