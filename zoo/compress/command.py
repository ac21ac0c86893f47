"""`zoo compress`: a checkpoint in, a small model file out, and what that did to its answers.

    checkpoint --names, shapes, finite--> weights --plain.within--> file          always
         pictures, or synthetic ones --second order--> file        with pictures: network.py for this zoo's, modules.py for others
                     pictures --answers before and after--> the better file, errors or agreement
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from zoo import (
    codec,
    datasets,
    loading,
    mismatch,
    named,
    networks,
    partitionings,
    preprocessing,
    saving,
    states,
)
from zoo.compress import bn, checkpoints, plain, reference, synthesis
from zoo.compress.calibration import logits
from zoo.datasets.pictures import read
from zoo.errors import LayoutMismatch, ZooError
from zoo.files import write
from zoo.measurement import weights_digest
from zoo.preprocessing import Preprocessing
from zoo.states import Quantised

PICTURES = 400  # at most, unless asked for
BATCH = 50
LOST = 0.01  # of the pictures: more new errors than that are a warning
FINE = 5.0  # bits a number: above, plain rounding is as good as exact, and second-order rounding is not tried
HALVINGS = 7  # of the range of steps, for a bound of the error


@dataclass(frozen=True)
class Pictures:
    """Calibration pictures as the network sees them: uint8 (N, H, W[, C]), and their classes (N,) where they are known."""

    pixels: np.ndarray
    labels: np.ndarray | None
    spec: Preprocessing

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: slice | list[int]) -> torch.Tensor:
        """Input of the network, float32 (N, C, H, W)."""
        return preprocessing.preprocess(self.spec)(self.pixels[chosen])

    def answers(self, network: nn.Module) -> np.ndarray:
        """int64 (N,): the class of the largest output."""
        out = []
        with torch.inference_mode():
            for begin in tqdm(range(0, len(self), BATCH), desc="answers", disable=None, leave=False):
                out.append(logits(network(self[begin : begin + BATCH])).argmax(1))
        return torch.cat(out).numpy()


def main(args: argparse.Namespace) -> int:
    """Runs the command; raises `ZooError` for whatever the user can mend."""
    try:
        return _run(args)
    except (ValueError, TypeError) as error:
        raise ZooError(str(error)) from error


def _run(args: argparse.Namespace) -> int:
    goal = _goal(args)
    checkpoint, name = checkpoints.find(args.checkpoint, args.key)
    name = args.network or name
    for note in checkpoint.notes:
        print(f"{args.checkpoint}: {note}")
    state = states.check(complete(checkpoint.state, name) if name else checkpoint.state)
    plain.refuse(state)
    count = states.numbers(state)
    print(f"{name or 'a network without a name'}: {len(state)} tensors, {count:,} numbers, {_memory(state):,} bytes uncompressed")
    if not name:
        hint = mismatch.nearest({tensor: tuple(t.shape) for tensor, t in state.items()})
        print("zoo.load(file, into=module) will need the module" + (f". {hint}: --network would name it" if hint else ""))
    spec = _preprocessing(args, name)
    pictures = read_pictures(args.pictures, spec, args.images) if args.pictures else None
    if pictures is not None and not name:
        raise ZooError("pictures need a network to look at them: --network NAME")
    facts = {"network": name, "picture": saving.picture(spec), "classes": _classes(args)}
    before = pictures.answers(named.module(name, state)) if pictures is not None else None
    if goal[0] == "error":
        blob = _within_error(state, goal[1], pictures, before, name, facts)
    else:
        bound = plain.bound(state, *goal)
        blob = plain.within(state, bound, print, **facts)
        if 8 * bound / count <= FINE and len(blob) > plain.FULL * bound:
            seen = pictures if pictures is not None else _synthetic(args, state, name, spec)
            if seen is not None:
                second = _second_order(args, state, name, bound, seen, facts)
                blob = _better(blob, second, seen, before if seen is pictures else seen.answers(named.module(name, state)))
    write(args.out, blob)
    ratio = _memory(state) / len(blob)
    print(f"{args.out}: {len(blob):,} bytes, 1/{ratio:,.1f} of the weights, {8 * len(blob) / count:.2f} bits a number")
    _report(blob, state, pictures, before)
    return 0


# ---------------------------------------------------------------------------------------------- what is asked for


def _goal(args: argparse.Namespace) -> tuple:
    """("error", share) or what `plain.bound` takes."""
    if args.error is None:
        return args.bytes, args.bits
    text = args.error.strip()
    try:
        share = float(text.removeprefix("+").removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not text.endswith("%") or not 0 <= share < 1:
        raise ZooError(f"--error {args.error}: write how much the error may rise, as +1%")
    if not args.pictures:
        raise ZooError("--error needs pictures on which to measure it: --pictures FOLDER")
    return "error", share


def complete(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict in the named network's order, with the counters of batch normalisation that old files lack.

    Raises `UnknownName`, and `LayoutMismatch` with what is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        expected = named.build(name).state_dict()
    state = dict(state)
    for tensor, meta in expected.items():
        if tensor.endswith("num_batches_tracked") and not meta.dim():
            state.setdefault(tensor, torch.zeros((), dtype=torch.int64))
    state = _under_a_prefix(state, expected)
    present, required = ({n: tuple(t.shape) for n, t in tensors.items()} for tensors in (state, expected))
    problem = mismatch.explain(present, required, name)
    if problem:
        raise LayoutMismatch(problem)
    return {tensor: state[tensor] for tensor in expected}


def _under_a_prefix(state: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors below "model." or the like, where all of the network's are there, without it."""
    needed = [tensor for tensor in expected if not tensor.endswith("num_batches_tracked")]
    if not needed or needed[0] in state:
        return state
    for prefix in (tensor.removesuffix(needed[0]) for tensor in state if tensor.endswith(f".{needed[0]}")):
        if all(prefix + tensor in state for tensor in needed):
            below = {tensor.removeprefix(prefix): value for tensor, value in state.items() if tensor.startswith(prefix)}
            beside = [tensor for tensor in state if not tensor.startswith(prefix) and tensor not in expected]
            print(f"prefix {prefix!r} removed" + (f"; left out beside it: {', '.join(beside[:5])}" if beside else ""))
            return below
    return state


def _preprocessing(args: argparse.Namespace, name: str) -> Preprocessing | None:
    if args.preprocessing:
        return datasets.preprocessing(args.preprocessing)
    picture = named.picture(name) if name else None
    return None if picture is None else loading.from_picture(picture)


def _classes(args: argparse.Namespace) -> tuple[str, ...]:
    if args.classes is None:
        return ()
    return tuple(line.strip() for line in args.classes.read_text(encoding="utf-8").splitlines() if line.strip())


def read_pictures(folder: str, spec: Preprocessing | None, most: int) -> Pictures:
    """At most `most` pictures, evenly spaced: of class folders, of a folder without classes, or (by the name of a data set
    that can be downloaded) the last ones of its training set. Class folders that are not named by ImageNet's synsets stand
    for classes in their sorted order.
    """
    if spec is None:
        raise ZooError("it is not known what the network's pictures go through: --preprocessing NAME")
    if folder in datasets.DATASETS and datasets.get(folder).downloadable:
        images = datasets.load(folder, "train")
        return Pictures(np.asarray(images.pixels[-most:]), np.asarray(images.labels[-most:], np.int64), spec)
    top = Path(folder).expanduser()
    if not top.is_dir():
        raise ZooError(f"no folder {top}")
    paths, labels = sorted(p for p in top.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp")), None
    if not paths:
        images = datasets.image_folder(top, None)
        paths, labels = [images.root / path for path in images.paths], np.asarray(images.labels, np.int64)
    order = [i * len(paths) // min(most, len(paths)) for i in range(min(most, len(paths)))]
    pixels = []
    for i in tqdm(order, desc="pictures", disable=None):
        pixels.append(np.asarray(preprocessing.resize_and_crop(spec, read(paths[i]))))
    return Pictures(np.stack(pixels), None if labels is None else labels[order], spec)


# ---------------------------------------------------------------------------------------------- ways to a file


def _synthetic(args, state, name: str, spec: Preprocessing | None) -> Pictures | None:
    """Pictures that the network's batch normalisation tells of; None where it has none, or where nobody asks for them."""
    if not (args.synthetic and name and spec):
        return None
    network = named.module(name, state).float()
    if not bn.layers(network):
        print("no pictures are given, and none can be made without batch normalisation: plain rounding it is")
        return None
    key = weights_digest({n: t.float() for n, t in state.items() if t.is_floating_point()})
    print(f"no pictures are given: {args.synthetic} are made from batch normalisation (--synthetic 0 does without)")
    pixels, spec = synthesis.kept(_work(args), key, network, spec, args.synthetic, args.seed)
    return Pictures(pixels, None, spec)


def _work(args) -> Path:
    return args.work or datasets.cache_folder() / "compress"


def _second_order(args, state, name: str, bound: int, pictures: Pictures, facts: dict) -> bytes | None:
    """The file of second-order rounding within the bound; None, with the reason, where it finds none."""
    from zoo.compress import modules
    from zoo.compress.network import Job
    from zoo.compress.search import search

    source = Path(args.checkpoint).name
    floats = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    weights = reference.Reference(name, pictures.spec, floats, source, None, weights_digest(floats), "")
    folder = _work(args) / work_key(weights, pictures.pixels, args.seed)
    print(f"second-order rounding on {len(pictures.pixels)} pictures; work folder {folder}")
    try:
        if "/" in name:
            network = named.module(name, state).float().requires_grad_(False)
            return modules.compress(network, state, pictures, bound, folder, epochs=args.epochs, seed=args.seed, facts=facts)
        job = Job(weights, "dft", pictures.pixels, folder, args.seed)
        usual = not facts["classes"] and pictures.spec == datasets.preprocessing(networks.spec(name).dataset)
        room = bound if usual else bound - len(states.pack({n: torch.zeros_like(t) for n, t in state.items()}, **facts))
        blob = search(job, max(room, 1), folder / f"dft-{room}", args.epochs)
        return blob if usual else described(blob, facts)
    except (ValueError, IndexError) as error:
        print(f"second-order rounding found no file of {bound:,} bytes ({error}): plain rounding it is")
        return None


def described(blob: bytes, facts: dict) -> bytes:
    """A file of version 1 as one that describes itself, with the same integers and with these facts."""
    header, groups = codec.decode(blob, partitionings.layout)
    quantised = [Quantised(group.tensors, groups[group.name]) for group in partitionings.get(header.network).groups]
    return states.pack(states.check(loading.state_dict(blob)), quantised, **facts)


def work_key(weights: reference.Reference, pixels: np.ndarray, seed: int) -> str:
    """The name of the folder of intermediate results, from everything that decides them."""
    digest = hashlib.sha256(f"{weights.digest} {weights.preprocessing} {pixels.shape} {seed} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return f"{weights.network}-{digest.hexdigest()[:16]}".replace(":", "-").replace("/", "-")


def _better(first: bytes, second: bytes | None, pictures: Pictures, before: np.ndarray) -> bytes:
    """Of two files the one with fewer errors, or (without labels) fewer changed answers; the second if both have as many."""
    if second is None:
        return first
    errors = []
    for rounding, blob in (("plain", first), ("second-order", second)):
        answers = pictures.answers(loading.module(blob))
        count = int((answers != (before if pictures.labels is None else pictures.labels)).sum())
        print(f"{rounding} rounding: {len(blob):,} bytes, {count} of {len(answers)} {_error_name(pictures)}")
        errors.append(count)
    return first if errors[0] < errors[1] else second


def _within_error(state, share: float, pictures: Pictures, before: np.ndarray, name: str, facts: dict) -> bytes:
    """The smallest file found whose errors rise by no more than that share of the pictures."""
    targets = before if pictures.labels is None else pictures.labels
    allowed = int((before != targets).sum()) + math.floor(share * len(targets))
    best = states.pack(state, **facts)
    low, high = -6.0, 2.0  # steps of 1/64 and of 4 root mean squares
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        blob = plain.at_step(state, 2.0**middle, **facts)
        errors = int((pictures.answers(named.module(name, states.unpack(blob)[1])) != targets).sum())
        counts = f"{errors} of {len(targets)} {_error_name(pictures)}, {allowed} allowed"
        print(f"step {2.0**middle:.4g}: {len(blob):,} bytes, {counts}")
        if errors <= allowed:
            low, best = middle, min(best, blob, key=len)
        else:
            high = middle
    return best


# ---------------------------------------------------------------------------------------------- what it did


def _report(blob: bytes, state, pictures: Pictures | None, before: np.ndarray | None) -> None:
    if pictures is None:
        decoded = loading.state_dict(blob)
        squares = [(float((decoded[n].double() - t.double()).square().sum()), float(t.double().square().sum()))
                   for n, t in state.items() if t.is_floating_point() and t.dim() > 1 and t.isfinite().all()]  # fmt: skip
        error = math.sqrt(sum(e for e, _ in squares) / max(sum(s for _, s in squares), 1e-300))
        print(f"error of the weights: {100 * error:.2g} % of their root mean square; --pictures FOLDER measures the answers")
        return
    after = pictures.answers(loading.module(blob))
    count, agreeing = len(after), int((after == before).sum())
    print(f"agreement: {agreeing} of {count} pictures are answered as before ({100 * agreeing / count:.1f} %)")
    lost = count - agreeing
    if pictures.labels is not None:
        errors_before, errors_after = (int((answers != pictures.labels).sum()) for answers in (before, after))
        percent = 100 * errors_before / count, 100 * errors_after / count
        print(f"errors: {errors_before} of {count} before ({percent[0]:.2f} %), {errors_after} after ({percent[1]:.2f} %)")
        if errors_before > count / 2:
            print("warning: more than half were wrong before, too: is the preprocessing right, and the order of the classes?")
        lost = errors_after - errors_before
    if lost > max(LOST * count, 1):
        advice = "more bytes" if count >= PICTURES else f"more bytes, or more than {count} pictures to calibrate on"
        print(f"warning: {lost} of {count} answers are lost; {advice} may keep them")


def _error_name(pictures: Pictures) -> str:
    return "answered otherwise" if pictures.labels is None else "wrong"


def _memory(state) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in state.values()}.values())
