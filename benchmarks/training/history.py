"""Weights that a run starts from: an entry, or a file that was one once and left the shelf.

    "vgg16-ref"                       the entry
    "vgg16-ref-short@<SHA-256>"       the entry if it has these bytes, else the file of that digest in git's history
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from torch import nn

import zoo
from zoo import registry
from zoo.errors import ArtifactUnavailable

ROOT = Path(__file__).parents[2]


def load(source: str, root: Path = ROOT) -> nn.Module:
    """The network that a `warm_start` names. Raises ValueError for a malformed digest, else as `removed` does."""
    id, _, digest = source.partition("@")
    if not digest:
        return zoo.load(id)
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"warm_start {source!r}: expected ID@SHA-256 in 64 hex digits")
    if id in registry.ids() and registry.find(id).sha256 == digest:
        return zoo.load(id)
    return zoo.from_bytes(removed(id, digest, root))


def removed(id: str, digest: str, root: Path = ROOT) -> bytes:
    """The bytes with this digest that artifacts/<id>/model.zoo had at some commit.

    Raises ArtifactUnavailable where this is no clone, or a shallow one that lacks the commit, with what to do.
    """
    path = f"artifacts/{id}/{registry.MODEL}"
    commits = _git(root, "log", "--all", "--format=%H", "--diff-filter=AM", "--", path)
    for commit in (commits or b"").decode().split():
        blob = _git(root, "show", f"{commit}:{path}")
        if blob is not None and hashlib.sha256(blob).hexdigest() == digest:
            return blob
    raise ArtifactUnavailable(
        f"{id} is no longer an entry, and the file with SHA-256 {digest} is not in the git history of {root}: "
        "train in a full clone of the repository (`git fetch --unshallow` completes a shallow one)"
    )


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints; None where it fails or is not installed."""
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
