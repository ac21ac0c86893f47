"""Direct compression, LC's baseline: quantise the trained network once, whatever that does to the loss.

With `steps` in the recipe it is iterated direct compression: train without a penalty for `l_steps`, put the weights on
their nearest codebook, train on from there, and so on; the last quantised network is stored.
"""

from __future__ import annotations

import math

import torch

from benchmarks.methods.lc import LC, CodebookOptions


class Direct(LC):
    """LC without penalty and multipliers; its `l_steps` are the steps between two quantisations."""

    Options = CodebookOptions

    def mu(self, step: int) -> float:
        return 0.0

    def max_lr(self, step: int) -> float:
        return math.inf

    def regularise(self, step: int, generator: torch.Generator) -> None:
        """Adds nothing: between two quantisations the weights follow the loss alone."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if self.ends_l_step(step):
            self.c_step(0.0)
            for latent in self.latents:
                latent.theta.copy_(latent.target)


METHOD = Direct
