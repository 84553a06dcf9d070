"""Versions of what decides a training's outcome, told without importing any of it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from crossmoda.files import hash_of, sha256_of

_PACKAGES = ("crossmoda", "monai", "torch", "numpy", "pytorch-ignite")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a training gives."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            from crossmoda import __version__

            found[name] = __version__ if name == "crossmoda" else "absent"
    return found


def code_hash() -> str:
    """Return a short hash of this project's Python files, which tells two states of one version apart."""
    folder = Path(__file__).parent
    files = sorted(folder.rglob("*.py"))
    return hash_of([[path.relative_to(folder).as_posix(), sha256_of(path)] for path in files])[:12]
