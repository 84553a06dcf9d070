"""Put together what the app offers for a run's segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.infers.segmenter import Segmenter
from lib.scoring.dice import DiceOfPseudoLabels
from lib.strategies.order import First, MostUncertain, RandomOrder
from lib.trainers.next_round import NextRound


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
        """Return the run's current segmenter."""
        return {"vs_cochlea_hrt2_segmentation": Segmenter(self.run)}

    def trainer(self) -> dict[str, TrainTask]:
        """Return the next round of the run."""
        return {"next_round": NextRound(self.run, self.studies)}

    def strategy(self) -> dict[str, Strategy]:
        """Return the orders of cases; the first is the default."""
        return {"uncertainty": MostUncertain(), "first": First(), "random": RandomOrder(np.random.default_rng())}

    def scoring_method(self) -> dict[str, ScoringMethod]:
        """Return the scores."""
        return {"dice": DiceOfPseudoLabels(self.run)}
