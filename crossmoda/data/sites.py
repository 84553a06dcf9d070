"""Sites that settings name, held against the sites that the scans are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmoda.data.naming import UNKNOWN_SITE
from crossmoda.errors import CrossmodaError, did_you_mean

Item = Mapping[str, Any]


def require_sites(
    setting: str, sites: Sequence[str | None], items: Sequence[Item], kind: str, where: str | Path = "the dataset"
) -> None:
    """Make sure that there are scans of every site that a setting names.

    Args:
        setting: its key, for the message.
        sites: that it names; None names no site.
        items: of a datalist, those that the setting is about.
        kind: of these scans, e.g. ``target (hrT2)``, for the message.
        where: the dataset, for the message.

    Raises:
        CrossmodaError: there are none of a site; names the sites that there are and the nearest.
    """
    counts = Counter(str(item.get("site") or UNKNOWN_SITE) for item in items)
    for site in sites:
        if site is None or site in counts:
            continue
        known = [name for name in sorted(counts) if name != UNKNOWN_SITE]
        if known:
            listed = ", ".join(f"{name} ({counts[name]})" for name in sorted(counts))
            told = f"there are scans of {listed}; {did_you_mean(site, known)}"
            remedy = "" if told.endswith("?") else "; name one of these, or leave it out"
        else:
            told = f"the names of its {sum(counts.values())} {kind} scans tell no site"
            remedy = "; leave it out, or give each item of a datalist its site"
        raise CrossmodaError(f"{setting}: {where} has no {kind} scan of site '{site}'; {told}{remedy}")
