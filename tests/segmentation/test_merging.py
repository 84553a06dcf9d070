import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.merging import MergeStructures, MergeStructuresd

SEPARATE = (["vs"], ["cochlea"])


def row(*numbers):
    """A label map (1, X, 2, 2) that is the same along y and z."""
    return torch.tensor(numbers, dtype=torch.uint8)[None, :, None, None].expand(1, len(numbers), 2, 2).clone()


def along_x(label):
    return np.asarray(label)[0, :, 0, 1].astype(int).tolist()


def test_the_vs_is_written_before_the_cochlea():
    merged = MergeStructures(SEPARATE)([row(1, 1, 0, 0), row(0, 1, 1, 0)])
    assert along_x(merged) == [1, 1, 2, 0]
    assert merged.dtype == torch.uint8


def test_the_order_of_structures_says_which_wins_and_how_they_are_numbered():
    merged = MergeStructures(SEPARATE, ["cochlea", "vs"])([row(1, 1, 0, 0), row(0, 1, 1, 0)])
    assert along_x(merged) == [2, 1, 1, 0]


def test_parts_and_cochlea_are_merged_by_name_whatever_the_members_numbers():
    parts, cochlea = row(1, 2, 2, 0, 0), row(0, 0, 1, 1, 0)
    merged = MergeStructures([["intra", "extra"], ["cochlea"]], ["extra", "intra", "cochlea"])([parts, cochlea])
    assert along_x(merged) == [2, 1, 1, 3, 0]


def test_probabilities_are_decided_before_they_are_merged():
    vs = torch.tensor([[0.4, 0.6, 0.9], [0.6, 0.4, 0.1]])[:, :, None, None].expand(2, 3, 2, 2)
    cochlea = row(1, 1, 0)
    assert along_x(MergeStructures(SEPARATE)([vs, cochlea])) == [1, 2, 0]


def test_the_twin_keeps_grid_and_item():
    affine = torch.tensor([[0, -0.5, 0, 9], [2.0, 0, 0, 1], [0, 0, 1.5, 2], [0, 0, 0, 1]], dtype=torch.float64)
    item = {"a": MetaTensor(row(0, 1), affine=affine), "b": MetaTensor(row(1, 1).float(), affine=affine)}
    result = MergeStructuresd(["a", "b"], SEPARATE, output_key="merged")(item)
    assert along_x(result["merged"]) == [2, 1]
    torch.testing.assert_close(result["merged"].affine, affine)
    assert set(item) == {"a", "b"}
    assert along_x(item["a"]) == [0, 1]


def test_other_grids_are_refused():
    with pytest.raises(CrossmodaError, match="predictions of vs and cochlea have 2 x 2 x 2 and 3 x 2 x 2 voxels"):
        MergeStructures(SEPARATE)([row(0, 1), row(0, 1, 0)])
    mirrored = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    with pytest.raises(CrossmodaError, match="lie in different places"):
        MergeStructures(SEPARATE)([MetaTensor(row(0, 1)), MetaTensor(row(0, 1), affine=mirrored)])


def test_structures_that_no_member_or_several_have_are_refused():
    with pytest.raises(CrossmodaError, match="must come from one member"):
        MergeStructures(SEPARATE, ["vs", "intra", "cochlea"])
    with pytest.raises(CrossmodaError, match="must come from one member"):
        MergeStructures([["vs", "cochlea"], ["cochlea"]])
    with pytest.raises(CrossmodaError, match="must come from one member"):
        MergeStructures(SEPARATE, ["vs"])


def test_predictions_that_do_not_fit_their_members_are_refused():
    with pytest.raises(CrossmodaError, match="1 predictions of 2 members"):
        MergeStructures(SEPARATE)([row(0, 1)])
    with pytest.raises(CrossmodaError, match=r"label values \[2\] of a model of cochlea"):
        MergeStructures(SEPARATE)([row(0, 1), row(0, 2)])
    with pytest.raises(CrossmodaError, match="3 channels of a model of vs; give 2"):
        MergeStructures(SEPARATE)([torch.zeros(3, 2, 2, 2), row(0, 1)])
    with pytest.raises(CrossmodaError, match="1 keys for 2 members"):
        MergeStructuresd("a", SEPARATE)
