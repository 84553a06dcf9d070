"""The window about the brain on a scan's own grid, however its axes run."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing import KeepBrainWindow, KeepBrainWindowd, working_space

SPACING_MM = (0.5, 0.8, 2.0)


def scan(shape: tuple[int, int, int] = (60, 50, 8)) -> nib.Nifti1Image:
    """Return a head off the field's centre, bright in its right front, in RAS."""
    array = np.full(shape, 10.0, np.float32)
    array[5:45, 8:45] = 100
    array[8:30, 20:40] = 400
    return nib.Nifti1Image(array, np.diag([*SPACING_MM, 1.0]))


def tensor(image: nib.Nifti1Image) -> MetaTensor:
    array = torch.as_tensor(np.array(image.dataobj, np.float32, order="C")[None])
    return MetaTensor(array, affine=torch.as_tensor(image.affine), meta={"filename_or_obj": "p_hrT2.nii.gz"})


def world_box(image: nib.Nifti1Image) -> np.ndarray:
    """Return least and largest world coordinates of the centres of voxels that are not 0, (2, 3) in mm."""
    found = np.argwhere(np.asarray(image.dataobj) != 0)
    world = nib.affines.apply_affine(image.affine, found)
    return np.stack([world.min(axis=0), world.max(axis=0)])


def test_what_is_kept_is_the_working_space_s_window_and_unchanged(tmp_path: Path) -> None:
    image = scan()
    nib.save(image, tmp_path / "p_hrT2.nii.gz")
    kept = KeepBrainWindow((12.0, 16.0))(tensor(image))[0].numpy()  # 24 x 20 voxels
    cut = working_space(spacing_mm=SPACING_MM, size=(24, 20))({"image": tmp_path / "p_hrT2.nii.gz"})["image"]
    first = np.rint(cut.affine.numpy()[:3, 3] / SPACING_MM).astype(int)
    expected = np.zeros(image.shape)
    box = tuple(slice(start, start + length) for start, length in zip(first, cut.shape[1:], strict=True))
    expected[box] = np.asarray(image.dataobj)[box]
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_window_lies_in_the_patient_however_the_axes_run(order: tuple[int, int, int]) -> None:
    image = scan()
    window = KeepBrainWindow((12.0, 16.0))
    plain = world_box(nib.Nifti1Image(window(tensor(image))[0].numpy(), image.affine))
    np.testing.assert_allclose(plain[1] - plain[0], [11.5, 15.2, 14.0])  # 24 and 20 voxels, and all slices
    for flips in product((1, -1), repeat=3):
        turned = image.as_reoriented(np.stack([np.asarray(order), flips], axis=1))
        kept = nib.Nifti1Image(window(tensor(turned))[0].numpy(), turned.affine)
        np.testing.assert_allclose(world_box(kept), plain, atol=np.max(SPACING_MM[:2]) + 1e-6)  # a tie may round


def test_a_scan_that_is_0_outside_a_window_already_stays_as_it_is() -> None:
    image = tensor(scan())
    once = KeepBrainWindow((12.0, 16.0))(image)
    assert torch.equal(KeepBrainWindow((12.0, 16.0))(once), once)
    assert torch.equal(KeepBrainWindow((200.0, 200.0))(image), image)  # larger than the field
    twin = KeepBrainWindowd(["image"], (12.0, 16.0))({"image": image, "case": "p"})
    assert torch.equal(twin["image"], once)


def test_what_cannot_be_a_window_is_refused() -> None:
    for size in ((0, 10), (10,), (10, 10, 10), (10, float("nan"))):
        with pytest.raises(CrossmodaError, match=r"give two positive lengths \(x, y\), in mm"):
            KeepBrainWindow(size)
    with pytest.raises(CrossmodaError, match="a volume without an affine"):
        KeepBrainWindow((10, 10))(torch.rand(1, 4, 4, 4))
