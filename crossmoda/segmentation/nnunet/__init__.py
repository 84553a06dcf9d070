"""nnU-Net v2 itself as a segmenter: trained on a datalist, served by the bundle like any other (cards 0.4, D, E).

nnU-Net is imported where it computes and nowhere else, so that the project works without it.
"""

from crossmoda.segmentation.nnunet.inference import (
    NnUNetInferer,
    NnUNetPostprocessing,
    NnUNetPostprocessingd,
    predict_with_bundle,
)
from crossmoda.segmentation.nnunet.model import NnUNetEnsemble, export_model, nnunet_network
from crossmoda.segmentation.nnunet.settings import NnUNetSettings
from crossmoda.segmentation.nnunet.training import NnUNetTraining

__all__ = [
    "NnUNetEnsemble",
    "NnUNetInferer",
    "NnUNetPostprocessing",
    "NnUNetPostprocessingd",
    "NnUNetSettings",
    "NnUNetTraining",
    "export_model",
    "nnunet_network",
    "predict_with_bundle",
]
