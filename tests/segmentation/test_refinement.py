"""The contrast transforms do what the self-training's rules do, with the same settings."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.refinement import RedrawByContrast, RedrawByContrastd, RemoveFluid, RemoveFluidd
from crossmoda.self_training.selection import Candidate, RefineByContrast, TakeAwayFluid

PAIRS = [(RedrawByContrast, RefineByContrast), (RemoveFluid, TakeAwayFluid)]
TWO, THREE = ("vs", "cochlea"), ("extra", "intra", "cochlea")
SPACING = (0.5, 0.5, 0.8)
AFFINE = np.array([[0, -0.5, 0, 9], [0.5, 0, 0, 1], [0, 0, -0.8, 2], [0, 0, 0, 1]])


def case(structures):
    """A dark tumour in bright fluid, labelled a voxel too far, and a bright cochlea in bone, drawn too small."""
    label, image = np.zeros((24, 24, 12), np.uint8), np.full((24, 24, 12), 100.0, np.float32)
    image[:, 16:] = 5.0
    image[6:16, 4:13, 2:10] = 40.0
    image[2:10, 18:23, 3:9] = 90.0
    image += np.random.default_rng(0).normal(0, 1, image.shape)
    label[5:17, 3:14, 2:10] = 1
    label[3:9, 18:23, 4:8] = len(structures)
    if len(structures) == 3:
        label[:9][label[:9] == 1] = 2
    return label, image.astype(np.float32)


def tensors(structures):
    return tuple(MetaTensor(array[None], affine=torch.as_tensor(AFFINE)) for array in case(structures))


@pytest.mark.parametrize(("transform", "rule"), PAIRS)
def test_transform_and_rule_have_the_same_settings(transform, rule):
    parameters = dict(list(inspect.signature(transform).parameters.items())[1:])
    assert {name: p.default for name, p in parameters.items()} == {f.name: f.default for f in dataclasses.fields(rule)}


@pytest.mark.parametrize("structures", [TWO, THREE])
@pytest.mark.parametrize(("transform", "rule"), PAIRS)
def test_transform_and_rule_give_the_same(transform, rule, structures):
    label, image = case(structures)
    expected = rule()(Candidate("c", label, structures, 0.1, SPACING, image)).label
    found = transform(structures)(*tensors(structures))
    np.testing.assert_array_equal(found[0], expected)
    assert (expected != label).any()
    np.testing.assert_allclose(found.affine, AFFINE)


def test_the_twins_take_their_settings_and_leave_the_item_as_it_is():
    label, scan = tensors(TWO)
    item = {"pred": label, "t2": scan}
    before = label.clone()
    redrawn = RedrawByContrastd("pred", TWO, scan_key="t2", shift_mm=0.0)(item)["pred"]
    trimmed = RemoveFluidd("pred", TWO, scan_key="t2", opening_mm=0.6)(item)["pred"]
    assert torch.equal(redrawn, RedrawByContrast(TWO, shift_mm=0.0)(label, scan))
    assert torch.equal(trimmed, RemoveFluid(TWO, opening_mm=0.6)(label, scan))
    assert torch.equal(label, before)
    assert torch.equal(redrawn == 1, label == 1)
    assert torch.equal(trimmed == 2, label == 2)


def test_what_cannot_be_refined_is_refused():
    with pytest.raises(CrossmodaError, match="'cochlea' is not in the labels"):
        RedrawByContrast(["vs"])
    with pytest.raises(CrossmodaError, match="RedrawByContrast: shift_mm is -1"):
        RedrawByContrast(TWO, shift_mm=-1)
    with pytest.raises(CrossmodaError, match="RemoveFluid: least_contrast is 2"):
        RemoveFluid(TWO, least_contrast=2)
    with pytest.raises(CrossmodaError, match="RemoveFluid: opening_mm is 0"):
        RemoveFluid(TWO, opening_mm=0)
    label, scan = tensors(TWO)
    with pytest.raises(CrossmodaError, match="label map and scan have 24 x 24 x 12 and 23 x 24 x 12 voxels"):
        RemoveFluid(TWO)(label, scan[:, 1:])
