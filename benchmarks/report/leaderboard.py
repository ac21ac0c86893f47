"""Render leaderboard.md, figures/*.svg and the table in README.md from the records; nothing else writes them.

    python -m benchmarks leaderboard
    python -m benchmarks leaderboard --check       writes nothing, fails where a committed file is out of date

    artifacts/*/entry.json ─┬─> measured table of each network (pandas), Pareto mark
    zoo/quoted.json ────────┼─> quoted table of each network, never in one column with what was measured
                            └─> figures/<network>.svg: error against bytes
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from benchmarks.report import figures
from benchmarks.report.records import ROOT, by_network, pareto, read_entries, size
from benchmarks.training import recipe as recipes
from zoo import datasets, files, networks, registry
from zoo.records import Entry
from zoo.registry import Quoted

README_MARKS = ("<!-- leaderboard: begin -->", "<!-- leaderboard: end -->")
RESULTS = "benchmarks/results"  # curves that `sweep` and `compress` wrote; people may put a caption NAME.md beside NAME.svg
UNMEASURED = "bytes verified, error on ImageNet-val not yet measured"
README_ROWS = 4  # of a network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")


def main(args: argparse.Namespace) -> int:
    entries, quoted = read_entries(), list(registry.quoted().values())
    groups = by_network(entries, quoted)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    texts = {
        ROOT / "leaderboard.md": render(entries, quoted),
        ROOT / "README.md": insert(readme, readme_table(entries)),
    }
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    drawn = {ROOT / figures.figure_path(name): group for name, group in groups.items() if figures.is_drawn(*group)}
    stale += [path for path, group in drawn.items() if figures.figure_digest(path) != figures.points_digest(*group)]
    if args.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make leaderboard`", file=sys.stderr)
        return 1 if stale else 0
    contents = {path: text.encode() for path, text in texts.items()}
    contents |= {path: figures.figure(path.stem, *group) for path, group in drawn.items()}
    changed = [path for path, content in contents.items() if not path.exists() or path.read_bytes() != content]
    for path in changed:
        files.write(path, contents[path])
    print(f"leaderboard.md: {len(entries)} entries, {len(quoted)} quoted results; {len(changed)} files changed")
    return 0


# ----------------------------------------------------------------------------------------------- the tables


def render(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> str:
    """The text of leaderboard.md."""
    parts = [_INTRODUCTION]
    for name, (own, others) in by_network(entries, quoted).items():
        spec = networks.spec(name)
        parts.append(f"## {name}\n")
        parts.append(
            f"{datasets.get(spec.dataset).title}, {spec.parameters:,} parameters, {size(4 * spec.parameters)} uncompressed "
            f"(4 bytes a parameter).\n"
        )
        if figures.is_drawn(own, others):
            parts.append(f"![{name}: top-1 error against bytes of the file]({figures.figure_path(name)})\n")
        if own:
            parts.append("**Measured** here, from the committed files:\n")
            parts.append(_markdown(measured_rows(own)))
        else:
            parts.append(f"No entry yet: `zoo show {name}-dft` prints the commands that make one.\n")
        curves = sorted((ROOT / RESULTS).glob(f"{name}-*.*"))
        for c in (c for c in curves if c.suffix == ".svg"):
            parts.append(f"![{name}: {c.stem.removeprefix(f'{name}-')}]({RESULTS}/{c.name})\n")
            parts += [caption.read_text()] if (caption := c.with_suffix(".md")).is_file() else []
        tables = ", ".join(f"[{c.name}]({RESULTS}/{c.name})" for c in curves if c.suffix == ".csv")
        if tables:
            parts.append(f"Data of curves; those with a column `test_errors` were measured on the test set: {tables}.\n")
        if others:
            parts.append("**Quoted** from publications, by their own counting; not measured here:\n")
            parts.append(_markdown(quoted_rows(others)))
    return "\n".join(parts)


def measured_rows(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """One row an entry, every cell ready to print. Sample measurements have columns of their own."""
    best = pareto(entries)
    sampled = any(e.sample for e in entries)
    rows = []
    for e in entries:
        row = {
            "entry": f"[{e.id}](artifacts/{e.id}/entry.json)",
            "method": e.method,
            "bytes": f"{e.size_bytes:,}",
            "ratio": f"{e.ratio:,.0f}x" if e.ratio >= 20 else f"{e.ratio:.1f}x",
            "errors": UNMEASURED if e.test_errors is None else f"{e.test_errors:,} of {e.test_examples:,}",
            "error": "" if e.top1_error is None else f"{e.top1_error:.2f} %",
            "Pareto": "●" if e.id in best else "",
        }
        if sampled:
            row["sample: same answer as the uncompressed network"] = _agreement(e)
        row["bytes, the paper's counting"] = "" if e.paper_bytes is None else f"{e.paper_bytes:,}"
        row["aimed at"] = _claim(e)
        row["all seeds"] = _seeds(e)
        rows.append(row)
    return [{k: v for k, v in row.items() if any(r[k] for r in rows)} for row in rows]  # no empty columns


def quoted_rows(quoted: Sequence[Quoted]) -> list[dict[str, str]]:
    """One row a published result, sizes and ratios as printed there."""
    return [
        {
            "method": q.method,
            "size, as printed": q.size,
            "ratio, as printed": "" if q.ratio is None else f"{q.ratio:g}x",
            "error, as printed": f"{q.error:g} %",
            "how": q.note,
            "source": q.source,
        }
        for q in quoted
    ]


def readme_table(entries: Sequence[Entry]) -> str:
    """The front of each network: entries that no other entry beats, and the published result that each stands beside.

    Of a long front the smallest entries and the most accurate one.
    """
    quoted, rows = registry.quoted(), []
    for own, _ in by_network(entries, ()).values():
        best = pareto(own)
        front = [e for e in own if e.id in best or e.test_errors is None]
        for e in [*front[: README_ROWS - 1], *front[README_ROWS - 1 :][-1:]]:
            beside = quoted.get(e.quoted or "")
            rows.append({
                "network": e.network,
                "entry": f"`{e.id}`",
                "bytes of the file": f"{e.size_bytes:,}",
                "ratio": f"{e.ratio:,.0f}x",
                "error, measured": "not yet measured" if e.top1_error is None else f"{e.top1_error:.2f} %",
                "published result beside it (quoted)": "" if beside is None else _published(beside),
            })  # fmt: skip
    return _markdown(rows) if rows else "No entries yet.\n"


def _published(q: Quoted) -> str:
    return f"{q.method}: {q.size}, {q.error:g} %" + (" (second-hand)" if q.note == "second-hand" else "")


def insert(text: str, table: str) -> str:
    """README.md with the table between its two marks. Raises ValueError where they are missing."""
    begin, end = README_MARKS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"README.md needs the lines {begin} and {end}, once each, in this order")
    return f"{text[: text.index(begin) + len(begin)]}\n{table}{text[text.index(end) :]}"


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    numbers = ("bytes", "ratio", "error", "size")
    align = ["right" if column.startswith(numbers) else "left" for column in frame.columns]
    text = frame.to_markdown(index=False, colalign=align, disable_numparse=True)
    return re.sub(r"-{4,}", "---", re.sub(r" {2,}", " ", text)) + "\n"  # a change of one cell is a change of one line


def _agreement(e: Entry) -> str:
    if not e.sample:
        return ""
    agreement, count = e.sample.agreement, e.sample.examples
    return "" if agreement is None else f"{agreement:,} of {count:,} ({100 * agreement / count:.1f} %)"


def _claim(e: Entry) -> str:
    """What the recipe aims at, and whether the measured numbers reach it."""
    path = ROOT / (e.recipe or "")
    if not e.recipe or not path.is_file():
        return ""
    claim = recipes.read(path).claim
    parts, found = [], "reached"
    if claim.bytes is not None:
        parts.append(f"{claim.bytes:,} bytes")
    if claim.error_percent is not None:
        parts.append(f"{claim.error_percent:g} %")
        if e.top1_error is None:
            found = "not yet measured"
        elif e.top1_error > claim.error_percent:
            found = "missed"
    if claim.bytes is not None and e.size_bytes > claim.bytes:
        found = "missed"
    return f"{' and '.join(parts)}: {found}" if parts else ""


def _seeds(e: Entry) -> str:
    """The spread over the seeds of the recipe: bytes and test errors."""
    if len(e.seeds) < 2:
        return ""
    spreads = []
    for key, unit in (("size_bytes", "bytes"), ("test_errors", "errors")):
        values = [getattr(s, key) for s in e.seeds if getattr(s, key) is not None]
        if values:
            spreads.append(f"{min(values):,}–{max(values):,} {unit}")
    return f"{len(e.seeds)}: {', '.join(spreads)}"


_INTRODUCTION = """# Leaderboard

<!-- Rendered by `python -m benchmarks leaderboard` from artifacts/*/entry.json and zoo/quoted.json: do not edit. -->

- **bytes** is the length of the whole file, which holds all that inference needs; decimal kB and MB.
- **ratio** is 4 bytes times the parameters of the uncompressed network, over the bytes.
- **errors** are wrong answers of the network decoded from that file, in float32, over the whole test set. `zoo verify`
  derives them again. At 5 % of 10,000 images one standard error is 22 images; `python -m benchmarks compare A B`
  gives the paired test.
- **Pareto** marks the entries that no other measured entry of the network beats.
- **bytes, the paper's counting** is what the paper of the method would count for the same file; what that leaves out is
  in the record (`paper_counting`).
- **sample**: on how many of 100 ImageNet *training* images, kept out of calibration, an entry answers as the uncompressed
  network does; `artifacts/<id>/sample.json` names the images, `zoo verify <id> --sample FOLDER` derives the number again.
- **aimed at** is the goal that the recipe states, and whether the entry reached it; **all seeds** the spread over the
  seeds of the recipe, of which the one that ships was chosen on held-out training images.
"""
