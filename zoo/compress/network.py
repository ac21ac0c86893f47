"""One of this zoo's networks rounded at one price of a bit (price.py), then BN estimated anew, tuned and coded.

Errors of rounding add up on their way through the layers. BN's statistics are therefore re-estimated afterwards, layer by
layer: each BN gives its outputs the mean and variance that they have in the uncompressed network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zoo import codec, networks, partitionings, preprocessing
from zoo.codec import Coded
from zoo.compress import bn, coding, reference, tensors, tuning
from zoo.compress.calibration import BATCH, batches, covariances, layers, sensitivity
from zoo.compress.layer import Rounded, unround
from zoo.compress.price import Layers

MATCHED = 400  # images at most on which BN is estimated anew: they pass in one batch
LARGE = 1_000_000  # integers of a group that are coded in lanes: some 0.2 % more bytes, read twice as fast
LARGEST = 2.0  # factor, up or down, by which a BN scale makes up for a change of variance


class Job(Layers):
    """Weights, calibration images and a basis of the 3x3 kernels ("dft", or "sq": none). `folder` keeps what was computed."""

    def __init__(self, weights: reference.Reference, basis: str, pixels: np.ndarray, folder: Path, seed: int = 0):
        self.reference, self.basis, self.folder, self.seed, self.pixels = weights, basis, folder, seed, pixels
        self.partitioning = partitionings.get(weights.network)
        self.state = reference.fold(weights.state)
        self.network = self._build()
        self.images = preprocessing.preprocess(weights.preprocessing)(pixels)  # (N, C, H, W)
        self.layers = layers(self._build(torch.float32), networks.spec(weights.network).input_shape)
        self.decoders = {
            tensor: ("sq" if basis == "sq" else group.decoder) if group.decoder == "dft" else "scalar"
            for group in self.partitioning.groups
            for tensor in group.tensors
        }
        self.logits: torch.Tensor | None = None

    def _build(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The uncompressed network; large ones in bfloat16, whose error is far below that of compression."""
        network = networks.build(self.reference.network)
        network.load_state_dict(self.state)
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return network.to(dtype or self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.partitioning.parameters > 5_000_000 else torch.float32

    def statistics(self) -> None:
        """Measures the uncompressed network: importance and moments of outputs, logits, moments of BN's inputs, covariances."""
        names, x = [layer.name for layer in self.layers], self.images.to(self.dtype)
        path = self.folder / "outputs.safetensors"
        if not path.is_file():
            moments, logits = sensitivity(self.network, x, names, self.seed)
            tensors.save(path, moments | {"logits": logits})
        self.outputs = tensors.load(path)
        self.logits = self.outputs.pop("logits")
        path = self.folder / "bn.safetensors"
        if not path.is_file():
            tensors.save(path, bn.statistics(self.network, {}, ((batch, None) for batch in batches(x))))
        self.bn = tensors.load(path)
        if not all(self._covariance(name).is_file() for name in names):  # they are large: each is read when it is needed
            for name, h in covariances(self.network, x, names, self.seed).items():
                tensors.save(self._covariance(name), {"covariance": h})

    @torch.no_grad()
    def compressed(self, rounded: Mapping[str, Rounded]) -> nn.Module:
        """The network with the rounded weights, in float32; BN and biases are adapted so that outputs keep their moments."""
        network = self._build()
        modules = dict(network.named_modules())
        for layer in self.layers:
            weight = torch.from_numpy(unround(self.decoders[layer.weight], rounded[layer.name]))
            modules[layer.name].weight.copy_(weight.reshape(modules[layer.name].weight.shape))
        handles, biases = [], {}
        for name, module in bn.layers(network).items():
            moments = self.bn[f"{name}.running_mean"], self.bn[f"{name}.running_var"]
            handles.append(module.float().register_forward_pre_hook(partial(match, *moments)))

        def shift(name: str, module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
            by = self.outputs[f"{name}/mean"] - out.float().mean((0, *range(2, out.dim())))
            biases[name] = self.state[f"{name}.bias"] + by
            return out + by.to(out.dtype).reshape(-1, *[1] * (out.dim() - 2))

        for layer in self.layers:
            if modules[layer.name].bias is not None:
                handles.append(modules[layer.name].register_forward_hook(partial(shift, layer.name)))
        images = self.images[:: math.ceil(len(self.images) / MATCHED)]
        # In one batch: each layer is matched before the next one runs.
        network(next(batches(images.to(self.dtype), len(images))))
        for handle in handles:
            handle.remove()
        network.float()
        for name, bias in biases.items():
            modules[name].bias.copy_(bias)
        return network

    def finish(self, network: nn.Module, rounded: Mapping[str, Rounded], epochs: float, path: Path) -> nn.Module:
        """The network with BN's scales and biases tuned, which are kept at `path`."""
        if path.is_file():
            network.load_state_dict(tensors.load(path), strict=False)
        elif epochs:
            self.tune(network, epochs)
            vectors = {name: t for name, t in network.state_dict().items() if t.dim() == 1 and t.is_floating_point()}
            tensors.save(path, vectors)
        return network

    def tune(self, network: nn.Module, epochs: float) -> None:
        """Trains BN's scales and biases to give the uncompressed network's answers on the images and their mirror images."""
        normed = bn.layers(network)
        if not normed or not epochs:
            return
        network.to(self.dtype)
        for m in normed.values():
            m.float()
        deviation = self._deviations({n: (m.weight, m.bias) for n, m in normed.items()})
        units = {f"{n}.weight": m.weight.clone() for n, m in normed.items()} | {f"{n}.bias": deviation[n] for n in normed}
        tuning.tune(network, units, self.images, self.logits, self._mirrored_logits(), epochs, self.seed, dtype=self.dtype)
        network.float()

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
            tensors.save(path, {"logits": torch.cat([self.network(b.flip(3)).float() for b in batches(x)])})
        return tensors.load(path)["logits"]

    def groups(self, network: nn.Module, rounded: Mapping[str, Rounded], lam: float) -> dict[str, Coded]:
        """All groups of the file: the layers' integers; BN and biases as integers with a step for each tensor."""
        by_weight = {layer.weight: layer for layer in self.layers}
        vectors, out = self._vectors(network, rounded, lam), {}
        for group in self.partitioning.groups:
            if group.tensors[0] in by_weight:
                results = [rounded[by_weight[t].name] for t in group.tensors]
                l = len(results[0].places)
                phi = np.concatenate([result.q.astype(np.int32).reshape(-1, l) for result in results])
                psi = {"scale": np.stack([result.places for result in results])}
                options = [Coded(self.decoders[group.tensors[0]], model, phi, psi) for model in ("static", "classes")]
            else:
                options = [coding.code([vectors[name] for name in group.tensors], 0, True)]
                options += [replace(options[0], model="classes")] if len(group.tensors) > 8 else []
            out[group.name] = coding.shortest(group, options)
            if group.size >= LARGE and out[group.name].model == "classes":
                out[group.name].model = "interleaved"
        return out

    def _vectors(self, network: nn.Module, rounded: Mapping[str, Rounded], lam: float) -> dict[str, tuple[np.ndarray, float]]:
        """Name of each scale and bias of BN and each other bias -> (values for the file, the best step at the price `lam`).

        BN's scales and biases take up the factors of rows and input channels (layer.py).
        """
        state = {name: t.detach().double().numpy() for name, t in network.named_parameters() if t.dim() == 1}
        factor = {name: np.ones(len(t)) for name, t in state.items() if name.endswith(".weight")}
        shift = {name: f.copy() for name, f in factor.items()}
        for layer in self.layers:
            integers = rounded[layer.name]
            if layer.rows:
                factor[f"{layer.rows}.weight"] *= integers.rows
            if layer.inputs:
                factor[f"{layer.inputs}.weight"] *= integers.inputs
                shift[f"{layer.inputs}.weight"] *= integers.inputs
        out = {}
        for name, value in state.items():
            weight = name.removesuffix("bias") + "weight"
            factors = factor[name] if name in factor else shift.get(weight, 1.0)
            s = self.outputs[name].double().numpy() / np.square(factors)  # (C,): of what the file holds
            step = coding.size(value * factors) * 2.0**-3
            if s.mean() > 0:
                step = min(step, math.sqrt(12 * lam / math.log(2) / float(s.mean())))
            out[name] = value * factors, step
        return out

    def encode(self, groups: dict[str, Coded]) -> bytes:
        layout = {group.name: group.shapes for group in self.partitioning.groups}
        return codec.encode(self.partitioning.network, self.partitioning.name, groups, layout)


def match(mean: torch.Tensor, variance: torch.Tensor, layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """A hook before a folded BN layer: scales and shifts the layer so that its outputs keep their mean and variance.

    mean, variance (C,): moments of the layer's input in the uncompressed network.
    """
    input_mean, input_variance = bn.moments(sum(bn.totals(batch) for batch in inputs[0].split(BATCH)))
    factor = (variance.clamp_min(bn.DEAD) / input_variance.clamp_min(bn.DEAD)).sqrt().clamp(1 / LARGEST, LARGEST)
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    layer.bias.add_(slope * ((mean - layer.running_mean) - factor * (input_mean - layer.running_mean)))
    layer.weight.mul_(factor)
