"""Saves that the server acknowledged outlive its being killed: the short form of ``scripts/kill_server.py``."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import write_run


def test_acknowledged_saves_outlive_kills(tmp_path: Path, repository: Path) -> None:
    run = write_run(tmp_path / "run", repository)
    command = [sys.executable, str(repository / "scripts" / "kill_server.py"), str(run)]
    done = subprocess.run(
        [*command, "--saves", "24", "--clients", "8", "--kills", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost" in done.stdout
    assert "unreadable 0 times, 3 cases in it; 0 unfinished" in done.stdout
    assert "0 acknowledged ones not, 0 without their former version; 0 disagreements" in done.stdout


def test_a_save_that_names_no_former_version_is_found(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    find = importlib.import_module("kill_server").without_former_version
    saves = [
        {"image_id": "a", "at": "1"},
        {"image_id": "b", "at": "2"},
        {"image_id": "a", "at": "3", "replaced": "version_1"},
        {"image_id": "a", "at": "4", "replaced": "version_2"},
        {"image_id": "b", "at": "5"},
    ]
    objects = {"a": {"labels": {"final": {}, "version_1": {}}}, "b": {"labels": {"final": {}}}}
    assert find(saves[:3], objects) == []
    assert find(saves, objects) == [
        "a: version_2, replaced at 4, is not there",
        "b: the save at 5 names no former version",
    ]
