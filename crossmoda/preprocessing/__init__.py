"""From scans on disk to what networks see: brain-centred crop, intensity scaling, sharpening, the working space."""

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
from crossmoda.preprocessing.space import working_space

__all__ = [
    "BrainCentredCrop",
    "BrainCentredCropd",
    "ScaleByPercentiles",
    "ScaleByPercentilesd",
    "ScaleSlicesByPercentiles",
    "ScaleSlicesByPercentilesd",
    "StandardiseForeground",
    "StandardiseForegroundd",
    "VanCittertDeconvolution",
    "VanCittertDeconvolutiond",
    "working_space",
]
