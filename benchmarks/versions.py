"""What trained or measured: for logs and records."""

import platform
from importlib import metadata

PACKAGES = ("torch", "numpy", "constriction", "entropy-coded-zoo")


def versions() -> dict[str, str]:
    """Name -> version of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
