"""Render leaderboard.md, figures/*.svg and the table in README.md from the records; nothing else writes them.

    python -m benchmarks leaderboard
    python -m benchmarks leaderboard --check       writes nothing, fails where a committed file is out of date

    artifacts/*/entry.json ─┬─> measured table of each network: Pareto mark, paired test, cost of training
    zoo/quoted.json ────────┼─> quoted table of each network, never in one column with what was measured
                            ├─> figures/<network>.svg: error against bytes
                            └─> benchmarks/results/outcomes.csv: which test images each entry answers wrongly
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scipy.stats import binomtest
from tabulate import tabulate

from benchmarks.report import cost, curve, figures, paired, standing
from benchmarks.report.records import (
    RESULTS,
    ROOT,
    Point,
    beaten_by,
    by_network,
    front,
    heading,
    points,
    read_entries,
    readable,
    size,
)  # fmt: skip
from zoo import datasets, files, networks, registry
from zoo.records import Entry, SampleResult
from zoo.registry import Quoted

README_MARKS = ("<!-- leaderboard: begin -->", "<!-- leaderboard: end -->")
UNMEASURED = "bytes verified, error on ImageNet-val not yet measured"
README_ROWS = 4  # of a network
DECODED = (
    "**Measured by its authors' decoder**: the bytes are those of a stream that only the named program reads; the errors were "
    "measured here, on the weights that its authors say it gives"
)
TIE = "≈"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is out of date")


def main(args: argparse.Namespace) -> int:
    entries, quoted = read_entries(), list(registry.quoted().values())
    if args.check:
        stale = list(_outdated(entries, quoted))
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make leaderboard`", file=sys.stderr)
        return 1 if stale else 0
    changed = [_write(paired.OUTCOMES, paired.update(entries))]
    changed += [_write(path, text.encode()) for path, text in _texts(entries, quoted).items()]
    changed += [_write(path, figures.figure(*drawn)) for path, drawn in _drawn(entries, quoted).items()]
    print(f"leaderboard.md: {len(entries)} entries, {len(quoted)} quoted results; {sum(changed)} files changed")
    return 0


def _texts(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict[Path, str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return {
        ROOT / "leaderboard.md": render(entries, quoted),
        ROOT / "README.md": insert(readme, readme_table(entries, quoted)),
    }


def _drawn(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict[Path, tuple[str, list[Entry], list[Quoted]]]:
    groups = by_network(entries, quoted)
    return {ROOT / figures.figure_path(name): (name, *group) for name, group in groups.items() if figures.is_drawn(*group)}


def _outdated(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> Iterator[Path]:
    if any(e.test_errors is not None and paired.outcomes(e) is None for e in entries):
        yield paired.OUTCOMES
    for path, text in _texts(entries, quoted).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path
    for path, drawn in _drawn(entries, quoted).items():
        if figures.digest_in(path) != figures.digest(figures.specification(*drawn)):
            yield path


def _write(path: Path, content: bytes) -> bool:
    """Whether the file changed."""
    if path.exists() and path.read_bytes() == content:
        return False
    files.write(path, content)
    return True


# ----------------------------------------------------------------------------------------------- the tables


def render(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> str:
    """The text of leaderboard.md."""
    sections = [_INTRODUCTION]
    for name, (members, published) in by_network(entries, quoted).items():
        spec = networks.spec(name)
        sections.append(f"## {name}\n")
        sections.append(
            f"{datasets.get(spec.dataset).title}, {spec.parameters:,} parameters, {size(4 * spec.parameters)} uncompressed "
            f"(4 bytes a parameter).\n"
        )
        if figures.is_drawn(members, published):
            sections.append(f"![{name}: top-1 error against bytes of the file]({figures.figure_path(name)})\n")
        opened, decoded = readable(members), [e for e in members if e.decoded is not None]
        if opened:
            sections.append("**Measured** here, from the committed files:\n")
            sections.append(_markdown(measured_rows(opened, published)))
        else:
            sections.append("No entry yet.\n")
        for c in curve.files_of(name, ".svg", ROOT / RESULTS):
            sections.append(f"![{name}: {c.stem.removeprefix(f'{curve.stem(name)}-')}]({RESULTS}/{c.name})\n")
            sections += [caption.read_text()] if (caption := c.with_suffix(".md")).is_file() else []
        for table in curve.files_of(name, "ablation.md", ROOT / RESULTS):
            sections.append(f"What each ingredient is worth: [{table.name}]({RESULTS}/{table.name}).\n")
        tables = ", ".join(f"[{c.name}]({RESULTS}/{c.name})" for c in curve.files_of(name, ".csv", ROOT / RESULTS))
        if tables:
            sections.append(f"Data of curves; those with a column `test_errors` were measured on the test set: {tables}.\n")
        if decoded:
            sections.append(f"{DECODED}:\n")
            sections.append(_markdown(decoded_rows(decoded)))
        if published:
            sections.append("**Quoted** from publications, by their own counting; not measured here:\n")
            sections.append(_markdown(quoted_rows(published)))
    return "\n".join(sections)


def measured_rows(entries: Sequence[Entry], quoted: Sequence[Quoted] = ()) -> list[dict[str, str]]:
    """One row an entry, every cell ready to print. Sample measurements have columns of their own."""
    measured = points(entries)
    point_of = {p.entry.id: p for p in measured if p.entry is not None}
    sampled = {sample.key: sample for e in entries for sample in e.samples}
    rows = []
    for e in entries:
        row = {
            "entry": f"[{e.id}](artifacts/{e.id}/entry.json)",
            "method": _cell(e.method),
            "bytes": f"{e.size_bytes:,}",
            "ratio": _ratio(e),
            "errors": UNMEASURED if e.test_errors is None else f"{e.test_errors:,} of {e.test_examples:,}",
            "error ± standard error": _error(e),
            "Pareto": _pareto(point_of[e.id], measured) if e.id in point_of else "",
            "against the best smaller entry": _against(e, entries),
        }
        samples = {sample.key: sample for sample in e.samples}
        for key in sampled:
            row |= _sampled(key, samples.get(key))
        row["bytes, the paper's counting"] = "" if e.paper_bytes is None else f"{e.paper_bytes:,}"
        row["aimed at"] = standing.claim(e)
        row["strongest published at no larger error"] = _strongest(e, quoted)
        row["all seeds"] = _seeds(e)
        row["training"] = training(e)
        row["from"] = _from(e)
        rows.append(row)
    return _filled(rows)


def _filled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows without columns that are empty in all of them."""
    return [{k: v for k, v in row.items() if any(r[k] for r in rows)} for row in rows]


def decoded_rows(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """One row an entry whose stream only its authors' program reads."""
    return [
        {
            "entry": f"[{e.id}](artifacts/{e.id}/entry.json)",
            "method": _cell(e.method),
            "bytes of the stream": f"{e.size_bytes:,}",
            "ratio": _ratio(e),
            "errors": UNMEASURED if e.test_errors is None else f"{e.test_errors:,} of {e.test_examples:,}",
            "error ± standard error": _error(e),
            "decoder": _cell(e.decoded.decoder),
            "training": training(e),
            "from": _from(e),
        }
        for e in entries
    ]


def quoted_rows(quoted: Sequence[Quoted]) -> list[dict[str, str]]:
    """One row a published result, sizes and ratios as printed there."""
    rows = [
        {
            "method": _cell(q.method),
            "size, as printed": q.size,
            "ratio, as printed": "" if q.ratio is None else f"{q.ratio:g}x",
            "error, as printed": f"{q.error:g} %",
            "counting": q.counting or "",
            "how": q.note,
            "source": _linked(_cell(q.source)),
            "made from published weights by": f"`{q.command}`" if q.command else "",
        }
        for q in quoted
    ]
    return _filled(rows)


def readme_table(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> str:
    """The front of each network: entries that no other entry beats, each beside the strongest published result.

    Of a long front the smallest entries and the most accurate one.
    """
    rows = []
    for members, _ in by_network(entries, ()).values():
        best = {p.name for p in front([p for p in points(members) if p.entry])}
        listed = [e for e in readable(members) if e.id in best or e.test_errors is None]
        for e in [*listed[: README_ROWS - 1], *listed[README_ROWS - 1 :][-1:]]:
            tie = " " + TIE if _tied(e, members) else ""
            rows.append({
                "network": e.network,
                "entry": f"`{e.id}`",
                "bytes of the file": f"{e.size_bytes:,}",
                "ratio": _ratio(e),
                "error, measured": "not yet measured" if e.top1_error is None else _error(e) + tie,
                "on a sample (uncompressed)": _short_sample(e),
                "training": training(e),
                "strongest published at no larger error (quoted)": _strongest(e, quoted),
            })  # fmt: skip
    return _markdown(_filled(rows)) if rows else "No entries yet.\n"


def _short_sample(e: Entry) -> str:
    """Errors on the sample with the most labels, where the whole test set was not measured."""
    sample = paired.most_labelled(e.samples) if e.top1_error is None else None
    if sample is None:
        return ""
    error, reference = (100 * count / sample.labelled for count in (sample.errors, sample.reference_errors))
    return f"{error:.1f} % of {sample.labelled} ({reference:.1f} %)"


def _linked(source: str) -> str:
    """A source with its address as a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def _ratio(e: Entry) -> str:
    return f"{e.ratio:,.0f}x" if e.ratio >= 20 else f"{e.ratio:.1f}x"


def _error(e: Entry) -> str:
    return "" if e.top1_error is None else f"{e.top1_error:.2f} ± {standing.standard_error(e):.2f} %"


def _pareto(point: Point, measured: Sequence[Point]) -> str:
    """The mark of the front, or what beats the point on both axes."""
    winner = beaten_by(point, measured)
    return "●" if winner is None else f"beaten by {winner.name}"


def _against(e: Entry, entries: Sequence[Entry]) -> str:
    """The paired test against the most accurate smaller entry, in words."""
    test = standing.against_smaller(e, entries)
    if test is None:
        return ""
    rival, c = test
    p = "p < 0.001" if c.p < 0.001 else f"p = {c.p:.2g}"
    verdict = TIE if c.p > paired.LEVEL else "worse than" if c.points > 0 else "better than"
    return f"{verdict} {rival.id} ({p})"


def _tied(e: Entry, entries: Sequence[Entry]) -> bool:
    test = standing.against_smaller(e, entries)
    return test is not None and test[1].p > paired.LEVEL


def _strongest(e: Entry, quoted: Sequence[Quoted]) -> str:
    """The rival in words, and whether it is ahead; a network of which nothing is published has no such cell."""
    if not any(heading(q.network) == heading(e.network) for q in quoted):
        return ""
    q = standing.strongest(e, quoted)
    if q is None:
        return "none"
    ahead = ", **smaller**" if q.size_bytes < e.size_bytes else ""
    return f"{q.method}: {q.size}, {q.error:g} %{' (second-hand)' if q.note == 'second-hand' else ''}{ahead}"


def training(e: Entry) -> str:
    """What the run that ships cost, and what it began with; of a submitted entry what its authors say."""
    if e.submission is not None:
        return f"stated by its authors: {_cell(e.submission.training)}" if e.submission.training else "not stated by its authors"
    spent = cost.of(e)
    return f"{spent}{f', from {spent.start}' if spent.start else ''}".removeprefix(", ")


def _from(e: Entry) -> str:
    """The source of a submitted entry."""
    return "" if e.submission is None else _linked(_cell(e.submission.paper))


def _cell(text: str) -> str:
    """Words of somebody else as they may stand in a table of Markdown."""
    return re.sub(r"([\\`*\[\]<>|&#!])", r"\\\1", " ".join(text.split()))


def insert(text: str, table: str) -> str:
    """README.md with the table between its two marks. Raises ValueError where they are missing."""
    begin, end = README_MARKS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"README.md needs the lines {begin} and {end}, once each, in this order")
    return f"{text[: text.index(begin) + len(begin)]}\n{table}{text[text.index(end) :]}"


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    align = ["right" if column.startswith(("bytes", "ratio", "error", "size")) else "left" for column in rows[0]]
    text = tabulate(rows, headers="keys", tablefmt="pipe", colalign=align, disable_numparse=True)
    return re.sub(r"-{4,}", "---", re.sub(r" {2,}", " ", text)) + "\n"  # a change of one cell is a change of one line


def _sampled(key: str, sample: SampleResult | None) -> dict[str, str]:
    """The columns of one sample: errors with their 95 % interval, and agreement; empty cells where it was not measured."""
    error = agreement = ""
    if sample is not None:
        share = 100 * sample.agreement / sample.examples
        agreement = f"{sample.agreement:,} of {sample.examples:,} ({share:.1f} %)"
    if sample is not None and sample.labelled:
        low, high = binomtest(sample.errors, sample.labelled).proportion_ci(method="wilson")
        error = f"{100 * sample.errors / sample.labelled:.1f} % ({100 * low:.1f} to {100 * high:.1f}), "
        error += f"uncompressed {100 * sample.reference_errors / sample.labelled:.1f} %"
    return {f"error on {key}": error, f"{key}: same answer as the uncompressed network": agreement}


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
  derives them again. The **standard error** is that of a share of so many images.
- **Pareto** marks with ● the entries that nothing measured here beats, points of published sweeps included. Of the others
  it names what is at most as large and errs at most as often.
- **against the best smaller entry**: exact paired test (McNemar) on the same images, against the most accurate entry of fewer
  bytes. ≈ is a tie (p > 0.05): the larger file shows no gain. `python -m benchmarks compare A B` tests any two.
- **bytes, the paper's counting** is what the paper of the method would count for the same file; what that leaves out is
  in the record (`paper_counting`).
- **error on** a sample of ImageNet is never a test error. The sample is named in the record; the interval is Wilson's, of 95 %.
  Beside it stands the error of the uncompressed network on the same pictures, and on how many the two give the **same
  answer**. `artifacts/<id>/sample-<key>.json` names the pictures, `zoo verify <id> --sample FOLDER` derives the numbers again.
- **aimed at** is the goal that the recipe states, and under which counting the entry reached it.
- **strongest published at no larger error** is the smallest published result whose error, at the precision in which it is
  printed, is at most the entry's; where ours is not measured, at most that of the row it aims at. It is quoted, by its own
  counting; **smaller** says that it has fewer bytes than the entry.
- **measured by its authors' decoder**, in a table of its own: that the stream holds those weights is its authors' word, so
  these entries are no part of the Pareto front and no rivals in any test.
- **all seeds** is the spread over the seeds of the recipe, of which the one that ships was chosen on held-out training images.
- **training** is what the run that ships took: images that passed forward and backward, and wall clock times threads on a
  shared machine, without what its starting weights cost. Of an entry from elsewhere it is what its authors say, and **from**
  is their source. An id that is no entry here any more is in [CHANGELOG.md](CHANGELOG.md).
"""
