"""How good a translation is: what each measure computes, apart from how MONAI's engines call it."""

from crossmoda.translation.measures.distances import frechet_distance, kernel_distance, kernel_distance_with_error
from crossmoda.translation.measures.features import SliceFeatures, volume_features

__all__ = [
    "SliceFeatures",
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_with_error",
    "volume_features",
]
