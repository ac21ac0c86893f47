"""From a record to its verdict: everything that can be derived from the file is derived again and compared.

    model.zoo ── measure ──> Measurement ─┐
    entry.json, golden.json,              ├─ compared ──> Outcome
    predictions.npy, sample-*.json ───────┘

Of a record, `verify` derives again: size_bytes, sha256, network, partitioning, parameters, weights_sha256; with the test
set test_set, test_examples, test_errors; with the pictures of a sample the numbers in `samples`, which are also counted
in sample-<key>.json. dataset and preprocessing decide the golden outputs. method, warm_start, teacher and seed are compared with
train.log, recipe with the recipe, quoted with the quoted results. All else (STATED) is what the program that wrote the
record said; each outcome lists it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from zoo import codec, datasets, evidence, files, loading, measurement, partitionings, registry
from zoo.codec.bits import Reader
from zoo.datasets.validation import not_official
from zoo.errors import (
    ArtifactUnavailable,
    CorruptArtifact,
    DataUnavailable,
    VerificationFailed,
    WrongData,
    ZooError,
)
from zoo.evidence import PREDICTIONS, abridged
from zoo.measurement import Measurement
from zoo.records import Entry, SampleResult

# Fields that only the program which wrote the record can know; a test of the repository counts paper_bytes again.
STATED = (
    "paper_bytes", "paper_counting", "seeds", "selection", "weights_source", "submission", "license", "hub", "versions",
)  # fmt: skip
LOGGED = ("network", "method", "partitioning", "warm_start", "teacher")  # as in the recipe in train.log
IDLE = ("seeds", "claim", "comment", "checkpoint_every")  # fields of a recipe that do not change what a run of one seed gives

TOLERANCE = 1e-4  # of the largest logit: what float32 sums in another order may change


@dataclass
class Outcome:
    """The verdict on one entry. `problems` are differences from the record, `notes` are not."""

    id: str
    size_bytes: int | None = None
    errors: int | None = None
    examples: int | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)  # fields of the record that nothing here can confirm
    unavailable: str | None = None  # why something could not be checked
    measurement: Measurement | None = field(default=None, repr=False)  # of the model file, where it could be decoded
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems and self.unavailable is None

    @property
    def status(self) -> str:
        return "FAILED" if self.problems else "OK" if self.ok else "INCOMPLETE"

    def check(self) -> None:
        """Raises `VerificationFailed` with every difference, or `DataUnavailable`."""
        if self.problems:
            raise VerificationFailed(f"{self.id}: " + "; ".join(self.problems))
        if self.unavailable:
            raise DataUnavailable(f"{self.id}: {self.unavailable}")


@dataclass(eq=False)
class _Options:
    """What `verify` was asked for, and the test sets that it has looked for."""

    bytes_only: bool
    data_root: str | os.PathLike | None
    sample_root: str | os.PathLike | None
    device: str
    jobs: int
    looked_for: dict[str, datasets.Images | datasets.ImageFolder | ZooError] = field(default_factory=dict, repr=False)

    def tests(self, entry: Entry) -> bool:
        """Whether the entry's answers to a test set are to be derived: it can be downloaded, or lies in `data_root`."""
        return not self.bytes_only and (datasets.get(entry.dataset).downloadable or self.data_root is not None)

    def samples(self, entry: Entry) -> bool:
        """Whether its answers to samples of ImageNet are."""
        return not self.bytes_only and self.sample_root is not None and bool(entry.samples)

    def images(self, dataset: str) -> datasets.Images | datasets.ImageFolder | ZooError:
        """Its test set, or why it is not there: looked for once, not once for each entry."""
        if dataset not in self.looked_for:
            root = [] if datasets.get(dataset).downloadable else [os.fspath(self.data_root)]
            try:
                self.looked_for[dataset] = measurement.test_images(dataset, *root)
            except (DataUnavailable, WrongData) as error:
                self.looked_for[dataset] = error
        return self.looked_for[dataset]


def verify(
    names: Iterable[str] = (),
    *,
    bytes_only: bool = False,
    data_root: str | os.PathLike | None = None,
    sample_root: str | os.PathLike | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: bool = True,
) -> Iterator[Outcome]:
    """Derives bytes, digests, outputs and errors of these entries (all of them if none is named) again, one outcome each.

    Offline: length, SHA-256, names, parameters, weights digest, golden outputs. Unless `bytes_only`, also the predictions and
    errors on the whole test set. ImageNet entries are tested where `data_root` names an ImageFolder. `sample_root` is the
    folder of a sample of ImageNet that a record names. `jobs` batches are tested at a time.

    First comes what needs no images, of all entries, in seconds; then the test sets, small networks first. An outcome
    comes when its entry is done. Raises `UnknownModel` for a name, before anything is measured; a record that cannot be
    read is a problem of its outcome.
    """
    names = list(names) or registry.ids()
    entries = [_find(name) for name in names]
    options = _Options(bytes_only, data_root, sample_root, device, jobs)
    import torch  # noqa: F401  not to be counted in the first entry's seconds

    waiting: list[tuple[Entry, Outcome]] = []
    entries.sort(key=lambda entry: isinstance(entry, Entry) and _pending(entry, options))  # those done at once first
    with _bar(progress, total=len(entries), desc="bytes, digests, golden outputs", unit=" entries") as bar:
        for entry in entries:
            outcome = entry if isinstance(entry, Outcome) else _offline(entry, options)
            bar.update()
            if isinstance(entry, Entry) and outcome.measurement is not None and _pending(entry, options):
                waiting.append((entry, outcome))
            else:
                yield outcome

    waiting.sort(key=lambda pair: (pair[1].measurement.parameters, pair[1].measurement.multiplications or 0))
    work = sum(_work(entry, outcome) for entry, outcome in waiting)
    with _bar(progress, total=work, bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed}, {remaining} remain") as bar:
        for number, (entry, outcome) in enumerate(waiting):
            bar.set_description(f"{len(waiting) - number} of {len(entries)} entries to test, {entry.id}")
            before, multiplications = bar.n, outcome.measurement.multiplications or 0
            _test(entry, outcome, options, lambda images, cost=multiplications: bar.update(images * cost))
            bar.update(before + _work(entry, outcome) - bar.n)
            yield outcome


def _pending(entry: Entry, options: _Options) -> bool:
    """Whether more is to be derived than what needs no images."""
    return entry.dataset in datasets.DATASETS and (options.tests(entry) or options.samples(entry))


def _work(entry: Entry, outcome: Outcome) -> int:
    """Multiplications that testing an entry takes, about."""
    return (outcome.measurement.multiplications or 0) * (entry.test_examples or datasets.get(entry.dataset).test_examples)


def _bar(shown: bool, **options):
    from tqdm import tqdm

    return tqdm(leave=False, mininterval=0.5, disable=None if shown else True, **options)  # None: no bar without a terminal


def _find(name: str) -> Entry | Outcome:
    """The entry, or the verdict on a record that cannot be read and on a file that has none."""
    try:
        source = registry.described(name)
        return _file(name, source) if isinstance(source, Path) else source
    except CorruptArtifact as error:
        return Outcome(name, problems=[str(error)])


def _file(name: str, path: Path) -> Outcome:
    """What can be said of a file without a record: that it is whole, and which weights it holds."""
    start = time.perf_counter()
    blob = registry.read(path)
    digest = measurement.weights_digest(loading.state_dict(blob))
    note = f"it has no record to compare with; it decodes, and its weights have digest {digest}"
    return Outcome(name, len(blob), notes=[note], seconds=time.perf_counter() - start)


def check(
    entry: Entry,
    *,
    bytes_only: bool = False,
    data_root: str | os.PathLike | None = None,
    sample_root: str | os.PathLike | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: bool = True,
) -> Outcome:
    """The verdict on one entry; see `verify`."""
    options = _Options(bytes_only, data_root, sample_root, device, jobs)
    outcome = _offline(entry, options)
    if outcome.measurement is not None and _pending(entry, options):
        _test(entry, outcome, options, progress)
    return outcome


@contextlib.contextmanager
def _judging(entry: Entry, outcome: Outcome) -> Iterator[None]:
    """Errors become problems of the outcome, or say what could not be checked; seconds are counted."""
    began = time.perf_counter()
    try:
        yield
    except ArtifactUnavailable as error:
        if entry.hub is None:
            outcome.problems.append(str(error))
        else:
            outcome.unavailable = str(error)
    except (ZooError, OSError) as error:  # OSError: a file that is there and cannot be read
        outcome.problems.append(str(error))
    finally:
        outcome.seconds += time.perf_counter() - began


def _offline(entry: Entry, options: _Options) -> Outcome:
    """What can be derived without images. The outcome has a measurement where the rest can follow."""
    outcome = Outcome(entry.id, stated=[name for name in STATED if getattr(entry, name)])
    with _judging(entry, outcome):
        path = registry.model_file(entry)
        outcome.size_bytes = path.stat().st_size
        blob, complaint = registry.content(path, entry)
        if complaint:
            outcome.problems.append(_damaged(entry, blob, complaint))
            return outcome
        if entry.decoded is not None:
            _check_stream(entry, outcome)
        derived = measurement.measure(blob, None, quick=_pending(entry, options), **_usual(entry, options))
        for name in ("network", "partitioning", "parameters", "weights_sha256"):
            expected, value = getattr(entry, name), getattr(derived, name)
            if expected != value:
                outcome.problems.append(f"{name}: expected {_number(expected)}, found {_number(value)}")
        outcome.problems += _golden_differences(evidence.read_golden(entry.folder), derived.golden)
        log = evidence.read_log(entry.folder)
        _check_log(entry, outcome, log)
        _check_sample_files(entry, outcome)
        if entry.recipe and _in_checkout(entry) and not (registry.PACKAGE.parent / entry.recipe).is_file():
            outcome.problems.append(f"recipe: there is no {entry.recipe}")
        if changes := _recipe_changes(entry, log):
            before = "train.log begins with the recipe as it was run"
            outcome.notes.append(f"{entry.recipe} has been edited since: {changes}; {before}")
        if entry.quoted is not None and entry.quoted not in registry.quoted():
            outcome.problems.append(f"quoted: {entry.quoted!r} is no key of the quoted results")
        if not options.bytes_only and not options.tests(entry):
            state = "not yet measured"
            if entry.test_errors is not None:
                state = f"not derived again (recorded: {_rate(entry.test_errors, entry.test_examples)})"
            outcome.notes.append(f"error on ImageNet-val {state}; --data PATH measures it")
        outcome.measurement = derived
    return outcome


def _test(entry: Entry, outcome: Outcome, options: _Options, progress: bool | Callable[[int], object]) -> None:
    """Its answers to the test set, and to samples of ImageNet."""
    with _judging(entry, outcome):
        usual = _usual(entry, options) | {"progress": progress, "quick": True, "jobs": options.jobs}
        blob = registry.read(entry)
        if options.tests(entry):
            images = options.images(entry.dataset)
            if isinstance(images, ZooError):
                outcome.unavailable = f"{images}\nzoo verify --bytes-only checks everything but the errors, without any data"
            else:
                _check_test(entry, outcome, blob, images, usual)
        if options.samples(entry):
            _check_samples(entry, outcome, blob, options.sample_root, usual)


def _check_test(entry: Entry, outcome: Outcome, blob: bytes, images, usual: dict) -> None:
    try:
        outcome.measurement = measurement.measure(blob, images, **usual)
    except WrongData as error:  # a picture cannot be read: that says nothing about the entry
        outcome.unavailable = str(error)
    else:
        _check_errors(entry, outcome, outcome.measurement, images)


def _usual(entry: Entry, options: _Options) -> dict:
    """How the entry is measured. Raises ZooError for names that are not known."""
    measurement.named_transform(entry.dataset, entry.preprocessing)
    return {"dataset": entry.dataset, "preprocess": entry.preprocessing, "device": options.device}


def _check_log(entry: Entry, outcome: Outcome, log: tuple[dict, int | None] | None) -> None:
    """What the record says of the run that shipped, against the first lines of its log."""
    if log is None:
        outcome.stated += [name for name in ("method", "warm_start", "teacher", "seed") if getattr(entry, name)]
        return
    recipe, seed = log
    run = {name: recipe[name] or None for name in LOGGED if name in recipe} | ({} if seed is None else {"seed": seed})
    stated = {name: getattr(entry, name) for name in run}
    if entry.warm_start and "@" not in (run.get("warm_start") or "@"):  # an entry that left the zoo: its name and digest
        stated["warm_start"] = entry.warm_start.partition("@")[0]
    outcome.problems += [f"{name}: the record says {stated[name]}, {evidence.LOG} {value}" for name, value in run.items()
                         if stated[name] != value]  # fmt: skip


def _check_sample_files(entry: Entry, outcome: Outcome) -> None:
    """The counts of the samples, from the answers in their files."""
    for sample in entry.samples:
        counts = evidence.read_sample(entry.folder / sample.file).counts
        outcome.problems += [
            f"sample {sample.key}, {name}: the record says {getattr(sample, name)}, {sample.file} {count}"
            for name, count in counts.items() if getattr(sample, name) != count
        ]  # fmt: skip


def _check_stream(entry: Entry, outcome: Outcome) -> None:
    """Length and digest of a stream that only its authors' program reads; raises `CorruptArtifact` for another length."""
    blob = files.read(entry.folder / registry.STREAM, entry.size_bytes)
    outcome.size_bytes = len(blob)
    if (len(blob), hashlib.sha256(blob).hexdigest()) != (entry.size_bytes, entry.sha256):
        outcome.problems.append(f"{registry.STREAM} is not the recorded one: expected {entry.size_bytes:,} bytes, SHA-256 "
                                f"{entry.sha256}, found {len(blob):,} bytes, {hashlib.sha256(blob).hexdigest()}")  # fmt: skip
    outcome.notes.append(f"the weights are what its authors' decoder ({entry.decoded.decoder}) made of {registry.STREAM}: "
                         "their word")  # fmt: skip


def _damaged(entry: Entry, blob: bytes, complaint: str) -> str:
    """What is wrong with the bytes."""
    text = f"{registry.MODEL}: {complaint}"
    try:
        loading.state_dict(blob)
        return f"{text}; it is a whole model file, but another one"
    except CorruptArtifact as error:
        return f"{text}; {error}"


def sections(blob: bytes, breakdown: Sequence[codec.GroupBytes] | None = None) -> list[tuple[str, int, int]]:
    """(name, first byte, end) of the sections of a model file, in order and without gaps; breakdown: its `codec.anatomy`."""
    if breakdown is None:
        _, breakdown = codec.anatomy(blob, partitionings.layout)
    reader = Reader(blob)
    for step in (lambda: reader.raw(9), reader.varint, reader.text, reader.text, reader.varint, reader.varint):
        step()  # magic and version, length, network, partitioning, parameters, groups: FORMAT.md, section 1
    start = reader.position
    pieces = [("the header", 0, start)]
    for group in breakdown:
        for kind, length in (("the decoder parameters", group.psi_bytes), ("the tables", group.table_bytes),
                             ("the symbols in lanes", group.payload_bytes)):  # fmt: skip
            pieces.append((f"{kind} of group {group.group}", start, start + length))
            start += length
    return [*pieces, ("the stream of symbols", start, len(blob) - 4), ("the checksum", len(blob) - 4, len(blob))]


def _golden_differences(expected: np.ndarray, derived: np.ndarray) -> list[str]:
    if expected.shape != derived.shape:
        return [f"golden outputs: expected shape {expected.shape}, found {derived.shape}"]
    allowed = TOLERANCE * float(np.abs(derived).max())  # of what was derived: no record can widen its own tolerance
    distance = np.abs(expected.astype(np.float64) - derived)
    outside = ~(distance <= allowed)  # NaN is wrong
    if not outside.any():
        return []
    image, k = np.unravel_index(np.where(np.isnan(distance), np.inf, distance).argmax(), distance.shape)
    return [f"golden outputs: {int(outside.sum())} of {outside.size} logits differ by more than {allowed:.2g}; most at image "
            f"{image}, class {k}: expected {expected[image, k]:.6g}, found {derived[image, k]:.6g}"]  # fmt: skip


def _check_errors(entry: Entry, outcome: Outcome, measured: Measurement, images) -> None:
    outcome.errors, outcome.examples = measured.errors, measured.examples
    if entry.test_errors is None:
        outcome.notes.append(f"{_rate(measured.errors, measured.examples)}, not in the record")
        if not datasets.get(entry.dataset).downloadable and (reason := not_official(images)) is not None:
            outcome.notes.append(f"not the official validation set: {reason}")
        return
    if measured.test_set != entry.test_set or measured.examples != entry.test_examples:
        complaint = (f"test set: expected {entry.test_examples:,} images with digest {entry.test_set}, found "
                     f"{measured.examples:,} with {measured.test_set}")  # fmt: skip
        if datasets.get(entry.dataset).downloadable:
            raise WrongData(complaint)
        outcome.unavailable = complaint  # the user's pictures are others than the record's
        return
    recorded = evidence.read_predictions(entry.folder)
    problems, ties = _prediction_differences(recorded, measured)
    outcome.problems += problems
    if ties:
        outcome.notes.append(f"{len(ties)} predictions differ only where two logits are equal within rounding "
                             f"(relative {TOLERANCE:g}): {abridged(ties)}")  # fmt: skip
    if len(recorded) == measured.examples:
        claimed = int((recorded != measured.labels).sum())
        if claimed != entry.test_errors:
            outcome.problems.append(f"errors: the record says {entry.test_errors:,}, its {PREDICTIONS} makes {claimed:,}")
    if measured.errors != entry.test_errors:
        recorded_rate, rate = _rate(entry.test_errors, entry.test_examples), _rate(measured.errors, measured.examples)
        text = f"errors: expected {recorded_rate}, found {rate}"
        (outcome.notes if ties and not problems else outcome.problems).append(text)


def _prediction_differences(expected: np.ndarray, measured: Measurement) -> tuple[list[str], list[str]]:
    """(complaints, images that flipped between two logits that are equal within rounding)"""
    if len(expected) != measured.examples:
        return [f"predictions: expected {len(expected):,}, found {measured.examples:,}"], []
    differ = expected != measured.predictions
    tie = differ & (expected == measured.runners_up) & (measured.gaps <= TOLERANCE)
    ties = [f"image {i}" for i in np.flatnonzero(tie)]
    others = [f"image {i}: expected {expected[i]}, found {measured.predictions[i]}" for i in np.flatnonzero(differ & ~tie)]
    problems = [f"predictions: {len(others):,} of {len(expected):,} differ: {abridged(others)}"] if others else []
    return problems, ties


def _check_samples(entry: Entry, outcome: Outcome, blob: bytes, root, usual: dict) -> None:
    """The samples whose pictures lie below `root`: at least one, or the outcome says which pictures are missing."""
    missing = []
    for recorded in entry.samples:
        sample = evidence.read_sample(entry.folder / recorded.file)
        try:
            images = sample.images(root)
        except DataUnavailable as error:
            missing.append(f"sample {recorded.key}: {error}")
        else:
            _check_sample(recorded, sample, outcome, measurement.measure(blob, images, **usual))
    if len(missing) == len(entry.samples):
        outcome.unavailable = "\n".join(missing)


def _check_sample(recorded: SampleResult, sample: evidence.Sample, outcome: Outcome, derived: Measurement) -> None:
    if derived.test_set != recorded.digest:
        raise WrongData(f"sample {recorded.key}: expected images with digest {recorded.digest}, found {derived.test_set}")
    problems, ties = _prediction_differences(sample.predictions, derived)
    outcome.problems += [f"sample {recorded.key}, {text}" for text in problems]
    answers = replace(sample, predictions=derived.predictions)
    for name, value in answers.counts.items():
        if getattr(recorded, name) != value:
            text = f"sample {recorded.key}, {name}: expected {getattr(recorded, name)}, found {value}"
            (outcome.notes if ties and not problems else outcome.problems).append(text)
    wrong = f"{_rate(answers.errors, answers.labelled)}, " if answers.labelled else ""
    outcome.notes.append(f"sample {recorded.key} ({recorded.name}): {wrong}the answer of "
                         f"{recorded.reference} on {answers.agreement} of {len(sample.paths)}")  # fmt: skip


def _rate(errors: int, examples: int) -> str:
    return f"{errors:,} of {examples:,} wrong ({100 * errors / examples:.2f} %)"


def _in_checkout(entry: Entry) -> bool:
    """Whether the entry lies in the repository that has this code, where its recipe must lie, too."""
    return entry.folder.resolve().parent == (registry.PACKAGE.parent / "artifacts").resolve()


def _recipe_changes(entry: Entry, log: tuple[dict, int | None] | None) -> str:
    """What the recipe's file says otherwise than the first line of train.log, but for fields that decide nothing of a run."""
    path = registry.PACKAGE.parent / (entry.recipe or "")
    if not path.is_file():
        return ""
    content = files.read(path, evidence.LARGEST)
    if hashlib.sha256(content).hexdigest() == entry.recipe_sha256:
        return ""
    if log is None:
        return f"it cannot be compared with {evidence.LOG}, which is missing"
    try:
        present = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return f"it cannot be compared with {evidence.LOG} ({error})"
    trained, _ = log
    missing = object()

    def changes(present: Mapping, trained: Mapping, prefix: str = "") -> Iterator[str]:
        for key, value in present.items():
            before = trained.get(key, missing)
            if isinstance(value, dict) and isinstance(before, dict):
                yield from changes(value, before, f"{prefix}{key}.")
            elif value != before and f"{value}".partition("@")[0] != before:  # a warm start may have gained its digest
                yield f"{prefix}{key} is {value!r}" + ("" if before is missing else f", was {before!r}")

    return "; ".join(changes({k: v for k, v in present.items() if k not in IDLE}, trained))


def _number(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
