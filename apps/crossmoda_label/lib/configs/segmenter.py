"""Put together what the app offers for a run's segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from crossmoda.self_training.review import read_current
from crossmoda.self_training.review_order import case_measures
from lib.infers.segmenter import Segmenter
from lib.infers.translator import translators_of
from lib.scoring.against_final import ModelAgainstFinal, PseudoLabelsAgainstFinal
from lib.strategies.order import First, Highest, RandomOrder
from lib.trainers.next_round import NextRound

ORDERS = {  # name in 3D Slicer -> measure and what it says
    "uncertainty": ("uncertainty", "Most uncertain case first"),
    "disagreement": ("disagreement", "Case first on which folds, members or mirrored copies disagree most"),
    "expected_change": ("expected_change_ml", "Case first of which the largest volume is expected to be corrected"),
}


class SegmenterConfig(TaskConfig):
    """Name the tasks; the names are what 3D Slicer shows.

    Args:
        run: the run folder.
        studies: the folder under review.
    """

    def __init__(self, run: Path, studies: Path) -> None:
        super().__init__()
        self.run = run
        self.studies = studies

    def infer(self) -> dict[str, InferTask]:
        """Return the run's current segmenter, and its translators."""
        return {"vs_cochlea_hrt2_segmentation": Segmenter(self.run), **translators_of(self.run)}

    def trainer(self) -> dict[str, TrainTask]:
        """Return the next round of the run."""
        return {"next_round": NextRound(self.run, self.studies)}

    def strategy(self) -> dict[str, Strategy]:
        """Return the orders of cases that the current round has measures for; the first is the default."""
        measured = case_measures(self.run, read_current(self.run))
        found = {name: Highest(measure, text) for name, (measure, text) in ORDERS.items() if measure in measured}
        return {**found, "first": First(), "random": RandomOrder(np.random.default_rng())}

    def scoring_method(self) -> dict[str, ScoringMethod]:
        """Return the scores."""
        return {"pseudo_labels": PseudoLabelsAgainstFinal(self.run), "model": ModelAgainstFinal(self.run)}
