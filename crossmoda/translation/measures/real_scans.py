"""What real hrT2 scans look like: the reference of every measure that needs no paired truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose

from crossmoda.data.datalist import load_datalist
from crossmoda.data.sites import require_sites
from crossmoda.data.volumes import spacing_mm
from crossmoda.errors import CrossmodaError
from crossmoda.translation.items import section_items
from crossmoda.translation.measures.features import SliceFeatures, volume_features
from crossmoda.translation.measures.flicker import brightness_flicker
from crossmoda.translation.measures.intensities import foreground_quantiles

Item = dict[str, Any]


@dataclass(frozen=True)
class RealScans:
    """Hold what the measures need of a set of real scans.

    Attributes:
        features: (slices, 80) of all scans.
        cases: whose each row of ``features`` is.
        quantiles: (scans, 101) of the foreground.
        heights_mm: of each scan along z.
        flicker: case -> flicker, of the scans that have any.
    """

    features: torch.Tensor
    cases: list[str]
    quantiles: torch.Tensor
    heights_mm: list[float]
    flicker: dict[str, float]

    @property
    def height_mm(self) -> float:
        """The median height of a scan."""
        return float(np.median(self.heights_mm))


def real_scans(
    dataset_dir: str | Path,
    section: str | None,
    preprocessing: Callable[[Item], Item],
    site: str | None = None,
) -> RealScans | None:
    """Describe the real hrT2 scans of a data set's section, one prepared at a time; None without a section.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        section: target or validation, or None to do without.
        preprocessing: brings ``image`` of a scan to (1, X, Y, Z) in [-1, 1].
        site: leave out the scans of other sites; None takes all.

    Raises:
        CrossmodaError: the section is unknown or empty, or has no scan of the site.
    """
    if section is None:
        return None
    try:
        items = section_items(dataset_dir, section)
    except CrossmodaError as error:
        raise CrossmodaError(f"reference_section: {error}, or do without with --reference_section None") from error
    if site is not None:
        require_sites("reference_site", [site], load_datalist(dataset_dir)[section], section, dataset_dir)
        sites = {item["case"]: item.get("site") for item in load_datalist(dataset_dir)[section]}
        items = [item for item in items if sites[item["case"]] == site]
    return describe_scans(items, preprocessing)


def describe_scans(items: Sequence[Item], preprocessing: Callable[[Item], Item]) -> RealScans:
    """Return the description of scans ``{"case", "image"}``."""
    prepare, slice_features = Compose([preprocessing]), SliceFeatures()
    features, cases, quantiles, heights_mm = [], [], [], []
    flicker: dict[str, float] = {}
    for item in items:
        volume = prepare(dict(item))["image"]
        features.append(volume_features(volume, slice_features))
        cases += [str(item["case"])] * len(features[-1])
        quantiles.append(foreground_quantiles(volume))
        heights_mm.append(float(volume.shape[-1] * spacing_mm(np.asarray(volume.affine))[2]))
        found = brightness_flicker(np.asarray(volume[0]))
        if found is not None:
            flicker[item["case"]] = found
    return RealScans(torch.cat(features), cases, torch.stack(quantiles), heights_mm, flicker)
