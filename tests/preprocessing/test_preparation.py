"""What is done to a scan on its own grid before everything else, and how it is written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    AdjustContrast,
    ClipIntensityPercentiles,
    ClipIntensityPercentilesd,
    Compose,
    Flip,
    Lambda,
    RandGaussianNoise,
    ScaleIntensity,
    SpatialCrop,
    Transform,
)
from scipy import ndimage

from crossmoda.data.transforms import LoadVolume
from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing import (
    PrepareImage,
    PrepareImaged,
    VanCittertDeconvolution,
    describe_transforms,
    working_space,
)

SHAPE = (14, 30, 26)
# Axes stored as superior (1.5 mm), left (0.5 mm), posterior (0.6 mm), off the origin.
AFFINE = np.array([[0, -0.5, 0, 11], [0, 0, -0.6, 7], [1.5, 0, 0, -3], [0, 0, 0, 1.0]])
SIGMA_MM = (1.0, 1.2, 2.5)  # along the patient's x, y and z: 2.5 / 1.5, 1.0 / 0.5 and 1.2 / 0.6 voxels of the file


def scan() -> np.ndarray:
    """Return a bright block in a head with noise."""
    array = np.full(SHAPE, 20.0)
    array[5:9, 8:20, 10:16] = 100
    return (ndimage.gaussian_filter(array, 1.0) + np.random.default_rng(0).random(SHAPE)).astype(np.float32)


def written(folder: Path, array: np.ndarray) -> str:
    path = folder / "p_T2.nii.gz"
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return str(path)


def deconvolved_by_hand(array: np.ndarray) -> np.ndarray:
    """Return two steps of f <- f + (g - h * f), the widths written along the file's axes."""
    sharp = array.copy()
    for _ in range(2):
        sharp = sharp + array - ndimage.gaussian_filter(sharp, (2.5 / 1.5, 1.0 / 0.5, 1.2 / 0.6), mode="reflect")
    return np.clip(sharp, array.min(), array.max())


def clipped_by_hand(array: np.ndarray) -> np.ndarray:
    return np.minimum(array, np.percentile(array, 95))


PREPARATIONS: list[tuple[list[Transform], Callable[[np.ndarray], np.ndarray]]] = [
    ([VanCittertDeconvolution(SIGMA_MM, 2)], deconvolved_by_hand),
    ([ClipIntensityPercentiles(None, 95.0)], clipped_by_hand),
    (
        [VanCittertDeconvolution(SIGMA_MM, 2), ClipIntensityPercentiles(None, 95.0)],
        lambda array: clipped_by_hand(deconvolved_by_hand(array)),
    ),
]


@pytest.mark.parametrize(("transforms", "by_hand"), PREPARATIONS)
def test_a_prepared_scan_is_what_the_transforms_make_of_it_by_hand(
    tmp_path: Path, transforms: list[Transform], by_hand: Callable[[np.ndarray], np.ndarray]
) -> None:
    given = LoadVolume()(written(tmp_path, scan()))
    before = given.clone()
    prepared = PrepareImage(transforms)(given)
    np.testing.assert_allclose(prepared.numpy()[0], by_hand(scan()), atol=2e-3)
    assert np.abs(by_hand(scan()) - scan()).max() > 1
    assert prepared.dtype == torch.float32
    assert isinstance(prepared, MetaTensor)
    np.testing.assert_array_equal(np.asarray(prepared.affine), np.asarray(given.affine))
    assert prepared.meta["filename_or_obj"] == given.meta["filename_or_obj"]
    torch.testing.assert_close(given.as_tensor(), before.as_tensor())


@pytest.mark.parametrize(("transforms", "by_hand"), PREPARATIONS)
def test_the_working_space_of_a_scan_is_that_of_a_file_prepared_by_hand(
    tmp_path: Path, transforms: list[Transform], by_hand: Callable[[np.ndarray], np.ndarray]
) -> None:
    """The spacing and the axes differ, so preparing after them would give other widths and another percentile."""
    space: dict[str, Any] = {"spacing_mm": (0.8, 0.8, 2.0), "size": (16, 16), "minimum_slices": 16}
    raw, ready = written(tmp_path / "raw", scan()), written(tmp_path / "ready", by_hand(scan()).astype(np.float32))
    content = Path(raw).read_bytes()
    found = working_space(prepare=transforms, **space)({"image": raw})["image"]
    expected = working_space(**space)({"image": ready})["image"]
    plain = working_space(**space)({"image": raw})["image"]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-3)
    np.testing.assert_allclose(np.asarray(found.affine), np.asarray(expected.affine), atol=1e-6)
    assert np.abs(found.numpy() - plain.numpy()).max() > 0.1
    assert Path(raw).read_bytes() == content


def test_labels_are_not_prepared(tmp_path: Path) -> None:
    label = (scan() > 50).astype(np.float32)
    (tmp_path / "labels").mkdir()
    item = {"image": written(tmp_path, scan()), "label": written(tmp_path / "labels", 3 * label)}
    space = working_space("image", "label", (0.5, 0.6, 1.5), (40, 40), prepare=[ScaleIntensity(0, 1)])
    assert set(np.unique(space(item)["label"].numpy())) == {0, 3}


def test_no_transform_leaves_the_scan_as_it_is() -> None:
    image = MetaTensor(torch.rand(1, 4, 3, 2), affine=torch.from_numpy(AFFINE))
    item = PrepareImaged("image", [])({"image": image, "case": "p"})
    torch.testing.assert_close(item["image"], image)
    assert item["case"] == "p"


@pytest.mark.parametrize("transform", [Flip(0), SpatialCrop(roi_slices=[slice(1, 9)] * 3)])
def test_a_transform_that_changes_the_grid_is_named_with_the_file(tmp_path: Path, transform: Transform) -> None:
    image = LoadVolume()(written(tmp_path, scan()))
    with pytest.raises(CrossmodaError, match=rf"p_T2\.nii\.gz: prepare changes its grid \({type(transform).__name__}"):
        PrepareImage([transform])(image)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (RandGaussianNoise(), "RandGaussianNoise may be random"),
        (Compose([ScaleIntensity()]), "Compose may be random; give each deterministic transform as an item"),
        (ClipIntensityPercentilesd("image", None, 95), "ClipIntensityPercentilesd takes a dictionary"),
        ({"_target": "ScaleIntensity"}, "dict is no MONAI transform; give components with a _target_"),
    ],
)
def test_what_is_no_array_transform_of_intensity_is_refused(transform: Any, message: str) -> None:
    for use in (PrepareImage, describe_transforms):
        with pytest.raises(CrossmodaError, match=message):
            use([transform])


# --- What is written down ---


def test_a_description_names_the_transform_and_its_settings() -> None:
    assert describe_transforms([VanCittertDeconvolution((1, 1, 2.5), 15)]) == [
        "VanCittertDeconvolution(sigma_mm=(1, 1, 2.5), iterations=15, relaxation=1)"
    ]
    (clipped,) = describe_transforms([ClipIntensityPercentiles(None, 95)])
    assert clipped.startswith("ClipIntensityPercentiles(lower=None, upper=95, ")
    assert "dtype=numpy.float32" in clipped
    assert describe_transforms([]) == []


def test_descriptions_are_alike_where_settings_are_and_differ_where_they_do() -> None:
    same = [VanCittertDeconvolution([1, 1, 2.5]), VanCittertDeconvolution((1.0, 1.0, 2.5), iterations=15)]
    other = [VanCittertDeconvolution((1, 1, 2.0)), VanCittertDeconvolution(iterations=14), AdjustContrast(0.5)]
    assert len({*describe_transforms(same)}) == 1
    assert len({*describe_transforms([*same, *other])}) == 4


def test_a_setting_that_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(CrossmodaError, match=r"a setting of Lambda \(function\) cannot be written down"):
        describe_transforms([Lambda(lambda image: image + 1)])
    (named,) = describe_transforms([Lambda(np.abs)])
    assert "(func=absolute, " in named
