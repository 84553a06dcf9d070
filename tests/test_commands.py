from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crossmoda.__main__ import main
from crossmoda.demo import command_line, outcome, run_demo
from crossmoda.errors import CrossmodaError


def structure(dice: float, assd: float) -> dict:
    return {"dice": {"mean": dice}, "assd": {"mean": assd}}


def test_an_error_is_one_line_and_the_status_is_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert "nothing" in printed


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSMODA_DEBUG", "")
    with pytest.raises(ValueError, match="nothing"):
        main(["--debug", "report", str(tmp_path / "nothing")])


def test_check_returns_the_status_of_what_it_found(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny_dataset)]) == 0
    assert "ldn" in capsys.readouterr().out


def test_an_unknown_edition_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", str(tmp_path / "out"), "--cases", "1", "--edition", "1999"]) == 1
    assert "1999" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_names_every_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "crossmoda", "--", "--help"], capture_output=True, text=True, check=False
    )
    commands = "phantom check plan estimate cross_validate evaluate compare rank submit report review serve audit"
    for command in [*commands.split(), "next_round", "demo"]:
        assert command in shown.stdout + shown.stderr


def test_the_outcome_shows_four_stages_and_what_was_recovered() -> None:
    comparison = {
        "source_only": {"vs": structure(0.10, 20)},
        "translated": {"vs": structure(0.50, 3)},
        "self_trained": {"vs": structure(0.75, 1)},
        "oracle": {"vs": structure(0.80, 0.5)},
        "recovered": {"vs": 0.93},
    }
    lines = outcome(comparison).strip().splitlines()
    figures = [line.split()[-2:] for line in lines[1:5]]
    assert figures == [["0.100", "20.00"], ["0.500", "3.00"], ["0.750", "1.00"], ["0.800", "0.50"]]
    assert lines[5].split() == ["recovered", "93%"]


def test_a_misspelt_parameter_of_the_demo_s_dataset_is_named_before_any_is_made(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("phantom: {cases: 1, validaton: 1}")
    with pytest.raises(CrossmodaError, match=r"demo\.yaml: phantom: .*'validaton' .*; did you mean 'validation'\?"):
        run_demo(tmp_path / "run", tmp_path / "data", [tmp_path / "demo.yaml"])
    assert not (tmp_path / "data").exists()


def test_the_demo_tells_the_command_that_does_the_same_by_monai() -> None:
    line = command_line(Path("runs/a"), Path("data"), [Path("b/train.yaml"), Path("c/demo.yaml")])
    files = "\"['b/train.yaml','c/demo.yaml']\""
    assert line == f"python -m monai.bundle run --config_file {files} --dataset_dir data --output_dir runs/a"
