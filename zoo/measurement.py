"""From a file to its numbers: digests, golden outputs, predictions and errors.

    model.zoo ── decode ──> weights ── digest
                               └─ network ── golden input ──> golden logits
                                     └─ test set ──> predictions, errors

`measure` is the only path from a file to an error rate: records are written from it and verified with it. Verification
asks it to be quick: the network answers without its dead channels, and where its two best classes are close to each other
the whole network is asked, too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
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

CLOSE = 1e-3  # of an image's largest logit: where its two best are closer, a quick answer is not trusted
AGREE = 1e-5  # of the largest logit: how far a quick network's golden outputs may be from those of the whole one
QUICK_BATCH = 50  # images: activations then stay in the cache
QUICK_BATCHES = {"resnet20-4": 16}  # of networks with large ones


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
    multiplications: int | None = None  # that a quick measurement makes for one image
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
    jobs: int = 1,
    quick: bool = False,
    progress: bool | Callable[[int], object] = True,
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
        jobs: batches at a time, each on one thread of torch if there are several.
        quick: answer without dead channels (`zoo.compact`), and with the whole network where the two best logits are
            closer than CLOSE; predictions are the same.
        progress: whether a bar is shown, or what is told of every batch how many images it had.

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
    golden_input = _input(transform, datasets.golden_input(dataset), device)
    with torch.inference_mode(), _full_precision():
        golden = network(golden_input).cpu().numpy()
    measured = Measurement(
        network=header.network,
        partitioning=header.partitioning,
        parameters=spec.parameters,
        size_bytes=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        weights_sha256=weights_digest(network.state_dict()),
        golden=golden,
    )
    forward = network
    if quick:
        forward, multiplications = _quick(header.network, network, golden_input, golden)
        measured = replace(measured, multiplications=multiplications)
    if images is None:
        return measured
    if isinstance(images, str):
        images = test_images(dataset)
    usual = datasets.get(dataset).batch
    if quick:
        usual = min(usual, QUICK_BATCHES.get(spec.base, QUICK_BATCH))
    inputs = _batches(images, transform, device, batch or usual)
    with _full_precision():
        return replace(measured, **_test(forward, inputs, images, jobs, progress))


def cost(network: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Multiplications that the network's convolutions and dense layers make for one of the inputs (B, C, H, W)."""
    import torch

    total = 0

    def count(layer, _, outputs) -> None:
        nonlocal total
        total += outputs[0].numel() * layer.weight[0].numel()

    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            network(inputs[:1])
    finally:
        for handle in handles:
            handle.remove()
    return total


def _quick(name: str, network: torch.nn.Module, golden_input: torch.Tensor, golden: np.ndarray) -> tuple[Callable, int]:
    """(logits by the network without dead channels and norms, and by the whole one where they are close; multiplications)"""
    import torch

    from zoo.compact import fold_norms, remove_dead

    compact = copy.deepcopy(network)
    remove_dead(name, compact)
    folded = copy.deepcopy(compact)
    fold_norms(folded)
    for small in (folded, compact):
        small.to(memory_format=torch.channels_last)
        with torch.inference_mode(), _full_precision():
            answers = small(golden_input.contiguous(memory_format=torch.channels_last)).cpu().numpy()
        if np.abs(answers - golden).max() <= AGREE * np.abs(golden).max():  # NaN does not agree
            break
    else:
        return network, cost(network, golden_input)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        logits = small(inputs.contiguous(memory_format=torch.channels_last))  # (B, classes)
        _, _, gaps = _two_best(logits)
        close = ~(gaps >= CLOSE)
        if close.any():
            logits[close] = network(inputs[close])
        return logits

    return forward, cost(small, golden_input)


def _two_best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B,) each: the best class, the second best, and the distance of their logits, relative to the largest |logit|."""
    import torch

    values, indices = logits.topk(2, dim=1)
    largest = logits.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    return indices[:, 0], indices[:, 1], (values[:, 0] - values[:, 1]) / largest


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
        alternatives = f"data sets {', '.join(datasets.DATASETS)}; preprocessings {', '.join(datasets.PREPROCESSINGS)}"
        raise ZooError(f"data set {dataset!r} with preprocessing {name!r} is not known; there are {alternatives}")
    return datasets.PREPROCESSINGS[name]


def _test(forward, inputs: Iterator[torch.Tensor], images, jobs: int, progress: bool | Callable[[int], object]) -> dict:
    """One pass over the images, in order."""
    labels = np.asarray(images.labels)
    classes = runners_up = gaps = None
    at = 0
    with contextlib.ExitStack() as stack:
        report = progress if callable(progress) else stack.enter_context(_bar(len(images), progress)).update
        for logits in _in_turn(forward, inputs, jobs):  # (B, C)
            if classes is None:
                if logits.shape[1] <= labels.max():
                    raise WrongData(f"the images have {int(labels.max()) + 1} classes, the network {logits.shape[1]}")
                kind = np.uint8 if logits.shape[1] <= 256 else np.uint16
                classes, runners_up = np.empty(len(labels), kind), np.empty(len(labels), kind)
                gaps = np.empty(len(labels), np.float32)
            rows = slice(at, at + len(logits))
            classes[rows], runners_up[rows], gaps[rows] = (numbers.cpu().numpy() for numbers in _two_best(logits))
            at += len(logits)
            report(len(logits))
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


def _bar(total: int, shown: bool):
    from tqdm import tqdm

    quiet = None if shown else True  # None: no bar where stderr is no terminal
    return tqdm(total=total, unit=" images", desc="test set", leave=False, mininterval=0.5, disable=quiet)


def _in_turn(forward, inputs: Iterator[torch.Tensor], jobs: int) -> Iterator[torch.Tensor]:
    """What `forward` makes of each batch, in order; `jobs` of them at a time, on one thread each if there are several."""
    import torch

    def run(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():  # a thread's own
            return forward(batch)

    if jobs == 1:
        yield from map(run, inputs)
        return
    threads = torch.get_num_threads()
    waiting: deque = deque()
    try:
        with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for batch in inputs:
                waiting.append(pool.submit(run, batch))
                if len(waiting) > jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


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
