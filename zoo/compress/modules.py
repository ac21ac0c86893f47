"""Any module rounded at one price of a bit (price.py), given examples of its input: second-order rounding for other networks.

    module, examples --find--> layers       --sensitivity, covariances--> s, H --price.Layers--> integers
                        '--> other tensors  --squared slopes-----------> step --plain.round_rows--'
                                 normalisation and biases: estimated anew, tuned, kept as numbers --'--> file of version 2

A layer's factors for its rows go into the statistics of the BN layer after it, those of its input channels into the scale of
the normalisation before it, where such layers are: the function is the same, in train mode too, though not the tensors. Tensors
of no layer (embeddings, recurrent ones, the projections of torch's attention, very wide layers) have a step each by the
mean of their squared slopes.

In memory, beside the examples: the weights, a copy of them or their integers, one layer's Hessian and its factor, as they are
and scaled, and the activations of a batch, which is made small enough for them to take about as much as the weights.
Measured on a ResNet-18 with pictures of 32 pixels: 660 MB at most, of 45 MB of weights and 85 MB for the largest Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from zoo import codec, reparam, states
from zoo.compress import bn, calibration, plain, tensors, tuning
from zoo.compress.calibration import BATCH, NORMS, Examples, batches
from zoo.compress.layer import Rounded, to_latents, unround
from zoo.compress.network import LARGEST, MATCHED
from zoo.compress.price import Layers, Stored
from zoo.compress.search import search
from zoo.states import Quantised

WIDEST = 6144  # inputs of a row that has a Hessian
LEAST_ROOM = 32 << 20  # bytes of activations that any network may take
UNKNOWN = 1 / 16  # step, in root mean squares, of a tensor that changes no answer
COARSEST = 1.0  # step of a tensor without a Hessian
Vectors = dict[str, torch.Tensor]


def compress(
    network: nn.Module, state: Mapping[str, torch.Tensor], examples: Examples, bound: int, folder: Path, *, epochs: float = 1.0,
    seed: int = 0, facts: Mapping | None = None, tell: Callable[[str], None] = print,
) -> bytes:
    """A file of at most `bound` bytes, and 99 % of them, with these tensors of the network rounded.

    network: in eval mode, float32, with the numbers of `state`, a checked state dict; it comes back as it was. facts: as
    `states.pack` takes them. Raises ValueError where no price of a bit gives that size.
    """
    job = ModuleJob(network, state, examples, folder, seed, epochs, facts)
    return search(job, bound, folder / f"bytes-{bound}", epochs, tell)


class ModuleJob(Layers):
    """A module, its checked state dict, and examples of its input."""

    def __init__(self, network: nn.Module, state: Mapping[str, torch.Tensor], examples: Examples, folder: Path, seed: int = 0,
                 epochs: float = 0.0, facts: Mapping | None = None):  # fmt: skip
        self.network, self.state, self.examples, self.folder, self.seed = network, state, examples, folder, seed
        self.epochs, self.facts, self.kinds = epochs, dict(facts or {}), plain.kinds(state)
        kind_of = {name: kind for kind, names in self.kinds.items() for name in names}
        self.decoders = {name: kind.decoder for name, kind in kind_of.items()}
        aliases = states.tied(state)
        self.layers = []
        for layer in calibration.find(network, examples[:2]):
            weight = aliases.get(layer.weight, layer.weight)
            if weight in kind_of and state[weight][0].numel() <= WIDEST:
                self.layers.append(self._with_file_types(replace(layer, weight=weight)))
        rounded = {layer.weight for layer in self.layers}
        self.others = [name for name in kind_of if name not in rounded]
        self.kept = plain.shortened(state, set(kind_of))
        room = max(LEAST_ROOM, sum(t.numel() * t.element_size() for t in state.values()))
        together, largest = calibration.activations(network, examples[:1])
        self.backward = min(max(room // max(together, 1), 1), BATCH // 2)
        self.forward = min(max(room // max(4 * largest, 1), 1), MATCHED)

    def _with_file_types(self, layer: calibration.Layer) -> calibration.Layer:
        """Without factors where what takes them up is no float32, or is in no state dict."""
        wanted = {"rows": ("running_mean", "running_var"), "inputs": ("weight",)}
        for field, leaves in wanted.items():
            names = [f"{getattr(layer, field)}.{leaf}" for leaf in leaves]
            if any(name not in self.state or self.state[name].dtype != torch.float32 for name in names):
                layer = replace(layer, **{field: None})
        return layer

    def statistics(self) -> None:
        """Measures the network: importance and moments of outputs, answers, moments of BN's inputs, covariances of inputs."""
        names, x, path = [layer.name for layer in self.layers], self.examples, self.folder / "outputs.safetensors"
        if not path.is_file():
            parameters = dict(self.network.named_parameters(remove_duplicate=False))
            measured = [name for name in self.others if name in parameters]
            with _plain_attention():
                outputs, answers = calibration.sensitivity(self.network, x, names, self.seed, self.backward, measured)
            means = {name: value.mean() if name in measured else value for name, value in outputs.items()}
            tensors.save(path, means | {"logits": answers})
        self.outputs = tensors.load(path)
        self.answers = self.outputs.pop("logits")
        path = self.folder / "bn.safetensors"
        if not path.is_file():
            small = batches(x, min(self.forward, BATCH))
            tensors.save(path, bn.statistics(self.network, {}, ((batch, None) for batch in small)))
        self.bn = tensors.load(path)
        for chunk in self._chunks([layer for layer in self.layers if not self._covariance(layer.name).is_file()]):
            hessians = calibration.covariances(self.network, x, chunk, self.seed, min(self.forward, 2 * BATCH))
            for name, h in hessians.items():
                tensors.save(self._covariance(name), {"covariance": h})

    def _chunks(self, layers: list[calibration.Layer]) -> list[list[str]]:
        """Names of layers whose Hessians take no more memory together than the weights, or than one of them."""
        room, chunks, size = sum(4 * t.numel() for t in self.state.values()), [], math.inf
        for layer in layers:
            needed = 4 * layer.groups * self.state[layer.weight][0].numel() ** 2
            if size + needed > room:
                chunks.append([])
                size = 0
            chunks[-1].append(layer.name)
            size += needed
        return chunks

    def price(self, target_bits: float, most_rows: int = 40) -> float:
        """As in `Layers`, for what is left of the bits beside everything that is not a layer's weight."""
        zeros = [Quantised(tuple(names), self._coded(names, [np.zeros_like(self._rows(n), np.int8) for n in names],
                 [np.ones(self._rows(n).shape[1], np.float32) for n in names])) for names in self.kinds.values()]  # fmt: skip
        beside = 8 * len(states.pack(self.kept, zeros, **self.facts))
        if not self.layers:
            return self._first_price(target_bits)
        beside += sum(self.state[name].numel() for name in self.others) * target_bits / states.numbers(self.state)
        return super().price(max(target_bits - beside, 0.05 * target_bits), most_rows)

    def _first_price(self, target_bits: float) -> float:
        """Where there is no layer: the price at which Gaussians take so many bits a number (Cover & Thomas, section 10.3.2)."""
        bits = target_bits / states.numbers(self.state)
        slopes = (float(self.outputs.get(name, torch.zeros(()))) for name in self.others)
        energy = [s * float(np.mean(np.square(self._rows(name)))) for name, s in zip(self.others, slopes, strict=True)]
        return max(math.log(2) * float(np.mean(energy or [0.0])) * 4.0**-bits, 1e-30)

    def round(self, lam: float, folder: Path, previous: Mapping[str, Rounded] | None = None) -> Mapping[str, Rounded]:
        """Every layer and every other tensor, which has its own name, at the price `lam`."""
        self.lam = lam
        super().round(lam, folder, previous)
        out = Stored(folder, [layer.name for layer in self.layers] + self.others)
        for name in self.others:
            if not out.path(name).is_file():
                before = previous[name] if previous else None
                self._round_other(name, lam, before).save(out.path(name))
        return out

    def _rows(self, name: str) -> np.ndarray:
        tensor = self.state[name]
        return tensor.float().numpy().reshape(-1, reparam.columns(self.decoders[name], tuple(tensor.shape)))

    def _round_other(self, name: str, lam: float, before: Rounded | None) -> Rounded:
        rows, s = self._rows(name), float(self.outputs.get(name, torch.zeros(())))
        size = plain.root_mean_square(rows) or 1.0
        step = UNKNOWN * size if s <= 0 else min(math.sqrt(12 * lam / math.log(2) / s), COARSEST * size)
        l = rows.shape[1]
        places = before.places if before else codec.psi_round(np.full(l, step, np.float32))
        y = to_latents(self.decoders[name], rows, l) / places
        price = lam / max(0.5 * s * float(places[0]) ** 2, 1e-300) if s > 0 else plain.PRICE
        q = plain.round_rows(y, min(price, 1.0)).astype(np.float32)
        error = 0.5 * s * float(np.square((y - q) * places, dtype=np.float64).sum())
        return Rounded(q, np.ones(len(q), np.float32), np.ones(1, np.float32), places, error, 0.0)

    @contextmanager
    def _rounded_network(self, rounded: Mapping[str, Rounded]) -> Iterator[nn.Module]:
        """The network with the rounded weights, and its own normalisation and biases; afterwards it is as it was."""
        modules = dict(self.network.named_modules())
        tensors_by_name = dict(self.network.named_parameters(remove_duplicate=False)) | dict(self.network.named_buffers())
        weights = {layer.weight: (layer.name, modules[layer.name].weight) for layer in self.layers}
        weights |= {name: (name, tensors_by_name[name]) for name in self.others if name in tensors_by_name}
        places = {id(tensor) for _, tensor in weights.values()}
        before = [(t, t.clone()) for t in tensors_by_name.values() if id(t) not in places]  # the state has the large ones
        try:
            for name, (key, tensor) in weights.items():
                values = torch.from_numpy(unround(self.decoders[name], rounded[key]))
                tensor.data.copy_(values.reshape(tensor.shape))
            yield self.network
        finally:
            before += [(tensor, self.state[name]) for name, (_, tensor) in weights.items()]
            for tensor, values in before:
                tensor.data.copy_(values)

    @torch.no_grad()
    def compressed(self, rounded: Mapping[str, Rounded]) -> Vectors:
        """Statistics of BN and biases of layers, by name, adapted so that outputs keep their moments under rounded weights."""
        with self._rounded_network(rounded) as network:
            return self._matched(network)

    def _matched(self, network: nn.Module) -> Vectors:
        vectors, handles, modules = {}, [], dict(network.named_modules())
        for name, module in bn.layers(network).items():
            if f"{name}.running_mean" in self.bn and f"{name}.running_mean" in self.state:
                vectors |= {f"{name}.{leaf}": getattr(module, leaf) for leaf in ("running_mean", "running_var")}
                moments = self.bn[f"{name}.running_mean"], self.bn[f"{name}.running_var"]
                handles.append(module.register_forward_pre_hook(partial(match, *moments)))

        def shift(name: str, module: nn.Module, inputs: tuple, out: torch.Tensor) -> torch.Tensor:
            channel = out.dim() - 1 if isinstance(module, nn.Linear) else 1
            by = self.outputs[f"{name}/mean"] - out.mean([i for i in range(out.dim()) if i != channel])
            module.bias.add_(by)
            return out + by.reshape([-1 if i == channel else 1 for i in range(out.dim())])

        for layer in self.layers:
            if modules[layer.name].bias is not None and f"{layer.name}.bias" in self.state:
                vectors[f"{layer.name}.bias"] = modules[layer.name].bias
                handles.append(modules[layer.name].register_forward_hook(partial(shift, layer.name)))
        count = min(len(self.examples), self.forward)
        chosen = [i * len(self.examples) // count for i in range(count)]
        network(self.examples[chosen])  # in one batch: each layer is matched before the next one runs
        for handle in handles:
            handle.remove()
        self.untuned = set(vectors)
        return {name: value.detach().clone() for name, value in vectors.items()}

    def finish(self, vectors: Vectors, rounded: Mapping[str, Rounded], epochs: float, path: Path) -> Vectors:
        """With scales and biases of normalisation and biases of layers tuned, which are kept at `path`."""
        if not epochs:
            return vectors
        self.untuned = set()
        if not path.is_file():
            mirrored = self._mirrored()
            with self._rounded_network(rounded) as network, _plain_attention():
                network.load_state_dict(vectors, strict=False)
                units = self._units(network)
                tuning.tune(network, units, self.examples, self.answers, mirrored, epochs, self.seed,
                            size=min(max(self.backward, 4), BATCH))  # fmt: skip
                tensors.save(path, vectors | {name: network.get_parameter(name).detach() for name in units})
        return tensors.load(path)

    def _units(self, network: nn.Module) -> Vectors:
        units = {}
        for name, module in network.named_modules():
            if isinstance(module, NORMS) and getattr(module, "weight", None) is not None:
                units[f"{name}.weight"] = module.weight.detach().clone()
                if module.bias is not None:
                    units[f"{name}.bias"] = module.weight.detach().abs()
        for layer in self.layers:
            units[f"{layer.name}.bias"] = self.outputs[f"{layer.name}/variance"].clamp_min(1e-12).sqrt()
        first = {name for name, tensor in self.state.items() if tensor.is_floating_point()} - set(states.tied(self.state))
        return {name: unit for name, unit in units.items() if name in first}

    @torch.no_grad()
    def _mirrored(self) -> torch.Tensor | None:
        first = self.examples[:1]
        if first.dim() != 4 or not first.is_floating_point():
            return None
        path = self.folder / "mirrored.safetensors"
        if not path.is_file():
            bar = tqdm(batches(self.examples, min(self.forward, BATCH)), desc="answers to mirror images", disable=None)
            tensors.save(path, {"logits": torch.cat([calibration.logits(self.network(batch.flip(3))) for batch in bar])})
        return tensors.load(path)["logits"]

    def groups(self, vectors: Vectors, rounded: Mapping[str, Rounded], lam: float) -> tuple[Vectors, list[Quantised]]:
        """What the file keeps as numbers, with the factors of rows and input channels taken up, and its groups of integers."""
        self.significant = plain.SIGNIFICANT - round(2 * math.log2(lam / self.lam))
        expected = self._like_tuned(vectors) if self.epochs else {}
        vectors = {name: expected.get(name, vectors.get(name, self.state[name])).float() for name in self.state
                   if name in vectors or (self.state[name].dim() == 1 and self.state[name].is_floating_point())}  # fmt: skip
        modules, key = dict(self.network.named_modules()), {name: name for name in self.others}
        for layer in self.layers:
            key[layer.weight] = layer.name
            if not (layer.rows or layer.inputs):
                continue
            result = rounded[layer.name]
            rows, inputs = torch.from_numpy(result.rows), torch.from_numpy(result.inputs)
            if layer.inputs:
                for leaf in ("weight", "bias"):
                    if f"{layer.inputs}.{leaf}" in vectors:
                        vectors[f"{layer.inputs}.{leaf}"] = vectors[f"{layer.inputs}.{leaf}"] * inputs
            if layer.rows:
                if f"{layer.name}.bias" in vectors:
                    vectors[f"{layer.name}.bias"] = vectors[f"{layer.name}.bias"] / rows
                _divide(vectors, layer.rows, rows, modules[layer.rows].eps)
        quantised = []
        for names in self.kinds.values():
            phi, places = [], []
            for name in names:
                result = rounded[key[name]]
                phi.append(plain.narrow(result.q).reshape(-1, len(result.places)))
                places.append(result.places)
            quantised.append(Quantised(tuple(names), self._coded(names, phi, places)))
        return vectors, quantised

    def _like_tuned(self, vectors: Vectors) -> Vectors:
        """What will be tuned, each number a little different: as a file takes it that is not tuned yet."""
        generator, out = torch.Generator().manual_seed(self.seed), {}
        for name, unit in self._units(self.network).items():
            if name not in vectors or name in self.untuned:
                value = vectors.get(name, self.state[name]).float()
                out[name] = value + 0.01 * unit * torch.randn(value.shape, generator=generator)
        return out

    def _coded(self, names: list[str], phi: list[np.ndarray], places: list[np.ndarray]) -> codec.Coded:
        kind = next(kind for kind, members in self.kinds.items() if names[0] in members)
        return plain.coded(kind, names, tuple(tuple(self.state[name].shape) for name in names), places, phi)

    def encode(self, groups: tuple[Vectors, list[Quantised]]) -> bytes:
        vectors, quantised = groups
        aliases = states.tied(self.state)
        state = dict(self.kept)
        for name, value in vectors.items():
            if name not in aliases:
                value = value.to(self.state[name].dtype).contiguous()
                state[name] = plain.shorten(value, self.significant) if value.dtype == torch.float32 else value
        state |= {name: state[first] for name, first in aliases.items()}
        return states.pack(state, quantised, **self.facts)


def match(mean: torch.Tensor, variance: torch.Tensor, layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Before a BN layer runs: moves its statistics so that its outputs have the mean and variance that inputs with these
    moments (C,) had.
    """
    input_mean, input_variance = bn.moments(sum(bn.totals(batch) for batch in inputs[0].split(BATCH)))
    factor = (input_variance.clamp_min(bn.DEAD) / variance.clamp_min(bn.DEAD)).sqrt().clamp(1 / LARGEST, LARGEST)
    layer.running_mean.copy_(input_mean - factor * (mean - layer.running_mean))
    layer.running_var.copy_(((layer.running_var + layer.eps) * factor.square() - layer.eps).clamp_min(0))


def _divide(vectors: Vectors, name: str, rows: torch.Tensor, eps: float) -> None:
    """The statistics of a BN layer for inputs divided by `rows` (C,); where its epsilon is all, the scale takes the rest up."""
    before = vectors[f"{name}.running_var"] + eps
    after = (before / rows.square()).clamp_min(eps)
    vectors[f"{name}.running_mean"] = vectors[f"{name}.running_mean"] / rows
    vectors[f"{name}.running_var"] = after - eps
    if f"{name}.weight" in vectors:
        vectors[f"{name}.weight"] = vectors[f"{name}.weight"] * (after.sqrt() * rows / before.sqrt())


class _plain_attention:
    """torch's attention as its layers, not as one fused operation that no hook sees."""

    def __enter__(self) -> None:
        self.before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *_) -> None:
        torch.backends.mha.set_fastpath_enabled(self.before)
