from __future__ import annotations

import os
import subprocess
import sys

import pytest

from crossmoda.errors import CrossmodaError, did_you_mean, find_user_error, nearest_name

WRAPPED = """
from crossmoda.errors import CrossmodaError, report_in_one_line
report_in_one_line()
try:
    raise CrossmodaError("scan.nii.gz: the file is empty; copy it again")
except CrossmodaError as error:
    raise RuntimeError("a wrapper's long story") from error
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CROSSMODA_DEBUG": "", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def raised(error: BaseException, cause: BaseException | None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_the_users_error_is_found_below_its_wrappers() -> None:
    user = CrossmodaError("a.nii: bad")
    assert find_user_error(raised(RuntimeError("outer"), raised(KeyError("inner"), user))) is user
    assert find_user_error(user) is user
    assert find_user_error(RuntimeError("ours")) is None
    assert find_user_error(None) is None


def test_an_error_that_arose_while_another_was_handled_is_found() -> None:
    later = RuntimeError("later")
    later.__context__ = CrossmodaError("a.nii: bad")
    assert find_user_error(later) is later.__context__


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("learning_rte", "learning_rate"),
        ("segmenter_setings", "segmenter_settings"),
        ("ROUNDS", "rounds"),
        ("paradigm", None),
    ],
)
def test_the_nearest_name_is_found_or_none(name: str, nearest: str | None) -> None:
    known = ["rounds", "segmenter_settings", "segmenter_overlays", "learning_rate", "max_epochs"]
    assert nearest_name(name, known) == nearest
    assert nearest_name(name, reversed(known)) == nearest
    wanted = "none of the 5 that there are is like it" if nearest is None else f"did you mean '{nearest}'?"
    assert did_you_mean(name, iter(known)) == wanted


def test_a_circle_of_causes_ends() -> None:
    first, second = RuntimeError("1"), RuntimeError("2")
    first.__cause__, second.__cause__ = second, first
    assert find_user_error(first) is None


def test_uncaught_errors_of_users_are_one_line_with_a_failing_status() -> None:
    finished = run(WRAPPED)
    assert finished.returncode == 1
    assert finished.stderr == "error: scan.nii.gz: the file is empty; copy it again\n"


def test_debugging_and_our_own_mistakes_show_the_traceback() -> None:
    assert "Traceback" in run(WRAPPED, CROSSMODA_DEBUG="1").stderr
    ours = run("from crossmoda.errors import report_in_one_line; report_in_one_line(); 1 / 0")
    assert "ZeroDivisionError" in ours.stderr
    assert ours.returncode == 1
