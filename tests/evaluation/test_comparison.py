from __future__ import annotations

from pathlib import Path

import pytest

from crossmoda.evaluation.comparison import lost, recovered, stage_texts, write_comparison
from crossmoda.files import read_json, write_json


def structures(dice: float) -> dict:
    return {"vs": {"dice": {"mean": dice}}}


def write_scores(run: Path, folder: str, dice: float) -> None:
    write_json(run / folder / "metrics.json", {"structures": structures(dice), "cases": []})


def test_the_four_stages_are_read_from_anchors_first_and_last_round(tmp_path: Path) -> None:
    for folder, dice in {
        "anchors/source_only": 0.2,
        "round_0": 0.6,
        "round_1": 0.65,
        "round_10": 0.74,
        "anchors/oracle": 0.8,
    }.items():
        write_scores(tmp_path, folder, dice)
    comparison = write_comparison(tmp_path)
    means = {stage: comparison[stage]["vs"]["dice"]["mean"] for stage in comparison if stage != "recovered"}
    assert means == {"source_only": 0.2, "translated": 0.6, "self_trained": 0.74, "oracle": 0.8}
    assert comparison["recovered"] == {"vs": pytest.approx(0.9)}
    assert read_json(tmp_path / "comparison.json") == comparison


def test_rounds_of_a_longer_run_in_the_same_folder_are_not_the_run_s(tmp_path: Path) -> None:
    for folder, dice in {"round_0": 0.6, "round_1": 0.65, "round_2": 0.9}.items():
        write_scores(tmp_path, folder, dice)
    (tmp_path / "run.yaml").write_text("trainer:\n  max_epochs: 2\n")
    assert write_comparison(tmp_path)["self_trained"]["vs"]["dice"]["mean"] == 0.65


def test_without_anchors_nothing_is_said_to_be_recovered(tmp_path: Path) -> None:
    write_scores(tmp_path, "round_0", 0.6)
    comparison = write_comparison(tmp_path)
    assert set(comparison) == {"translated", "recovered"}
    assert comparison["recovered"] == {}


def test_no_distance_to_recover_gives_no_share() -> None:
    stages = {stage: structures(0.5) for stage in ("source_only", "self_trained", "oracle")}
    assert recovered(stages) == {}


def test_structures_that_fell_from_round_0_to_the_last_are_told_with_both_means() -> None:
    first = {"vs": {"dice": {"mean": 0.9}}, "cochlea": {"dice": {"mean": 0.8}}}
    last = {"vs": {"dice": {"mean": 0.7}}, "cochlea": {"dice": {"mean": 0.81}}}
    assert lost({"translated": first, "self_trained": last}) == {"vs": (0.9, 0.7)}
    assert lost({"translated": first}) == lost({"self_trained": last}) == lost({}) == {}


@pytest.mark.parametrize(
    ("trainer", "sidecar", "name", "meaning"),
    [
        ("{max_epochs: 1, target_view: null}", {"epochs": 4}, "Translated", "trained on pseudo-hrT2 (round 0)"),
        ("{target_view: {_target_: a}}", {"epochs": 4}, "Target as ceT1", "trained on labelled ceT1"),
        ("{target_view: null}", {"given": {"file": "model.pt"}}, "Given weights", "taken over as they are (round 0)"),
    ],
)
def test_round_0_is_called_what_it_was(tmp_path: Path, trainer: str, sidecar: dict, name: str, meaning: str) -> None:
    (tmp_path / "run.yaml").write_text(f"trainer: {trainer}\n")
    write_json(tmp_path / "round_0" / "segmenter" / "model.json", sidecar)
    names, meanings = stage_texts(tmp_path)
    assert (names["translated"], names["self_trained"]) == (name, "Self-trained")
    assert meaning in meanings["translated"]
