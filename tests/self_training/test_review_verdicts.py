"""Verdicts that count only on what their author saw."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from crossmoda.self_training.review_verdicts import ChangedMeanwhileError, require_as_seen, state_of

CASE: dict[str, Any] = {
    "image": {"ext": ".nii.gz", "info": {}},
    "labels": {"original": {"ext": ".nii.gz", "info": {"sha256": "a1", "ts": 1}}},
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    case = copy.deepcopy(CASE)
    place = case
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = to
    return case


@pytest.mark.parametrize(
    "other",
    [
        changed("labels", "original", "info", "sha256", to="b2"),
        changed("labels", "original", "info", "segmentationMeta", to={"status": "flagged"}),
        changed("labels", "original", "info", "segmentationMeta", to={"comment": "motion"}),
        changed("labels", "final", to={"ext": ".nii.gz", "info": {"sha256": "a1", "ts": 1}}),
        changed("labels", to={}),
    ],
)
def test_a_verdict_on_what_has_changed_is_refused(other: dict[str, Any]) -> None:
    require_as_seen("case.1", other, state_of(other))
    with pytest.raises(ChangedMeanwhileError, match=r"image 'case\.1': somebody has saved or judged it meanwhile"):
        require_as_seen("case.1", other, state_of(CASE))
    require_as_seen("case.1", other, None)  # 3D Slicer's Reviewer does not tell what it saw


def test_what_does_not_speak_for_the_case_does_not_count() -> None:
    handed_out = changed("work", to={"anna": {"handed_out": "2026-01-01"}})
    measured = changed("image", "info", "uncertainty", to=0.5)
    assert state_of(handed_out) == state_of(measured) == state_of(CASE)


@pytest.mark.parametrize("nonsense", ["", 3, {"a": 1}, ["x"]])
def test_nonsense_is_no_state(nonsense: object) -> None:
    with pytest.raises(ChangedMeanwhileError):
        require_as_seen("case.1", CASE, nonsense)
