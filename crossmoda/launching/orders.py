"""What a cluster's worker is sent, what it answers, and how it tells whether it can do as it is told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossmoda.versions import code_hash, versions

PATIENCE_S = 5.0  # how late a file may appear on a worker


@dataclass(frozen=True)
class Home:
    """What a worker must share with the process that launches.

    Args:
        folder: current folder, from which configurations are named.
        script_folder: where a script finds the modules beside it.
        threads: of PyTorch; on a CPU the last digits of a training depend on their number.
        versions: of Python and packages.
        topic: under which beginnings are told.
    """

    folder: str
    script_folder: str
    threads: int
    versions: Mapping[str, str]
    topic: str


@dataclass(frozen=True)
class Order:
    """A piece on its way to a worker.

    Args:
        name: for people.
        place: the folder that the piece alone works in.
        call: its work, pickled.
        home: where it comes from.
    """

    name: str
    place: str
    call: bytes
    home: Home


@dataclass(frozen=True)
class Outcome:
    """What became of a piece.

    Args:
        worker: that did it.
        seconds: that it took.
        mistake: of the user's, in one line; empty if there is none.
        traceback: of any other error; empty if there is none.
    """

    worker: str = ""
    seconds: float = 0.0
    mistake: str = ""
    traceback: str = ""


def code_versions() -> dict[str, str]:
    """Return what decides a training's outcome beside its settings, data and machine."""
    return {**versions(), "crossmoda's code": code_hash()}


def misfit(home: Home, made_there: str, threads: int) -> str:
    """Return in one line what keeps a worker from doing pieces, or an empty text.

    Args:
        home: what it must share.
        made_there: file or folder that the launching process has just made.
        threads: that the worker runs tasks in.
    """
    for path, what in ((made_there, "the output folder"), (home.folder, "the command's current folder")):
        if not _appears(Path(path)):
            return f"does not see {path}; {what} must lie on a file system that all workers share, at the same path"
    own = code_versions()
    for name, version in home.versions.items():
        if own[name] != version:
            return f"has {name} {own[name]}, here it is {version}; start workers in the environment of this command"
    if threads != 1:
        return f"runs {threads} tasks at once, but a training is to have it alone; start it with --nthreads 1"
    return ""


def _appears(path: Path) -> bool:
    """Tell whether a path is there; a network file system may show what is new some seconds late."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
