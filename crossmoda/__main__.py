"""``python -m crossmoda COMMAND``: exit status 0 only on success, errors in one line, ``--debug`` for the traceback."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from functools import partial

import fire

from crossmoda.command_line import help_alone, require_known_options
from crossmoda.commands import Commands
from crossmoda.errors import find_user_error

CONFIG = "--config"


def joined(arguments: Sequence[str], flag: str) -> list[str]:
    """Return arguments in which all values of a flag are one, with commas; fire would take the last of them alone."""
    values: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        name, given, value = argument.partition("=")
        if name != flag:
            others.append(argument)
        else:
            values.append(value if given else next(left, ""))
    return [*others, f"{flag}={','.join(values)}"] if len(values) > 1 else list(arguments)


def require_known_options_of(arguments: Sequence[str]) -> None:
    """Refuse options that the named command does not have, before it begins."""
    method = getattr(Commands, arguments[0].replace("-", "_"), None) if arguments else None
    if inspect.isfunction(method):
        require_known_options(partial(method, Commands()), arguments[1:])


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ["CROSSMODA_DEBUG"] = "1"
    try:
        arguments = [*arguments[:1], *help_alone(arguments[1:])]
        require_known_options_of(arguments)
        status = fire.Fire(
            Commands(), command=joined(arguments, CONFIG), name="python -m crossmoda", serialize=lambda value: ""
        )
    except KeyboardInterrupt:
        print("interrupted; give the same command again: recorded steps are not done twice", file=sys.stderr)
        return 130
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None or os.environ.get("CROSSMODA_DEBUG"):
            raise
        print(f"error: {user_error}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
