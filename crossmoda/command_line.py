"""Commands made of functions by fire, whose options are looked at before anything runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fire

from crossmoda.errors import CrossmodaError, did_you_mean, report_in_one_line

OWN_OF_FIRE = ("help",)


def run_command(function: Callable[..., Any]) -> None:
    """Run a script's function with the process's arguments; mistakes end it with one line."""
    report_in_one_line()
    require_known_options(function, sys.argv[1:])
    fire.Fire(function)


def require_known_options(function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuse options that a function does not have; fire would first call it, for hours perhaps, and then complain.

    Args:
        function: that is about to be called.
        arguments: of the command line, after the command's name. What follows a lone ``--`` is fire's own.

    Raises:
        CrossmodaError: an option that is none of the function's parameters, or more arguments than it takes.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in _NAMED]
    kinds = {parameter.kind for parameter in parameters}
    plain, left = 0, list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":
            return
        if not argument.startswith("--"):
            plain += not argument.startswith("-")
            continue
        option, given, _ = argument[2:].partition("=")
        if not given and left and not left[0].startswith("--"):
            left.pop(0)
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            _require_option(option, names)
    if plain > len(names) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise CrossmodaError(
            f"{plain} arguments without a name, but there are {len(names)} at most: {', '.join(names)}"
        )


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _require_option(option: str, names: Sequence[str]) -> None:
    name = option.replace("-", "_")
    if name in names or name in OWN_OF_FIRE or name.removeprefix("no") in names:
        return
    raise CrossmodaError(f"--{option} is unknown; {did_you_mean(name, names)}")
