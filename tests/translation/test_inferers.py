"""Volumes from slices and slabs."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SliceInferer

from crossmoda.translation.inferers import SlabInferer


def volume(slices: int = 7) -> torch.Tensor:
    return torch.randn(1, 1, 8, 12, slices, generator=torch.Generator().manual_seed(0))


def squared(slabs: torch.Tensor) -> torch.Tensor:
    return slabs**2


def test_without_context_it_is_monais_slice_inferer() -> None:
    ours = SlabInferer((8, 12), context=0, slabs_at_once=3)
    monais = SliceInferer(roi_size=(8, 12), spatial_dim=2, sw_batch_size=3)
    torch.testing.assert_close(ours(volume(), squared), monais(volume(), squared))
    torch.testing.assert_close(ours(volume(), squared), volume() ** 2)


@pytest.mark.parametrize("context", [1, 2])
def test_slabs_are_put_back_slice_by_slice(context: int) -> None:
    seen = []

    def watch(slabs: torch.Tensor) -> torch.Tensor:
        seen.append(slabs.shape)
        return slabs

    found = SlabInferer((8, 12), context, slabs_at_once=2)(volume(), watch)
    torch.testing.assert_close(found, volume())
    assert all(shape[1:] == (2 * context + 1, 8, 12) for shape in seen)
    assert sum(shape[0] for shape in seen) == 7 - 2 * context  # slab after slab, one slice apart


def test_what_overlapping_slabs_say_of_a_slice_is_averaged() -> None:
    """Each slab numbers its slices 0, 1, 2: an inner slice is last, middle and first once each."""

    def numbers(slabs: torch.Tensor) -> torch.Tensor:
        return torch.arange(3.0)[None, :, None, None].expand_as(slabs).clone()

    found = SlabInferer((8, 12), context=1)(volume(5), numbers)[0, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))


def test_a_volume_of_fewer_slices_than_a_slab_is_padded_and_cut_again() -> None:
    torch.testing.assert_close(SlabInferer((8, 12), context=2)(volume(2), lambda slabs: slabs), volume(2))
