"""The commands of `python -m benchmarks`: help, runs, choice of a seed, records, comparison, sweep, speed."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from benchmarks import __main__ as commands
from benchmarks import compare, evaluate, speed, sweep, train
from benchmarks.report import curve, paired
from benchmarks.training import recipe as recipes
from zoo import codec, datasets, evidence, measurement, partitionings, registry
from zoo.codec import Coded
from zoo.errors import UnknownModel

SEEDS = (0, 1, 2)
MEASURE = measurement.measure


def random_file(network: str, seed: int, decoder: str = "scalar", span: int = 3) -> bytes:
    """A model file of random integers: a real network that knows nothing."""
    draw = np.random.default_rng(seed)
    groups = {}
    for group in partitionings.get(network).groups:
        phi = draw.integers(-span, span + 1, (group.size, 1)).astype(np.int32)
        groups[group.name] = Coded(decoder, "static", phi, {"scale": np.full((1, 1), 1 / 64, np.float32)})
    return zoo.encode(network, "paper", groups)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "lenet300-100-test.toml"
    path.write_text('id = "lenet300-100-test"\nnetwork = "lenet300-100"\nmethod = "epr"\nsteps = 3\nbatch = 16\n')
    return path


@pytest.fixture
def runs(tmp_path, recipe_file):
    """Finished runs of three seeds, as `train` leaves them. Seeds 1 and 2 tie on held-out errors, seed 2 is smaller."""
    recipe = recipes.read(recipe_file)
    for seed, span, errors in ((0, 1, 90), (1, 3, 80), (2, 2, 80)):
        folder = tmp_path / "runs" / recipe.id / f"seed-{seed}"
        folder.mkdir(parents=True)
        blob = random_file(recipe.network, seed, span=span)
        (folder / "model.zoo").write_bytes(blob)
        outcome = {"seed": seed, "size_bytes": len(blob), "heldout_errors": errors, "heldout_examples": 5000, "seconds": 1}
        (folder / "outcome.json").write_text(json.dumps(outcome))
        (folder / "train.log").write_text(f"recipe {recipes.to_json(recipe)}\nversions ...\n")
    return tmp_path / "runs"


# ---------------------------------------------------------------------------------------------- the commands


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        commands.main([name, "--help"])
    assert stop.value.code == 0
    assert f"python -m benchmarks {name} " in capsys.readouterr().out.replace("usage: python -m benchmarks", "usage:")


def test_overview_lists_every_command(capsys):
    assert commands.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in commands.COMMANDS)


def test_unknown_command_is_an_error_that_lists_the_known(capsys):
    assert commands.main(["tarin"]) == 2
    err = capsys.readouterr().err
    assert "'tarin'" in err and "train" in err


def test_a_complaint_is_one_line_and_status_one(capsys):
    assert commands.main(["train", "no-such-recipe"]) == 1
    err = capsys.readouterr().err
    assert "no-such-recipe" in err and "lenet300-100-sq" in err and "Traceback" not in err


# ---------------------------------------------------------------------------------------------------- recipes


def test_every_recipe_is_named_as_its_file_and_quotes_a_known_row():
    for path in recipes.FOLDER.glob("*.toml"):
        recipe = recipes.read(path)
        assert recipe.id == path.stem
        assert not recipe.claim.quoted or recipe.claim.quoted in registry.quoted()


def test_what_decides_a_run(recipe_file):
    recipe = recipes.read(recipe_file)
    changes = {"comment": "said later", "claim": {"bytes": 5000, "error_percent": 1.9}, "seeds": [7], "checkpoint_every": 5}
    told = recipes.from_dict(recipe.plain() | changes)
    assert recipes.deciding(told) == recipes.deciding(recipe)
    assert recipes.deciding(recipes.read(recipe_file, ("options.lambda=1e-5",))) != recipes.deciding(recipe)
    assert recipes.from_dict(json.loads(recipes.to_json(told))) == told


def test_unknown_keys_of_a_claim_are_refused(recipe_file):
    with pytest.raises(ValueError, match="claim.size"):
        recipes.read(recipe_file, ("claim.size=5",))


# ------------------------------------------------------------------------------------------------------- runs


def test_a_run_with_another_setting_has_a_folder_of_its_own(tmp_path):
    plain, other = train.folder(tmp_path, "x", 0), train.folder(tmp_path, "x", 0, ("options.lambda=1e-5",))
    assert plain != other and "options.lambda=1e-5" in str(other) and other.parent.parent == tmp_path


def test_a_finished_run_is_found_and_not_trained_again(runs, recipe_file, monkeypatch):
    recipe = recipes.read(recipe_file)
    monkeypatch.setattr("benchmarks.training.loop.run", lambda *_: pytest.fail("trained again"))
    outcome = train.train_one(recipe, 1, train.folder(runs, recipe.id, 1))
    assert outcome["heldout_errors"] == 80
    assert "80 of 5,000" in train.describe(recipe, outcome)


def test_threads_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(train.os, "cpu_count", lambda: 8)
    assert (train.default_threads("mnist"), train.default_threads("cifar10")) == (1, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert train.default_threads("imagenet") == 2


def test_a_log_without_a_recipe_is_refused(tmp_path):
    (tmp_path / "train.log").write_text("nothing\n")
    with pytest.raises(ValueError, match="does not begin with a recipe"):
        train.logged_recipe(tmp_path)


# ----------------------------------------------------------------------------------------------- choice of a seed


def outcome(seed, size, errors):
    return {"seed": seed, "size_bytes": size, "heldout_errors": errors, "heldout_examples": 5000}


@pytest.mark.parametrize(
    ("bound", "outcomes", "seed"),
    [
        (None, [(0, 100, 9), (1, 900, 8), (2, 50, 10)], 1),  # fewest errors
        (None, [(0, 100, 8), (1, 90, 8), (2, 95, 8)], 1),  # then fewest bytes
        (None, [(2, 90, 8), (1, 90, 8)], 1),  # then the first seed
        (500, [(0, 100, 9), (1, 900, 8), (2, 50, 10)], 0),  # within the claim
        (10, [(0, 100, 9), (1, 900, 8), (2, 50, 10)], 1),  # nothing within it
    ],
)
def test_the_seed_that_ships(bound, outcomes, seed):
    chosen, sentence = evaluate.select([outcome(*o) for o in outcomes], recipes.Claim(bytes=bound))
    assert chosen["seed"] == seed
    assert "no part in the choice" in sentence and (bound is None or str(bound) in sentence)


# ---------------------------------------------------------------------------------------------------- records


def test_evaluate_writes_a_whole_entry_that_verifies(runs, recipe_file, tmp_path):
    out = tmp_path / "artifacts"
    entry = evaluate.evaluate(recipe_file, runs, out)
    folder = out / "lenet300-100-test"
    assert [p.name for p in out.iterdir()] == ["lenet300-100-test"]  # nothing half-written beside it
    assert {p.name for p in folder.iterdir()} == {"model.zoo", "entry.json", "golden.json", "predictions.npy", "train.log"}
    assert entry == registry.load_record(folder)
    assert entry.seed == 2 and [s.seed for s in entry.seeds] == [0, 1, 2]
    assert entry.size_bytes == (folder / "model.zoo").stat().st_size
    # The errors again, by hand: forward pass on the test set, nothing of ours but load and transforms.
    test = datasets.load("mnist", "test")
    with torch.inference_mode():
        logits = zoo.load(folder / "model.zoo")(zoo.preprocessing.preprocess("mnist")(test.pixels))
    wrong = int((logits.argmax(1).numpy() != test.labels).sum())
    assert (entry.test_errors, entry.test_examples, entry.test_set) == (wrong, 10_000, test.digest)
    assert entry.seeds[2].test_errors == wrong
    assert int((evidence.read_predictions(folder) != test.labels).sum()) == wrong
    assert entry.versions["torch"] == torch.__version__


RECORDS = [registry.load_record(path.parent) for path in sorted(evaluate.ARTIFACTS.glob("*/entry.json"))]


@pytest.mark.parametrize("id", [entry.id for entry in RECORDS if entry.recipe is not None])
def test_committed_entries_were_made_by_the_recipe_they_name(id):
    """The log of the shipped run begins with the recipe; what decides a run has not changed since."""
    entry = registry.load_record(evaluate.ARTIFACTS / id)
    recipe = recipes.read(evaluate.ROOT / entry.recipe)
    assert recipe.id == id and recipe.method == entry.method and recipe.network == entry.network
    assert [s.seed for s in entry.seeds] == list(recipe.seeds)
    assert recipes.deciding(train.logged_recipe(evaluate.ARTIFACTS / id)) == recipes.deciding(recipe)


def test_evaluate_refuses_other_bytes_under_an_id(runs, recipe_file, tmp_path):
    out = tmp_path / "artifacts"
    first = evaluate.evaluate(recipe_file, runs, out)
    assert evaluate.evaluate(recipe_file, runs, out) == first  # the same bytes may be measured again
    changed = runs / "lenet300-100-test" / "seed-2"
    blob = random_file("lenet300-100", 9, span=2)
    (changed / "model.zoo").write_bytes(blob)
    (changed / "outcome.json").write_text(json.dumps(outcome(2, len(blob), 70)))
    with pytest.raises(FileExistsError, match="id of its own"):
        evaluate.evaluate(recipe_file, runs, out)
    assert registry.load_record(out / "lenet300-100-test") == first
    replaced = evaluate.evaluate(recipe_file, runs, out, replace=True)
    assert replaced.sha256 != first.sha256 and [p.name for p in out.iterdir()] == ["lenet300-100-test"]


def test_evaluate_lists_everything_that_is_missing_or_foreign(runs, recipe_file, tmp_path):
    (runs / "lenet300-100-test" / "seed-0" / "outcome.json").unlink()
    other = recipes.read(recipe_file, ("options.lambda=1e-3",))
    (runs / "lenet300-100-test" / "seed-1" / "train.log").write_text(f"recipe {recipes.to_json(other)}\n")
    with open(runs / "lenet300-100-test" / "seed-2" / "model.zoo", "ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="(?s)seed-0 is not finished.*seed-1 was made by another recipe.*lambda.*seed-2"):
        evaluate.evaluate(recipe_file, runs, tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_a_failure_while_writing_leaves_nothing(runs, recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "write_predictions", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        evaluate.evaluate(recipe_file, runs, tmp_path / "artifacts")
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_an_interruption_between_old_and_new_leaves_the_old(runs, recipe_file, tmp_path, monkeypatch):
    out = tmp_path / "artifacts"
    first, replace_ = evaluate.evaluate(recipe_file, runs, out), os.replace

    def interrupted(source, target):
        if target == out / first.id and source.name != "before":
            raise KeyboardInterrupt
        replace_(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate.files, "exchange", lambda a, b: False)  # as on a system that cannot swap two folders
        patch.setattr(evaluate.os, "replace", interrupted)
        evaluate.evaluate(recipe_file, runs, out)
    assert registry.load_record(out / first.id) == first and [p.name for p in out.iterdir()] == [first.id]


# ---------------------------------------------------------------------------------------- the papers' own counting


def test_epr_counts_streams_tables_and_steps():
    blob = random_file("lenet300-100", 0)
    _, breakdown = codec.anatomy(blob, partitionings.layout)
    expected = sum(p.coded_bits / 8 + p.table_bytes + p.psi_bytes for p in breakdown)
    count, sentence = evaluate.paper_bytes("epr", blob)
    assert count == math.ceil(expected) and "no header" in sentence
    assert len(blob) - 60 <= count < len(blob)


def test_epr_counts_biases_as_float32_and_no_statistics_where_there_is_batch_normalisation():
    blob = random_file("resnet20-4", 0)
    _, breakdown = codec.anatomy(blob, partitionings.layout)
    weights = [p for p in breakdown if not p.group.startswith("bn.") and "bias" not in p.group]
    coded = sum(p.coded_bits / 8 + p.table_bytes + p.psi_bytes for p in weights)
    count, sentence = evaluate.paper_bytes("epr", blob)
    # Section 3.2: "they add up to about 11 KB": 16 BN layers of 64, 128 and 256 channels and ten biases.
    biases = partitionings.get("resnet20-4").groups
    numbers = sum(g.size for g in biases if "bias" in g.name)
    assert 10_000 < 4 * numbers < 12_500
    assert count == math.ceil(coded + 4 * numbers) and "no BN scales" in sentence


@pytest.mark.parametrize(("k", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_lc_counts_bits_of_the_index_codebooks_and_biases(k, bits):
    draw, groups = np.random.default_rng(k), {}
    for group in partitionings.get("lenet300-100", "layers").groups:
        if group.name == "biases":
            phi, psi = draw.integers(-3, 4, (group.size, 1)), {"scale": np.full((1, 1), 0.5, np.float32)}
            groups[group.name] = Coded("scalar", "static", phi.astype(np.int32), psi)
        else:
            phi, book = draw.integers(0, k, (group.size, 1)), np.arange(k, dtype=np.float32)[None]
            groups[group.name] = Coded("codebook", "static", phi.astype(np.int32), {"codebook": book})
    blob = zoo.encode("lenet300-100", "layers", groups)
    expected = math.ceil((bits * 266_200 + 3 * 32 * k + 32 * 410) / 8)
    for method in ("lc", "direct"):
        count, sentence = evaluate.paper_bytes(method, blob)
        assert count == expected and "log2" in sentence


def test_a_method_without_a_counting_of_its_own_has_none():
    blob = random_file("lenet300-100", 0)
    assert evaluate.paper_bytes("plain", blob) == (None, None)
    assert evaluate.paper_bytes("somebody-elses", blob) == (None, None)


# ---------------------------------------------------------------------------------------------------- compare


def brute_force_mcnemar(b: int, c: int) -> Fraction:
    """Twice the probability of the smaller tail of a fair coin thrown b + c times."""
    n = b + c
    tail = sum(Fraction(math.comb(n, i), 2**n) for i in range(min(b, c) + 1))
    return min(Fraction(1), 2 * tail)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_exact(b, c):
    assert paired.exact_mcnemar(b, c) == pytest.approx(float(brute_force_mcnemar(b, c)), rel=1e-12)
    assert paired.exact_mcnemar(b, c) == paired.exact_mcnemar(c, b)


def test_mcnemar_of_many_images():
    assert paired.exact_mcnemar(700, 600) == pytest.approx(float(brute_force_mcnemar(700, 600)), rel=1e-9)
    assert paired.exact_mcnemar(10_000, 10_000) == 1.0


def test_mcnemar_matches_every_sign_pattern():
    """All 2^n ways in which n discordant images may fall, counted one by one."""
    n, b = 9, 2
    as_extreme = sum(1 for signs in itertools.product((0, 1), repeat=n) if min(sum(signs), n - sum(signs)) <= b)
    assert paired.exact_mcnemar(b, n - b) == pytest.approx(as_extreme / 2**n, rel=1e-12)


def test_compare_pairs_the_answers(tmp_path, monkeypatch, capsys):
    labels = datasets.load("mnist", "test").labels
    wrong_a, wrong_b = np.zeros(10_000, bool), np.zeros(10_000, bool)
    wrong_a[:30] = True  # 20 of them wrong in both
    wrong_b[10:25] = wrong_b[100:145] = True
    base = measurement.measure(random_file("lenet300-100", 0), progress=False)
    for name, wrong, size in (("a-net", wrong_a, 1), ("b-net", wrong_b, 3)):
        answers = np.where(wrong, (labels + 1) % 10, labels).astype(np.uint8)
        blob = random_file("lenet300-100", 0, span=size)
        actual = replace(measurement.measure(blob, None, progress=False), predictions=answers, errors=int(wrong.sum()),
                        examples=10_000, test_set=base.test_set)  # fmt: skip
        evaluate.write_entry(name, blob, actual, tmp_path, method="epr", dataset="mnist", preprocessing="mnist")
    monkeypatch.setenv("ZOO_ARTIFACTS", str(tmp_path))
    images, result = compare.compare(zoo.info("a-net"), zoo.info("b-net"))
    assert images == "MNIST test"
    assert (result.both_wrong, result.only_a_wrong, result.only_b_wrong) == (15, 15, 45)
    assert result.points == pytest.approx(0.30)
    assert result.p == pytest.approx(float(brute_force_mcnemar(15, 45)))
    assert commands.main(["compare", "a-net", "b-net"]) == 0
    out = capsys.readouterr().out
    assert "30 of 10,000 wrong" in out and "60 of 10,000 wrong" in out and "larger" in out and "p = 0.000135" in out
    with pytest.raises(UnknownModel):
        compare.main(commands.argparse.Namespace(a="a-net", b="nobody"))


# ------------------------------------------------------------------------------------------------------ sweep


@pytest.fixture
def trained(recipe_file, tmp_path, monkeypatch):
    """`sweep` of a recipe with lambda = 1e-4 whose runs cost nothing; the list of runs as (lambda, seed, folder)."""
    seen = []
    recipe_file.write_text(recipe_file.read_text() + "[options]\nlambda = 1e-4\n")

    def train_one(recipe, seed, out, device, threads=None):
        seen.append((recipe.options.lambda_, seed, str(out)))
        out.mkdir(parents=True, exist_ok=True)
        (out / "model.zoo").write_bytes(str(recipe.options.lambda_).encode())
        return outcome(seed, round(1 / recipe.options.lambda_), 50) | {"seconds": 3}

    monkeypatch.setattr(sweep, "train_one", train_one)
    monkeypatch.setattr(sweep, "ARTIFACTS", tmp_path / "artifacts")
    return seen


@pytest.fixture
def measured(monkeypatch):
    """The files that `sweep --test` has measured, each with one error more than the one before, and how."""
    actual = []

    def measure(blob, **how):
        actual.append((blob, how))
        return SimpleNamespace(errors=200 + len(actual), examples=10_000)

    monkeypatch.setattr(sweep.measurement, "measure", measure)
    return actual


def swept(recipe_file, tmp_path, values: str, *more: str, name: str = "") -> list[dict]:
    """Rows of the CSV after one more sweep over lambda."""
    runs, out = str(tmp_path / "r"), str(tmp_path)
    assert commands.main(["sweep", str(recipe_file), "--over", f"lambda={values}", "--runs", runs, "--out", out, *more]) == 0
    with open(tmp_path / f"lenet300-100-test-options-lambda{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_sweep_writes_a_point_for_each_value(recipe_file, tmp_path, trained, capsys):
    rows = swept(recipe_file, tmp_path, "1e-4,2e-4")
    assert [s[:2] for s in trained] == [(1e-4, 0), (2e-4, 0)] and trained[0][2] != trained[1][2]
    assert trained[0][2] == str(tmp_path / "r" / "lenet300-100-test" / "seed-0")  # the recipe's own value: its own run
    assert [row["size_bytes"] for row in rows] == ["10000", "5000"]
    assert [row["heldout_error_percent"] for row in rows] == ["1.00", "1.00"]
    assert "2 points" in capsys.readouterr().out


def test_one_more_value_joins_the_points_that_are_there(recipe_file, tmp_path, trained, measured):
    swept(recipe_file, tmp_path, "1e-4,2e-4", "--test")
    rows = swept(recipe_file, tmp_path, "2e-4,4e-4")  # one of them again, and neither tested
    assert [(row["value"], row["test_errors"]) for row in rows] == [("1e-4", "201"), ("2e-4", "202"), ("4e-4", "")]
    assert len(swept(recipe_file, tmp_path, "1e-4", "--seed", "1", "--test")) == 4
    assert (tmp_path / "lenet300-100-sweeps.svg").is_file()  # without the point that is not tested


def test_a_sweep_under_another_setting_has_a_file_of_its_own(recipe_file, tmp_path, trained, measured):
    before = swept(recipe_file, tmp_path, "1e-4", "--test")
    other = swept(recipe_file, tmp_path, "2e-4", "--test", "--set", "optimizer.lr=0.1", name=",optimizer.lr=0.1")
    assert swept(recipe_file, tmp_path, "1e-4") == before and [row["value"] for row in other] == ["2e-4"]
    svg = (tmp_path / "lenet300-100-sweeps.svg").read_text()
    assert "TEST, measured" in svg and "TEST, optimizer.lr=0.1, measured" in svg


def test_a_tested_sweep_measures_each_file_once_and_is_drawn_beside_the_paper(recipe_file, tmp_path, trained, measured):
    recipe_file.write_text('preprocessing = "other"\n' + recipe_file.read_text())
    for _ in range(2):  # the second time nothing is measured
        rows = swept(recipe_file, tmp_path, "1e-4,2e-4", "--test", "--device", "cuda")
    how = {"dataset": "mnist", "preprocess": "other", "device": "cuda"}  # as `evaluate` measures
    assert measured == [(b"0.0001", how), (b"0.0002", how)]
    assert [row["test_errors"] for row in rows] == ["201", "202"]
    svg = (tmp_path / "lenet300-100-sweeps.svg").read_text()
    assert svg.count(">TEST, measured</text>") == 1 and "EPR (SQ), quoted" in svg and "Uncompressed, quoted: 1.06 MB" in svg
    assert "measured: 3 steps of 16 images from scratch" in svg and "quoted: 200,000 steps" in svg


def test_a_file_that_has_an_entry_is_not_measured_again(tmp_path, recipe_file, measured, monkeypatch):
    trial, blob = recipes.read(recipe_file), random_file("lenet300-100", 0)
    (tmp_path / "model.zoo").write_bytes(blob)
    monkeypatch.setattr(sweep, "ARTIFACTS", tmp_path / "artifacts")
    labels = np.zeros(10, np.uint8)
    actual = replace(MEASURE(blob, None, progress=False), predictions=labels, errors=7, examples=10, test_set="0" * 64)
    evaluate.write_entry(trial.id, blob, actual, tmp_path / "artifacts", method="epr", dataset="mnist", preprocessing="mnist")
    assert sweep.tested(tmp_path, trial) == {"test_errors": 7, "test_examples": 10, "sha256": actual.sha256} and not measured
    (tmp_path / "model.zoo").write_bytes(random_file("lenet300-100", 1))
    assert sweep.tested(tmp_path, trial)["test_errors"] == 201 and len(measured) == 1


def test_a_figure_of_sweeps_shows_all_of_them(tmp_path):
    """More than there are markers."""
    row = dict.fromkeys((*sweep.COLUMNS, *sweep.TESTED), "1")
    for kind in "abcdefg":
        (tmp_path / f"lenet300-100-{kind}-options-lambda.csv").write_text(sweep.table([row]))
    assert curve.sweeps("lenet300-100", tmp_path).count(b", measured</text>") == 7


def test_lines_of_sweeps_are_called_by_what_they_do_not_share(tmp_path):
    row = dict.fromkeys((*sweep.COLUMNS, *sweep.TESTED), "1")
    for overrides in ("steps=3", "steps=3,keep={}"):
        (tmp_path / f"lenet300-100-min-options-lambda,{overrides}.csv").write_text(sweep.table([row]))
    svg = curve.sweeps("lenet300-100", tmp_path)
    assert b">MIN, measured</text>" in svg and b">MIN, keep={}, measured</text>" in svg


def test_curves_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(curve.files, "write", lambda path, content: (written.append(path.name), path.write_bytes(content)))
    row = dict.fromkeys(curve.FIELDS, "1") | {"basis": "dft"}
    curve.add(tmp_path / "x-curve.csv", row)
    curve.add(tmp_path / "x-curve.csv", row | {"bytes": 0, "sha256": "2"})
    assert [r["bytes"] for r in curve.read(tmp_path / "x-curve.csv")] == ["0", "1"]
    assert written == 2 * ["x-curve.csv", "x-curve.svg"] and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("over", ["lambda", "=1,2", "lambda=", "lambda=1,,2", "lambda=1,1"])
def test_a_sweep_over_nothing_is_refused(over):
    with pytest.raises(ValueError, match="--over"):
        sweep.parse(over)


def test_bare_keys_of_a_sweep_are_options_unless_the_recipe_has_them():
    assert sweep.parse("lambda=1,2") == ("options.lambda", ["1", "2"])
    assert sweep.parse("steps=1,2")[0] == "steps" and sweep.parse("optimizer.lr=1,2")[0] == "optimizer.lr"


# ------------------------------------------------------------------------------------------------------ speed


def test_synthetic_files_have_the_entropy_they_claim():
    blob = speed.synthetic("lenet300-100", {})
    row = speed.overhead("synthetic", blob)
    assert 8 * row["ideal"] / 266_610 == pytest.approx(speed.SYNTHETIC_BITS, abs=0.02)
    assert row["bytes"] == len(blob) == pytest.approx(row["ideal"] + row["tables"] + row["psi"] + row["other"])
    assert row["other"] <= 60 and speed.overhead("tiny", random_file("lenet300-100", 0))["other"] <= 60


def test_a_race_gives_the_median_of_each_side(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(speed.time, "process_time", lambda: float(next(clock)))
    assert speed.race({"a": lambda: None, "b": lambda: None}, 3) == speed.Race({"a": 1.0, "b": 1.0}, 0.0, 3)


def test_a_race_goes_on_until_its_medians_are_stable_and_says_if_they_are_not(capsys):
    now, durations = 0.0, itertools.chain([1.0, 9.0, 1.0, 9.0], itertools.repeat(3.0))

    def side():
        nonlocal now
        now += next(durations)

    result = speed.race({"a": side}, 3, lambda: now)  # 1 warms up; 9, 1 and 9 are outside ranks 2 to 9 of 12
    assert result.seconds == {"a": 3.0} and result.spread == 0.0 and result.timings == 12
    durations = itertools.cycle([1.0, 9.0])
    result = speed.race({"a": side}, 3, lambda: now)
    assert result.timings == 3 * speed.MOST and result.spread == pytest.approx(4 / result.seconds["a"])
    row = {"name": "x", "decode": 1.0, "encode": 1.0, "weights": 1.0}
    speed.show("codec", row | result.certainty)
    assert f"NOT STABLE: the median is known to {result.spread:.0%} after {3 * speed.MOST} timings" in capsys.readouterr().out
    speed.show("codec", row | speed.Race({}, 0.01, 7).certainty)
    assert "STABLE" not in capsys.readouterr().out


def test_the_median_s_uncertainty_is_half_an_interval_of_ranks():
    assert speed.uncertainty([5.0]) == 0.0
    values = list(range(1, 101))  # ranks 40 to 60 of 0 to 99: the binomial's 95 %
    assert speed.uncertainty(values) == pytest.approx((values[60] - values[39]) / 2 / 50.5)


def test_speed_prints_ratios_of_an_entry(tmp_path, monkeypatch, capsys):
    blob = random_file("lenet300-100", 0)
    actual = measurement.measure(blob, None, progress=False)
    evaluate.write_entry("tiny", blob, actual, tmp_path, method="epr", dataset="mnist", preprocessing="mnist")
    monkeypatch.setenv("ZOO_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(speed, "SHORTEST", 0.001)
    numbers = tmp_path / "speed.json"
    args = ["speed", "--only", "load,codec,overhead", "--entries", "tiny", "--no-synthetic", "--repeats", "2", "--json"]
    assert commands.main([*args, str(numbers)]) == 0
    results = json.loads(numbers.read_text())
    assert results["load"][0]["ratio"] > 0 and results["codec"][0]["decode"] > 0
    assert results["overhead"][0]["bytes"] == len(blob)
    out = capsys.readouterr().out
    assert "of its time" in out and "thread of torch" in out.splitlines()[0] and "load at the end" in out
    machine = results["machine"]
    assert machine["threads"] == 1 and machine["cores"] >= 1 and machine["processor"] and "torch" in machine["versions"]
    row = results["load"][0]
    (line,) = [line for line in out.splitlines() if line.startswith("load ") and "tiny" in line]
    assert ("NOT STABLE" in line) == (row["spread"] > speed.STABLE) and row["timings"] >= 2


def test_memory_is_measured_in_a_process_of_its_own(monkeypatch):
    assert speed.memory("small", random_file("lenet300-100", 0)) is None
    monkeypatch.setattr(speed, "LARGE", 1000)
    row = speed.memory("now large", random_file("lenet300-100", 0))
    assert 0 <= row["peak_mb"] < 200 and row["ratio"] == pytest.approx(1e6 * row["peak_mb"] / (4 * 266_610))


@pytest.mark.slow
def test_verifying_costs_little_more_than_the_forward_pass(tmp_path, capsys):
    numbers = tmp_path / "speed.json"
    args = ["speed", "--only", "evaluate", "--evaluated", "lenet5-caffe-sq", "--json", str(numbers)]
    assert commands.main(args) == 0
    (row,) = json.loads(numbers.read_text())["evaluate"]
    assert row["count"] == 10_000 and row["verify_s"] < 1.5 * row["forward_s"]
    assert "verified on 10,000 images" in capsys.readouterr().out


def test_an_unknown_section_is_refused(capsys):
    assert commands.main(["speed", "--only", "lod"]) == 1
    assert "no section lod" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- the whole way


@pytest.mark.data
@pytest.mark.slow
def test_from_recipe_to_verified_entry(recipe_file, tmp_path, capsys, monkeypatch):
    args = ["train", str(recipe_file), "--out", str(tmp_path / "runs"), "--set", "steps=30"]
    recipe_file.write_text(recipe_file.read_text().replace("steps = 3", "steps = 30") + "seeds = [0, 1]\n")
    assert commands.main(args[:-2]) == 0
    args = ["evaluate", str(recipe_file), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "artifacts")]
    assert commands.main(args) == 0
    monkeypatch.setenv("ZOO_ARTIFACTS", str(tmp_path / "artifacts"))
    from zoo.cli import main

    assert main(["verify", "lenet300-100-test"]) == 0
    assert "lenet300-100-test" in capsys.readouterr().out
