"""What is said of wrong input, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmoda.__main__ import joined, main

pytestmark = pytest.mark.usefixtures("in_the_repository")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line with which the command ends."""
    assert main(["estimate", *arguments]) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    return printed[-1]


def test_wrong_input_is_named_in_one_line(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, wrong = str(tiny_dataset), tmp_path / "wrong.yaml"
    wrong.write_text("translator_setings: {ngf: 4}")
    missing = told(capsys, data, "--config", "configs/kang2023.yaml")
    assert missing == "error: configs/kang2023.yaml: no such configuration file; mend its name"
    misspelt = told(capsys, data, "--config", str(wrong))
    assert misspelt.startswith(f"error: {wrong}: no such key 'translator_setings'")
    assert misspelt.endswith("did you mean 'translator_settings'?")
    assert told(capsys, data, "--rouns", "1").endswith("did you mean 'rounds'?")
    assert "price_per_hour is -1; give a number from 0 up" in told(capsys, data, "--price_per_hour=-1")
    assert "cases is 1; give 2 or more" in told(capsys, data, "--cases", "1")
    placed = told(capsys, data, "--dataset_dir", str(tmp_path))
    assert placed == "error: dataset_dir: no setting here; the dataset comes first, --output_dir is the run folder"
    # Of a cluster nothing is asked, as workers do not see where is measured; the next mistake is told.
    assert "cases is 1" in told(capsys, data, "--cases", "1", "--scheduler", "tcp://127.0.0.1:9")
    assert "nowhere" in told(capsys, str(tmp_path / "nowhere"))


def test_a_flag_that_comes_several_times_is_a_list() -> None:
    given = ["estimate", "--config", "a.yaml", "data", "--config=b.yaml", "--cases", "3"]
    assert joined(given, "--config") == ["estimate", "data", "--cases", "3", "--config=a.yaml,b.yaml"]
    assert joined(given[:4], "--config") == given[:4]
