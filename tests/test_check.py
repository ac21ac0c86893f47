"""`python -m benchmarks check`: pull requests simulated in a temporary repository, good ones and bad ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, copy_repository, random_model

from benchmarks import __main__ as commands
from benchmarks import check, submit
from benchmarks.check import rules
from benchmarks.report import paired, records
from zoo import evidence, measurement, networks, registry

ID = "lenet300-100-theirs"
PAPER = {"paper": "A. Author 2026", "training": None}


def git(tree: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(tree), *who, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository whose branch main is this checkout."""
    tree = copy_repository(tmp_path_factory.mktemp("pull") / "request")
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "base")
    return tree


@pytest.fixture
def tree(repository):
    """The repository on a branch of its own, as main has it."""
    git(repository, "switch", "-q", "-C", "contribution", "main")
    yield repository
    git(repository, "reset", "-q", "--hard", "main")
    git(repository, "clean", "-f", "-d", "-q")


def contribute(tree: Path, id: str = ID, seed: int = 0, **facts) -> Path:
    """A folder of a submitted entry, tested on the stand-in of MNIST, with its line in the outcomes."""
    facts = {"method": "theirs", "license": "Apache-2.0", "quoted": None, "submission": PAPER} | facts
    entry = submit.submit(id, random_model(seed=seed), facts, out=tree / "artifacts")
    wrong = evidence.read_predictions(entry.folder) != measurement.test_images("mnist").labels
    with open(tree / "benchmarks/results/outcomes.csv", "a", encoding="utf-8") as file:
        file.write(f"{id},{paired.predictions_digest(entry)},{paired.pack(wrong)}\n")
    return entry.folder


def review(tree: Path) -> rules.Verdict:
    """The verdict without rendering the leaderboard, which takes seconds."""
    return check.review(check.changes(tree, "main"), rendered=lambda root: [])


def edit(folder: Path, **fields) -> None:
    """Writes other values into a record, as a person would."""
    record = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
    (folder / "entry.json").write_text(json.dumps(record | fields, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------- what is accepted


def test_nothing_changed_is_nothing_to_mend(tree):
    verdict = review(tree)
    assert (verdict.faults, verdict.notes, verdict.derived) == ({}, [], 0)


def test_a_good_entry_is_accepted_and_doubts_are_named(tree, mnist_standin):
    contribute(tree)
    verdict = review(tree)
    assert verdict.faults == {} and verdict.unavailable == [] and verdict.derived == 1
    assert verdict.notes == [f"{ID}: how it was trained, and that the test set was not used for it, is its authors' word"]
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "an entry")
    assert review(tree).faults == {}  # committed or not


def test_every_file_of_this_repository_is_in_place_and_every_entry_says_what_it_must():
    paths = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if tracked.returncode == 0:
        paths = tracked.stdout.splitlines()
        large = [path for path in paths if (most := rules._most_bytes(path)) and (ROOT / path).stat().st_size > most]
        strange = [path for path in paths if rules._most_bytes(path) is None]
        assert large == [] and set(strange) <= {path for path in paths if path.startswith("zoo/testdata/")} | {"zoo/py.typed"}
    for entry in records.read_entries():
        network = networks.spec(entry.network)
        assert list(rules._record_faults(entry, network)) == [] and list(rules._folder_faults(entry)) == []
        assert list(rules._id_faults(entry.id, network.base, set(), rules._left(ROOT / "CHANGELOG.md"))) == []


def test_an_entry_may_gain_what_was_not_measured():
    old = json.loads((ROOT / "artifacts/resnet50-dft/entry.json").read_text(encoding="utf-8"))
    gained = {"test_set": "0" * 64, "test_errors": 1, "test_examples": 2, "samples": [*old["samples"], {"key": "more"}]}
    assert list(rules._record_changes(old, old | gained)) == []
    assert len(list(rules._record_changes(old | gained, old))) == 4
    assert list(rules._record_changes(old, old | {"license": "mine"})) != []


# ------------------------------------------------------------------------------------- what is not


def test_other_bytes_under_a_released_id(tree, mnist_standin):
    folder = tree / "artifacts/lenet300-100-sq"
    (folder / "model.zoo").write_bytes(random_model(seed=2))
    edit(folder, size_bytes=10)
    (folder / "golden.json").unlink()
    verdict = review(tree)
    for name in ("model.zoo", "golden.json"):
        (text,) = verdict.faults[f"artifacts/lenet300-100-sq/{name}"]
        assert "files never change: give the improvement an id of its own" in text
    assert verdict.faults["artifacts/lenet300-100-sq/entry.json"][0].startswith("size_bytes was 3571, is 10: ")


def test_a_removed_entry(tree):
    shutil.rmtree(tree / "artifacts/lenet300-100-sq")
    faults = review(tree).faults
    assert "entries stay" in faults["artifacts/lenet300-100-sq/entry.json"][0] and len(faults) == 5


def test_numbers_that_the_file_does_not_give(tree, mnist_standin):
    folder = contribute(tree)
    edit(folder, test_errors=3, parameters=266_611)
    text = "\n".join(review(tree).faults[f"artifacts/{ID}"])
    assert "parameters: expected 266,611, found 266,610" in text and "errors: expected 3 of 200" in text


def test_predictions_that_the_file_does_not_give(tree, mnist_standin):
    folder = contribute(tree)
    evidence.write_predictions(folder, np.asarray(mnist_standin.labels).astype(np.uint8))
    edit(folder, test_errors=0)
    assert "predictions: " in "\n".join(review(tree).faults[f"artifacts/{ID}"])


def test_outcomes_that_flatter_an_entry_or_harm_another(tree, mnist_standin):
    contribute(tree)
    path = tree / "benchmarks/results/outcomes.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    id, digest, packed = lines[-1].split(",")
    wrong = paired.unpack(packed, 200)
    flattered = lines[:-1] + [f"{id},{digest},{paired.pack(np.roll(wrong, 1))}"]
    assert lines[1].startswith("lenet300-100-direct-k2,")
    flattered[1] = lines[1][:60] + lines[2][60:]
    path.write_text("\n".join(flattered) + "\n", encoding="utf-8")
    faults = review(tree).faults["benchmarks/results/outcomes.csv"]
    assert "the outcomes of lenet300-100-direct-k2 differ" in faults[0] and ID in faults[1]


def test_files_that_nothing_reads_and_pickles(tree, mnist_standin):
    folder = contribute(tree)
    files = {
        "weights.pth": b"PK",
        "notes.txt": b"a",
        f"artifacts/{ID}/checkpoint.pt": b"\x80\x02\x8a\nl\xfc",
        f"artifacts/{ID}/stream.bin": b"\x80\x04\x95\x00",
        "docs/picture.png": b"\x89PNG",
    }
    for path, content in files.items():
        (tree / path).parent.mkdir(exist_ok=True)
        (tree / path).write_bytes(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("archive/data.pkl", b"x")
    (folder / "train.log").write_bytes(archive.getvalue())
    (folder / "golden.json").unlink()
    (folder / "golden.json").symlink_to("/etc/hostname")
    np.save(tree / "artifacts" / ID / "sample-a.json", np.array([{}]), allow_pickle=True)
    os.rename(folder / "sample-a.json.npy", folder / "sample-a.json")
    faults = review(tree).faults
    for path in ("weights.pth", "notes.txt", f"artifacts/{ID}/checkpoint.pt", "docs/picture.png"):
        assert "has no place here" in faults[path][0]
    for path, what in (("stream.bin", "a pickle"), ("train.log", "an archive with"), ("sample-a.json", "Python objects")):
        assert what in "\n".join(faults[f"artifacts/{ID}/{path}"])
    assert "is a link" in faults[f"artifacts/{ID}/golden.json"][0]
    assert [text for text in faults[f"artifacts/{ID}"] if "belongs to nothing in the record" in text] != []


def test_drawings_that_run_something(tree):
    figure = (tree / "figures/lenet300-100.svg").read_text(encoding="utf-8")
    link = '<a href="https://example.org">a</a>'
    for n, active in enumerate(("<script>x()</script>", '<g onload="x()"/>', link, "<foreignObject/>")):
        path = tree / f"benchmarks/results/lenet300-100-{n}.svg"
        path.write_text(figure.replace("</svg>", f"{active}</svg>"), encoding="utf-8")
    (tree / "benchmarks/results/lenet300-100-good.svg").write_text(figure, encoding="utf-8")
    assert sorted(review(tree).faults) == [f"benchmarks/results/lenet300-100-{n}.svg" for n in range(4)]


def test_no_drawing_of_this_repository_runs_anything():
    for path in [*ROOT.glob("figures/*.svg"), *ROOT.glob("docs/*.svg"), *ROOT.glob("benchmarks/results/*.svg")]:
        assert rules.ACTIVE.search(path.read_text(encoding="utf-8")) is None, path


def test_names_of_files_are_no_commands_to_what_prints_them(tree, monkeypatch, capsys):
    for name in (b"::add-mask::a", b"a\xff\x1b[2Jb", b"c\n::warning::d"):
        with open(os.path.join(os.fsencode(tree), name), "wb") as file:
            file.write(b"x")
    monkeypatch.setattr(check, "ROOT", tree)
    assert commands.main(["check"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out and not any(line.strip().startswith("::") for line in out.splitlines())
    assert "a\\xff?[2Jb" in out and "3 to mend in 3 places" in out


def test_a_file_that_is_too_large(tree, mnist_standin):
    folder = contribute(tree)
    with open(folder / "model.zoo", "ab") as file:
        file.truncate(8_000_001)
    faults = review(tree).faults
    assert "8,000,001 bytes, at most 8,000,000 are taken; `zoo push ID" in faults[f"artifacts/{ID}/model.zoo"][0]
    assert "expected 31," in "\n".join(faults[f"artifacts/{ID}"])


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"license": None}, "license is missing"),
        ({"license": "  "}, "license is missing"),
        ({"submission": None}, "here none does"),
        ({"recipe": "benchmarks/recipes/x.toml"}, "here recipe and submission does"),
        ({"dataset": "cifar10", "test_set": None, "test_errors": None, "test_examples": None}, "is measured on cifar10"),
        ({"test_set": None, "test_errors": None, "test_examples": None}, "has no test errors"),
        ({"seeds": [{"seed": 0}]}, "has seeds without a recipe"),
        ({"network": "lenet9"}, "no network is called"),
        ({"unknown": 1}, "unknown is not a field"),
    ],
)
def test_a_record_that_does_not_say_what_it_must(tree, mnist_standin, fields, complaint):
    edit(contribute(tree), **fields)
    assert complaint in "\n".join(review(tree).faults[f"artifacts/{ID}/entry.json"])


def test_ids_that_are_taken(tree, mnist_standin):
    for n, id in enumerate(("vgg16-theirs", "vgg16-ref-short", "lenet300-100-SQ")):
        folder = contribute(tree, "lenet300-100-x", seed=n)
        folder.rename(folder.parent / id)
        edit(folder.parent / id, id=id)
    faults = review(tree).faults
    assert "an id of this network reads lenet300-100-" in faults["artifacts/vgg16-theirs"][0]
    assert any("which left (CHANGELOG.md)" in text for text in faults["artifacts/vgg16-ref-short"])
    assert any("do not tell this id from lenet300-100-sq" in text for text in faults["artifacts/lenet300-100-SQ"])


def test_a_copy_of_another_entry_s_file(tree):
    shutil.copytree(tree / "artifacts/lenet300-100-sq", tree / "artifacts/lenet300-100-copy")
    edit(tree / "artifacts/lenet300-100-copy", id="lenet300-100-copy")
    verdict = check.review(check.changes(tree, "main"), bytes_only=True, rendered=lambda root: [])
    assert "holds the bytes of lenet300-100-sq" in verdict.faults["artifacts/lenet300-100-copy/model.zoo"][0]
    assert "is the recipe of lenet300-100-sq" in "\n".join(verdict.faults["artifacts/lenet300-100-copy/entry.json"])
    assert any("a better code, or a copy?" in note for note in verdict.notes)


def test_recipes_that_cannot_be_or_describe_another_training(tree):
    recipes = tree / "benchmarks/recipes"
    text = (recipes / "lenet300-100-sq.toml").read_text(encoding="utf-8")
    (recipes / "lenet300-100-new.toml").write_text(text.replace("steps", "stepps"), encoding="utf-8")
    (recipes / "lenet300-100-other.toml").write_text(text, encoding="utf-8")
    (recipes / "lenet300-100-sq.toml").write_text(text.replace("batch = 128", "batch = 129"), encoding="utf-8")
    with open(recipes / "lenet300-100-min.toml", "a", encoding="utf-8") as file:
        file.write("\n# a remark changes nothing\n")
    verdict = review(tree)
    assert "stepps is unknown" in verdict.faults["benchmarks/recipes/lenet300-100-new.toml"][0]
    assert "file and id have one name" in verdict.faults["benchmarks/recipes/lenet300-100-other.toml"][0]
    assert "now describes another training" in verdict.faults["benchmarks/recipes/lenet300-100-sq.toml"][0]
    assert "benchmarks/recipes/lenet300-100-min.toml" not in verdict.faults


def test_a_recipe_s_entry_whose_record_and_recipe_differ(tree):
    source, id = tree / "artifacts/lenet300-100-lloyd", "lenet300-100-again"
    folder = tree / "artifacts" / id
    shutil.copytree(source, folder)
    recipe = (tree / "benchmarks/recipes/lenet300-100-lloyd.toml").read_text(encoding="utf-8").replace("lloyd\"", "again\"")
    (tree / f"benchmarks/recipes/{id}.toml").write_text(recipe, encoding="utf-8")
    edit(folder, id=id, recipe=f"benchmarks/recipes/{id}.toml", seed=7)
    text = "\n".join(rules._recipe_faults(registry.load_record(folder), tree))
    assert "its digest differs from recipe_sha256" in text
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    edit(folder, recipe_sha256=digest)
    assert list(rules._recipe_faults(registry.load_record(folder), tree)) == []
    edit(folder, seeds=[], recipe="benchmarks/recipes/nothing.toml")
    entry = registry.load_record(folder)
    assert "is no file in benchmarks/recipes/" in "\n".join(rules._recipe_faults(entry, tree))
    assert "seed 7 ships, and `seeds` says []" in "\n".join(rules._record_faults(entry, networks.spec(entry.network)))


def test_quoted_results_are_written_by_their_command(tree):
    path = tree / "zoo/quoted.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"8.56 KB", "size_bytes": 8560', '"8.56 KB", "size_bytes": 85600'), encoding="utf-8")
    verdict = review(tree)
    assert verdict.faults == {} and "quoted result changed: lenet300-100/epr-sq; compare it with its source" in verdict.notes
    assert sum("quoted result" in note for note in verdict.notes) == 1  # the other rows are as before
    path.write_text(text.replace('"error": 1.9', '"error": 190.0'), encoding="utf-8")
    assert "expected" in review(tree).faults["zoo/quoted.json"][0] or "190" in review(tree).faults["zoo/quoted.json"][0]
    path.write_text(text.replace('  {"key"', ' {"key"'), encoding="utf-8")
    assert "use the command" in review(tree).faults["zoo/quoted.json"][0]


def test_curves_and_code_are_left_to_the_reviewer(tree):
    (tree / "benchmarks/results/lenet300-100-sq-options-lambda.csv").write_text("setting,value\n", encoding="utf-8")
    (tree / "zoo/verify.py").write_text("", encoding="utf-8")
    (tree / "zoo/testdata/t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    verdict = review(tree)
    assert verdict.faults == {} and len(verdict.notes) == 2
    assert "run the sweep" in verdict.notes[0] and "zoo/testdata/t10k-labels-idx1-ubyte.gz, zoo/verify.py" in verdict.notes[1]


def test_entries_do_not_come_with_the_code_that_judges_them(tree, mnist_standin):
    contribute(tree)
    judges = ("zoo/verify.py", "zoo/codec/ans.py", "benchmarks/check/rules.py", "benchmarks/report/paired.py")
    for path in (*judges, "zoo/networks/lenet.py"):
        with open(tree / path, "a", encoding="utf-8") as file:
            file.write("\n")
    (tree / "benchmarks/methods/theirs.py").write_text("", encoding="utf-8")
    faults = review(tree).faults
    assert sorted(faults) == sorted(judges)
    assert all("make two, the code first" in text for (text,) in faults.values())


def test_a_test_set_that_cannot_be_had_is_no_verdict(tree, mnist_standin, monkeypatch, capsys):
    from zoo.errors import DataUnavailable

    contribute(tree)

    def unavailable(dataset, root=None):
        raise DataUnavailable("no host answered")

    monkeypatch.setattr(measurement, "test_images", unavailable)
    monkeypatch.setattr(check, "ROOT", tree)
    monkeypatch.setattr(check, "stale", lambda root: [])
    assert commands.main(["check"]) == 2
    assert "not checked: lenet300-100-theirs: no host answered" in capsys.readouterr().out


def test_who_works_on_main_is_compared_with_the_project_s_main(tree, tmp_path):
    """A clone's own main is the contribution, where there is an origin."""
    clone = tmp_path / "clone"
    git(tree, "switch", "-q", "main")
    subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", str(tree), str(clone)], check=True)
    assert (check.default_base(clone), check.default_base(tree)) == ("origin/main", "main")
    git(clone, "commit", "-q", "--allow-empty", "-m", "mine")
    assert check.changes(clone, "origin/main").base != check.changes(clone, "main").base


def test_a_base_that_is_no_commit_is_an_error(tree, monkeypatch, capsys):
    monkeypatch.setattr(check, "ROOT", tree)
    assert commands.main(["check", "--base", "origin/nowhere"]) == 1
    assert "no commit to compare with: --base origin/nowhere" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- the whole way, as people go it


def run(tree: Path, *arguments: str, status: int = 0) -> str:
    settings = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=tree, env=settings, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_pull_request_from_the_commands_to_the_verdict(tree, tmp_path):
    """On the real test set, with the real leaderboard."""
    (tmp_path / "theirs.zoo").write_bytes(random_model(seed=8))
    words = ["--id", ID, "--method", "theirs", "--paper", "A. Author 2026"]
    run(tree, "-m", "benchmarks", "submit", str(tmp_path / "theirs.zoo"), *words)
    out = run(tree, "-m", "benchmarks", "check", status=1)
    assert "\n  - leaderboard.md is out of date: run `make leaderboard`" in out
    run(tree, "-m", "benchmarks", "leaderboard")
    assert "1 of 1 entries derived again: nothing to mend" in run(tree, "-m", "benchmarks", "check")
    (tree / "artifacts/lenet300-100-sq/model.zoo").write_bytes(random_model())
    (tree / "weights.pth").write_bytes(b"\x80\x02}q\x00.")
    edit(tree / "artifacts" / ID, license=None, test_errors=1)
    out = run(tree, "-m", "benchmarks", "check", status=1)
    for text in ("files never change", "has no place here", "a pickle", "license is missing", "errors: expected 1 of 10,000"):
        assert text in out
