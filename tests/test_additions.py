"""What CONTRIBUTING.md says one must touch to add a method, an entry, a data set or a network, done in a copy of the tree."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import copy_repository

from zoo import datasets

ROOT = Path(__file__).resolve().parents[1]
STANDIN = "import sys, training_process; training_process.use_standin(); from benchmarks.__main__ import main"
TRAINING = f"{STANDIN}; sys.exit(main(sys.argv[1:]))"  # pictures that need no download


@pytest.fixture
def tree(tmp_path) -> Path:
    """The repository without its tests, history and runs."""
    return copy_repository(tmp_path / "tree")


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
    files_of_entry = ("model.zoo", "entry.json", "golden.json", "predictions.npy", "train.log")
    by_hand = {"benchmarks/methods/lasso.py", f"benchmarks/recipes/{id}.toml"}
    outcomes = "benchmarks/results/outcomes.csv"
    by_programs = {f"artifacts/{id}/{file}" for file in files_of_entry} | {"leaderboard.md", "figures/lenet300-100.svg", outcomes}
    assert by_hand | by_programs <= touched <= by_hand | by_programs | {"README.md"}
    recipes = "benchmarks/recipes/<id>.toml"
    listed = ("benchmarks/methods/lasso.py", recipes, "leaderboard.md", "figures/", outcomes, "README.md", *files_of_entry)
    assert [name for name in listed if name not in text] == []
    assert id in (tree / "leaderboard.md").read_text(encoding="utf-8")


USE_THEM = """
import numpy as np, zoo
from benchmarks import evaluate
from zoo import datasets, partitionings
from zoo.codec import Coded

images = datasets.load("dots", "test")
draw = np.random.default_rng(0)
scale = {"scale": np.ones((1, 1), np.float32)}
groups = {}
for group in partitionings.get("dots-linear", "layers").groups:
    groups[group.name] = Coded("scalar", "static", draw.integers(-2, 3, (group.size, 1), dtype=np.int32), scale)
blob = zoo.encode("dots-linear", "layers", groups)
measured = zoo.measure(blob, progress=False)
assert measured.examples == len(images) == 20 and measured.golden.shape == (4, 2)
evaluate.write_entry("dots-linear-random", blob, measured, method="plain", dataset="dots", preprocessing="dots")
assert zoo.classes("dots-linear-random") == ("few", "many")
assert zoo.load("dots-linear-random")(zoo.transforms("dots-linear-random")(images.pixels)).shape == (20, 2)
"""


def test_a_data_set_and_a_network_touch_exactly_the_files_that_contributing_lists(tree, tmp_path, monkeypatch):
    """Also that no other file knows a data set or a network by name: training, measuring and verifying work as they are."""
    text = (tree / "CONTRIBUTING.md").read_text(encoding="utf-8")
    dataset, network = re.findall(r"```python title=(?:dataset|network)\n(.*?)```", text, re.DOTALL)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("dots-test.bin", "dots-train.bin"):
        (folder / name).write_bytes(bytes(20 * [0, *range(64)]))
    digest = datasets.digest(np.tile(np.arange(64, dtype=np.uint8), (20, 1)).reshape(20, 8, 8), np.zeros(20, np.uint8))
    before = contents(tree)

    (tree / "zoo/datasets/dots.py").write_text(dataset.replace("<64 hex digits>", digest), encoding="utf-8")
    (tree / "zoo/networks/dots.py").write_text(network, encoding="utf-8")
    (spec,) = re.findall(r'`(Spec\("dots.*?\))`', text)
    for path, old, new in (
        ("zoo/datasets/__init__.py", "from zoo.datasets.folder import", "from zoo.datasets.dots import DOTS"),
        ("zoo/datasets/__init__.py", "IMAGENET)}", "IMAGENET, DOTS)}"),
        ("zoo/networks/__init__.py", '        Spec("vgg16"', f"        {spec},"),
    ):
        content = (tree / path).read_text(encoding="utf-8")
        assert content.count(old) == 1
        new = new if old.endswith("}") else f"{new}\n{old}"
        (tree / path).write_text(content.replace(old, new), encoding="utf-8")
    monkeypatch.setenv("ZOO_DATA", str(folder))
    run(tree, "-c", USE_THEM)
    assert "1 of 1 entries agree" in run(tree, "-m", "zoo", "verify", "dots-linear-random")
    assert "dots" in run(tree, "-m", "zoo", "data")

    after = contents(tree)
    touched = {path for path in before | after if before.get(path) != after.get(path) and not path.startswith("artifacts/")}
    listed = {"zoo/datasets/dots.py", "zoo/datasets/__init__.py", "zoo/networks/dots.py", "zoo/networks/__init__.py"}
    assert touched == listed and [path for path in listed if path not in text] == []
