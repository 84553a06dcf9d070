"""The rule by which a round learns from what clinicians have reviewed, and from nothing else that is real."""

from __future__ import annotations

from dataclasses import dataclass

from crossmoda.self_training.candidates import Candidate, Rule
from crossmoda.self_training.frozen_reviews import APPROVED


@dataclass(frozen=True)
class LearnFromReviewed(Rule):
    """Leave out every scan that no clinician has reviewed; translated scans are learnt from as before.

    Args:
        approved: also leave out labels that an annotator saved and no reviewer has approved yet.
    """

    approved: bool = False

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate left out: what comes to the rules is nobody's label but the network's."""
        return candidate.rejected("no clinician has reviewed this scan")

    def admits(self, status: str) -> bool:
        """Tell whether a clinician's label of a status ("approved", "corrected") is learnt from."""
        return not self.approved or status == APPROVED
