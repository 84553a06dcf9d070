"""What a training of nnU-Net took, as its process leaves it in ``cost.json`` of its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from crossmoda.durations import Stopwatch
from crossmoda.engines.speed import Pace
from crossmoda.files import read_json, write_json
from crossmoda.segmentation.nnunet.settings import PLANS, NnUNetFolders

COST = "cost.json"
ROOT = "nnunet"  # nnU-Net's folders in a training's output


@dataclass
class Spent:
    """What the last process of a training took.

    Args:
        watch: seconds of its pieces: planning (with preprocessing), training, validation, choosing.
        epochs: configuration -> the seconds of each epoch's steps, and of what came after them.
        scans: configuration -> the seconds of each scan's prediction in a fold's validation.
        mib: the most memory that it held, of the GPU where it ran on one.
    """

    watch: Stopwatch = field(default_factory=Stopwatch)
    epochs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    scans: dict[str, list[float]] = field(default_factory=dict)
    mib: float = 0.0

    def write(self, folders: NnUNetFolders, mib: float) -> None:
        """Leave it where ``read_spent`` looks, with the memory."""
        of_pieces = {"seconds": self.watch.seconds, "epochs": self.epochs, "scans": self.scans}
        write_json(folders.root / COST, {**of_pieces, "mib": mib})

    def pace(self, configuration: str, steps: int) -> Pace:
        """Return a configuration's pace by its last epoch, the first being its warm-up.

        Args:
            configuration: one that was trained.
            steps: of an epoch, those of its validation included.
        """
        stepped, after = self.epochs[configuration][-1]
        return Pace(stepped / steps, after, sum(map(sum, self.epochs[configuration])))


def read_spent(training: Path) -> Spent:
    """Read what the training in an output folder took."""
    found = read_json(training / ROOT / COST)
    spent = Spent(epochs=found["epochs"], scans=found["scans"], mib=found["mib"])
    spent.watch.seconds = found["seconds"]
    return spent


def preprocessing_seconds(training: Path, configuration: str) -> float:
    """Return how long nnU-Net takes to preprocess a scan of a training that has kept its data, in one process.

    Of two times the second, since the first loads libraries.

    Args:
        training: its output folder.
        configuration: that was planned.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folders = NnUNetFolders(training / ROOT)
    plans = PlansManager(str(folders.preprocessed / f"{PLANS}.json"))
    planned = plans.get_configuration(configuration)
    label = min((folders.raw / "labelsTr").iterdir())
    image = folders.raw / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz")
    preprocessor = planned.preprocessor_class(verbose=False)
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        preprocessor.run_case([str(image)], str(label), plans, planned, str(folders.raw / "dataset.json"))
        seconds = time.monotonic() - started
    return seconds
