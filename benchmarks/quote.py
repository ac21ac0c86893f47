"""Quote a result that another publication states: one row of zoo/quoted.json, which the leaderboard shows apart.

    python -m benchmarks quote --network lenet5-caffe --method "Soft Weight Sharing" --size "10.6 KB" --error 0.97 \\
        --source "Ullrich, Meeds, Welling 2017: Soft Weight-Sharing for Neural Network Compression (arXiv:1702.04008), table 1" \\
        --year 2017 --counting "integers and codebook, as the paper's rate says; without a file"

What is left out is asked for on a terminal. A quoted number is never measured here; who has the model file submits that.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from zoo import files, networks, registry
from zoo.records import Fields, Name, Positive, faults

FILE = registry.PACKAGE / "quoted.json"
UNITS = {"B": 1, "bytes": 1, "kB": 1000, "KB": 1000, "MB": 1000_000}
ASKED = {
    "network": "network of the zoo",
    "method": "name of the method, as its authors write it",
    "size": "size as printed, e.g. '1.52 KB'",
    "error": "top-1 error as printed, in percent",
    "source": "authors, year, title and address, and where in it the number stands",
    "year": "year of the publication",
    "counting": "what the size counts and leaves out; 'not stated' where the source does not say",
}
Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:-]*/[a-z0-9][a-z0-9.-]*$", max_length=200)]
Plain = Annotated[str, Field(pattern=r"^[^\[\]<>|`*\n]+$", max_length=200)]  # says the same in Markdown
Percent = Annotated[float, Field(ge=0, le=100)]


class Source(Fields):
    """A publication; year: None where it is not known."""

    text: Annotated[str, Field(min_length=1, max_length=1000)]
    year: Annotated[int, Field(ge=1980, le=2100)] | None


class Row(Fields):
    """One result as it is printed there; None for what the source does not say."""

    key: Key  # network/method
    network: Name
    method: Plain
    size: Plain
    size_bytes: Positive
    ratio: Annotated[float, Field(gt=0)] | None
    error: Percent
    source: Name  # key in `sources`
    note: Literal["quoted", "second-hand"]
    counting: str | None = None
    command: str = ""  # makes a file for this row from weights that others publish


class Quotations(Fields):
    """The content of zoo/quoted.json."""

    about: str
    sources: dict[str, Source]
    results: tuple[Row, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name, text in ASKED.items():
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument("--ratio", type=float, help="compression ratio, where it is printed")
    parser.add_argument("--bytes", type=int, help="the size in bytes, where its printed unit is not decimal")
    parser.add_argument("--second-hand", action="store_true", help="read in another work that cites it: name both in --source")
    parser.add_argument("--key", help="network/name of the row (default: made of network and method)")
    parser.add_argument("--file", type=Path, default=FILE, help="list to add to (default: zoo/quoted.json)")


def main(args: argparse.Namespace) -> int:
    answers = ask({name: getattr(args, name) for name in ASKED})
    row = add(
        args.file, answers, ratio=args.ratio, size_bytes=args.bytes, key=args.key,
        note="second-hand" if args.second_hand else "quoted",
    )  # fmt: skip
    print(f"{args.file}: {row.key}, {row.size} ({row.size_bytes:,} bytes), {row.error:g} %, {row.note}")
    print("next: python -m benchmarks leaderboard")
    return 0


def ask(answers: dict[str, str | None]) -> dict[str, str]:
    """The answers with those that were missing, asked for on a terminal; elsewhere ValueError names all that are missing."""
    missing = [name for name, answer in answers.items() if not (answer or "").strip()]
    if missing and not sys.stdin.isatty():
        wanted = "; ".join(f"--{name} ({ASKED[name]})" for name in missing)
        raise ValueError(f"a quoted result needs {wanted}")
    return answers | {name: input(f"{ASKED[name]}: ").strip() for name in missing}


def add(
    path: Path, answers: dict[str, str], *, note: str = "quoted", ratio: float | None = None, size_bytes: int | None = None,
    key: str | None = None,
) -> Row:  # fmt: skip
    """Writes the row behind the others of its network; returns it.

    Raises ValueError naming every answer that cannot be, and for a key that is taken; `ZooError` for an unknown network.
    """
    content = read(path)
    network = networks.spec(answers["network"]).name
    text = " ".join(answers["source"].split())
    try:
        source = Source.model_validate({"text": text, "year": _number(answers["year"])})
        row = Row.model_validate({
            "key": key or f"{network}/{_slug(answers['method'])}",
            "network": network,
            "method": answers["method"],
            "size": answers["size"],
            "size_bytes": size_bytes or parse_size(answers["size"]),
            "ratio": ratio,
            "error": _number(answers["error"].replace("%", "")),
            "source": next((name for name, source in content.sources.items() if source.text == text), _slug(text)[:40]),
            "note": note,
            "counting": None if answers["counting"].lower() == "not stated" else answers["counting"],
        })  # fmt: skip
    except ValidationError as error:
        raise ValueError(f"not written: {'; '.join(faults(error))}") from error
    if any(other.key == row.key for other in content.results):
        raise ValueError(f"{row.key} is quoted already; give another result of the same method its own --key, {row.key}-2")
    members = [i for i, other in enumerate(content.results) if other.network == network] or [len(content.results) - 1]
    rows = [*content.results[: members[-1] + 1], row, *content.results[members[-1] + 1 :]]
    sources = content.sources | ({} if row.source in content.sources else {row.source: source})
    files.write(path, to_bytes(content.model_copy(update={"sources": sources, "results": tuple(rows)})))
    return row


def read(path: Path = FILE) -> Quotations:
    """The list, checked. Raises ValueError naming everything that is wrong with it."""
    try:
        content = Quotations.model_validate_json(files.read(path, 1 << 22))
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(faults(error))}") from error
    wrong = [f"{row.key} names no source: {row.source!r}" for row in content.results if row.source not in content.sources]
    keys = [row.key for row in content.results]
    wrong += [f"{key} stands there twice" for key in sorted({key for key in keys if keys.count(key) > 1})]
    wrong += [f"{row.key} is of another network: {row.network}" for row in content.results
              if row.key.partition("/")[0] != row.network]  # fmt: skip
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}")
    return content


def to_bytes(content: Quotations) -> bytes:
    """zoo/quoted.json: one line a source, one a result, so that a change is read line by line."""

    def line(value) -> str:
        return json.dumps(value, ensure_ascii=False)

    sources = ",\n".join(f"  {line(name)}: {line(source.model_dump())}" for name, source in content.sources.items())
    rows = ",\n".join(f"  {line(row.model_dump(exclude=set() if row.command else {'command'}))}" for row in content.results)
    text = f'{{\n "about": {line(content.about)},\n "sources": {{\n{sources}\n }},\n "results": [\n{rows}\n ]\n}}\n'
    return text.encode()


def parse_size(text: str) -> int:
    """Bytes of a printed size in decimal units. Raises ValueError."""
    match = re.fullmatch(r"([\d,]*\.?\d+)\s*([A-Za-z]+)", text.strip())
    if not match or match[2] not in UNITS:
        raise ValueError(f"the size {text!r} is no number with one of the units {', '.join(UNITS)}; --bytes says it in bytes")
    return int(Decimal(match[1].replace(",", "")) * UNITS[match[2]])


def _number(text: str) -> float | int | str:
    """A number where the text is one; else the text, of which the model complains."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if re.fullmatch(r"\d+", text.strip()) else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
