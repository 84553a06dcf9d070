"""By what the cases of a round can be put in order for review."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmoda.files import read_json

# What a scan's info calls a measure -> the files that may hold it, {case: value}, the first that is there. Members or
# mirrored copies of a segmenter disagree by their mutual information, those that vote by their votes.
MEASURES: Mapping[str, tuple[str, ...]] = {
    "uncertainty": ("uncertainty.json",),
    "disagreement": ("mutual_information.json", "disagreement.json"),
    "expected_change_ml": ("expected_change_ml.json",),
}


def case_measures(run: Path, current: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return measure -> case -> value of a run's current round; a measure that the round has not taken is missing.

    Uncertainty and disagreement go from 0 (sure, or all agree) to 1; the expected change is in mL.

    Args:
        run: the run folder.
        current: its ``current.json``.
    """
    folders = [run / current[name] for name in ("uncertainty", "predictions")]
    found: dict[str, dict[str, float]] = {}
    for measure, names in MEASURES.items():
        files = [folder / name for name in names for folder in folders]
        there = next((file for file in files if file.is_file()), None)
        if there is not None:
            found[measure] = {case: float(value) for case, value in read_json(there).items()}
    return found


def measures_of(case: str, measures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return what is entered into a scan's info: every measure's value, None where there is none.

    None replaces what an earlier round measured, so that no case is handed out for a figure of a model that is no
    longer served.
    """
    return {measure: measures.get(measure, {}).get(case) for measure in MEASURES}
