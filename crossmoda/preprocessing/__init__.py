"""From scans on disk to what networks see: preparation, brain-centred crop, intensity scaling, the working space."""

from crossmoda.preprocessing.crop import BrainCentredCrop, BrainCentredCropd
from crossmoda.preprocessing.deconvolution import VanCittertDeconvolution, VanCittertDeconvolutiond
from crossmoda.preprocessing.intensity import (
    ScaleByPercentiles,
    ScaleByPercentilesd,
    ScaleSlicesByPercentiles,
    ScaleSlicesByPercentilesd,
    StandardiseForeground,
    StandardiseForegroundd,
)
from crossmoda.preprocessing.preparation import PrepareImage, PrepareImaged, describe_transforms
from crossmoda.preprocessing.space import working_space
from crossmoda.preprocessing.window import KeepBrainWindow, KeepBrainWindowd

__all__ = [
    "BrainCentredCrop",
    "BrainCentredCropd",
    "KeepBrainWindow",
    "KeepBrainWindowd",
    "PrepareImage",
    "PrepareImaged",
    "ScaleByPercentiles",
    "ScaleByPercentilesd",
    "ScaleSlicesByPercentiles",
    "ScaleSlicesByPercentilesd",
    "StandardiseForeground",
    "StandardiseForegroundd",
    "VanCittertDeconvolution",
    "VanCittertDeconvolutiond",
    "describe_transforms",
    "working_space",
]
