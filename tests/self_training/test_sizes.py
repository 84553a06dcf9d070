"""Which of a profile's sizes hold for a segmenter."""

from __future__ import annotations

import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.sizes import kind_of, sizes_of


@pytest.mark.parametrize(
    ("overlays", "kind"),
    [
        ([], "dynunet"),
        (["variant_unet2d5.yaml", "variant_augmentation_wu.yaml"], "unet2d5"),
        (["/elsewhere/variant_resunet2d5.yaml"], "resunet2d5"),
        (["nnunet.yaml", "prepare_clipped.yaml"], "nnunet"),
        (["apart.yaml"], "dynunet"),
    ],
)
def test_the_kind_follows_from_the_overlays(overlays: list[str], kind: str) -> None:
    assert kind_of(overlays) == kind


def test_a_kind_without_sizes_is_named() -> None:
    sizes = {"dynunet": {"max_epochs": 2}, "nnunet": {}}
    assert sizes_of(sizes, "dynunet") == {"max_epochs": 2}
    with pytest.raises(CrossmodaError, match="segmenter_kind 'nnunett' has no sizes; did you mean 'nnunet'"):
        sizes_of(sizes, "nnunett")
