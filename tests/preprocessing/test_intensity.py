from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing import (
    ScaleByPercentiles,
    ScaleByPercentilesd,
    ScaleSlicesByPercentiles,
    ScaleSlicesByPercentilesd,
    StandardiseForeground,
    StandardiseForegroundd,
)

SCALERS = (ScaleByPercentiles(), StandardiseForeground(), ScaleSlicesByPercentiles(smallest_range=0))


def image(values: np.ndarray) -> MetaTensor:
    tensor = torch.from_numpy(np.asarray(values, np.float32))
    return MetaTensor(tensor, meta={"filename_or_obj": "somewhere/p_ceT1.nii.gz"})


@pytest.fixture
def tissue() -> np.ndarray:
    """Air at 0 in half of the volume, tissue between 100 and 400 in the other."""
    values = np.random.default_rng(5).uniform(100, 400, (1, 12, 10, 8))
    values[:, :6] = 0
    return values


def test_percentiles_are_mapped_to_the_ends_of_the_range() -> None:
    scaled = ScaleByPercentiles(0, 50)(image(np.array([[[[0.0, 1, 2, 3, 4, 5]]]])))  # median of 1..5 is 3
    np.testing.assert_allclose(scaled.flatten().numpy(), [-1, -1 / 3, 1 / 3, 1, 1, 1], atol=1e-6)


def test_a_lower_percentile_clips_too() -> None:
    scaled = ScaleByPercentiles(25, 75)(image(np.array([[[[0.0, 1, 2, 3, 4, 5]]]])))  # of 1..5: 2 and 4
    np.testing.assert_allclose(scaled.flatten().numpy(), [-1, -1, -1, 0, 1, 1], atol=1e-6)


def test_foreground_gets_mean_zero_and_deviation_one(tissue: np.ndarray) -> None:
    scaled = StandardiseForeground()(image(tissue)).numpy()
    assert scaled[:, 6:].mean() == pytest.approx(0, abs=1e-5)
    assert scaled[:, 6:].std() == pytest.approx(1, abs=1e-5)
    assert scaled[:, :6].max() < scaled[:, 6:].min()


@pytest.mark.parametrize("scale", SCALERS)
def test_padding_changes_nothing(scale: StandardiseForeground, tissue: np.ndarray) -> None:
    padded = np.pad(tissue, ((0, 0), (20, 20), (9, 9), (0, 0)))
    np.testing.assert_allclose(scale(image(padded))[:, 20:-20, 9:-9], scale(image(tissue)), atol=1e-5)


@pytest.mark.parametrize("scale", SCALERS)
def test_units_of_the_scanner_change_nothing(scale: StandardiseForeground, tissue: np.ndarray) -> None:
    np.testing.assert_allclose(scale(image(3.7 * tissue - 50)), scale(image(tissue)), atol=1e-4)


@pytest.mark.parametrize("scale", SCALERS)
def test_metadata_is_kept_and_the_input_unchanged(scale: StandardiseForeground, tissue: np.ndarray) -> None:
    given = image(tissue)
    scaled = scale(given)
    assert scaled.meta["filename_or_obj"] == "somewhere/p_ceT1.nii.gz"
    assert scaled.dtype == torch.float32
    np.testing.assert_allclose(given.numpy(), tissue, rtol=1e-6)


@pytest.mark.parametrize("scale", SCALERS)
def test_two_valued_images_stay_finite(scale: StandardiseForeground) -> None:
    values = np.zeros((1, 4, 3, 2))
    values[0, 1] = 7
    scaled = scale(image(values)).numpy()
    assert np.isfinite(scaled).all()
    assert scaled[0, 1].min() > scaled[0, 0].max()


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "1 voxels are NaN or infinite"), (np.inf, "1 voxels are NaN or infinite")]
)
def test_nan_voxels_are_refused_by_name(
    scale: StandardiseForeground, tissue: np.ndarray, value: float, message: str
) -> None:
    tissue[0, 7, 1, 1] = value
    with pytest.raises(CrossmodaError, match=rf"p_ceT1\.nii\.gz: {message}"):
        scale(image(tissue))


@pytest.mark.parametrize("scale", SCALERS)
def test_constant_images_are_refused_by_name(scale: StandardiseForeground) -> None:
    with pytest.raises(CrossmodaError, match=r"p_ceT1\.nii\.gz: all voxels have one value"):
        scale(image(np.full((1, 4, 3, 2), 3.0)))


@pytest.mark.parametrize("scale", [ScaleByPercentiles, ScaleSlicesByPercentiles])
@pytest.mark.parametrize(("lower", "upper"), [(50, 50), (-1, 50), (0, 101)])
def test_impossible_percentiles_are_refused(scale: type[ScaleByPercentiles], lower: float, upper: float) -> None:
    with pytest.raises(CrossmodaError, match="0 <= lower < upper <= 100"):
        scale(lower, upper)


def slices(*rows: list[float]) -> np.ndarray:
    """Return a volume (1, 1, Y, Z) whose slices hold these values."""
    return np.array(rows, np.float32).T[None, None]


def test_each_slice_is_scaled_between_its_own_percentiles() -> None:
    first, second = list(range(100, 121)), list(range(0, 841, 42))  # steps of 5 %; the least of all is 0
    scaled = ScaleSlicesByPercentiles(5, 95)(image(slices(first, second)))[0, 0].numpy()
    np.testing.assert_allclose(scaled[:, 0], np.clip(np.linspace(-10, 10, 21) / 9, -1, 1), atol=1e-6)
    bottom, top = np.percentile(second[1:], [5, 95])  # 0 is the volume's minimum, which padding could have put there
    np.testing.assert_allclose(
        scaled[:, 1], np.clip(2 * (np.array(second) - bottom) / (top - bottom) - 1, -1, 1), atol=1e-6
    )


def test_slices_of_noise_alone_become_minus_one() -> None:
    ramp = [20.0 * k for k in range(21)]
    scaled = ScaleSlicesByPercentiles()(
        image(slices([3.0 + k / 2 for k in range(21)], ramp, [k / 4 for k in range(21)]))
    )
    np.testing.assert_array_equal(scaled[0, 0, :, 0].numpy(), -1)  # spans 10, not more
    np.testing.assert_array_equal(scaled[0, 0, :, 2].numpy(), -1)
    assert scaled[0, 0, :, 1].unique().numel() > 10


def test_a_scan_that_was_scaled_before_is_refused_by_name() -> None:
    with pytest.raises(CrossmodaError, match=r"p_ceT1\.nii\.gz: no slice spans more than 10; .*another intensity"):
        ScaleSlicesByPercentiles()(image(slices([-1.0, 0.0, 1.0], [0.0, 1.0, -1.0])))
    with pytest.raises(CrossmodaError, match="smallest_range -1: give 0 or more"):
        ScaleSlicesByPercentiles(smallest_range=-1)


def test_dictionary_twins_scale_only_their_keys(tissue: np.ndarray) -> None:
    item = {"image": image(tissue), "label": image(tissue)}
    twins = (
        ScaleByPercentilesd("image"),
        StandardiseForegroundd("image"),
        ScaleSlicesByPercentilesd("image", smallest_range=0),
    )
    for twin, scale in zip(twins, SCALERS, strict=True):
        scaled = twin(item)
        torch.testing.assert_close(scaled["image"], scale(item["image"]))
        assert scaled["label"] is item["label"]
