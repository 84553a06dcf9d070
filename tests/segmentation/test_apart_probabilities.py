"""Members' probabilities merged: against merged label maps, by hand, and as proper probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.apart import MergeProbabilities
from crossmoda.segmentation.decision import MostLikely
from crossmoda.segmentation.merging import MergeStructures
from crossmoda.segmentation.uncertainty import predictive_entropy


def one_voxel(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("members", "structures"),
    [
        ([["vs"], ["cochlea"]], ["vs", "cochlea"]),
        ([["cochlea"], ["vs"]], ["vs", "cochlea"]),
        ([["vs"], ["cochlea"]], ["cochlea", "vs"]),
        (
            [["intra", "extra"], ["cochlea"]],
            ["extra", "cochlea", "intra"],
        ),  # another's structure between a member's own
        ([["cochlea"], ["extra", "intra"]], ["extra", "intra", "cochlea"]),
    ],
)
def test_the_likeliest_class_is_what_the_merged_label_maps_say(members: list[list[str]], structures: list[str]) -> None:
    generator = torch.Generator().manual_seed(5)
    found = [
        torch.softmax(2 * torch.randn(len(member) + 1, 12, 9, 20, generator=generator), dim=0) for member in members
    ]
    merged = MergeProbabilities(members, structures)(found)
    expected = MergeStructures(members, structures)([MostLikely()(prediction) for prediction in found])
    assert set(torch.unique(expected).tolist()) == set(range(len(structures) + 1))
    again = torch.softmax(merged, dim=0)  # as to_probabilities does
    assert torch.equal(MostLikely()(again), expected)
    torch.testing.assert_close(merged.exp(), again)
    torch.testing.assert_close(again.sum(dim=0), torch.ones(12, 9, 20))


def test_values_by_hand() -> None:
    """VS 0.45, cochlea 0.6: margins log(9/11) and log(3/2); the cochlea's evidence is at most log(11/9), so odds are

    1 : 9/11 : 11/9. VS 0.9 and cochlea 0.8: the cochlea's evidence is -log(9), so odds are 1 : 9 : 1/9.
    """
    merge = MergeProbabilities([["vs"], ["cochlea"]], ["vs", "cochlea"])
    odds = torch.tensor([1, 9 / 11, 11 / 9])
    found = merge([one_voxel(0.55, 0.45), one_voxel(0.4, 0.6)]).exp().flatten()
    torch.testing.assert_close(found, odds / odds.sum())
    odds = torch.tensor([1, 9, 1 / 9])
    torch.testing.assert_close(merge([one_voxel(0.1, 0.9), one_voxel(0.2, 0.8)]).exp().flatten(), odds / odds.sum())


def test_a_member_s_own_probability_stays_where_the_other_is_sure_of_nothing() -> None:
    merge = MergeProbabilities([["vs"], ["cochlea"]], ["vs", "cochlea"])
    for probability in (0.02, 0.3, 0.7, 0.98):
        alone = merge([one_voxel(1 - probability, probability), one_voxel(1, 0)]).exp().flatten()
        torch.testing.assert_close(alone, torch.tensor([1 - probability, probability, 0]), atol=1e-6, rtol=0)
        alone = merge([one_voxel(1, 0), one_voxel(1 - probability, probability)]).exp().flatten()
        torch.testing.assert_close(alone, torch.tensor([1 - probability, 0, probability]), atol=1e-6, rtol=0)


def test_two_claims_on_a_voxel_are_less_sure_than_one() -> None:
    merge = MergeProbabilities([["vs"], ["cochlea"]], ["vs", "cochlea"])
    near = predictive_entropy(merge([one_voxel(0.55, 0.45), one_voxel(0.4, 0.6)]).exp())
    clear = predictive_entropy(merge([one_voxel(1, 0), one_voxel(0.4, 0.6)]).exp())
    assert float(near) > float(clear)
    assert float(clear) == pytest.approx(-(0.4 * math.log(0.4) + 0.6 * math.log(0.6)) / math.log(3), abs=1e-5)


def test_outside_a_crop_window_nothing_is_there_for_certain() -> None:
    """Probabilities that are brought back are 0 in every class there; of the other member all are known."""
    merge = MergeProbabilities([["vs"], ["cochlea"]], ["vs", "cochlea"])
    torch.testing.assert_close(
        merge([one_voxel(0, 0), one_voxel(0, 0)]).exp().flatten(), torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0
    )
    found = merge([one_voxel(0, 0), one_voxel(0.3, 0.7)]).exp().flatten()
    torch.testing.assert_close(found, torch.tensor([0.3, 0, 0.7]), atol=1e-6, rtol=0)


def test_the_first_prediction_s_grid_is_kept_and_nothing_is_modified() -> None:
    affine = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0]))
    first = MetaTensor(torch.full((2, 3, 4, 5), 0.5), affine=affine)
    second = torch.zeros(2, 3, 4, 5)
    merged = MergeProbabilities([["vs"], ["cochlea"]], ["vs", "cochlea"])([first, second])
    assert isinstance(merged, MetaTensor)
    assert torch.equal(merged.affine.float(), affine)
    assert float(first.min()) == 0.5
    assert float(second.abs().max()) == 0


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([torch.zeros(2, 3, 3, 3)], "1 predictions of 2 members"),
        ([torch.zeros(3, 3, 3, 3), torch.zeros(2, 3, 3, 3)], "3 channels of a model of vs; give 2"),
        ([torch.zeros(2, 3, 3, 3), torch.zeros(2, 3, 3, 4)], "bring them to one grid first"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predictions: list[torch.Tensor], message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        MergeProbabilities([["vs"], ["cochlea"]], ["vs", "cochlea"])(predictions)


def test_a_structure_of_two_members_is_refused() -> None:
    with pytest.raises(CrossmodaError, match="each structure must come from one member"):
        MergeProbabilities([["vs", "cochlea"], ["cochlea"]], ["vs", "cochlea"])
