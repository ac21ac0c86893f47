"""Write the page of the leaderboard: static files, which need no server and load nothing from elsewhere.

    python -m benchmarks page                 site/index.html and what it links to (`make page`)
    python -m benchmarks page --out FOLDER

    records, quoted results, sweeps ──> a plot and tables of each network        networks/<network>.html
    record, anatomy of the file, recipe ──> a page of each entry                 entries/<id>.html
    outcomes, pictures on which entries differ ──> a comparison of any two       compare.html
    CONTRIBUTING.md, rules of measurement ──> how measuring works                measuring.html

Pictures are drawn of the data sets that are at hand without a download.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from PIL import Image
from tqdm import tqdm

from benchmarks.report import cost, curve, figures, leaderboard, paired, plot, standing
from benchmarks.report.records import (
    RESULTS,
    ROOT,
    beaten_by,
    by_network,
    front,
    points,
    read_entries,
    readable,
    size,
)
from zoo import codec, datasets, evidence, networks, partitionings, registry
from zoo.datasets import sources
from zoo.errors import ZooError
from zoo.records import Entry
from zoo.registry import Quoted

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 24  # pictures of a comparison
LINKED = ("entry", "seed", "decoded")  # points that lead to the page of an entry
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder, replaced as a whole (default: site/)")


def main(args: argparse.Namespace) -> None:
    out = args.out.resolve()
    if out.exists() and not (out / "assets" / "data.js").is_file():
        raise FileExistsError(f"{out} exists and is no page that this command wrote: give another --out")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as staging:
        build(Path(staging) / "page", read_entries(), list(registry.quoted().values()))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(Path(staging) / "page", out)
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"{out / 'index.html'}: {len(files)} files, {size(sum(path.stat().st_size for path in files))}")


def build(out: Path, entries: Sequence[Entry], quoted: Sequence[Quoted]) -> None:
    """Writes the whole page into a folder."""
    import vl_convert

    assets = out / "assets"
    assets.mkdir(parents=True)
    for name in ("style.css", "app.js"):
        shutil.copy(TEMPLATES / name, assets / name)
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=plot.VERSION)
    (assets / "vega.js").write_text(f"(() => {{{library}}})();\n", encoding="utf-8")
    pictures = {dataset: _pictures(assets, dataset, members) for dataset, members in _compared(entries).items()}
    (assets / "data.js").write_text(f"const ZOO = {_json(_comparable(entries, pictures))};\n", encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"size": size, "json": _json, "linked": _linked}

    def write(path: str, template: str, **values) -> None:
        top = "../" * path.count("/")
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_text(environment.get_template(template).render(top=top, **values) + "\n", encoding="utf-8")

    groups = by_network(entries, quoted)
    overviews = {name: _overview(name, *group) for name, group in groups.items()}
    write("index.html", "index.html", networks=list(overviews.values()))
    for name, group in groups.items():
        write(f"networks/{curve.stem(name)}.html", "network.html", **overviews[name], **_network(name, *group))
    for e in tqdm(entries, desc="entries", unit="file", disable=None):
        members, published = groups[leaderboard.heading(e.network)]
        write(f"entries/{e.id}.html", "entry.html", **_entry(e, members, published))
    write("compare.html", "compare.html", level=paired.LEVEL, shown=SHOWN)
    write("measuring.html", "measuring.html", rules=_section("CONTRIBUTING.md", "Rules of measurement"), columns=_columns())


# ----------------------------------------------------------------------------------------- what templates are given


def _overview(network: str, entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict:
    spec = networks.spec(network)
    drawn = figures.is_drawn(entries, quoted)
    measured = [e for e in readable(entries) if e.test_errors is not None]
    return {
        "name": network,
        "file": f"{curve.stem(network)}.html",
        "dataset": datasets.get(spec.dataset).title,
        "parameters": spec.parameters,
        "uncompressed": 4 * spec.parameters,
        "figure": _inline(figures.figure(network, entries, quoted)) if drawn else "",
        "entries": len(entries),
        "smallest": min(readable(entries), key=lambda e: e.size_bytes, default=None),
        "best": min(measured, key=lambda e: (e.test_errors, e.size_bytes), default=None),
    }


def _network(network: str, entries: Sequence[Entry], quoted: Sequence[Quoted]) -> dict:
    measured = points(entries)
    by_id = {e.id: e for e in entries}
    rows = figures.rows(network, entries, quoted)
    for row in rows:
        row["text"] = _hover(row, by_id, {q.key: q for q in quoted})
        row["url"] = f"../entries/{row['name'].partition(',')[0]}.html" if row["kind"] in LINKED else None
    drawn = figures.is_drawn(entries, quoted)
    spec = plot.errors("", "", rows, figures.front_rows(entries), labels=False) if drawn else None
    if spec:
        spec |= {"width": "container", "title": None}
        for layer in spec["layer"][1:]:
            layer["encoding"] |= {"tooltip": {"field": "text"}, "href": {"field": "url"}, "description": {"field": "text"}}
        spec["layer"].append(_names(spec, {p.name for p in front(measured)}))
    point_of = {p.entry.id: p for p in measured if p.entry is not None}
    table = [
        {
            "entry": e,
            "error": e.top1_error,
            "error_text": leaderboard._error(e) or "not yet measured",
            "winner": beaten_by(point_of[e.id], measured) if e.id in point_of else None,
            "front": e.id in point_of and beaten_by(point_of[e.id], measured) is None,
            "against": leaderboard._against(e, entries),
            "strongest": leaderboard._strongest(e, quoted).replace("**", ""),
            "cost": cost.of(e),
            "training": leaderboard.training(e),
        }
        for e in readable(entries)
    ]
    curves = curve.files_of(network, ".svg", ROOT / RESULTS)
    return {
        "spec": spec,
        "dark": plot.DARK,
        "methods": plot.styles(row["method"] for row in rows if row["kind"] != "quoted"),
        "kinds": [kind for kind in ("seed", "sweep", "decoded", "quoted") if any(row["kind"] == kind for row in rows)],
        "table": table,
        "decoded": [e for e in entries if e.decoded is not None],
        "error_text": lambda e: leaderboard._error(e) or "not yet measured",
        "training": leaderboard.training,
        "quoted": quoted,
        "curves": [(_inline(c.read_bytes()), _markdown(c.with_suffix(".md"))) for c in curves],
    }


def _names(spec: dict, best: set[str]) -> dict:
    """Names beside the entries of the front; the others say theirs where the mouse is over them."""
    rows = [row for row in spec["layer"][-1]["data"]["values"] if row["name"] in best]
    mark = {"type": "text", "align": "left", "dx": 7, "dy": -9, "fontSize": plot.FONT, "color": plot.MUTED, "aria": False}
    encoding = {"text": {"field": "label"}, "color": {"value": plot.MUTED}}
    return {"name": "names", "data": {"name": "names", "values": rows}, "mark": mark, "encoding": encoding}


def _hover(row: dict, entries: dict[str, Entry], quoted: dict[str, Quoted]) -> str:
    """What hovering over a point says, and what a screen reader reads."""
    if row["kind"] == "quoted":
        q = quoted[row["name"]]
        return f"{q.method}: {q.size}, {q.error:g} % ({q.note}) — {q.source}"
    text = f"{row['name']} ({row['method']}): {row['bytes']:,} bytes, {row['error']:.2f} % error"
    if row["kind"] == "decoded":
        return f"{text}, measured by its authors' decoder"
    if row["kind"] == "entry":
        e = entries[row["name"]]
        text += f", {e.test_errors:,} of {e.test_examples:,} wrong, {e.ratio:,.0f}x smaller; training: {leaderboard.training(e)}"
    return text


def _entry(e: Entry, members: Sequence[Entry], quoted: Sequence[Quoted]) -> dict:
    recipe = ROOT / (e.recipe or "")
    log = e.folder / evidence.LOG
    groups, overhead = _anatomy(e)
    record = {key: value for key, value in e.record().items() if value not in (None, [], {}) and key != "seeds"}
    return {
        "e": e,
        "network": leaderboard.heading(e.network),
        "file": f"{curve.stem(leaderboard.heading(e.network))}.html",
        "dataset": datasets.get(e.dataset).title,
        "error_text": leaderboard._error(e) or "not yet measured",
        "against": leaderboard._against(e, members),
        "strongest": leaderboard._strongest(e, quoted).replace("**", ""),
        "claim": standing.claim(e),
        "training": leaderboard.training(e),
        "groups": groups,
        "overhead": overhead,
        "record": {key: json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else v for key, v in record.items()},
        "recipe": recipe.read_text(encoding="utf-8") if e.recipe and recipe.is_file() else "",
        "command": log.read_text(encoding="utf-8").partition("\n")[0] if not e.recipe and log.is_file() else "",
    }


def _anatomy(e: Entry) -> tuple[list[dict], float]:
    """The groups of a file with the bytes of their integers and side information, and what is left for header and checksum.

    No groups of a stream that only its authors' program reads.
    """
    blob = registry.read(e)
    if e.decoded is not None:
        return [], e.size_bytes
    if codec.read_header(blob).version == codec.described.VERSION:
        _, breakdown, _ = codec.described.anatomy(blob)
    else:
        _, breakdown = codec.anatomy(blob, partitionings.layout)
    listed = [
        {
            "group": p.group,
            "decoder": p.decoder,
            "model": p.model,
            "symbols": p.symbols,
            "coded": p.coded_bits / 8,
            "side": p.table_bytes + p.psi_bytes,
            "bits": p.coded_bits / p.symbols if p.symbols else 0.0,
        }
        for p in breakdown
    ]
    return listed, e.size_bytes - sum(group["coded"] + group["side"] for group in listed)


# --------------------------------------------------------------------------------------------------- comparisons


def _compared(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Data set -> the entries whose outcomes on its test set are known."""
    groups: dict[str, list[Entry]] = {}
    for e in entries:
        if paired.outcomes(e) is not None:
            groups.setdefault(e.dataset, []).append(e)
    return groups


def _comparable(entries: Sequence[Entry], pictures: dict[str, dict | None]) -> dict:
    """What compare.html needs: outcomes of each entry by the images that it was measured on, and the pictures."""
    listed = []
    for e in entries:
        wrong, images = paired.outcomes(e), f"{datasets.get(e.dataset).title} test"
        key, sampled = e.test_set, paired.most_labelled(e.samples)
        if wrong is None and sampled is not None:
            sample = evidence.read_sample(e.folder / sampled.file)
            labelled = sample.labels != evidence.UNKNOWN
            wrong, images, key = (sample.predictions != sample.labels)[labelled], sampled.name, sampled.digest
        if wrong is not None:
            row = {"id": e.id, "network": e.network, "bytes": e.size_bytes, "images": images, "set": key, "dataset": e.dataset}
            listed.append(row | {"examples": len(wrong), "wrong": paired.pack(wrong)})
    return {"entries": listed, "pictures": {name: sheet for name, sheet in pictures.items() if sheet}}


def _pictures(assets: Path, dataset: str, entries: Sequence[Entry]) -> dict | None:
    """One sheet of the images that a comparison of any two entries shows, with labels and answers; None without the data."""
    try:
        at_hand = datasets.get(dataset).downloadable and sources.place(datasets.get(dataset), "test")
        images = datasets.load(dataset, "test") if at_hand else None
    except (ZooError, OSError):
        images = None
    if images is None:
        return None
    wrong = [paired.outcomes(e) for e in entries]
    chosen = {int(i) for a, b in itertools.combinations(wrong, 2) for i in np.flatnonzero(a != b)[:SHOWN]}
    numbers = sorted(chosen)
    pixels = np.asarray(images.pixels[numbers])  # (n, height, width[, 3])
    across = 32
    rows = -(-len(numbers) // across)
    padded = np.zeros((rows * across, *pixels.shape[1:]), np.uint8)
    padded[: len(numbers)] = pixels
    height, width = pixels.shape[1:3]
    sheet = padded.reshape(rows, across, height, width, -1).swapaxes(1, 2).reshape(rows * height, across * width, -1)
    file = assets / f"{dataset}.png"
    Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet).save(file, optimize=True)
    return {
        "file": file.name,
        "across": across,
        "width": width,
        "height": height,
        "sheet": [across * width, rows * height],
        "numbers": numbers,
        "labels": np.asarray(images.labels)[numbers].tolist(),
        "classes": list(datasets.classes(dataset)),
        "answers": {e.id: evidence.read_predictions(e.folder)[numbers].tolist() for e in entries},
    }


# ------------------------------------------------------------------------------------------------------ helpers


def _json(value) -> Markup:
    """JSON that may stand in a script element."""
    return Markup(json.dumps(value, ensure_ascii=False).replace("<", "\\u003c"))


def _inline(svg: bytes) -> Markup:
    """A figure of ours as part of a page, scaled to its width."""
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)" height="([\d.]+)"', r'\1 class="figure"', svg.decode(), count=1)
    unique = hashlib.sha256(svg).hexdigest()[:8]
    return Markup(re.sub(r"\bclip(\d+)", rf"clip-{unique}-\1", text))


def _linked(text: str) -> Markup:
    """Text with arXiv numbers as links."""
    escaped = str(escape(text))
    return Markup(
        re.sub(r"arXiv:(\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', escaped)
    )


def _markdown(path: Path) -> Markup:
    return Markup(MARKDOWN.render(path.read_text(encoding="utf-8")) if path.is_file() else "")


def _section(name: str, title: str) -> Markup:
    """One section of a Markdown file of this repository, without its heading. Raises ValueError where there is none."""
    text = (ROOT / name).read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not match:
        raise ValueError(f"{name} has no section {title!r}")
    return Markup(MARKDOWN.render(match.group(1)))


def _columns() -> Markup:
    """What leaderboard.md says about its columns; its links to other files are for the repository alone."""
    text = leaderboard._INTRODUCTION.partition("-->")[2]
    return Markup(MARKDOWN.render(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"`\1`", text)))
