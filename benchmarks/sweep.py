"""Train a recipe under several values of one setting and write the curve: held-out error against bytes, as CSV.

    python -m benchmarks sweep lenet300-100-sq --over lambda=1e-6,2e-6,4e-6 --seed 0

The test set has no part in it. Each point is a run of its own in RUNS, so an interrupted sweep goes on where it stopped;
the CSV (benchmarks/results/<id>-<setting>.csv) is written anew after each point.
"""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import fields
from pathlib import Path

from benchmarks import recipe as recipes
from benchmarks.recipe import Recipe
from benchmarks.run import RUNS, describe, folder, train_one
from zoo import registry

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("setting", "value", "seed", "size_bytes", "heldout_errors", "heldout_examples", "heldout_error_percent", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file, or the id of one in benchmarks/recipes/")
    parser.add_argument("--over", required=True, metavar="KEY=A,B,...", help="setting and its values; a bare key is an option")
    parser.add_argument("--seed", type=int, action="append", help="repeatable (default: the recipe's first)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override the same for every point")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of all runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV (default: benchmarks/results)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="as in train")


def main(args: argparse.Namespace) -> None:
    key, values = parse(args.over)
    path = args.out / f"{recipes.read(args.recipe).id}-{key.replace('.', '-')}.csv"
    rows = []
    for value in values:
        overrides = (*args.set, f"{key}={value}")
        recipe = recipes.read(args.recipe, overrides)
        for seed in args.seed or recipe.seeds[:1]:
            out = folder(args.runs, recipe.id, seed, overrides)
            outcome = train_one(recipe, seed, out, args.device, threads=args.threads)
            rows.append({"setting": key, "value": value, **{k: v for k, v in outcome.items() if k in COLUMNS}})
            percent = 100 * outcome["heldout_errors"] / outcome["heldout_examples"]
            rows[-1]["heldout_error_percent"] = f"{percent:.2f}"
            registry.write(path, table(rows).encode())
            print(f"{key}={value}, seed {seed}: {describe(recipe, outcome)}")
    print(f"{path}: {len(rows)} points")


def parse(over: str) -> tuple[str, list[str]]:
    """`lambda=1e-6,2e-6` -> ("options.lambda", ["1e-6", "2e-6"]). Raises ValueError for anything else."""
    key, sep, listed = over.partition("=")
    values = [value.strip() for value in listed.split(",")]
    if not sep or not key or not all(values):
        raise ValueError(f"--over reads KEY=VALUE,VALUE,..., found {over!r}")
    if "." not in key and key not in {f.name for f in fields(Recipe)}:
        key = f"options.{key}"
    if len(set(values)) < len(values):
        raise ValueError(f"--over {over}: a value is given twice")
    return key, values


def table(rows: list[dict]) -> str:
    """The points as CSV, in the order in which they were run."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
