"""Versions of the packages that a training or a measurement ran with, for logs and records."""

import platform
from importlib import metadata

PACKAGES = ("torch", "numpy", "constriction", "entropy-coded-zoo")


def versions() -> dict[str, str]:
    """Name -> version of Python and of those packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
