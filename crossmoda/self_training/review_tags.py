"""Tags: what the labels of one scan are called in the store."""

from __future__ import annotations

import re

from crossmoda.errors import CrossmodaError

ORIGINAL = "original"  # the model's pseudo-label
FINAL = "final"  # the clinician's label

TAG = re.compile(r"original|final|version_[1-9][0-9]{0,5}")


def version_number(tag: str) -> int:
    """Return N of ``version_N``, or 0 for another tag."""
    return int(tag.removeprefix("version_")) if tag.startswith("version_") else 0


def check_tag(tag: str) -> str:
    """Return the tag.

    Raises:
        CrossmodaError: it is not original, final or version_N, so that no other folder can be named through it.
    """
    if not TAG.fullmatch(tag):
        raise CrossmodaError(f"tag {tag[:60]!r}: not a tag of this store; use original, final or version_N")
    return tag
