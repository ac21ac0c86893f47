"""Measure what the seeds of a recipe gave, choose one without the test set, and write its entry.

    python -m benchmarks evaluate lenet300-100-sq

    runs/<id>/seed-*/{model.zoo, outcome.json, train.log} --choose by held-out errors--> the seed that ships
        --zoo.measure--> bytes, digests, golden outputs, test errors of every seed  -->  artifacts/<id>/

Model bytes under an id never change once they are published: an improvement is a new id. --replace-unpublished is for
entries that nobody has seen. Only ImageNet's test errors come into a record later: `python -m benchmarks measure`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import methods
from benchmarks.train import RUNS, folder, logged_recipe
from benchmarks.training import recipe as recipes
from benchmarks.training.recipe import Claim, Recipe
from benchmarks.training.versions import versions
from zoo import codec, datasets, evidence, files, measurement, records, registry
from zoo.measurement import Measurement
from zoo.records import Entry

ROOT = Path(__file__).parent.parent
ARTIFACTS = ROOT / "artifacts"
LICENSE = "Apache-2.0"  # of what is trained here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file, or the id of one in benchmarks/recipes/")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ARTIFACTS, help="folder of the entries (default: artifacts/)")
    parser.add_argument("--device", default="cpu", help="where the networks are measured (default: %(default)s)")
    parser.add_argument("--replace-unpublished", action="store_true", help="overwrite an entry that nobody has seen")


def main(args: argparse.Namespace) -> int:
    path = recipes.find(args.recipe)
    entry = evaluate(path, args.runs, args.out, args.device, args.replace_unpublished)
    for outcome in entry.seeds:
        mark = "ships" if outcome.seed == entry.seed else ""
        errors = "not tested" if outcome.test_errors is None else f"{outcome.test_errors:,} test errors"
        heldout = f"{outcome.heldout_errors} of {outcome.heldout_examples:,} held-out"
        print(f"seed {outcome.seed}: {outcome.size_bytes:,} bytes, {heldout}, {errors}  {mark}")
    error = "test set not measured" if entry.top1_error is None else f"{entry.top1_error:.2f} % error"
    print(f"{args.out / entry.id}: {entry.size_bytes:,} bytes, {entry.ratio:,.0f}x smaller, {error}")
    print(f"next: zoo verify {entry.id}; python -m benchmarks leaderboard")
    return 0


def evaluate(recipe_path: Path, runs: Path = RUNS, out: Path = ARTIFACTS, device: str = "cpu", replace: bool = False) -> Entry:
    """The entry of a recipe whose seeds have all been trained into `runs`; its folder is written whole or not at all.

    Raises ValueError where runs are missing or were made by another recipe, FileExistsError where the id is taken by
    other model bytes, and what `zoo.measure` raises.
    """
    recipe = recipes.read(recipe_path)
    candidates = outcomes(recipe, runs)
    chosen, selection = select(candidates, recipe.claim)
    blobs = {o["seed"]: (_run(runs, recipe, o["seed"]) / registry.MODEL).read_bytes() for o in candidates}
    ships = chosen["seed"]
    refuse_other_bytes(out / recipe.id, blobs[ships], replace)
    images = "test" if datasets.get(recipe.dataset).downloadable else None  # `measure` does those
    measuring = {"dataset": recipe.dataset, "preprocess": recipe.preprocess, "device": device}
    measured = {s: measurement.measure(blob, images, **measuring) for s, blob in blobs.items()}
    fields = ("seed", "size_bytes", "heldout_errors", "heldout_examples")
    seeds = [{k: o[k] for k in fields} | {"test_errors": measured[o["seed"]].errors} for o in candidates]
    return write_entry(
        recipe.id,
        blobs[ships],
        measured[ships],
        out,
        log=(_run(runs, recipe, ships) / "train.log").read_bytes(),
        replace=replace,
        method=recipe.method,
        dataset=recipe.dataset,
        preprocessing=recipe.preprocess,
        recipe=_in_repository(recipe_path),
        recipe_sha256=hashlib.sha256(Path(recipe_path).read_bytes()).hexdigest(),
        seed=ships,
        seeds=tuple(seeds),
        selection=selection,
        warm_start=recipe.warm_start or None,
        teacher=recipe.teacher or None,
        quoted=recipe.claim.quoted or None,
    )


def outcomes(recipe: Recipe, runs: Path) -> list[dict]:
    """The outcome of every seed of the recipe, in its order. Raises ValueError listing everything that is missing or foreign."""
    finished, problems = [], []
    for seed in recipe.seeds:
        run = _run(runs, recipe, seed)
        if not (run / "outcome.json").is_file() or not (run / registry.MODEL).is_file():
            problems.append(f"{run} is not finished: python -m benchmarks train {recipe.id} --seed {seed}")
            continue
        outcome = json.loads((run / "outcome.json").read_text())
        if recipes.deciding(logged_recipe(run)) != recipes.deciding(recipe):
            problems.append(f"{run} was made by another recipe than the present one: {_differences(logged_recipe(run), recipe)}")
        elif outcome["seed"] != seed or outcome["size_bytes"] != (run / registry.MODEL).stat().st_size:
            problems.append(f"{run}: outcome.json does not belong to the model.zoo beside it")
        finished.append(outcome)
    if problems:
        raise ValueError("\n  ".join([f"{recipe.id} cannot be evaluated:", *problems]))
    return finished


def select(candidates: Sequence[dict], claim: Claim) -> tuple[dict, str]:
    """The seed that ships and the rule in words: fewest held-out errors within the claimed bytes, then fewest bytes."""
    within = [o for o in candidates if claim.bytes is None or o["size_bytes"] <= claim.bytes]
    bound = "" if claim.bytes is None else f" among the seeds of at most {claim.bytes:,} bytes"
    if not within:
        within, bound = list(candidates), f" (no seed has at most {claim.bytes:,} bytes)"
    chosen = min(within, key=lambda o: (o["heldout_errors"], o["size_bytes"], o["seed"]))
    if len(candidates) == 1:
        return chosen, "the only seed; the test set had no part in any choice"
    examples = chosen["heldout_examples"]
    return chosen, (
        f"fewest errors on the last {examples:,} training images{bound}, then fewest bytes; every seed was measured once on "
        "the test set, which had no part in the choice"
    )


def write_entry(
    id: str,
    blob: bytes,
    measured: Measurement,
    out: Path = ARTIFACTS,
    *,
    method: str,
    dataset: str,
    preprocessing: str,
    log: bytes | None = None,
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
    license: str | None = LICENSE,
    **facts,
) -> Entry:
    """Writes OUT/<id>/ whole: model.zoo, entry.json, golden.json, predictions.npy where tested, train.log.

    found: what `zoo.measure` derived from `blob`; extra: further files by name; facts: the other fields of `Entry`.
    Raises FileExistsError where the id is taken by other model bytes, unless `replace`.
    """
    place = Path(out) / id
    _recover(place)
    refuse_other_bytes(place, blob, replace)
    if (measured.size_bytes, measured.sha256) != (len(blob), hashlib.sha256(blob).hexdigest()):
        raise ValueError(f"{id}: the measurement belongs to another file")
    facts.setdefault("paper_bytes", None)
    if facts["paper_bytes"] is None:
        facts["paper_bytes"], facts["paper_counting"] = paper_bytes(method, blob)
    record = {
        "schema": records.SCHEMA,
        "id": id,
        "network": measured.network,
        "method": method,
        "partitioning": measured.partitioning,
        "dataset": dataset,
        "preprocessing": preprocessing,
        "parameters": measured.parameters,
        "size_bytes": measured.size_bytes,
        "sha256": measured.sha256,
        "weights_sha256": measured.weights_sha256,
        "test_set": measured.test_set,
        "test_errors": measured.errors,
        "test_examples": measured.examples,
        "license": license,
        "versions": versions(),
    }
    entry = records.entry(record | facts)

    def fill(folder: Path) -> None:
        files.write(folder / registry.MODEL, blob)
        evidence.write_golden(folder, measured.golden)
        if measured.predictions is not None:
            evidence.write_predictions(folder, measured.predictions)
        if log is not None:
            files.write(folder / evidence.LOG, log)
        for name, content in (extra or {}).items():
            files.write(folder / name, content)
        registry.save(entry, folder)

    return install(place, fill)


def install(place: Path, fill: Callable[[Path], object]) -> Entry:
    """Puts the entry's folder that `fill` writes where `place` says, whole or not at all."""
    staging = place.parent / f".{place.name}.{os.getpid()}.part"
    new = staging / place.name
    try:
        fill(new)
        if not (place.exists() and files.exchange(new, place)):
            if place.exists():  # a system without exchange: two steps, which `_recover` completes
                os.replace(place, staging / BEFORE)
            os.replace(new, place)
    finally:
        if (staging / BEFORE).exists() and not place.exists():
            os.replace(staging / BEFORE, place)
        shutil.rmtree(staging, ignore_errors=True)
    return registry.load_record(place)


BEFORE = "before"  # the old folder of an entry, between the two steps of its replacement


def _recover(place: Path) -> None:
    """Puts back what a dead process had set aside of this entry, and removes what dead processes left."""
    for staging in files.leftovers(place.parent, f".{place.name}"):
        if (staging / BEFORE).exists() and not place.exists():
            os.replace(staging / BEFORE, place)
    files.clean(place.parent)


def refuse_other_bytes(place: Path, blob: bytes, replace: bool = False) -> None:
    """Raises FileExistsError where an entry's folder holds other model bytes than these."""
    model = place / registry.MODEL
    if not replace and model.exists() and model.read_bytes() != blob:
        raise FileExistsError(
            f"{place} already holds a model of {model.stat().st_size:,} bytes; bytes under an id never change after they are "
            f"published. Give the improvement an id of its own ({place.name}-v2), or --replace-unpublished"
        )


def paper_bytes(method: str, blob: bytes) -> tuple[int | None, str | None]:
    """Size of a file under the counting of its method's paper, and that counting in words; None where the paper has none."""
    groups = codec.read_header(blob).version == 1  # of our partitionings, which the countings speak of
    counted = methods.find(method).paper_bytes(blob) if groups and method in methods.names() else None
    return counted or (None, None)


def _run(runs: Path, recipe: Recipe, seed: int) -> Path:
    return folder(runs, recipe.id, seed)


def _in_repository(path: Path) -> str:
    try:
        return Path(path).resolve().relative_to(ROOT.resolve()).as_posix()
    except ValueError:
        return Path(path).name


def _differences(a: Recipe, b: Recipe) -> str:
    old, new = recipes.deciding(a), recipes.deciding(b)
    changes = []
    for key in new:
        if isinstance(new[key], dict) and isinstance(old[key], dict):
            changes += [(f"{key}.{k}", old[key].get(k), new[key].get(k)) for k in sorted({*old[key], *new[key]})]
        else:
            changes.append((key, old[key], new[key]))
    return "; ".join(f"{key} was {before!r}, is {after!r}" for key, before, after in changes if before != after)
