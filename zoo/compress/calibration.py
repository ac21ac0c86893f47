"""What calibration images tell about a network: which BN layers follow its layers, and what errors in them will cost.

    network, images --sensitivity--> importance s of each layer's outputs, their moments, logits
              `------covariances--> H, the covariance of each layer's input patches
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

BATCH = 20  # images
BLOCK = 1024  # columns of a Hessian that are summed at a time
POSITIONS = 4  # a Hessian of size d is estimated from 4 d output positions, if there are as many
BATCH_NORM = nn.modules.batchnorm._BatchNorm
WEIGHTED, NORMS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear), (BATCH_NORM, nn.LayerNorm, nn.GroupNorm)
TEMPERATURE = 2.0  # of the softmax whose divergence counts: at 1, images with a confident answer have no slope


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer, and the BN layers that can take up factors of its rows (outputs) and input channels."""

    name: str
    weight: str  # state-dict name
    kernel: int  # places in the kernel: numbers of a weight for one input and one output
    rows: str | None  # name of the BN layer right after it
    inputs: str | None  # name of the normalisation before it, with nothing but ReLU in between
    groups: int = 1  # of a convolution


class Examples(Protocol):
    """Inputs of a network, a tensor or what makes one of them when it is sliced."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | list[int]) -> torch.Tensor: ...


def layers(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Layer]:
    """`find` on random pictures, small ones where the network takes any size."""
    side = min(input_shape[1], 64)
    try:
        return find(network, torch.rand(2, input_shape[0], side, side, generator=torch.Generator().manual_seed(0)))
    except RuntimeError:  # a flattened size that fits only the true one
        return find(network, torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0)))


@torch.no_grad()
def find(network: nn.Module, x: torch.Tensor) -> list[Layer]:
    """Layers in the order in which the network, in eval mode, runs them for the inputs x.

    Left out is what has no weight of its own: one that is computed, or that an earlier layer has. A normalisation takes up
    factors of a layer if the network's output stays the same when the layer is scaled by them and the normalisation by their
    inverse: that is tried out. The network's weights are restored.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    order: list[tuple[str, nn.Module]] = []
    handles = [
        m.register_forward_pre_hook(lambda module, _, name=name: order.append((name, module)))
        for name, m in network.named_modules()
        if isinstance(m, (*WEIGHTED, *NORMS))
    ]
    try:
        reference = logits(network(x))
    finally:
        for handle in handles:
            handle.remove()
    scale = max(float(reference.abs().max()), 1e-6)

    def unchanged() -> bool:
        return float((logits(network(x)) - reference).abs().max()) < 1e-3 * scale

    records, seen = [], set()
    for i, (name, module) in enumerate(order):
        if isinstance(module, NORMS) or parameters.get(f"{name}.weight") is not module.weight or id(module.weight) in seen:
            continue
        seen.add(id(module.weight))
        after = order[i + 1] if i + 1 < len(order) else ("", None)
        before = next(((n, m) for n, m in order[:i][::-1] if isinstance(m, NORMS)), ("", None))
        rows = inputs = None
        statistics = after[1].running_mean if isinstance(after[1], BATCH_NORM) else None
        if statistics is not None and len(statistics) == len(module.weight):
            with _scaled_rows(module, after[1]):
                rows = after[0] if unchanged() else None
        channels = module.weight.shape[1]
        if getattr(before[1], "weight", None) is not None and before[1].weight.shape == (channels,):
            with _scaled_inputs(module, before[1]):
                inputs = before[0] if unchanged() else None
        kernel = math.prod(module.weight.shape[2:])
        records.append(Layer(name, f"{name}.weight", kernel, rows, inputs, getattr(module, "groups", 1)))
    return records


def logits(out: object) -> torch.Tensor:
    """What a network returned as (N, classes): its "logits" or first tensor; a row for each place of an output with places."""
    if isinstance(out, Mapping):
        out = out["logits"] if "logits" in out else next(iter(out.values()))
    while isinstance(out, (tuple, list)):
        out = out[0]
    if not isinstance(out, torch.Tensor) or out.dim() < 2:
        raise ValueError("the network returns no batch of outputs: a tensor (N, classes), or that in a tuple or dict")
    if out.dim() > 3:
        out = out.movedim(1, -1)
    return out.reshape(-1, out.shape[-1])


@torch.no_grad()
def activations(network: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Bytes of the outputs of all layers together, and of the largest, for each example of x."""
    sizes = [0]

    def hook(module: nn.Module, inputs: tuple, out: object) -> None:
        if isinstance(out, torch.Tensor):
            sizes.append(out.numel() * out.element_size())

    handles = [m.register_forward_hook(hook) for m in network.modules() if not any(True for _ in m.children())]
    network(x)
    for handle in handles:
        handle.remove()
    return sum(sizes) // len(x), max(sizes) // len(x)


def batches(x: Examples, size: int = BATCH) -> Iterator[torch.Tensor]:
    for begin in range(0, len(x), size):
        batch = x[begin : begin + size]
        yield batch.to(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def sensitivity(
    network: nn.Module, x: Examples, names: list[str], seed: int = 0, size: int = BATCH // 2, tensors: Sequence[str] | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(tensors by name, logits). Tensors of the outputs of each layer, (O,): "NAME/importance" s, "NAME/mean", "NAME/variance".

    Also the importance of every scale and bias of BN and every bias of a layer, by its state-dict name. An error in one of
    those is the same at all positions of an image, so the slopes are summed over positions before they are squared. With
    `tensors` it is that of these parameters instead, of each number: the probes of different images are independent, so
    squares of a batch's slopes serve.

    Each image takes one backward pass of the logits times (diag(p) - p p^T)^(1/2) noise. The expected outer product of that
    vector is the Hessian of the KL divergence in the logits, so squared slopes estimate second derivatives.
    """
    generator, modules = torch.Generator().manual_seed(seed), dict(network.named_modules())
    sums: dict[str, torch.Tensor] = {}

    def add(key: str, value: torch.Tensor) -> None:
        sums[key] = sums[key] + value.double() if key in sums else value.double()

    positions: dict[str, float] = {}
    zero = torch.zeros((), requires_grad=True)  # added to the first outputs: what follows has slopes, and may work in place

    def watch(name: str):
        def hook(module, inputs, out):
            channel = out.dim() - 1 if isinstance(module, nn.Linear) else 1
            dims = tuple(i for i in range(out.dim()) if i != channel)
            flat = out.detach().float()
            add(f"{name}/mean", flat.sum(dims))
            add(f"{name}/variance", (flat * flat).sum(dims))
            positions[name] = positions.get(name, 0) + out.numel() // out.shape[channel]
            if not out.requires_grad:
                out = out + zero.to(out.dtype)
            elif out._is_view():  # what works on a view in place loses its hooks
                out = out.clone()
            out.register_hook(lambda gradient: add(f"{name}/importance", gradient.float().square().sum(dims)))
            return out

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
    if tensors is None:
        vectors = [n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d) or (n in names and m.bias is not None)]
        handles += [modules[name].register_forward_hook(watch_vectors(name)) for name in vectors]
    watched = {name: network.get_parameter(name).requires_grad_(True) for name in tensors or ()}
    answers = []
    bar = tqdm(total=len(x), desc="importance of outputs", disable=None)
    for batch in batches(x, size):
        out = logits(network(batch))
        p = torch.softmax(out.detach().float() / TEMPERATURE, 1)
        noise = torch.randn(p.shape, generator=generator)
        probe = p.sqrt() * noise - p * (p.sqrt() * noise).sum(1, keepdim=True)
        (out.float() * probe).sum().backward()
        for name, parameter in watched.items():
            if parameter.grad is not None:
                add(name, parameter.grad.float().square())
                parameter.grad = None
        answers.append(out.detach().float())
        bar.update(len(batch))
    for handle in handles:
        handle.remove()
    for parameter in watched.values():
        parameter.requires_grad_(False)
    for key in sums:
        sums[key] /= positions[key.rpartition("/")[0]] if key.endswith(("/mean", "/variance")) else len(x)
    for name in names:
        sums[f"{name}/variance"] -= sums[f"{name}/mean"] ** 2
    return {key: value.float() for key, value in sums.items()}, torch.cat(answers)


@torch.no_grad()
def covariances(
    network: nn.Module, x: Examples, names: Sequence[str], seed: int = 0, size: int = 2 * BATCH
) -> dict[str, torch.Tensor]:
    """Covariance (d, d) of every layer's input patches, shrunk towards its diagonal (Ledoit & Wolf 2004).

    One for each group (G, d, d) of a convolution in groups. It is a covariance, not a second moment: the error that a mean
    input causes is made up for by the bias that follows every layer. For the strength of shrinkage, the positions of one image
    count as at most 16 independent samples.
    """
    modules = dict(network.named_modules())
    sums: dict[str, list] = {}
    generator = torch.Generator().manual_seed(seed)

    def watch(name: str):
        def hook(module, inputs):
            rows, places = patches(inputs[0], module, len(x), generator)
            if name not in sums:
                first = rows.mean(-2, keepdim=True)
                square = torch.zeros(*rows.shape[:-2], rows.shape[-1], rows.shape[-1])
                sums[name] = [square, torch.zeros_like(first, dtype=torch.float64), 0, first, places]
            total = sums[name]
            rows = rows - total[3]  # not in place: these may be the activations themselves
            if rows.dim() == 2:
                for begin in range(0, rows.shape[1], BLOCK):  # the upper half alone, without a copy of the whole
                    total[0][begin : begin + BLOCK, begin:].addmm_(rows[:, begin : begin + BLOCK].T, rows[:, begin:])
            else:
                total[0].baddbmm_(rows.transpose(1, 2), rows)
            total[1] += rows.sum(-2, keepdim=True, dtype=torch.float64)
            total[2] += rows.shape[-2]

        return hook

    handles = [modules[name].register_forward_pre_hook(watch(name)) for name in names]
    bar = tqdm(total=len(x), desc="second-order statistics", disable=None)
    for batch in batches(x, size):
        network(batch)
        bar.update(len(batch))
    for handle in handles:
        handle.remove()
    out = {}
    for name in names:
        total, sums_of_rows, count, _, places = sums.pop(name)
        mean = (sums_of_rows / count).float()
        h = total.div_(count)
        if h.dim() == 2:
            for begin in range(0, len(h), BLOCK):
                end = begin + BLOCK
                h[end:, begin:end] = h[begin:end, end:].T
            h.addmm_(mean.T, mean, alpha=-1)
        else:
            h.baddbmm_(mean.transpose(1, 2), mean, alpha=-1)
        variance = h.diagonal(dim1=-2, dim2=-1).clone()  # (d,) or (G, d)
        independent = len(x) * min(places, 16)
        off = torch.linalg.matrix_norm(h).square() - variance.square().sum(-1)
        shrink = (variance.sum(-1).square() / independent / off.clamp_min(1e-30)).clamp_max(1.0)
        h.mul_((1 - shrink)[..., None, None])
        h.diagonal(dim1=-2, dim2=-1).copy_(variance + 1e-3 * variance.mean(-1, keepdim=True).clamp_min(1e-12))
        out[name] = h
    return out


def patches(x: torch.Tensor, module: nn.Module, images: int, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """What the layer multiplies its weights with, float32 (N, d), at some positions of each image; and how many of them.

    For a convolution in G groups (G, N, d).
    """
    if isinstance(module, nn.Linear):
        places = math.prod(x.shape[1:-1])
        count = _count(x.shape[-1], places, images)
        if count < places:
            x = x.reshape(len(x), places, -1)[:, torch.randperm(places, generator=generator)[:count]]
        return x.reshape(-1, x.shape[-1]).float(), count
    pad = _padding(module)
    if any(map(any, pad)):
        x = F.pad(x, [side for pair in pad[::-1] for side in pair])
    axes = list(zip(x.shape[2:], module.kernel_size, module.stride, module.dilation, strict=True))
    outputs = [(side - dilation * (k - 1) - 1) // stride + 1 for side, k, stride, dilation in axes]
    b, groups, places = len(x), module.groups, math.prod(outputs)
    d = x.shape[1] // groups * math.prod(module.kernel_size)
    count = _count(d, places, images)
    place = np.unravel_index(torch.randperm(places, generator=generator)[:count].numpy(), outputs)
    offset = np.indices(module.kernel_size).reshape(len(axes), -1)
    index = np.ravel_multi_index(
        [offset[i][:, None] * dilation + place[i] * stride for i, (_, _, stride, dilation) in enumerate(axes)], x.shape[2:]
    )
    cut = x.flatten(2)[:, :, torch.from_numpy(index)]  # (B, C, kernel, count)
    cut = cut.reshape(b, groups, -1, count).permute(1, 0, 3, 2).reshape(groups, b * count, d).float()
    return (cut[0] if groups == 1 else cut), count


def _count(d: int, places: int, images: int) -> int:
    """Positions of each image from which a Hessian of size d is estimated."""
    return min(max(1, math.ceil(max(POSITIONS * d, 12_000) / images)), places)


def _padding(module: nn.Module) -> list[tuple[int, int]]:
    """(before, after) along each side, as numbers; what a convolution pads with counts as zero."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [dilation * (k - 1) for k, dilation in zip(module.kernel_size, module.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(side, side) for side in module.padding]


@contextmanager
def _scaled_rows(module: nn.Module, after: nn.Module) -> Iterator[None]:
    """Another factor for each output of a layer, and the inverse in the statistics of the BN layer right after it."""
    c = torch.linspace(0.5, 2, len(module.weight))
    with ExitStack() as stack:
        stack.enter_context(_scaled(module.weight, _along(c, module.weight, 0)))
        if module.bias is not None:
            stack.enter_context(_scaled(module.bias, c))
        stack.enter_context(_scaled(after.running_mean, c))
        stack.enter_context(_scaled(after.running_var, c * c, after.eps))
        yield


@contextmanager
def _scaled_inputs(module: nn.Module, before: nn.Module) -> Iterator[None]:
    """Another factor for each input channel of a layer, and the inverse in the normalisation before it."""
    c = torch.linspace(0.5, 2, module.weight.shape[1])
    with ExitStack() as stack:
        stack.enter_context(_scaled(module.weight, _along(1 / c, module.weight, 1)))
        stack.enter_context(_scaled(before.weight, c))
        if before.bias is not None:
            stack.enter_context(_scaled(before.bias, c))
        yield


@contextmanager
def _scaled(parameter: torch.Tensor, factor: torch.Tensor, shift: float = 0.0) -> Iterator[None]:
    """The parameter plus `shift` scaled by a factor, for a while."""
    values = parameter.data.clone()
    parameter.data.add_(shift).mul_(factor).sub_(shift)
    try:
        yield
    finally:
        parameter.data.copy_(values)


def _along(values: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    return values.reshape([-1 if i == axis else 1 for i in range(weight.dim())])
