"""Votes with thresholds on volumes made by hand, and weights that belong together."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.apart import MemberNetworks
from crossmoda.segmentation.ensembling import VoteByThresholds, VoteByThresholdsd, disagreement, require_members
from crossmoda.segmentation.inferers import EnsembleInferer

TWO = ("vs", "cochlea")
THREE = ("extra", "intra", "cochlea")
SHAPE = (16, 10, 8)


def shares(structures, *blocks, shape=SHAPE, affine=None):
    """Shares of eight votes: each block is (structure, votes, x, y, z), spans as slices; the rest is background."""
    votes = torch.zeros(len(structures) + 1, *shape)
    for name, count, *spans in blocks:
        votes[(structures.index(name) + 1, *spans)] = count / 8
    votes[0] = 1 - votes[1:].sum(dim=0)
    return votes if affine is None else MetaTensor(votes, affine=torch.as_tensor(affine, dtype=torch.float64))


def found(label, number):
    """The x indices at y = z = 1 of a number."""
    return np.flatnonzero(np.asarray(label)[0, :, 1, 1] == number).tolist()


ROW = (slice(1, 2), slice(1, 2))
BODY = (slice(0, 3), slice(0, 3))


# --- How far predictions disagree ---


def test_disagreement_is_the_exclusive_or_over_the_sum():
    votes = shares(TWO, ("vs", 8, slice(0, 4), *ROW), ("vs", 3, slice(4, 6), *ROW), ("cochlea", 8, slice(9, 10), *ROW))
    assert disagreement(votes) == pytest.approx((7 - 5) / (7 + 5 + 1))


def test_votes_for_different_structures_agree_on_the_foreground():
    votes = shares(TWO, ("vs", 4, slice(0, 4), *ROW), ("cochlea", 4, slice(0, 4), *ROW))
    assert disagreement(votes) == 0


def test_nothing_at_all_is_no_disagreement_and_no_structure():
    votes = shares(THREE)
    assert disagreement(votes) == 0
    assert not VoteByThresholds(THREE)(votes).any()


# --- Whole tumour and cochlea ---


def test_a_tumour_needs_six_of_eight_votes_and_a_cochlea_five():
    counts = [("vs", n, slice(n - 1, n), *ROW) for n in range(5, 9)]  # x = 4 .. 7 have 5 .. 8 votes
    cochlea = [("cochlea", n, slice(n + 6, n + 7), *ROW) for n in range(3, 9)]  # x = 9 .. 14 have 3 .. 8 votes
    label = VoteByThresholds(TWO, worst_disagreement=1)(shares(TWO, *counts, *cochlea))
    assert found(label, 1) == [5, 6, 7]
    assert found(label, 2) == [11, 12, 13, 14]


def test_a_cochlea_that_no_majority_sees_is_the_union_in_components_larger_than_the_least():
    body = (slice(1, 8), slice(1, 8))  # 49 voxels a layer
    tumour = ("vs", 8, slice(0, 8), slice(0, 10), slice(0, 8))
    votes = shares(TWO, tumour, ("cochlea", 2, slice(9, 10), *body), ("cochlea", 1, slice(12, 14), *ROW))
    assert found(VoteByThresholds(TWO, least_cochlea_mm3=49)(votes), 2) == []  # 49 and 2 voxels of 1 mm3
    assert found(VoteByThresholds(TWO, least_cochlea_mm3=48.9)(votes), 2) == [9]


def test_the_least_volume_is_meant_in_cubic_millimetres():
    blocks = (("vs", 8, slice(0, 8), slice(0, 10), slice(0, 8)), ("cochlea", 2, slice(9, 11), *BODY))  # 18 voxels
    affine = np.diag([-0.5, 0.5, 2.0, 1.0])  # 0.5 mm3 each, so 9 mm3
    assert found(VoteByThresholds(TWO, least_cochlea_mm3=8.9)(shares(TWO, *blocks, affine=affine)), 2) == [9, 10]
    assert found(VoteByThresholds(TWO, least_cochlea_mm3=9)(shares(TWO, *blocks, affine=affine)), 2) == []


def test_the_fallback_of_the_cochlea_takes_nothing_from_the_tumour():
    tumour = ("vs", 6, slice(0, 9), slice(0, 10), slice(0, 8))
    votes = shares(TWO, tumour, ("cochlea", 2, slice(5, 12), *BODY))
    label = VoteByThresholds(TWO, least_cochlea_mm3=1)(votes)
    assert found(label, 1) == list(range(9))
    assert found(label, 2) == [9, 10, 11]


def test_the_larger_of_two_tumours_is_kept_and_corners_connect():
    votes = shares(TWO, ("vs", 8, slice(1, 3), *ROW), ("vs", 8, slice(8, 10), *ROW))
    votes[1, 3, 2, 2], votes[0, 3, 2, 2] = 1, 0  # at the corner of x = 2: three voxels in one component
    label = VoteByThresholds(TWO)(votes)
    assert found(label, 1) == [1, 2]
    assert label[0, 3, 2, 2] == 1


# --- Cases in which the predictions disagree ---


def far_cochleae(axis, affine):
    """A tumour at the middle and two cochleae 2 and 11 voxels from it along an axis, all seen by one of eight."""
    shape = [6, 6, 6]
    shape[axis] = 16
    blocks = []
    for name, start in (("vs", 2), ("cochlea", 4), ("cochlea", 13)):
        spans = [slice(2, 4)] * 3
        spans[axis] = slice(start, start + 1)
        blocks.append((name, 1, *spans))
    return shares(TWO, *blocks, shape=shape, affine=affine)


def heights(label, number, axis):
    return sorted({int(place[axis]) for place in np.argwhere(np.asarray(label)[0] == number)})


def test_where_predictions_disagree_the_union_is_taken():
    votes = shares(TWO, ("vs", 1, slice(0, 3), *ROW), ("cochlea", 2, slice(2, 5), *ROW))
    assert disagreement(votes) > 0.7  # 5 voxels of which none is sure: 5 / 6
    label = VoteByThresholds(TWO)(votes)
    assert found(label, 1) == [0, 1]
    assert found(label, 2) == [2, 3, 4]  # two votes against one at x = 2


@pytest.mark.parametrize(
    ("axis", "affine"),
    [
        (2, np.diag([0.5, 0.5, 1.5, 1.0])),
        (2, np.diag([0.5, 0.5, -1.5, 1.0])),
        (0, np.array([[0, 0.5, 0, 3], [0, 0, -0.5, 2], [1.5, 0, 0, 9], [0, 0, 0, 1]])),
    ],
)
def test_there_a_cochlea_far_above_or_below_the_tumour_is_dropped_in_mm(axis, affine):
    votes = far_cochleae(axis, affine)  # 3 and 16.5 mm along the body's axis
    assert heights(VoteByThresholds(TWO, cochlea_within_mm=16)(votes), 2, axis) == [4]
    assert heights(VoteByThresholds(TWO, cochlea_within_mm=17)(votes), 2, axis) == [4, 13]


def test_a_cochlea_far_to_the_side_is_kept():
    votes = far_cochleae(0, np.diag([1.5, 0.5, 0.5, 1.0]))
    assert heights(VoteByThresholds(TWO, cochlea_within_mm=1)(votes), 2, 0) == [4, 13]


def test_without_a_tumour_no_cochlea_is_dropped():
    votes = far_cochleae(2, np.eye(4))
    votes[1] = 0
    assert heights(VoteByThresholds(TWO, cochlea_within_mm=1)(votes), 2, 2) == [4, 13]


def test_in_parts_the_intra_meatal_part_is_what_heights_are_measured_from():
    votes = far_cochleae(2, np.eye(4))
    parted = torch.zeros(4, *votes.shape[1:])
    parted[2, :, :, 6] = 1 / 8  # intra-meatal, at z = 6; extra-meatal at z = 2
    parted[1], parted[3] = torch.as_tensor(votes[1]), torch.as_tensor(votes[2])
    label = VoteByThresholds(THREE, cochlea_within_mm=5)(parted)
    assert heights(label, 3, 2) == [4]  # 2 voxels from the one, 7 for the other


# --- The tumour in parts ---


@pytest.mark.parametrize("structures", [THREE, ("intra", "cochlea", "extra")])
def test_each_part_needs_six_votes_and_its_sum_makes_a_tumour(structures):
    votes = shares(
        structures,
        ("extra", 8, slice(0, 4), *ROW),
        ("extra", 4, slice(4, 5), *ROW),
        ("intra", 4, slice(4, 5), *ROW),
        ("extra", 4, slice(9, 10), *ROW),
        ("intra", 8, slice(5, 8), *ROW),
        ("intra", 1, slice(9, 10), *ROW),
        ("cochlea", 5, slice(12, 13), *ROW),
    )
    label = VoteByThresholds(structures)(votes)
    extra, intra, cochlea = (structures.index(name) + 1 for name in ("extra", "intra", "cochlea"))
    # 4 voxels are extra-meatal by all votes, 5 intra-meatal by some: the undecided voxel at x = 4 becomes extra-meatal.
    assert found(label, extra) == [0, 1, 2, 3, 4]
    assert found(label, intra) == [5, 6, 7]  # x = 9 has but five votes in all
    assert found(label, cochlea) == [12]


def test_undecided_voxels_become_intra_meatal_where_the_extra_meatal_part_is_the_larger():
    votes = shares(
        THREE,
        ("extra", 8, slice(0, 6), *ROW),
        ("extra", 4, slice(6, 7), *ROW),
        ("intra", 4, slice(6, 7), *ROW),
        ("intra", 8, slice(7, 9), *ROW),
    )
    label = VoteByThresholds(THREE)(votes)  # 6 by all against 3 by some
    assert found(label, 1) == [0, 1, 2, 3, 4, 5]
    assert found(label, 2) == [6, 7, 8]


def test_smaller_pieces_of_the_intra_meatal_part_lose_their_name():
    votes = shares(
        THREE,
        ("intra", 8, slice(0, 3), *ROW),
        ("extra", 8, slice(3, 5), *ROW),
        ("intra", 8, slice(5, 6), *ROW),
    )
    label = VoteByThresholds(THREE)(votes)  # 2 extra-meatal by all, 4 intra-meatal by some: to the extra-meatal part
    assert found(label, 2) == [0, 1, 2]
    assert found(label, 1) == [3, 4, 5]


def test_a_tumour_with_both_parts_is_kept_before_a_larger_one():
    votes = shares(
        THREE,
        ("extra", 8, slice(0, 1), *ROW),
        ("intra", 8, slice(1, 2), *ROW),
        ("extra", 8, slice(6, 12), *BODY),
    )
    label = VoteByThresholds(THREE)(votes)
    assert (found(label, 1), found(label, 2)) == ([0], [1])


def test_without_both_parts_anywhere_the_largest_tumour_is_kept():
    votes = shares(THREE, ("extra", 8, slice(0, 2), *ROW), ("extra", 8, slice(6, 12), *BODY))
    assert found(VoteByThresholds(THREE)(votes), 1) == list(range(6, 12))


# --- One structure, the twin, and what is refused ---


@pytest.mark.parametrize("name", ["vs", "cochlea"])
def test_a_model_of_one_structure_is_voted_on_too(name):
    assert found(VoteByThresholds([name])(shares([name], (name, 6, slice(2, 4), *ROW))), 1) == [2, 3]


def test_the_twin_adds_the_disagreement_and_keeps_affine_and_item():
    affine = np.diag([-0.4, 0.4, 1.5, 1.0])
    item = {"pred": shares(TWO, ("vs", 6, slice(2, 4), *ROW), affine=affine), "case": "ldn_1"}
    before = item["pred"].clone()
    result = VoteByThresholdsd("pred", TWO, tumour_share=0.8, worst_disagreement=1)(item)
    assert result["pred_disagreement"] == pytest.approx(2 / 3)
    assert not result["pred"].any()  # 0.75 is not above 0.8
    assert result["pred"].shape == (1, *SHAPE)
    np.testing.assert_allclose(result["pred"].affine, affine)
    assert torch.equal(item["pred"], before)
    assert set(item) == {"pred", "case"}


def test_what_cannot_be_voted_on_is_refused():
    with pytest.raises(CrossmodaError, match="give vs, or intra and extra"):
        VoteByThresholds(["intra", "cochlea"])
    with pytest.raises(CrossmodaError, match=r"tumour_share is 0\.4"):
        VoteByThresholds(TWO, tumour_share=0.4)
    with pytest.raises(CrossmodaError, match="cochlea_within_mm 0 above 0"):
        VoteByThresholds(TWO, cochlea_within_mm=0)
    with pytest.raises(CrossmodaError, match="make 4 channels"):
        VoteByThresholds(THREE)(shares(TWO))
    with pytest.raises(CrossmodaError, match="no shares of votes"):
        VoteByThresholds(TWO)(shares(TWO) * -3)


# --- Members ---


def network(channels=2):
    return torch.nn.Conv3d(1, channels, 1)


def test_members_that_belong_together_pass(tmp_path):
    for fold in range(2):
        save_weights(network(), tmp_path / f"{fold}.pt", {"structures": ["vs"]})
    require_members(network(), [tmp_path / "0.pt", tmp_path / "1.pt"], structures=["vs"], spacing=[1, 1, 1])


def test_a_missing_a_damaged_and_a_foreign_member_are_named(tmp_path):
    good, damaged, other, foreign = (tmp_path / f"{name}.pt" for name in ("good", "damaged", "other", "foreign"))
    save_weights(network(), good, {"structures": ["extra", "intra"]})
    damaged.write_bytes(good.read_bytes()[:-200])
    save_weights(network(3), other)
    save_weights(network(), foreign, {"structures": ["intra", "extra"]})
    for path, reason in (
        (tmp_path / "absent.pt", "absent.pt: no weights there"),
        (damaged, "damaged.pt: not a file of weights"),
        (other, "other.pt: weights of another network"),
        (foreign, r"foreign.pt: trained with structures \['intra', 'extra'\], but structures is \['extra', 'intra'\]"),
    ):
        with pytest.raises(CrossmodaError, match=reason):
            require_members(network(), [good, path], structures=["extra", "intra"])


def test_models_that_average_their_own_networks_are_refused(tmp_path):
    message = "ensemble.yaml with inference_apart.yaml: such a model averages its own networks; leave ensemble.yaml out"
    with pytest.raises(CrossmodaError, match=message):
        require_members(MemberNetworks({"vs": network()}), [tmp_path / "a.pt"])
    with pytest.raises(CrossmodaError, match=message):  # where the overlays were named the other way round
        EnsembleInferer([tmp_path / "a.pt"])(torch.zeros(1, 1, 2, 2, 2), MemberNetworks({"vs": network()}))


def test_the_same_weights_under_two_names_are_refused(tmp_path):
    save_weights(network(), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    with pytest.raises(CrossmodaError, match=r"b\.pt: the same weights as .*a\.pt"):
        require_members(network(), [tmp_path / "a.pt", tmp_path / "b.pt"])
