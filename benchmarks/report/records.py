"""What every report begins with: the records of the checkout by network, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo import networks, registry
from zoo.records import Entry
from zoo.registry import Quoted

ROOT = Path(__file__).parents[2]


def read_entries(folder: Path = ROOT / "artifacts") -> list[Entry]:
    """The records of the checkout, by network and size."""
    found = [registry.load_record(path.parent) for path in sorted(folder.glob(f"*/{registry.RECORD}"))]
    order = networks.names()
    return sorted(found, key=lambda e: (order.index(networks.spec(e.network).base), e.size_bytes, e.id))


def by_network(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict[str, tuple[list[Entry], list[Quoted]]]:
    """Network -> (measured, quoted), in the registry's order, leaving out networks without either.

    Both stride placements of ResNet-50 stand under one heading: they have the same tensors.
    """

    def heading(name: str) -> str:
        return networks.spec(name).base.removesuffix("-v1.5")

    groups = {}
    for name in networks.names():
        own = [e for e in entries if heading(e.network) == name], [q for q in quoted if heading(q.network) == name]
        if any(own):
            groups[name] = own
    return groups


def pareto(entries: Sequence[Entry]) -> set[str]:
    """Ids of the entries that no other beats: none is at most as large with at most as many errors, and better in one.

    Entries without test errors neither beat nor are marked.
    """
    points = [(e.size_bytes, e.test_errors / e.test_examples, e.id) for e in entries if e.test_errors is not None]
    return {
        name
        for size, error, name in points
        if not any(s <= size and r <= error and (s, r) != (size, error) for s, r, _ in points)
    }


def size(count: float) -> str:
    """A number of bytes in decimal kB or MB."""
    return f"{count / 1e6:.4g} MB" if count >= 1e6 else f"{count / 1e3:.4g} kB"
