"""Every code block of README.md and CONTRIBUTING.md works: Python runs, commands exist with these arguments, recipes parse."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import zoo
from benchmarks import __main__ as commands
from benchmarks import methods
from benchmarks.training import recipe as recipes
from zoo import cli, datasets, networks, registry

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")
# Each is checked below, but for drawings, and for what test_additions.py runs.
LANGUAGES = {"bash", "python", "text", "toml", "bibtex", "python title=dataset", "python title=network"}
CHEAP = ("zoo list", "zoo info", "zoo show")  # run for real


def blocks(page: str, language: str) -> list[str]:
    """The fenced code blocks of a page in one language, without their indentation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    result = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in result]


def shell_lines() -> list[str]:
    """The commands of all shell blocks, and those in the running text, without comments."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
        lines += [s for s in spans if re.match(r"(make|zoo|python -m benchmarks) \S", s) and not re.search(r"\b[A-Z]\b", s)]
    return list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip()))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_that_is_checked(page):
    fences = re.findall(r"^ *```(.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0 and set(fences[::2]) <= LANGUAGES and set(fences[1::2]) == {""}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []


def test_the_python_of_the_readme_classifies_a_digit(capsys):
    code, _ = blocks("README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "it is a 7\n" and datasets.load("mnist", "test").labels[0] == 7
    assert len([line for line in code.splitlines() if line]) == 4  # three lines, and the import


def test_the_python_of_the_readme_makes_a_network_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, code = blocks("README.md", "python")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len([line for line in code.splitlines() if line]) == 4
    count = sum(parameter.numel() for parameter in names["yours"].parameters())
    assert 0.97 * count / 2 <= (tmp_path / "yours.zoo").stat().st_size <= count / 2


def test_commands_exist_and_take_these_arguments(monkeypatch, capsys):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = shell_lines()
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(line)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, line
        elif words[0] == "zoo":
            check_zoo(words[1:], monkeypatch)
        elif words[:3] == ["python", "-m", "benchmarks"]:
            check_benchmarks(words[3:])
        else:
            assert words[:2] in (["pip", "install"], ["git", "clone"]), f"nothing checks {line!r}"
    capsys.readouterr()


def check_zoo(words: list[str], monkeypatch) -> None:
    """The command line parses, and the entries that it names exist; cheap ones run."""
    if any(f"zoo {' '.join(words)}".startswith(cheap) for cheap in CHEAP):
        assert cli.main(words) == 0
        return
    if len(words) == 1:  # the name alone, in a sentence
        assert re.search(rf"^    {words[0]} ", cli._parser().format_help(), re.MULTILINE), words
        return
    args = cli._parser().parse_args(words)
    assert args.run is not None
    for word in words[1:]:
        not_an_id = word.startswith("-") or "." in word or "/" in word or "mine" in word
        assert not_an_id or word in registry.ids(), f"no entry {word!r}"


def check_benchmarks(words: list[str]) -> None:
    """The command exists, its arguments parse, and the recipes and entries that it names exist."""
    module = importlib.import_module(commands.COMMANDS[words[0]][0])
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    if len(words) == 1:
        return  # the name alone, in a sentence
    args = parser.parse_args(words[1:])
    if getattr(args, "recipe", None) and "mine" not in args.recipe:
        recipes.find(args.recipe)
    for name in (getattr(args, "a", None), getattr(args, "b", None)):
        assert name is None or name in registry.ids()


def test_the_recipe_of_contributing_is_valid(tmp_path):
    (text,) = blocks("CONTRIBUTING.md", "toml")
    path = tmp_path / "lenet300-100-mine.toml"
    path.write_text(text)
    recipe = recipes.read(path)
    assert recipe.id == path.stem and recipe.claim.quoted in registry.quoted()


def test_readme_speaks_of_every_network_family_and_method_of_the_zoo():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"epr", "lc", "hemp"} <= set(methods.names())
    for name in ("EPR", "LC", "HEMP"):
        assert f"**{name}**" in text


@pytest.fixture
def lasso(tmp_path, monkeypatch):
    """The method of CONTRIBUTING.md as a file beside the others."""
    (code,) = blocks("CONTRIBUTING.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "lasso.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "benchmarks.methods.lasso", raising=False)
    yield
    sys.modules.pop("benchmarks.methods.lasso", None)


def quadrants(count: int) -> datasets.Images:
    """Pictures with one bright quadrant, which is the label: something to learn without a download."""
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 60, (count, 28, 28), np.uint8), draw.integers(0, 4, count).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[14 * row : 14 * row + 14, 14 * column : 14 * column + 14] += 150
    return datasets.Images(pixels, labels, datasets.digest(pixels, labels))


def test_the_method_of_contributing_trains_and_makes_a_file(lasso, tmp_path, monkeypatch):
    from benchmarks import train

    monkeypatch.setattr(datasets, "load", lambda dataset, split: quadrants(5_600))
    sizes = {}
    for penalty in (0.0, 1e-3):
        content = {"id": "x", "network": "lenet300-100", "method": "lasso", "steps": 60, "batch": 32, "evaluate_every": 30,
                   "checkpoint_every": 30, "optimizer": {"lr": 2e-3}, "options": {"penalty": penalty}}  # fmt: skip
        outcome = train.train_one(recipes.from_dict(content), 0, tmp_path / str(penalty), threads=1)
        assert outcome["heldout_errors"] < 500  # of 5,000; chance is 3,750
        sizes[penalty] = outcome["size_bytes"]
    assert sizes[1e-3] < 0.7 * sizes[0.0]  # the penalty is felt in the file
    network = zoo.load(tmp_path / "0.001" / "model.zoo")
    weights = network.fc1.weight.detach() * 16
    assert torch.equal(weights, weights.round()) and networks.spec("lenet300-100").parameters == 266_610


def test_the_bibtex_entry_is_that_of_the_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (entry,) = blocks("README.md", "bibtex")
    assert f"{{{citation['title']}}}" in entry and f"{{{citation['version']}}}" in entry
    assert citation["authors"][0]["name"] in entry


def test_words_of_the_field_are_explained_before_they_are_used():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text[text.index("## Results") :]
    for word in ("phi", "psi", "partitioning"):
        assert text.index(word) == text.index(f"**{word}**") + 2
