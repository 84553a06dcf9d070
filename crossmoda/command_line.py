"""Commands made of functions by fire, whose options are looked at before anything runs."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fire

from crossmoda.errors import CrossmodaError, did_you_mean, report_in_one_line

OWN_OF_FIRE = ("help",)


def run_command(function: Callable[..., Any]) -> None:
    """Run a script's function with the process's arguments; mistakes end it with one line."""
    report_in_one_line()
    arguments = help_alone(sys.argv[1:])
    require_known_options(function, arguments)
    fire.Fire(function, command=arguments)


def help_alone(arguments: Sequence[str]) -> list[str]:
    """Return arguments; ``--help`` or ``-h`` leaves the help alone, since fire would first call the function."""
    own = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    return ["--", "--help"] if set(own) & {"--help", "-h"} else list(arguments)


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
    plain, left, named = 0, list(arguments), set[str]()
    while left:
        argument = left.pop(0)
        if argument == "--":
            return
        if not _FLAG.match(argument):
            plain += 1
            continue
        option, given, _ = argument.lstrip("-").partition("=")
        if not given and left and not _FLAG.match(left[0]):
            left.pop(0)
            given = "="
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            named.add(_require_option(argument.partition("=")[0], option, names, bool(given)))
    free = [name for name in names if name not in named]
    if plain > len(free) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise CrossmodaError(
            f"{plain} arguments without a name, but there are {len(free)} at most: {', '.join(free) or 'all are named'}"
        )


_FLAG = re.compile("--|-[a-zA-Z]")  # as fire tells options from values, which may be negative numbers
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _require_option(argument: str, option: str, names: Sequence[str], has_value: bool) -> str:
    """Return the parameter that fire takes an option for: its name, the first letter of it alone, or ``no`` before it.

    Raises:
        CrossmodaError: there is none.
    """
    name = option.replace("-", "_")
    if name in names or name in OWN_OF_FIRE:
        return name
    begun = [known for known in names if len(name) == 1 and known.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    if not has_value and name.startswith("no") and name.removeprefix("no") in names:
        return name.removeprefix("no")
    raise CrossmodaError(f"{argument} is unknown; {did_you_mean(name, names)}")
