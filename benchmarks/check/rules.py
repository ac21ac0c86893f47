"""What a contribution must be like: each rule looks at a change and adds to the verdict what is to mend, file by file.

    Change: the files that differ from the base ──> rule after rule ──> Verdict: faults by file, notes for the reviewer

A rule reads the files of the change and never runs them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import methods, quote, submit
from benchmarks.report import paired
from benchmarks.training import recipe as recipes
from zoo import datasets, evidence, files, measurement, networks, registry, verify
from zoo.errors import ZooError
from zoo.evidence import GOLDEN, LOG, PREDICTIONS
from zoo.records import Entry
from zoo.registry import MODEL, RECORD, STREAM

MB = 1_000_000
ENTRY_FILES = {  # of an entry's folder: pattern of the name, most bytes
    MODEL: 8 * MB,  # larger ones lie on the Hub
    STREAM: 8 * MB,
    RECORD: MB,
    GOLDEN: MB,
    PREDICTIONS: MB,
    LOG: MB,
    r"sample-[a-z0-9-]+\.json": MB,
}
ENTRY_PLACE = re.compile(r"artifacts/(?P<id>[^/]+)/(?P<file>[^/]+)")
PLACES = {  # of everything else: pattern of the path, most bytes
    r"benchmarks/recipes/[^/]+\.toml": MB // 10,
    r"benchmarks/results/[^/]+\.(csv|md|svg)": 2 * MB,
    r"figures/[^/]+\.svg": MB,
    r"(zoo|benchmarks|tests)/(.+/)?[^/]+\.(py|md|json|html|css|js|tsv)": MB,
    r"docs/(.+/)?[^/]+\.(md|svg|py)": MB,
    r"\.github/(.+/)?[^/]+\.(yml|md)": MB,
    r"[A-Z]+\.(md|cff)|leaderboard\.md|LICENSE|Makefile|pyproject\.toml|requirements\.txt|\.gitignore|\.ci/run": MB,
}
RENDERED = re.compile(r"(artifacts|benchmarks/recipes|benchmarks/results|figures)/.*|zoo/quoted\.json|README\.md|leaderboard\.md")
LATER = {"test_set", "test_errors", "test_examples", "samples", "hub"}  # fields of a record that may be filled in once
JUDGES = re.compile(
    r"(zoo|tests)/(?!quoted\.json).*|benchmarks/(?!recipes/|results/).*|\.github/.*|\.ci/.*|Makefile|pyproject\.toml|requirements\.txt"
)
CORE = re.compile(  # what decides of an entry, but for the lists to which a contribution adds itself
    r"zoo/(codec|datasets)/(?!__init__)[^/]+\.py|zoo/(measurement|verify|registry|records|evidence|loading|files|preprocessing)\.py"
    r"|benchmarks/(evaluate|submit)\.py|benchmarks/(check|report)/.*"
)
ACTIVE = re.compile(  # of a drawing: what runs, or loads something
    r"<(script|foreignobject|iframe|!entity|animate|set)\b|\son\w+\s*=|href\s*=\s*[\"'](?!#)|javascript:|url\((?!#)|@import",
    re.IGNORECASE,
)
LISTED = 12  # files that a note names


@dataclass
class Change:
    """Files that differ from a commit: path -> A(dded), M(odified), D(eleted) or T(ype changed)."""

    root: Path
    base: str
    files: dict[str, str]
    before: frozenset[str]  # every path in the base
    git: Callable[..., bytes] = field(repr=False)

    def there(self, pattern: str = "(?s:.*)") -> list[str]:
        """Paths of the change that exist now and match, sorted."""
        return sorted(path for path, status in self.files.items() if status != "D" and re.fullmatch(pattern, path))

    def old(self, path: str) -> bytes:
        """Content of a file in the base."""
        return self.git(self.root, "show", f"{self.base}:{path}")

    def ids(self) -> list[str]:
        """Entries of which any file differs."""
        return sorted({match["id"] for path in self.files if (match := ENTRY_PLACE.fullmatch(path))})

    def old_ids(self) -> set[str]:
        """Entries of the base."""
        return {path.split("/")[1] for path in self.before if path.startswith("artifacts/") and path.endswith(f"/{RECORD}")}


@dataclass
class Verdict:
    """What is to mend, by file; what could not be checked; what a person has to judge."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    unavailable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    derived: int = 0  # entries

    def fault(self, path: str, text: str) -> None:
        self.faults.setdefault(path, []).append(text)


# --------------------------------------------------------------------------------------------- files


def places(change: Change, verdict: Verdict) -> None:
    """Every new file has a place in the repository, and no more bytes than that place allows."""
    for path in change.there():
        place = change.root / path
        if place.is_symlink() or not place.is_file():
            verdict.fault(path, "is a link or another repository; only plain files are taken: remove it")
            continue
        most = _most_bytes(path)
        if most is None and path not in change.before:
            verdict.fault(path, "has no place here, and nothing reads it: remove it (CONTRIBUTING.md names what is added)")
        elif most is not None and place.stat().st_size > most:
            hub = "; `zoo push ID --repo OWNER/NAME --move` puts it on the Hugging Face Hub" if path.endswith(f"/{MODEL}") else ""
            verdict.fault(path, f"has {place.stat().st_size:,} bytes, at most {most:,} are taken{hub}")


def _most_bytes(path: str) -> int | None:
    """How large a file of that path may be; None where no such file is expected."""
    match = ENTRY_PLACE.fullmatch(path)
    if not re.fullmatch(r"[A-Za-z0-9_.+,=/-]+", path):
        return None
    expected, name = (ENTRY_FILES, match["file"]) if match else (PLACES, path)
    return next((most for pattern, most in expected.items() if re.fullmatch(pattern, name)), None)


def contents(change: Change, verdict: Verdict) -> None:
    """No file holds a pickle or a script, which run code where they are read or seen."""
    for path in change.there():
        place = change.root / path
        if not place.is_file() or place.is_symlink():
            continue
        if kind := pickled(place):
            verdict.fault(path, f"is {kind}, and reading that can run any code: no pickle is taken; safetensors holds tensors")
        if path.endswith(".svg") and (match := ACTIVE.search(place.read_text(encoding="utf-8", errors="replace"))):
            excerpt = match.group().strip()[:40]
            verdict.fault(path, f"is a drawing that runs or loads something ({excerpt}): the commands here draw plain ones")


def pickled(path: Path) -> str | None:
    """What a file is that holds a pickle, in words; None for others."""
    head = files.head(path, 4096)
    if re.match(rb"\x80[\x02-\x05].", head, re.DOTALL) or path.suffix in (".pkl", ".pickle", ".joblib", ".dill"):
        return "a pickle"
    if head.startswith(b"\x93NUMPY") and re.search(rb"'descr':\s*'\|O'|'descr':\s*'O'", head[:512]):
        return "an array of Python objects, a pickle"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.endswith(".pkl")]
        if inside:
            return f"an archive with {inside[0]}"
    return None


# ------------------------------------------------------------------------------------------- released


def released(change: Change, verdict: Verdict) -> None:
    """Bytes and numbers under an id never change; a record may gain what was not measured when it was written."""
    for path, status in sorted(change.files.items()):
        match = ENTRY_PLACE.fullmatch(path)
        if not match or path not in change.before:
            continue
        restore = f"git checkout {change.base[:12]} -- {path}"
        new_id = f"give the improvement an id of its own ({match['id']}-v2), and restore this: {restore}"
        if match["file"] != RECORD and not (match["file"] == MODEL and status == "D" and _moved(change, match["id"])):
            verdict.fault(path, f"belongs to an entry of {change.base[:12]}, whose files never change: {new_id}")
        elif match["file"] == RECORD and status == "D":
            verdict.fault(path, f"is the record of an entry of {change.base[:12]}; entries stay: {new_id}")
        elif match["file"] == RECORD:
            for text in _record_changes(json.loads(change.old(path)), _json(change.root / path)):
                verdict.fault(path, f"{text}: {new_id}")


def _record_changes(old: dict, new: object) -> Iterator[str]:
    """What a record says otherwise than before, but for what it gains."""
    if not isinstance(new, dict):
        yield "is no JSON object"
        return
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        longer = name == "samples" and before and isinstance(after, list) and after[: len(before)] == before
        gained = name in LATER and (not before or longer)
        if before != after and not gained:
            yield f"{name} was {json.dumps(before)[:100]}, is {json.dumps(after)[:100]}"


def _moved(change: Change, id: str) -> bool:
    """Whether the record says that the model file lies on the Hub now."""
    record = _json(change.root / "artifacts" / id / RECORD)
    return isinstance(record, dict) and bool(record.get("hub"))


def _json(path: Path) -> object:
    try:
        return json.loads(files.read(path, MB))
    except (OSError, ValueError, RecursionError, ZooError):
        return None


# -------------------------------------------------------------------------------------------- entries


def entries(change: Change, verdict: Verdict, bytes_only: bool = False) -> None:
    """Every entry that was added or changed: its id is free, its record says what it must, its numbers are derived again."""
    left = _left(change.root / "CHANGELOG.md")
    shelf, old_ids = list(_records(change.root)), change.old_ids()
    others = {entry.sha256: entry.id for entry in shelf if entry.id in old_ids}
    for id in change.ids():
        folder = change.root / "artifacts" / id
        where = f"artifacts/{id}"
        if not folder.is_dir() or not any(path.startswith(f"{where}/") for path in change.there()):
            continue  # removed as a whole: `released` says so
        if not (folder / RECORD).is_file():
            verdict.fault(where, "has no record: `python -m benchmarks evaluate` or `submit` writes the whole folder")
            continue
        try:
            entry = registry.load_record(folder)
            network = networks.spec(entry.network)
        except ZooError as error:
            verdict.fault(f"{where}/{RECORD}", str(error))
            continue
        if id not in old_ids:
            for text in _id_faults(id, network.base, old_ids, left):
                verdict.fault(where, text)
        if others.get(entry.sha256, id) != id:
            verdict.fault(f"{where}/{MODEL}", f"holds the bytes of {others[entry.sha256]}: the same file has one id")
        for text in _record_faults(entry, network):
            verdict.fault(f"{where}/{RECORD}", text)
        for text in _folder_faults(entry):
            verdict.fault(where, text)
        if id not in old_ids:
            for text in _recipe_faults(entry, change.root):
                verdict.fault(f"{where}/{RECORD}", text)
        verdict.notes += _doubts(entry, shelf)
        _derive(entry, change, verdict, bytes_only)


def _records(root: Path) -> Iterator[Entry]:
    for path in sorted((root / "artifacts").glob(f"*/{RECORD}")):
        try:
            yield registry.load_record(path.parent)
        except ZooError:  # a fault of that entry, told with it
            continue


def _left(path: Path) -> set[str]:
    """Ids that CHANGELOG.md lists as having left the shelf: the first column of a table."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return set(re.findall(r"^\| ([a-z0-9.+-]+) \|", text, re.MULTILINE))


def _id_faults(id: str, network: str, ids: set[str], left: set[str]) -> Iterator[str]:
    if not submit.named_after(network, id):
        yield f"an id of this network reads {network}-<what it is>, in small letters, digits, dots and hyphens"
    if id in left:
        yield "this id is that of an entry which left (CHANGELOG.md): give another one"
    alike = [other for other in ids if other.casefold() == id.casefold()]
    if alike:
        yield f"some file systems do not tell this id from {alike[0]}: give another one"


def _record_faults(entry: Entry, network: networks.Spec) -> Iterator[str]:
    if not (entry.license or "").strip():
        yield "license is missing: say under which licence the weights are, e.g. Apache-2.0"
    if entry.dataset != network.dataset:
        yield f"is measured on {entry.dataset}; the leaderboard lists {entry.network} on {network.dataset}"
    elif datasets.get(entry.dataset).downloadable and entry.test_errors is None:
        yield "has no test errors: `python -m benchmarks evaluate` or `submit` measures them"
    origins = [name for name in ("recipe", "submission", "weights_source") if getattr(entry, name) is not None]
    if len(origins) != 1:
        stated = " and ".join(origins) or "none"
        yield f"one of recipe, submission and weights_source says where it comes from; here {stated} does"
    if entry.recipe is not None:
        if entry.method not in methods.names():
            yield f"method {entry.method!r} is no file in benchmarks/methods/"
        shipped = [seed for seed in entry.seeds if seed.seed == entry.seed]
        numbers = [(seed.size_bytes, seed.test_errors) for seed in shipped]
        if numbers != [(entry.size_bytes, entry.test_errors)]:
            yield f"seed {entry.seed} ships, and `seeds` says {numbers} of it, not {(entry.size_bytes, entry.test_errors)}"
    elif entry.seeds:
        yield "has seeds without a recipe"


def _folder_faults(entry: Entry) -> Iterator[str]:
    """Files that the record asks for and that are missing, and those that nothing asks for."""
    wanted = {RECORD, GOLDEN} | {sample.file for sample in entry.samples}
    wanted |= set() if entry.hub is not None else {MODEL}
    wanted |= {PREDICTIONS} if entry.test_errors is not None else set()
    wanted |= {STREAM} if entry.decoded is not None else set()
    wanted |= {LOG} if entry.submission is None else set()
    present = {path.name for path in entry.folder.iterdir()}
    for name in sorted(wanted - present):
        yield f"{name} is missing"
    for name in sorted(present - wanted):
        if name in ENTRY_FILES or re.fullmatch(r"sample-.*", name):  # `places` speaks of all others
            yield f"{name} belongs to nothing in the record: remove it"


def _recipe_faults(entry: Entry, root: Path) -> Iterator[str]:
    """The recipe is that of the record, lies where the record says, and its seeds are all recorded."""
    if entry.recipe is None:
        return
    path = root / entry.recipe
    if not path.is_file() or path.parent != root / "benchmarks" / "recipes":
        yield f"recipe {entry.recipe} is no file in benchmarks/recipes/"
        return
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.recipe_sha256:
        yield f"{entry.recipe} is not the recipe that was evaluated: its digest differs from recipe_sha256"
    try:
        recipe = recipes.read(path)
    except (ValueError, ZooError):
        return  # `recipes_are_valid` speaks of it
    if recipe.id != entry.id:
        yield f"{entry.recipe} is the recipe of {recipe.id}"
    if [seed.seed for seed in entry.seeds] != list(recipe.seeds):
        yield f"seeds are {[seed.seed for seed in entry.seeds]}, those of the recipe {list(recipe.seeds)}: all are recorded"


def _doubts(entry: Entry, shelf: Iterable[Entry]) -> Iterator[str]:
    """What only a person can judge."""
    if entry.decoded is not None:
        yield f"{entry.id}: that {STREAM} holds these weights is its authors' word ({entry.decoded.decoder})"
    if entry.submission is not None:
        yield f"{entry.id}: how it was trained, and that the test set was not used for it, is its authors' word"
    if entry.recipe is not None:
        yield f"{entry.id}: that the recipe gives such a file is not tried here; `python -m benchmarks train {entry.id}` does"
    if entry.samples:
        yield f"{entry.id}: its samples are counted without the pictures; `zoo verify {entry.id} --sample FOLDER` uses them"
    for other in shelf:
        if other.weights_sha256 == entry.weights_sha256 and other.id != entry.id:
            yield f"{entry.id} decodes to the weights of {other.id}: a better code, or a copy?"


def _derive(entry: Entry, change: Change, verdict: Verdict, bytes_only: bool) -> None:
    """The numbers of the record, from the file; and the outcomes that the leaderboard keeps, from predictions and labels."""
    where = f"artifacts/{entry.id}"
    try:
        outcome = verify.check(entry, bytes_only=bytes_only)
        verdict.derived += 1
        for text in outcome.problems:
            verdict.fault(where, text)
        if outcome.unavailable:
            verdict.unavailable.append(f"{entry.id}: {outcome.unavailable}")
        if bytes_only or outcome.errors is None or outcome.problems:
            return
        kept = paired.read(change.root / "benchmarks" / "results" / "outcomes.csv").get(entry.id)
        labels = np.asarray(measurement.test_images(entry.dataset).labels)
        wrong = paired.pack(evidence.read_predictions(entry.folder) != labels)
        if kept is None or kept != (paired.predictions_digest(entry), wrong):
            text = f"does not say which images {entry.id} answers wrongly: make leaderboard"
            verdict.fault("benchmarks/results/outcomes.csv", text)
    except (ZooError, OSError, ValueError) as error:
        verdict.fault(where, str(error))


# ------------------------------------------------------------------------- recipes, quotations, curves


def recipes_are_valid(change: Change, verdict: Verdict) -> None:
    """New recipes can be read and are called as their file; one of an entry of the base still describes the same training."""
    for path in change.there(r"benchmarks/recipes/[^/]+\.toml"):
        try:
            recipe = recipes.read(change.root / path)
        except (ValueError, ZooError, OSError) as error:
            verdict.fault(path, str(error).replace(f"{change.root}/", ""))
            continue
        if recipe.id != Path(path).stem:
            verdict.fault(path, f"has the id {recipe.id}: file and id have one name")
        if path in change.before and recipe.id in change.old_ids():
            before = recipes.from_dict(tomllib.loads(change.old(path).decode()), f"{path} of the base")
            if recipes.deciding(before) != recipes.deciding(recipe):
                verdict.fault(path, f"made {recipe.id}, and now describes another training: give that an id of its own")
        if not (change.root / "artifacts" / recipe.id).is_dir():
            verdict.notes.append(f"{path} has no entry")


def quotations(change: Change, verdict: Verdict) -> None:
    """The list of quoted results is as its command writes it."""
    path = "zoo/quoted.json"
    if path not in change.files:
        return
    if change.files[path] == "D":
        verdict.fault(path, "is missing")
        return
    try:
        content = quote.read(change.root / path)
    except (ValueError, ZooError) as error:
        verdict.fault(path, str(error))
        return
    written = (change.root / path).read_bytes()
    if quote.to_bytes(content) != written:
        verdict.fault(path, "is not as `python -m benchmarks quote` writes it: use the command")
    old, new = ({row["key"]: row for row in json.loads(text)["results"]} for text in (change.old(path), written))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            change_of_row = "removed" if key not in new else "changed" if key in old else "added"
            verdict.notes.append(f"quoted result {change_of_row}: {key}; compare it with its source")


def results(change: Change, verdict: Verdict) -> None:
    """Outcomes of entries that did not change stay; numbers of curves have no files, so that a person must look at them."""
    for path in change.there(r"benchmarks/results/.*\.csv"):
        if path == "benchmarks/results/outcomes.csv":
            old = {row["id"]: row for row in _csv(change.old(path))} if path in change.before else {}
            new = {row["id"]: row for row in _csv((change.root / path).read_bytes())}
            for id in sorted(old.keys() - set(change.ids())):
                if new.get(id) != old[id]:
                    verdict.fault(path, f"the outcomes of {id} differ, whose predictions did not change: make leaderboard")
        else:
            verdict.notes.append(f"{path}: the numbers of a curve cannot be derived again without its files; run the sweep")


def _csv(content: bytes) -> list[dict]:
    return list(csv.DictReader(io.StringIO(content.decode(errors="replace"))))


# ------------------------------------------------------------------------------------ leaderboard, code


def leaderboard(change: Change, verdict: Verdict, rendered: Callable[[Path], list[str]]) -> None:
    """leaderboard.md, figures and the table of README.md are those of the records."""
    if any(map(RENDERED.fullmatch, change.files)):
        for line in rendered(change.root):
            verdict.fault("leaderboard.md", line)


def code(change: Change, verdict: Verdict) -> None:
    """Code decides what this check says: a person has to read it, and it comes apart from the entries that it judges."""
    if any(path.startswith("artifacts/") for path in change.files):
        for path in sorted(path for path in change.files if path in change.before and CORE.fullmatch(path)):
            verdict.fault(path, "decides of entries, and this contribution brings some: make two, the code first")
    judges = [path for path in sorted(change.files) if JUDGES.fullmatch(path)]
    if judges:
        more = f" and {len(judges) - LISTED} more" if len(judges) > LISTED else ""
        verdict.notes.append(f"code that runs in the checks is changed, read it: {', '.join(judges[:LISTED])}{more}")
