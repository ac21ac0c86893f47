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
from dataclasses import fields

import numpy as np
import torch
from torch import nn

from benchmarks.methods.codebooks import Quantiser
from benchmarks.methods.plain import Fine
from zoo.codec import Coded, psi_round
from zoo.compress.coding import shortest

SMALLEST = ("static", "context")
OURS = {"l_steps": 200, "mu": 1e-3, "mu_last": 10.0, "multipliers": True, "bits": 10, "model": "smallest"}


class LC(nn.Module):
    """Weights, multipliers and codebooks of one network.

    options: codebook (adaptive | fixed | binary | ternary | pow2) with k, c, entries, scaled, exact of
    `benchmarks.methods.codebooks.Quantiser`; l_steps (training steps of one L step); mu (the first) and mu_last (mu grows
    exponentially between them); multipliers (False: quadratic penalty); bits (grid of the biases, as in plain);
    model (entropy model of the indices; `smallest`: whichever of SMALLEST makes the shortest file).
    """

    own: dict = OURS

    def __init__(self, network: nn.Module, partitioning, options: dict, steps: int):
        super().__init__()
        kinds = {f.name for f in fields(Quantiser)} - {"kind"}
        self.options = {"codebook": "adaptive", **self.own, **options}
        if unknown := set(options) - set(self.own) - kinds - {"codebook"}:
            names = sorted({"codebook", *self.own, *kinds})
            raise ValueError(f"{type(self).__name__} does not know the options {sorted(unknown)}; it has {names}")
        chosen = {k: tuple(v) if k == "entries" else v for k, v in options.items() if k in kinds}
        self.quantiser = Quantiser(self.options["codebook"], **chosen)
        self.steps = steps
        weights = dict(network.named_parameters())
        groups = [g for g in partitioning.groups if not g.name.startswith("bn.")]  # BN is folded and coded at the end
        self.order = [g.name for g in groups]
        self.groups = [g for g in groups if all(len(shape) > 1 for shape in g.shapes)]
        self.fine = Fine([g for g in groups if g not in self.groups], weights, self.options["bits"])
        self.theta = nn.ParameterList()
        for i, group in enumerate(self.groups):
            flat = torch.cat([weights[t].detach().reshape(-1) for t in group.tensors])
            self.theta.append(nn.Parameter(flat))
            self.register_buffer(f"target_{i}", flat.clone())  # Delta + lambda / mu
            self.register_buffer(f"multiplier_{i}", torch.zeros_like(flat))
            self.register_buffer(f"indices_{i}", torch.zeros(len(flat), dtype=torch.int32))
            self.register_buffer(f"codebook_{i}", torch.full((self.quantiser.size,), math.nan, dtype=torch.float64))
        self.register_buffer("distance", torch.zeros(()))
        self.c_step(self.mu(0))  # of the starting network: direct compression

    def mu(self, step: int) -> float:
        """The penalty's weight during `step`: constant within an L step, exponential over all of them."""
        last = max(1, math.ceil(self.steps / self.options["l_steps"]) - 1)
        share = min(1.0, (step // self.options["l_steps"]) / last)
        return self.options["mu"] * (self.options["mu_last"] / self.options["mu"]) ** share

    def max_lr(self, step: int) -> float:
        """1 / mu: above it, a step along the penalty's gradient would overshoot."""
        return 1 / self.mu(step)

    def parameter_sets(self) -> list[dict]:
        return [{"optimizer": "main", "params": [*self.theta, *self.fine.parameters()]}]

    def weights(self, averaged: bool = False) -> dict[str, torch.Tensor]:
        """State-dict name -> theta: the continuous w, or with `averaged` the quantised network that `finish` stores."""
        theta = {}
        for i, group in enumerate(self.groups):
            flat, start = self.theta[i], 0
            if averaged:
                flat = self.stored_codebook(i).to(flat.device)[getattr(self, f"indices_{i}").long()]
            for name, shape in zip(group.tensors, group.shapes, strict=True):
                theta[name] = flat[start : start + math.prod(shape)].reshape(shape)
                start += math.prod(shape)
        return theta | self.fine.weights(averaged)

    @torch.no_grad()
    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds mu (w - Delta - lambda/mu), the penalty's gradient, to that of the loss."""
        mu = self.mu(step)
        if mu:
            for i, theta in enumerate(self.theta):
                theta.grad.add_(theta, alpha=mu).sub_(getattr(self, f"target_{i}"), alpha=mu)

    def after_step(self, step: int) -> None:
        """At the end of an L step: the C step, then the multipliers."""
        if (step + 1) % self.options["l_steps"] and step + 1 != self.steps:
            return
        self.c_step(self.mu(step), self.mu(step + 1))

    @torch.no_grad()
    def c_step(self, mu: float, next_mu: float | None = None) -> None:
        """Delta = the quantised tensor nearest to w - lambda/mu; with `next_mu`, lambda <- lambda - mu (w - Delta)."""
        squares = 0.0
        for i, theta in enumerate(self.theta):
            multiplier = getattr(self, f"multiplier_{i}")
            shifted = theta.detach().sub(multiplier, alpha=1 / mu) if mu else theta.detach()
            last = getattr(self, f"codebook_{i}").cpu().numpy()
            start = None if np.isnan(last).any() else last
            codebook, indices = self.quantiser.fit(shifted.cpu().numpy().astype(np.float64), start)
            getattr(self, f"codebook_{i}").copy_(torch.from_numpy(codebook))
            getattr(self, f"indices_{i}").copy_(torch.from_numpy(indices.astype(np.int32)))
            delta = torch.from_numpy(codebook.astype(np.float32)[indices]).to(theta.device)
            squares += float((theta - delta).square().sum()) / max(float(theta.square().sum()), 1e-30)
            if next_mu is not None and self.options["multipliers"]:
                multiplier.sub_(theta - delta, alpha=mu)
                delta = delta.add_(multiplier, alpha=1 / next_mu)
            getattr(self, f"target_{i}").copy_(delta)
        self.distance.fill_(math.sqrt(squares / max(1, len(self.theta))))

    def estimate(self) -> dict[str, float]:
        """|w - Delta| / |w| of the last C step in percent, and the bytes of the indices at their entropy."""
        bits = 0.0
        for i in range(len(self.groups)):
            counts = torch.bincount(getattr(self, f"indices_{i}"), minlength=self.quantiser.size).double()
            bits += float(torch.special.entr(counts / counts.sum()).sum() * counts.sum()) / math.log(2)
        return {"bytes": bits / 8, "distance permille": 1000 * float(self.distance)}

    def stored_codebook(self, i: int) -> torch.Tensor:
        """Codebook (K,) of group i at file precision (bfloat16 values in float32)."""
        return torch.from_numpy(psi_round(getattr(self, f"codebook_{i}").cpu().numpy().astype(np.float32)))

    @torch.no_grad()
    def finish(self) -> dict[str, Coded]:
        """Groups of the file: indices into the entries that are in use, and biases on their fine grid."""
        coded = {}
        for i, group in enumerate(self.groups):
            entries, phi = np.unique(getattr(self, f"indices_{i}").cpu().numpy(), return_inverse=True)
            psi = {"codebook": self.stored_codebook(i).numpy()[None, entries]}
            models = SMALLEST if self.options["model"] == "smallest" else (self.options["model"],)
            options = [Coded("codebook", model, phi.astype(np.int32)[:, None], psi) for model in models]
            coded[group.name] = shortest(group, options)
        coded |= self.fine.finish()
        return {name: coded[name] for name in self.order}


def paper_bytes(groups: dict[str, Coded]) -> tuple[int, str]:
    """Size of a file's groups under the LC paper's own counting, and that counting in words."""
    bits = 0
    for group in groups.values():
        if group.decoder == "codebook":
            k = group.psi["codebook"].shape[1]
            bits += group.phi.size * math.ceil(math.log2(k)) + 32 * group.psi["codebook"].size
        else:
            bits += 32 * group.phi.size
    return math.ceil(bits / 8), "ceil(log2 K) bits a weight, codebooks and biases in fp32"


METHOD = LC
