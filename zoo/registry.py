"""The entries of the zoo: their records, their files, and what other papers claim.

    artifacts/<id>/entry.json ── find ──> Entry ── read ──> bytes of model.zoo, length and SHA-256 checked

Entries are found by scanning, in this order: the folders named by ZOO_ARTIFACTS (separated as PATH is), the artifacts
inside the installed package, those of the checkout. A model file that is too large for git lives on the Hugging Face
Hub under a pinned revision; the network is asked only where neither a folder nor the Hub's cache has it.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import re
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from zoo.errors import ArtifactUnavailable, CorruptArtifact, UnknownModel

SCHEMA = 1  # of entry.json
MODEL, RECORD = "model.zoo", "entry.json"
PACKAGE = Path(__file__).parent

_COMPRESS = (
    "python -m benchmarks compress {network} --weights timm/{network}.tv_in1k --method {method} --bytes {size} "
    "--calibration IMAGENET/train --out artifacts/{network}-{method}"
)
# Entries that anybody with ImageNet or its weights can make, but that do not come with the zoo.
MAKE = {
    "resnet18-dft": _COMPRESS.format(network="resnet18", method="dft", size="1.97MB"),
    "resnet18-sq": _COMPRESS.format(network="resnet18", method="sq", size="2.78MB"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry as its record states it; written only by the program that measured (`save`).

    Sizes are bytes, digests SHA-256 in hex. `None` stands for what was not measured or does not apply.
    """

    id: str
    network: str  # name as in the file's header
    method: str  # epr | plain | lc | hemp | ...
    partitioning: str = "paper"
    dataset: str  # mnist | cifar10 | imagenet
    preprocessing: str  # name for zoo.preprocessing
    parameters: int  # of the uncompressed network
    size_bytes: int  # of model.zoo, all of it
    sha256: str  # of model.zoo
    weights_sha256: str  # of the decoded float32 weights: zoo.verify.weights_digest
    paper_bytes: int | None = None  # size under the counting of the method's paper
    paper_counting: str | None = None  # what that counting leaves out
    test_set: str | None = None  # digest of the test set, as zoo.data computes it
    test_errors: int | None = None
    test_examples: int | None = None
    sample: dict | None = None  # a measurement on a sample of ImageNet, never a test error
    recipe: str | None = None  # path in the repository
    recipe_sha256: str | None = None
    seed: int | None = None  # of the run that ships
    seeds: tuple[dict, ...] = ()  # outcome of every seed of the recipe
    selection: str | None = None  # how the shipped seed was chosen, without the test set
    warm_start: str | None = None
    teacher: str | None = None
    weights_source: dict | None = None  # where the weights came from, and their licence
    license: str | None = None
    quoted: str | None = None  # key of the paper's row in `quoted()`
    hub: dict | None = None  # repo, revision, file on the Hugging Face Hub
    versions: dict = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False, repr=False)  # where the record was found; not part of it

    @property
    def ratio(self) -> float:
        """Compression ratio: 4 bytes a parameter of the uncompressed network, over the whole file."""
        return 4 * self.parameters / self.size_bytes

    @property
    def top1_error(self) -> float | None:
        """Percent of the test set that is classified wrongly; None where nobody measured it."""
        return None if self.test_errors is None else 100 * self.test_errors / self.test_examples

    @property
    def path(self) -> Path | None:
        """Where the model file lies or would lie."""
        return None if self.folder is None else self.folder / MODEL

    def record(self) -> dict:
        """The content of entry.json."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folder"}
        return {"schema": SCHEMA} | values | {"seeds": list(self.seeds)}


@dataclass(frozen=True)
class Quoted:
    """A result as another publication states it; never measured here."""

    key: str  # network/method
    network: str
    method: str
    size: str  # as printed there
    size_bytes: int  # decimal kB and MB
    ratio: float | None  # as printed there
    error: float  # top-1, percent
    source: str
    note: str  # "quoted" from the source itself, or "second-hand" from a work that cites it


# ---------------------------------------------------------------------------------------------- finding


def roots() -> list[Path]:
    """Folders that may hold entries, first to last in the order of precedence; they need not exist."""
    found = [Path(part).expanduser() for part in os.environ.get("ZOO_ARTIFACTS", "").split(os.pathsep) if part]
    found.append(PACKAGE / "artifacts")
    if (PACKAGE.parent / "pyproject.toml").is_file():  # a checkout, not a site-packages with some artifacts beside us
        found.append(PACKAGE.parent / "artifacts")
    return found


def ids(pattern: str = "*") -> list[str]:
    """Sorted ids of all entries that match a shell pattern. Reads no record."""
    found = {path.parent.name for root in roots() for path in root.glob(f"*/{RECORD}")}
    return sorted(name for name in found if fnmatchcase(name, pattern))


def find(name: str) -> Entry:
    """The entry of that id.

    Raises `UnknownModel` with the nearest ids, or with the command that makes the entry where one is known;
    `CorruptArtifact` for a record that cannot be read.
    """
    folder = _folder(name)
    if folder is None:
        raise UnknownModel(_unknown(name))
    if not (folder / RECORD).is_file():
        raise UnknownModel(f"{folder} holds a model file but no record; `python -m benchmarks evaluate` writes one")
    return load_record(folder)


def locate(name_or_path: str | os.PathLike) -> Entry | Path:
    """What an id, an entry's folder or a model file's path stands for: an entry, or a file that has no record.

    A string is a path if it has a separator or ends in .zoo. Raises as `find` does.
    """
    text = os.fspath(name_or_path)
    if _is_path(name_or_path):
        path = Path(text).expanduser()
        if path.is_file():
            return path
        if (path / RECORD).is_file():
            return load_record(path)
        if (path / MODEL).is_file():
            return path / MODEL
        raise UnknownModel(f"{path} is neither a model file nor the folder of an entry")
    folder = _folder(text)
    if folder is not None and not (folder / RECORD).is_file():
        return folder / MODEL
    return find(text)


def described(name_or_path: str | os.PathLike) -> Entry | Path:
    """An entry, which an id must have a record to be, or the path of a file that has none; raises as `find` does.

    The model file beside a record, if it is the recorded one, stands for that entry.
    """
    if not _is_path(name_or_path):
        return find(os.fspath(name_or_path))
    source = locate(name_or_path)
    if isinstance(source, Entry) or source.name != MODEL or not (source.parent / RECORD).is_file():
        return source
    entry = load_record(source.parent)
    return entry if differs(entry, source.read_bytes()) is None else source


def load_record(folder: str | os.PathLike) -> Entry:
    """The record in an entry's folder. Raises `CorruptArtifact` naming every field that is missing or wrong."""
    folder = Path(folder)
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"the record {path} cannot be read: {error}") from error
    return from_record(content, folder)


def from_record(content: dict, folder: str | os.PathLike | None = None) -> Entry:
    """An entry from the content of an entry.json, checked; the folder's name must be the id."""
    content = dict(content)
    schema = content.pop("schema", None)
    where = "the record" if folder is None else f"the record {Path(folder) / RECORD}"
    if schema != SCHEMA:
        raise CorruptArtifact(f"{where} has schema {schema!r}, this version reads schema {SCHEMA}")
    kinds = _kinds()
    needed = [f.name for f in fields(Entry) if f.default is MISSING and f.default_factory is MISSING]
    wrong = [f"{name} is missing" for name in needed if name not in content]
    wrong += [f"{name} is not a field of schema {SCHEMA}" for name in content if name not in kinds]
    if isinstance(content.get("seeds"), list):
        content["seeds"] = tuple(content["seeds"])
    for name, kind in kinds.items():
        value = content.get(name)
        if name in content and (isinstance(value, bool) or not isinstance(value, kind)):
            wrong.append(f"{name} is {value!r}, expected {getattr(kind, '__name__', kind)}")
    if not wrong:
        wrong = _implausible(content)
    if folder is not None and not wrong and content["id"] != Path(folder).resolve().name:
        wrong.append(f"id is {content['id']!r}, which is not the folder's name")
    if wrong:
        raise CorruptArtifact(f"{where} is wrong: {'; '.join(wrong)}")
    return Entry(**content, folder=None if folder is None else Path(folder))


def save(entry: Entry, folder: str | os.PathLike | None = None) -> Path:
    """Writes the record into its folder, whole or not at all; returns the path. Raises as `from_record` does."""
    folder = Path(folder if folder is not None else entry.folder)
    record = json.loads(json.dumps(entry.record(), allow_nan=False))
    from_record(record, folder)
    return write(folder / RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def write(path: Path, data: bytes | Callable[[BinaryIO], object]) -> Path:
    """Atomic: the file is there whole or not at all. data: its bytes, or what writes them into an open file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as out:
            if callable(data):
                data(out)
            else:
                out.write(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


# ---------------------------------------------------------------------------------------------- reading


def read(source: Entry | Path) -> bytes:
    """The bytes of an entry's model file, length and SHA-256 as recorded; a bare file is only checked by its own checksum.

    Raises `CorruptArtifact` or a subclass that says what was found (a Git-LFS pointer, a web page, a cut file), and
    `ArtifactUnavailable` where the file is not here and cannot be fetched.
    """
    path = source if isinstance(source, Path) else model_file(source)
    blob = path.read_bytes()
    complaint = None
    if isinstance(source, Entry):
        complaint = differs(source, blob)
        if complaint is None:
            return blob
    from zoo import codec

    try:
        codec.read_header(blob)
    except CorruptArtifact as error:
        raise type(error)(f"{path}: {error}{f' ({complaint})' if complaint else ''}") from error
    if complaint:
        raise CorruptArtifact(f"{path}: a whole model file, but not the recorded one: {complaint}")
    return blob


def differs(entry: Entry, blob: bytes) -> str | None:
    """How these bytes differ from the recorded ones, in words; None if they do not."""
    if len(blob) != entry.size_bytes:
        return f"expected {entry.size_bytes:,} bytes, found {len(blob):,}"
    found = hashlib.sha256(blob).hexdigest()
    return None if found == entry.sha256 else f"expected SHA-256 {entry.sha256}, found {found}"


def model_file(entry: Entry) -> Path:
    """Path of the entry's model file: beside the record, else in the Hub's cache, else downloaded into that."""
    if entry.path is not None and entry.path.is_file():
        return entry.path
    where = entry.path or f"the model file of {entry.id}"
    if entry.hub is None:
        raise ArtifactUnavailable(f"{where} is missing, and the record names no other place for it")
    missing = [key for key in ("repo", "revision", "file") if not isinstance(entry.hub.get(key), str)]
    if missing or not re.fullmatch("[0-9a-f]{40}", entry.hub["revision"]):
        raise CorruptArtifact(f"{entry.id}: the record must name repo, file and a revision of 40 hex digits: {entry.hub}")
    return _from_hub(entry)


def _from_hub(entry: Entry) -> Path:
    repo, revision, file = (entry.hub[key] for key in ("repo", "revision", "file"))
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ArtifactUnavailable(f"{entry.id} lies on the Hugging Face Hub: pip install huggingface-hub") from error
    try:
        path = huggingface_hub.hf_hub_download(repo, file, revision=revision, local_files_only=True)
        return Path(path)
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:  # HFValidationError: no repo can be called so
        raise CorruptArtifact(f"{entry.id}: the record names no file of the Hugging Face Hub: {error}") from error
    size = f"{entry.size_bytes / 1e6:.2f} MB"
    print(f"zoo: {entry.id} ({size}) is not on this machine; asking https://huggingface.co/{repo}", file=sys.stderr)
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except Exception as error:  # the Hub raises errors of several libraries
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ArtifactUnavailable(
            f"{entry.id} could not be fetched from https://huggingface.co/{repo} (revision {revision[:12]}, {file}): "
            f"{reason}. Put the file at {entry.path} to load it without the network"
        ) from error


# ------------------------------------------------------------------------------------- of other people's work


@functools.cache
def quoted() -> dict[str, Quoted]:
    """Key -> result that another publication states (zoo/quoted.json), in the order of the networks."""
    content = json.loads((PACKAGE / "quoted.json").read_text(encoding="utf-8"))
    rows = [Quoted(**row | {"source": content["sources"][row["source"]]}) for row in content["results"]]
    return {row.key: row for row in rows}


# ---------------------------------------------------------------------------------------------- helpers


@functools.cache
def _kinds() -> dict[str, type]:
    hints = typing.get_type_hints(Entry)
    del hints["folder"]
    return hints | {"seeds": tuple}


def _implausible(content: dict) -> list[str]:
    wrong = [f"{key} is no SHA-256" for key in ("sha256", "weights_sha256", "test_set", "recipe_sha256")
             if content.get(key) is not None and not re.fullmatch("[0-9a-f]{64}", content[key])]  # fmt: skip
    wrong += [f"{key} is {content[key]}" for key in ("size_bytes", "parameters") if content[key] <= 0]
    wrong += [f"seeds holds {seed!r}, expected the outcome of each seed as a JSON object"
              for seed in content.get("seeds", ()) if not isinstance(seed, dict)]  # fmt: skip
    tested = [content.get(key) for key in ("test_set", "test_errors", "test_examples")]
    if tested.count(None) not in (0, 3):
        wrong.append("test_set, test_errors and test_examples go together")
    elif tested[1] is not None and not 0 <= tested[1] <= tested[2] != 0:
        wrong.append(f"{tested[1]} errors of {tested[2]} examples")
    return wrong


def _is_path(name_or_path: str | os.PathLike) -> bool:
    text = os.fspath(name_or_path)
    return not isinstance(name_or_path, str) or Path(text).name != text or text.endswith(".zoo")


def _folder(name: str) -> Path | None:
    """The first folder of that name that holds a record or a model file."""
    if not name or Path(name).name != name or name in (".", ".."):
        return None
    places = [root / name for root in roots()]
    return next((p for p in places if (p / RECORD).is_file() or (p / MODEL).is_file()), None)


def _unknown(name: str) -> str:
    recipe = PACKAGE.parent / "benchmarks" / "recipes" / f"{name}.toml"
    commands = [MAKE[name]] if name in MAKE else []
    if Path(name).name == name and (recipe.is_file() or name in MAKE):
        commands.append(f"python -m benchmarks train {name} && python -m benchmarks evaluate {name}")
    if commands:
        made = "\n  or\n  ".join(commands)
        return f"{name} does not come with the zoo, but it can be made, in a checkout of it:\n  {made}\nthen load it again"
    known = ids()
    if not known:
        return f"no entry is called {name!r}: there are none in {', '.join(map(str, roots()))}"
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    return f"no entry is called {name!r}; " + (f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}")

