"""What clients say is kept only where it can be read back."""

from __future__ import annotations

from typing import Any

import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_info import (
    attributed,
    complete_meta,
    parse_object,
    require_image_info,
    require_label_info,
)

META = {"status": "approved", "level": "easy", "approvedBy": "Dr. Berg", "comment": "größer", "editTime": 1767225600}


def test_an_object_is_read() -> None:
    assert parse_object('{"a": [1, {"b": "ü"}]}', "params") == {"a": [1, {"b": "ü"}]}
    assert parse_object("", "params") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"a": NaN}', "'a': holds a number that is not finite"),
        ('{"a": {"b": 1e999}}', "not finite"),
        ('{"a": "\\ud800"}', "not Unicode"),
        ('{"a":' * 20 + "1" + "}" * 20, "deeper than 16"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "longer|not JSON|deeper"),
        ('{"a": "' + "x" * 20_001 + '"}', "more than 20000"),
        (" " * 262_145, "longer than 262144"),
    ],
)
def test_what_cannot_be_kept_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CrossmodaError, match=f"params.*({reason})"):
        parse_object(text, "params")


def test_a_verdict_has_all_keys_that_the_reviewer_reads() -> None:
    assert complete_meta({"status": "flagged"}) == {
        **{"status": "flagged", "level": "", "approvedBy": "", "comment": "", "editTime": ""},
    }
    assert complete_meta(META) == META


def test_a_verdict_is_of_who_has_signed_in_but_another_s_that_is_repeated_remains_theirs() -> None:
    mine = {"status": "approved", "approvedBy": "somebody", "comment": "", "level": "easy"}
    assert attributed(mine, {}, "anna") == {**mine, "approvedBy": "anna"}
    theirs = {"status": "flagged", "approvedBy": "berg", "comment": "tip?", "level": "easy"}
    assert attributed({**theirs, "level": "hard"}, theirs, "anna") == {**theirs, "level": "hard"}
    for changed in ({"status": ""}, {"comment": "none"}, {"approvedBy": "carla"}):
        assert attributed({**theirs, **changed}, theirs, "anna")["approvedBy"] == "anna"
    assert attributed({"level": "hard"}, {}, "anna") == {"level": "hard"}


def test_a_reviewer_s_own_words_pass() -> None:
    require_label_info({"segmentationMeta": META, "client_id": "user-anna", "label_info": []})
    require_label_info({"segmentationMeta": {**META, "editTime": ""}})  # the Reviewer's, before anything was edited
    require_image_info({"comment": "moved"})


@pytest.mark.parametrize(
    "info",
    [
        {"segmentationMeta": 5},
        {"segmentationMeta": {"status": ["approved"]}},
        {"segmentationMeta": {"editTime": -1}},
        {"segmentationMeta": {"editTime": 1e300}},
        {"client_id": {"a": 1}},
        {"client_id": "x" * 201},
        {"a": float("inf")},
    ],
)
def test_a_verdict_that_would_spoil_the_store_is_refused(info: dict[str, Any]) -> None:
    with pytest.raises(CrossmodaError):
        require_label_info(info)


@pytest.mark.parametrize("key", ["case", "uncertainty", "quarantined", "strategy"])
def test_what_the_server_says_of_a_scan_cannot_be_said_by_a_client(key: str) -> None:
    with pytest.raises(CrossmodaError, match=f"'{key}' is set by the server"):
        require_image_info({key: "../../evil"})
