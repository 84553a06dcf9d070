"""Saves that the server acknowledged outlive its being killed: the short form of ``scripts/kill_server.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    assert "0 disagreements" in done.stdout
