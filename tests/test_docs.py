"""Every code block of docs/ runs, what it prints is what the page says, and the drawings are those of the files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_repository

from benchmarks.report import figures, pictures

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
PROGRAMS = {"python": [sys.executable], "zoo": [sys.executable, "-m", "zoo"]}


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced blocks, in order."""
    return re.findall(r"^```([^\n]+)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(page: str, folder: Path) -> None:
    """Runs the blocks of a page one after another in a folder; a block of text is what the one before it prints."""
    names: dict = {}
    printed = None
    for language, content in blocks(page):
        if language == "text":
            assert printed == content, f"{page} prints something else:\n{printed}"
        elif language == "python":
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(content, page, "exec"), names)
            printed = out.getvalue()
        elif language == "bash":
            printed = "".join(command(line, folder) for line in content.splitlines())
        else:
            kind, _, path = language.partition(" title=")
            assert kind == "toml"
            (folder / path).write_text(content, encoding="utf-8")


def command(line: str, folder: Path) -> str:
    program, *words = shlex.split(line)
    settings = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*PROGRAMS[program], *words], cwd=folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


def test_there_are_four_pages_that_the_readme_links():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert PAGES == ["decode-by-hand.md", "first-entry.md", "methods.md", "reading-the-leaderboard.md"]
    assert [page for page in PAGES if f"(docs/{page})" not in readme] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_that_runs_and_every_link_leads_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
    assert {fence.partition(" title=")[0] for fence in fences[::2]} <= {"python", "bash", "toml", "text"}
    assert set(fences[1::2]) == {""} and len(blocks(page)) == len(fences) // 2
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (DOCS / link.split("#")[0]).exists()] == []


@pytest.mark.parametrize("page", ["decode-by-hand.md", "methods.md", "reading-the-leaderboard.md"])
def test_a_page_prints_what_it_says(page):
    run(page, ROOT)


def test_decoding_by_hand_is_short():
    code = "".join(content for language, content in blocks("decode-by-hand.md")[:-2] if language == "python")
    aside = ("import", "from", "print", "    assert")
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(aside)]
    assert len(lines) <= 35 and "zoo." not in code.replace("model.zoo", "")


@pytest.mark.data
@pytest.mark.slow
def test_the_first_entry_is_made_as_its_page_says(tmp_path, monkeypatch):
    """In a copy of the repository, on the real training images."""
    tree = copy_repository(tmp_path / "tree")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "base")):
        subprocess.run(["git", "-C", str(tree), *who, *words], check=True)
    monkeypatch.setenv("ZOO_ARTIFACTS", str(tree / "artifacts"))
    run("first-entry.md", tree)
    assert "lenet300-100-first" in (tree / "leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_the_drawings_are_those_of_the_files(name):
    path = DOCS / f"{name}.svg"
    assert figures.digest_in(path) == figures.digest(pictures.PICTURES[name]()), "run `python -m benchmarks pictures`"
    assert path.stat().st_size < 60_000 and f"({name}.svg)" in (DOCS / "methods.md").read_text(encoding="utf-8")
