"""How much of the distance from no adaptation to full supervision a run has recovered: ``comparison.json``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from crossmoda.engines.weights import is_given
from crossmoda.files import read_json, write_json

STAGES = ("source_only", "translated", "self_trained", "oracle")
STAGE_NAMES = {
    "source_only": "Source only",
    "translated": "Translated",
    "self_trained": "Self-trained",
    "oracle": "Oracle",
}
STAGE_MEANINGS = {
    "source_only": "trained on labelled ceT1 alone",
    "translated": "trained on pseudo-hrT2 (round 0)",
    "self_trained": "after the last self-training round",
    "oracle": "trained on the truth of hrT2",
}
# Of a round 0 that did not train on translated scans.
GIVEN_STAGE = ("Given weights", "taken over as they are (round 0)")
RENDERED_STAGE = ("Target as ceT1", "trained on labelled ceT1, scans rendered as ceT1 (round 0)")
FIRST_WEIGHTS = "round_0/segmenter/model.pt"
ROUND = re.compile(r"round_(\d+)")


def rounds_of(run: str | Path) -> list[tuple[int, Path]]:
    """Return the rounds of a run folder that have been scored, as ``(number, folder)`` in order.

    Rounds of an earlier run in the same folder, which was longer than ``run.yaml`` tells, are not the run's.
    """
    found = []
    count = _rounds_told(Path(run) / "run.yaml")
    for folder in Path(run).glob("round_*"):
        match = ROUND.fullmatch(folder.name)
        if match and int(match.group(1)) < count and (folder / "metrics.json").is_file():
            found.append((int(match.group(1)), folder))
    return sorted(found)


def _rounds_told(description: Path) -> float:
    return float(_trainer_told(description).get("max_epochs", math.inf))


def _trainer_told(description: Path) -> dict[str, Any]:
    if not description.is_file():
        return {}
    return dict((yaml.safe_load(description.read_text(encoding="utf-8")) or {}).get("trainer") or {})


def stage_texts(run: str | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the stages of a run are called and what they mean, by stage.

    Round 0 usually has learnt from translated scans. It is named otherwise where it took over given weights, or where
    it saw the hrT2 scans rendered as ceT1 (Wu 2021).
    """
    names, meanings, run = dict(STAGE_NAMES), dict(STAGE_MEANINGS), Path(run)
    if is_given(run / FIRST_WEIGHTS):
        names["translated"], meanings["translated"] = GIVEN_STAGE
    elif _trainer_told(run / "run.yaml").get("target_view"):
        names["translated"], meanings["translated"] = RENDERED_STAGE
    return names, meanings


def stage_files(run: str | Path) -> dict[str, Path]:
    """Return the ``metrics.json`` of each stage that the run folder holds.

    ``self_trained`` is the last round's, and is there only once a round after round 0 has been scored.
    """
    run = Path(run)
    rounds = rounds_of(run)
    files = {"source_only": run / "anchors/source_only/metrics.json", "oracle": run / "anchors/oracle/metrics.json"}
    if rounds and rounds[0][0] == 0:
        files["translated"] = rounds[0][1] / "metrics.json"
    if rounds and rounds[-1][0] > 0:
        files["self_trained"] = rounds[-1][1] / "metrics.json"
    return {stage: files[stage] for stage in STAGES if stage in files and files[stage].is_file()}


def recovered(stages: dict[str, Any]) -> dict[str, float]:
    """Return, per structure, (self_trained - source_only) / (oracle - source_only) of the mean Dice.

    1 is the level of the oracle. A structure is left out where one of the three is missing, or where the oracle is no
    better than source only, so that there is no distance to recover.
    """
    if not {"source_only", "self_trained", "oracle"} <= stages.keys():
        return {}
    shares = {}
    for structure in stages["self_trained"]:
        least, reached, most = (
            _mean_dice(stages, stage, structure) for stage in ("source_only", "self_trained", "oracle")
        )
        if least is not None and reached is not None and most is not None and most > least:
            shares[structure] = (reached - least) / (most - least)
    return shares


def lost(stages: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return, per structure whose mean Dice fell from round 0 to the last round, the two means."""
    falls = {}
    for structure in stages.get("self_trained", {}):
        before, after = (_mean_dice(stages, stage, structure) for stage in ("translated", "self_trained"))
        if before is not None and after is not None and after < before:
            falls[structure] = (before, after)
    return falls


def _mean_dice(stages: dict[str, Any], stage: str, structure: str) -> float | None:
    mean = stages.get(stage, {}).get(structure, {}).get("dice", {}).get("mean")
    return None if mean is None else float(mean)


def write_comparison(run: str | Path) -> dict[str, Any]:
    """Write ``RUN/comparison.json`` from the stages' ``metrics.json`` and return it.

    Returns:
        ``{"source_only": {}, "translated": {}, "self_trained": {}, "oracle": {}, "recovered": {"vs": 0.93}}`` with each
        stage shaped as ``structures`` of ``metrics.json``; stages that the run does not have are left out.

    Raises:
        CrossmodaError: a ``metrics.json`` cannot be read.
    """
    run = Path(run)
    comparison: dict[str, Any] = {stage: read_json(path)["structures"] for stage, path in stage_files(run).items()}
    comparison["recovered"] = recovered(comparison)
    write_json(run / "comparison.json", comparison)
    return comparison
