"""How much of the distance from no adaptation to full supervision a run has recovered: ``comparison.json``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

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
    if not description.is_file():
        return math.inf
    trainer = (yaml.safe_load(description.read_text(encoding="utf-8")) or {}).get("trainer") or {}
    return float(trainer.get("max_epochs", math.inf))


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
        named = [stages[stage].get(structure, {}) for stage in ("source_only", "self_trained", "oracle")]
        means = [summary.get("dice", {}).get("mean") for summary in named]
        if None not in means and means[2] > means[0]:
            shares[structure] = (means[1] - means[0]) / (means[2] - means[0])
    return shares


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
