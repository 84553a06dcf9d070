"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the project."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the few real volumes, or a visible skip where they are absent."""
    folder = Path(os.environ.get("CROSSMODA_REAL_DATA", REPOSITORY.parent / "shared" / "real"))
    if not (folder / "vs_gk_98_hrT2.nii.gz").is_file():
        pytest.skip(f"no real volumes in {folder}; set CROSSMODA_REAL_DATA to run this test")
    return folder
