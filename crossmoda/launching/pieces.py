"""What is launched: pieces of work, in courses that depend on nothing of one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """Work whose outcome is the same in whichever process it is done, and that goes on where a killed try has stopped.

    Args:
        name: for people.
        place: folder that it alone works in, made already.
        work: does it and returns nothing; what it makes is in files.
        here: it launches pieces itself, so that it is done in this process.
    """

    name: str
    place: Path
    work: Callable[[], Any]
    here: bool = False


# Pieces that follow one another. Each is done before the course is asked for the next, and the course is sent the
# seconds that it took; what a course does between its pieces (keep records) is done in the process that launches it.
Course = Generator[Piece, float, T]


class Launcher:
    """Follow courses here, one after another."""

    scheduler: str | None = None  # of the cluster that pieces are handed to
    at_once = 1  # how many pieces are worked at together

    def __enter__(self) -> Launcher:
        """Get ready to run, and find what would stop a piece before any is begun."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what running needs."""

    def run(self, courses: Iterable[Course[T]]) -> list[T]:
        """Follow independent courses to their ends, and return what they return, in their order.

        Raises:
            CrossmodaError: whatever a piece found to be the user's to mend; other courses then stop, too.
        """
        return [follow(course) for course in courses]

    def call(self, name: str, place: Path, work: Callable[[], Any]) -> None:
        """Do a piece of work by itself where pieces are done."""

        def course() -> Course[None]:
            yield Piece(name, place, work)

        self.run([course()])


def follow(course: Course[T]) -> T:
    """Do the pieces of a course in this process, and return what the course returns."""
    seconds: Any = None  # what a generator must be sent first
    while True:
        try:
            piece = course.send(seconds)
        except StopIteration as end:
            result: T = end.value
            return result
        seconds = do(piece)


def do(piece: Piece) -> float:
    """Do a piece in this process, and return the seconds that it took."""
    started = time.monotonic()
    piece.work()
    return time.monotonic() - started
