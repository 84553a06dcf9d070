"""What a worker must share with the process that launches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crossmoda.launching import orders
from crossmoda.launching.orders import Home, code_versions, misfit


def test_a_worker_tells_in_one_line_why_it_cannot_do_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "PATIENCE_S", 0)
    home = Home(str(tmp_path), str(tmp_path), 1, code_versions(), "topic")
    assert misfit(home, str(tmp_path), 1) == ""
    assert "gone; the output folder must lie on a file system that all" in misfit(home, str(tmp_path / "gone"), 1)
    elsewhere = replace(home, folder=str(tmp_path / "gone"))
    assert "gone; the command's current folder must lie on" in misfit(elsewhere, str(tmp_path), 1)
    other = replace(home, versions={**code_versions(), "torch": "0.4"})
    assert ", here it is 0.4; start workers in the environment of this command" in misfit(other, str(tmp_path), 1)
    assert misfit(home, str(tmp_path), 8) == (
        "runs 8 tasks at once, but a training is to have it alone; start it with --nthreads 1"
    )
