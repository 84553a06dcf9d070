"""What clients say about scans and labels, checked before it is kept: one unreadable value would spoil the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_order import MEASURES

# What the store itself says of a label or a scan; clients cannot set it.
LABEL_FACTS = (
    *("values", "label_info", "sha256", "name", "structures", "ts", "saved"),
    *("archived_from", "archived", "recovered"),
)
IMAGE_FACTS = (
    *("case", "site", *MEASURES, "quarantined", "name", "path", "ts", "strategy"),
    *("series", "series_fault", "segmentation"),
)
META_KEYS = ("status", "level", "approvedBy", "comment", "editTime")  # of segmentationMeta
LONGEST = 262_144  # characters of one JSON text

_DEEPEST = 16
_LONGEST_TEXT = 20_000  # characters; a comment is shorter
_LAST_SECOND = 253_402_300_799  # of the year 9999, after which no date can be made of a time


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object that a text holds; an empty text is an empty object.

    Raises:
        CrossmodaError: too long, not JSON, not an object, or a value that cannot be kept (see ``require_plain``).
    """
    if len(text) > LONGEST:
        raise CrossmodaError(f"{what}: longer than {LONGEST} characters; send less")
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise CrossmodaError(f"{what}: not JSON; send an object such as {{}}") from error
    if not isinstance(value, dict):
        raise CrossmodaError(f"{what}: not a JSON object; send an object such as {{}}")
    require_plain(value, what)
    return value


def require_plain(value: Any, what: str, depth: int = 0) -> None:
    """Refuse what JSON's readers would stumble over: numbers that are not finite, broken characters, great depth.

    Raises:
        CrossmodaError: naming ``what``.
    """
    if depth > _DEEPEST:
        raise CrossmodaError(f"{what}: nested deeper than {_DEEPEST} levels; send less")
    if isinstance(value, float) and not math.isfinite(value):
        raise CrossmodaError(f"{what}: holds a number that is not finite; leave it out")
    if isinstance(value, str):
        _require_text(value, what)
    if isinstance(value, Mapping):
        for key, item in value.items():
            require_plain(str(key), what, depth + 1)
            require_plain(item, f"{what}: {str(key)[:40]!r}" if depth == 0 else what, depth + 1)
    elif isinstance(value, list):
        for item in value:
            require_plain(item, what, depth + 1)


def require_label_info(info: Mapping[str, Any]) -> None:
    """Refuse what cannot be kept of what a client says of a label; ``LABEL_FACTS`` it may say, but they do not count.

    Raises:
        CrossmodaError: a value cannot be kept, or ``segmentationMeta`` is not what a reviewer's module sends.
    """
    require_plain(dict(info), "label info")
    require_client_id(info)
    _require_meta(info.get("segmentationMeta"))


def require_image_info(info: Mapping[str, Any]) -> None:
    """Refuse what cannot be kept of what a client says of a scan.

    Raises:
        CrossmodaError: a value cannot be kept, or the store alone says it (``IMAGE_FACTS``).
    """
    require_plain(dict(info), "image info")
    require_client_id(info)
    for key in IMAGE_FACTS:
        if key in info:
            raise CrossmodaError(f"image info: '{key}' is set by the server; leave it out")


def meta_of(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a reviewer said of a label, given its info; nothing where a file edited by hand holds no object."""
    meta = info.get("segmentationMeta")
    return meta if isinstance(meta, Mapping) else {}


def complete_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``segmentationMeta`` with all its keys: one that lacks any stops 3D Slicer's Reviewer for all cases."""
    return {**dict.fromkeys(META_KEYS, ""), **meta}


def attributed(meta: Mapping[str, Any], known: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Return a verdict with the name of who has signed in, whatever name the client gives.

    A verdict that repeats the known one remains its author's: with every verdict on one version of a label, 3D Slicer's
    Reviewer sends those on the other versions again, with the new level.

    Args:
        meta: ``segmentationMeta`` as received; one that names nobody is not a verdict.
        known: that of the same label so far.
        user: who has signed in.
    """
    repeated = all(meta.get(key) == known.get(key) for key in ("status", "comment", "approvedBy"))
    return dict(meta) if repeated or not meta.get("approvedBy") else {**meta, "approvedBy": user}


def require_client_id(params: Mapping[str, Any]) -> None:
    """Refuse a client's name that is no short text.

    Raises:
        CrossmodaError: naming the key.
    """
    client = params.get("client_id")
    if client is not None and not (isinstance(client, str) and len(client) <= 200):
        raise CrossmodaError(
            "client_id: not a text of at most 200 characters; set a user name in the client's settings"
        )


def _require_meta(meta: Any) -> None:
    if meta is None:
        return
    if not isinstance(meta, Mapping):
        raise CrossmodaError("segmentationMeta: not an object; save from the Reviewer module")
    for key in ("status", "level", "approvedBy", "comment"):
        if meta.get(key) is not None and not isinstance(meta[key], str):
            raise CrossmodaError(f"segmentationMeta: '{key}' is not a text")
    time: Any = meta.get("editTime")
    number = isinstance(time, (int, float)) and not isinstance(time, bool)
    if (number and not 0 <= time <= _LAST_SECOND) or not (number or time is None or isinstance(time, str)):
        raise CrossmodaError("segmentationMeta: 'editTime' is not a time in seconds since 1970")


def _require_text(text: str, what: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise CrossmodaError(f"{what}: a text of more than {_LONGEST_TEXT} characters; send less")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CrossmodaError(f"{what}: holds characters that are not Unicode text; leave them out") from error
