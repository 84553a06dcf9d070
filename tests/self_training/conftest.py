"""A folder under review, of whatever run a test module makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmoda.self_training.review import publish


@pytest.fixture
def studies(run: Path) -> Path:
    """The folder beside the module's own ``run``, with its current round published."""
    publish(run, run / "review")
    return run / "review"
