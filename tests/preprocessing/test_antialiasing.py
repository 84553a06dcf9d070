"""Scans far finer than the working space are averaged, not sampled, and stay where they are."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.transform import rescale

from crossmoda.preprocessing import working_space
from crossmoda.preprocessing.antialiasing import SmoothFiner

RATIOS = (3, 3, 5)


def fine(affine: np.ndarray) -> MetaTensor:
    noise = np.random.default_rng(0).random((1, 48, 42, 40)).astype(np.float32)
    return MetaTensor(noise, affine=affine)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_the_blur_is_that_of_another_implementation_s_rescaling(signs: tuple[int, int, int]) -> None:
    image = fine(np.diag([*np.multiply(signs, 0.2), 1.0]))
    blurred = SmoothFiner([0.2 * ratio for ratio in RATIOS])(image)
    whole = tuple(slice(ratio // 2, None, ratio) for ratio in RATIOS)  # the middles of the coarse voxels
    inner = (slice(3, -3),) * 3
    expected = rescale(image[0].numpy(), [1 / ratio for ratio in RATIOS], order=1, anti_aliasing=True)
    np.testing.assert_allclose(blurred[0].numpy()[whole][inner], expected[inner], atol=1e-4)
    torch.testing.assert_close(blurred.affine, image.affine)


def test_axes_that_are_not_far_finer_stay_as_they_are() -> None:
    image = fine(np.diag([0.25, 0.25, 0.5, 1.0]))
    assert SmoothFiner((0.6, 0.6, 1.2))(image) is image
    along_z = SmoothFiner((0.6, 0.6, 1.5))(image)[0].numpy()
    np.testing.assert_allclose(along_z.mean(axis=2), image[0].numpy().mean(axis=2), atol=0.03)
    assert along_z.std() < 0.8 * image[0].numpy().std()


@pytest.mark.parametrize("flip", [1, -1])
def test_in_the_working_space_a_fine_scan_keeps_its_place_and_loses_its_noise(tmp_path: Path, flip: int) -> None:
    shape, step = (120, 120, 90), 0.2
    affine = np.diag([flip * step, step, step, 1.0])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T
    middle = affine[:3, :3] @ np.array([70, 50, 45])
    blob = 10 * np.exp(-((world - middle) ** 2).sum(-1) / (2 * 2.0**2))
    noisy = (blob + np.random.default_rng(1).normal(0, 1, shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(noisy, affine), tmp_path / "p_T2.nii.gz")
    space = working_space(spacing_mm=(0.6, 0.6, 1.5), size=(40, 40), intensity="zscore")
    image = space({"image": str(tmp_path / "p_T2.nii.gz")})["image"]
    array = image[0].numpy()
    highest = np.array(np.unravel_index(array.argmax(), array.shape))
    place = image.affine.numpy()[:3, :3] @ highest + image.affine.numpy()[:3, 3]
    assert np.abs(place - middle).max() < 1.6  # a voxel of 1.5 mm
    outside = np.linalg.norm(np.indices(array.shape).T - highest, axis=-1).T > 15
    assert array[outside].std() / np.ptp(array) < 0.03  # 0.1 as it is on disk
