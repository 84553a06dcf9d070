"""Which slice a SinGAN learns: one of a real hrT2, where tumours usually lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.utils import convert_to_tensor

from crossmoda.data.datalist import load_datalist
from crossmoda.data.sites import require_sites
from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.labels import mask_of

Item = dict[str, Any]


def training_slice(
    dataset_dir: str | Path,
    preprocessing: Callable[[Item], Item],
    case: str | None = None,
    site: str | None = None,
    slice_index: int | None = None,
    structure: str = "vs",
) -> Item:
    """Return ``{"image": (1, X, Y) in [-1, 1], "case": name, "slice_index": z}``, one slice of one target scan.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        preprocessing: brings ``image`` to (1, X, Y, Z) in [-1, 1], RAS; deterministic.
        case: of the target section; by default the first of ``site``.
        site: of the case; by default any.
        slice_index: along z of the prepared volume, 0 the lowest; by default the one at ``usual_height``.
        structure: through which the slice is to go where no index is given; the targets' own labels are not known.

    Raises:
        CrossmodaError: no such case or slice, no label to tell the height, or a slice that shows nothing.
    """
    datalist = load_datalist(dataset_dir)
    chosen = choose_target(datalist.get("target", []), case, site, dataset_dir)
    volume = convert_to_tensor(preprocessing({"image": chosen["image"], "case": chosen["case"]})["image"])[0]
    slices = int(volume.shape[2])
    if slice_index is None:
        height = usual_height(datalist.get("source", []), datalist["labels"], structure, dataset_dir)
        slice_index = int(height * slices)
    if not 0 <= slice_index < slices:
        raise CrossmodaError(f"{chosen['image']}: has no slice_index {slice_index}; its slices are 0 to {slices - 1}")
    image = torch.as_tensor(convert_to_tensor(volume[..., slice_index], track_meta=False)).float().contiguous()
    if float(image.min()) == float(image.max()):
        raise CrossmodaError(f"{chosen['image']}: slice {slice_index} shows nothing; give another slice_index")
    return {"image": image[None], "case": chosen["case"], "slice_index": slice_index}


def choose_target(
    targets: Sequence[Item], case: str | None, site: str | None, where: str | Path = "the dataset"
) -> Item:
    """Return the target item of a case, or the first of a site, or the first of all.

    Raises:
        CrossmodaError: there is none.
    """
    require_sites("site", [site], targets, "target (hrT2)", where)
    fitting = [
        item
        for item in targets
        if (case is None or item["case"] == case) and (site is None or item.get("site") == site)
    ]
    if not fitting:
        asked = " and ".join(f"{key} '{value}'" for key, value in (("case", case), ("site", site)) if value is not None)
        raise CrossmodaError(
            f"{where}: no target scan{f' with {asked}' if asked else ''}; name another with --case or --site"
        )
    return fitting[0]


def usual_height(
    source: Sequence[Item], labels: Mapping[str, int], structure: str, where: str | Path = "the dataset"
) -> float:
    """Return the median relative height (0 lowest, 1 highest) of the slices in which source labels show most of it.

    Scans of the two modalities cover much the same region, so it serves for targets, whose labels are not known.

    Raises:
        CrossmodaError: no source label shows the structure.
    """
    heights = []
    for item in source:
        if item.get("label"):
            volume = read_volume(item["label"])
            mask = mask_of(structure, volume.array, dict(item.get("labels") or labels))
            upright = nib.orientations.apply_orientation(mask, nib.orientations.io_orientation(volume.affine))
            areas = upright.sum(axis=(0, 1))
            if areas.any():
                heights.append((int(areas.argmax()) + 0.5) / len(areas))
    if not heights:
        raise CrossmodaError(f"{where}: no source label shows {structure} to find a slice by; give --slice_index")
    return float(np.median(heights))
