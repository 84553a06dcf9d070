"""Rounds of self-training: steps and their manifest, pseudo-label selection, reviewed labels, the loop."""

from crossmoda.self_training.anchors import Anchors
from crossmoda.self_training.blending import TumourBlending
from crossmoda.self_training.loop import SelfTrainingLoop, continue_run, current_segmenter, load_run
from crossmoda.self_training.reporting import Report
from crossmoda.self_training.rounds import FromRound
from crossmoda.self_training.selection import (
    KeepLargestComponent,
    KeepTwoCochleae,
    LearnFromReviewed,
    RefineByContrast,
    RejectMostUncertain,
    RejectUncertain,
    RemoveFarComponents,
    RemoveSmallComponents,
    RequireAgreement,
    RequireAnatomy,
    RequireNear,
    RequireProbability,
    RequireStructures,
    RequireVolume,
    TakeAwayFluid,
    TrustVoxels,
    WeightByCertainty,
    WeightByUncertainty,
)
from crossmoda.self_training.views import Untranslated
from crossmoda.self_training.work import BundleUse

__all__ = [
    "Anchors",
    "BundleUse",
    "FromRound",
    "KeepLargestComponent",
    "KeepTwoCochleae",
    "LearnFromReviewed",
    "RefineByContrast",
    "RejectMostUncertain",
    "RejectUncertain",
    "RemoveFarComponents",
    "RemoveSmallComponents",
    "Report",
    "RequireAgreement",
    "RequireAnatomy",
    "RequireNear",
    "RequireProbability",
    "RequireStructures",
    "RequireVolume",
    "SelfTrainingLoop",
    "TakeAwayFluid",
    "TrustVoxels",
    "TumourBlending",
    "Untranslated",
    "WeightByCertainty",
    "WeightByUncertainty",
    "continue_run",
    "current_segmenter",
    "load_run",
]
