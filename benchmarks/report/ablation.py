"""What each ingredient of a recipe is worth: its sweep, and sweeps without one of them, at one schedule.

    python -m benchmarks sweep lenet5-caffe-min --over lambda=... --set steps=4000 --test              the whole method
    python -m benchmarks sweep lenet5-caffe-min --over lambda=... --set steps=4000 --set options.weight=0 --test
    python -m benchmarks ablation lenet5-caffe-min --set steps=4000

The second reads what the first wrote (benchmarks/results/<id>-<setting>,<what --set says>.csv) and writes the table
<network>-ablation.md: bytes of each file, and of the whole method where its curve has the same error. Between two points
of that curve the logarithm of the bytes is taken as linear in the error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks.report import curve
from benchmarks.report.records import RESULTS, ROOT
from benchmarks.train import named
from benchmarks.training import recipe as recipes
from zoo import files

Points = Sequence[tuple[float, float]]  # (bytes, error in percent)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file, or the id of one in benchmarks/recipes/")
    parser.add_argument("--over", default="options.lambda", help="the setting that the sweeps vary (default: %(default)s)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="what all the sweeps have in common")
    parser.add_argument("--out", type=Path, default=ROOT / RESULTS, help="folder of the CSVs (default: benchmarks/results)")


def main(args: argparse.Namespace) -> None:
    recipe = recipes.read(args.recipe)
    whole = args.out / (named(f"{recipe.id}-{args.over.replace('.', '-')}", args.set) + ".csv")
    without = sorted(args.out.glob(f"{whole.stem},*.csv"))
    if not whole.is_file() or not without:
        raise FileNotFoundError(f"{whole} and sweeps with one more --set are wanted, found {len(without)} of those")
    line = measured(whole)
    rows = [_row("nothing", *point, None) for point in line]
    for path in without:
        changed = path.stem.removeprefix(f"{whole.stem},").replace(",", ", ")
        rows += [_row(f"`{changed}`", *point, at_error(line, point[1])) for point in measured(path)]
    out = args.out / f"{recipe.network}-ablation.md"
    aligned = ("left", *["right"] * (len(rows[0]) - 1))
    table = tabulate(rows, headers="keys", tablefmt="pipe", colalign=aligned, disable_numparse=True)
    schedule = f" with {', '.join(f'`{override}`' for override in args.set)}" if args.set else ""
    heading = f"What the ingredients of `{recipe.id}`{schedule} are worth; one seed a point, measured on the test set:"
    files.write(out, f"{heading}\n\n{table}\n".encode())
    print(f"{out}: {len(line)} points of the whole method, {len(rows) - len(line)} without an ingredient")


def measured(path: Path) -> list[tuple[float, float]]:
    """Points of a sweep that were measured on the test set, by size."""
    rows = [r for r in curve.read(path) if r.get("test_errors")]
    return sorted((float(r["size_bytes"]), 100 * int(r["test_errors"]) / int(r["test_examples"])) for r in rows)


def at_error(line: Points, error: float) -> float | None:
    """Bytes at which the curve first has that error; None beyond its ends. A point that a smaller one beats is left out."""
    front: list[tuple[float, float]] = []
    for size, e in sorted(line):
        if not front or e < front[-1][1]:
            front.append((size, e))
    for (small, high), (large, low) in zip(front, front[1:], strict=False):
        if low <= error <= high:
            share = (high - error) / (high - low)
            return math.exp((1 - share) * math.log(small) + share * math.log(large))
    return None


def _row(changed: str, size: float, error: float, equal: float | None) -> dict[str, str]:
    return {
        "changed": changed,
        "bytes": f"{size:,.0f}",
        "test error": f"{error:.2f} %",
        "bytes of the whole method at that error": "" if equal is None else f"{equal:,.0f}",
        "more bytes than that": "" if equal is None else f"{100 * (size / equal - 1):+.0f} %",
    }
