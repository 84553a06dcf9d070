"""``python -m crossmoda COMMAND``: exit status 0 only on success, errors in one line, ``--debug`` for the traceback."""

from __future__ import annotations

import os
import sys

import fire

from crossmoda.commands import Commands
from crossmoda.errors import find_user_error


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ["CROSSMODA_DEBUG"] = "1"
    try:
        status = fire.Fire(Commands(), command=arguments, name="python -m crossmoda", serialize=lambda value: "")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
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
