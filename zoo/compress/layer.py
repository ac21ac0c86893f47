"""One layer of a network, rounded at a given price of a bit: its latents, its steps, its integers, and its weights again.

    W --to_latents--> y = T theta --steps--> y / step --rounding.minimise--> q --unround--> W

The best step of uniform quantisation at the price lambda is c sqrt(lambda / (s h)), with s the importance of the output and
h that of the input (the diagonal of H, given the inputs that are rounded later). The steps of a layer are a product: a
factor for each row (output), for each input channel and for each place of the kernel. A file stores those of the places
alone: the factor of a row goes into the scale of the BN layer that follows, the factor of an input channel into that of
the BN layer before, if there are such layers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from zoo import codec, reparam
from zoo.compress import rounding, tensors
from zoo.compress.calibration import Layer

FLOOR = 0.1  # least importance of an output, in shares of the layer's mean: few images tell it only roughly
STEP = 2.2  # c; high-rate theory says sqrt(6 / ln 2) = 2.9, but integers that are chosen with their bits in view want finer steps
SWEEPS = 3  # of coordinate descent
SPREAD = 1.5  # factors of steps are at least e^-1.5 and at most e^1.5


@dataclass
class Rounded:
    """Integers q of one layer and the factors of their steps: W[o, i, :] = rows[o] * inputs[i] * f(places * q[o, i, :]).

    q: float32 (O, I * kernel); rows (O,), inputs (I,), places (kernel,): float32. error: expected divergence in nats; bits:
    code length of q under `rounding.Rate`.
    """

    q: np.ndarray
    rows: np.ndarray
    inputs: np.ndarray
    places: np.ndarray
    error: float
    bits: float

    def save(self, path: Path) -> None:
        tensors.save(path, {key: torch.from_numpy(np.asarray(value)) for key, value in asdict(self).items()})

    @classmethod
    def load(cls, path: Path) -> Rounded:
        return cls(**{key: value.numpy() if value.dim() else value.item() for key, value in tensors.load(path).items()})


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
    """H of the latents, (d, d) or (G, d, d): (I x B) H (I x B)^T for the basis B of a kernel."""
    matrix = reparam.basis(decoder, kernel)
    if matrix is None:
        return hessian
    b = matrix.astype(np.float32)
    half = (hessian.reshape(-1, kernel) @ b.T).reshape(hessian.shape)
    return np.ascontiguousarray((np.swapaxes(half, -1, -2).reshape(-1, kernel) @ b.T).reshape(hessian.shape))


class Rounder:
    """One layer under one decoder: rounds at any price."""

    def __init__(self, layer: Layer, decoder: str, weight: np.ndarray, hessian: np.ndarray, importance: np.ndarray):
        self.layer, self.decoder = layer, decoder
        flat = np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)
        self.kernel = layer.kernel if decoder == "sq" or reparam.basis(decoder, layer.kernel) is not None else 1
        self.y = to_latents(decoder, flat, self.kernel)
        self.hessian = transform_hessian(decoder, np.ascontiguousarray(hessian, np.float32), self.kernel)
        if layer.rows is None:  # no BN layer could take up factors of the rows
            importance = np.full_like(importance, importance.mean())
        self.importance = 0.5 * np.maximum(importance, max(FLOOR * float(importance.mean()), 1e-20)).astype(np.float32)
        self._factor: rounding.Factor | None = None

    @property
    def factor(self) -> rounding.Factor:
        if self._factor is None:
            self._factor = rounding.factorise(self.hessian)
        return self._factor

    def steps(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Geometric mean of the columns' importance h, and factors of the steps of the kernel's places and of input channels."""
        log = np.log(rounding.conditional(self.factor))
        log = log.reshape(-1, self.hessian.shape[-1]).mean(0).reshape(-1, self.kernel)  # (I, kernel), the mean of all groups
        shares = log.mean() / 2 - log / 2
        places = np.exp(np.clip(shares.mean(0), -SPREAD, SPREAD)) if self.kernel > 1 else np.ones(1)
        inputs = np.exp(np.clip(shares.mean(1), -SPREAD, SPREAD)) if self.layer.inputs else np.ones(len(log))
        return float(np.exp(log.mean())), places, inputs.astype(np.float32)

    def round(self, lam: float, step: float = STEP, sweeps: int = SWEEPS, most_rows: int | None = None) -> Rounded:
        """Integers at `lam` nats a bit; with `most_rows` of that many rows only, for estimates, where all share a Hessian."""
        whole = most_rows is None or most_rows >= len(self.y) or self.layer.groups > 1
        chosen = slice(None) if whole else np.linspace(0, len(self.y) - 1, most_rows).astype(int)
        importance = self.importance[chosen]
        typical_h, place_factors, inputs = self.steps()
        base = step * math.sqrt(lam / typical_h)
        if self.layer.rows is None:
            rows = np.ones(len(importance), np.float32)
            base /= math.sqrt(float(np.exp(np.log(importance).mean())))
        else:
            rows = 1 / np.sqrt(importance)
            typical = float(np.exp(np.log(rows).mean()))
            rows, base = (rows / typical).astype(np.float32), base * typical
        places = codec.psi_round(np.float32(base * place_factors))
        y, h, weight = self._scaled(chosen, rows, inputs, places)
        factor = rounding.rescale(self.factor, (inputs[:, None] * places[None, :]).reshape(-1))
        q, _ = rounding.minimise(y, h, weight, lam, self.kernel, sweeps, factor)
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
        hessian = self.hessian * columns[:, None]
        hessian *= columns
        return y, hessian, self.importance[chosen] * rows * rows

    def _priced(self, rounded: Rounded, y, h, weight) -> Rounded:
        rate = rounding.Rate.fit(rounded.q, self.kernel)
        error = rounding.objective(y, rounded.q, h, weight, 0.0, rate)
        return replace(rounded, error=error, bits=rate.bits(rounded.q))


def unround(decoder: str, rounded: Rounded) -> np.ndarray:
    """The weights as the network with its own BN has them, float32 (O, I * kernel)."""
    kernel = len(rounded.places)
    w = from_latents(decoder, rounded.q * np.tile(rounded.places, rounded.q.shape[1] // kernel), kernel)
    return w * rounded.rows[:, None] * np.repeat(rounded.inputs, kernel)
