"""Weights of entries that left the shelf are found in git's history, by their digest."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
import torch
from conftest import random_model

import zoo
from benchmarks.training import history, recipe
from zoo.errors import ArtifactUnavailable


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path):
    """A repository in which an entry had two files, one after the other, and left."""
    model = tmp_path / "artifacts" / "gone" / "model.zoo"
    model.parent.mkdir(parents=True)
    git(tmp_path, "init", "-q")
    for seed in (0, 1):
        model.write_bytes(random_model(seed=seed))
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", f"file {seed}")
    git(tmp_path, "rm", "-q", "artifacts/gone/model.zoo")
    git(tmp_path, "commit", "-qm", "it leaves")
    return tmp_path


@pytest.mark.parametrize("seed", [0, 1])
def test_a_file_that_left_is_found_by_its_digest(clone, seed):
    blob = random_model(seed=seed)
    network = history.load(f"gone@{hashlib.sha256(blob).hexdigest()}", clone)
    wanted = zoo.from_bytes(blob).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_what_the_history_does_not_have_is_said(clone, tmp_path_factory):
    digest = "0" * 64
    for root in (clone, tmp_path_factory.mktemp("no clone")):
        with pytest.raises(ArtifactUnavailable, match="gone is no longer an entry.*full clone"):
            history.load(f"gone@{digest}", root)
    with pytest.raises(ValueError, match="64 hex digits"):
        history.load("gone@123", clone)


def test_an_entry_is_taken_from_the_shelf(entry):
    wanted = zoo.load(entry.id).state_dict()
    for source in (entry.id, f"{entry.id}@{entry.sha256}"):
        assert all(torch.equal(value, wanted[key]) for key, value in history.load(source).state_dict().items())


def test_a_digest_that_came_later_leaves_a_recipe_the_same_training():
    content = {"id": "a", "network": "lenet300-100", "method": "plain", "steps": 1, "batch": 1}
    old, new = (recipe.from_dict(content | {"warm_start": start}) for start in ("b", f"b@{'0' * 64}"))
    assert recipe.deciding(old) == recipe.deciding(new)
    assert recipe.deciding(old) != recipe.deciding(recipe.from_dict(content | {"warm_start": "c"}))


def removed_starts() -> list[str]:
    starts = {recipe.read(path).warm_start for path in recipe.FOLDER.glob("*.toml")}
    return sorted(start for start in starts if "@" in start)


@pytest.mark.parametrize("source", removed_starts())
def test_every_start_that_left_is_in_the_history_of_this_repository(source):
    if history._git(history.ROOT, "rev-parse", "--is-shallow-repository") != b"false\n":
        pytest.skip("this is no full clone of the repository")
    id, digest = source.split("@")
    assert hashlib.sha256(history.removed(id, digest)).hexdigest() == digest
