"""How left-out cases are scored and the best is chosen, on label maps whose Dice is known by counting voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from crossmoda.data.datalist import save_datalist
from crossmoda.data.volumes import Grid, write_volume
from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.cross_validation import write_results
from crossmoda.self_training.cross_validation.checks import require_patients, shape_at
from crossmoda.self_training.cross_validation.choice import Result, choose, losses
from crossmoda.self_training.cross_validation.settings import CrossValidationSettings
from crossmoda.self_training.cross_validation.work import CrossValidation

pytestmark = pytest.mark.usefixtures("in_the_repository")

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # as the challenge stores scans: x to the left, y to the back; 1 mm
SHAPE = (14, 14, 8)
VS, COCHLEA = np.s_[2:6, 2:6, 1:5], np.s_[8:10, 2:4, 1:3]  # 64 and 8 voxels
CASES = ("ldn_1", "ldn_2", "etz_1", "etz_2")
SMALL = "crossmoda.segmentation.plausibility.RemoveSmallComponentsd"
POSTPROCESSING: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "one_tumour": [
        {
            "_target_": "crossmoda.segmentation.anatomy.KeepOneTumourd",
            "keys": "pred",
            "structures": "@structures",
        }
    ],
    "no_cochlea": [{"_target_": SMALL, "keys": "pred", "structures": "@structures", "least_mm3": {"cochlea": 9.0}}],
}


def truth() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[VS], label[COCHLEA] = 1, 2
    return label


def with_stray_piece() -> np.ndarray:
    """A perfect prediction but for 27 voxels of VS elsewhere: Dice 2 * 64 / (64 + 64 + 27)."""
    label = truth()
    label[9:12, 9:12, 4:7] = 1
    return label


def with_hole() -> np.ndarray:
    """A perfect prediction but for 8 voxels of VS that are missing: Dice 2 * 56 / (56 + 64)."""
    label = truth()
    label[2:4, 2:4, 1:3] = 0
    return label


STRAY_DICE, HOLE_DICE = 128 / 155, 112 / 120


def cross_validation(folder: Path, predictions: dict[str, np.ndarray], **item: Any) -> CrossValidation:
    """Return a cross-validation in two folds of four patients whose networks have predicted the same for each."""
    items = []
    for index, case in enumerate(CASES):
        image = np.random.default_rng(index).normal(size=SHAPE).astype(np.float32)
        write_volume(folder / f"{case}_hrT2.nii.gz", image, AFFINE)
        write_volume(folder / f"{case}_Label.nii.gz", truth(), AFFINE)
        files = {"image": str(folder / f"{case}_hrT2.nii.gz"), "label": str(folder / f"{case}_Label.nii.gz")}
        items.append({"case": case, "site": case[:3], **files})
    items[0] |= item
    datalist = {"edition": "2022", "labels": {"vs": 1, "cochlea": 2}, "source": items}
    save_datalist(folder / "datalist.json", datalist)
    root = "bundles/vs_cochlea_hrt2_segmentation"
    uses = {
        name: BundleUse(root, inference_overlays=["ensemble.yaml"], train={"seed": i})
        for i, name in enumerate(predictions)
    }
    settings = CrossValidationSettings(2, 0, ("source",), ("vs", "cochlea"), uses, POSTPROCESSING)
    patients = require_patients(folder / "datalist.json", settings)
    work = CrossValidation(folder, folder / "datalist.json", settings, patients, torch.device("cpu"))
    for name, label in predictions.items():
        for fold, judged in enumerate(patients.judged):
            save_weights(nn.Conv3d(1, 3, 1), work.weights(name, fold))
            for judge in judged:
                place = folder / name / f"fold_{fold}" / "predictions"
                write_volume(place / f"{judge['case']}_Label.nii.gz", label, AFFINE)
            for candidate in POSTPROCESSING:
                work.folder(name, fold).do(work.scoring(name, fold, candidate))
    return work


def dice_of(told: dict[str, Any]) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (result["configuration"], result["postprocessing"]): (
            result["structures"]["vs"]["dice"]["mean"],
            result["structures"]["cochlea"]["dice"]["mean"],
        )
        for result in told["results"]
    }


def test_a_postprocessing_that_helps_is_chosen_and_one_that_hurts_is_not(tmp_path: Path) -> None:
    work = cross_validation(tmp_path, {"plain": with_stray_piece()})
    table = write_results(work, [])
    told = read_json(tmp_path / "cross_validation.json")
    found = dice_of(told)
    assert found["plain", "none"] == pytest.approx((STRAY_DICE, 1.0))
    assert found["plain", "one_tumour"] == pytest.approx((1.0, 1.0))
    assert found["plain", "no_cochlea"] == pytest.approx((STRAY_DICE, 0.0))  # 8 mm3, below 9
    assert told["chosen"]["postprocessing"] == "one_tumour"
    assert (told["chosen"]["dice"], told["chosen"]["assd"]) == (1.0, 0.0)
    assert "no_cochlea (loses on cochlea)" in table
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["keep_one_tumour"] == {"_target_": "Compose", "transforms": POSTPROCESSING["one_tumour"]}
    assert len(best["members"]) == 2


def test_networks_are_compared_with_the_postprocessing_that_suits_each(tmp_path: Path) -> None:
    # By itself the second network is better: 0.933 against 0.826; with the stray piece gone the first is perfect.
    work = cross_validation(tmp_path, {"stray": with_stray_piece(), "hole": with_hole()})
    write_results(work, [])
    told = read_json(tmp_path / "cross_validation.json")
    assert dice_of(told)["hole", "none"] == pytest.approx((HOLE_DICE, 1.0))
    assert dice_of(told)["hole", "one_tumour"] == pytest.approx((HOLE_DICE, 1.0))
    assert (told["chosen"]["configuration"], told["chosen"]["postprocessing"]) == ("stray", "one_tumour")


def test_nothing_is_done_to_label_maps_where_nothing_helps(tmp_path: Path) -> None:
    write_results(cross_validation(tmp_path, {"hole": with_hole()}), [])
    told = read_json(tmp_path / "cross_validation.json")
    assert told["chosen"]["postprocessing"] == "none"
    assert "the one named first" in told["chosen"]["reason"]
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["keep_one_tumour"]["_target_"] == "Identityd"


def test_a_label_in_parts_of_the_tumour_is_scored_by_name(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[VS], label[COCHLEA] = 3, 1
    label[2:4, 2:6, 1:5] = 2  # half of the tumour
    write_volume(tmp_path / "parts_Label.nii.gz", label, AFFINE)
    numbers = {"cochlea": 1, "extra": 2, "intra": 3}
    work = cross_validation(tmp_path, {"a": truth()}, label=str(tmp_path / "parts_Label.nii.gz"), labels=numbers)
    write_results(work, [])
    assert dice_of(read_json(tmp_path / "cross_validation.json"))["a", "none"] == (1.0, 1.0)


def test_a_label_that_knows_one_structure_says_nothing_of_the_other(tmp_path: Path) -> None:
    label = np.where(truth() == 1, 1, 0).astype(np.uint8)
    write_volume(tmp_path / "partial_Label.nii.gz", label, AFFINE)
    work = cross_validation(tmp_path, {"a": truth()}, label=str(tmp_path / "partial_Label.nii.gz"), labels={"vs": 1})
    assert work.patients.warnings == []
    write_results(work, [])
    told = read_json(tmp_path / "cross_validation.json")
    counts = {name: told["results"][0]["structures"][name]["dice"]["n"] for name in ("vs", "cochlea")}
    assert counts == {"vs": 4, "cochlea": 3}
    assert dice_of(told)["a", "none"] == (1.0, 1.0)


def test_a_prediction_on_another_grid_is_named(tmp_path: Path) -> None:
    work = cross_validation(tmp_path, {"a": truth()})
    case = work.patients.judged[0][0]["case"]
    write_volume(tmp_path / f"a/fold_0/predictions/{case}_Label.nii.gz", truth(), np.eye(4))
    with pytest.raises(CrossmodaError, match=f"{case}_Label.nii.gz: lies on another grid"):
        work.folder("a", 0).do(work.scoring("a", 0, "none"))


# --- The choice itself ---


def result(configuration: str, postprocessing: str, vs: float, cochlea: float, assd: float = 1.0) -> Result:
    structures = {"vs": {"dice": {"mean": vs}}, "cochlea": {"dice": {"mean": cochlea}}}
    return Result(configuration, postprocessing, structures, round((vs + cochlea) / 2, 6), assd)


def chosen(*results: Result) -> tuple[str, str]:
    best, _ = choose(results, ("vs", "cochlea"))
    return best.configuration, best.postprocessing


def test_a_gain_in_one_structure_does_not_hide_a_loss_in_another() -> None:
    plain, gain = result("a", "none", 0.5, 0.8), result("a", "p", 0.9, 0.79)
    assert losses(gain, [plain, gain], ("vs", "cochlea")) == ["cochlea"]
    assert chosen(plain, gain) == ("a", "none")
    assert chosen(plain, result("a", "p", 0.9, 0.80)) == ("a", "p")


def test_a_postprocessing_is_held_against_its_own_network() -> None:
    # The second network's cochlea is worse than the first's, whatever is done to it; only its own loss would count.
    assert chosen(result("a", "none", 0.5, 0.8), result("b", "none", 0.6, 0.7), result("b", "p", 0.9, 0.7)) == (
        "b",
        "p",
    )


def test_at_equal_dice_the_shorter_distance_wins_and_then_the_first() -> None:
    near, far = result("near", "none", 0.8, 0.8, assd=0.4), result("far", "none", 0.8, 0.8, assd=0.5)
    assert chosen(far, near)[0] == "near"
    assert choose([far, near], ("vs", "cochlea"))[1].endswith("the shorter surface distance")
    twin = result("twin", "none", 0.8, 0.8, assd=0.4)
    assert chosen(near, twin)[0] == "near"
    assert chosen(twin, near)[0] == "twin"
    assert choose([near, twin], ("vs", "cochlea"))[1].endswith("the one named first")
    assert chosen(result("a", "none", 0.8, 0.8), result("a", "p", 0.8 + 1e-9, 0.8)) == ("a", "none")  # rounding


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_scan_s_size_does_not_depend_on_how_its_axes_are_stored(order: tuple[int, ...]) -> None:
    spacing, shape = np.array([0.5, 0.8, 1.5]), np.array([200, 100, 40])  # 100 x 80 x 60 mm
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[:, order] * [1, -1, 1]
    assert shape_at(Grid(tuple(shape[list(order)]), affine), (1.0, 2.0, 1.5)) == [100, 40, 40]
