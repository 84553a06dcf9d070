from __future__ import annotations

import pytest

from crossmoda.durations import duration_text


@pytest.mark.parametrize(("seconds", "text"), [(3.25, "3.2 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_told_as_people_do(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
