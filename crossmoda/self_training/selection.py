"""All rules that decide what becomes of a predicted label before the next round learns from it.

They are made in modules of one purpose each; configurations may name them here, or as ``crossmoda.self_training.NAME``.
"""

from crossmoda.self_training.candidates import (
    Candidate,
    Cohort,
    Finding,
    Needs,
    Requirement,
    Rule,
    Verdict,
    apply_rules,
)
from crossmoda.self_training.certainty import (
    RejectMostUncertain,
    RejectUncertain,
    TrustVoxels,
    WeightByCertainty,
    WeightByUncertainty,
)
from crossmoda.self_training.redrawing import KeepLargestComponent, RefineByContrast, TakeAwayFluid
from crossmoda.self_training.requirements import (
    RequireAgreement,
    RequireAnatomy,
    RequireNear,
    RequireProbability,
    RequireStructures,
    RequireVolume,
)
from crossmoda.self_training.reviewed_only import LearnFromReviewed
from crossmoda.self_training.screening import KeepTwoCochleae, RemoveFarComponents, RemoveSmallComponents

__all__ = [
    "Candidate",
    "Cohort",
    "Finding",
    "KeepLargestComponent",
    "KeepTwoCochleae",
    "LearnFromReviewed",
    "Needs",
    "RefineByContrast",
    "RejectMostUncertain",
    "RejectUncertain",
    "RemoveFarComponents",
    "RemoveSmallComponents",
    "RequireAgreement",
    "RequireAnatomy",
    "RequireNear",
    "RequireProbability",
    "RequireStructures",
    "RequireVolume",
    "Requirement",
    "Rule",
    "TakeAwayFluid",
    "TrustVoxels",
    "Verdict",
    "WeightByCertainty",
    "WeightByUncertainty",
    "apply_rules",
]
