"""From a translator of slices to translated volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer


class SlabInferer(SlidingWindowInferer):
    """Cut a volume (B, 1, X, Y, Z) into axial slabs, translate them in batches, and put them together again.

    A slab is a slice with ``context`` neighbours on either side, which are the channels of what the network sees and
    returns. Slabs follow one another slice by slice, and what they say of the same slice is averaged. Without context a
    slab is a slice, and this is MONAI's ``SliceInferer``.

    Args:
        size: sides (x, y) of the slabs: those of the volume.
        context: neighbours on either side.
        slabs_at_once: how many are translated together.
    """

    def __init__(self, size: Sequence[int], context: int = 0, slabs_at_once: int = 8) -> None:
        depth = 2 * context + 1
        super().__init__(
            roi_size=(*size, depth),
            sw_batch_size=slabs_at_once,
            overlap=(0.0, 0.0, 1.0 - 1.0 / depth),
            padding_mode="replicate",  # where a volume has fewer slices than a slab
        )

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the translated volume, (B, 1, X, Y, Z)."""

        def of_slabs(slabs: torch.Tensor, *further: Any, **named: Any) -> torch.Tensor:
            slices = slabs[:, 0].permute(0, 3, 1, 2).contiguous()
            return network(slices, *further, **named).permute(0, 2, 3, 1)[:, None]

        translated = super().__call__(inputs, of_slabs, *args, **kwargs)
        assert isinstance(translated, torch.Tensor)
        return translated
