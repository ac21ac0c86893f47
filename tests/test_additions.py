"""What CONTRIBUTING.md says one must touch to add a method and an entry, done in a copy of the tree."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STANDIN = "import sys, training_process; training_process.use_standin(); from benchmarks.__main__ import main"
TRAINING = f"{STANDIN}; sys.exit(main(sys.argv[1:]))"  # pictures that need no download


@pytest.fixture
def tree(tmp_path) -> Path:
    """The repository without its tests, history and runs."""
    place = tmp_path / "tree"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("zoo", "benchmarks", "figures", "artifacts"):
        shutil.copytree(ROOT / name, place / name, ignore=ignore)
    for name in ("README.md", "leaderboard.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, place / name)
    return place


def contents(tree: Path) -> dict[str, str]:
    files = [path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(tree: Path, *arguments: str) -> str:
    settings = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=tree, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_method_and_an_entry_touch_exactly_the_files_that_contributing_lists(tree):
    text = (tree / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (method,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (recipe,) = re.findall(r"^ *```toml\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    recipe = re.sub(r"^ *", "", recipe, flags=re.MULTILINE)
    run(tree, "-m", "benchmarks", "leaderboard")
    before = contents(tree)

    (tree / "benchmarks/methods/lasso.py").write_text(method, encoding="utf-8")
    recipe = recipe.replace('method = "epr"', 'method = "lasso"').replace("lambda = 2e-6", "penalty = 1e-3")
    recipe = recipe.replace("steps = 40000", "steps = 40").replace("[0, 1, 2]", "[0]")
    id = "lenet300-100-mine"
    (tree / f"benchmarks/recipes/{id}.toml").write_text(recipe, encoding="utf-8")
    run(tree, "-c", TRAINING, "train", id)
    run(tree, "-m", "benchmarks", "evaluate", id)
    run(tree, "-m", "benchmarks", "leaderboard")
    assert f"{id} " in run(tree, "-m", "zoo", "verify", id)

    after = contents(tree)
    touched = {path for path in before | after if before.get(path) != after.get(path) and not path.startswith("runs/")}
    parts = ("model.zoo", "entry.json", "golden.json", "predictions.npy", "train.log")
    by_hand = {"benchmarks/methods/lasso.py", f"benchmarks/recipes/{id}.toml"}
    by_programs = {f"artifacts/{id}/{part}" for part in parts} | {"leaderboard.md", "figures/lenet300-100.svg"}
    assert by_hand | by_programs <= touched <= by_hand | by_programs | {"README.md"}
    listed = ("benchmarks/methods/lasso.py", "benchmarks/recipes/<id>.toml", "leaderboard.md", "figures/", "README.md", *parts)
    assert [name for name in listed if name not in text] == []
    assert id in (tree / "leaderboard.md").read_text(encoding="utf-8")
