import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscrete

from crossmoda.segmentation.decision import MostLikely, MostLikelyd


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_labels_are_those_of_monai_s_decision_where_channels_tie_as_well(channels):
    probabilities = torch.randint(0, 3, (channels, 7, 6, 5), generator=torch.Generator().manual_seed(0)) / 3
    expected = AsDiscrete(argmax=True)(probabilities)
    assert torch.equal(MostLikely()(probabilities).float(), expected)


def test_of_channels_that_are_equally_likely_the_first_is_taken():
    image = torch.tensor([0.2, 0.4, 0.4]).view(3, 1, 1, 1)
    assert MostLikely()(image).tolist() == [[[[1]]]]
    assert MostLikely()(torch.zeros(3, 1, 1, 1)).tolist() == [[[[0]]]]


def test_half_precision_and_logarithms_are_decided_too():
    image = torch.tensor([-2.0, -1.0, -9.0], dtype=torch.bfloat16).view(3, 1, 1, 1)
    assert MostLikely()(image).item() == 1


def test_the_grid_is_kept_and_the_item_is_not_changed():
    affine = torch.diag(torch.tensor([-0.5, 2.0, 1.5, 1.0], dtype=torch.float64))
    item = {"pred": MetaTensor(torch.rand(3, 4, 5, 6), affine=affine), "case": "a"}
    decided = MostLikelyd(["pred", "other"], allow_missing_keys=True)(item)
    assert decided["pred"].shape == (1, 4, 5, 6)
    assert decided["pred"].dtype == torch.uint8
    assert torch.equal(decided["pred"].affine, affine)
    assert item["pred"].shape == (3, 4, 5, 6)
    assert decided["case"] == "a"
