"""Values of options as 3D Slicer's panel or a shell sends them, numbers and switches also as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossmoda.errors import CrossmodaError


def whole_number(name: str, value: Any) -> int:
    """Return a whole number from 1 up.

    Raises:
        CrossmodaError: naming the option.
    """
    number = _number(value)
    if number is None or number < 1 or not number.is_integer():
        raise _wrong(name, value, "give a whole number from 1 up")
    return int(number)


def share(name: str, value: Any, most: float = 1.0) -> float:
    """Return a number from 0 to ``most``.

    Raises:
        CrossmodaError: naming the option.
    """
    number = _number(value)
    if number is None or not 0 <= number <= most:
        raise _wrong(name, value, f"give a number from 0 to {most:g}")
    return number


def switch(name: str, value: Any) -> bool:
    """Return whether an option is on.

    Raises:
        CrossmodaError: naming the option.
    """
    known = {"true": True, "false": False}
    if str(value).lower() not in known:
        raise _wrong(name, value, "give true or false")
    return known[str(value).lower()]


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of the choices.

    Raises:
        CrossmodaError: naming the option.
    """
    if value not in choices:
        raise _wrong(name, value, f"use one of {', '.join(choices)}")
    return str(value)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _wrong(name: str, value: Any, remedy: str) -> CrossmodaError:
    return CrossmodaError(f"{name} {str(value)[:40]!r}: {remedy}")
