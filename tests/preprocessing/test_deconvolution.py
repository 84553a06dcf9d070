"""Van Cittert deconvolution, against its closed form in the Fourier domain."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing import VanCittertDeconvolution, VanCittertDeconvolutiond

SHAPE = (40, 36, 32)
SPACING_MM = np.array([0.5, 0.6, 1.5])
SIGMA_MM = (0.7, 0.9, 2.1)  # 1.4, 1.5 and 1.4 voxels


def volume(array: np.ndarray, spacing: np.ndarray = SPACING_MM) -> MetaTensor:
    tensor = torch.from_numpy(np.asarray(array, np.float32)[None])
    return MetaTensor(tensor, affine=torch.diag(torch.tensor([*spacing, 1.0])), meta={"filename_or_obj": "p_T2.nii.gz"})


def block() -> np.ndarray:
    """Return a block of 100 in 20, far enough from the ends for a circular convolution to be a plain one."""
    array = np.full(SHAPE, 20.0)
    array[16:26, 14:20, 14:18] = 100
    return array


def transfer(shape: tuple[int, ...], sigma_voxels: np.ndarray) -> np.ndarray:
    """Return the Fourier transform of a Gaussian, by its formula."""
    frequencies = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in shape), indexing="ij")
    return np.exp(-sum((s * w) ** 2 for s, w in zip(sigma_voxels, frequencies, strict=True)) / 2)


def closed_form(blurred: np.ndarray, sigma_voxels: np.ndarray, iterations: int, relaxation: float) -> np.ndarray:
    """Return f_k = (1 - (1 - r H)^k) / H g + (1 - r H)^k g, the sum of the iteration's geometric series."""
    h = transfer(blurred.shape, sigma_voxels)
    left = (1 - relaxation * h) ** iterations
    gain = np.where(h > 1e-12, (1 - left) / np.maximum(h, 1e-12), iterations * relaxation) + left
    return np.fft.ifftn(np.fft.fftn(blurred) * gain).real


@pytest.mark.parametrize(("iterations", "relaxation"), [(1, 1.0), (15, 1.0), (6, 0.5), (6, 1.5)])
def test_it_is_the_closed_form_of_the_iteration(iterations: int, relaxation: float) -> None:
    sigma = np.array(SIGMA_MM) / SPACING_MM
    blurred = ndimage.gaussian_filter(block(), sigma)
    expected = np.clip(closed_form(blurred, sigma, iterations, relaxation), blurred.min(), blurred.max())
    sharp = VanCittertDeconvolution(SIGMA_MM, iterations, relaxation)(volume(blurred))
    np.testing.assert_allclose(sharp[0].numpy(), expected, atol=0.15)
    assert np.abs(sharp[0].numpy() - blurred).max() > 10 * 0.15


def test_one_step_by_hand() -> None:
    array = np.random.default_rng(0).random((8, 7, 6)).astype(np.float32)
    again = ndimage.gaussian_filter(array, np.array(SIGMA_MM) / SPACING_MM, mode="reflect")
    expected = np.clip(array + 0.5 * (array - again), array.min(), array.max())
    sharp = VanCittertDeconvolution(SIGMA_MM, iterations=1, relaxation=0.5)(volume(array))
    np.testing.assert_allclose(sharp[0].numpy(), expected, atol=1e-6)


def test_it_is_the_iteration_itself_up_to_the_scan_s_ends() -> None:
    array = np.random.default_rng(0).random((23, 10, 5)).astype(np.float32)  # the kernel reaches beyond the last axis
    sigma, expected = np.array(SIGMA_MM) / SPACING_MM, array.astype(float)
    for _ in range(15):
        expected += 0.8 * (array - ndimage.gaussian_filter(expected, sigma, mode="reflect"))
    sharp = VanCittertDeconvolution(SIGMA_MM, iterations=15, relaxation=0.8)(volume(array))
    np.testing.assert_allclose(sharp[0].numpy(), np.clip(expected, array.min(), array.max()), atol=1e-5)


def test_more_steps_come_nearer_to_the_scan_before_the_blur() -> None:
    blurred = volume(ndimage.gaussian_filter(block(), np.array(SIGMA_MM) / SPACING_MM))
    errors, slopes = [], []
    for iterations in (0, 2, 5, 15, 60):
        sharp = VanCittertDeconvolution(SIGMA_MM, iterations)(blurred)[0].numpy()
        errors.append(np.abs(sharp - block()).mean())
        slopes.append(np.abs(np.diff(sharp, axis=0)).max())
    assert errors == sorted(errors, reverse=True)
    assert slopes == sorted(slopes)
    assert errors[-1] < 0.6 * errors[0]
    assert slopes[-1] > 1.5 * slopes[0]


def test_no_iteration_changes_nothing_and_the_input_is_left_alone() -> None:
    given = volume(block())
    np.testing.assert_allclose(VanCittertDeconvolution(iterations=0)(given).numpy(), given.numpy(), rtol=1e-6)
    VanCittertDeconvolution(iterations=3)(given)
    np.testing.assert_array_equal(given[0].numpy(), block())


def test_the_result_stays_in_the_scans_range_and_keeps_its_metadata() -> None:
    given = volume(ndimage.gaussian_filter(block(), 1.0))
    sharp = VanCittertDeconvolution((1, 1, 2.5))(given)
    assert float(sharp.min()) == float(given.min())
    assert float(sharp.max()) == float(given.max())
    assert sharp.dtype == torch.float32
    assert sharp.meta["filename_or_obj"] == "p_T2.nii.gz"
    torch.testing.assert_close(sharp.affine, given.affine)


def test_sizes_belong_to_the_patients_axes_however_the_array_runs() -> None:
    blurred = ndimage.gaussian_filter(block() + 30 * np.random.default_rng(1).random(SHAPE), 1.0)
    upright = VanCittertDeconvolution(SIGMA_MM)(volume(blurred))[0].numpy()
    turned = blurred.transpose(2, 0, 1)[::-1]  # array axes: inferior, right, anterior
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -SPACING_MM[2], SPACING_MM[0], SPACING_MM[1], 1
    image = MetaTensor(torch.from_numpy(turned[None].astype(np.float32)), affine=torch.from_numpy(affine))
    found = VanCittertDeconvolution(SIGMA_MM)(image)[0].numpy()
    np.testing.assert_allclose(found[::-1].transpose(1, 2, 0), upright, atol=1e-3)


def test_sizes_follow_the_spacing_and_an_oblique_grid_takes_the_nearest_axis() -> None:
    transform = VanCittertDeconvolution((1.0, 1.0, 2.5))
    assert transform.sigma_voxels(volume(block(), np.array([0.5, 0.4, 1.0]))) == pytest.approx((2, 2.5, 2.5))
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([0.5, 0.5, 2.0])
    oblique = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.from_numpy(affine))
    assert transform.sigma_voxels(oblique) == pytest.approx((2, 2, 1.25))


def test_channels_are_deconvolved_apart() -> None:
    image = volume(ndimage.gaussian_filter(block(), 1.0))
    both = MetaTensor(torch.cat([image, image.flip(1)]).as_tensor(), affine=image.affine)
    first, second = VanCittertDeconvolution(SIGMA_MM, 4)(both)
    np.testing.assert_allclose(first.flip(0).numpy(), second.numpy(), atol=1e-3)


def test_it_holds_a_few_volumes_at_a_time() -> None:
    image = volume(np.random.default_rng(0).random((64, 64, 64)))
    tracemalloc.start()
    VanCittertDeconvolution(iterations=6)(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 4 * image.numel()


def test_the_dictionary_twin_takes_each_keys_own_affine() -> None:
    first, second = volume(block()), volume(block(), np.array([1.0, 1.0, 1.0]))
    item = VanCittertDeconvolutiond(["a", "b"], SIGMA_MM, 3, 0.5)({"a": first, "b": second, "case": "p"})
    array = VanCittertDeconvolution(SIGMA_MM, 3, 0.5)
    torch.testing.assert_close(item["a"], array(first))
    torch.testing.assert_close(item["b"], array(second))
    assert item["case"] == "p"
    assert not torch.allclose(item["a"].as_tensor(), item["b"].as_tensor())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_mm": (1, 1)}, r"sigma_mm \[1, 1\]: give three positive lengths"),
        ({"sigma_mm": (1, 0, 1)}, "give three positive lengths"),
        ({"sigma_mm": (1, float("nan"), 1)}, "give three positive lengths"),
        ({"iterations": -1}, "iterations -1: give a whole number from 0 up"),
        ({"iterations": 1.5}, "iterations 1.5"),
        ({"relaxation": 2.0}, "relaxation 2.0: it must lie above 0 and below 2"),
        ({"relaxation": 0.0}, "relaxation 0.0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        VanCittertDeconvolution(**options)


def test_unusable_volumes_are_refused() -> None:
    broken = block()
    broken[1, 2, 3] = np.nan
    with pytest.raises(CrossmodaError, match=r"p_T2\.nii\.gz: 1 voxels are NaN"):
        VanCittertDeconvolution()(volume(broken))
    with pytest.raises(CrossmodaError, match="without an affine"):
        VanCittertDeconvolution()(torch.rand(1, 4, 4, 4))
    with pytest.raises(CrossmodaError, match=r"p_T2\.nii\.gz: its affine is singular"):
        VanCittertDeconvolution()(volume(block(), np.array([1.0, 0.0, 1.0])))
