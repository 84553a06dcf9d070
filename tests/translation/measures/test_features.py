"""The fixed filter bank: what it sees, and what it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmoda.errors import CrossmodaError
from crossmoda.translation.measures.features import (
    FEATURES,
    SliceFeatures,
    grey_shares,
    oriented_kernels,
    slices_with_tissue,
    volume_features,
)


def noise(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 1, 40, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_every_slice_gets_80_finite_numbers_of_its_own() -> None:
    slices = noise(3)
    found = SliceFeatures()(slices)
    assert found.shape == (3, 80) == (3, FEATURES)
    assert found.isfinite().all()
    torch.testing.assert_close(found[1:2], SliceFeatures()(slices[1:2]))


def test_a_constant_slice_shows_its_grey_value_and_nothing_else() -> None:
    found = SliceFeatures()(torch.full((1, 1, 24, 40), 1.0))[0]
    expected = torch.full((80,), math.log(1e-2))
    expected[7] = math.log(1 + 1e-2)  # all pixels in the brightest bin
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_filters_are_derivatives_of_a_gaussian() -> None:
    """Against scipy's derivatives of a Gaussian, up to the scale and the cut at three standard deviations."""
    kernels = oriented_kernels()[:, 0].double().numpy()
    impulse = np.zeros((15, 15))
    impulse[7, 7] = 1
    cut = slice(4, 11)
    for index, order in {0: (2, 0), 2: (0, 2), 4: (1, 0), 6: (0, 1)}.items():
        wanted = -ndimage.gaussian_filter(impulse, 1.0, order=order, truncate=6)[cut, cut]
        assert np.corrcoef(kernels[index].ravel(), wanted.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(kernels).sum(axis=(1, 2)), 1, atol=1e-6)


def test_bright_and_dark_lines_are_told_apart_and_so_are_their_directions() -> None:
    line = torch.full((1, 1, 32, 32), 0.0)
    line[..., 16, :] = 0.5  # one x, all y: bent along x, orientation 0
    bright, dark, other = (SliceFeatures()(x)[0, 8:20] for x in (line, -line, line.mT))
    assert bright[0] > dark[0] + 0.1
    torch.testing.assert_close(bright[:4], dark[4:8])  # positive responses of one are the negative of the other
    torch.testing.assert_close(bright[8:], dark[8:])
    torch.testing.assert_close(bright[0], other[2])
    assert bright[0] > bright[2] + 1


def test_the_second_layer_sees_how_lines_are_arranged() -> None:
    """Two patterns with as many pixels of either value and as many edges, evenly spread or gathered on one side."""
    even, gathered = torch.zeros(2, 1, 1, 128, 64).unbind()
    even[..., 4::16, :] = 1
    gathered[..., 4:68:8, :] = 1
    first, second = (SliceFeatures()(x)[0] for x in (even, gathered))
    torch.testing.assert_close(first[:8], second[:8])
    torch.testing.assert_close(first[8:20], second[8:20])  # lines farther apart than a filter is wide
    assert (first - second).abs().max() > 1


def test_a_mirrored_slice_has_the_same_features_but_for_the_two_diagonals() -> None:
    slices = noise(1)[..., :32, :32]  # mirrored alike at every level only where pixels pair up
    first, mirrored = (SliceFeatures()(x)[0, 8:20].unflatten(0, (3, 4)) for x in (slices, slices.flip(2)))
    torch.testing.assert_close(mirrored, first[:, [0, 3, 2, 1]])


def test_shares_of_grey_values_by_hand() -> None:
    width = 2 / 7
    slices = torch.tensor([[-1.0, -1.0 + width / 4, 1.0, 3.0]]).view(1, 1, 2, 2)
    torch.testing.assert_close(grey_shares(slices)[0], torch.tensor([1.75, 0.25, 0, 0, 0, 0, 0, 2]) / 4)


def test_slices_run_along_z_and_those_of_air_are_left_out() -> None:
    volume = torch.full((1, 24, 26, 4), -1.0)
    volume[..., 1] = 0.25
    volume[:, 0, 0, 3] = 1.0  # one pixel of 624
    slices = slices_with_tissue(volume)
    torch.testing.assert_close(slices, torch.full((1, 1, 24, 26), 0.25))
    assert volume_features(volume, SliceFeatures()).shape == (1, 80)
    assert volume_features(volume - 2, SliceFeatures()).shape == (0, 80)


@pytest.mark.parametrize("shape", [(1, 1, 23, 40), (1, 2, 40, 40), (1, 40, 40)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CrossmodaError, match="both sides 24 or more"):
        SliceFeatures()(torch.zeros(shape))
