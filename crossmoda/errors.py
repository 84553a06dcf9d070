"""The one exception that people are meant to read."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from types import TracebackType

NO_TARGET = "Cannot locate class or function path"  # how MONAI begins to say so


class CrossmodaError(ValueError):
    """Report a mistake that the user can mend, in one line that names the file or the key and says what to do."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt one most likely means, upper case or not; None where none is like it."""
    candidates = {str(candidate).casefold(): str(candidate) for candidate in sorted(known, key=str)}
    nearest = difflib.get_close_matches(str(name).casefold(), candidates, n=1)
    return candidates[nearest[0]] if nearest else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: the nearest one, or else how many there are."""
    known = list(known)
    nearest = nearest_name(name, known)
    return (
        f"did you mean '{nearest}'?" if nearest is not None else f"none of the {len(known)} that there are is like it"
    )


def require_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False: MONAI's command line makes text of "true" and "false", and text is true.

    Raises:
        CrossmodaError: naming the setting.
    """
    if not isinstance(value, bool):
        raise CrossmodaError(f"{name} is {value!r}; write True or False on the command line")


def require_counts(**counts: object) -> None:
    """Refuse settings that count something and are not whole numbers from 1 up.

    Raises:
        CrossmodaError: naming the first such setting.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CrossmodaError(f"{name} is {value!r}; give a whole number from 1 up")


def find_user_error(error: BaseException | None) -> CrossmodaError | None:
    """Return the first ``CrossmodaError`` in an exception's chain of causes, or None.

    MONAI wraps whatever a configuration raises in errors of its own, so the one worth reading sits at the end of the
    chain. MONAI's own for a ``_target_`` that is not there is made one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, CrossmodaError):
            return error
        if isinstance(error, ModuleNotFoundError) and str(error).startswith(NO_TARGET):
            return CrossmodaError(f"{str(error).rstrip('.')}; correct the name after _target_")
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def report_in_one_line() -> None:
    """Make uncaught ``CrossmodaError``s end the process with one line on stderr instead of a traceback.

    Called in the ``initialize`` section of every bundle, because ``python -m monai.bundle run`` prints tracebacks.
    Set ``CROSSMODA_DEBUG=1`` to see the traceback as well.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        user_error = find_user_error(error)
        if user_error is None or os.environ.get("CROSSMODA_DEBUG"):
            previous(kind, error, trace)
            return
        print(f"error: {user_error}", file=sys.stderr)

    sys.excepthook = hook
