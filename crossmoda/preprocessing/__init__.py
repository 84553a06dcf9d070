"""From scans on disk to what networks see: brain-centred crop, intensity scaling, the working space."""

from crossmoda.preprocessing.crop import BrainCentredCrop, BrainCentredCropd
from crossmoda.preprocessing.intensity import (
    ScaleByPercentiles,
    ScaleByPercentilesd,
    StandardiseForeground,
    StandardiseForegroundd,
)
from crossmoda.preprocessing.space import working_space

__all__ = [
    "BrainCentredCrop",
    "BrainCentredCropd",
    "ScaleByPercentiles",
    "ScaleByPercentilesd",
    "StandardiseForeground",
    "StandardiseForegroundd",
    "working_space",
]
