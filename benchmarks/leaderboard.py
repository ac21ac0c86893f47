"""Render leaderboard.md, figures/*.svg and the table in README.md from the records; nothing else writes them.

    python -m benchmarks leaderboard
    python -m benchmarks leaderboard --check       writes nothing, fails where a committed file is out of date

    artifacts/*/entry.json ─┬─> measured table of each network (pandas), Pareto mark
    zoo/quoted.json ────────┼─> quoted table of each network, never in one column with what was measured
                            └─> figures/<network>.svg: error against bytes
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.training import recipe as recipes
from zoo import datasets, files, networks, registry
from zoo.registry import Entry, Quoted

ROOT = Path(__file__).parent.parent
README_MARKS = ("<!-- leaderboard: begin -->", "<!-- leaderboard: end -->")
RESULTS = "benchmarks/results"  # curves that `sweep` and `compress` wrote; people may put a caption NAME.md beside NAME.svg
UNMEASURED = "bytes verified, error on ImageNet-val not yet measured"
# Colour-blind safe (Okabe and Ito 2008), with markers that differ too.
STYLES = {"epr": ("#0072B2", "o"), "lc": ("#D55E00", "s"), "hemp": ("#009E73", "^"), "plain": ("#000000", "D")}
OTHER_STYLES = (("#CC79A7", "v"), ("#E69F00", "P"), ("#56B4E9", "X"), ("#8C6D1F", "*"), ("#5B3A8E", "h"))
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
    drawn = {ROOT / figure_path(name): group for name, group in groups.items() if is_drawn(*group)}
    stale += [path for path, group in drawn.items() if figure_digest(path) != points_digest(*group)]
    if args.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make leaderboard`", file=sys.stderr)
        return 1 if stale else 0
    contents = {path: text.encode() for path, text in texts.items()}
    contents |= {path: figure(path.stem, *group) for path, group in drawn.items()}
    changed = [path for path, content in contents.items() if not path.exists() or path.read_bytes() != content]
    for path in changed:
        files.write(path, contents[path])
    print(f"leaderboard.md: {len(entries)} entries, {len(quoted)} quoted results; {len(changed)} files changed")
    return 0


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


# ----------------------------------------------------------------------------------------------- the tables


def render(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> str:
    """The text of leaderboard.md."""
    parts = [_INTRODUCTION]
    for name, (own, others) in by_network(entries, quoted).items():
        spec = networks.spec(name)
        parts.append(f"## {name}\n")
        parts.append(
            f"{datasets.get(spec.dataset).title}, {spec.parameters:,} parameters, {_size(4 * spec.parameters)} uncompressed "
            f"(4 bytes a parameter).\n"
        )
        if is_drawn(own, others):
            parts.append(f"![{name}: top-1 error against bytes of the file]({figure_path(name)})\n")
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


def _size(count: float) -> str:
    return f"{count / 1e6:.4g} MB" if count >= 1e6 else f"{count / 1e3:.4g} kB"


def _agreement(e: Entry) -> str:
    if not e.sample:
        return ""
    agreement, count = e.sample.get("agreement"), e.sample["examples"]
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
        values = [s[key] for s in e.seeds if s.get(key) is not None]
        if values:
            spreads.append(f"{min(values):,}–{max(values):,} {unit}")
    return f"{len(e.seeds)}: {', '.join(spreads)}"


# ---------------------------------------------------------------------------------------------- the figures


def is_drawn(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> bool:
    """Whether a figure would show anything that was measured."""
    return any(e.test_errors is not None for e in entries)


def figure_path(network: str) -> str:
    return f"figures/{network}.svg"


def points_digest(entries: Sequence[Entry], quoted: Sequence[Quoted]) -> str:
    """Identity of what a figure shows; it is written into the file, so that a stale figure is found without drawing."""
    points = [[e.id, e.method, e.size_bytes, e.test_errors, e.test_examples] for e in entries]
    points += [[q.key, q.method, q.size_bytes, q.error] for q in quoted]
    return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def figure_digest(path: Path) -> str | None:
    """The digest in a figure that was drawn before; None where there is none."""
    found = re.search(r"points ([0-9a-f]{64})", path.read_text(encoding="utf-8")) if path.exists() else None
    return found and found.group(1)


def figure(network: str, entries: Sequence[Entry], quoted: Sequence[Quoted], format: str = "svg") -> bytes:
    """Top-1 error against bytes (log scale): measured by method in colour, quoted in grey, the Pareto front as a line.

    The same points give the same bytes under one version of matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    measured = [e for e in entries if e.test_errors is not None]
    settings = {"svg.hashsalt": "zoo", "svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 9}
    with plt.rc_context(settings):
        fig, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
        ceiling = _ceiling([e.top1_error for e in measured], [q.error for q in quoted])
        spec, best, labels = networks.spec(network), pareto(measured), []
        for q in quoted:
            axes.plot(q.size_bytes, q.error, marker="x", color="0.55", linestyle="none", markersize=6)
            labels.append((q.size_bytes, q.error, q.method, "0.45"))
        for method, (colour, marker) in _styles(measured).items():
            own = [e for e in measured if e.method == method]
            errors = [min(e.top1_error, ceiling) for e in own]
            axes.plot([e.size_bytes for e in own], errors, marker=marker, color=colour, linestyle="none", label=method)
            for e, y in zip(own, errors, strict=True):
                beyond = f" ↑ {e.top1_error:.1f} %" if e.top1_error > ceiling else ""
                labels.append((e.size_bytes, y, e.id.removeprefix(f"{network}-") + beyond, colour))
        front = sorted((e.size_bytes, e.top1_error) for e in measured if e.id in best)
        sizes, errors = [size for size, _ in front], [error for _, error in front]
        axes.step(sizes, errors, where="post", color="0.35", linewidth=0.9, zorder=1.5, label="measured Pareto front")
        if quoted:
            axes.plot([], [], marker="x", color="0.55", linestyle="none", label="quoted, by its own counting")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: _size(x) if x >= 1000 else f"{x:.0f} B"))
        axes.minorticks_off()
        axes.set_xlabel("bytes of the whole file")
        axes.set_ylabel(f"top-1 error on {datasets.get(spec.dataset).title} test, %")
        axes.set_title(network, loc="left", fontweight="bold")
        floor = min([e.top1_error for e in measured] + [q.error for q in quoted])
        axes.set_ylim(floor - 0.2 * (ceiling - floor), ceiling + 0.1 * (ceiling - floor))
        axes.margins(x=0.1)
        axes.grid(True, which="major", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right", fontsize=8)
        _place(fig, axes, labels, list(zip(sizes, errors, strict=True)))
        out = io.BytesIO()
        about = {"Date": None, "Creator": None, "Description": f"points {points_digest(entries, quoted)}"}
        fig.savefig(out, format=format, dpi=110, metadata=about if format == "svg" else None)
        plt.close(fig)
    return re.sub(rb"[ \t]+\n", b"\n", out.getvalue()) if format == "svg" else out.getvalue()


def _ceiling(measured: list[float], quoted: list[float]) -> float:
    """Top of the error axis: what is far above most points is drawn at the edge, with its number."""
    usual = sorted(measured)[len(measured) // 2]
    return min(max(measured + quoted), max([1.5 * usual] + [1.15 * error for error in quoted]))


def _styles(entries: Sequence[Entry]) -> dict[str, tuple[str, str]]:
    methods = dict.fromkeys(sorted({e.method for e in entries}, key=lambda m: (m not in STYLES, m)))
    others = [m for m in methods if m not in STYLES]
    return {m: STYLES.get(m) or OTHER_STYLES[others.index(m) % len(OTHER_STYLES)] for m in methods}


def _place(fig, axes, labels: Sequence[tuple[float, float, str, str]], front: Sequence[tuple[float, float]]) -> None:
    """Writes each label beside its point, where it covers least of the points, the front and the labels placed before."""
    fig.canvas.draw()
    points = [axes.transData.transform((x, y)) for x, y, _, _ in labels]
    frame, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    taken.append((legend.x0, legend.y0, legend.x1, legend.y1))
    for begin, end in zip(front, front[1:], strict=False):  # a step goes right, then down
        (x0, y0), (x1, y1) = axes.transData.transform([begin, end])
        taken += [(x0, y0 - 2, x1, y0 + 2), (x1 - 2, y1, x1 + 2, y0)]
    scale = fig.dpi / 72
    for (x, y), (px, py, text, colour) in zip(points, labels, strict=True):
        width, height = 4.3 * len(text) * scale, 8 * scale
        options = []
        for dx, dy in ((6, 3), (6, -10), (6, 14), (6, -20), (0, 8), (0, -15), (0, 18), (0, -25), (14, 26), (14, -32), (14, 38)):
            for side in ("left", "right", "center"):
                if (side == "center") != (dx == 0):
                    continue
                left = {"left": x + dx * scale, "right": x - dx * scale - width, "center": x - width / 2}[side]
                box = (left, y + dy * scale, left + width, y + dy * scale + height)
                cost = sum(_overlap(box, other) for other in taken)
                outside = max(0, frame.x0 - box[0]) + max(0, box[2] - frame.x1) + max(0, frame.y0 - box[1])
                options.append((cost + outside * height + 0.5 * abs(dy), side, dx, dy, box))
        _, side, dx, dy, box = min(options)
        taken.append(box)
        end = {"left": (0, 0.5), "right": (1, 0.5), "center": (0.5, float(dy < 0))}[side]  # of the label
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3, "relpos": end}
        axes.annotate(
            text, (px, py), xytext=(-dx if side == "right" else dx, dy), textcoords="offset points", ha=side, va="bottom",
            color=colour, fontsize=7, arrowprops=line if abs(dy) > 10 else None,
        )  # fmt: skip


def _overlap(a: tuple, b: tuple) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


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
