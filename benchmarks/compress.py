"""Compression without training: weights in, a model file of a given size out, by rate-aware second-order rounding.

    python -m benchmarks compress resnet50 --weights keras/resnet50 --basis dft --bytes 5.4MB --calibration DIR

    weights --fold BN--> scale, bias        calibration images --> H of each layer's input, importance s of its outputs
       |                                                              |            (zoo/compress/calibration.py)
       '--> steps --> latents T theta / step --rounding.minimise--> integers       (zoo/compress/layer.py)
                                                                      |
            BN re-estimated, then tuned towards the uncompressed network's answers --> integers --> model file (network.py)

Without --calibration the images are made from what batch normalisation remembers (zoo/compress/synthesis.py). The price of a
bit is sought at which the file has the size that was asked for. Everything slow is kept in the work folder (default
runs/compress/...): a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import evaluate, sample
from benchmarks.report import curve
from zoo import datasets, evidence, measurement, preprocessing, records, registry
from zoo.compress import reference, synthesis
from zoo.compress.command import work_key
from zoo.compress.network import Job
from zoo.compress.search import parse_bytes, search
from zoo.files import write

EPOCHS = 1.0
PICTURES = "images from the training split of ImageNet"
IMAGES = 300
KEPT_OUT = "kept-out"  # key of the sample of calibration pictures that were not used


def pictures(folder: str, name: str, most: int, keep_out: int | None) -> tuple[np.ndarray, datasets.ImageFolder | None]:
    """Calibration images as the network sees them, uint8 (N, H, W[, C]), and the pictures kept out of them.

    folder: pictures by class folder, of which the last of every `keep_out` is kept out; or the name of a data set for the
    last images of these training sets. At most `most` are used, evenly spaced.
    """
    if folder in datasets.DATASETS and datasets.get(folder).downloadable:
        return np.asarray(datasets.load(folder, "train").pixels[-most:]), None
    images, spec = datasets.image_folder(folder, None), datasets.PREPROCESSINGS[name]
    kept_out, order = None, list(range(len(images)))
    if keep_out:
        out = order[keep_out - 1 :: keep_out]
        kept_out = datasets.ImageFolder(images.root, [images.paths[i] for i in out], images.labels[out], images.class_names)
        order = [i for i in order if i % keep_out != keep_out - 1]
    count = min(most, len(order))
    order = [order[i * len(order) // count] for i in range(count)]
    bar = tqdm(order, desc="calibration images", disable=None)
    return np.stack([np.asarray(preprocessing.resize_and_crop(spec, images[i][0])) for i in bar]), kept_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help="a network of the zoo, e.g. resnet50 or resnet18:10")
    parser.add_argument("--weights", required=True, help=f"{', '.join(reference.SOURCES)}, or a .safetensors file")
    parser.add_argument("--basis", "--method", choices=("dft", "sq"), default="dft",  # --method: in logs of older entries
                        help="of the 3x3 kernels; sq has none (default: %(default)s)")  # fmt: skip
    parser.add_argument("--bytes", required=True, help="bound of the whole file, e.g. 5.4MB; it is met within 1 %%")
    parser.add_argument("--calibration", help="folder of pictures by class; or a data set to download; without it pictures are "
                        "made from batch normalisation (zoo/compress/synthesis.py)")  # fmt: skip
    parser.add_argument("--measure", help="folder of pictures by class to measure on, where there is no --calibration")
    names = datasets.PREPROCESSINGS
    parser.add_argument("--preprocessing", choices=names, help="of a .safetensors file (default: the network's)")
    parser.add_argument("--keep-out", type=int, metavar="N", help="leave every N-th picture, the last of N, for measuring")
    parser.add_argument("--pictures", default=PICTURES, help="what those kept out are, for the record (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of tuning BN (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    default = f"{IMAGES}, or {synthesis.COUNT} that are made"
    parser.add_argument("--images", type=int, help=f"calibration pictures at most (default: {default})")
    parser.add_argument("--out", type=Path, help="write an entry there, e.g. artifacts/resnet50-dft")
    parser.add_argument("--curve", type=Path, metavar="CSV", help="add the result to a table and its figure")
    parser.add_argument("--replace-unpublished", action="store_true", help="overwrite an entry that nobody has seen")
    parser.add_argument("--work", type=Path, help="folder of work folders, one for each set of inputs (default: runs/compress)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more pay only on an idle machine (default: 1)")


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    target, started = parse_bytes(args.bytes), time.perf_counter()
    weights = reference.load(args.weights, args.network, args.preprocessing)
    work = args.work or Path("runs") / "compress"
    images = args.images or (IMAGES if args.calibration else synthesis.COUNT)
    if args.calibration:
        pixels, kept_images = pictures(args.calibration, weights.preprocessing, images, args.keep_out)
        calibrated, kind = weights, "calibration images"
    else:
        spec = datasets.preprocessing(weights.preprocessing)
        pixels, spec = synthesis.kept(work, weights.digest, weights.build(), spec, images, args.seed)
        kept_images = datasets.image_folder(args.measure, None) if args.measure else None
        calibrated, kind = replace(weights, preprocessing=spec), "pictures made from batch normalisation"
    base = work / work_key(calibrated, pixels, args.seed)
    print(f"{weights.source}: {weights.license}\n{len(pixels)} {kind}; work folder {base}")
    job = Job(calibrated, args.basis, pixels, base, args.seed)
    folder = base / f"{args.basis}-{target}"
    blob = search(job, target, folder, args.epochs)
    write(folder / "model.zoo", blob)
    print(f"{folder / 'model.zoo'}: {len(blob):,} bytes, {time.perf_counter() - started:.0f} s")
    measured, kept_out = measure(blob, weights, kept_images)
    if kept_out is not None:
        errors = f"{kept_out.errors} errors, {kept_out.reference_errors} of its own"
        counts = f"{kept_out.agreement} of {len(kept_images)} answered as by {weights.source}, {errors}"
        print(f"kept-out images: {counts}")
    if args.curve and kept_out is not None:
        curve.add(args.curve, point(args.basis, blob, args.epochs, weights, kept_out))
    if args.out:
        options = f"--basis {args.basis} --bytes {args.bytes} --epochs {args.epochs:g} --images {images}"
        command = f"python -m benchmarks compress {args.network} --weights {args.weights} {options}"
        command += " --calibration DIR" if args.calibration else ""
        command += f" --seed {args.seed}"
        command += f" --keep-out {args.keep_out}" if args.keep_out else ""
        command += f" --preprocessing {args.preprocessing}" if args.preprocessing else ""
        quoted = f"{args.network}/epr-{args.basis}"
        publish(args.out, blob, weights, measured, kept_out, args.pictures, args.seed, command, quoted, args.replace_unpublished)
    return 0


def measure(blob: bytes, weights: reference.Reference, kept_images: datasets.ImageFolder | None):
    """What `zoo.measure` finds of a file, and the sample that compares it with the uncompressed network on pictures kept out."""
    dataset = datasets.of_preprocessing(weights.preprocessing).name
    measured = measurement.measure(blob, kept_images, dataset=dataset, preprocess=weights.preprocessing)
    if kept_images is None:
        return measured, None
    return measured, sample.compared(kept_images, measured.predictions, weights.build(), weights.preprocessing)


def point(basis: str, blob: bytes, epochs: float, weights: reference.Reference, kept_out: evidence.Sample) -> dict:
    """A row of the table of agreement against bytes."""
    return {
        "basis": basis,
        "bytes": len(blob),
        "images": len(kept_out.paths),
        "agreement": kept_out.agreement,
        "errors": kept_out.errors,
        "reference_errors": kept_out.reference_errors,
        "tuned_epochs": f"{epochs:g}",
        "weights": weights.source,
        "sha256": hashlib.sha256(blob).hexdigest(),
    }


def publish(
    out: Path, blob: bytes, weights: reference.Reference, measured, kept_out, pictures: str, seed: int, command: str, quoted: str,
    replace_unpublished: bool,
) -> None:
    """Writes the entry's folder `out` with its record; the official test set stays unmeasured (`zoo verify ID --data PATH`).

    pictures: what those kept out are; quoted: key of the published row that the entry stands beside, if there is one.
    """
    answers = replace(measured, test_set=None, examples=None, errors=None, predictions=None)
    facts, extra = {}, {}
    if kept_out is not None:
        note = f"{pictures}, kept out of calibration; no validation error"
        result = kept_out.record(KEPT_OUT, f"{len(kept_out.paths)} {pictures}", measured.test_set, weights.source, note)
        facts["samples"] = [result]
        extra[records.SampleResult(**result).file] = kept_out.to_bytes()
    evaluate.write_entry(
        out.name, blob, answers, out.parent, method="obs",
        dataset=datasets.of_preprocessing(weights.preprocessing).name, preprocessing=weights.preprocessing,
        log=(command + "\n").encode(), extra=extra, replace=replace_unpublished, license=weights.license,
        weights_source=weights.record(), selection="one run of the command in train.log",
        quoted=quoted if quoted in registry.quoted() else None,
        recipe=None, seed=seed, **facts,
    )  # fmt: skip
