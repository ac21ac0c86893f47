"""Check a contribution before it is pushed: all that must be mended, at once.

    python -m benchmarks check                       what differs from the project's branch main (`make check`)
    python -m benchmarks check --base origin/main    from another branch or commit
    python -m benchmarks check --bytes-only          no test sets: quick, and not enough for a pull request

    git: files that were added, changed or removed ──> the rules of benchmarks/check/rules.py ──> what to mend, file by file

Exit status 0: nothing to mend; 1: something is; 2: it could not be checked, because a test set could not be had.
What the check cannot judge, such as changed code, it names for the person who reviews.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.check import rules
from benchmarks.check.rules import Change, Verdict

ROOT = Path(__file__).parents[2]
BASES = ("upstream/main", "origin/main", "main")  # the first that there is; a fork's own main may be the contribution


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", help=f"branch or commit to compare with (default: the first there is of {', '.join(BASES)})")
    parser.add_argument("--bytes-only", action="store_true", help="derive no test errors again")


def main(args: argparse.Namespace) -> int:
    base = args.base or default_base(ROOT)
    change = changes(ROOT, base)
    verdict = review(change, args.bytes_only)
    for path, complaints in verdict.faults.items():
        _print(f"in {path}:")
        for text in complaints:
            _print(f"  - {text}")
    for text in verdict.unavailable:
        _print(f"not checked: {text}")
    for text in verdict.notes:
        _print(f"for the reviewer: {text}")
    entries = f", {verdict.derived} of {len(change.ids())} entries derived again" if change.ids() else ""
    count = sum(map(len, verdict.faults.values()))
    result = f"{count} to mend in {len(verdict.faults)} places" if count else "nothing to mend"
    print(f"{len(change.files)} files changed against {base} ({change.base[:12]}){entries}: {result}")
    return 1 if count else 2 if verdict.unavailable else 0


def review(change: Change, bytes_only: bool = False, rendered: Callable[[Path], list[str]] | None = None) -> Verdict:
    """The verdict of all rules. rendered: what finds stale files of the leaderboard below a root (default: its command)."""
    verdict = Verdict()
    for rule in (rules.places, rules.contents, rules.released, rules.recipes_are_valid, rules.quotations, rules.results):
        rule(change, verdict)
    rules.entries(change, verdict, bytes_only)
    rules.leaderboard(change, verdict, rendered or stale)
    rules.code(change, verdict)
    return verdict


def default_base(root: Path) -> str:
    """The project's branch main, as far as this clone knows it."""
    for base in BASES:
        words = ["git", "-C", str(root), "rev-parse", "-q", "--verify", f"{base}^{{commit}}"]
        if subprocess.run(words, capture_output=True).returncode == 0:
            return base
    return BASES[-1]


def _print(text: str) -> None:
    """Words that may be a stranger's: no line of them is a command to a terminal or to what runs the check."""
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    print("\n  | ".join(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "?", text).split("\n")))


def changes(root: Path, base: str) -> Change:
    """What the working tree has that the last commit in common with `base` has not; files that git ignores do not count.

    Raises ValueError where `base` is no commit, or this is no git repository.
    """
    try:
        commit = _git(root, "merge-base", base, "HEAD").decode().strip()
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ValueError(f"no commit to compare with: --base {base} ({reason}); `git fetch` brings branches") from error
    words = _git(root, "diff", "--name-status", "--no-renames", "-z", commit).decode(errors="surrogateescape").split("\0")
    files = dict(zip(words[1::2], (status[0] for status in words[::2]), strict=False))
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z").decode(errors="surrogateescape").split("\0")
    files |= {path: "A" for path in untracked if path}
    names = _git(root, "ls-tree", "-r", "--name-only", "-z", commit).decode(errors="surrogateescape").split("\0")
    return Change(root, commit, files, frozenset(name for name in names if name), _git)


def stale(root: Path) -> list[str]:
    """Files of the leaderboard that the records would render otherwise."""
    command = [sys.executable, "-m", "benchmarks", "leaderboard", "--check"]
    done = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    stated = [line for line in lines if "out of date" in line]
    return (stated or lines[-1:] or ["cannot be rendered"]) if done.returncode else []


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True).stdout
