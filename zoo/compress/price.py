"""All layers of a network rounded at one price of a bit.

An error e in the weights of output o is expected to change the answers by a KL divergence of s_o e^T H e / 2 nats, with H
the covariance of the inputs and s_o the Fisher information of the output, summed over its positions. (That is K-FAC,
Martens & Grosse 2015, section 3, with the diagonal of G alone.) Error and rate are then in one unit for all layers, so one
price lambda, in nats a bit, serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from zoo.compress import tensors
from zoo.compress.calibration import Layer
from zoo.compress.layer import Rounded, Rounder


class Stored(Mapping[str, Rounded]):
    """Results of rounding by name, in files: one is in memory at a time."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder, self.names = folder, names

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def __getitem__(self, name: str) -> Rounded:
        return Rounded.load(self.path(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Layers:
    """What a subclass measured of a network, and its layers rounded at any price. Results are kept in `folder`, and read there.

    layers; decoders by the name of a weight; state, the weights; outputs, what `calibration.sensitivity` found.
    """

    layers: list[Layer]
    decoders: dict[str, str]
    state: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    folder: Path

    def _covariance(self, name: str) -> Path:
        return self.folder / "inputs" / f"{name}.safetensors"

    def covariance(self, layer: Layer) -> np.ndarray:
        """H (d, d) of the layer's input patches, or (G, d, d)."""
        return tensors.load(self._covariance(layer.name))["covariance"].numpy()

    def _weight(self, layer: Layer) -> np.ndarray:
        return self.state[layer.weight].float().numpy()

    def rounder(self, layer: Layer) -> Rounder:
        importance = self.outputs[f"{layer.name}/importance"].numpy()
        return Rounder(layer, self.decoders[layer.weight], self._weight(layer), partial(self.covariance, layer), importance)

    def price(self, target_bits: float, most_rows: int = 40) -> float:
        """An estimate of the lambda at which all layers together take so many bits, from `most_rows` rows of each."""
        start, sizes, bits_each = self._first_guess(target_bits), [], []
        guesses = (64.0, 16.0, 4.0)
        for layer in tqdm(self.layers, desc="price of a bit", disable=None):
            rounder = self.rounder(layer)
            trials = rounder.round_at([start * guess for guess in guesses], sweeps=1, most_rows=most_rows)
            bits_each.append([trial.bits / trial.q.size for trial in trials])
            sizes.append(rounder.y.size)
        bits = np.array(bits_each).T @ np.array(sizes)
        return float(start * np.exp(np.interp(0.95 * target_bits, bits, np.log(guesses))))

    def _first_guess(self, target_bits: float) -> float:
        """Reverse water-filling over weights as if they were independent Gaussians (Cover & Thomas, section 10.3.3)."""
        energy, count = [], []
        for layer in self.layers:
            h = np.diagonal(self.covariance(layer), axis1=-2, axis2=-1)
            h = h.reshape(-1, h.shape[-1]).mean(0)
            weight = self._weight(layer)
            w = weight.reshape(-1, len(h))[:: max(1, len(weight) // 32)]
            s = float(self.outputs[f"{layer.name}/importance"].mean())
            energy.append(0.1 * s * w * w * h)  # a tenth: what is left once other columns adapt
            count.append(weight.size)
        low, high = -40.0, 10.0
        while high - low > 0.1:
            middle = (low + high) / 2
            bits_a_weight = [np.maximum(0.5 * np.log2(e / math.exp(middle) + 1e-30), 0).mean() for e in energy]
            rate = sum(n * bits for n, bits in zip(count, bits_a_weight, strict=True))
            low, high = (middle, high) if rate > target_bits else (low, middle)
        return math.exp(low)

    def round(self, lam: float, folder: Path, previous: Mapping[str, Rounded] | None = None) -> Mapping[str, Rounded]:
        """Every layer at the price `lam`: anew, or by one more sweep from a previous result. Layers in `folder` are read."""
        out = Stored(folder, [layer.name for layer in self.layers])
        for layer in tqdm(self.layers, desc=f"rounding at {lam:.3g} nats a bit", disable=None):
            if out.path(layer.name).is_file():
                continue
            rounder = self.rounder(layer)
            rounded = rounder.refine(previous[layer.name], lam) if previous else rounder.round(lam)
            rounded.save(out.path(layer.name))
        return out
