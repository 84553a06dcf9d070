"""Fixtures of the bundles' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import BUNDLES


@pytest.fixture(scope="module")
def configs(request: pytest.FixtureRequest) -> Path:
    """The ``configs`` folder of the bundle that the test module names in ``BUNDLE``."""
    return BUNDLES / request.module.BUNDLE / "configs"
