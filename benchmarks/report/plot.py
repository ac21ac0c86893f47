"""Plots as Vega-Lite specifications, one style for README, leaderboard.md and the page.

    rows of points  -->  `errors`, `curves`: a specification  -->  `svg`: a figure for Markdown, light and dark in one file
                                                             '-->  the page, which draws it with the same library

An SVG has no ground of its own and changes its colours where the reader's screen is dark.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterable, Sequence

from benchmarks.report.labels import Label, Point, place

VERSION = "6.4"  # of Vega-Lite
INK, MUTED, GRID, QUOTED = "#1f2328", "#59636e", "#d9dee3", "#818b98"
# Colour-blind safe (after Okabe and Ito 2008), with markers that differ too: (colour, on a dark ground, marker).
METHODS = {
    "epr": ("#0072b2", "#54aeff", "circle"),
    "lc": ("#c24e00", "#ff9a5c", "square"),
    "hemp": ("#008060", "#3fc79a", "triangle-up"),
    "plain": (INK, "#e6edf3", "diamond"),
}
OTHERS = (
    ("#b3568b", "#f0a6cf", "triangle-down"), ("#8c6d1f", "#e3b341", "cross"), ("#5b3a8e", "#b794f4", "triangle-right"),
    ("#2a7f8f", "#76d4e3", "triangle-left"), ("#a3333d", "#ff8b94", "stroke"),
)  # fmt: skip
QUOTED_MARK = "M-0.6,-0.6L0.6,0.6M-0.6,0.6L0.6,-0.6"
DARK = {INK: "#e6edf3", MUTED: "#9198a1", GRID: "#3d444d", QUOTED: "#818b98"} | {
    light: dark for light, dark, _ in (*METHODS.values(), *OTHERS)
}
WIDTH, HEIGHT, FONT = 660, 380, 10  # of the plotting area and its labels, pixels
FAMILY = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
SIZE_LABEL = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '.3~r') + ' MB' : "
    "datum.value >= 1e3 ? format(datum.value / 1e3, '.3~r') + ' kB' : datum.value + ' B'"
)


def styles(methods: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Method -> colour, colour on a dark ground, marker: the known ones always look the same."""
    names = sorted(set(methods), key=lambda m: (m not in METHODS, list(METHODS).index(m) if m in METHODS else 0, m))
    others = [m for m in names if m not in METHODS]
    return {m: METHODS.get(m) or OTHERS[others.index(m) % len(OTHERS)] for m in names}


# ------------------------------------------------------------------------------------------- error against bytes


def errors(title: str, subtitle: str, rows: Sequence[dict], front: Sequence[dict], labels: bool = True) -> dict:
    """Top-1 error against bytes (log axis).

    rows: `kind` (entry, seed, sweep, quoted), `name`, `label`, `method`, `bytes`, `error`; what else they have is theirs.
    front: `bytes` and `error` of the Pareto front, by size. labels: names beside entries and quoted points.
    """
    ceiling = ceiling_of(rows)
    points = placed(rows, ceiling)
    drawn = [r for r in points if r["kind"] != "quoted"]
    floor = min(r["error"] for r in rows)
    room = ceiling - floor or 1.0  # the first entry of a network stands alone
    y = (floor - 0.08 * room, ceiling + 0.06 * room)
    sizes = [r["bytes"] for r in rows]
    x = (min(sizes) / 1.35, max(sizes) * 1.35)
    line = [*front, {"bytes": x[1], "error": front[-1]["error"]}] if front else []
    looks = styles(r["method"] for r in drawn)
    layers = [
        {
            "name": "front",
            "data": {"name": "front", "values": line},
            "mark": {"type": "line", "interpolate": "step-after", "color": MUTED, "strokeWidth": 1.2, "clip": True},
            "encoding": {"y": {"field": "error"}},
        },
        _layer("quoted", [r for r in points if r["kind"] == "quoted"], {"shape": QUOTED_MARK, "stroke": QUOTED, "size": 55}),
        _layer("runs", [r for r in drawn if r["kind"] != "entry"], {"filled": False, "size": 26, "opacity": 0.7}, looks),
        _layer("entries", [r for r in drawn if r["kind"] == "entry"], {"filled": True, "size": 70, "opacity": 0.92}, looks),
    ]
    spec = _frame(title, subtitle, layers)
    spec["encoding"] = {
        "x": {
            "field": "bytes",
            "type": "quantitative",
            "scale": {"type": "log", "domain": x, "nice": False},
            "axis": {"title": "bytes of the whole file", "values": ticks(*x), "labelExpr": SIZE_LABEL},
        },
        "y": {
            "field": "shown",
            "type": "quantitative",
            "scale": {"domain": y, "nice": False, "zero": False},
            "axis": {"title": "top-1 error on the test set, %", "tickCount": 8},
        },
    }
    if labels:
        log_x = [math.log(side) for side in x]

        def pixel(size: float, error: float) -> Point:
            return WIDTH * (math.log(size) - log_x[0]) / (log_x[1] - log_x[0]), HEIGHT * (y[1] - error) / (y[1] - y[0])

        spots = [pixel(r["bytes"], r["shown"]) for r in points]
        names = [
            (r["label"], QUOTED if r["kind"] == "quoted" else looks[r["method"]][0], spot)
            for r, spot in zip(points, spots, strict=True) if r["kind"] in ("entry", "quoted")
        ]  # fmt: skip
        corners = [pixel(p["bytes"], p["error"]) for p in line]
        steps = [corner for a, b in itertools.pairwise(corners) for corner in (a, (b[0], a[1]))] + corners[-1:]
        spec["layer"] += _label_layers(place(names, spots, [steps], (WIDTH, HEIGHT)))
    return spec


def ceiling_of(rows: Sequence[dict]) -> float:
    """Top of the error axis: what is far above most points is drawn at the edge, with its number."""
    measured = sorted(r["error"] for r in rows if r["kind"] == "entry") or sorted(r["error"] for r in rows)
    quoted = [r["error"] for r in rows if r["kind"] == "quoted"]
    usual = measured[len(measured) // 2]
    return min(max(r["error"] for r in rows), max([1.5 * usual] + [1.12 * error for error in quoted]))


def placed(rows: Sequence[dict], ceiling: float) -> list[dict]:
    """Rows with `shown`, the error at which each is drawn: beyond the axis one below the other at its edge."""
    lowest, beyond = min(r["error"] for r in rows), sorted({r["error"] for r in rows if r["error"] > ceiling}, reverse=True)
    step = 0.05 * (ceiling - lowest)
    return [
        r | {"shown": ceiling - step * beyond.index(r["error"]), "label": f"{r['label']} ↑ {r['error']:.1f} %"}
        if r["error"] > ceiling else r | {"shown": r["error"]}
        for r in rows
    ]  # fmt: skip


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two sizes."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [v * 10**p for p in powers for v in (1, 2, 5) if low <= v * 10**p <= high]


def _layer(name: str, rows: Sequence[dict], mark: dict, looks: dict | None = None) -> dict:
    encoding = {}
    if looks:
        names, (colours, _, shapes) = list(looks), zip(*looks.values(), strict=True)
        encoding["color"] = {"field": "method", "scale": {"domain": names, "range": colours}, "legend": {"title": None}}
        encoding["shape"] = {"field": "method", "scale": {"domain": names, "range": shapes}}
    return {"name": name, "data": {"name": name, "values": list(rows)}, "mark": {"type": "point", **mark}, "encoding": encoding}


# ------------------------------------------------------------------------------------------------------- curves


def curves(title: str, subtitle: str, x: str, y: str, lines: dict[str, list], references: Sequence[dict] = ()) -> dict:
    """Lines through measured points, and grey points or levels of others, each with its name beside it.

    lines: name -> [(x, y), ...]; references: {"label", "y"} for a level, with "x" too for a point.
    """
    values = [{"line": name, "x": px, "y": py} for name, line in lines.items() for px, py in line]
    looks = dict(zip(lines, [*METHODS.values(), *OTHERS] * 3, strict=False))
    titles, (colours, _, shapes) = list(looks), zip(*looks.values(), strict=True)
    levels, others = [r for r in references if "x" not in r], [r for r in references if "x" in r]
    all_x = [v["x"] for v in values] + [r["x"] for r in others]
    all_y = [v["y"] for v in values] + [r["y"] for r in references]
    pad_x, pad_y = 0.05 * (max(all_x) - min(all_x)) or 1, 0.08 * (max(all_y) - min(all_y)) or 1
    domain_x, domain_y = (min(all_x) - pad_x, max(all_x) + 3 * pad_x), (min(all_y) - pad_y, max(all_y) + pad_y)
    legend = {"title": None} | ({"columns": 3} if len(titles) > 4 else {})
    colour = {"field": "line", "scale": {"domain": titles, "range": colours}, "legend": legend}
    shape = {"field": "line", "scale": {"domain": titles, "range": shapes}}
    text = {"type": "text", "align": "left", "dx": 6, "dy": -6, "color": MUTED, "fontSize": FONT}
    layers = [
        {
            "data": {"values": levels},
            "mark": {"type": "rule", "color": QUOTED, "strokeDash": [4, 3]},
            "encoding": {"x": {"value": 0}, "x2": {"value": WIDTH}},
        },
        {"data": {"values": levels}, "mark": text, "encoding": {"x": {"value": 0}, "text": {"field": "label"}}},
        {"data": {"values": values}, "mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"color": colour}},
        {
            "data": {"values": values},
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.92},
            "encoding": {"color": colour, "shape": shape},
        },
        {"data": {"values": others}, "mark": {"type": "point", "shape": QUOTED_MARK, "stroke": QUOTED, "size": 55}},
    ]

    def pixel(px: float, py: float) -> Point:
        across, down = (px - domain_x[0]) / (domain_x[1] - domain_x[0]), (domain_y[1] - py) / (domain_y[1] - domain_y[0])
        return WIDTH * across, HEIGHT * down

    drawn = [[pixel(*point) for point in sorted(line)] for line in lines.values()]
    names = [(r["label"], QUOTED, pixel(r["x"], r["y"])) for r in others if r["label"]]
    spots = [*itertools.chain(*drawn), *(pixel(r["x"], r["y"]) for r in others)]
    layers += _label_layers(place(names, spots, drawn, (WIDTH, HEIGHT)))
    spec = _frame(title, subtitle, layers)
    spec["encoding"] = {
        "x": {"field": "x", "type": "quantitative", "scale": {"domain": domain_x, "nice": False}, "axis": {"title": x}},
        "y": {
            "field": "y",
            "type": "quantitative",
            "scale": {"domain": domain_y, "nice": False, "zero": False},
            "axis": {"title": y, "tickCount": 8},
        },
    }
    return spec


def _label_layers(labels: Sequence[Label]) -> list[dict]:
    words = [
        {"px": round(n.side[1], 1), "py": round(n.box[3] - 3, 1), "label": n.text, "colour": n.colour, "side": n.side[0]}
        for n in labels
    ]  # fmt: skip
    leaders = [
        {"px": round(n.point[0], 1), "py": round(n.point[1], 1), "qx": round(n.leader[0], 1), "qy": round(n.leader[1], 1)}
        | {"colour": n.colour} for n in labels if n.leader is not None
    ]  # fmt: skip
    free = {"scale": None, "type": "quantitative"}
    colour = {"field": "colour", "scale": None, "legend": None}
    at = {"x": {"field": "px", **free}, "y": {"field": "py", **free}, "color": colour}
    return [
        {
            "data": {"values": leaders},
            "mark": {"type": "rule", "strokeWidth": 0.6, "opacity": 0.7},
            "encoding": at | {"x2": {"field": "qx"}, "y2": {"field": "qy"}},
        },
        {
            "name": "names",
            "data": {"values": words},
            "mark": {"type": "text", "align": {"expr": "datum.side"}, "baseline": "alphabetic", "fontSize": FONT},
            "encoding": at | {"text": {"field": "label", "type": "nominal"}},
        },
    ]


def _frame(title: str, subtitle: str, layers: list[dict]) -> dict:
    axis = {"grid": True, "gridColor": GRID, "gridOpacity": 0.7, "domainColor": MUTED, "tickColor": MUTED}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH,
        "height": HEIGHT,
        "title": {"text": title, "subtitle": subtitle, "anchor": "start"},
        "layer": layers,
        "config": {
            "background": None,
            "font": FAMILY,
            "view": {"stroke": None},
            "axis": axis | {"labelColor": MUTED, "titleColor": MUTED, "titleFontWeight": "normal", "labelFontSize": FONT},
            "title": {"color": INK, "subtitleColor": MUTED, "fontSize": 14, "offset": 8, "subtitleFontSize": 11},
            "legend": {"orient": "top", "labelColor": INK, "labelFontSize": 11, "labelLimit": 400, "offset": 4}
            | {"symbolSize": 70, "symbolOpacity": 1},
        },
    }


# ---------------------------------------------------------------------------------------------------------- SVG


def svg(spec: dict, description: str = "") -> bytes:
    """The drawing, the same bytes for the same specification and version of vl-convert."""
    import vl_convert

    text = vl_convert.vegalite_to_svg(copy.deepcopy(spec), vl_version=VERSION)
    rules = "".join(
        f'[{kind}="{light}"]{{{kind}:{dark}}}' for light, dark in DARK.items() for kind in ("fill", "stroke") if light != dark
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    note = f"<desc>{description}</desc>" if description else ""
    clips = {clip: f"clip{i}" for i, clip in enumerate(dict.fromkeys(re.findall(r"clip\d+", text)))}  # vega counts on
    text = re.sub(r"clip\d+", lambda m: clips[m.group()], text)
    return re.sub(r"(<svg[^>]*>)", lambda m: m.group(1) + note + style, text, count=1).encode() + b"\n"
