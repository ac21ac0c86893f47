"""What tests/test_training.py runs in processes of their own: small trainings on stand-in data. Not a test itself.

    training_process.py kills FOLDER     trains once undisturbed and once killed at random moments
    training_process.py ranks FOLDER     one of several processes that torchrun has started
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.training import checkpoint, loop, recipe
from zoo import datasets, files

STEPS = 300


def use_standin() -> None:
    """1,000 pictures of MNIST's size, whose class is told by where they are bright, 200 of them held out."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 1000).astype(np.uint8)
    pixels = draw.integers(0, 80, (1000, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 5, 3:20] += 120
    datasets.load = lambda dataset, split: datasets.Images(pixels, labels, "")
    datasets.HOLDOUT = 200


def small(**changes) -> recipe.Recipe:
    """A LeNet300-100 by EPR: about a second of training."""
    content = {
        "id": "small", "network": "lenet300-100", "method": "epr", "steps": STEPS, "batch": 32,
        "evaluate_every": 100, "checkpoint_every": 20, "augment": {"shift": 1},
        "optimizer": {"lr": 0.02}, "options": {"lambda": 2e-6, "rate_every": 3, "step": 0.02},
    }  # fmt: skip
    return recipe.from_dict(content | changes)


def kills(folder: Path) -> dict:
    """Each training is a fork, so torch is imported once, and what its first step imports as well."""
    loop.Run(small(), 0).train_step()
    started = time.monotonic()
    os.waitpid(_fork(folder / "whole"), 0)
    duration = time.monotonic() - started
    draw, stopped = random.Random(), []
    while len(stopped) < 4:
        child = _fork(folder / "killed")
        time.sleep(draw.uniform(0.2, 0.6) * duration)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        path = folder / "killed" / "checkpoint.safetensors"
        stopped.append((checkpoint.latest(path) or {"step": 0})["step"])
        if stopped[-1] == STEPS:
            break
    os.waitpid(_fork(folder / "killed"), 0)
    return {"stopped": stopped, "duration": duration}


def _fork(out: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        loop.run(small(), 3, out)
    finally:
        os._exit(0)


def ranks(folder: Path) -> None:
    """Losses of the first steps averaged over the processes, and the file that each of them would write."""
    training = loop.Run(small(), 3)
    losses = []
    for _ in range(25):
        loss = training.train_step()
        training._sum(loss)
        losses.append(float(loss) / training.world)
    blob = training.artifact()
    files.write(folder / f"rank-{training.rank}.zoo", blob)
    result = {"world": training.world, "losses": losses, "errors": training.artifact_errors(blob)}
    files.write(folder / f"rank-{training.rank}.json", json.dumps(result).encode())
    if training.world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    use_standin()
    result = {"kills": kills, "ranks": ranks}[sys.argv[1]](Path(sys.argv[2]))
    print("\n" + json.dumps(result))
