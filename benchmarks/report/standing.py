"""How an entry compares with published results, with its own claim, and with smaller entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

from benchmarks.report import paired
from benchmarks.report.paired import Comparison
from benchmarks.report.records import ROOT, heading, readable
from benchmarks.training import recipe as recipes
from zoo.records import Entry
from zoo.registry import Quoted


def standard_error(entry: Entry) -> float | None:
    """Of the top-1 error, in percentage points: binomial. None where nobody measured it."""
    if entry.test_errors is None:
        return None
    share = entry.test_errors / entry.test_examples
    return 100 * math.sqrt(share * (1 - share) / entry.test_examples)


def strongest(entry: Entry, quoted: Sequence[Quoted]) -> Quoted | None:
    """The smallest published result at no larger error than the entry's, whatever its method and its counting.

    Published errors are compared at the precision in which they are printed: 1.87 % is no smaller than a printed 1.9 %.
    An entry that was not measured stands for the error that its claim or the row beside it names.
    """
    rows = {q.key: q for q in quoted}
    error = entry.top1_error
    if error is None:
        error = rows[entry.quoted].error if entry.quoted in rows else None
    if error is None:
        return None
    rivals = [
        q for q in quoted
        if heading(q.network) == heading(entry.network) and q.method != "Uncompressed" and q.error <= _printed(error, q.error)
    ]  # fmt: skip
    return min(rivals, key=lambda q: (q.size_bytes, q.error), default=None)


def _printed(error: float, like: float) -> float:
    """An error at as many decimals as another one is printed with."""
    return float(Decimal(str(error)).quantize(Decimal(str(like)), ROUND_HALF_UP))


def against_smaller(entry: Entry, entries: Sequence[Entry]) -> tuple[Entry, Comparison] | None:
    """The most accurate entry of fewer bytes, and the paired test of the two (A: that one; B: this one).

    None where there is no smaller entry, or outcomes are not known; nor for a stream that is not read here, which is
    no rival either.
    """
    outcomes = paired.outcomes(entry)
    smaller = [e for e in readable(entries) if e.test_set == entry.test_set and e.size_bytes < entry.size_bytes]
    if outcomes is None or not smaller or entry.decoded is not None:
        return None
    best = min(smaller, key=lambda e: (e.test_errors, e.size_bytes))
    best_outcomes = paired.outcomes(best)
    return None if best_outcomes is None else (best, paired.compare(best_outcomes, outcomes))


def claim(entry: Entry) -> str:
    """What the recipe aims at and whether the measured numbers reach it, under which counting; empty without a claim."""
    path = ROOT / (entry.recipe or "")
    if not entry.recipe or not path.is_file():
        return ""
    aim = recipes.read(path).claim
    goal = [] if aim.bytes is None else [f"{aim.bytes:,} bytes"]
    goal += [] if aim.error_percent is None else [f"{aim.error_percent:g} %"]
    if not goal:
        return ""
    return f"{' and '.join(goal)}: {_verdict(entry, aim)}"


def _verdict(entry: Entry, aim: recipes.Claim) -> str:
    if aim.error_percent is not None and entry.top1_error is not None and entry.top1_error > aim.error_percent:
        return "missed"
    fits = {"the whole file": aim.bytes is None or entry.size_bytes <= aim.bytes}
    if aim.bytes is not None and entry.paper_bytes is not None:
        fits["the paper's counting"] = entry.paper_bytes <= aim.bytes
    if not any(fits.values()):
        return "missed"
    if aim.error_percent is not None and entry.top1_error is None:
        return "error not yet measured"
    if aim.bytes is None:
        return "reached"
    if all(fits.values()):
        return f"reached by {' and by '.join(fits)}"
    reached, missed = sorted(fits, key=lambda counting: not fits[counting])
    return f"reached by {reached}, missed by {missed}"
