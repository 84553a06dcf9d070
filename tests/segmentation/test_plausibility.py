"""Cochleae, small pieces and the rules of anatomy, in millimetres and whatever way the axes run."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose

from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.segmentation.anatomy import KeepOneTumourd
from crossmoda.segmentation.plausibility import (
    CheckAnatomyd,
    KeepTwoCochleae,
    KeepTwoCochleaed,
    RemoveSmallComponents,
    RemoveSmallComponentsd,
    check_anatomy,
    joined_components,
)
from crossmoda.segmentation.reports import CaseReport

TWO = ("vs", "cochlea")
THREE = ("extra", "intra", "cochlea")
UPRIGHT = np.diag([1.0, 1.0, 2.0, 1.0])
MIRRORED = np.array([[-1.0, 0, 0, 70], [0, 1, 0, -5], [0, 0, 2, 3], [0, 0, 0, 1]])


def head(*blocks, affine=UPRIGHT):
    """A label map of 70 x 20 x 10 voxels: each block is (number, x, y, z), spans as pairs."""
    label = np.zeros((1, 70, 20, 10), np.uint8)
    for number, *spans in blocks:
        label[(0, *(slice(*span) for span in spans))] = number
    return MetaTensor(label, affine=torch.as_tensor(affine))


LEFT = (2, (10, 14), (5, 9), (4, 6))  # 4 x 4 x 2 voxels of 2 mm3: 64 mm3
RIGHT = (2, (58, 62), (5, 9), (4, 6))  # 48 mm farther
TUMOUR = (1, (18, 24), (4, 10), (3, 7))  # 6 x 6 x 4 voxels: 288 mm3, 5 mm from the left cochlea


def xs(label, number):
    return sorted(set(np.argwhere(np.asarray(label)[0] == number)[:, 0].tolist()))


# --- Two cochleae ---


@pytest.mark.parametrize("affine", [UPRIGHT, MIRRORED])
def test_the_largest_pair_on_two_sides_is_kept(affine):
    vestibule = (2, (18, 21), (12, 16), (4, 6))  # 8 mm beside the left one
    midline = (2, (33, 39), (5, 11), (4, 7))  # larger than each, but 23 mm from either
    label = KeepTwoCochleae(TWO)(head(LEFT, RIGHT, vestibule, midline, affine=affine))
    assert xs(label, 2) == [10, 11, 12, 13, 58, 59, 60, 61]


def test_left_and_right_are_the_body_s_whatever_the_axes():
    label = np.zeros((1, 10, 8, 60), np.uint8)
    label[0, 2, 2, 5:8] = label[0, 2, 2, 50:53] = label[0, 8, 2, 5:9] = 2
    affine = np.array([[0, 0, -1.0, 9], [8.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # the third axis runs to the left
    kept = KeepTwoCochleae(TWO)(MetaTensor(label, affine=torch.as_tensor(affine)))
    assert not (np.asarray(kept)[0, 2, 2, 5:8]).any()  # of the two on one side, 48 mm apart from front to back ...
    assert (np.asarray(kept)[0, 8, 2, 5:9] == 2).all()  # ... the larger
    assert (np.asarray(kept)[0, 2, 2, 50:53] == 2).all()


def test_of_two_on_one_side_the_larger_is_kept():
    label = KeepTwoCochleae(TWO)(head(LEFT, (2, (20, 22), (5, 9), (4, 6))))
    assert xs(label, 2) == [10, 11, 12, 13]


def test_pieces_of_one_cochlea_stay_together():
    piece = (2, (15, 17), (5, 9), (4, 6))  # one voxel between: 2 mm from centre to centre
    assert xs(KeepTwoCochleae(TWO)(head(LEFT, piece, RIGHT)), 2) == [10, 11, 12, 13, 15, 16, 58, 59, 60, 61]
    assert xs(KeepTwoCochleae(TWO, join_mm=1.9)(head(LEFT, piece, RIGHT)), 2) == [10, 11, 12, 13, 58, 59, 60, 61]


def test_pieces_are_joined_along_thick_slices_by_mm():
    mask = np.zeros((3, 3, 7), bool)
    mask[1, 1, [0, 2, 6]] = True  # gaps of 2 and 4 slices
    groups, count = joined_components(mask, (1, 1, 2), 4.0)
    assert count == 2
    assert groups[1, 1].tolist() == [1, 0, 1, 0, 0, 0, 2]
    assert joined_components(mask, (1, 1, 2), 3.9)[1] == 3
    assert joined_components(mask, (1, 1, 2), 8.0)[1] == 1


def test_the_tumour_and_the_argument_stay():
    before = head(LEFT, RIGHT, TUMOUR, (2, (30, 31), (5, 6), (4, 5)))
    item = {"pred": before}
    after = KeepTwoCochleaed("pred", TWO)(item)["pred"]
    assert xs(after, 1) == list(range(18, 24))
    assert xs(before, 2)[4] == 30
    np.testing.assert_allclose(after.affine, UPRIGHT)


def test_no_or_one_cochlea_or_a_model_without_any_changes_nothing():
    for label in (head(TUMOUR), head(TUMOUR, LEFT)):
        assert torch.equal(KeepTwoCochleae(TWO)(label), label)
    label = head((1, (3, 5), (5, 6), (4, 5)), (1, (8, 9), (5, 6), (4, 5)))
    assert torch.equal(KeepTwoCochleae(["vs"])(label), label)


def test_distances_out_of_range_are_refused():
    with pytest.raises(CrossmodaError, match="two rising distances"):
        KeepTwoCochleae(TWO, apart_mm=(30, 20))
    with pytest.raises(CrossmodaError, match="join_mm -1"):
        KeepTwoCochleae(TWO, join_mm=-1)


# --- Small components ---


def test_small_components_are_removed_by_volume_in_mm3():
    label = head(LEFT, RIGHT, TUMOUR, (2, (30, 32), (5, 6), (4, 5)), (1, (40, 42), (5, 6), (4, 5)))  # 2 voxels: 4 mm3
    assert xs(RemoveSmallComponents(TWO, {"cochlea": 4.1})(label), 2) == xs(head(LEFT, RIGHT), 2)
    assert xs(RemoveSmallComponents(TWO, {"cochlea": 4.1})(label), 1)[-1] == 41
    assert torch.equal(RemoveSmallComponents(TWO, {"cochlea": 4.0, "vs": 4.0})(label), label)
    item = {"pred": label}
    assert xs(RemoveSmallComponentsd("pred", TWO, {"vs": 10})(item)["pred"], 1) == list(range(18, 24))
    assert item["pred"] is label


def test_parts_of_a_tumour_count_together():
    label = head((1, (18, 20), (5, 6), (4, 5)), (2, (20, 23), (5, 6), (4, 5)))  # 4 and 6 mm3 side by side
    assert torch.equal(RemoveSmallComponents(THREE, {"vs": 10})(label), label)
    assert not RemoveSmallComponents(THREE, {"vs": 10.1})(label).any()


def test_a_structure_that_the_model_does_not_tell_apart_is_passed_over_and_an_unknown_name_refused():
    assert RemoveSmallComponents(["vs"], {"vs": 10, "cochlea": 10, "intra": 10}).least_mm3 == {"vs": 10}
    with pytest.raises(CrossmodaError, match="least_mm3: unknown cochlear; known are vs, cochlea"):
        RemoveSmallComponents(TWO, {"cochlear": 10})


# --- Rules ---


def rules(report):
    return {failure["rule"]: failure["found"] for failure in report["failed"]}


@pytest.mark.parametrize("affine", [UPRIGHT, MIRRORED])
def test_a_plausible_case_fails_no_rule_and_is_measured(affine):
    report = check_anatomy(head(LEFT, RIGHT, TUMOUR, affine=affine), TWO)
    assert report["failed"] == []
    assert report["found"] == {
        "cochlea_largest_mm3": 64.0,
        "cochlea_least_mm3": 64.0,
        "cochleae": 2,
        "cochleae_apart_mm": 48.0,
        "tumours": 1,
        "vs_mm3": 288.0,
        "vs_to_cochlea_mm": 5.0,  # from x = 13 to x = 18
    }


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((LEFT, RIGHT), {"tumours": 0, "vs_mm3": 0.0}),
        ((LEFT, TUMOUR), {"cochleae": 1}),
        ((TUMOUR,), {"cochleae": 0}),
        ((LEFT, RIGHT, TUMOUR, (1, (30, 32), (4, 5), (4, 5))), {"tumours": 2}),
        ((LEFT, RIGHT, (1, (18, 19), (4, 5), (4, 5))), {"vs_mm3": 2.0}),
        ((LEFT, RIGHT, (1, (33, 39), (4, 10), (3, 7))), {"vs_to_cochlea_mm": 20.0}),  # 13 to 33, 38 to 58
        ((LEFT, (2, (20, 24), (14, 18), (4, 6)), TUMOUR), {"cochleae_apart_mm": 10.0}),
        ((LEFT, (2, (58, 60), (5, 7), (4, 6)), TUMOUR), {"cochlea_least_mm3": 16.0}),
        ((LEFT, (2, (56, 62), (5, 11), (3, 7)), TUMOUR), {"cochlea_largest_mm3": 288.0}),
    ],
)
def test_each_rule_that_fails_is_told(blocks, expected):
    assert rules(check_anatomy(head(*blocks), TWO)) == expected


def test_the_canal_holds_no_large_part():
    label = head((3, (10, 14), (5, 9), (4, 6)), (3, (58, 62), (5, 9), (4, 6)), (2, (18, 30), (4, 14), (1, 10)))
    assert rules(check_anatomy(label, THREE)) == {"intra_mm3": 2160.0}  # 12 x 10 x 9 voxels of 2 mm3


def test_rules_of_what_a_model_does_not_tell_apart_are_left_out():
    assert set(check_anatomy(head(TUMOUR), ["vs"])["found"]) == {"tumours", "vs_mm3"}
    cochleae = head((1, *LEFT[1:]), (1, *RIGHT[1:]))
    assert check_anatomy(cochleae, ["cochlea"])["failed"] == []


def test_limits_can_be_set_and_the_report_is_written_by_case(tmp_path):
    check = CheckAnatomyd("pred", TWO, volumes_mm3={"vs": (300, 400)}, distance_mm=4.0)
    item = {"pred": head(LEFT, RIGHT, TUMOUR)}
    result = check(item)
    assert rules(result["pred_anatomy"]) == {"vs_mm3": 288.0, "vs_to_cochlea_mm": 5.0}
    assert result["pred"] is item["pred"]
    assert "pred_anatomy" not in item

    def step(engine, batch):
        engine.state.batch = [{"case": batch}]
        return [result]

    engine = Engine(step)
    CaseReport(tmp_path / "anatomy.json", "pred_anatomy").attach(engine)
    engine.run(["ldn_1"])
    written = read_json(tmp_path / "anatomy.json")["ldn_1"]["failed"]
    assert written[0] == {"rule": "vs_mm3", "found": 288.0, "allowed": [300, 400]}


def test_what_was_dropped_as_far_from_both_cochleae_is_told_as_failed() -> None:
    label = np.zeros((1, 60, 6, 6), np.uint8)
    label[0, [0, 59], 0, 0] = 2
    label[0, 24:26, :2, :2] = 1
    steps = Compose([KeepOneTumourd("pred", ("vs", "cochlea"), far_mm=20.0), CheckAnatomyd("pred", ("vs", "cochlea"))])
    item = steps({"pred": torch.from_numpy(label)})
    assert {"rule": "far_vs_mm3", "found": 8.0, "allowed": [0, 0]} in item["pred_anatomy"]["failed"]
    assert set(item) == {"pred", "pred_anatomy"}
