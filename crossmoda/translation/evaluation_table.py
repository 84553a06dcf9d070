"""The figures of an evaluation as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossmoda.translation.measures.transforms import DIFFERENCE, INPUT, TRANSLATION, TRUTH

REAL = "real"  # kind of the real scans of other patients
COLUMNS = {  # with the translations' modality
    TRANSLATION: "translation",
    INPUT: "input",
    TRUTH: "true {}",
    REAL: "real {}",
    DIFFERENCE: "less true {}",
}
NAMES = {  # measure, up to the structure: what people call it, and its best value
    "psnr_db": ("PSNR, dB", "high"),
    "ssim": ("SSIM", "1"),
    "contrast": ("contrast", "true {}'s"),
    "edges": ("edge survival", "1"),
    "dice": ("segmenter's Dice", "1"),
    "flicker": ("flicker", "real {}'s"),
    "kernel_distance": ("kernel distance", "0"),
    "frechet_distance": ("Frechet distance", "0"),
    "intensity_distance": ("intensity distance", "0"),
}

Measures = Mapping[str, Mapping[str, Mapping[str, float]]]


def measures_table(measures: Measures, notes: Sequence[str], modality: str = "hrT2") -> str:
    """Return a row a measure, a column a kind of image, and what was left out, one line each.

    Args:
        measures: ``{measure: {kind: summary}}``: of cases with ``mean, std, n``, of distances with ``value`` and, where
            there is one, ``standard_error``.
        notes: printed below.
        modality: of the translations.
    """
    kinds = [kind for kind in COLUMNS if any(kind in found for found in measures.values())]
    rows = [["measure", "best", "n", *(COLUMNS[kind].format(modality) for kind in kinds)]]
    for measure, found in measures.items():
        title, best = _title(measure)
        count = str(found.get(TRANSLATION, {}).get("n", ""))
        rows.append([title, best.format(modality), count, *(_cell(found.get(kind)) for kind in kinds)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *notes])


def _title(measure: str) -> tuple[str, str]:
    if measure in NAMES:
        return NAMES[measure]
    kind, _, structure = measure.partition("_")
    title, best = NAMES[kind]
    return f"{title}, {structure}", best


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if "value" not in found:
        return f"{found['mean']:.3f} ± {found['std']:.3f}"
    error = found.get("standard_error")
    return f"{found['value']:.3f}" + ("" if error is None else f" ± {error:.3f}")
