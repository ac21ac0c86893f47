"""Direct compression, LC's baseline: quantise the trained network once, without another look at the loss.

With `steps` in the recipe it is iterated direct compression: train without a penalty for `l_steps`, put the weights on
their nearest codebook, train on from there, and so on; the last quantised network is stored.
"""

from __future__ import annotations

import torch

from benchmarks.methods.lc import LC, paper_bytes  # noqa: F401  counted as the same paper's LC is


class Direct(LC):
    """options: codebook and its own as in LC, l_steps (between two quantisations), bits, model."""

    own = {"l_steps": 200, "bits": 10, "model": "smallest"}

    def mu(self, step: int) -> float:
        return 0.0

    def max_lr(self, step: int) -> float:
        return float("inf")

    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Nothing: the loss alone drives the weights between two quantisations."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if (step + 1) % self.options["l_steps"] and step + 1 != self.steps:
            return
        self.c_step(0.0)
        for i, theta in enumerate(self.theta):
            theta.copy_(getattr(self, f"target_{i}"))


METHOD = Direct
