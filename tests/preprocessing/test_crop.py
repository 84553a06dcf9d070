from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing import BrainCentredCrop, BrainCentredCropd

AFFINES = {
    "RAS": np.diag([0.5, 0.6, 2.0, 1.0]),
    "LPS": np.array([[-0.5, 0, 0, 9], [0, -0.6, 0, 8], [0, 0, 2, -7], [0, 0, 0, 1]]),
    "rotated": np.array([[0.4, -0.36, 0, 5], [0.3, 0.48, 0, -7], [0, 0, -2, 11], [0, 0, 0, 1]]),
}


def volume(array: np.ndarray, affine: np.ndarray = AFFINES["RAS"]) -> MetaTensor:
    return MetaTensor(
        torch.from_numpy(array.astype(np.float32))[None],
        affine=torch.from_numpy(affine),
        meta={"filename_or_obj": "somewhere/p_T2.nii.gz"},
    )


def head(shape: tuple[int, int, int] = (20, 16, 6)) -> np.ndarray:
    """Return zeros with a bright block at x 12..15 and y 4..7: under a quarter of all voxels, centre (13.5, 5.5)."""
    array = np.zeros(shape, np.float32)
    array[12:16, 4:8] = 5
    return array


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_the_window_is_centred_on_the_brightest_quarter_and_keeps_its_place_in_the_world(affine: np.ndarray) -> None:
    cropped = BrainCentredCrop((8, 6))(volume(head(), affine))
    assert cropped.shape == (1, 8, 6, 6)
    np.testing.assert_array_equal(cropped[0].numpy(), head()[10:18, 3:9])
    np.testing.assert_allclose(cropped.affine[:, 3].numpy(), affine @ [10, 3, 0, 1])


def test_an_odd_window_lies_symmetrically() -> None:
    array = np.zeros((11, 9, 4))
    array[5, 4] = 1
    cropped = BrainCentredCrop((3, 5))(volume(array))
    assert torch.nonzero(cropped[0])[0].tolist()[:2] == [1, 2]


def test_the_window_is_moved_back_into_the_image() -> None:
    array = np.zeros((20, 16, 3), np.float32)
    array[17:, :3] = 1
    cropped = BrainCentredCrop((10, 8))(volume(array))
    np.testing.assert_array_equal(cropped[0].numpy(), array[10:, :8])


def test_a_small_image_is_padded_evenly_with_its_minimum_and_slices_up_to_a_number() -> None:
    array = head((20, 16, 5)) - 1
    padded = BrainCentredCrop((24, 19), minimum_slices=8)(volume(array))
    assert padded.shape == (1, 24, 19, 8)
    np.testing.assert_array_equal(padded[0, 2:22, 1:17, 1:6].numpy(), array)
    assert float(padded[0, 0].max()) == -1


def test_slices_are_cropped_where_the_window_has_three_numbers() -> None:
    array = np.zeros((8, 6, 30))
    array[3:5, 2:4, 20:24] = 1  # centre 21.5
    assert torch.nonzero(BrainCentredCrop((8, 6, 6))(volume(array))[0])[:, 2].unique().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("size", [(8, 6), (24, 18), (10, 20)], ids=["cropped", "padded", "both"])
def test_the_inverse_restores_the_grid_and_the_labels_in_the_window(affine: np.ndarray, size: tuple[int, int]) -> None:
    label = np.random.default_rng(3).integers(0, 3, (20, 16, 6))
    crop = BrainCentredCropd(["image", "label"], size, reference_key="image", label_keys=["label"], minimum_slices=8)
    cropped = crop({"image": volume(head(), affine), "label": volume(label, affine)})
    assert cropped["label"].shape == (1, *size, 8)
    restored = crop.inverse(cropped)
    inside = np.zeros(label.shape, bool)
    x = slice(10, 18) if size[0] == 8 else slice(9, 19) if size[0] == 10 else slice(None)
    inside[x, slice(3, 9) if size[1] == 6 else slice(None)] = True
    np.testing.assert_array_equal(restored["label"][0].numpy(), np.where(inside, label, 0))
    np.testing.assert_allclose(restored["label"].affine.numpy(), affine)
    assert restored["image"].shape == (1, 20, 16, 6)


def test_image_and_label_share_the_references_window_and_the_input_is_unchanged() -> None:
    label = np.zeros((20, 16, 6))
    label[0, 0] = 1  # its own brightest quarter lies elsewhere
    item = {"image": volume(head()), "label": volume(label)}
    cropped = BrainCentredCropd(["image", "label"], (8, 6), reference_key="image")(item)
    torch.testing.assert_close(cropped["image"].affine, cropped["label"].affine)
    assert item["image"].shape == (1, 20, 16, 6)
    assert item["image"].applied_operations == []


def test_labels_are_padded_with_background_whatever_their_minimum() -> None:
    crop = BrainCentredCropd(["image", "label"], (22, 18), reference_key="image", label_keys=["label"])
    cropped = crop({"image": volume(head() + 3), "label": volume(np.ones((20, 16, 6)))})
    assert float(cropped["label"][0, 0, 0, 0]) == 0
    assert float(cropped["image"][0, 0, 0, 0]) == 3


def test_a_label_that_the_window_cuts_is_told(caplog: pytest.LogCaptureFixture) -> None:
    array = np.zeros((20, 16, 6), np.float32)
    array[13, 6:10] = 1  # y 4 to 8 is kept: the last of four voxels is not
    data = {"image": volume(head()), "label": volume(array)}
    crop = BrainCentredCropd(["image", "label"], (8, 5), "image", label_keys=["label"])
    crop(data)
    assert [record.getMessage() for record in caplog.records] == [
        "somewhere/p_T2.nii.gz: 25 % of the label lies outside the window of 8 x 5 x 6 voxels; give a larger crop_size"
    ]
    caplog.clear()
    BrainCentredCropd(["image", "label"], (8, 8), "image", label_keys=["label"])(data)
    assert not caplog.records
    confident = {"image": volume(head()), "confidence": volume(np.ones((20, 16, 6), np.float32))}
    BrainCentredCropd(["image", "confidence"], (8, 5), "image", label_keys=["confidence"])(confident)
    assert not caplog.records  # a map that is nowhere 0 is always cut


def test_a_missing_label_is_passed_over_where_allowed() -> None:
    crop = BrainCentredCropd(["image", "label"], (8, 6), reference_key="image", allow_missing_keys=True)
    assert set(crop({"image": volume(head())})) == {"image"}


def test_a_saturated_image_is_centred_on_what_exceeds_its_minimum() -> None:
    array = np.ones((20, 16, 6))
    array[:4] = 0  # 80 % at the maximum, whose mean x is 11.5
    np.testing.assert_allclose(BrainCentredCrop((8, 16))(volume(array)).affine[0, 3], 8 * 0.5)


def test_unusable_images_and_sizes_are_refused_by_name() -> None:
    with pytest.raises(CrossmodaError, match=r"p_T2\.nii\.gz: all voxels have one value"):
        BrainCentredCrop((8, 6))(volume(np.ones((20, 16, 6))))
    with pytest.raises(CrossmodaError, match="2 or 3 positive numbers"):
        BrainCentredCrop((8, 0))
    with pytest.raises(CrossmodaError, match="2 or 3 positive numbers"):
        BrainCentredCrop((8,))
    crop = BrainCentredCropd(["image", "label"], (8, 6), reference_key="image")
    with pytest.raises(CrossmodaError, match=r"\(20, 16, 5\) voxels, but .*p_T2\.nii\.gz has \(20, 16, 6\)"):
        crop({"image": volume(head()), "label": volume(np.zeros((20, 16, 5)))})
