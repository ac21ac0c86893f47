"""Environment variables: those that are wrong are errors, and a machine without a home has a cache."""

import re
import subprocess
import sys
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


def test_without_constriction_files_are_read_slowly_and_with_a_word():
    """As on a platform that has no wheel of it: the same bits."""
    code = """
import sys
sys.modules["constriction"] = None
import zoo
from zoo.measurement import weights_digest
print(weights_digest(zoo.load("lenet300-100-min").state_dict()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == zoo.info("lenet300-100-min").weights_sha256
    assert "constriction is not installed" in done.stderr and "plain Python" in done.stderr
