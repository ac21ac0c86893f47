"""One layer of a network, rounded at a given price of a bit: its latents, its steps, its integers, and its weights again.

    W --to_latents--> y = T theta --steps--> y / step --rounding--> q --unround--> W

The best step of uniform quantisation at the price lambda is c sqrt(lambda / (s h)), with s the importance of the output and
h that of the input (the diagonal of H, given the inputs that are rounded later). The steps of a layer are a product: a
factor for each row (output), for each input channel and for each place of the kernel. A file stores those of the places
alone: the factor of a row goes into the scale of the BN layer that follows, the factor of an input channel into that of
the BN layer before, if there are such layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
STRIP = 64  # channels of a Hessian that are transformed at a time
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
    """H of the latents, (d, d) or (G, d, d): (I x B) H (I x B)^T for the basis B of a kernel. In the memory of `hessian`."""
    matrix = reparam.basis(decoder, kernel)
    if matrix is None:
        return hessian
    b = matrix.T.astype(np.float32)
    for square in hessian if hessian.ndim == 3 else [hessian]:
        step = STRIP * kernel
        for begin in range(0, len(square), step):
            rows = square[begin : begin + step]
            rows[:] = (rows.reshape(-1, kernel) @ b).reshape(rows.shape)
        for begin in range(0, len(square), step):
            rows = square[begin : begin + step].T
            rows[:] = (rows.reshape(-1, kernel) @ b).reshape(rows.shape)
        rounding.transpose(square)
    return hessian


class Rounder:
    """One layer under one decoder: rounds at any price.

    load: gives H (d, d) or (G, d, d), float32, in memory of its own. H and its factor are as large as each other, and larger
    than the layer: there is one of them in memory at a time.
    """

    def __init__(self, layer: Layer, decoder: str, weight: np.ndarray, load: Callable[[], np.ndarray], importance: np.ndarray):
        self.layer, self.decoder, self.load = layer, decoder, load
        flat = np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)
        self.kernel = layer.kernel if decoder == "sq" or reparam.basis(decoder, layer.kernel) is not None else 1
        self.y = to_latents(decoder, flat, self.kernel)
        if layer.rows is None:  # no BN layer could take up factors of the rows
            importance = np.full_like(importance, importance.mean())
        self.importance = 0.5 * np.maximum(importance, max(FLOOR * float(importance.mean()), 1e-20)).astype(np.float32)

    def hessian(self) -> np.ndarray:
        """That of the latents."""
        return transform_hessian(self.decoder, self.load(), self.kernel)

    def steps(self, factor: rounding.Factor) -> tuple[float, np.ndarray, np.ndarray]:
        """Geometric mean of the columns' importance h, and factors of the steps of the kernel's places and of input channels."""
        log = np.log(rounding.conditional(factor))
        log = log.reshape(-1, log.shape[-1]).mean(0).reshape(-1, self.kernel)  # (I, kernel), the mean of all groups
        shares = log.mean() / 2 - log / 2
        places = np.exp(np.clip(shares.mean(0), -SPREAD, SPREAD)) if self.kernel > 1 else np.ones(1)
        inputs = np.exp(np.clip(shares.mean(1), -SPREAD, SPREAD)) if self.layer.inputs else np.ones(len(log))
        return float(np.exp(log.mean())), places, inputs.astype(np.float32)

    def round(self, lam: float) -> Rounded:
        """Integers at `lam` nats a bit."""
        return self.round_at([lam])[0]

    def round_at(self, prices: Sequence[float], sweeps: int = SWEEPS, most_rows: int | None = None) -> list[Rounded]:
        """Integers at each price; with `most_rows` of that many rows only, for estimates, where all share a Hessian."""
        whole = most_rows is None or most_rows >= len(self.y) or self.layer.groups > 1
        chosen = slice(None) if whole else np.linspace(0, len(self.y) - 1, most_rows).astype(int)
        importance, results = self.importance[chosen], []
        factor = rounding.factorise(self.hessian)
        typical_h, place_factors, inputs = self.steps(factor)
        for lam in prices:
            base = STEP * math.sqrt(lam / typical_h)
            if self.layer.rows is None:
                rows = np.ones(len(importance), np.float32)
                base /= math.sqrt(float(np.exp(np.log(importance).mean())))
            else:
                rows = 1 / np.sqrt(importance)
                typical = float(np.exp(np.log(rows).mean()))
                rows, base = (rows / typical).astype(np.float32), base * typical
            places = codec.psi_round(np.float32(base * place_factors))
            result = Rounded(np.empty(0), rows, inputs, places, 0.0, 0.0)
            y, columns, weight = self._scaled(chosen, result)
            result.q = rounding.sequential(y, None, weight, lam, rounding.sketch(y, self.kernel), factor, columns)
            results.append(result)
            del y
        del factor
        h = self.hessian()
        for number, lam in enumerate(prices):
            results[number] = self._descended(chosen, results[number], h, lam, sweeps)
        return results

    def refine(self, rounded: Rounded, lam: float) -> Rounded:
        """The same steps at another price: one more sweep."""
        return self._descended(slice(None), rounded, self.hessian(), lam, 1)

    def _scaled(self, chosen, rounded: Rounded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latents in units of the steps, the steps of columns, and the importance of rows in units of theirs."""
        columns = (rounded.inputs[:, None] * rounded.places[None, :]).reshape(-1)
        y = self.y[chosen] / rounded.rows[:, None]
        y /= columns
        return y, columns, self.importance[chosen] * rounded.rows * rounded.rows

    def _descended(self, chosen, rounded: Rounded, h: np.ndarray, lam: float, sweeps: int) -> Rounded:
        y, columns, weight = self._scaled(chosen, rounded)
        q, _ = rounding.sweep(y, rounded.q, h, weight, lam, self.kernel, sweeps, columns)
        rate = rounding.Rate.fit(q, self.kernel)
        error = rounding.objective(y, q, h, weight, 0.0, rate, columns)
        return replace(rounded, q=q, error=error, bits=rate.bits(q))


def unround(decoder: str, rounded: Rounded) -> np.ndarray:
    """The weights as the network with its own BN has them, float32 (O, I * kernel)."""
    kernel = len(rounded.places)
    w = from_latents(decoder, rounded.q * np.tile(rounded.places, rounded.q.shape[1] // kernel), kernel)
    w *= rounded.rows[:, None]
    w *= np.repeat(rounded.inputs, kernel)
    return w
