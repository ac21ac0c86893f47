"""The entries of the zoo: their records, their files, and what other papers claim.

    artifacts/<id>/entry.json ── find ──> Entry ── read ──> bytes of model.zoo, length and SHA-256 checked

Entries are found by scanning, in this order: the folders named by ZOO_ARTIFACTS (separated as PATH is), the artifacts
inside the installed package, those of the checkout. A model file that is too large for git lives on the Hugging Face
Hub under a pinned revision; the network is asked only where neither a folder nor the Hub's cache has it. A whole entry may
lie there, too: "hf:owner/name@revision" stands for it wherever an id does, and an index.json in one of the folders gives it
an id (zoo/hub.py).
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import files
from zoo.errors import ArtifactUnavailable, CorruptArtifact, UnknownModel, ZooError, reason

if TYPE_CHECKING:
    from zoo.records import Entry

MODEL, RECORD = "model.zoo", "entry.json"
STREAM = "stream.bin"  # of an entry that only its authors' program decodes
PREFIX = "hf:"  # of a reference to an entry on the Hugging Face Hub: zoo/hub.py
INDEX = "index.json"  # of entries that lie there, in a folder of entries
HEAD = 200  # bytes at the beginning of a model file that hold its length and the name of its network
PACKAGE = Path(__file__).parent


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
    counting: str | None  # what the size counts and leaves out; None where nobody here knows
    year: int | None
    command: str = ""  # makes a file for this row from weights that others publish


# ---------------------------------------------------------------------------------------------- finding


def roots() -> list[Path]:
    """Folders that may hold entries, first to last in the order of precedence; they need not exist.

    Raises `ZooError` for a ZOO_ARTIFACTS of which no folder exists.
    """
    setting = os.environ.get("ZOO_ARTIFACTS", "")
    folders = [files.expanded(path) for path in setting.split(os.pathsep) if path]
    if folders and not any(folder.is_dir() for folder in folders):
        raise ZooError(f"ZOO_ARTIFACTS={setting}: no such folder")
    folders.append(PACKAGE / "artifacts")
    if (PACKAGE.parent / "pyproject.toml").is_file():  # a checkout, not a site-packages with some artifacts beside us
        folders.append(PACKAGE.parent / "artifacts")
    return folders


def ids(pattern: str = "*") -> list[str]:
    """Sorted ids of all entries that match a shell pattern. Reads no record."""
    names = {path.parent.name for root in roots() for path in root.glob(f"*/{RECORD}")} | index().keys()
    return sorted(name for name in names if fnmatchcase(name, pattern))


def find(name: str) -> Entry:
    """The entry of that id, or of a reference to the Hugging Face Hub.

    Raises `UnknownModel` with the nearest ids, `CorruptArtifact` for a record that cannot be read, `ArtifactUnavailable` for
    one that the Hub does not give.
    """
    folder = _folder(name)
    if name.startswith(PREFIX) or (folder is None and name in index()):
        from zoo import hub

        entry = hub.entry(name if name.startswith(PREFIX) else index()[name])
        if entry.id != name and not name.startswith(PREFIX):
            raise CorruptArtifact(f"the index gives the name {name} to {index()[name]}, which holds {entry.id}")
        return entry
    if folder is None:
        raise UnknownModel(_unknown(name))
    if not (folder / RECORD).is_file():
        raise UnknownModel(f"{folder} holds a model file but no record")
    return load_record(folder)


def locate(name_or_path: str | os.PathLike) -> Entry | Path:
    """What an id, an entry's folder or a model file's path stands for: an entry, or a file that has no record.

    A string is a path if it has a separator or ends in .zoo. Raises as `find` does.
    """
    text = os.fspath(name_or_path)
    if _is_path(name_or_path):
        path = files.expanded(text)
        if files.exists(path):
            return path
        if files.exists(path / RECORD):
            return load_record(path)
        if files.exists(path / MODEL):
            return path / MODEL
        raise UnknownModel(f"{path} is neither a model file nor the folder of an entry")
    folder = _folder(text)
    if folder is not None and not (folder / RECORD).is_file():
        return folder / MODEL
    return find(text)


def described(name_or_path: str | os.PathLike) -> Entry | Path:
    """The entry of an id or a path; the path of a model file without a record. Raises as `find` does.

    The path of the model file beside a record means that entry, if the file is the recorded one.
    """
    if not _is_path(name_or_path):
        return find(os.fspath(name_or_path))
    source = locate(name_or_path)
    if not isinstance(source, Path) or source.name != MODEL or not files.exists(source.parent / RECORD):
        return source
    entry = load_record(source.parent)
    _, complaint = content(source, entry)
    return entry if complaint is None else source


def index() -> dict[str, str]:
    """Id -> reference to the Hugging Face Hub, of the index files in all folders of entries. Raises `CorruptArtifact`."""
    entries: dict[str, str] = {}
    for path in (root / INDEX for root in roots()):
        if files.exists(path):
            entries = read_index(path) | entries
    return entries


def read_index(path: Path) -> dict[str, str]:
    """Id -> reference of one index file: {"entries": {"ID": "hf:owner/name@<40 hex digits>"}}. Raises `CorruptArtifact`."""
    try:
        entries = json.loads(files.read(path, 1 << 20))["entries"]
        wrong = [name for name, reference in entries.items()
                 if not re.fullmatch(rf"{PREFIX}[\w.-]+/[\w.-]+@[0-9a-f]{{40}}", reference, re.ASCII)]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptArtifact(f"{path} is no index of entries: {error!r}") from error
    if wrong:
        names = ", ".join(wrong)
        raise CorruptArtifact(f"{path}: {names}: expected hf:owner/name@<40 hex digits>, as `zoo index` writes it")
    return entries


def load_record(folder: str | os.PathLike) -> Entry:
    """The record in an entry's folder. Raises `CorruptArtifact` naming every field that is missing or wrong."""
    from zoo import records

    return records.read(Path(folder) / RECORD)


def save(entry: Entry, folder: str | os.PathLike | None = None) -> Path:
    """Writes the record into its folder, whole or not at all; returns the path. Raises as `load_record` does."""
    from zoo import records

    folder = Path(folder if folder is not None else entry.folder)
    content = records.entry(entry.record(), folder).record()
    return files.write(folder / RECORD, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


# ---------------------------------------------------------------------------------------------- reading


def read(source: Entry | Path) -> bytes:
    """The bytes of an entry's model file, length and SHA-256 as recorded; a bare file is only checked by its own checksum.

    Raises `CorruptArtifact` or a subclass that says what was found (a Git-LFS pointer, a web page, a cut file), and
    `ArtifactUnavailable` where the file is not here and cannot be fetched.
    """
    path = source if isinstance(source, Path) else model_file(source)
    blob, complaint = content(path, None if isinstance(source, Path) else source)
    if complaint is None and not isinstance(source, Path):
        return blob
    from zoo import codec

    try:
        codec.read_header(blob)
    except CorruptArtifact as error:
        raise type(error)(f"{path}: {error}{f' ({complaint})' if complaint else ''}") from error
    if complaint:
        raise CorruptArtifact(f"{path}: a whole model file, but not the recorded one: {complaint}")
    return blob


def content(path: Path, entry: Entry | None = None) -> tuple[bytes, str | None]:
    """The bytes of a model file, and in words how they differ from the recorded ones; None if they do not.

    Of a file that is longer than its record and its header say, only one byte more than that is read.
    """
    blob = files.head(path, max(_declared(files.head(path, HEAD)), entry.model_bytes if entry else HEAD) + 1)
    size = path.stat().st_size
    if entry is None:
        return blob, f"the file has {size:,} bytes" if size > len(blob) else None
    if size != entry.model_bytes:
        return blob, f"expected {entry.model_bytes:,} bytes, found {size:,}"
    sha256 = hashlib.sha256(blob).hexdigest()
    return blob, None if sha256 == entry.model_sha256 else f"expected SHA-256 {entry.model_sha256}, found {sha256}"


def _declared(head: bytes) -> int:
    """The length that the head of a model file declares, in version 1 at most what its network allows; 0 if none is there."""
    from zoo import networks
    from zoo.codec.bits import Reader
    from zoo.codec.work import most_bytes

    reader = Reader(head)
    try:
        version = reader.raw(9)[8]  # after the magic number: FORMAT.md, section 1
        length = reader.varint()
        return length if version > 1 else min(length, most_bytes(networks.spec(reader.text()).parameters))
    except ZooError:
        return 0


def model_file(entry: Entry) -> Path:
    """Path of the entry's model file: beside the record, else in the Hub's cache, else downloaded into that."""
    if entry.path is not None and not entry.fetched and files.exists(entry.path):
        return entry.path
    where = entry.path or f"the model file of {entry.id}"
    if entry.hub is None:
        raise ArtifactUnavailable(f"{where} is missing, and the record names no other place for it")
    return _from_hub(entry)


def _from_hub(entry: Entry) -> Path:
    repo, revision, file = entry.hub.repo, entry.hub.revision, entry.hub.file
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ArtifactUnavailable(f"{entry.id} lies on the Hugging Face Hub: pip install huggingface-hub") from error
    try:
        path = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision, local_files_only=True))
        if _check_cached(entry, path) is None:
            return path
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:  # HFValidationError: no repo can be called so
        raise CorruptArtifact(f"{entry.id}: the record names no file of the Hugging Face Hub: {error}") from error
    size = f"{entry.model_bytes:,} bytes"
    print(f"zoo: {entry.id} ({size}) is not on this machine; asking https://huggingface.co/{repo}", file=sys.stderr)
    try:
        path = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except Exception as error:  # the Hub raises errors of several libraries
        raise ArtifactUnavailable(
            f"{entry.id} could not be fetched from https://huggingface.co/{repo} (revision {revision[:12]}, {file}): "
            f"{reason(error)}. Put the file at {entry.path} to load it without the network"
        ) from error
    complaint = _check_cached(entry, path)
    if complaint is not None:
        raise CorruptArtifact(f"{entry.id}: the file at https://huggingface.co/{repo} is not the recorded one: {complaint}")
    return path


def _check_cached(entry: Entry, path: Path) -> str | None:
    """A complaint about a file in the Hub's cache, which is then removed from there; None if it is the recorded file."""
    size = path.stat().st_size
    complaint = f"expected {entry.model_bytes:,} bytes, found {size:,}"
    if size == entry.model_bytes:
        _, complaint = content(path, entry)
    if complaint is not None:
        path.resolve().unlink(missing_ok=True)  # the blob, to which the name in the snapshot is a link
        path.unlink(missing_ok=True)
    return complaint


# ------------------------------------------------------------------------------------- of other people's work


@functools.cache
def quoted() -> dict[str, Quoted]:
    """Key -> result that another publication states (zoo/quoted.json), in the order of the networks."""
    content = json.loads((PACKAGE / "quoted.json").read_text(encoding="utf-8"))
    sources = content["sources"]
    rows = [
        Quoted(**row | {"source": sources[row["source"]]["text"], "year": sources[row["source"]]["year"]})
        for row in content["results"]
    ]
    return {row.key: row for row in rows}


# ---------------------------------------------------------------------------------------------- helpers


def pinned(revision: str) -> bool:
    """Whether a revision is that of a commit, which never changes."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _is_path(name_or_path: str | os.PathLike) -> bool:
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and text.startswith(PREFIX):
        return False
    return not isinstance(name_or_path, str) or Path(text).name != text or text.endswith(".zoo")


def _folder(name: str) -> Path | None:
    """The first folder of that name that holds a record or a model file."""
    if not name or Path(name).name != name or name in (".", ".."):
        return None
    places = [root / name for root in roots()]
    return next((p for p in places if files.exists(p / RECORD) or files.exists(p / MODEL)), None)


def _unknown(name: str) -> str:
    entries = ids()
    if not entries:
        return f"no entry is called {name!r}: there are none in {', '.join(map(str, roots()))}"
    commands = [row.command for row in quoted().values() if name and row.command.split(" ")[-1].startswith(name)]
    if commands:
        return f"no entry is called {name!r} yet; in a checkout this makes one from published weights: {' or '.join(commands)}"
    near = difflib.get_close_matches(name.lower(), entries, n=3, cutoff=0.4)
    return f"no entry is called {name!r}; " + (f"nearest: {', '.join(near)}" if near else f"known: {', '.join(entries)}")

