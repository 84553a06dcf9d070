"""Scores against what the clinicians made final."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from crossmoda.self_training.review import read_current
from crossmoda.self_training.review_scores import Scores, model_scores, pseudo_label_scores
from lib.datastore import ReviewDatastore


class PseudoLabelsAgainstFinal(ScoringMethod):
    """Score the pseudo-labels that annotators were shown: how much there was to correct.

    Args:
        run: the run folder, whose structures are scored.
    """

    def __init__(self, run: Path) -> None:
        super().__init__("Dice and surface distance per structure of the pseudo-label against the clinician's label")
        self.run = run

    def __call__(self, request: dict[str, Any], datastore: ReviewDatastore) -> dict[str, Scores]:
        """Return image id -> structure -> scores, and enter them into the scans' info as ``pseudo_label_scores``."""
        scores = pseudo_label_scores(datastore.review_store(), read_current(self.run)["structures"])
        datastore.enter_scores("pseudo_label_scores", scores)
        return scores


class ModelAgainstFinal(ScoringMethod):
    """Score the model that is served: whether it follows the corrections.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path) -> None:
        super().__init__("Dice and surface distance per structure of the served model against the clinician's label")
        self.run = run

    def __call__(self, request: dict[str, Any], datastore: ReviewDatastore) -> dict[str, Scores]:
        """Return image id -> structure -> scores, and enter them into the scans' info as ``model_scores``."""
        current = read_current(self.run)
        scores = model_scores(datastore.review_store(), self.run, current, current["structures"])
        datastore.enter_scores("model_scores", scores)
        return scores
