"""Compression methods, one file each. `find("epr")` imports benchmarks/methods/epr.py and returns its METHOD.

A method owns the trainable form of a network's parameter groups. `train.py` calls it in this order:

    method = METHOD(network, partitioning, options, steps)   start: from the network's present weights
    method.parameter_sets()                                  what is optimised: {"params", "optimizer": main, psi, density},
                                                             "lr" of its own, whether weights "decay", how many weights
                                                             a "unit" of the parameter is (SGD's rate is one for weights)
    every step:  method.weights()                            name -> theta, differentiable, for the forward pass
                 method.regularise(step, generator)          adds the gradients of its penalty (the rate), after backward
                 method.after_step(step)                     averages, C steps, projections
                 method.estimate()                           {"bits", "bytes", ...} for the progress bar
                 method.max_lr(step)                         optional: a bound on the scheduled learning rates
    method.weights(averaged=True)                            the weights that finish() would store, for held-out error
    method.finish()                                          {group: Coded}: integers phi, decoders and psi of the file
    method.options                                           optional: its "lambda" is the nats a bit of what is coded at
                                                             the end (BN), where the recipe does not say

It is an nn.Module, so its state is in the checkpoint without a word more.
"""

from __future__ import annotations

import importlib
import pkgutil


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type:
    """The class of the method that recipes call `name`; ValueError lists those that exist."""
    if name not in names():
        raise ValueError(f"unknown method {name!r}; benchmarks/methods/ has {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").METHOD
