"""Training from 3D Slicer: the next round of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from crossmoda.errors import find_user_error
from crossmoda.files import PARTIAL_MARK, read_json
from crossmoda.self_training.loop import continue_run, mean_dice

_UNFINISHED = f"round_*/.segmenter{PARTIAL_MARK}*/segmenter"
HISTORIES = ("round_*/segmenter/history.json", f"{_UNFINISHED}/history.json", f"{_UNFINISHED}/members/*/history.json")


class NextRound(TrainTask):
    """Run the next round: the clinician's labels at full weight, flagged cases left out, the rest labelled anew.

    MONAI Label runs it in a process of its own, one at a time.

    Args:
        run: the run folder.
        studies: the folder under review.
    """

    def __init__(self, run: Path, studies: Path) -> None:
        super().__init__("Next round of self-training with the reviewed labels")
        self.run = run
        self.studies = studies

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Return the number of the new round and its mean Dice per structure, where truth is known."""
        try:
            current = continue_run(self.run, self.studies)
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            raise SystemExit(
                f"error: {user_error}"
            ) from error  # the last line of the task's details, which Slicer shows
        return {"round": current["round"], **self._measured()}

    def stats(self) -> dict[str, Any]:
        """Return how far the training is, in the words that 3D Slicer's progress and accuracy bars read."""
        histories = [path for pattern in HISTORIES for path in self.run.glob(pattern)]
        if not histories:
            return {}
        newest = max(histories, key=lambda path: path.stat().st_mtime)
        history = read_json(newest)
        epochs = history["epoch"]
        dice = [value for value in history["series"].get("val_mean_dice", []) if value is not None]
        stats = {
            "epoch": epochs[-1] if epochs else 0,
            "total_epochs": self._total_epochs() or (epochs[-1] if epochs else 0),
            "best_metric": max(dice, default=max(self._measured().values(), default=0.0)),
            "train": {name: values[-1] for name, values in history["series"].items() if values},
        }
        return stats if PARTIAL_MARK in str(newest) else {**stats, "total_time": "finished"}

    def _total_epochs(self) -> int | None:
        """Return the length of a training; None where members of the segmenter have lengths of their own."""
        description = yaml.safe_load((self.run / "run.yaml").read_text(encoding="utf-8"))
        epochs = description["resolved"]["segmenter"]["max_epochs"]
        return None if epochs is None else int(epochs)

    def _measured(self) -> dict[str, float]:
        metrics = self.run / "metrics.json"
        return mean_dice(read_json(metrics)) if metrics.is_file() else {}
