"""An estimate as people read it."""

from __future__ import annotations

import math
from collections import Counter

from crossmoda.durations import duration_text
from crossmoda.self_training.estimate.extrapolation import BESIDE, Estimate

TITLES = ("", "how often", "seconds each", "hours", "memory, MiB")


def table(estimate: Estimate, price_per_hour: float | None = None) -> str:
    """Return an estimate's lines, its sum, and what is not in it.

    Args:
        estimate: of a run.
        price_per_hour: of the machine, in any currency.
    """
    lines = [TITLES]
    for row in estimate.rows:
        mib = "" if math.isnan(row.mib) else f"{row.mib:.0f}"
        lines.append((f"{row.what}, {row.unit}", f"{row.times:.0f}", f"{row.seconds:.3g}", f"{row.hours:.3f}", mib))
    lines.append(("in all", "", "", f"{estimate.hours:.3f}", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([*text, "", *_remarks(estimate, price_per_hour)])


def _remarks(estimate: Estimate, price_per_hour: float | None) -> list[str]:
    scans = ", ".join(f"{count} {section}" for section, count in estimate.facts.get("scans", {}).items())
    told = [f"about {duration_text(estimate.hours * 3600)} for {len(estimate.steps)} steps, measured on scans: {scans}"]
    if price_per_hour is not None:
        told.append(f"cost: {estimate.hours * price_per_hour:.2f}, at {price_per_hour:g} an hour")
    if any(row.unit == BESIDE for row in estimate.rows):
        told.append(
            f"'{BESIDE}': scans made ready, checkpoints, planning, folds judged; every pseudo-label is accepted"
        )
    if estimate.left_out:
        names = Counter(key.rsplit("/", 1)[1] for key in estimate.left_out)
        counts = ", ".join(f"{name} ({count}x)" for name, count in names.items())
        told.append(f"not measured: {counts}, and looks at validation scans while training")
    return told
