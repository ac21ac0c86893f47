"""The wheel carries what it promises, the pins are consistent, and the set-up commands say what they do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from zoo import registry

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for requirement in wanted:
        assert re.fullmatch(r"==[0-9.]+(post[0-9]+)?", str(requirement.specifier)), f"{requirement} is not pinned"
    return {canonical(r.name): str(r.specifier)[2:] for r in wanted}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built without a network connection."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_carries_every_entry_and_the_first_test_set(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in (ROOT / "artifacts").iterdir():
        if not (folder / registry.RECORD).is_file():
            continue
        for file in folder.iterdir():
            assert (f"zoo/artifacts/{folder.name}/{file.name}" in names) == (file.name != "train.log"), file
    for name in ("zoo/py.typed", "zoo/quoted.json", "zoo/codec/FORMAT.md", "zoo/testdata/t10k-images-idx3-ubyte.gz"):
        assert name in names
    assert not any(name.startswith(("benchmarks", "tests", "runs")) or name.endswith(".part") for name in names)


def test_the_wheel_is_small_enough_to_publish(wheel):
    assert wheel.stat().st_size < 60e6, "entries of more than a few megabytes belong on the Hub: see CONTRIBUTING.md"


def test_an_installed_wheel_loads_an_entry_without_a_checkout(wheel, tmp_path):
    """Unpacked alone in front of the path, in an empty folder, without any variable of ours: as after pip install."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    records = {path.parent.name: json.loads(path.read_text()) for path in (ROOT / "artifacts").glob("lenet*/entry.json")}
    ids = sorted(name for name, record in records.items() if record["dataset"] == "mnist")  # which ships with the package
    code = (
        "import sys, zoo; assert 'torch' not in sys.modules\n"
        f"assert zoo.__file__.startswith({str(tmp_path)!r}), zoo.__file__\n"
        f"assert set({ids!r}) <= set(zoo.list_models())\n"
        "test = zoo.datasets.load('mnist', 'test')\n"
        f"for name in {ids!r}:\n"
        "    answers = zoo.load(name)(zoo.transforms(name)(test.pixels[:100])).argmax(1).numpy()\n"
        "    recorded = zoo.evidence.read_predictions(zoo.info(name).folder)[:100]\n"
        "    assert (answers == recorded).sum() >= 99, name\n"
    )
    hidden = ("ZOO_", "PYTHON", "PYTEST")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | {"PYTHONPATH": str(tmp_path / "site")}
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_console_script_and_the_licence_are_in_the_wheel(wheel):
    files = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in files.namelist() if ".dist-info/" in name}
    assert "zoo = zoo.cli:main" in files.read(f"{info}/entry_points.txt").decode()
    assert "Apache License" in files.read(f"{info}/licenses/LICENSE").decode()


def test_every_dependency_is_pinned_within_its_bounds():
    pinned = pins()
    wanted = PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]
    wanted += [line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.name == "entropy-coded-zoo":
            continue
        assert canonical(requirement.name) in pinned, f"{line} is not in requirements.txt"
        assert requirement.specifier.contains(pinned[canonical(requirement.name)]), line


def test_what_zoo_imports_is_a_dependency():
    """Top-level imports of the library, also those inside functions."""
    names = set()
    for path in (ROOT / "zoo").rglob("*.py"):
        names |= set(re.findall(r"^\s*(?:import|from) ([a-z_]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    used = names - set(sys.stdlib_module_names) - {"zoo", "benchmarks"}
    distribution_of = {"PIL": "pillow", "huggingface_hub": "huggingface-hub", "pydantic_core": "pydantic"}
    declared = {canonical(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"]
    declared |= {canonical(Requirement(line).name) for name in extras if name != "dev" for line in extras[name]}
    assert {distribution_of.get(name, name) for name in used} <= declared
    assert "benchmarks" not in names  # the library knows nothing of training


def test_make_help_lists_every_command():
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split())
    help_text = subprocess.run(["make", "--no-print-directory", "-C", str(ROOT), "help"], capture_output=True, text=True)
    assert help_text.returncode == 0
    shown = {line.split()[0] for line in help_text.stdout.splitlines()}
    assert shown == phony - {"lint"} and {"verify", "test"} <= shown


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and re.search(r"^make test$", script.read_text(), re.MULTILINE)


def test_the_workflow_tests_and_then_checks_without_rights():
    """Nobody's pull request gets more than the right to read; steps are those of the Makefile."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert steps == ["make test", "make check"] and workflow["permissions"] == {"contents": "read"}
    assert "pull_request" in workflow[True] and "pull_request_target" not in workflow[True]  # YAML 1.1 reads `on` as true
    (checkout,) = [step["with"] for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert checkout == {"fetch-depth": 0, "persist-credentials": False}


def test_the_repository_has_one_address():
    """Who publishes changes one line of pyproject.toml."""
    (address,) = PROJECT["project"]["urls"].values()
    assert address.startswith("https://") and address.endswith(PROJECT["project"]["name"])


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"] and citation["license"] == PROJECT["project"]["license"]
    assert {r["identifiers"][0]["value"] for r in citation["references"]} >= {"arXiv:1906.06624"}
