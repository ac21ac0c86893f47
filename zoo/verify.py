"""From a file to its numbers, and from a record to its verdict.

    model.zoo ── decode ──> weights ── digest
                               └─ network ── golden input ──> golden logits
                                     └─ test set ──> predictions, errors           (`measure`)

    entry.json, golden.json, predictions.npy ── compared with all of that          (`verify`)

`measure` is the only path from a file to an error rate: records are written from it and verified with it. Of a record,
`verify` derives again: size_bytes, sha256, network, partitioning, parameters, weights_sha256; with the test set test_set,
test_examples, test_errors; with the sample of ImageNet the numbers in `sample`. recipe_sha256 and quoted are looked up.
All else is what the program that wrote the record said (paper_bytes, which a test counts again; seeds; versions).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import zoo
from zoo import codec, data, networks, partitionings, preprocessing, registry
from zoo.codec.bits import Reader
from zoo.errors import (
    ArtifactUnavailable,
    CorruptArtifact,
    DataUnavailable,
    VerificationFailed,
    WrongData,
    ZooError,
)
from zoo.registry import Entry

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4  # of the largest logit: what float32 sums in another order may change
IMAGENET_VAL = 50_000  # images of the official validation set, 50 of each class
SHOWN = 20  # images listed in a complaint
IDLE = ("seeds", "claim", "comment", "checkpoint_every")  # fields of a recipe that do not change what a run of one seed gives
BATCH = {"mnist": 1000, "cifar10": 250, "imagenet": 50}
GOLDEN, PREDICTIONS, SAMPLE = "golden.json", "predictions.npy", "sample.json"


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was derived from the bytes of one model file. N test images, C classes; None where nothing was tested."""

    network: str
    partitioning: str
    parameters: int  # of the uncompressed network
    size_bytes: int
    sha256: str
    weights_sha256: str
    golden: np.ndarray  # float32 (4, C): logits of zoo.data.golden_input
    test_set: str | None = None  # digest of the images and labels
    examples: int | None = None  # N
    errors: int | None = None
    predictions: np.ndarray | None = None  # (N,) uint8 or uint16: class with the largest logit
    runners_up: np.ndarray | None = None  # (N,) the class with the second largest
    gaps: np.ndarray | None = None  # float32 (N,): distance of these two, relative to the image's largest |logit|
    labels: np.ndarray | None = field(default=None, repr=False)  # (N,)


@dataclass
class Outcome:
    """The verdict on one entry. `problems` are differences from the record, `notes` are not."""

    id: str
    size_bytes: int | None = None
    errors: int | None = None
    examples: int | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unavailable: str | None = None  # why something could not be checked
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


# ---------------------------------------------------------------------------------------------- measuring


def measure(
    source: bytes | str | os.PathLike,
    images: data.Images | data.ImageFolder | str | None = "test",
    *,
    dataset: str | None = None,
    preprocess: str | None = None,
    device: str = "cpu",
    batch: int | None = None,
    progress: bool = True,
) -> Measurement:
    """Everything that can be derived from a model file: digests, golden outputs and, on `images`, the errors.

    Args:
        source: the file's bytes, or an id or path that `zoo.load` takes.
        images: "test" for the test set of the data set; images of your own; None to test nothing.
        dataset: if None, that of the entry; where the source has no record (bytes, a bare file), that of the network.
            With "test", ImageNet needs ZOO_DATA.
        preprocess: name for `zoo.preprocessing`; if None, that of the entry, without a record the data set's own.
        device: where the network runs, always in float32 and eval mode.
        batch: images at a time; changes nothing but speed.

    Raises `UnknownModel` for an id or path that is none, `CorruptArtifact` for a file that is none, `DataUnavailable` or
    `WrongData` for the test set, `ZooError` for a data set or preprocessing that is not known.
    """
    import torch

    if isinstance(source, bytes):
        blob = source
    else:
        entry = registry.locate(source)
        blob = registry.read(entry)
        if isinstance(entry, Entry):
            dataset = entry.dataset if dataset is None else dataset
            preprocess = entry.preprocessing if preprocess is None else preprocess
    header, network = codec.read_header(blob), zoo.from_bytes(blob).to(device)
    spec = networks.spec(header.network)
    dataset = spec.dataset if dataset is None else dataset
    transform = _transform(dataset, dataset if preprocess is None else preprocess)
    with torch.inference_mode(), _full_precision():
        golden = network(_input(transform, data.golden_input(dataset), device)).cpu().numpy()
    found = Measurement(
        network=header.network,
        partitioning=header.partitioning,
        parameters=spec.parameters,
        size_bytes=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        weights_sha256=weights_digest(network.state_dict()),
        golden=golden,
    )
    if images is None:
        return found
    if isinstance(images, str):
        images = test_images(dataset)
    batch = batch or BATCH[dataset]
    return replace(found, **_test(network, images, transform, device, batch, progress))


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Identity of decoded weights: SHA-256 (hex) over the tensors of a state dict, in its order.

    Hashed are the line "zoo weights 1", then for each tensor a line "<name> <dtype> <shape as decimal numbers joined by
    x>" and its bytes, little-endian and in C order; every line in ASCII and ended by one newline.
    """
    digest = hashlib.sha256(b"zoo weights 1\n")
    for name, tensor in state.items():
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {'x'.join(map(str, tensor.shape))}\n".encode("ascii"))
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def test_images(dataset: str, root: str | os.PathLike | None = None) -> data.Images | data.ImageFolder:
    """The whole test set; for ImageNet the validation images below `root` or ZOO_DATA."""
    return data.image_folder(root, "val") if dataset == "imagenet" else data.load(dataset, "test", root)


def _transform(dataset: str, name: str) -> preprocessing.Preprocessing:
    """The preprocessing of that name, for a data set that is known."""
    if name not in preprocessing.SPECS or dataset not in BATCH:
        known = f"data sets {', '.join(BATCH)}; preprocessings {', '.join(preprocessing.SPECS)}"
        raise ZooError(f"data set {dataset!r} with preprocessing {name!r} is not known; there are {known}")
    return preprocessing.SPECS[name]


def _test(network, images, transform, device: str, batch: int, progress: bool) -> dict:
    """One pass over the images, in order."""
    import torch
    from tqdm import tqdm

    labels = np.asarray(images.labels)
    classes = runners_up = gaps = None
    at = 0
    quiet = None if progress else True  # None: no bar where stderr is no terminal
    bar = tqdm(total=len(images), unit=" images", desc="test set", leave=False, mininterval=0.5, disable=quiet)
    with torch.inference_mode(), _full_precision(), bar:
        for inputs in _batches(images, transform, device, batch):
            logits = network(inputs)  # (B, C)
            if classes is None:
                if logits.shape[1] <= labels.max():
                    raise WrongData(f"the images have {int(labels.max()) + 1} classes, the network {logits.shape[1]}")
                kind = np.uint8 if logits.shape[1] <= 256 else np.uint16
                classes, runners_up = np.empty(len(labels), kind), np.empty(len(labels), kind)
                gaps = np.empty(len(labels), np.float32)
            values, indices = logits.topk(2, dim=1)
            largest = logits.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
            here = slice(at, at + len(logits))
            classes[here], runners_up[here] = indices.cpu().numpy().T
            gaps[here] = ((values[:, 0] - values[:, 1]) / largest).cpu().numpy()
            at += len(logits)
            bar.update(len(logits))
    if at != len(labels):
        raise WrongData(f"{at} images for {len(labels)} labels")
    digest = images.digest if isinstance(images.digest, str) else images.digest()
    return {
        "test_set": digest,
        "examples": len(labels),
        "errors": int((classes != labels).sum()),
        "predictions": classes,
        "runners_up": runners_up,
        "gaps": gaps,
        "labels": labels,
    }


def _batches(images, transform, device: str, batch: int) -> Iterator[torch.Tensor]:
    """Network input (B, C, H, W), the next batch being decoded while this one is used."""
    starts = range(0, len(images), batch)
    if isinstance(images, data.Images):
        for start in starts:
            yield _input(transform, images.pixels[start : start + batch], device)
        return

    def load(index: int) -> np.ndarray:
        return np.asarray(preprocessing.resize_and_crop(transform, images[index][0]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead = None
        for start in [*starts, None]:
            jobs = [pool.submit(load, i) for i in range(start, min(start + batch, len(images)))] if start is not None else []
            if ahead is not None:
                yield _input(transform, np.stack([job.result() for job in ahead]), device)
            ahead = jobs


def _input(transform, pixels: np.ndarray, device: str) -> torch.Tensor:
    """uint8 pixels, of the network's size or to be resized as pictures are, -> its input."""
    from PIL import Image

    if pixels.shape[1:3] != (transform.size, transform.size):
        pixels = [Image.fromarray(image) for image in pixels]
    return preprocessing.preprocess(transform)(pixels).to(device)


class _full_precision:
    """No TF32 on GPUs while measuring: eleven bits of mantissa change predictions."""

    def __enter__(self) -> None:
        import torch

        self.before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *_) -> None:
        import torch

        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self.before


# ------------------------------------------------------------------------------------- files beside the record


def write_golden(folder: Path, logits: np.ndarray) -> Path:
    """golden.json: the logits of `zoo.data.golden_input`, float32 (4, C), in the fewest digits that give them back."""
    rows = [[float(np.format_float_positional(x, unique=True)) for x in row] for row in np.asarray(logits, np.float32)]
    text = ",\n  ".join(json.dumps(row) for row in rows)
    return registry.write(Path(folder) / GOLDEN, f'{{"logits": [\n  {text}\n]}}\n'.encode())


def read_golden(folder: Path) -> np.ndarray:
    """float32 (4, C). Raises `CorruptArtifact`."""
    path = Path(folder) / GOLDEN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        logits = np.array(content["logits"] if isinstance(content, dict) else content, np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if logits.ndim != 2:
        raise CorruptArtifact(f"{path} holds no table of logits, but an array of shape {logits.shape}")
    return logits


def write_predictions(folder: Path, predictions: np.ndarray) -> Path:
    """predictions.npy: uint8 or uint16 (N,), the predicted class of every test image in the official order."""
    out = io.BytesIO()
    np.save(out, predictions, allow_pickle=False)
    return registry.write(Path(folder) / PREDICTIONS, out.getvalue())


def read_predictions(folder: Path) -> np.ndarray:
    """(N,) integers. Raises `CorruptArtifact`."""
    path = Path(folder) / PREDICTIONS
    try:
        predictions = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if predictions.ndim != 1 or predictions.dtype.kind != "u":
        raise CorruptArtifact(f"{path} holds {predictions.dtype} of shape {predictions.shape}, expected classes (N,)")
    return predictions


@dataclass(frozen=True, eq=False)
class Sample:
    """sample.json: images of a sample, and what the entry and its uncompressed reference answered.

    paths are relative to the sample's folder; the arrays are integers (N,).
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    reference: np.ndarray

    @property
    def errors(self) -> int:
        return int((self.predictions != self.labels).sum())

    @property
    def agreement(self) -> int:
        """Images on which the entry answers as its reference does."""
        return int((self.predictions == self.reference).sum())

    def images(self, root: str | os.PathLike) -> data.ImageFolder:
        """These images below `root`, which may hold more. Raises `DataUnavailable` naming what is missing."""
        root = Path(root).expanduser()
        missing = [path for path in self.paths if not (root / path).is_file()]
        if missing:
            raise DataUnavailable(f"{root} has {len(self.paths) - len(missing)} of the {len(self.paths)} images of the sample; "
                                  f"missing: {_some(missing)}")  # fmt: skip
        return data.ImageFolder(root, list(self.paths), self.labels, data.classes("imagenet"))

    def record(self, name: str, digest: str, reference: str, note: str) -> dict:
        """The field `sample` of a record. digest: `test_set` of the measurement; reference: whose answers are agreed with."""
        counts = {"examples": len(self.paths), "errors": self.errors, "agreement": self.agreement}
        return {"name": name, "digest": digest} | counts | {"reference": reference, "note": note}

    def to_bytes(self) -> bytes:
        """The content of sample.json, one line an image: path, class, the entry's answer, the reference's answer."""
        columns = zip(self.paths, self.labels, self.predictions, self.reference, strict=True)
        rows = ",\n  ".join(json.dumps([path, *map(int, rest)]) for path, *rest in columns)
        return f'{{"columns": ["path", "label", "prediction", "reference"],\n "images": [\n  {rows}\n]}}\n'.encode()


def read_sample(folder: Path) -> Sample:
    """sample.json of an entry. Raises `CorruptArtifact`."""
    path = Path(folder) / SAMPLE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["images"]
        paths, *numbers = zip(*rows, strict=True)
        labels, predictions, reference = (np.array(column, np.int64) for column in numbers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if any(not isinstance(p, str) or Path(p).is_absolute() or ".." in Path(p).parts for p in paths):
        raise CorruptArtifact(f"{path} names a file outside the sample's folder")
    return Sample(paths, labels, predictions, reference)


# ---------------------------------------------------------------------------------------------- verifying


def verify(
    names: Iterable[str] = (),
    *,
    bytes_only: bool = False,
    data_root: str | os.PathLike | None = None,
    sample_root: str | os.PathLike | None = None,
    write: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[Outcome]:
    """Derives bytes, digests, outputs and errors of these entries (all of them if none is named) again, one outcome each.

    Offline: length, SHA-256, names, parameters, weights digest, golden outputs. Unless `bytes_only`, also the predictions and
    errors on the whole test set. ImageNet entries are tested where `data_root` names an ImageFolder; with `write`, errors
    on the official validation set that the record lacks are written into it. `sample_root` is the folder of the sample
    of ImageNet that a record speaks of.

    Raises `UnknownModel` for a name, before anything is measured; a record that cannot be read is a problem of its outcome.
    """
    names = list(names) or registry.ids()
    known = {name: _find(name) for name in names}
    import torch  # noqa: F401  not to be counted in the first entry's seconds

    for entry in known.values():
        if isinstance(entry, Outcome):
            yield entry
            continue
        yield check(entry, bytes_only=bytes_only, data_root=data_root, sample_root=sample_root, write=write,
                    device=device, progress=progress)  # fmt: skip


def _find(name: str) -> Entry | Outcome:
    """The entry, or the verdict on a record that cannot be read."""
    try:
        return registry.find(name)
    except CorruptArtifact as error:
        return Outcome(name, problems=[str(error)])


def check(
    entry: Entry,
    *,
    bytes_only: bool = False,
    data_root: str | os.PathLike | None = None,
    sample_root: str | os.PathLike | None = None,
    write: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Outcome:
    """The verdict on one entry; see `verify`."""
    outcome, began = Outcome(entry.id), time.perf_counter()
    try:
        _check(entry, outcome, bytes_only, data_root, sample_root, write, {"device": device, "progress": progress})
    except ArtifactUnavailable as error:
        if entry.hub is None:
            outcome.problems.append(str(error))
        else:
            outcome.unavailable = str(error)
    except (ZooError, OSError) as error:  # OSError: a file that is there and cannot be read
        outcome.problems.append(str(error))
    outcome.seconds = time.perf_counter() - began
    return outcome


def _check(entry: Entry, outcome: Outcome, bytes_only: bool, data_root, sample_root, write: bool, options: dict) -> None:
    blob = registry.model_file(entry).read_bytes()
    outcome.size_bytes = len(blob)
    complaint = registry.differs(entry, blob)
    if complaint:
        outcome.problems.append(_damaged(entry, blob, complaint))
        return
    usual = {"dataset": entry.dataset, "preprocess": entry.preprocessing} | options
    _transform(entry.dataset, entry.preprocessing)  # unknown names: an error before images are looked for
    images = None if bytes_only else _images(entry, outcome, data_root)
    found = measure(blob, images, **usual)
    for name in ("network", "partitioning", "parameters", "weights_sha256"):
        expected, derived = getattr(entry, name), getattr(found, name)
        if expected != derived:
            outcome.problems.append(f"{name}: expected {_number(expected)}, found {_number(derived)}")
    outcome.problems += _golden_differences(read_golden(entry.folder), found.golden)
    if changes := _recipe_changes(entry):
        outcome.notes.append(f"{entry.recipe} has been edited since: {changes}; train.log begins with the recipe as it was run")
    if entry.quoted is not None and entry.quoted not in registry.quoted():
        outcome.problems.append(f"quoted: {entry.quoted!r} is no key of the quoted results")
    if images is not None:
        _check_errors(entry, outcome, found, write)
    if sample_root is not None and not bytes_only and entry.sample is not None:
        try:
            _check_sample(entry, outcome, blob, sample_root, usual)
        except DataUnavailable as error:
            outcome.unavailable = str(error)


def _images(entry: Entry, outcome: Outcome, data_root):
    """What the entry is tested on; None if nothing is at hand."""
    try:
        if entry.dataset != "imagenet":
            return test_images(entry.dataset)
        if data_root is not None:
            return test_images("imagenet", os.fspath(data_root))
    except DataUnavailable as error:
        outcome.unavailable = f"{error}\nzoo verify --bytes-only checks everything but the errors, without any data"
        return None
    known = "not yet measured"
    if entry.test_errors is not None:
        known = f"not derived again (recorded: {_rate(entry.test_errors, entry.test_examples)})"
    outcome.notes.append(f"error on ImageNet-val {known}; --data PATH measures it")
    return None


def _damaged(entry: Entry, blob: bytes, complaint: str) -> str:
    """What is wrong with the bytes."""
    text = f"{registry.MODEL}: {complaint}"
    try:
        codec.decode(blob, partitionings.layout)
        return f"{text}; it is a whole model file, but another one"
    except CorruptArtifact as error:
        return f"{text}; {error}"


def sections(blob: bytes, parts: Sequence[codec.Part] | None = None) -> list[tuple[str, int, int]]:
    """(what, first byte, end) of the parts of a model file, in order and without gaps; parts: its `codec.anatomy`."""
    if parts is None:
        _, parts = codec.anatomy(blob, partitionings.layout)
    reader = Reader(blob)
    for step in (lambda: reader.raw(9), reader.varint, reader.text, reader.text, reader.varint, reader.varint):
        step()  # magic and version, length, network, partitioning, parameters, groups: FORMAT.md, section 1
    start = reader.position
    found = [("the header", 0, start)]
    for part in parts:
        for what, length in (("the decoder parameters", part.psi_bytes), ("the tables", part.table_bytes)):
            found.append((f"{what} of group {part.group}", start, start + length))
            start += length
    return [*found, ("the stream of symbols", start, len(blob) - 4), ("the checksum", len(blob) - 4, len(blob))]


def _golden_differences(expected: np.ndarray, found: np.ndarray) -> list[str]:
    if expected.shape != found.shape:
        return [f"golden outputs: expected shape {expected.shape}, found {found.shape}"]
    allowed = TOLERANCE * float(np.abs(expected).max())
    distance = np.abs(expected.astype(np.float64) - found)
    wrong = ~(distance <= allowed)  # NaN is wrong
    if not wrong.any():
        return []
    image, k = np.unravel_index(np.where(np.isnan(distance), np.inf, distance).argmax(), distance.shape)
    return [f"golden outputs: {int(wrong.sum())} of {wrong.size} logits differ by more than {allowed:.2g}; most at image "
            f"{image}, class {k}: expected {expected[image, k]:.6g}, found {found[image, k]:.6g}"]  # fmt: skip


def _check_errors(entry: Entry, outcome: Outcome, found: Measurement, write: bool) -> None:
    outcome.errors, outcome.examples = found.errors, found.examples
    if entry.test_errors is None:
        outcome.notes.append(f"{_rate(found.errors, found.examples)}, not in the record")
        if write:
            _record(entry, outcome, found)
        elif entry.dataset == "imagenet" and _is_official(found):
            outcome.notes.append("--write puts them there")
        elif entry.dataset == "imagenet":
            outcome.notes.append(f"not the official validation set, which has {IMAGENET_VAL:,} images")
        return
    if found.test_set != entry.test_set or found.examples != entry.test_examples:
        raise WrongData(f"test set: expected {entry.test_examples:,} images with digest {entry.test_set}, found "
                        f"{found.examples:,} with {found.test_set}")  # fmt: skip
    recorded = read_predictions(entry.folder)
    problems, ties = _prediction_differences(recorded, found)
    outcome.problems += problems
    if ties:
        outcome.notes.append(f"{len(ties)} predictions differ only where two logits are equal within rounding "
                             f"(relative {TOLERANCE:g}): {_some(ties)}")  # fmt: skip
    if len(recorded) == found.examples:
        claimed = int((recorded != found.labels).sum())
        if claimed != entry.test_errors:
            outcome.problems.append(f"errors: the record says {entry.test_errors:,}, its {PREDICTIONS} makes {claimed:,}")
    if found.errors != entry.test_errors:
        text = f"errors: expected {_rate(entry.test_errors, entry.test_examples)}, found {_rate(found.errors, found.examples)}"
        (outcome.notes if ties and not problems else outcome.problems).append(text)


def _prediction_differences(expected: np.ndarray, found: Measurement) -> tuple[list[str], list[str]]:
    """(complaints, images that flipped between two logits that are equal within rounding)"""
    if len(expected) != found.examples:
        return [f"predictions: expected {len(expected):,}, found {found.examples:,}"], []
    differ = expected != found.predictions
    tie = differ & (expected == found.runners_up) & (found.gaps <= TOLERANCE)
    ties = [f"image {i}" for i in np.flatnonzero(tie)]
    wrong = [f"image {i}: expected {expected[i]}, found {found.predictions[i]}" for i in np.flatnonzero(differ & ~tie)]
    problems = [f"predictions: {len(wrong):,} of {len(expected):,} differ: {_some(wrong)}"] if wrong else []
    return problems, ties


def _record(entry: Entry, outcome: Outcome, found: Measurement) -> None:
    """Writes errors on the official validation set into the record of an entry that has none yet."""
    if entry.dataset == "imagenet" and not _is_official(found):
        raise WrongData(
            f"not written: the official validation set has {IMAGENET_VAL:,} images, as many of each of 1,000 classes; "
            f"found {found.examples:,} images of {len(np.unique(found.labels)):,} classes"
        )
    if outcome.problems:
        outcome.notes.append("not written, because of the differences")
        return
    write_predictions(entry.folder, found.predictions)
    changed = replace(entry, test_set=found.test_set, test_errors=found.errors, test_examples=found.examples)
    outcome.notes.append(f"written to {registry.save(changed)}")


def _is_official(found: Measurement) -> bool:
    counts = np.bincount(found.labels, minlength=1000)
    return found.examples == IMAGENET_VAL and bool((counts == IMAGENET_VAL // 1000).all())


def _check_sample(entry: Entry, outcome: Outcome, blob: bytes, root, usual: dict) -> None:
    sample = read_sample(entry.folder)
    found = measure(blob, sample.images(root), **usual)
    recorded = entry.sample
    if found.test_set != recorded.get("digest"):
        raise WrongData(f"sample: expected images with digest {recorded.get('digest')}, found {found.test_set}")
    problems, ties = _prediction_differences(sample.predictions, found)
    outcome.problems += [f"sample {text}" for text in problems]
    now = replace(sample, predictions=found.predictions)
    for name, value in (("examples", len(sample.paths)), ("errors", now.errors), ("agreement", now.agreement)):
        if recorded.get(name) != value:
            text = f"sample {name}: expected {recorded.get(name)}, found {value}"
            (outcome.notes if ties and not problems else outcome.problems).append(text)
    outcome.notes.append(f"sample {recorded.get('name')}: {_rate(now.errors, len(sample.paths))}, the answer of "
                         f"{recorded.get('reference')} on {now.agreement} of {len(sample.paths)}")  # fmt: skip


def _rate(errors: int, examples: int) -> str:
    return f"{errors:,} of {examples:,} wrong ({100 * errors / examples:.2f} %)"


def _recipe_changes(entry: Entry) -> str:
    """What the recipe's file says otherwise than the first line of train.log, but for fields that decide nothing of a run."""
    recipe, log = registry.PACKAGE.parent / (entry.recipe or ""), entry.folder / "train.log"
    if not recipe.is_file() or hashlib.sha256(recipe.read_bytes()).hexdigest() == entry.recipe_sha256:
        return ""
    try:
        trained = json.loads(log.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("recipe "))
        present = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"it cannot be compared with train.log ({error})"
    missing = object()

    def changes(present: Mapping, trained: Mapping, prefix: str = "") -> Iterator[str]:
        for key, value in present.items():
            before = trained.get(key, missing)
            if isinstance(value, dict) and isinstance(before, dict):
                yield from changes(value, before, f"{prefix}{key}.")
            elif value != before:
                yield f"{prefix}{key} is {value!r}" + ("" if before is missing else f", was {before!r}")

    return "; ".join(changes({k: v for k, v in present.items() if k not in IDLE}, trained))


def _number(value) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _some(items: Sequence[str]) -> str:
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f", and {more:,} more" if more > 0 else "")
