"""LC: learning-compression with quantisation (Carreira-Perpinan & Idelbayev 2017, "part II").

    minimise L(w)  subject to  w = Delta(Theta):   Theta = a codebook and an assignment for each layer

      w --L step: SGD on L(w) + mu/2 |w - Delta - lambda/mu|^2--> w --C step: nearest codebook--> Delta
      ^                                                                                            |
      `---- mu <- mu * factor,  lambda <- lambda - mu (w - Delta) <--------------------------------'

It starts from a trained network. mu grows until w and Delta agree; Delta is what the file holds, exactly quantised.
Biases stay real-valued: the file has them on a grid too fine to matter. The C steps are in benchmarks/methods/codebooks.py.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from benchmarks.methods import Method, ParameterSet
from benchmarks.methods.codebooks import KINDS, Quantiser
from benchmarks.methods.common import Fine
from benchmarks.training.tables import Listed, Table
from zoo import codec, partitionings
from zoo.codec import Coded, psi_round
from zoo.compress.coding import shortest
from zoo.partitionings import Group

SMALLEST = ("static", "context")


class CodebookOptions(Table):
    """What LC and direct compression have in common. The codebook is one of `benchmarks.methods.codebooks.Quantiser`."""

    codebook: Literal[KINDS] = "adaptive"
    k: int = 2  # entries of an adaptive codebook
    c: int = 5  # pow2 goes down to 2^-c
    entries: Annotated[tuple[float, ...], Listed] = ()  # of a fixed codebook
    scaled: bool = False  # whether a learned scale multiplies a codebook that is not adaptive
    exact: bool = False  # the global optimum of k-means at every C step
    l_steps: int = Field(200, gt=0)  # training steps between two C steps
    bits: int = 10  # of the grid of the biases
    model: str = "smallest"  # entropy model of the indices; "smallest": whichever of SMALLEST makes the shortest file

    @model_validator(mode="after")
    def _possible(self):
        self.quantiser()
        return self

    def quantiser(self) -> Quantiser:
        return Quantiser(self.codebook, self.k, self.c, self.entries, self.scaled, self.exact)


class LC(Method):
    """Weights, multipliers and codebooks of one network."""

    class Options(CodebookOptions):
        mu: float = Field(1e-3, gt=0)  # weight of the penalty in the first L step
        mu_last: float = Field(10.0, gt=0)  # and in the last one; it grows exponentially in between

    def __init__(self, network, partitioning, options, steps):
        super().__init__(network, partitioning, options, steps)
        weights = dict(network.named_parameters())
        quantiser = self.options.quantiser()
        self.latents = nn.ModuleList(
            Latent(group, torch.cat([weights[t].detach().reshape(-1) for t in group.tensors]), quantiser)
            for group in self.groups
            if group.kind == "weight"
        )
        self.fine = Fine([group for group in self.groups if group.kind != "weight"], weights, self.options.bits)
        self.register_buffer("distance", torch.zeros(()))
        self.c_step(self.mu(0))  # of the starting network: direct compression

    def mu(self, step: int) -> float:
        """The penalty's weight during `step`: constant within an L step, exponential over all of them."""
        o = self.options
        last = max(1, math.ceil(self.steps / o.l_steps) - 1)
        share = min(1.0, (step // o.l_steps) / last)
        return o.mu * (o.mu_last / o.mu) ** share

    def max_lr(self, step: int) -> float:
        """1 / mu: above it, a step along the penalty's gradient would overshoot."""
        return 1 / self.mu(step)

    def parameter_sets(self) -> list[ParameterSet]:
        return [ParameterSet([*(latent.theta for latent in self.latents), *self.fine.parameters()])]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """The continuous w, or with `averaged` the quantised network that `finish` stores."""
        state = {}
        for latent in self.latents:
            state |= latent.weights(averaged)
        return state | self.fine.weights(averaged)

    @torch.no_grad()
    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds mu (w - Delta - lambda/mu), the penalty's gradient, to that of the loss."""
        mu = self.mu(step)
        for latent in self.latents:
            latent.theta.grad.add_(latent.theta, alpha=mu).sub_(latent.target, alpha=mu)

    def after_step(self, step: int) -> None:
        """At the end of an L step: the C step, then the multipliers."""
        if self.ends_l_step(step):
            self.c_step(self.mu(step), self.mu(step + 1))

    def ends_l_step(self, step: int) -> bool:
        return (step + 1) % self.options.l_steps == 0 or step + 1 == self.steps

    @torch.no_grad()
    def c_step(self, mu: float, next_mu: float | None = None) -> None:
        """The C step of every group: see `Latent.c_step`."""
        squares = sum(latent.c_step(mu, next_mu) for latent in self.latents)
        self.distance.fill_(math.sqrt(squares / max(1, len(self.latents))))

    def estimate(self) -> dict[str, float]:
        """|w - Delta| / |w| of the last C step in thousandths, and the bytes of the indices at their entropy."""
        bits = sum(latent.entropy() for latent in self.latents)
        return {"bytes": bits / 8, "distance permille": 1000 * float(self.distance)}

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Indices into the entries that are in use, and biases on their fine grid."""
        coded = self.fine.finish()
        models = SMALLEST if self.options.model == "smallest" else (self.options.model,)
        for latent in self.latents:
            coded[latent.group.name] = shortest(latent.group, [latent.coded(model) for model in models])
        return {group.name: coded[group.name] for group in self.groups}

    @staticmethod
    def paper_bytes(blob: bytes) -> tuple[int, str]:
        bits = 0
        for group in codec.decode(blob, partitionings.layout)[1].values():
            if group.decoder == "codebook":
                k = group.psi["codebook"].shape[1]
                bits += group.phi.size * math.ceil(math.log2(k)) + 32 * group.psi["codebook"].size
            else:
                bits += 32 * group.phi.size
        return math.ceil(bits / 8), "ceil(log2 K) bits a weight, codebooks and biases in fp32"


class Latent(nn.Module):
    """One group: weights w (n,), its tensors one after another, and the quantised Delta = codebook[indices].

    target: Delta + lambda / mu, to which the penalty draws w; multiplier: lambda (n,); codebook: float64 (K,), nan before
    the first C step; indices: int32 (n,).
    """

    def __init__(self, group: Group, weights: torch.Tensor, quantiser: Quantiser):
        super().__init__()
        self.group, self.quantiser = group, quantiser
        self.theta = nn.Parameter(weights)
        self.register_buffer("target", weights.clone())
        self.register_buffer("multiplier", torch.zeros_like(weights))
        self.register_buffer("indices", torch.zeros(len(weights), dtype=torch.int32))
        self.register_buffer("codebook", torch.full((quantiser.size,), math.nan, dtype=torch.float64))

    def weights(self, quantised: bool) -> dict[str, torch.Tensor]:
        """State-dict name -> w, or the tensor that a file of Delta decodes to."""
        flat = self.stored_codebook().to(self.theta.device)[self.indices.long()] if quantised else self.theta
        pieces = flat.split([math.prod(shape) for shape in self.group.shapes])
        return {name: piece.reshape(s) for name, piece, s in zip(self.group.tensors, pieces, self.group.shapes, strict=True)}

    def c_step(self, mu: float, next_mu: float | None) -> float:
        """Delta = the quantised tensor nearest to w - lambda/mu; with `next_mu`, lambda <- lambda - mu (w - Delta).

        With mu = 0 there is no lambda: Delta is nearest to w. Returns |w - Delta|^2 / |w|^2.
        """
        w = self.theta.detach()
        shifted = w.sub(self.multiplier, alpha=1 / mu) if mu else w
        last = self.codebook.cpu().numpy()
        start = None if np.isnan(last).any() else last
        codebook, indices = self.quantiser.fit(shifted.cpu().numpy().astype(np.float64), start)
        self.codebook.copy_(torch.from_numpy(codebook))
        self.indices.copy_(torch.from_numpy(indices.astype(np.int32)))
        delta = torch.from_numpy(codebook.astype(np.float32)[indices]).to(w.device)
        square = float((w - delta).square().sum()) / max(float(w.square().sum()), 1e-30)
        if next_mu is not None:
            self.multiplier.sub_(w - delta, alpha=mu)
            delta = delta.add_(self.multiplier, alpha=1 / next_mu)
        self.target.copy_(delta)
        return square

    def entropy(self) -> float:
        """Bits of all indices at the entropy of their frequencies."""
        counts = torch.bincount(self.indices, minlength=self.quantiser.size).double()
        return float(torch.special.entr(counts / counts.sum()).sum() * counts.sum()) / math.log(2)

    def stored_codebook(self) -> torch.Tensor:
        """Codebook (K,) at file precision (bfloat16 values in float32)."""
        return torch.from_numpy(psi_round(self.codebook.cpu().numpy().astype(np.float32)))

    def coded(self, model: str) -> Coded:
        """Indices (n, 1) into the entries that are in use, and these entries."""
        used, phi = np.unique(self.indices.cpu().numpy(), return_inverse=True)
        codebook = self.stored_codebook().numpy()[None, used]
        return Coded("codebook", model, phi.astype(np.int32)[:, None], {"codebook": codebook})


METHOD = LC
