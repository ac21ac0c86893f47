"""Draw docs/*.svg: each method in one picture, from the integers of an entry.

    python -m benchmarks pictures                 docs/epr.svg and its like
    python -m benchmarks pictures --out FOLDER

    artifacts/<id>/model.zoo --zoo.decode--> integers of the first layer --> docs/epr.svg, lc.svg, hemp.svg, lean.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

import zoo
from benchmarks.report import figures, plot
from benchmarks.report.records import ROOT
from zoo import files, registry
from zoo.codec import Coded

FOLDER = ROOT / "docs"
WIDTH, HEIGHT = 480, 250  # of the plotting area, pixels
BLUE, ORANGE = plot.METHODS["epr"][0], plot.METHODS["lc"][0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: docs/)")


def main(args: argparse.Namespace) -> None:
    for name, draw in PICTURES.items():
        spec = draw()
        files.write(args.out / f"{name}.svg", plot.svg(spec, f"drawn from {figures.digest(spec)}"))
    print(f"{args.out}: {', '.join(f'{name}.svg' for name in PICTURES)}")


def epr() -> dict:
    """Bytes that the integers of each value take, and bits that one of them costs."""
    phi = _group("lenet300-100-sq", "fc1+fc2").phi
    values, counts = np.unique(phi, return_counts=True)
    bits = -np.log2(counts / counts.sum())
    rows = [
        {"integer": int(k), "bytes": round(float(n * b / 8), 1), "bits": round(float(b), 3), "count": int(n)}
        for k, n, b in zip(values, counts, bits, strict=True)
    ]
    zeros = counts[values == 0][0]
    x = {"field": "integer", "type": "quantitative", "axis": {"title": "integer (weight / step)", "tickMinStep": 1}}
    layers = [
        {
            "data": {"values": rows},
            "mark": {"type": "bar", "color": BLUE, "width": 14},
            "encoding": {"x": x, "y": _axis("bytes", "bytes of all integers of that value", BLUE)},
        },
        {
            "data": {"values": rows},
            "mark": {"type": "line", "point": {"filled": True, "color": ORANGE, "size": 40}, "color": ORANGE, "strokeWidth": 1.5},
            "encoding": {"x": x, "y": _axis("bits", "bits that one of them costs", ORANGE, orient="right", grid=False)},
        },
    ]
    subtitle = f"lenet300-100-sq, first two layers: {zeros:,} of {counts.sum():,} integers are zero"
    return _picture("EPR: what an integer costs is what training pays for it", subtitle, layers) | {
        "resolve": {"scale": {"y": "independent"}}
    }


def lc() -> dict:
    """Weights of the uncompressed network, and the few values that stay."""
    weights = zoo.load_state_dict("lenet300-100-ref")["fc1.weight"].numpy().reshape(-1)
    coded = _group("lenet300-100-lc-k4", "fc1")
    edges = np.linspace(-0.35, 0.35, 71)
    heights, _ = np.histogram(weights, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    area = [{"weight": round(float(x), 4), "count": int(n)} for x, n in zip(middles, heights, strict=True)]
    shares = np.bincount(coded.phi.reshape(-1)) / coded.phi.size
    levels = [
        {"weight": round(float(v), 4), "share": f"{100 * s:.0f} %", "top": int(heights.max() * 1.02)}
        for v, s in zip(coded.psi["codebook"].reshape(-1), shares, strict=True)
    ]
    x = {"field": "weight", "type": "quantitative", "axis": {"title": "weight of the first layer"}}
    layers = [
        {
            "data": {"values": area},
            "mark": {"type": "area", "interpolate": "step", "color": BLUE, "opacity": 0.35},
            "encoding": {"x": x, "y": _axis("count", "weights before", plot.MUTED)},
        },
        {"data": {"values": levels}, "mark": {"type": "rule", "color": ORANGE, "strokeWidth": 2}, "encoding": {"x": x}},
        {
            "data": {"values": levels},
            "mark": {"type": "text", "color": plot.INK, "align": "left", "dx": 4, "fontSize": 11},
            "encoding": {"x": x, "y": {"field": "top", "type": "quantitative"}, "text": {"field": "share"}},
        },
    ]
    subtitle = "area: lenet300-100-ref; lines: the four values of lenet300-100-lc-k4 and the share of weights at each"
    return _picture("LC: few values, learned together with the weights", subtitle, layers)


def hemp() -> dict:
    """How often each level follows each other one along a row of the first layer."""
    coded = _group("lenet300-100-hemp2", "fc1")
    levels = coded.psi["codebook"].reshape(-1)
    rows = coded.phi.reshape(300, 784)
    pairs = np.zeros((len(levels), len(levels)))
    np.add.at(pairs, (rows[:, :-1].reshape(-1), rows[:, 1:].reshape(-1)), 1)
    shares = pairs / pairs.sum(1, keepdims=True)
    overall = np.bincount(rows.reshape(-1)) / rows.size
    names = [f"{v:+.2f}" for v in levels]
    cells = [
        {"before": before, "after": after, "share": round(float(share), 4), "text": f"{100 * share:.0f} %"}
        for before, row in zip([*names, "any"], [*shares, overall], strict=True)
        for after, share in zip(names, row, strict=True)
    ]
    sides = {"grid": False, "labelAngle": 0}
    place = {
        "x": {"field": "after", "type": "nominal", "sort": names, "axis": sides | {"title": "weight"}},
        "y": {"field": "before", "type": "nominal", "sort": [*names, "any"], "axis": sides | {"title": "weight before it"}},
    }
    colour = {"field": "share", "type": "quantitative", "scale": {"scheme": "blues", "domain": [0, 1]}, "legend": None}
    dark = {"condition": {"test": "datum.share > 0.55", "value": "#ffffff"}, "value": "#000000"}
    layers = [
        {"data": {"values": cells}, "mark": {"type": "rect"}, "encoding": place | {"color": colour}},
        {
            "data": {"values": cells},
            "mark": {"type": "text", "fontSize": 11},
            "encoding": place | {"text": {"field": "text"}, "color": dark},
        },
    ]
    subtitle = "lenet300-100-hemp2, first layer: share of each value after another one, and after any"
    return _picture("HEMP: a weight is cheap where the one before it tells of it", subtitle, layers)


def lean() -> dict:
    """What a weight other than zero from each block of pixels costs beyond the average, as LEAN's rate has it."""
    import torch

    from benchmarks.methods import lean as method

    coded = _group("lenet300-100-min", "fc1+fc2")
    phi = coded.phi.reshape(-1)[: 300 * 784].reshape(300, 28, 28)[:, ::2, ::2].reshape(300, 196)  # of `pool:28`
    hit = torch.from_numpy(phi != 0)
    surplus = method.surplus(hit[..., None], method.Options().lines)[..., 0]
    mean = surplus[hit.any(1)].mean(0).reshape(14, 14).numpy()
    cells = [{"x": x, "y": y, "bits": round(float(mean[y, x]), 2)} for y in range(14) for x in range(14)]
    place = {axis: {"field": axis, "type": "ordinal", "axis": None} for axis in ("x", "y")}
    colour = {"field": "bits", "type": "quantitative", "scale": {"scheme": "viridis", "reverse": True},
              "legend": {"title": "bits", "titleColor": plot.INK, "orient": "right"}}  # fmt: skip
    layers = [{"data": {"values": cells}, "mark": {"type": "rect"}, "encoding": place | {"color": colour}}]
    units, blocks = int(hit.any(1).sum()), int(hit.any(0).sum())
    subtitle = f"price by block of pixels above the tensor's, lenet300-100-min: {units} of 300 units, {blocks} of 196 blocks live"
    return _picture("LEAN: a weight alone in its row or column is dear", subtitle, layers) | {"width": HEIGHT}


PICTURES: dict[str, Callable[[], dict]] = {"epr": epr, "lc": lc, "hemp": hemp, "lean": lean}


def _group(id: str, group: str) -> Coded:
    return zoo.decode(registry.read(registry.find(id)))[1][group]


def _axis(name: str, title: str, colour: str, **more) -> dict:
    return {"field": name, "type": "quantitative", "axis": {"title": title, "titleColor": colour} | more}


def _picture(title: str, subtitle: str, layers: list[dict]) -> dict:
    return plot._frame(title, subtitle, layers) | {"width": WIDTH, "height": HEIGHT}
