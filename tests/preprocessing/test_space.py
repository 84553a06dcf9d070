from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd

from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.preprocessing import working_space

GRIDS: dict[str, tuple[tuple[int, int, int], np.ndarray]] = {
    "LPS anisotropic": ((40, 36, 12), np.array([[-0.5, 0, 0, 10], [0, -0.6, 0, 12], [0, 0, 1.5, -8], [0, 0, 0, 1]])),
    "flipped in z": ((40, 36, 12), np.array([[0.5, 0, 0, -9], [0, 0.6, 0, 3], [0, 0, -1.5, 8], [0, 0, 0, 1]])),
    "thick slices": ((30, 34, 8), np.array([[-0.9, 0, 0, 13], [0, 0.9, 0, -15], [0, 0, 5.5, 2], [0, 0, 0, 1]])),
    "oblique": (
        (40, 36, 12),
        np.array([[0.48, -0.168, 0, -5], [0.14, 0.576, 0, -7], [0, 0, 1.5, 11], [0, 0, 0, 1]]),
    ),
    "sagittal": ((12, 40, 36), np.array([[0, 0, 0.5, -9], [1.5, 0, 0, 3], [0, -0.6, 0, 8], [0, 0, 0, 1]])),
}


def smooth(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Return a blob of 6 mm about the middle of the grid, on a floor, as a function of the world."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    return (100 * np.exp(-((world - middle) ** 2).sum(-1) / (2 * 6.0**2)) + 1).astype(np.float32)


def written(folder: Path, array: np.ndarray, affine: np.ndarray, name: str = "p_T2.nii.gz") -> str:
    nib.save(nib.Nifti1Image(array, affine), folder / name)
    return str(folder / name)


def invert(space: Compose, item: dict[str, Any]) -> torch.Tensor:
    """Bring a prediction, here the working image itself, back as an inference bundle does."""
    batch = next(iter(DataLoader(Dataset([item], space), batch_size=1)))
    batch["pred"] = batch["image"].clone()
    back = Invertd("pred", transform=space, orig_keys="image", nearest_interp=False)
    return back(decollate_batch(batch)[0])["pred"]


def centre_of_mass_mm(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    weights = np.clip(array - array.min() - 0.2 * np.ptp(array), 0, None)
    index = [(weights * axis).sum() / weights.sum() for axis in np.indices(array.shape)]
    return affine[:3, :3] @ index + affine[:3, 3]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("size", [(24, 22), (64, 64)], ids=["cropped", "padded"])
def test_a_prediction_comes_back_on_the_scans_own_grid(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    shape, affine = GRIDS[name]
    array = smooth(shape, affine)
    space = working_space("image", (), (0.6, 0.6, 1.5), size, "minmax_percentile", minimum_slices=16)
    restored = invert(space, {"image": written(tmp_path, array, affine)})
    assert restored.shape == (1, *shape)
    np.testing.assert_allclose(restored.affine.numpy(), affine, atol=1e-5)
    expected = 2 * (array - array.min()) / np.ptp(array) - 1
    inside = np.abs(restored[0].numpy()) > 1e-6 if size == (24, 22) else np.ones(shape, bool)
    middle = expected > 0  # about the blob, well inside every window
    np.testing.assert_allclose(restored[0].numpy()[middle & inside], expected[middle & inside], atol=0.12)


@pytest.mark.parametrize("name", GRIDS)
def test_the_working_space_is_ras_at_the_spacing_asked_for_and_moves_nothing(tmp_path: Path, name: str) -> None:
    shape, affine = GRIDS[name]
    array = smooth(shape, affine)
    space = working_space("image", (), (0.6, 0.7, 1.5), (48, 40), "minmax_percentile")
    image = space({"image": written(tmp_path, array, affine)})["image"]
    assert image.shape[:3] == (1, 48, 40)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3].numpy(), axis=0), [0.6, 0.7, 1.5], atol=1e-5)
    assert nib.aff2axcodes(image.affine.numpy()) == ("R", "A", "S")
    moved = centre_of_mass_mm(image[0].numpy(), image.affine.numpy()) - centre_of_mass_mm(array, affine)
    assert np.linalg.norm(moved) < 0.3


def test_the_same_scan_stored_with_other_axes_gives_the_same_tensor(tmp_path: Path) -> None:
    shape, affine = GRIDS["flipped in z"]
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    image = nib.Nifti1Image(array, affine)
    turned = image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    space = working_space("image", (), (0.5, 0.6, 1.5), (24, 22), "zscore")
    first = space({"image": written(tmp_path, array, affine)})["image"]
    second = space({"image": written(tmp_path, turned.get_fdata(dtype=np.float32), turned.affine, "q_T2.nii.gz")})[
        "image"
    ]
    np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-4)
    np.testing.assert_allclose(first.affine.numpy(), second.affine.numpy(), atol=1e-5)


def test_slices_can_be_scaled_one_by_one_whatever_the_files_axes(tmp_path: Path) -> None:
    shape, affine = GRIDS["sagittal"]
    array = smooth(shape, affine) / 2  # spans 6 at the lowest and the highest slice
    space = working_space("image", (), (0.6, 0.6, 1.5), (40, 40), "slice_percentile")
    scaled = space({"image": written(tmp_path, array, affine)})["image"][0]
    brightest = [float(scaled[..., z].max()) for z in range(scaled.shape[2])]
    assert brightest[0] == brightest[-1] == -1
    assert brightest[3:-3] == [1.0] * (len(brightest) - 6)
    assert all(float(scaled[..., z].min()) == -1 for z in range(scaled.shape[2]))


def test_labels_keep_their_values_and_lie_on_the_image(tmp_path: Path) -> None:
    shape, affine = GRIDS["LPS anisotropic"]
    array = smooth(shape, affine)
    item = {
        "image": written(tmp_path, array, affine),
        "label": written(tmp_path, np.where(array > 50, 2.0, 0.0), affine, "p_Label.nii.gz"),
        "case": "p",
    }
    placed = working_space("image", "label", (0.6, 0.6, 1.5), (32, 32), "zscore", minimum_slices=20)(item)
    assert placed["label"].shape == placed["image"].shape == (1, 32, 32, 20)
    assert placed["label"].unique().tolist() == [0, 2]
    torch.testing.assert_close(placed["label"].affine, placed["image"].affine)
    inside = placed["image"][placed["label"] == 2]
    assert float(inside.min()) > float(placed["image"][placed["label"] == 0].median())
    assert placed["case"] == "p"


def test_an_item_without_a_label_is_placed_too_but_one_without_an_image_is_not(tmp_path: Path) -> None:
    shape, affine = GRIDS["thick slices"]
    space = working_space("image", "label", (0.6, 0.6, 1.5), (16, 16))
    assert set(space({"image": written(tmp_path, smooth(shape, affine), affine)})) == {"image"}
    with pytest.raises(RuntimeError, match="LoadVolumed") as caught:
        space({"label": "p"})
    assert "image" in str(caught.value.__cause__)


def test_impossible_settings_and_useless_scans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="intensity 'minmax' is unknown"):
        working_space(intensity="minmax")
    with pytest.raises(CrossmodaError, match=r"spacing \[0.6, 0.6\]"):
        working_space(spacing_mm=(0.6, 0.6))
    path = written(tmp_path, np.ones((8, 7, 6), np.float32), np.eye(4))
    space = working_space("image", (), (1, 1, 1), (8, 8))
    with pytest.raises(RuntimeError, match="BrainCentredCropd") as caught:
        space({"image": path})
    assert "p_T2.nii.gz: all voxels have one value" in str(find_user_error(caught.value))


@pytest.mark.parametrize("name", ["brain1_ceT1.nrrd", "tcga_fg_6692_T2.nii.gz", "vs_gk_98_hrT2.nii.gz"])
def test_real_scans_come_back_on_their_own_grid(real_data: Path, name: str) -> None:
    space = working_space("image", (), (0.9, 0.9, 2.0), (128, 128), "zscore")
    restored = invert(space, {"image": str(real_data / name)})
    original = read_volume(real_data / name)
    assert tuple(restored.shape[1:]) == original.shape
    np.testing.assert_allclose(restored.affine.numpy(), original.affine, atol=1e-5)
    assert isinstance(restored, MetaTensor)
    inside = restored[0].numpy() != 0
    assert np.corrcoef(restored[0].numpy()[inside], original.array[inside])[0, 1] > 0.8
