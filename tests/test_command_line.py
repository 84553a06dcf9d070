"""Options of commands are looked at before a command runs."""

from __future__ import annotations

from typing import Any

import pytest

from crossmoda.__main__ import main
from crossmoda.command_line import require_known_options, run_command
from crossmoda.errors import CrossmodaError


def plain(folder: str, cases: int = 3, record: bool = False) -> None: ...


def free(folder: str, **settings: Any) -> None: ...


@pytest.mark.parametrize(
    "arguments",
    [
        ["out", "--cases", "4"],
        ["--folder=out", "--cases=-4", "--record"],
        ["out", "--norecord"],
        ["out", "-c", "4"],
        ["out", "--help"],
        ["out", "--", "--trace"],
        ["out", "-4"],
        ["out", "--c", "4"],
        ["out", "-record"],
        ["out", "-r"],
    ],
)
def test_what_the_function_knows_passes(arguments: list[str]) -> None:
    require_known_options(plain, arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["out", "--case", "4"], "--case is unknown; did you mean 'cases'?"),
        (["out", "--cases=4", "--xyz"], "--xyz is unknown; none of the 3 that there are is like it"),
        (["out", "-case", "4"], "-case is unknown; did you mean 'cases'?"),
        (["out", "--nocases", "4"], "--nocases is unknown; did you mean 'cases'?"),
        (["out", "4", "True", "--folder", "z"], "3 arguments without a name, but there are 2 at most: cases, record"),
        (["out", "-x"], "-x is unknown; none of the 3 that there are is like it"),
        (["out", "4", "True", "more"], "4 arguments without a name, but there are 3 at most: folder, cases, record"),
    ],
)
def test_what_it_does_not_know_is_told_with_the_nearest(arguments: list[str], told: str) -> None:
    with pytest.raises(CrossmodaError) as caught:
        require_known_options(plain, arguments)
    assert str(caught.value) == told


def test_settings_of_any_name_pass_where_they_are_taken() -> None:
    require_known_options(free, ["out", "--anything=1", "--else", "2"])


def test_a_command_with_a_misspelt_option_does_nothing(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teacher", str(tmp_path / "maps"), "--cases", "1", "--worker", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: --worker is unknown; ")
    assert not (tmp_path / "maps").exists()


def test_help_beside_other_arguments_does_nothing_else(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            main(["teacher", str(tmp_path / "maps"), "--cases", "1", flag])
        assert ended.value.code == 0
        assert "one in five has no tumour" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def test_a_script_with_a_misspelt_option_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def script(cases: int = 1) -> None:
        called.append(cases)

    monkeypatch.setattr("sys.argv", ["script.py", "--cases", "2"])
    run_command(script)
    monkeypatch.setattr("sys.argv", ["script.py", "--caes", "2"])
    with pytest.raises(CrossmodaError, match="--caes is unknown; did you mean 'cases'"):
        run_command(script)
    assert called == [2]
