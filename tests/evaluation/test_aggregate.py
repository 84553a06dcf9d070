from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import evaluate_folder, shared_structures, summarise
from crossmoda.labels import EDITION_LABELS

LABELS = EDITION_LABELS["2022"]
SHAPE = (12, 10, 8)
AFFINE = np.array([[-0.8, 0, 0, 5], [0, 0.7, 0, -3], [0, 0, 1.5, 2], [0, 0, 0, 1.0]])
LONDON, TILBURG = "crossmoda2021_ldn_211", "crossmoda2022_etz_210"


def label(vs_from: int = 2, vs_to: int = 6, cochlea: bool = True) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[vs_from:vs_to, 2:6, 2:5] = 1
    if cochlea:
        array[9:11, 3:5, 3:5] = 2
    return array


def write(folder: Path, case: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write_volume(folder / f"{case}_Label.nii.gz", array, affine)
    return folder


def score(tmp_path: Path, **options: object) -> dict:
    return evaluate_folder(tmp_path / "p", tmp_path / "t", LABELS, LABELS, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def two_cases(tmp_path: Path) -> Path:
    write(tmp_path / "t", LONDON, label())
    write(tmp_path / "t", TILBURG, label())
    write(tmp_path / "p", LONDON, label())
    write(tmp_path / "p", TILBURG, label(4, 8))
    return tmp_path


def test_cases_are_summed_up_in_all_and_by_site(two_cases: Path) -> None:
    metrics = score(two_cases)
    assert metrics["structures"]["vs"]["dice"] == {
        "mean": 0.75,
        "std": pytest.approx(np.sqrt(0.125)),
        "median": 0.75,
        "min": 0.5,
        "max": 1.0,
        "iqr": 0.25,
        "n": 2,
    }
    assert metrics["sites"]["etz"]["vs"]["dice"]["mean"] == 0.5
    assert metrics["sites"]["ldn"]["cochlea"]["assd"]["mean"] == 0.0
    assert [(case["case"], case["site"]) for case in metrics["cases"]] == [(LONDON, "ldn"), (TILBURG, "etz")]


def test_volumes_are_in_cubic_millimetres(two_cases: Path) -> None:
    case = score(two_cases)["cases"][0]
    assert case["vs"]["volume_mm3"] == pytest.approx(4 * 4 * 3 * 0.8 * 0.7 * 1.5)
    assert case["cochlea"]["truth_volume_mm3"] == pytest.approx(8 * 0.8 * 0.7 * 1.5)


def test_a_missing_prediction_counts_as_empty_and_is_named(two_cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    (two_cases / "p" / f"{TILBURG}_Label.nii.gz").unlink()
    with caplog.at_level(logging.WARNING):
        metrics = score(two_cases)
    assert metrics["missing"] == [TILBURG]
    assert TILBURG in caplog.text
    case = metrics["cases"][1]
    assert (case["missing"], case["vs"]["dice"], case["cochlea"]["assd"]) == (True, 0.0, 350.0)


def test_only_the_wanted_cases_are_scored(two_cases: Path) -> None:
    assert [case["case"] for case in score(two_cases, cases=[TILBURG])["cases"]] == [TILBURG]


def test_sites_can_be_given(two_cases: Path) -> None:
    assert set(score(two_cases, sites={LONDON: "north"})["sites"]) == {"north", "etz"}


def test_the_number_of_threads_does_not_change_the_result(two_cases: Path) -> None:
    assert score(two_cases, workers=1) == score(two_cases, workers=3)


def test_the_tilburg_files_without_the_label_suffix_are_found_too(two_cases: Path) -> None:
    for file in (two_cases / "p").iterdir():
        file.rename(file.with_name(file.name.replace("_Label", "")))
    assert score(two_cases)["missing"] == []


def test_another_grid_is_refused_naming_both_files(two_cases: Path) -> None:
    write(two_cases / "p", LONDON, label(), np.diag([0.8, 0.7, 1.5, 1.0]))
    with pytest.raises(CrossmodaError, match=rf"p/{LONDON}_Label.nii.gz: lies on another grid than .*t/{LONDON}_Label"):
        score(two_cases)


def test_a_value_without_a_name_is_refused_naming_the_file(two_cases: Path) -> None:
    write(two_cases / "p", LONDON, label() * 3)
    with pytest.raises(CrossmodaError, match=rf"{LONDON}_Label.nii.gz: holds the value 3, 6, unknown to the labels"):
        score(two_cases)


def test_a_case_without_truth_is_refused(two_cases: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"crossmoda2021_ldn_999: no truth to score against"):
        score(two_cases, cases=["crossmoda2021_ldn_999"])


@pytest.mark.parametrize(("folder", "message"), [("absent", "no such folder"), ("empty", "holds no label map")])
def test_an_unusable_folder_is_refused(two_cases: Path, folder: str, message: str) -> None:
    (two_cases / "empty").mkdir()
    with pytest.raises(CrossmodaError, match=message):
        evaluate_folder(two_cases / folder, two_cases / "t", LABELS, LABELS)


def test_two_files_of_one_case_are_refused(two_cases: Path) -> None:
    write_volume(two_cases / "p" / f"{LONDON}_Label.nii", label(), AFFINE)
    with pytest.raises(CrossmodaError, match=r"case crossmoda2021_ldn_211 is already there"):
        score(two_cases)


def test_the_parts_of_2023_give_whole_tumour_and_boundary(tmp_path: Path) -> None:
    labels = EDITION_LABELS["2023"]
    parts = np.zeros(SHAPE, dtype=np.uint8)
    parts[2:6, 2:6, 2:5], parts[6:8, 2:6, 2:5], parts[9:11, 3:5, 3:5] = (
        labels["extra"],
        labels["intra"],
        labels["cochlea"],
    )
    write(tmp_path / "t", "crossmoda2023_ukm_50", parts)
    metrics = evaluate_folder(tmp_path / "t", tmp_path / "t", labels, labels, progress=False)
    assert set(metrics["structures"]) == {"vs", "cochlea", "intra", "extra", "boundary"}
    assert metrics["structures"]["boundary"]["assd"]["mean"] == 0.0
    assert "dice" not in metrics["structures"]["boundary"]
    assert metrics["cases"][0]["vs"]["truth_volume_mm3"] == pytest.approx(72 * 0.8 * 0.7 * 1.5)


@pytest.mark.parametrize("labels", [{"extra": 1, "intra": 2, "cochlea": 3}, {"extra": 2, "intra": 1, "cochlea": 3}])
def test_parts_whose_boundary_moved_by_a_voxel_score_as_derived_by_hand(tmp_path: Path, labels: dict[str, int]) -> None:
    # along x, truth: extra 2-5, intra 6-7; prediction: extra 2-4, intra 5-7. The interfaces are x = 5, 6 and x = 4, 5.
    for folder, boundary in (("t", 6), ("p", 5)):
        parts = np.zeros(SHAPE, dtype=np.uint8)
        parts[2:boundary, 2:6, 2:5], parts[boundary:8, 2:6, 2:5] = labels["extra"], labels["intra"]
        write(tmp_path / folder, "crossmoda2023_ukm_50", parts)
    case = evaluate_folder(tmp_path / "p", tmp_path / "t", labels, labels, progress=False)["cases"][0]
    assert case["extra"]["dice"] == pytest.approx(2 * 3 / (4 + 3))
    assert case["intra"]["dice"] == pytest.approx(2 * 2 / (2 + 3))
    assert (case["vs"]["dice"], case["vs"]["assd"]) == (1.0, 0.0)
    assert case["boundary"]["assd"] == pytest.approx((0.8 + 0 + 0 + 0.8) / 4)
    assert (case["cochlea"]["dice"], case["cochlea"]["assd"]) == (1.0, 0.0)  # nothing to find, nothing claimed


def test_a_segmenter_of_the_whole_tumour_is_scored_on_the_split_truth() -> None:
    assert shared_structures(LABELS, EDITION_LABELS["2023"]) == ["vs", "cochlea"]


def test_labels_without_a_common_structure_are_refused() -> None:
    with pytest.raises(CrossmodaError, match="share no structure"):
        shared_structures({"vs": 1}, {"cochlea": 2})


def test_the_spread_of_one_value_is_zero() -> None:
    assert summarise([0.4]) == {"mean": 0.4, "std": 0.0, "median": 0.4, "min": 0.4, "max": 0.4, "iqr": 0.0, "n": 1}


def test_a_real_label_scored_against_itself_is_perfect(real_data: Path) -> None:
    truth = {"vs_gk_98": real_data / "vs_gk_98_hrT2_Label.nii.gz"}
    metrics = evaluate_folder(truth, truth, {"vs": 1}, {"vs": 1}, progress=False)
    assert metrics["structures"]["vs"]["dice"]["mean"] == 1.0
    assert metrics["cases"][0]["vs"]["truth_volume_mm3"] == pytest.approx(2090, abs=10)
