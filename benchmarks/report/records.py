"""What every report begins with: the records of the checkout by network, and the points that were measured of each.

    artifacts/*/entry.json ────┐
                               ├─> points of a network: bytes, errors  -->  `front`: those that no other beats
    benchmarks/results/*.csv ──┘   (published sweeps: rows with test errors)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import curve
from zoo import networks, registry
from zoo.records import Entry
from zoo.registry import Quoted

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/results"  # curves that `sweep` and `compress` wrote


@dataclass(frozen=True)
class Point:
    """A file that was measured on the whole test set: an entry's, or a point of a published sweep."""

    name: str  # id of the entry, or the sweep's file and value
    size_bytes: int
    errors: int
    examples: int
    entry: Entry | None = None
    sweep: str = ""  # name of its CSV file
    value: str = ""  # of the setting that the sweep varies

    @property
    def error(self) -> float:
        """Top-1, percent."""
        return 100 * self.errors / self.examples

    def beats(self, other: Point) -> bool:
        """At most as large with at most as large an error, and better in one of the two."""
        mine, theirs = (self.size_bytes, self.error), (other.size_bytes, other.error)
        return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def read_entries(folder: Path = ROOT / "artifacts") -> list[Entry]:
    """The records of the checkout, by network and size."""
    records = [registry.load_record(path.parent) for path in sorted(folder.glob(f"*/{registry.RECORD}"))]
    order = networks.names()
    return sorted(records, key=lambda e: (order.index(networks.spec(e.network).base), e.size_bytes, e.id))


def readable(entries: Sequence[Entry]) -> list[Entry]:
    """Those whose file is read here: the size of one that its authors' program decoded says nothing about the others."""
    return [e for e in entries if e.decoded is None]


def by_network(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict[str, tuple[list[Entry], list[Quoted]]]:
    """Network -> (measured, quoted), in the registry's order, leaving out networks without either."""
    groups = {}
    for name in networks.names():
        members = [e for e in entries if heading(e.network) == name], [q for q in quoted if heading(q.network) == name]
        if any(members):
            groups[name] = members
    return groups


def heading(network: str) -> str:
    """The network under which a table lists this one: both stride placements of ResNet-50 have the same tensors."""
    return networks.spec(network).base.removesuffix("-v1.5")


def points(entries: Sequence[Entry], folder: Path = ROOT / RESULTS) -> list[Point]:
    """Everything that was measured on the test set, of the networks of these entries: the entries, then the sweeps.

    A point of a sweep that an entry ships is listed once, as the entry.
    """
    measured = [e for e in readable(entries) if e.test_errors is not None]
    listed = [Point(e.id, e.size_bytes, e.test_errors, e.test_examples, e) for e in measured]
    digests = {e.sha256 for e in measured}
    for network in sorted({heading(e.network) for e in measured}):
        for path in sorted(folder.glob(f"{network}-*.csv")):
            for row in curve.read(path):
                if row.get("test_errors") and row["sha256"] not in digests:
                    recipe = path.stem.replace(f"-{row['setting'].replace('.', '-')}", "", 1)
                    name = f"{recipe} at {row['setting'].removeprefix('options.')} = {row['value']} (a sweep)"
                    sizes = int(row["size_bytes"]), int(row["test_errors"]), int(row["test_examples"])
                    listed.append(Point(name, *sizes, sweep=path.name, value=row["value"]))
    return listed


def front(measured: Sequence[Point]) -> list[Point]:
    """The points that no other one beats, by size."""
    best = [p for p in measured if not any(other.beats(p) for other in measured)]
    return sorted(best, key=lambda p: (p.size_bytes, p.error, p.name))


def beaten_by(point: Point, measured: Sequence[Point]) -> Point | None:
    """The smallest point of the front that beats this one; None for a point of the front."""
    return next((other for other in front(measured) if other.beats(point)), None)


def size(count: float) -> str:
    """A number of bytes in decimal kB or MB."""
    return f"{count / 1e6:.4g} MB" if count >= 1e6 else f"{count / 1e3:.4g} kB"
