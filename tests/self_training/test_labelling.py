"""What becomes of each target case: files, fates, datalist items, and what a round depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmoda.data.datalist import save_datalist
from crossmoda.data.volumes import read_volume, same_grid, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json
from crossmoda.segmentation.cases import cases_to_learn
from crossmoda.self_training import (
    LearnFromReviewed,
    RejectUncertain,
    RequireAgreement,
    RequireProbability,
    RequireVolume,
    TrustVoxels,
    WeightByCertainty,
)
from crossmoda.self_training.candidates import Rule
from crossmoda.self_training.datalists import content_hash
from crossmoda.self_training.labelling import Labelling, require_measured, require_trust_read, why_left_out

SHAPE = (8, 6, 4)
AFFINE = np.array([[0, -0.8, 0, 7], [-0.5, 0, 0, 3], [0, 0, 1.5, -2], [0, 0, 0, 1.0]])  # axes swapped and flipped
CASES = ("sure", "doubtful", "approved", "corrected", "flagged")
UNCERTAINTY = {"sure": 0.1, "doubtful": 0.8, "approved": 0.9, "corrected": 0.9, "flagged": 0.1}


def label(value: int = 0) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 1:3, 1:3] = 1  # 8 voxels of 0.6 mm3
    array[5, 2, 2], array[5, 4, 2] = 2, value
    return array


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Predictions of five cases, of which clinicians have seen three, and a source label of 12 mm3."""
    for name in ("predictions", "uncertainty", "reviewed"):
        (tmp_path / name).mkdir()
    confidence = np.ones(SHAPE, np.float32)
    confidence[1, 1, 1] = 0.5
    for case in CASES:
        write_volume(tmp_path / f"{case}_hrT2.nii.gz", np.zeros(SHAPE, np.float32), AFFINE)
        write_volume(tmp_path / "predictions" / f"{case}_Label.nii.gz", label(), AFFINE)
        write_volume(tmp_path / "uncertainty" / f"{case}_confidence.nii.gz", confidence, AFFINE)
    write_json(tmp_path / "uncertainty" / "uncertainty.json", UNCERTAINTY)
    write_json(
        tmp_path / "uncertainty" / "confidence.json", {case: {"vs": {"mean": 0.9, "max": 1.0}} for case in CASES}
    )
    write_json(tmp_path / "predictions" / "crf_agreement.json", {case: {"vs": 0.5, "cochlea": 0.9} for case in CASES})
    reviews = []
    for status in ("approved", "corrected", "flagged"):
        file = f"{status}_Label.nii.gz"
        review = {"case": status, "status": status, "who": "dr", "when": "2026-01-01", "label": file}
        if status == "flagged":
            review["label"] = None
        else:
            write_volume(tmp_path / "reviewed" / file, label(2), AFFINE)
        reviews.append(review)
    write_json(tmp_path / "reviewed" / "reviews.json", reviews)
    source = np.zeros(SHAPE, np.uint8)
    source[:2, :2, :5] = 2  # 2 x 2 x 4 voxels of 0.6 mm3: 9.6 mm3
    write_volume(tmp_path / "s_Label.nii.gz", source, np.diag([0.5, 0.8, 1.5, 1.0]))
    return tmp_path


def labelling(folder: Path, rules: Sequence[Rule]) -> Labelling:
    targets = [{"case": case, "site": "x", "image": str(folder / f"{case}_hrT2.nii.gz")} for case in CASES]
    source = [{"case": "s", "image": "s.nii.gz", "label": str(folder / "s_Label.nii.gz"), "labels": {"vs": 2}}]
    places = [folder / name for name in ("predictions", "uncertainty", "reviewed")]
    return Labelling(targets, source, ["vs", "cochlea"], rules, *places)


def fates_and_items(folder: Path, rules: Sequence[Rule]) -> tuple[dict[str, Any], dict[str, Any]]:
    made = labelling(folder, rules)
    made.write(folder / "out")
    items = made.items(folder / "out", {"round": 0, "model": "m"})
    return read_json(folder / "out" / "fates.json"), {item["case"]: item for item in items}


def test_each_case_has_a_fate_a_weight_and_every_rule_s_finding(folder: Path) -> None:
    fates, items = fates_and_items(folder, [RejectUncertain(limit=0.7), WeightByCertainty()])
    assert {case: fate["fate"] for case, fate in fates.items()} == {
        "sure": "accepted",
        "doubtful": "left out",
        "approved": "accepted",
        "corrected": "accepted",
        "flagged": "left out",
    }
    assert fates["sure"]["weight"] == pytest.approx(0.9)
    assert fates["sure"]["rules"] == [
        {"rule": "RejectUncertain", "effect": "passed", "text": "uncertainty 0.100, at most 0.700 allowed"},
        {"rule": "WeightByCertainty", "effect": "weighted", "text": "uncertainty 0.100: weight times 0.900"},
    ]
    assert fates["doubtful"]["reasons"] == ["uncertainty 0.800, at most 0.700 allowed"]
    for case, item in items.items():
        told = {key: value for key, value in fates[case].items() if key != "weight"}
        assert told.items() <= item["provenance"].items()
        assert item["weight"] == pytest.approx(fates[case]["weight"])


def test_what_clinicians_decided_passes_no_rule(folder: Path) -> None:
    rules = [RejectUncertain(limit=0.0), TrustVoxels(), WeightByCertainty(power=9.0)]
    fates, items = fates_and_items(folder, rules)
    for case in ("approved", "corrected"):
        assert items[case]["weight"] == 1
        assert items[case]["provenance"]["status"] == case
        assert items[case]["provenance"]["who"] == "dr"
        assert not {"confidence", "structure_weights"} & set(items[case])
        np.testing.assert_array_equal(read_volume(items[case]["label"]).array, label(2))
    assert items["flagged"]["weight"] == 0
    assert "label" not in items["flagged"]
    assert fates["flagged"]["reasons"] == ["flagged by a clinician, left out"]
    assert [fates[case]["fate"] for case in ("sure", "doubtful")] == ["left out", "left out"]


@pytest.mark.parametrize(("approved", "learnt"), [(False, ["approved", "corrected"]), (True, ["approved"])])
def test_a_round_may_learn_from_reviewed_or_from_approved_labels_alone(
    folder: Path, approved: bool, learnt: list[str]
) -> None:
    rules = [LearnFromReviewed(approved), WeightByCertainty()]
    fates, items = fates_and_items(folder, rules)
    assert [case for case in CASES if items[case]["weight"] > 0] == learnt
    assert items["approved"]["weight"] == 1
    assert fates["sure"]["reasons"] == ["no clinician has reviewed this scan"]
    waiting = "corrected by a clinician" + (", left out until it is approved" if approved else "")
    assert fates["corrected"]["reasons"] == [waiting]
    assert fates["flagged"]["reasons"] == ["flagged by a clinician, left out"]
    told = "LearnFromReviewed 2 (e.g. no clinician has reviewed this scan), clinicians " + ("2" if approved else "1")
    assert why_left_out(list(items.values())) == told


def test_a_round_tells_which_rules_left_cases_out_the_commonest_first(folder: Path) -> None:
    _, items = fates_and_items(folder, [RejectUncertain(limit=0.05)])
    told = "RejectUncertain 2 (e.g. uncertainty 0.100, at most 0.050 allowed), clinicians 1"
    assert why_left_out(list(items.values())) == told


def test_doubtful_voxels_are_written_beside_the_label_and_reach_the_training(folder: Path) -> None:
    _, items = fates_and_items(folder, [TrustVoxels()])
    confidence = items["sure"]["confidence"]
    assert same_grid(confidence, items["sure"]["image"])
    expected = np.ones(SHAPE)
    expected[1, 1, 1] = 0
    np.testing.assert_array_equal(read_volume(confidence).array, expected)
    datalist = {"edition": "2022", "labels": {"vs": 1, "cochlea": 2}, "source": [], "target": list(items.values())}
    save_datalist(folder / "out" / "datalist.json", datalist)
    learnt = cases_to_learn(folder / "out" / "datalist.json", ["target"], reads_trust=True)
    assert {item["case"]: Path(item["confidence"]).name for item in learnt if "confidence" in item} == {
        "sure": "sure_confidence.nii.gz",
        "doubtful": "doubtful_confidence.nii.gz",
    }
    with pytest.raises(CrossmodaError, match=r"has 'confidence', which train\.yaml reads with variant_partial_labels"):
        cases_to_learn(folder / "out" / "datalist.json", ["target"])


def test_a_structure_that_fails_alone_reaches_the_training_by_its_weight(folder: Path) -> None:
    _, items = fates_and_items(folder, [RequireAgreement(by_structure=True)])
    assert items["sure"]["structure_weights"] == {"vs": 0.0}
    assert items["sure"]["weight"] == 1
    assert "structure_weights" not in items["sure"]["provenance"]


def test_trust_decides_what_a_training_depends_on(folder: Path) -> None:
    _, items = fates_and_items(folder, [])
    _, by_structure = fates_and_items(folder, [RequireAgreement(by_structure=True)])
    _, trusted = fates_and_items(folder, [TrustVoxels()])
    hashes = {content_hash([each["sure"]]) for each in (items, trusted, by_structure)}
    assert len(hashes) == 3
    assert len({content_hash([each["approved"]]) for each in (items, trusted, by_structure)}) == 1


def test_volumes_of_the_source_are_read_by_name_and_affine(folder: Path) -> None:
    made = labelling(folder, [RequireVolume("vs", least_mm3=1)])
    assert made.source_mm3("vs") == [pytest.approx(9.6)]
    fates, _ = fates_and_items(folder, [RequireVolume("vs", least_mm3=1)])
    assert fates["sure"]["rules"][0]["text"] == "vs of 5 mm3, 1 to 10 mm3 allowed"
    assert "source_labels" in made.config([])
    assert "source_labels" not in labelling(folder, [RequireVolume("vs", 1, 2)]).config([])


def test_a_round_depends_on_what_its_rules_read_and_no_more(folder: Path) -> None:
    assert sorted(labelling(folder, []).inputs()) == ["predictions", "reviewed", "uncertainty"]
    inputs = labelling(folder, [RequireAgreement(), RequireProbability(), TrustVoxels()]).inputs()
    assert sorted(inputs) == ["confidence", "crf_agreement", "maps", "predictions", "reviewed", "uncertainty"]
    assert inputs["crf_agreement"] == folder / "predictions" / "crf_agreement.json"


def test_what_was_not_measured_is_named(folder: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"disagreement\.json: no such file.*add votes\.yaml"):
        labelling(folder, [RejectUncertain(source="disagreement")]).write(folder / "out")
    with pytest.raises(CrossmodaError, match=r"sure_uncertainty\.nii\.gz: no such file.*add uncertainty\.yaml"):
        labelling(folder, [TrustVoxels("uncertainty")]).write(folder / "out")
    write_json(folder / "uncertainty" / "uncertainty.json", {"sure": 0.1})
    with pytest.raises(CrossmodaError, match=r"uncertainty\.json: lacks case doubtful"):
        labelling(folder, []).write(folder / "out")


def test_a_map_of_another_grid_is_refused(folder: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1
    write_volume(folder / "uncertainty" / "sure_confidence.nii.gz", np.ones(SHAPE, np.float32), moved)
    with pytest.raises(CrossmodaError, match=r"sure_confidence\.nii\.gz: not on the grid"):
        labelling(folder, [TrustVoxels()]).write(folder / "out")


def test_rules_are_held_against_what_is_predicted_and_trained() -> None:
    prediction: dict[str, Any] = {"handlers": [{"path": "$@uncertainty_dir + '/confidence.json'"}]}
    require_measured([RequireProbability()], prediction)
    with pytest.raises(CrossmodaError, match=r"WeightByCertainty reads 'uncertainty'.*add uncertainty\.yaml"):
        require_measured([WeightByCertainty()], prediction)
    with pytest.raises(CrossmodaError, match=r"add crf\.yaml and crf_agreement\.yaml"):
        require_measured([RequireAgreement()], {"handlers": [{"path": "/crf_agreement.json"}]})  # and no field
    require_trust_read([RequireProbability()], {})
    require_trust_read([TrustVoxels()], {"train": {"cases": "$cases_to_learn(@dataset_dir, reads_trust=True)"}})
    with pytest.raises(CrossmodaError, match=r"TrustVoxels trusts voxels.*add variant_partial_labels\.yaml"):
        require_trust_read([TrustVoxels()], {"train": {"cases": "$cases_to_learn(@dataset_dir)"}})
