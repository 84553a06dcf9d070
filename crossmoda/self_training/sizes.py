"""Sizes of a machine that a profile gives by kind of network, and the kind that a segmenter's overlays make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmoda.errors import CrossmodaError, did_you_mean

DEFAULT = "dynunet"
KINDS = {"variant_unet2d5.yaml": "unet2d5", "variant_resunet2d5.yaml": "resunet2d5", "nnunet.yaml": "nnunet"}


def kind_of(overlays: Sequence[str]) -> str:
    """Return the kind of network that the segmentation bundle trains with these overlays.

    Of ``apart.yaml``, whose members may be anything, the overlays do not tell: it has that of the bundle's own network.

    Args:
        overlays: files after ``train.yaml``: names in the bundle's ``configs``, or paths.
    """
    found = [KINDS[name] for name in (Path(overlay).name for overlay in overlays) if name in KINDS]
    return found[-1] if found else DEFAULT


def sizes_of(sizes: Mapping[str, Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """Return the sizes of a kind of network.

    Args:
        sizes: kind -> settings of the segmentation bundle.
        kind: of network.

    Raises:
        CrossmodaError: there are none of that kind.
    """
    if kind not in sizes:
        raise CrossmodaError(f"segmenter_kind '{kind}' has no sizes; {did_you_mean(kind, sizes)}")
    return sizes[kind]
