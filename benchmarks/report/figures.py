"""The figure of each network: top-1 error against bytes of the file, one SVG from the records and the quoted results."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.records import TITLES, front, points, size
from zoo import networks
from zoo.registry import Entry, Quoted

# Colour-blind safe (Okabe and Ito 2008), with markers that differ too.
STYLES = {"epr": ("#0072B2", "o"), "lc": ("#D55E00", "s"), "hemp": ("#009E73", "^"), "plain": ("#000000", "D")}
OTHER_STYLES = (("#CC79A7", "v"), ("#E69F00", "P"), ("#56B4E9", "X"), ("#8C6D1F", "*"), ("#5B3A8E", "h"))


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
        spec, labels = networks.spec(network), []
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
        best = front(points(measured))
        sizes, errors = [p.size_bytes for p in best], [p.error for p in best]
        axes.step(sizes, errors, where="post", color="0.35", linewidth=0.9, zorder=1.5, label="measured Pareto front")
        if quoted:
            axes.plot([], [], marker="x", color="0.55", linestyle="none", label="quoted, by its own counting")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: size(x) if x >= 1000 else f"{x:.0f} B"))
        axes.minorticks_off()
        axes.set_xlabel("bytes of the whole file")
        axes.set_ylabel(f"top-1 error on {TITLES[spec.dataset]} test, %")
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
