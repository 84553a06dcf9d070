"""What is launched in one process: courses one after another, their records between their pieces."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from crossmoda.launching import Course, Launcher, Piece, launcher_for


def course(name: str, log: list[str], place: Path) -> Course[str]:
    for number in range(2):
        yield Piece(f"{name}{number}", place, partial(log.append, f"{name}{number}"))
        log.append(f"{name}{number} recorded")
    return name


def test_without_a_scheduler_courses_are_followed_one_after_another(tmp_path: Path) -> None:
    log: list[str] = []
    with launcher_for(None, tmp_path) as launcher:
        assert launcher.run(course(name, log, tmp_path) for name in "ab") == ["a", "b"]
    assert type(launcher) is Launcher
    assert log == [
        *["a0", "a0 recorded", "a1", "a1 recorded"],
        *["b0", "b0 recorded", "b1", "b1 recorded"],
    ]


def test_what_fails_in_a_piece_is_raised_as_it_is_and_ends_all_courses(tmp_path: Path) -> None:
    log: list[str] = []

    def fails() -> None:
        raise StopIteration("of the work itself")  # not the end of the course

    def failing() -> Course[None]:
        yield Piece("fails", tmp_path, fails)

    with pytest.raises(StopIteration, match="of the work itself"):
        Launcher().run([failing(), course("b", log, tmp_path)])
    assert log == []


def test_a_course_is_sent_the_seconds_that_its_piece_took(tmp_path: Path) -> None:
    def timed() -> Course[float]:
        return (yield Piece("nothing", tmp_path, lambda: None))

    (seconds,) = Launcher().run([timed()])
    assert 0 <= seconds < 1
