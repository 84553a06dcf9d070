"""What a round has measured of its cases: by what they can be put in order for review, and what a reviewer is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmoda.files import read_json
from crossmoda.segmentation.plausibility import remarks_on

# What a scan's info calls a measure -> the files that may hold it, {case: value}, the first that is there. Members or
# mirrored copies of a segmenter disagree by their mutual information, those that vote by their votes.
MEASURES: Mapping[str, tuple[str, ...]] = {
    "uncertainty": ("uncertainty.json",),
    "disagreement": ("mutual_information.json", "disagreement.json"),
    "expected_change_ml": ("expected_change_ml.json",),
}

ANATOMY = "anatomy"  # what infos call the rules of anatomy that a pseudo-label breaks, and their file's name


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


def case_remarks(run: Path, current: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return case -> the rules of anatomy that its pseudo-label breaks, in words; empty where a run checks none.

    Read from what the segmentation bundle's ``anatomy.yaml`` writes, which also tells of a VS that it has dropped.

    Args:
        run: the run folder.
        current: its ``current.json``.
    """
    file = run / current["predictions"] / f"{ANATOMY}.json"
    reports = read_json(file) if file.is_file() else {}
    return {case: remarks_on(report) for case, report in reports.items()}
