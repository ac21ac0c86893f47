"""Entries on the Hugging Face Hub: one repository each, which holds what an entry's folder holds.

    zoo push ID --repo owner/name          entry.json, model.zoo, golden outputs, ... and a model card (zoo/card.py)
    zoo.load("hf:owner/name@revision")     the record and what lies beside it, once; then the model file, by its digest
    zoo index FOLDER hf:owner/name ...     FOLDER/index.json: ids, each with a pinned reference; ZOO_ARTIFACTS names FOLDER

A revision of 40 hex digits is asked for once and then found in the Hub's cache without a network. Any other one, a branch
or a tag, is looked up each time; where nobody answers, what it was the last time is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo import files, registry
from zoo.errors import ArtifactUnavailable, CorruptArtifact, UnknownModel, ZooError, reason
from zoo.registry import INDEX, MODEL, PREFIX, RECORD

if TYPE_CHECKING:
    from zoo.records import Entry

BESIDE = re.compile(r"golden\.json|predictions\.npy|stream\.bin|train\.log|sample-[a-z0-9-]{1,40}\.json")
LARGEST = 1 << 24  # bytes of such a file
CARD = "README.md"
Answer = TypeVar("Answer")


def parse(reference: str) -> tuple[str, str]:
    """(owner/name, revision) of hf:owner/name@revision; without one the branch main. Raises `UnknownModel`."""
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w.-][\w./-]*))?", reference, re.ASCII)
    if not match or ".." in reference:
        raise UnknownModel(f"{reference!r} names no entry of the Hugging Face Hub; it reads hf:owner/name@revision")
    return match[1], match[2] or "main"


def entry(reference: str) -> Entry:
    """The record in a repository; its model file comes from the same commit when it is read.

    Raises `UnknownModel` for what is no reference or no entry's repository, `ArtifactUnavailable` where the Hub gives
    nothing, `CorruptArtifact` for a record that cannot be read.
    """
    from zoo import records

    repo, revision = parse(reference)
    folder = _cached(repo, revision) if registry.pinned(revision) else None
    if folder is None:
        folder = _fetch(repo, revision)
    record = records.read(folder / RECORD, fetched=True)
    return record if record.hub else record.changed(hub={"repo": repo, "revision": folder.name, "file": MODEL})


def _fetch(repo: str, revision: str) -> Path:
    """The folder of a commit in the Hub's cache, after all but the model file was brought there; the record comes last."""
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if RECORD not in sizes:
            raise UnknownModel(f"https://huggingface.co/{repo} holds no {RECORD} at {revision}: it is no entry of a zoo")
        for name in [*filter(BESIDE.fullmatch, sizes), RECORD]:
            if sizes[name] > LARGEST:
                raise CorruptArtifact(f"{repo}: {name} has {sizes[name]:,} bytes, expected at most {LARGEST:,}")
            path = huggingface_hub.hf_hub_download(repo, name, revision=revision if name == RECORD else info.sha)
    except ZooError:
        raise
    except Exception as error:  # the Hub's client raises errors of several libraries
        folder = _cached(repo, revision)
        if folder is None:
            raise ArtifactUnavailable(
                f"{PREFIX}{repo}@{revision} could not be fetched from https://huggingface.co: {reason(error)}"
            ) from error
        return folder
    return Path(path).parent


def _cached(repo: str, revision: str) -> Path | None:
    """The folder in the Hub's cache that holds the record of a revision; None where it is not there."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(repo, RECORD, revision=revision, local_files_only=True)).parent
    except LocalEntryNotFoundError:
        return None
    except ValueError as error:  # HFValidationError: no repository can be called so
        raise UnknownModel(f"{repo} is no name of a repository on the Hugging Face Hub: {error}") from error


# ------------------------------------------------------------------------------------------------- push


def push(name: str, repo: str, *, private: bool = False, move: bool = False, report: Callable[[str], object] = print) -> str:
    """Uploads an entry, in one commit, into a repository of the Hub, which is made if it is not there; its reference.

    name: an id, or what else stands for an entry. Bytes under an id never change, there as here: a repository that holds
    another entry, or other bytes, is refused. The Hub must know who you are (`hf auth login`).
    move: the record here then names the file there, and the folder keeps no model file: for those too large for git.

    Raises `ZooError` for a source without a record or a record without a licence, and for what the Hub refuses.
    """
    import huggingface_hub

    from zoo import card

    source = registry.described(name)
    if isinstance(source, Path):
        raise ZooError(f"{source} has no record, so that a model card would have nothing to say")
    if move and source.fetched:
        raise ZooError(f"{source.id} lies on the Hub already")
    if not (source.license or "").strip():
        raise ZooError(f"the record of {source.id} states no license: what is published needs one")
    content = {MODEL: registry.read(source), CARD: card.render(source, repo).encode()}
    names = [path.name for path in sorted(source.folder.iterdir()) if path.name == RECORD or BESIDE.fullmatch(path.name)]
    content |= {file: files.read(source.folder / file, LARGEST) for file in names}
    api = huggingface_hub.HfApi()
    _ask(lambda: api.create_repo(repo, private=private, exist_ok=True), f"https://huggingface.co/{repo} cannot be made")
    _refuse_another(source, repo)
    report(f"{source.id}: {len(content)} files, {sum(map(len, content.values())):,} bytes to https://huggingface.co/{repo}")
    operations = [huggingface_hub.CommitOperationAdd(file, blob) for file, blob in sorted(content.items())]
    commit = _ask(
        lambda: api.create_commit(repo, operations, commit_message=f"{source.id}: {source.size_bytes:,} bytes"),
        f"{source.id} was not uploaded",
    )
    if move:
        registry.save(source.changed(hub={"repo": repo, "revision": commit.oid, "file": MODEL}))
        (source.folder / MODEL).unlink(missing_ok=True)
    return f"{PREFIX}{repo}@{commit.oid}"


def _refuse_another(source: Entry, repo: str) -> None:
    """Raises `ZooError` where the repository holds another entry, or other bytes under this id."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    from zoo import records

    try:
        path = huggingface_hub.hf_hub_download(repo, RECORD, revision="main")
    except EntryNotFoundError:
        return
    except Exception as error:
        raise ZooError(f"https://huggingface.co/{repo} cannot be read: {reason(error)}") from error
    other = records.read(Path(path), fetched=True)
    if (other.id, other.sha256) != (source.id, source.sha256):
        occupant = "other bytes under this id" if other.id == source.id else f"the entry {other.id}"
        raise ZooError(f"https://huggingface.co/{repo} holds {occupant}; give {source.id} a repository of its own")


# ------------------------------------------------------------------------------------------------ index


def make_index(folder: Path, references: Iterable[str], report: Callable[[str], object] = print) -> Path:
    """Writes FOLDER/index.json: the entries that it names already, and these, each with the commit that it has now.

    references: hf:owner/name, with or without a revision, or the address of a collection, of which all models are taken.
    Raises as `entry` does, `ZooError` for an id that two references have.
    """
    path = Path(folder) / INDEX
    entries = registry.read_index(path) if path.is_file() else {}
    new: dict[str, str] = {}
    for reference in references:
        for member in _members(reference):
            record = entry(member)
            pin = f"{PREFIX}{parse(member)[0]}@{record.folder.name}"
            if new.get(record.id, pin) != pin:
                raise ZooError(f"{new[record.id]} and {pin} both hold an entry {record.id}: an index has one of a name")
            new[record.id] = pin
            report(f"{record.id}: {pin}")
    content = {"entries": dict(sorted((entries | new).items()))}
    return files.write(path, (json.dumps(content, indent=1) + "\n").encode())


def _members(reference: str) -> list[str]:
    """References to the models of a collection, or the one reference itself."""
    match = re.search(r"collections/([\w.-]+/[\w.-]+)$", reference, re.ASCII)
    if not match:
        return [reference]
    import huggingface_hub

    collection = _ask(lambda: huggingface_hub.HfApi().get_collection(match[1]), f"no collection {match[1]}")
    members = [f"{PREFIX}{item.item_id}" for item in collection.items if item.item_type == "model"]
    if not members:
        raise ZooError(f"the collection {match[1]} holds no model")
    return members


def _ask(question: Callable[[], Answer], failed: str) -> Answer:
    """The Hub's answer; its errors as a `ZooError` of one line."""
    try:
        return question()
    except Exception as error:  # the Hub's client raises errors of several libraries
        log_in = "; `hf auth login` says who you are" if re.search("401|403|token", reason(error)) else ""
        raise ZooError(f"{failed}: {reason(error)}{log_in}") from error
