"""Files are whole at every moment, and what dead processes leave is cleaned."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_entry, random_model, standin_images

import zoo
from benchmarks import evaluate, recode
from benchmarks.__main__ import main as cli
from zoo import files, measurement, registry, verify
from zoo.datasets.download import clean_packages
from zoo.errors import VerificationFailed


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_two_names_are_swapped_in_one_step(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    swapped = files.exchange(a, b)
    assert ((a / "name").read_text(), (b / "name").read_text()) == (("b", "a") if swapped else ("a", "b"))
    assert swapped or not sys.platform.startswith("linux")
    assert not files.exchange(a, tmp_path / "missing") and (a / "name").exists()


def test_what_dead_processes_left_is_cleaned_and_nothing_else(tmp_path, dead):
    gone = [f"model.zoo.{dead}.part", f"x.{dead}.old.part"]
    stays = [f"model.zoo.{os.getpid()}.part", "file.part", "file.part.tag", "model.zoo", f"{dead}.part", "a.b.part"]
    for name in gone + stays:
        (tmp_path / name).write_text("")
    (tmp_path / f".entry.{dead}.part" / "entry").mkdir(parents=True)
    files.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stays)
    files.clean(tmp_path / "missing")
    (tmp_path / "npm-k2j4").mkdir()
    clean_packages(tmp_path)
    assert not (tmp_path / "npm-k2j4").exists() and (tmp_path / "model.zoo").exists()


@pytest.mark.parametrize("exchange", [True, False])
def test_an_entry_that_is_replaced_is_there_at_every_moment(artifacts, lenet_blob, monkeypatch, exchange):
    images = standin_images()
    make_entry(artifacts, "tiny", lenet_blob, images)
    blob, moments, replace = random_model(seed=5), [], os.replace
    if not exchange:
        monkeypatch.setattr(files, "exchange", lambda a, b: False)

    def watched(old, new):
        replace(old, new)
        moments.append((artifacts / "tiny" / registry.MODEL).is_file())

    monkeypatch.setattr(os, "replace", watched)
    result = measurement.measure(blob, images, progress=False)
    entry = evaluate.write_entry("tiny", blob, result, artifacts, method="plain", dataset="mnist", preprocessing="mnist",
                                 replace=True)  # fmt: skip
    assert registry.read(entry) == blob and registry.load_record(artifacts / "tiny").test_errors == result.errors
    assert all(moments) == exchange  # without exchange there is one such moment: the next test is about it
    assert [path.name for path in artifacts.iterdir()] == ["tiny"]


def test_an_entry_that_a_killed_process_had_set_aside_comes_back(artifacts, lenet_blob, dead):
    images = standin_images()
    entry = make_entry(artifacts, "tiny", lenet_blob, images)
    staging = artifacts / f".tiny.{dead}.part"
    staging.mkdir()
    entry.folder.rename(staging / evaluate.BEFORE)
    (artifacts / f".other.{dead}.part").mkdir()
    with pytest.raises(FileExistsError, match="bytes under an id never change"):
        make_entry(artifacts, "tiny", random_model(seed=5), images)
    assert registry.read(registry.load_record(Path(entry.folder))) == lenet_blob
    assert [path.name for path in artifacts.iterdir()] == ["tiny"]
    assert np.array_equal(measurement.measure("tiny", None).golden, measurement.measure(lenet_blob, None).golden)


def test_integers_coded_anew_keep_the_weights_and_what_was_measured(artifacts, lenet_blob, capsys):
    seeds = ({"seed": 0, "size_bytes": 5}, {"seed": 1})
    before = make_entry(artifacts, "tiny", lenet_blob, standin_images(), seed=1, seeds=seeds)
    (before.folder / "train.log").write_text("as it was\n")
    with pytest.raises(FileExistsError, match="never change"):
        recode.recode(before, "raw")
    assert cli(["recode", "tiny", "--model", "raw", "--replace-unpublished"]) == 0
    entry = registry.find("tiny")
    assert f"{entry.size_bytes:,} bytes, {before.size_bytes:,} before" in capsys.readouterr().out
    header, groups = zoo.decode(registry.read(entry))
    assert {group.model for group in groups.values() if group.phi.size >= recode.LARGE} == {"raw"}
    assert [seed.size_bytes for seed in entry.seeds] == [5, entry.size_bytes] and entry.size_bytes > before.size_bytes
    of_the_bytes = {"size_bytes": 0, "sha256": "", "seeds": []}
    assert entry.record() | of_the_bytes == before.record() | of_the_bytes
    assert (entry.folder / "train.log").read_text() == "as it was\n"
    (outcome,) = verify.verify(["tiny"], bytes_only=True, progress=False)
    assert outcome.ok, outcome.problems


def test_integers_that_come_back_as_other_weights_are_not_written(artifacts, lenet_blob):
    entry = make_entry(artifacts, "tiny", lenet_blob, standin_images())
    with pytest.raises(VerificationFailed, match="other weights"):
        recode.recode(entry.changed(weights_sha256="0" * 64), "raw", replace=True)
    assert entry.path.read_bytes() == lenet_blob
