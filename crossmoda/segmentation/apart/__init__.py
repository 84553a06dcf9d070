"""Structures learnt apart: one segmenter made of several, each of some of the structures (Salle 2022, card B).

Every member is trained by the bundle's own workflow, on items and with a preparation of its own; together they are one
``model.pt``, and one inference merges what they say.
"""

from crossmoda.segmentation.apart.inference import ApartInferer
from crossmoda.segmentation.apart.members import Member, read_members
from crossmoda.segmentation.apart.model import MemberNetworks, apart_network
from crossmoda.segmentation.apart.probabilities import MergeProbabilities
from crossmoda.segmentation.apart.training import ApartTraining

__all__ = [
    "ApartInferer",
    "ApartTraining",
    "Member",
    "MemberNetworks",
    "MergeProbabilities",
    "apart_network",
    "read_members",
]
