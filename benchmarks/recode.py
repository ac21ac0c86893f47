"""Code the integers of entries again, as the encoder does today: the weights stay as they are bit for bit, the bytes change.

    python -m benchmarks recode resnet50-dft --model interleaved --replace-unpublished

Only for entries that nobody has seen: bytes under an id never change once they are published. What the record says of
the weights, errors and samples included, stays; `zoo verify` derives it again.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import zoo
from benchmarks import evaluate
from zoo import codec, files, loading, measurement, registry
from zoo.errors import VerificationFailed
from zoo.records import Entry

LARGE = 1 << 15  # numbers of a group from which on it takes the model that is asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="entries whose model files lie in artifacts/")
    parser.add_argument("--model", choices=sorted(codec.entropy.MODELS),
                        help=f"entropy model of groups of {LARGE:,} numbers or more (default: what each has)")  # fmt: skip
    parser.add_argument("--replace-unpublished", action="store_true", help="overwrite entries that nobody has seen")


def main(args: argparse.Namespace) -> int:
    for name in args.ids:
        before = registry.find(name)
        entry = recode(before, args.model, args.replace_unpublished)
        change = 100 * (entry.size_bytes / before.size_bytes - 1)
        print(f"{name}: {entry.size_bytes:,} bytes, {before.size_bytes:,} before ({change:+.2f} %); the weights are the same")
    print("next: zoo verify; python -m benchmarks leaderboard")
    return 0


def recode(entry: Entry, model: str | None = None, replace: bool = False) -> Entry:
    """The entry with its integers coded anew, after its folder was replaced whole.

    Raises FileExistsError unless `replace` (or the bytes stay), `VerificationFailed` where other weights come back.
    """
    header, groups = zoo.decode(registry.read(entry))
    for group in groups.values():
        if model is not None and group.phi.size >= LARGE:
            group.model = model
    blob = zoo.encode(header.network, header.partitioning, groups)
    if measurement.weights_digest(loading.state_dict(blob)) != entry.weights_sha256:
        raise VerificationFailed(f"{entry.id}: coded anew, the integers give other weights than the record's")
    evaluate.refuse_other_bytes(entry.folder, blob, replace)
    paper, counting = evaluate.paper_bytes(entry.method, blob)
    seeds = [s.model_dump() | ({"size_bytes": len(blob)} if s.seed == entry.seed else {}) for s in entry.seeds]
    changed = entry.changed(size_bytes=len(blob), sha256=hashlib.sha256(blob).hexdigest(), seeds=seeds,
                            paper_bytes=paper, paper_counting=counting)  # fmt: skip

    def fill(folder: Path) -> None:
        shutil.copytree(entry.folder, folder, dirs_exist_ok=True)
        files.write(folder / registry.MODEL, blob)
        registry.save(changed, folder)

    return evaluate.install(entry.folder, fill)
