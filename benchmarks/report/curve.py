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
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.report import plot
from zoo import datasets, files, networks, registry

# Oktay et al. 2019, sections 3.1 and 3.2
PAPER_STEPS = {"lenet300-100": 200_000, "lenet5-caffe": 200_000, "vgg16": 512_000, "resnet20-4": 512_000}
FIELDS = ("basis", "bytes", "images", "agreement", "errors", "reference_errors", "tuned_epochs", "weights", "sha256")


def add(path: Path, row: dict) -> None:
    """One more row, in order of basis and bytes; a file that was measured before is not listed twice. Draws the figure."""
    rows = [r for r in kept(path) if r["sha256"] != row["sha256"]]
    rows.append({key: str(row[key]) for key in FIELDS})
    rows.sort(key=lambda r: (r["basis"], int(r["bytes"])))
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


def kept(path: Path) -> list[dict[str, str]]:
    """`read`, of a table that is perhaps still to be begun: no rows then."""
    return read(path) if path.is_file() else []


def draw(path: Path) -> Path:
    """The SVG beside the CSV, its path: it changes only with the numbers."""
    rows, lines, references = read(path), {}, []
    for basis in ("dft", "sq"):
        measured = sorted((r for r in rows if r["basis"] == basis), key=lambda r: int(r["bytes"]))
        if measured:
            points = [(int(r["bytes"]) / 1e6, 100 * int(r["agreement"]) / int(r["images"])) for r in measured]
            lines[f"{basis.upper()} (measured, {measured[0]['images']} images kept out)"] = points
    nncodec = path.with_name(path.name.replace("-curve", "-nncodec"))
    if nncodec != path and nncodec.is_file():
        references = [{"label": "", "x": float(r["bytes"]) / 1e6, "y": float(r["agreement_percent"])} for r in read(nncodec)]
    network = path.stem.removesuffix("-curve")
    subtitle = "compressed without training; × NNCodec 2.1, no calibration (1,000 images)" if references else ""
    axes = "bytes of the whole file, decimal MB", "same answer as the uncompressed network, %"
    spec = plot.curves(f"{network}: answers kept", subtitle, *axes, lines, references)
    return files.write(path.with_suffix(".svg"), plot.svg(spec))


def stem(network: str) -> str:
    """What the files of a network are called: its entries and recipes begin with it, too."""
    return network.replace(":", "-")


def files_of(network: str, suffix: str, folder: Path) -> list[Path]:
    """The files NETWORK-*SUFFIX in `folder`, without those of a network with a longer name: resnet20-4 is not resnet20."""
    names = {*networks.names(), *(f"{name}-{dataset}" for name in networks.names() for dataset in datasets.DATASETS)}
    longer = tuple(f"{name}-" for name in names if name.startswith(f"{stem(network)}-"))
    return sorted(path for path in folder.glob(f"{stem(network)}-*{suffix}") if not path.name.startswith(longer))


def sweeps(network: str, folder: Path) -> bytes:
    """SVG of the network's tested sweeps in `folder`, one line each, beside what the method's paper states for it.

    A line's name leaves out the overrides that all the lines have in common.
    """
    schedules, lines, tested = [], {}, {}
    for path in files_of(network, ".csv", folder):
        if rows := sorted((r for r in read(path) if r.get("test_errors")), key=lambda r: int(r["size_bytes"])):
            tested[path] = rows
    common = set.intersection(*({*path.stem.split(",")[1:]} for path in tested)) if tested else set()
    for path, rows in tested.items():
        schedules += [f"{int(r['steps']):,} steps of {r['batch']} images from {r['warm_start'] or 'scratch'}" for r in rows]
        recipe, *overrides = path.stem.removeprefix(f"{stem(network)}-").split(",")
        name = ", ".join([recipe.partition("-")[0].upper(), *(o for o in overrides if o not in common), "measured"])
        lines[name] = [(int(r["size_bytes"]) / 1e3, 100 * int(r["test_errors"]) / int(r["test_examples"])) for r in rows]
    references = []
    for q in (q for q in registry.quoted().values() if q.network == network):
        if q.method == "Uncompressed":
            references.append({"label": f"{q.method}, quoted: {q.size}", "y": q.error})
        elif q.method.startswith("EPR"):
            references.append({"label": f"{q.method}, quoted", "x": q.size_bytes / 1e3, "y": q.error})
    ours, paper = "; ".join(dict.fromkeys(schedules)), PAPER_STEPS.get(networks.spec(network).base)
    subtitle = f"measured: {ours}" + (f"; × quoted: {paper:,} steps" if paper else "")
    axes = "bytes of the whole file, decimal kB", "top-1 error on the test set, %"
    return plot.svg(plot.curves(f"{network}: sweeps", subtitle, *axes, lines, references))
