"""Figures of curves, from the CSV files that `compress --curve` and `sweep --test` wrote.

    python -m benchmarks compress resnet50 ... --curve benchmarks/results/resnet50-curve.csv
        agreement with the uncompressed network against bytes; beside a CSV called NAME-curve.csv there may be
        NAME-nncodec.csv with points of another codec on the same weights
    python -m benchmarks sweep resnet20-4-dft --over lambda=... --test
        error against bytes (Oktay et al. 2019, figure 4)
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zoo import files, networks, registry

PAPER_STEPS = {"mnist": 200_000, "cifar10": 512_000}  # Oktay et al. 2019, sections 3.1 and 3.2
FIELDS = ("method", "bytes", "images", "agreement", "errors", "reference_errors", "tuned_epochs", "weights", "sha256")


def add(path: Path, row: dict) -> None:
    """One more row, in order of method and bytes; a file that was measured before is not listed twice. Draws the figure."""
    rows = [r for r in read(path) if r["sha256"] != row["sha256"]] if path.is_file() else []
    rows.append({key: str(row[key]) for key in FIELDS})
    rows.sort(key=lambda r: (r["method"], int(r["bytes"])))
    files.write(path, text(FIELDS, rows).encode())
    draw(path)


def text(columns: Sequence[str], rows: Iterable[dict]) -> str:
    """Rows as the text of a CSV file; a row may lack columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by the names in its first line; every cell is a string."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(path: Path) -> Path:
    """The SVG beside the CSV, its path: deterministic, so that it changes only with the numbers."""
    out = io.BytesIO()
    with _axes(out, "bytes of the whole file [decimal MB]", "same answer as the uncompressed network [%]", "lower right") as axes:
        rows = read(path)
        for method, marker in (("dft", "o"), ("sq", "s")):
            own = [r for r in rows if r["method"] == method]
            if own:
                x = [int(r["bytes"]) / 1e6 for r in own]
                y = [100 * int(r["agreement"]) / int(r["images"]) for r in own]
                axes.plot(x, y, marker=marker, label=f"{method.upper()} (measured, {own[0]['images']} images kept out)")
        other = path.with_name(path.name.replace("-curve", "-nncodec"))
        if other != path and other.is_file():
            points = sorted((int(r["bytes"]) / 1e6, float(r["agreement_percent"])) for r in read(other))
            axes.plot(*zip(*points, strict=True), "x--", color="gray", label="NNCodec 2.1, no calibration (1,000 images)")
    return files.write(path.with_suffix(".svg"), out.getvalue())


def sweeps(network: str, folder: Path) -> bytes:
    """SVG of the network's tested sweeps in `folder`, one line each, beside what the method's paper states for it."""
    out, schedules = io.BytesIO(), []
    with _axes(out, "bytes of the whole file [decimal kB]", "top-1 error on the test set [%]", "best") as axes:
        found = {path: [r for r in read(path) if r.get("test_errors")] for path in sorted(folder.glob(f"{network}-*.csv"))}
        tested = [(path, rows) for path, rows in found.items() if rows]
        for (path, rows), marker in zip(tested, itertools.cycle("osD^v"), strict=False):
            rows.sort(key=lambda r: int(r["size_bytes"]))
            schedules += [f"{int(r['steps']):,} steps of {r['batch']} images from {r['warm_start'] or 'scratch'}" for r in rows]
            error = [100 * int(r["test_errors"]) / int(r["test_examples"]) for r in rows]
            recipe, *overrides = path.stem.removeprefix(f"{network}-").split(",")
            name = ", ".join([recipe.partition("-")[0].upper(), *overrides])
            axes.plot([int(r["size_bytes"]) / 1e3 for r in rows], error, marker=marker, label=f"{name}, measured")
        quoted = [q for q in registry.quoted().values() if q.network == network]
        for q in quoted:
            if q.method == "Uncompressed":
                axes.axhline(q.error, color="0.4", linewidth=0.8, linestyle=":", label=f"{q.method}, quoted: {q.size}")
        for q, marker in zip((q for q in quoted if q.method.startswith("EPR")), itertools.cycle("x+"), strict=False):
            axes.plot(q.size_bytes / 1e3, q.error, marker, color="0.4", label=f"{q.method}, quoted")
        own, paper = "; ".join(dict.fromkeys(schedules)), PAPER_STEPS.get(networks.spec(network).dataset)
        axes.set_title(f"measured: {own}" + (f"\nquoted: {paper:,} steps" if paper else ""), fontsize=7)
    return out.getvalue()


@contextmanager
def _axes(out: io.BytesIO, x: str, y: str, legend: str) -> Iterator:
    """Axes to draw on; then the figure is written to `out` as SVG, the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "zoo", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(5.6, 3.6))
        yield axes
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.3)
        axes.legend(loc=legend)
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)
