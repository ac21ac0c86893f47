"""Train the seeds of a recipe; a run that was stopped goes on from its last checkpoint.

    python -m benchmarks train lenet300-100-sq                              every seed of the recipe
    python -m benchmarks train lenet300-100-sq --seed 0 --set options.lambda=4e-6
    torchrun --nproc-per-node 8 -m benchmarks train resnet18-dft-imagenet --device cuda

Writes RUNS/<id>/seed-<n>/ with model.zoo, outcome.json, train.log and the checkpoint. A run with --set goes to a folder
that names the setting, RUNS/<id>,KEY=VALUE/seed-<n>/, because it is not the recipe's: `evaluate` leaves it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.training import recipe as recipes

RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file, or the id of one in benchmarks/recipes/")
    parser.add_argument("--seed", type=int, action="append", help="only this seed (repeatable); default: all of the recipe's")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override, e.g. optimizer.lr=1e-3")
    parser.add_argument("--out", type=Path, default=RUNS, help="folder of all runs (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: 1 for MNIST, whose steps are short; else all cores)")
    resuming = parser.add_mutually_exclusive_group()
    resuming.add_argument("--resume", action="store_true", help="go on from the last checkpoint (this is the default)")
    resuming.add_argument("--restart", action="store_true", help="forget the checkpoint and begin anew")


def main(args: argparse.Namespace) -> int:
    recipe = recipes.read(args.recipe, tuple(args.set))
    seeds = args.seed or recipe.seeds
    chief = int(os.environ.get("RANK", 0)) == 0
    for seed in seeds:
        out = folder(args.out, recipe.id, seed, args.set)
        outcome = train_one(recipe, seed, out, args.device, not args.restart, args.threads)
        if chief:
            print(f"{out / 'model.zoo'}: {describe(recipe, outcome)}")
    if chief and not args.set and set(seeds) >= set(recipe.seeds):
        print(f"next: python -m benchmarks evaluate {args.recipe}" + ("" if args.out == RUNS else f" --runs {args.out}"))
    return 0


def train_one(recipe, seed: int, out: Path, device: str = "cpu", resume: bool = True, threads: int | None = None) -> dict:
    """Trains one seed into `out`, or finds it finished there; returns its outcome.json."""
    import torch

    from benchmarks.training import loop

    finished = out / "outcome.json"
    if resume and finished.is_file() and (out / "model.zoo").is_file():
        made_by = logged_recipe(out)
        if recipes.deciding(made_by) == recipes.deciding(recipe):
            print(f"{out}: finished before; --restart trains it again", file=sys.stderr)
            return json.loads(finished.read_text())
    torch.set_num_threads(threads or default_threads(recipe.dataset))
    loop.run(recipe, seed, out, device, resume)
    return json.loads(finished.read_text()) if finished.is_file() else {}  # only the first of several processes writes


def default_threads(dataset: str) -> int:
    """1 for images as small as MNIST's, whose steps are too short to share; else this process's share of the cores."""
    from zoo import datasets

    small = datasets.get(dataset).size < 32
    return 1 if small else max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def folder(runs: Path, id: str, seed: int, overrides=()) -> Path:
    """Where the run of a seed lives: RUNS/<id>[,key=value...]/seed-<n>."""
    return runs / named(id, overrides) / f"seed-{seed}"


def named(id: str, overrides=()) -> str:
    """<id>[,key=value...], as the name of a file."""
    return ",".join([id, *(o.replace("/", "_").replace(" ", "") for o in overrides)])


def logged_recipe(out: Path):
    """The recipe that a run was made by, from the first line of its log. Raises ValueError where there is none."""
    try:
        first = (out / "train.log").read_text().split("\n", 1)[0]
        return recipes.from_dict(json.loads(first.removeprefix("recipe ")), str(out / "train.log"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{out}/train.log does not begin with a recipe: {error}") from error


def describe(recipe, outcome: dict) -> str:
    """An outcome in one line: bytes, ratio, held-out errors."""
    from zoo import networks

    size, ratio = outcome["size_bytes"], 4 * networks.spec(recipe.network).parameters / outcome["size_bytes"]
    errors, count = outcome["heldout_errors"], outcome["heldout_examples"]
    return f"{size:,} bytes ({ratio:,.0f}x smaller), {errors} of {count:,} held-out images wrong ({100 * errors / count:.2f} %)"
