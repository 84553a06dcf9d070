"""One process at a time in a folder, and how often one has begun there."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_WORK = ".in_work"  # a line of it is a try

_held: set[Path] = set()  # by this process

logger = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process works in a folder, hold it, and note a try; who holds it already goes on.

    A worker that was given up may be at work for some more seconds, or longer if only its connection was lost.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    with (place / IN_WORK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            logger.warning("%s: another process is still at work there; waiting for it", folder)
            fcntl.flock(stream, fcntl.LOCK_EX)
        print("begun", file=stream, flush=True)
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)


def tries_in(folder: Path) -> int:
    """Return how often a process has begun in a folder."""
    file = folder / IN_WORK
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


def forget_tries(folder: Path) -> None:
    """Delete what tells of tries in a folder and below, once the work there is done."""
    for file in folder.rglob(IN_WORK):
        file.unlink(missing_ok=True)
