"""Compression without training: weights in, a model file of a given size out, by rate-aware second-order rounding.

    python -m benchmarks compress resnet50 --weights keras/resnet50 --method dft --bytes 5.4MB --calibration DIR

    weights --fold BN--> scale, bias        calibration images --> H of each layer's input, importance s of its outputs
       |                                                              |
       '--> steps --> latents T theta / step --rounding.minimise--> integers   (lambda: the one that gives the bytes)
                                                                      |
            BN scales and biases tuned towards the uncompressed network's answers --> integers --> model file

The expected damage to the answers (KL divergence, to second order) of an error e in the weights of output o is taken as
s_o e^T H e / 2, with H the covariance of the inputs and s_o the Fisher information of the output, summed over
its positions (Martens & Grosse 2015, K-FAC, section 3, whose G is cut to its diagonal here). So nats are traded for bits at
one price lambda in all layers.
A step is c sqrt(lambda / (s h)), what uniform quantisation wants at that price; BN's
scale takes up the factor of each output channel, and that of an input channel where only BN and ReLU precede.

Everything slow is kept in the work folder (default runs/compress/...): a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks import curve, evaluate, finish, reference, rounding
from zoo import codec, data, networks, partitionings, preprocessing, registry, reparam, verify
from zoo.codec import Coded
from zoo.registry import write

BATCH = 20  # images
POSITIONS = 4  # times the size of a Hessian: how many output positions it is estimated from, if there are as many
TEMPERATURE = 2.0  # of the answers whose divergence counts: at 1 confident images would say nothing
FLOOR = 0.1  # of a layer's mean importance: few images know a channel's importance only roughly
STEP = 2.2  # c; high-rate theory says sqrt(6 / ln 2) = 2.9, choices made with the rate in view want finer steps
SWEEPS = 3
FINER = 8.0  # how much cheaper a bit of BN is: its errors add up over all positions, and it is 1 % of the file
ATTEMPTS = 12  # prices tried until the bytes are met
NEAR = 0.03  # of the bytes: up to there another sweep at another price does, without new steps
EPOCHS = 1.0
IMAGES = 300


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer, and the BN layers that can take up factors of its rows and input channels."""

    name: str
    weight: str  # state-dict name
    kernel: int  # places in the kernel: numbers of a weight for one input and one output
    rows: str | None
    inputs: str | None


def layers(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Layer]:
    """Layers in the order in which the network runs them; which BN takes up what is found by trying.

    Raises nothing; the network's weights are as before afterwards.
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
            wanted = network(x)
        except RuntimeError:  # a flattened size that fits only the true one
            order.clear()
            x = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0))
            wanted = network(x)
        for handle in handles:
            handle.remove()
        scale = max(float(wanted.abs().max()), 1e-6)

        def same() -> bool:
            return float((network(x) - wanted).abs().max()) < 1e-3 * scale

        found = []
        for i, (name, module) in enumerate(order):
            if isinstance(module, nn.BatchNorm2d):
                continue
            after = next(((n, m) for n, m in order[i + 1 : i + 2] if isinstance(m, nn.BatchNorm2d)), None)
            before = next(((n, m) for n, m in order[:i][::-1] if isinstance(m, nn.BatchNorm2d)), None)
            rows = inputs = None
            if after and after[1].num_features == len(module.weight) and module.bias is None:
                c = torch.linspace(0.5, 2, len(module.weight))
                with _scaled(module.weight, _along(c, module.weight, 0)), _scaled(after[1].weight, 1 / c):
                    rows = after[0] if same() else None
            if before and before[1].num_features == module.weight.shape[1]:
                c = torch.linspace(0.5, 2, module.weight.shape[1])
                inverse = _along(1 / c, module.weight, 1)
                with _scaled(module.weight, inverse), _scaled(before[1].weight, c), _scaled(before[1].bias, c):
                    inputs = before[0] if same() else None
            found.append(Layer(name, f"{name}.weight", math.prod(module.weight.shape[2:]), rows, inputs))
    return found


# ------------------------------------------------------------------------------------------- statistics


def pictures(folder: str, name: str, most: int, keep_out: int | None) -> tuple[np.ndarray, data.ImageFolder | None]:
    """Calibration images as the network sees them, uint8 (N, H, W[, C]), and the pictures kept out of them.

    folder: pictures by class folder, of which the last of every `keep_out` is kept out; or "mnist", "cifar10" for the
    last images of these training sets. At most `most` are used, evenly spaced.
    """
    if folder in ("mnist", "cifar10"):
        return np.asarray(data.load(folder, "train").pixels[-most:]), None
    found, spec = data.image_folder(folder, None), preprocessing.SPECS[name]
    kept, order = None, list(range(len(found)))
    if keep_out:
        out = order[keep_out - 1 :: keep_out]
        kept = data.ImageFolder(found.root, [found.paths[i] for i in out], found.labels[out], found.class_names)
        order = [i for i in order if i % keep_out != keep_out - 1]
    count = min(most, len(order))
    order = [order[i * len(order) // count] for i in range(count)]
    bar = tqdm(order, desc="calibration images", disable=None)
    return np.stack([np.asarray(preprocessing.resize_and_crop(spec, found[i][0])) for i in bar]), kept


def batches(x: torch.Tensor, size: int = BATCH) -> Iterator[torch.Tensor]:
    for begin in range(0, len(x), size):
        part = x[begin : begin + size]
        yield part.to(memory_format=torch.channels_last) if part.dim() == 4 else part


def sensitivity(
    network: nn.Module, x: torch.Tensor, names: list[str], seed: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Importance s (O,) of each layer's outputs, rows "mean", "variance" of them, and the network's logits.

    One backward pass an image with the random probe (diag(p) - p p^T)^(1/2) noise: its expected outer product is
    the Hessian of the KL divergence in the logits.
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

    handles = [modules[name].register_forward_hook(watch(name)) for name in names]
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
    """Covariance (d, d) of every layer's input patches, shrunk towards its diagonal by as much as its noise asks for.

    The mean is left out because the bias that follows every layer takes up the error it causes. Shrinkage: Ledoit &
    Wolf 2004 with the diagonal as target; positions of one image count as at most 16 independent ones.
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
        total, first, count, _, places = sums.pop(name)
        mean = (first / count).float()
        h = total.div_(count).sub_(torch.outer(mean, mean))
        own = h.diagonal().clone()
        independent = len(x) * min(places, 16)
        off = float(h.square().sum() - own.square().sum())
        shrink = min(1.0, float(own.sum()) ** 2 / independent / max(off, 1e-30))
        h.mul_(1 - shrink)
        h.diagonal().copy_(own + 1e-3 * own.mean().clamp_min(1e-12))
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


# --------------------------------------------------------------------------------------------- rounding


@dataclass
class Rounded:
    """Integers of one layer and what turns them into weights: W = rows_o inputs_i f(integers, places).

    q: float32 (O, I * kernel); rows (O,), inputs (I,), places (kernel,): float32. error is in nats, bits as priced.
    """

    q: np.ndarray
    rows: np.ndarray
    inputs: np.ndarray
    places: np.ndarray
    error: float
    bits: float

    def save(self, path: Path) -> None:
        arrays = {"q": self.q.astype(np.int32), "rows": self.rows, "inputs": self.inputs, "places": self.places}
        tensors = {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
        _save(tensors, path, error=self.error, bits=self.bits)

    @classmethod
    def load(cls, path: Path) -> Rounded:
        with safe_open(path, framework="np") as file:
            a = {key: file.get_tensor(key) for key in ("q", "rows", "inputs", "places")}
            more = {key: float(value) for key, value in file.metadata().items()}
        return cls(a["q"].astype(np.float32), a["rows"], a["inputs"], a["places"], more["error"], more["bits"])


def to_latents(decoder: str, rows: np.ndarray, kernel: int) -> np.ndarray:
    """y = T theta for weights (O, I * kernel), in float32."""
    matrix = reparam.basis(decoder, kernel)
    if matrix is None:
        return rows
    return (rows.reshape(-1, kernel) @ matrix.T.astype(np.float32)).reshape(rows.shape)


def from_latents(decoder: str, rows: np.ndarray, kernel: int) -> np.ndarray:
    matrix = reparam.basis(decoder, kernel)
    if matrix is None:
        return rows
    return (rows.reshape(-1, kernel) @ matrix.astype(np.float32)).reshape(rows.shape)


def transform_hessian(decoder: str, hessian: np.ndarray, kernel: int) -> np.ndarray:
    """H of the latents: (I x B) H (I x B)^T for the basis B of a kernel."""
    matrix = reparam.basis(decoder, kernel)
    if matrix is None:
        return hessian
    d = len(hessian)
    b = matrix.astype(np.float32)
    half = (hessian.reshape(-1, kernel) @ b.T).reshape(d, d)
    return np.ascontiguousarray((half.T.reshape(-1, kernel) @ b.T).reshape(d, d))


class Rounder:
    """One layer under one decoder: rounds at any price."""

    def __init__(self, layer: Layer, decoder: str, weight: np.ndarray, hessian: np.ndarray, importance: np.ndarray):
        self.layer, self.decoder = layer, decoder
        flat = np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)
        self.kernel = layer.kernel if decoder == "sq" or reparam.basis(decoder, layer.kernel) is not None else 1
        self.y = to_latents(decoder, flat, self.kernel)
        self.hessian = transform_hessian(decoder, np.ascontiguousarray(hessian, np.float32), self.kernel)
        if layer.rows is None:  # nobody follows who would tell which outputs matter for images yet to come
            importance = np.full_like(importance, importance.mean())
        self.importance = 0.5 * np.maximum(importance, max(FLOOR * float(importance.mean()), 1e-20)).astype(np.float32)
        self._factor: rounding.Factor | None = None

    @property
    def factor(self) -> rounding.Factor:
        if self._factor is None:
            self._factor = rounding.factorise(self.hessian)
        return self._factor

    def steps(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Typical curvature of a column, and relative steps of the kernel's places and of input channels."""
        log = np.log(rounding.conditional(self.factor)).reshape(-1, self.kernel)
        wanted = log.mean() / 2 - log / 2
        places = np.exp(np.clip(wanted.mean(0), -1.5, 1.5)) if self.kernel > 1 else np.ones(1)
        inputs = np.exp(np.clip(wanted.mean(1), -1.5, 1.5)) if self.layer.inputs else np.ones(len(log))
        return float(np.exp(log.mean())), places, inputs.astype(np.float32)

    def round(self, lam: float, step: float = STEP, sweeps: int = SWEEPS, some: int | None = None) -> Rounded:
        """Integers at `lam` nats a bit; `some`: of that many rows only, for estimates."""
        chosen = slice(None) if some is None or some >= len(self.y) else np.linspace(0, len(self.y) - 1, some).astype(int)
        importance = self.importance[chosen]
        level, relative, inputs = self.steps()
        base = step * math.sqrt(lam / level)
        if self.layer.rows is None:
            rows = np.ones(len(importance), np.float32)
            base /= math.sqrt(float(np.exp(np.log(importance).mean())))
        else:
            rows = 1 / np.sqrt(importance)
            typical = float(np.exp(np.log(rows).mean()))
            rows, base = (rows / typical).astype(np.float32), base * typical
        places = codec.psi_round(np.float32(base * relative))
        y, h, weight = self._scaled(chosen, rows, inputs, places)
        known = rounding.rescale(self.factor, (inputs[:, None] * places[None, :]).reshape(-1))
        q, _ = rounding.minimise(y, h, weight, lam, self.kernel, sweeps, known)
        return self._priced(Rounded(q, rows, inputs, places, 0.0, 0.0), y, h, weight)

    def refine(self, rounded: Rounded, lam: float) -> Rounded:
        """The same steps at another price: one more sweep."""
        y, h, weight = self._scaled(slice(None), rounded.rows, rounded.inputs, rounded.places)
        q = rounding.descend(y, rounded.q, h, weight, lam, rounding.Rate.fit(rounded.q, self.kernel))
        return self._priced(replace(rounded, q=q), y, h, weight)

    def _scaled(self, chosen, rows, inputs, places) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latents, Hessian and importance in units of the steps."""
        columns = (inputs[:, None] * places[None, :]).reshape(-1)
        y = self.y[chosen] / rows[:, None] / columns
        return y, self.hessian * columns[:, None] * columns, self.importance[chosen] * rows * rows

    def _priced(self, rounded: Rounded, y, h, weight) -> Rounded:
        rate = rounding.Rate.fit(rounded.q, self.kernel)
        error = rounding.objective(y, rounded.q, h, weight, 0.0, rate)
        return replace(rounded, error=error, bits=rate.bits(rounded.q))


def unround(decoder: str, rounded: Rounded) -> np.ndarray:
    """The weights as the network with its own BN has them, float32 (O, I * kernel)."""
    kernel = len(rounded.places)
    w = from_latents(decoder, rounded.q * np.tile(rounded.places, rounded.q.shape[1] // kernel), kernel)
    return w * rounded.rows[:, None] * np.repeat(rounded.inputs, kernel)


# ----------------------------------------------------------------------------------------- compression


class Job:
    """Weights, calibration images and a method; `statistics` and `round` keep what they find in `folder`."""

    def __init__(self, weights: reference.Reference, method: str, pixels: np.ndarray, folder: Path, seed: int = 0):
        self.reference, self.method, self.folder, self.seed, self.pixels = weights, method, folder, seed, pixels
        self.partitioning = partitionings.get(weights.network)
        self.state = reference.fold(weights.state)
        self.network = self._build()
        self.images = preprocessing.preprocess(weights.preprocessing)(pixels)  # (N, C, H, W)
        self.layers = layers(self._build(torch.float32), networks.spec(weights.network).input_shape)
        self.decoders = {
            tensor: ("sq" if method == "sq" else group.decoder) if group.decoder == "dft" else "scalar"
            for group in self.partitioning.groups
            for tensor in group.tensors
        }
        self.logits: torch.Tensor | None = None

    def _build(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The uncompressed network; large ones in bfloat16, whose error is far below what compression does."""
        network = networks.build(self.reference.network)
        network.load_state_dict(self.state)
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return network.to(dtype or self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.partitioning.parameters > 5_000_000 else torch.float32

    def statistics(self) -> None:
        """Importance and moments of outputs, logits, covariances of inputs: read, or found and kept."""
        names, x = [layer.name for layer in self.layers], self.images.to(self.dtype)
        path = self.folder / "outputs.safetensors"
        if not path.is_file():
            found, logits = sensitivity(self.network, x, names, self.seed)
            _save(found | {"logits": logits}, path)
        with safe_open(path, framework="pt") as file:
            self.outputs = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        self.logits = self.outputs.pop("logits")
        path = self.folder / "inputs.safetensors"
        if not path.is_file():
            _save(covariances(self.network, x, names, self.seed), path)
        self.inputs = safe_open(path, framework="np")

    def rounder(self, layer: Layer) -> Rounder:
        weight = self.state[layer.weight].numpy()
        importance = self.outputs[f"{layer.name}/importance"].numpy()
        return Rounder(layer, self.decoders[layer.weight], weight, self.inputs.get_tensor(layer.name), importance)

    def price(self, target_bits: float, some: int = 40) -> float:
        """The lambda at which all layers together should take so many bits, from a few rows of each."""
        start, sizes, found = self._first_guess(target_bits), [], []
        guesses = (4.0, 1.0, 0.25)
        for layer in tqdm(self.layers, desc="price of a bit", disable=None):
            rounder = self.rounder(layer)
            parts = [rounder.round(start * guess, sweeps=1, some=some) for guess in guesses]
            found.append([part.bits / part.q.size for part in parts])
            sizes.append(rounder.y.size)
        bits = np.array(found).T @ np.array(sizes)
        return float(start * np.exp(np.interp(0.95 * target_bits, bits, np.log(guesses))))

    def _first_guess(self, target_bits: float) -> float:
        """Reverse water-filling over weights as if they were independent Gaussians (Cover & Thomas, section 10.3.3)."""
        energy, count = [], []
        for layer in self.layers:
            h = np.diag(self.inputs.get_tensor(layer.name))
            w = self.state[layer.weight].numpy().reshape(-1, len(h))[:: max(1, len(self.state[layer.weight]) // 32)]
            s = float(self.outputs[f"{layer.name}/importance"].mean())
            energy.append(0.1 * s * w * w * h)  # a tenth: what is left once other columns adapt
            count.append(self.state[layer.weight].numel())
        low, high = -40.0, 10.0
        while high - low > 0.1:
            middle = (low + high) / 2
            each = [np.maximum(0.5 * np.log2(e / math.exp(middle) + 1e-30), 0).mean() for e in energy]
            rate = sum(n * bits for n, bits in zip(count, each, strict=True))
            low, high = (middle, high) if rate > target_bits else (low, middle)
        return math.exp(low)

    def round(self, lam: float, folder: Path, previous: dict[str, Rounded] | None = None) -> dict[str, Rounded]:
        """Every layer at `lam`, anew or from a previous result by one more sweep; layers that `folder` has are read."""
        out = {}
        for layer in tqdm(self.layers, desc=f"rounding at {lam:.3g} nats a bit", disable=None):
            path = folder / f"{layer.name}.safetensors"
            if path.is_file():
                out[layer.name] = Rounded.load(path)
                continue
            rounder = self.rounder(layer)
            out[layer.name] = rounder.refine(previous[layer.name], lam) if previous else rounder.round(lam)
            out[layer.name].save(path)
        return out

    def compressed(self, rounded: dict[str, Rounded]) -> nn.Module:
        """The network with the rounded weights, of the layers that were rounded, and its old BN; float32."""
        network = self._build(torch.float32)
        modules = dict(network.named_modules())
        for layer in self.layers:
            if layer.name not in rounded:
                continue
            weight = unround(self.decoders[layer.weight], rounded[layer.name])
            modules[layer.name].weight.copy_(torch.from_numpy(weight.reshape(self.state[layer.weight].shape)))
        return network

    def tune(self, network: nn.Module, epochs: float, rate: float = 2e-3) -> None:
        """BN's scales and biases towards the uncompressed network's answers on the images and their mirror images.

        Loss: KL divergence at TEMPERATURE; Adam on relative changes of scales, and on biases in units of their
        channel's deviation.
        """
        modules = dict(network.named_modules())
        bn = {name: m for name, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
        if not bn or not epochs:
            return
        mirrored = self._mirrored_logits()
        network.to(self.dtype)
        for m in bn.values():
            m.float()
        start = {n: (m.weight.clone(), m.bias.clone()) for n, m in bn.items()}
        moved = {n: tuple(torch.zeros_like(p, requires_grad=True) for p in (m.weight, m.bias)) for n, m in bn.items()}
        deviation = self._deviations(start)
        optimizer = torch.optim.Adam([p for pair in moved.values() for p in pair], lr=rate, betas=(0.9, 0.99))
        generator = torch.Generator().manual_seed(self.seed)
        steps = max(1, round(epochs * len(self.images) / BATCH))
        bar = tqdm(range(steps), desc="tuning", disable=None)
        order: list[int] = []
        for step in bar:
            while len(order) < BATCH:
                order += torch.randperm(len(self.images), generator=generator).tolist()
            chosen, order = order[:BATCH], order[BATCH:]
            flip = bool(torch.randint(2, (), generator=generator))
            x = self.images[chosen].to(self.dtype).to(memory_format=torch.channels_last)
            wanted = (mirrored if flip else self.logits)[chosen]
            values = {}
            for n, (u, v) in moved.items():
                values[f"{n}.weight"] = start[n][0] * (1 + u)
                values[f"{n}.bias"] = start[n][1] + deviation[n] * v
            logits = functional_call(network, values, (x.flip(3) if flip else x,)).float()
            loss = divergence(wanted, logits, TEMPERATURE).mean() * TEMPERATURE**2
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
            bar.set_postfix_str(f"divergence {loss.item():.4f}")
        network.float()
        with torch.no_grad():
            for n, (u, v) in moved.items():
                bn[n].weight.copy_(start[n][0] * (1 + u))
                bn[n].bias.copy_(start[n][1] + deviation[n] * v)

    def _deviations(self, start: dict) -> dict[str, torch.Tensor]:
        """Standard deviation of each BN layer's output, where a layer runs right before it; else the size of its scale."""
        out = {name: weight.abs() for name, (weight, _) in start.items()}
        for layer in self.layers:
            if layer.rows:
                out[layer.rows] = start[layer.rows][0].abs() * self.outputs[f"{layer.name}/variance"].clamp_min(1e-12).sqrt()
        return out

    @torch.no_grad()
    def _mirrored_logits(self) -> torch.Tensor:
        path = self.folder / "mirrored.safetensors"
        if not path.is_file():
            x = self.images.to(self.dtype)
            _save({"logits": torch.cat([self.network(b.flip(3)).float() for b in batches(x)])}, path)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("logits")

    def groups(self, network: nn.Module, rounded: dict[str, Rounded], lam: float) -> dict[str, Coded]:
        """All groups of the file: integers of the layers, and BN, biases in integers of a step each tensor."""
        state = network.state_dict()
        factor = {name: np.ones(len(t)) for name, t in state.items() if name.endswith(".weight") and t.dim() == 1}
        shift = {name: f.copy() for name, f in factor.items()}
        for layer in self.layers:
            found = rounded[layer.name]
            if layer.rows:
                factor[f"{layer.rows}.weight"] *= found.rows
            if layer.inputs:
                factor[f"{layer.inputs}.weight"] *= found.inputs
                shift[f"{layer.inputs}.weight"] *= found.inputs
        by_weight = {layer.weight: layer for layer in self.layers}
        by_vector = {f"{layer.rows or layer.name}.{kind}": layer for layer in self.layers for kind in ("weight", "bias")}
        out = {}
        for group in self.partitioning.groups:
            if group.tensors[0] in by_weight:
                parts = [rounded[by_weight[t].name] for t in group.tensors]
                l = len(parts[0].places)
                phi = np.concatenate([part.q.astype(np.int32).reshape(-1, l) for part in parts])
                psi = {"scale": np.stack([part.places for part in parts])}
                coded = [Coded(self.decoders[group.tensors[0]], model, phi, psi) for model in ("static", "classes")]
            else:
                values = []
                for name in group.tensors:
                    value = state[name].double().numpy()
                    layer, weight = by_vector.get(name), name.removesuffix("bias") + "weight"
                    bn = weight in factor
                    grown = value * (factor[name] if name in factor else shift[weight] if bn else 1.0)
                    step = finish._size(grown) * 2.0**-6
                    if layer is not None:
                        s = self.outputs[f"{layer.name}/importance"].double().numpy() / 2
                        if bn:
                            v = self.outputs[f"{layer.name}/variance"].double().numpy()
                            scale = state[weight].double().numpy()
                            if name == weight:
                                s = s * v / np.maximum(np.abs(grown), 1e-3 * np.abs(grown).max() + 1e-20) ** 2
                            else:
                                taken = np.abs(scale * shift[weight])
                                s = s / np.maximum(taken, 1e-3 * taken.max() + 1e-20) ** 2
                        if s.mean() > 0:
                            step = min(8 * step, math.sqrt(6 * lam / FINER / math.log(2) / float(s.mean())))
                    values.append((grown, step))
                coded = [finish.code(values, 0, True)]
                coded += [replace(coded[0], model="classes")] if len(group.tensors) > 8 else []
            out[group.name] = finish.shortest(group, coded)
        return out

    def encode(self, groups: dict[str, Coded]) -> bytes:
        layout = {group.name: group.shapes for group in self.partitioning.groups}
        return codec.encode(self.partitioning.network, self.partitioning.name, groups, layout)


def divergence(wanted: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL divergence (nats) of answers from those wanted: (N, classes) twice -> (N,)."""
    p, q = torch.log_softmax(wanted / temperature, 1), torch.log_softmax(logits / temperature, 1)
    return (p.exp() * (p - q)).sum(1)


# ------------------------------------------------------------------------------------------- the command


def compress(job: Job, target: int, folder: Path, epochs: float = 0.0, lam: float | None = None) -> bytes:
    """A file of at most `target` bytes, and within 1 % of them; `folder` keeps every attempt, so it goes on after a stop.

    Raises ValueError where no price gives that.
    """
    job.statistics()
    path = folder / "search.json"
    state = json.loads(path.read_text()) if path.is_file() else {}
    if not state:
        state = {"lam": lam or job.price(8 * target), "full": True, "tried": []}
        write(path, json.dumps(state).encode())
    rounded = None
    for attempt in range(ATTEMPTS):
        done = attempt < len(state["tried"])
        lam, full = state["tried"][attempt][:2] if done else (state["lam"], state["full"])
        rounded = job.round(lam, folder / f"attempt-{attempt}", None if full else rounded)
        if not done:
            network = job.compressed(rounded)
            size = len(job.encode(job.groups(network, rounded, lam)))
            state["tried"].append([lam, full, size])
            error = sum(layer.error for layer in rounded.values())
            print(f"{lam:.4g} nats a bit: {size:,} bytes of {target:,}, expected divergence {error:.4f}", flush=True)
            state["lam"], state["full"] = _next_price(state["tried"], 0.9965 * target)
            write(path, json.dumps(state).encode())
        if 0.9905 * target <= state["tried"][attempt][2] <= 0.9985 * target:
            break
    else:
        raise ValueError(f"no price of a bit gives {target:,} bytes; found {state['tried']}")
    network = job.compressed(rounded)
    path = folder / f"tuned-{epochs:g}.safetensors"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()}, strict=False)  # noqa: SIM118
    elif epochs:
        job.tune(network, epochs)
        vectors = {name: t for name, t in network.state_dict().items() if t.dim() == 1 and t.is_floating_point()}
        _save(vectors, path)
    for coarser in (1.0, 1.3, 1.7, 2.5, 4.0):
        blob = job.encode(job.groups(network, rounded, lam * coarser))
        if len(blob) <= target:
            return blob
    raise ValueError(f"BN's scales and biases take more than what was kept for them: {len(blob):,} bytes of {target:,}")


def _next_price(tried: list[list], goal: float) -> tuple[float, bool]:
    """The next price, and whether to round anew at it: near the goal another sweep does, with the steps as they are.

    The line through the last two attempts of a kind, log bytes against log price; a sweep moves far less than new steps.
    """
    lam, _, size = tried[-1]
    full = abs(math.log(size / goal)) > NEAR
    slope, steepest, flattest = (-0.35, -1.0, -0.15) if full else (-0.06, -0.5, -0.02)
    same = [t for t in tried[:-1] if t[0] != lam and t[2] != size]
    if same and (full or not tried[-1][1]):
        slope = min(max(math.log(same[-1][2] / size) / math.log(same[-1][0] / lam), steepest), flattest)
    return lam * math.exp(math.log(goal / size) / slope), full


def parse_bytes(text: str) -> int:
    """"5.4MB", "400 kB", "123456": decimal units. Raises ValueError."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kKM]?)B?\s*", text)
    if not found:
        raise ValueError(f"{text!r} is no size; write 5.4MB, 400kB or a number of bytes")
    return round(float(found[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[found[2]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help="a network of the zoo, e.g. resnet50 or resnet18:10")
    parser.add_argument("--weights", required=True, help=f"{', '.join(reference.SOURCES)}, or a .safetensors file")
    parser.add_argument("--method", choices=("dft", "sq"), default="dft", help="basis of the 3x3 kernels (default: %(default)s)")
    parser.add_argument("--bytes", required=True, help="bound of the whole file, e.g. 5.4MB; it is met within 1 %%")
    parser.add_argument("--calibration", required=True, help="folder of pictures by class; mnist, cifar10 (training)")
    parser.add_argument("--preprocessing", choices=preprocessing.SPECS, help="of a .safetensors file (default: the network's)")
    parser.add_argument("--keep-out", type=int, metavar="N", help="leave every N-th picture, the last of N, for measuring")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of tuning BN (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=IMAGES, help="calibration pictures at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write an entry there, e.g. artifacts/resnet50-dft")
    parser.add_argument("--curve", type=Path, metavar="CSV", help="add the result to a table and its figure")
    parser.add_argument("--replace-unpublished", action="store_true", help="overwrite an entry that nobody has seen")
    parser.add_argument("--work", type=Path, help="work folder (default: runs/compress/NETWORK-...)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more pay only on an idle machine (default: 1)")


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    target, started = parse_bytes(args.bytes), time.perf_counter()
    weights = reference.load(args.weights, args.network, args.preprocessing)
    pixels, kept = pictures(args.calibration, weights.preprocessing, args.images, args.keep_out)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    identity = f"{args.network}-{weights.digest[:8]}-{digest[:8]}-{args.seed}".replace(":", "-")
    base = args.work or Path("runs") / "compress" / identity
    print(f"{weights.source}: {weights.license}\n{len(pixels)} calibration images; work folder {base}")
    job = Job(weights, args.method, pixels, base, args.seed)
    folder = base / f"{args.method}-{target}"
    blob = compress(job, target, folder, args.epochs)
    write(folder / "model.zoo", blob)
    print(f"{folder / 'model.zoo'}: {len(blob):,} bytes, {time.perf_counter() - started:.0f} s")
    found, sample = measure(blob, weights, kept)
    if sample is not None:
        print(f"kept-out images: {sample.agreement} of {len(kept)} answered as by {weights.source}, {sample.errors} errors")
    if args.curve and sample is not None:
        curve.add(args.curve, point(args.method, blob, args.epochs, weights, sample))
    if args.out:
        options = f"--method {args.method} --bytes {args.bytes} --epochs {args.epochs:g} --images {args.images}"
        command = f"python -m benchmarks compress {args.network} --weights {args.weights} {options} --calibration DIR"
        command += f" --keep-out {args.keep_out}" if args.keep_out else ""
        publish(args.out, blob, weights, found, sample, command, f"{args.network}/epr-{args.method}", args.replace_unpublished)
    return 0


def measure(blob: bytes, weights: reference.Reference, kept: data.ImageFolder | None):
    """What `zoo.measure` finds of a file, and the sample that compares it with the uncompressed network on pictures kept out."""
    dataset = preprocessing.SPECS[weights.preprocessing].dataset
    found = verify.measure(blob, kept, dataset=dataset, preprocess=weights.preprocessing)
    if kept is None:
        return found, None
    network, transform = weights.build(), preprocessing.preprocess(weights.preprocessing)
    answers = []
    with torch.inference_mode():
        for begin in range(0, len(kept), BATCH):
            pictures = [kept[i][0] for i in range(begin, min(begin + BATCH, len(kept)))]
            answers.append(network(transform(pictures)).argmax(1))
    wanted = torch.cat(answers).numpy()
    return found, verify.Sample(tuple(kept.paths), np.asarray(kept.labels), found.predictions, wanted)


def point(method: str, blob: bytes, epochs: float, weights: reference.Reference, sample: verify.Sample) -> dict:
    """A row of the table of agreement against bytes."""
    return {
        "method": method,
        "bytes": len(blob),
        "images": len(sample.paths),
        "agreement": sample.agreement,
        "errors": sample.errors,
        "reference_errors": int((sample.reference != sample.labels).sum()),
        "tuned_epochs": f"{epochs:g}",
        "weights": weights.source,
        "sha256": hashlib.sha256(blob).hexdigest(),
    }


def publish(
    out: Path, blob: bytes, weights: reference.Reference, found, sample, command: str, quoted: str, replace_unpublished: bool
) -> None:
    """Writes the entry's folder `out` with its record; the official test set stays unmeasured (`zoo verify ID --data PATH`).

    quoted: key of the published row that the entry stands beside, if there is one.
    """
    answers = replace(found, test_set=None, examples=None, errors=None, predictions=None)
    facts, extra = {}, {}
    if sample is not None:
        note = "images from the training split of ImageNet, kept out of calibration; no validation error"
        facts["sample"] = sample.record(f"{len(sample.paths)} ImageNet training images", found.test_set, weights.source, note)
        extra[verify.SAMPLE] = sample.to_bytes()
    evaluate.write_entry(
        out.name, blob, answers, out.parent, method="obs",
        dataset=preprocessing.SPECS[weights.preprocessing].dataset, preprocessing=weights.preprocessing,
        log=(command + "\n").encode(), extra=extra, replace=replace_unpublished, license=weights.license,
        weights_source=weights.record(), selection="one run of the command in train.log",
        quoted=quoted if quoted in registry.quoted() else None,
        recipe=None, seed=0, **facts,
    )  # fmt: skip


@contextmanager
def _scaled(parameter: torch.Tensor, factor: torch.Tensor) -> Iterator[None]:
    kept = parameter.data.clone()
    parameter.data.mul_(factor)
    try:
        yield
    finally:
        parameter.data.copy_(kept)


def _along(values: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    return values.reshape([-1 if i == axis else 1 for i in range(weight.dim())])


def _save(tensors: dict[str, torch.Tensor], path: Path, **metadata: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file({k: t.contiguous() for k, t in tensors.items()}, part, metadata={k: str(v) for k, v in metadata.items()})
    os.replace(part, path)
