"""What the plot of a network shows: every measured file, published sweeps, quoted results; and its SVG in figures/."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import plot
from benchmarks.report.curve import stem
from benchmarks.report.records import front, points, readable
from zoo import datasets, networks
from zoo.records import Entry
from zoo.registry import Quoted


def is_drawn(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> bool:
    """Whether a figure would show anything that was measured."""
    return any(e.test_errors is not None for e in readable(entries))


def figure_path(network: str) -> str:
    return f"figures/{stem(network)}.svg"


def rows(network: str, entries: Sequence[Entry], quoted: Sequence[Quoted]) -> list[dict]:
    """The points: entries, then published sweeps, other seeds, what authors decoded and quoted results; see `plot.errors`."""
    measured = points(entries)
    methods = {e.id: e.method for e in entries}
    listed = []
    for p in measured:
        recipe = p.name.partition(" at ")[0].partition(",")[0]
        method = p.entry.method if p.entry else methods.get(recipe, "other")
        kind = "entry" if p.entry else "sweep"
        listed.append(_row(kind, p.name, p.name.removeprefix(f"{stem(network)}-"), method, p.size_bytes, p.error))
    for e in entries:
        if e.decoded is not None and e.test_errors is not None:
            listed.append(_row("decoded", e.id, e.id.removeprefix(f"{stem(network)}-"), e.method, e.size_bytes, e.top1_error))
        for s in e.seeds:
            if s.test_errors is not None and s.seed != e.seed:
                error = 100 * s.test_errors / e.test_examples
                listed.append(_row("seed", f"{e.id}, seed {s.seed}", "", e.method, s.size_bytes, error))
    listed += [_row("quoted", q.key, q.method, "quoted", q.size_bytes, q.error) for q in quoted]
    return listed


def _row(kind: str, name: str, label: str, method: str, size: int, error: float) -> dict:
    return {"kind": kind, "name": name, "label": label, "method": method, "bytes": size, "error": round(error, 4)}


def front_rows(entries: Sequence[Entry]) -> list[dict]:
    """The Pareto front of everything measured, by size."""
    return [{"bytes": p.size_bytes, "error": round(p.error, 4)} for p in front(points(entries))]


def specification(network: str, entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict:
    """The figure: measured by method in colour, quoted in grey, the Pareto front as a line."""
    dataset = datasets.get(networks.spec(network).dataset)
    others = ", authors' decoders" if any(e.decoded for e in entries) else ""
    subtitle = f"{dataset.title}; small open marks: other seeds and sweeps{others}; × quoted; line: Pareto front"
    return plot.errors(network, subtitle, rows(network, entries, quoted), front_rows(entries))


def figure(network: str, entries: Sequence[Entry], quoted: Sequence[Quoted]) -> bytes:
    """The SVG, which carries the identity of what it shows."""
    spec = specification(network, entries, quoted)
    return plot.svg(spec, f"drawn from {digest(spec)}")


def digest(spec: dict) -> str:
    """Identity of a drawing, by which a stale figure is found without drawing."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def digest_in(path: Path) -> str | None:
    """The identity in a figure that was drawn before; None where there is none."""
    match = re.search(r"drawn from ([0-9a-f]{64})", path.read_text(encoding="utf-8")) if path.exists() else None
    return match and match.group(1)
