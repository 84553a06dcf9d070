import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.anatomy import KeepOneTumourd, nearest_mm

NAMES = ("vs", "cochlea")


def scene():
    """A cochlea at x = 0, a tumour of 2 voxels 3 voxels from it, and a false one of 8 voxels 12 voxels from it."""
    label = np.zeros((1, 20, 6, 6), np.uint8)
    label[0, 0, 0, 0] = 2
    label[0, 3:5, 0, 0] = 1
    label[0, 12:14, :2, :2] = 1
    return label


def tumours(transform, label):
    kept = transform({"pred": label})["pred"]
    return sorted({int(x) for x in np.argwhere(np.asarray(kept)[0] == 1)[:, 0]})


def test_the_distance_of_two_masks_is_that_of_their_nearest_voxels_in_mm():
    a, b = np.zeros((2, 9, 9, 9), bool)
    a[0, 0, 0] = a[0, 8, 8] = b[3, 0, 2] = True
    assert nearest_mm(a, b, (1.0, 1.0, 2.0)) == pytest.approx(5.0)  # sqrt(3^2 + 4^2)
    assert nearest_mm(a, np.zeros_like(a), (1.0, 1.0, 1.0)) == float("inf")


def test_the_tumour_near_a_cochlea_is_kept_before_a_larger_one_far_away():
    assert tumours(KeepOneTumourd("pred", NAMES, 10.0), torch.from_numpy(scene())) == [3, 4]


def test_of_two_near_ones_the_larger_is_kept():
    assert tumours(KeepOneTumourd("pred", NAMES, 12.0), torch.from_numpy(scene())) == [12, 13]


def test_near_is_meant_in_millimetres_whatever_the_axes_and_their_signs():
    affine = torch.diag(torch.tensor([-0.5, 2.0, 1.0, 1.0], dtype=torch.float64))  # 12 voxels along x are 6 mm
    assert tumours(KeepOneTumourd("pred", NAMES, 10.0), MetaTensor(scene(), affine=affine)) == [12, 13]
    rotated = MetaTensor(scene(), affine=affine[[2, 0, 1, 3]])  # x of the array runs along another axis of the world
    assert tumours(KeepOneTumourd("pred", NAMES, 5.0), rotated) == [3, 4]


def test_where_none_is_near_the_largest_stays():
    label = torch.from_numpy(scene())
    assert tumours(KeepOneTumourd("pred", NAMES, 1.0), label) == [12, 13]
    assert tumours(KeepOneTumourd("pred", ("vs",), 10.0), torch.where(label == 2, 0, label)) == [12, 13]


def heads(second: int, third: int = -1):
    """A head 60 mm wide with cochleae at x = 0, ``second``, perhaps ``third``, and a tumour of 8 voxels at x = 24."""
    label = np.zeros((1, 60, 6, 6), np.uint8)
    label[0, [0, second, third if third >= 0 else second], 0, 0] = 2
    label[0, 24:26, :2, :2] = 1
    return torch.from_numpy(label)


def test_a_tumour_far_from_both_cochleae_is_none_and_its_volume_is_told():
    strict = KeepOneTumourd("pred", NAMES, 10.0, far_mm=20.0)
    assert tumours(strict, heads(59)) == []
    assert strict({"pred": heads(59)})["pred_far_vs_mm3"] == 8.0
    assert tumours(KeepOneTumourd("pred", NAMES, 10.0), heads(59)) == [24, 25]
    nearer = KeepOneTumourd("pred", NAMES, 10.0, far_mm=24.0)  # the cochlea at x = 0 is 24 mm away
    assert tumours(nearer, heads(59)) == [24, 25]
    assert "pred_far_vs_mm3" not in nearer({"pred": heads(59)})


def test_a_far_tumour_stays_where_the_cochlea_beside_it_may_not_have_been_found():
    strict = KeepOneTumourd("pred", NAMES, 10.0, far_mm=20.0)
    assert tumours(strict, heads(0)) == [24, 25]
    assert tumours(strict, heads(2)) == [24, 25]  # two pieces of one cochlea
    assert tumours(strict, heads(2, third=59)) == []


def test_left_and_right_of_a_far_tumour_are_those_of_the_world():
    strict = KeepOneTumourd("pred", NAMES, 10.0, far_mm=20.0)
    upright = torch.eye(4, dtype=torch.float64)[[2, 0, 1, 3]]  # x of the array runs from foot to head
    assert tumours(strict, MetaTensor(heads(59), affine=upright)) == [24, 25]
    flipped = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    assert tumours(strict, MetaTensor(heads(59), affine=flipped)) == []


def test_what_is_far_is_not_nearer_than_what_is_near():
    with pytest.raises(CrossmodaError, match="far_mm is 5"):
        KeepOneTumourd("pred", NAMES, 10.0, far_mm=5.0)


def test_a_model_that_seeks_no_tumour_is_left_as_it_is():
    label = torch.from_numpy(scene())
    for structures in (("cochlea",), ("intra", "cochlea")):
        assert torch.equal(KeepOneTumourd("pred", structures)({"pred": label})["pred"], label)


def test_parts_of_a_tumour_count_together_and_the_cochlea_and_the_argument_stay():
    label = scene()
    label[0, 0, 0, 0], label[0, 4, 0, 0] = 3, 2  # cochlea, and the second half of the tumour as its other part
    before = torch.from_numpy(label)
    after = KeepOneTumourd("pred", ("extra", "intra", "cochlea"), 10.0)({"pred": before})["pred"]
    assert after[0, 3:5, 0, 0].tolist() == [1, 2]
    assert after[0, 0, 0, 0] == 3
    assert not after[0, 12:14].any()
    assert before[0, 12:14].any()


def test_a_distance_that_is_not_above_zero_is_refused():
    with pytest.raises(CrossmodaError, match="distance_mm is 0"):
        KeepOneTumourd("pred", NAMES, 0)
