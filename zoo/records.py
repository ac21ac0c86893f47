"""What a record says: the fields of entry.json, their types and bounds.

    entry.json ── read ──> Entry      every fault of the record is told at once, those of its parts too

Only the program that measured writes a record (`zoo.registry.save`). Importing this costs a tenth of a second, so
`import zoo` does without it.
"""

from __future__ import annotations

import json
import os
import reprlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from zoo import files
from zoo.errors import CorruptArtifact
from zoo.registry import MODEL, RECORD, pinned

SCHEMA = 1  # of entry.json
LARGEST = 1 << 20  # bytes of a record

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # whole numbers that every JSON reader has exactly
Positive = Annotated[int, Field(gt=0, lt=1 << 53)]
Name = Annotated[str, Field(min_length=1, max_length=200)]  # a file system takes 255 bytes
Sentence = Annotated[str, Field(min_length=1, max_length=1000)]


class Fields(BaseModel):
    """A JSON object with exactly these fields, each of its own type: a number in quotes is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Seed(Fields):
    """The outcome of one run of a recipe; None where nobody measured it."""

    seed: Count
    size_bytes: Positive | None = None
    heldout_errors: Count | None = None
    heldout_examples: Positive | None = None
    test_errors: Count | None = None


class SampleResult(Fields):
    """A measurement on some pictures of ImageNet, which the file `sample-<key>.json` names: never a test error."""

    key: Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
    name: Name  # what the pictures are, in words
    digest: Sha256  # of the pictures: zoo.datasets.ImageFolder.digest
    examples: Positive
    labelled: Count  # pictures whose class is known; errors are counted on these alone
    errors: Count
    reference_errors: Count  # of the uncompressed network
    agreement: Count  # pictures on which the entry answers as its reference does
    reference: Name
    note: str

    @property
    def file(self) -> str:
        """Name of the file of pictures and answers beside the record."""
        return f"sample-{self.key}.json"


class WeightsSource(Fields):
    """Where the weights came from that an entry compresses without training."""

    source: Name
    revision: str | None
    digest: Sha256
    license: str


class Submission(Fields):
    """What the authors of an entry that was made elsewhere say of it: nobody here has trained it."""

    paper: Sentence  # or another source, with an address if there is one
    training: Sentence | None = None


class Decoded(Fields):
    """Of an entry whose stream only its authors' own program can read: the weights that this made of it, in model.zoo.

    `size_bytes` and `sha256` of the entry are then those of stream.bin. That the weights come from it is the authors' word.
    """

    decoder: Sentence  # the program, and where to have it
    size_bytes: Positive  # of model.zoo, which keeps float32 weights exactly
    sha256: Sha256


class Hub(Fields):
    """Where the model file lies on the Hugging Face Hub."""

    repo: Name
    revision: str
    file: Name

    @field_validator("revision", mode="before")
    @classmethod
    def _pinned(cls, revision: object) -> object:
        if not isinstance(revision, str) or not pinned(revision):
            raise PydanticCustomError("revision", "expected a revision of 40 hex digits")
        return revision


class Entry(Fields):
    """One entry as its record states it, read-only. None stands for what was not measured or does not apply.

    Sizes are bytes, digests SHA-256 in hex.
    """

    schema_version: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)] = Field(SCHEMA, alias="schema")  # a Literal takes true for 1
    id: Annotated[Name, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+,=-]*$")]  # a folder's name
    network: Name  # as in the file's header
    method: Name  # epr | plain | lc | hemp | ...
    partitioning: Annotated[str, Field(max_length=200)] = "paper"  # "" where the file describes its tensors itself
    dataset: Name
    preprocessing: Name  # for zoo.preprocessing
    parameters: Positive  # of the uncompressed network
    size_bytes: Positive  # of model.zoo, all of it; of stream.bin where the entry is `decoded` elsewhere
    sha256: Sha256  # of the same file
    weights_sha256: Sha256  # of the decoded float32 weights: zoo.measurement.weights_digest
    paper_bytes: Positive | None = None  # size under the counting of the method's paper
    paper_counting: str | None = None  # what that counting leaves out
    test_set: Sha256 | None = None  # digest of the test set, as zoo.datasets computes it
    test_errors: Count | None = None
    test_examples: Count | None = None
    samples: tuple[SampleResult, ...] = ()
    recipe: str | None = None  # path in the repository
    recipe_sha256: Sha256 | None = None
    seed: Count | None = None  # of the run that ships
    seeds: tuple[Seed, ...] = ()  # every seed of the recipe
    selection: str | None = None  # how the shipped seed was chosen, without the test set
    warm_start: Name | None = None
    teacher: Name | None = None
    weights_source: WeightsSource | None = None
    submission: Submission | None = None
    decoded: Decoded | None = None
    license: str | None = None
    quoted: Name | None = None  # key of the published result that the entry stands beside: zoo.registry.quoted
    hub: Hub | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    _folder: Path | None = PrivateAttr(None)
    _fetched: bool = PrivateAttr(False)

    @field_validator("recipe")
    @classmethod
    def _inside(cls, recipe: str | None) -> str | None:
        if recipe is not None and not inside(recipe):
            raise PydanticCustomError("recipe", "expected a path inside the repository")
        return recipe

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Entry:
        self._folder = (info.context or {}).get("folder")
        self._fetched = (info.context or {}).get("fetched", False)
        tested = (self.test_set, self.test_errors, self.test_examples)
        if tested.count(None) not in (0, 3):
            raise PydanticCustomError("tested", "test_set, test_errors and test_examples go together")
        if self.test_errors is not None and not self.test_errors <= self.test_examples != 0:
            raise PydanticCustomError("tested", f"{self.test_errors} errors of {self.test_examples} examples")
        keys = [sample.key for sample in self.samples]
        if len(set(keys)) < len(keys):
            raise PydanticCustomError("samples", f"two samples have one key: {', '.join(keys)}")
        if self._folder is not None and not self._fetched and self.id != self._folder.resolve().name:
            raise PydanticCustomError("id", f"id is {self.id!r}, which is not the folder's name")
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self.record() == other.record()

    @property
    def folder(self) -> Path | None:
        """Where the record was read from."""
        return self._folder

    @property
    def fetched(self) -> bool:
        """Whether the record came from the Hugging Face Hub, whose folders are called after commits, not ids."""
        return self._fetched

    @property
    def ratio(self) -> float:
        """Compression ratio: 4 bytes a parameter of the uncompressed network, over the whole file."""
        return 4 * self.parameters / self.size_bytes

    @property
    def top1_error(self) -> float | None:
        """Percent of the test set that is classified wrongly; None where nobody measured it."""
        return None if self.test_errors is None else 100 * self.test_errors / self.test_examples

    @property
    def model_bytes(self) -> int:
        """Length of model.zoo: `size_bytes`, but for an entry that its authors' program decoded."""
        return self.size_bytes if self.decoded is None else self.decoded.size_bytes

    @property
    def model_sha256(self) -> str:
        """SHA-256 of model.zoo: `sha256`, but for an entry that its authors' program decoded."""
        return self.sha256 if self.decoded is None else self.decoded.sha256

    @property
    def path(self) -> Path | None:
        """Where the model file lies or would lie."""
        return None if self._folder is None else self._folder / MODEL

    def record(self) -> dict[str, Any]:
        """The content of entry.json."""
        return self.model_dump(mode="json", by_alias=True)

    def changed(self, **fields: Any) -> Entry:
        """The entry with other values of some fields, checked as a record that is read. Raises `CorruptArtifact`."""
        return _validated(json.dumps(self.record() | fields).encode(), self.folder, self.fetched)


def read(path: Path, fetched: bool = False) -> Entry:
    """The record at `path`; the folder's name must be its id, unless it was fetched from the Hub.

    Raises `CorruptArtifact` naming every field that is wrong.
    """
    try:
        content = files.read(path, LARGEST)
    except OSError as error:
        raise CorruptArtifact(f"the record {path} cannot be read: {error}") from error
    return _validated(content, path.parent, fetched)


def entry(content: dict[str, Any], folder: str | os.PathLike | None = None) -> Entry:
    """An entry from the content of an entry.json, checked as `read` does."""
    return _validated(json.dumps(content).encode(), None if folder is None else Path(folder))


def _validated(content: bytes, folder: Path | None, fetched: bool = False) -> Entry:
    """Through JSON, so that numbers, text and lists are told apart as in a file."""
    where = "the record" if folder is None else f"the record {folder / RECORD}"
    try:
        return Entry.model_validate_json(content, context={"folder": folder, "fetched": fetched})
    except ValidationError as error:
        unreadable = error.errors(include_url=False)[0]["type"] in ("json_invalid", "model_type")
        raise CorruptArtifact(f"{where} {'cannot be read' if unreadable else 'is wrong'}: {'; '.join(faults(error))}") from error


def inside(path: str) -> bool:
    """Whether a path stays inside the folder that it is relative to."""
    steps = path.split("/")
    return not (path.startswith(("/", "~")) or ".." in steps or "\\" in path or "\0" in path)


def faults(error: ValidationError) -> list[str]:
    """Everything that is wrong with a file, each in words."""
    return [_fault(fault) for fault in error.errors(include_url=False)]


def _fault(fault: ErrorDetails) -> str:
    """One thing that is wrong, in words."""
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"]).lstrip(".")
    value = reprlib.repr(fault["input"])
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{place} is not a field of schema {SCHEMA}"
    if fault["type"] == "string_pattern_mismatch" and "0-9a-f]{64}" in fault["ctx"]["pattern"]:
        return f"{place} is no SHA-256"
    if place == "schema":
        return f"it has schema {value}, this version reads schema {SCHEMA}"
    message = fault["msg"].replace("Input should be", "expected")
    return f"{place} is {value}, {message}" if place else message
