"""Training from 3D Slicer: the next round of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.files import PARTIAL_MARK, read_json
from crossmoda.self_training.loop import continue_run, mean_dice
from crossmoda.self_training.round_options import LEARN_FROM, next_round_options, options_of_round

_UNFINISHED = f"round_*/.segmenter{PARTIAL_MARK}*/segmenter"
DEVICE = "device"
NO_OPTIONS = ("model", "client_id", "gpus", "local_rank")  # what MONAI Label and its clients add to a request
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

    def config(self) -> dict[str, Any]:
        """Return the options that 3D Slicer's panel shows, as they are now; of choices, the first is the present one.

        A run that nobody can go on with has none.
        """
        try:
            options = next_round_options(self.run).known()
        except CrossmodaError:  # Train tells why
            return {}
        choices = sorted(LEARN_FROM, key=lambda choice: choice != options["learn_from"])
        return {**options, "learn_from": choices, DEVICE: device_list()}

    def require_options(self, request: Mapping[str, Any]) -> None:
        """Refuse, before a training is begun, options that are not what they can be.

        Raises:
            CrossmodaError: naming the option and what it can be.
        """
        options = _options_in(request)
        if options:
            next_round_options(self.run).changed(options)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Return the number of the new round and its mean Dice per structure, where truth is known.

        Options in the request that differ from the run's hold from this round on.
        """
        device = name_to_device(request[DEVICE]) if request.get(DEVICE) else None
        try:
            current = continue_run(self.run, self.studies, options=_options_in(request), device=device)
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
            "total_epochs": self._total_epochs(newest) or (epochs[-1] if epochs else 0),
            "best_metric": max(dice, default=max(self._measured().values(), default=0.0)),
            "train": {name: values[-1] for name, values in history["series"].items() if values},
        }
        return stats if PARTIAL_MARK in str(newest) else {**stats, "total_time": "finished"}

    def _total_epochs(self, history: Path) -> int | None:
        """Return the length of a training of some round; None where it is not known."""
        number = int(history.relative_to(self.run).parts[0].removeprefix("round_"))
        try:
            return options_of_round(self.run, number).max_epochs
        except CrossmodaError:
            return None

    def _measured(self) -> dict[str, float]:
        metrics = self.run / "metrics.json"
        return mean_dice(read_json(metrics)) if metrics.is_file() else {}


def _options_in(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in (*NO_OPTIONS, DEVICE)}
