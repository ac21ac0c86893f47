"""Environment variables: those that are wrong are errors, and a machine without a home has a cache."""

import re
import tempfile
from pathlib import Path

import pytest

import zoo
from zoo import datasets
from zoo.errors import DataUnavailable, ZooError

ROOT = Path(zoo.__file__).parents[1]


def test_a_folder_of_data_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataUnavailable, match="nowhere: no such folder"):
        datasets.load("cifar10", "test")


def test_a_folder_of_entries_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_ARTIFACTS", str(tmp_path / "nowhere"))
    with pytest.raises(ZooError, match="ZOO_ARTIFACTS=.*nowhere: no such folder"):
        zoo.list_models()


def test_a_machine_without_a_home(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ZOO_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", none)
    assert datasets.cache_folder() == Path(tempfile.gettempdir()) / "zoo-cache"


def test_the_readme_lists_every_variable():
    used = {name for path in (ROOT / "zoo").rglob("*.py") for name in re.findall(r"\bZOO_[A-Z]+", path.read_text())}
    assert used == set(re.findall(r"^\| `(ZOO_[A-Z]+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
