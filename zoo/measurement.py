"""From a file to its numbers: digests, golden outputs, predictions and errors.

    model.zoo ── decode ──> weights ── digest
                               └─ network ── golden input ──> golden logits
                                     └─ test set ──> predictions, errors

`measure` is the only path from a file to an error rate: records are written from it and verified with it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import zoo
from zoo import codec, datasets, networks, preprocessing, registry
from zoo.errors import WrongData, ZooError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was derived from the bytes of one model file. N test images, C classes; None where nothing was tested."""

    network: str
    partitioning: str
    parameters: int  # of the uncompressed network
    size_bytes: int
    sha256: str
    weights_sha256: str
    golden: np.ndarray  # float32 (4, C): logits of zoo.datasets.golden_input
    test_set: str | None = None  # digest of the images and labels
    examples: int | None = None  # N
    errors: int | None = None
    predictions: np.ndarray | None = None  # (N,) uint8 or uint16: class with the largest logit
    runners_up: np.ndarray | None = None  # (N,) the class with the second largest
    gaps: np.ndarray | None = None  # float32 (N,): distance of these two, relative to the image's largest |logit|
    labels: np.ndarray | None = field(default=None, repr=False)  # (N,)


def measure(
    source: bytes | str | os.PathLike,
    images: datasets.Images | datasets.ImageFolder | str | None = "test",
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
        if not isinstance(entry, Path):  # it has a record
            dataset = entry.dataset if dataset is None else dataset
            preprocess = entry.preprocessing if preprocess is None else preprocess
    header, network = codec.read_header(blob), zoo.from_bytes(blob).to(device)
    spec = networks.spec(header.network)
    dataset = spec.dataset if dataset is None else dataset
    transform = named_transform(dataset, dataset if preprocess is None else preprocess)
    with torch.inference_mode(), _full_precision():
        golden = network(_input(transform, datasets.golden_input(dataset), device)).cpu().numpy()
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
    batch = batch or datasets.get(dataset).batch
    return replace(found, **_test(network, images, transform, device, batch, progress))


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Identity of decoded weights: SHA-256 (hex) over the tensors of a state dict, in its order.

    Hashed are the line "zoo weights 1", then for each tensor a line "<name> <dtype> <shape as decimal numbers joined by
    x>" and its bytes, little-endian and in C order; every line in UTF-8 and ended by one newline.
    """
    import torch

    digest = hashlib.sha256(b"zoo weights 1\n")
    for name, tensor in state.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {'x'.join(map(str, tensor.shape))}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def test_images(dataset: str, root: str | os.PathLike | None = None) -> datasets.Images | datasets.ImageFolder:
    """`zoo.datasets.test_set`, kept for the next entry of the same data set."""
    return datasets.test_set(dataset, root)


def named_transform(dataset: str, name: str) -> preprocessing.Preprocessing:
    """The preprocessing of that name, for a data set that is known."""
    if name not in datasets.PREPROCESSINGS or dataset not in datasets.DATASETS:
        known = f"data sets {', '.join(datasets.DATASETS)}; preprocessings {', '.join(datasets.PREPROCESSINGS)}"
        raise ZooError(f"data set {dataset!r} with preprocessing {name!r} is not known; there are {known}")
    return datasets.PREPROCESSINGS[name]


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
    if isinstance(images, datasets.Images):
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
