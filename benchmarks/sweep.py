"""Train a recipe under several values of one setting and write the curve: held-out error against bytes, as CSV.

    python -m benchmarks sweep lenet300-100-sq --over lambda=1e-6,2e-6,4e-6 --seed 0
    python -m benchmarks sweep resnet20-4-dft --over lambda=2e-7,4e-7,8e-7,16e-7 --test

Each point is a run of its own in RUNS, so an interrupted sweep goes on where it stopped. It joins the CSV
(benchmarks/results/<id>-<setting>[,<what --set says>].csv), in the place of the same value and seed. The test set has no
part in it, unless --test asks for the points of a published curve: then each point's file is measured once and nothing
is chosen, and the tested sweeps of a network are drawn together (benchmarks/results/<network>-sweeps.svg; Oktay et al.
2019, figure 4).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from benchmarks.evaluate import ARTIFACTS
from benchmarks.report import curve
from benchmarks.train import RUNS, describe, folder, named, train_one
from benchmarks.training import recipe as recipes
from benchmarks.training.recipe import Recipe
from zoo import files, measurement, registry

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("setting", "value", "seed", "size_bytes", "heldout_errors", "heldout_examples", "heldout_error_percent", "seconds")
TESTED = ("test_errors", "test_examples", "sha256", "steps", "batch", "warm_start")  # more columns of a sweep with --test


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file, or the id of one in benchmarks/recipes/")
    parser.add_argument("--over", required=True, metavar="KEY=A,B,...", help="setting and its values; a bare key is an option")
    parser.add_argument("--seed", type=int, action="append", help="repeatable (default: the recipe's first)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override the same for every point")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of all runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV (default: benchmarks/results)")
    parser.add_argument("--test", action="store_true", help="measure each point's file on the test set, once")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="as in train")


def main(args: argparse.Namespace) -> None:
    key, values = parse(args.over)
    unchanged = recipes.read(args.recipe)
    path = args.out / (named(f"{unchanged.id}-{key.replace('.', '-')}", args.set) + ".csv")
    rows = {(r["value"], r["seed"]): r for r in curve.kept(path)}
    for value in values:
        overrides = (*args.set, f"{key}={value}")
        recipe = recipes.read(args.recipe, overrides)
        if recipes.deciding(recipe) == recipes.deciding(unchanged):
            overrides = ()  # the recipe's unchanged run
        for seed in args.seed or recipe.seeds[:1]:
            out = folder(args.runs, recipe.id, seed, overrides)
            outcome = train_one(recipe, seed, out, args.device, threads=args.threads)
            row = {"setting": key, "value": value, **{k: v for k, v in outcome.items() if k in COLUMNS}}
            row["heldout_error_percent"] = f"{100 * outcome['heldout_errors'] / outcome['heldout_examples']:.2f}"
            if args.test:
                schedule = {key: getattr(recipe, key) for key in ("steps", "batch", "warm_start")}
                row |= tested(out, recipe, args.device) | schedule
            before = rows.get((value, str(seed)), {})
            unchanged_file = all(before.get(key) == str(row[key]) for key in ("size_bytes", "heldout_errors"))
            rows[value, str(seed)] = before | row if unchanged_file else row  # of the same file the test errors stay
            files.write(path, table(list(rows.values())).encode())
            if args.test:
                files.write(args.out / f"{curve.stem(recipe.network)}-sweeps.svg", curve.sweeps(recipe.network, args.out))
            print(f"{key}={value}, seed {seed}: {describe(recipe, outcome)}")
    print(f"{path}: {len(rows)} points")


def parse(over: str) -> tuple[str, list[str]]:
    """`lambda=1e-6,2e-6` -> ("options.lambda", ["1e-6", "2e-6"]). Raises ValueError for anything else."""
    key, sep, listed = over.partition("=")
    values = [value.strip() for value in listed.split(",")]
    if not sep or not key or not all(values):
        raise ValueError(f"--over reads KEY=VALUE,VALUE,..., found {over!r}")
    if "." not in key and key not in Recipe.model_fields:
        key = f"options.{key}"
    if len(set(values)) < len(values):
        raise ValueError(f"--over {over}: a value is given twice")
    return key, values


def tested(run: Path, recipe: Recipe, device: str = "cpu") -> dict:
    """Errors of the run's file on the test set: read where the recipe's entry or an earlier sweep has them, else measured."""
    blob, cache = (run / registry.MODEL).read_bytes(), run / "tested.json"
    digest = hashlib.sha256(blob).hexdigest()
    if (ARTIFACTS / recipe.id / registry.RECORD).is_file():
        entry = registry.load_record(ARTIFACTS / recipe.id)
        if entry.sha256 == digest and entry.test_errors is not None:
            return {"test_errors": entry.test_errors, "test_examples": entry.test_examples, "sha256": digest}
    if cache.is_file() and (errors := json.loads(cache.read_text()))["sha256"] == digest:
        return errors
    measured = measurement.measure(blob, dataset=recipe.dataset, preprocess=recipe.preprocess, device=device)
    errors = {"test_errors": measured.errors, "test_examples": measured.examples, "sha256": digest}
    files.write(cache, json.dumps(errors).encode())
    return errors


def table(rows: list[dict]) -> str:
    """The points as CSV, in the order in which they were run."""
    return curve.text([*COLUMNS, *(c for c in TESTED if any(c in row for row in rows))], rows)
