"""The data of every report: the records of the checkout by network, and the points that were measured of each network.

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
        measures, other_measures = (self.size_bytes, self.error), (other.size_bytes, other.error)
        return measures != other_measures and measures[0] <= other_measures[0] and measures[1] <= other_measures[1]


def read_entries(folder: Path = ROOT / "artifacts") -> list[Entry]:
    """The records of the checkout, by network and size."""
    records = [registry.load_record(path.parent) for path in sorted(folder.glob(f"*/{registry.RECORD}"))]
    return sorted(records, key=lambda e: (_rank(heading(e.network)), e.size_bytes, e.id))


def readable(entries: Sequence[Entry]) -> list[Entry]:
    """Those whose file is read here: the size of one that its authors' program decoded says nothing about the others."""
    return [e for e in entries if e.decoded is None]


def by_network(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict[str, tuple[list[Entry], list[Quoted]]]:
    """Network -> (measured, quoted), in the registry's order, leaving out networks without either."""
    groups: dict[str, tuple[list[Entry], list[Quoted]]] = {}
    for place, results in enumerate((entries, quoted)):
        for result in results:
            groups.setdefault(heading(result.network), ([], []))[place].append(result)
    return dict(sorted(groups.items(), key=lambda group: _rank(group[0])))


def heading(network: str) -> str:
    """The network under which a table lists this one, a name of `networks.spec`.

    It leaves the number of classes out, but not another data set than the network's own. Both stride placements of ResNet-50
    have the same tensors.
    """
    spec = networks.spec(network)
    base = spec.base.removesuffix("-v1.5")
    return base if spec.dataset == networks.spec(base).dataset else f"{base}:{spec.dataset}"


def _rank(network: str) -> tuple[int, str]:
    """Networks in the registry's order, each on its own data set first."""
    return networks.names().index(networks.spec(network).base), network


def points(entries: Sequence[Entry], folder: Path = ROOT / RESULTS) -> list[Point]:
    """Everything that was measured on the test set, of the networks of these entries: the entries, then the sweeps.

    A point of a sweep that an entry ships is listed once, as the entry.
    """
    measured = [e for e in readable(entries) if e.test_errors is not None]
    listed = [Point(e.id, e.size_bytes, e.test_errors, e.test_examples, e) for e in measured]
    digests = {e.sha256 for e in measured}
    for network in sorted({heading(e.network) for e in measured}):
        for path in curve.files_of(network, ".csv", folder):
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
