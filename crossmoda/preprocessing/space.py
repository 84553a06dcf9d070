"""The working space: how a scan on disk becomes what networks see, for training and inference alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.transforms import Compose, MapTransform, Orientationd, Spacingd, Transform

from crossmoda.data.transforms import LoadVolumed
from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.antialiasing import SmoothFinerd
from crossmoda.preprocessing.crop import BrainCentredCropd
from crossmoda.preprocessing.intensity import ScaleByPercentilesd, ScaleSlicesByPercentilesd, StandardiseForegroundd
from crossmoda.preprocessing.preparation import PrepareImaged

INTENSITIES = {
    "minmax_percentile": ScaleByPercentilesd,  # to [-1, 1], for translators
    "slice_percentile": ScaleSlicesByPercentilesd,  # to [-1, 1] slice by slice, for card C's translator
    "zscore": StandardiseForegroundd,  # mean 0, standard deviation 1 over the foreground, for segmenters
}

RAS_AXES = (("L", "R"), ("P", "A"), ("I", "S"))


def working_space(
    keys: Sequence[str] | str = "image",
    label_keys: Sequence[str] | str = (),
    spacing_mm: Sequence[float] = (0.6, 0.6, 1.5),
    size: Sequence[int] = (256, 256),
    intensity: str = "zscore",
    minimum_slices: int | None = None,
    prepare: Sequence[Transform] = (),
    pad_size: Sequence[int] | None = None,
) -> Compose:
    """Return the transforms from files to the working space: load, RAS, resample, brain-centred crop, scale intensity.

    Images far finer than the working spacing are blurred before they are resampled (``SmoothFiner``).
    Every geometric step is invertible, so MONAI's ``Invertd`` with this Compose brings a prediction back to the scan's
    own grid (shape and affine exactly; 0 outside the window).

    Args:
        keys: entries with images' file names; the crop is found in the first one.
        label_keys: entries with label maps on the images' grid (nearest neighbour, values kept); an item may lack them.
        spacing_mm: working spacing (x, y, z).
        size: window in voxels, (x, y), or (x, y, z) to crop slices too; smaller scans are padded.
        intensity: ``minmax_percentile`` (0 to 99.9 percentile to [-1, 1]), ``slice_percentile`` (5 to 95 percentile of
            each axial slice to [-1, 1]) or ``zscore`` (over the foreground).
        minimum_slices: pad along z up to this number of slices.
        prepare: array transforms of intensity, applied to each image on its own grid right after it is read (see
            ``PrepareImage``).
        pad_size: (x, y), up to which smaller scans are padded; by default up to ``size``.

    Returns:
        A Compose that takes a dictionary of file names and gives float32 (1, x, y, z) MetaTensors.

    Raises:
        CrossmodaError: here, for an unknown intensity, or spacing, size or preparation that cannot be; at a call,
            for a file that cannot be used.
    """
    images, labels = _listed(keys), _listed(label_keys)
    spacing = [float(value) for value in spacing_mm]
    if len(spacing) != 3 or min(spacing) <= 0:
        raise CrossmodaError(f"spacing {list(spacing_mm)}: give three positive numbers, in mm")
    if intensity not in INTENSITIES:
        raise CrossmodaError(f"intensity '{intensity}' is unknown; choose {' or '.join(INTENSITIES)}")
    return Compose(
        [
            *_onto_spacing(images, spacing, "bilinear", prepare=prepare),
            *_onto_spacing(labels, spacing, "nearest", allow_missing_keys=True),
            BrainCentredCropd(
                [*images, *labels],
                size,
                reference_key=images[0],
                label_keys=labels,
                minimum_slices=minimum_slices,
                allow_missing_keys=True,
                pad_size=pad_size,
            ),
            INTENSITIES[intensity](images),
        ]
    )


def _onto_spacing(
    keys: list[str],
    spacing: list[float],
    mode: str,
    allow_missing_keys: bool = False,
    prepare: Sequence[Transform] = (),
) -> list[MapTransform]:
    """Return the steps that load volumes, prepare them, and bring them to RAS+ axes and the working spacing."""
    if not keys:
        return []
    return [
        LoadVolumed(keys, allow_missing_keys=allow_missing_keys),
        *([PrepareImaged(keys, prepare, allow_missing_keys)] if prepare else []),
        Orientationd(keys, axcodes="RAS", labels=RAS_AXES, allow_missing_keys=allow_missing_keys),
        *([SmoothFinerd(keys, spacing, allow_missing_keys)] if mode == "bilinear" else []),
        Spacingd(keys, pixdim=spacing, mode=mode, dtype=np.float32, allow_missing_keys=allow_missing_keys),
    ]


def _listed(keys: Sequence[str] | str) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys)
