"""The history of translated slices from which discriminators learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from crossmoda.engines.distribution import own_share, whole_batch


class ImagePool:
    """Mix earlier translations into what the discriminator sees (Shrivastava et al., CVPR 2017, section 2.3).

    Until it is full, the pool stores each slice and returns it. Afterwards each slice is, with probability 0.5,
    exchanged for a random stored one, which is returned in its stead; otherwise it is returned and not stored. Slices
    of different sites are kept apart, since a discriminator that tells sites apart must know what it is shown.

    Several processes have one pool between them: each keeps a copy, which sees the slices of all in the order of the
    epoch, and hands back the process's own. N processes with batches of B so learn from what one with N * B would.

    Args:
        size: how many slices are kept of each site; 0 returns everything unchanged.
        seed: of the pool's own generator, whose state is part of ``state_dict`` so that a resumed training is exact.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        self.size = size
        self.images: dict[int, list[torch.Tensor]] = {}
        self._generator = np.random.default_rng(seed)

    def query(self, images: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return slices for the discriminator, detached from the generator's graph; (B, C, X, Y) in and out.

        Args:
            images: new translations.
            site: number of each one's site, (B,); by default all are of one.
        """
        images = images.detach()
        if self.size == 0:
            return images
        images = whole_batch(images)
        sites = [0] * len(images) if site is None else whole_batch(site).tolist()
        return own_share(torch.stack([self._exchange(image, key) for image, key in zip(images, sites, strict=True)]))

    def _exchange(self, image: torch.Tensor, site: int) -> torch.Tensor:
        kept = self.images.setdefault(site, [])
        if len(kept) < self.size:
            kept.append(image.clone())
            return image
        if self._generator.random() < 0.5:
            return image
        position = int(self._generator.integers(self.size))
        stored = kept[position]
        kept[position] = image.clone()
        return stored.to(image.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the stored slices and the generator's state."""
        images = {site: [image.cpu() for image in kept] for site, kept in self.images.items()}
        return {"images": images, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.images = {site: list(kept) for site, kept in state["images"].items()}
        self._generator.bit_generator.state = state["generator"]
