"""The segmenter of a run's current round."""

from __future__ import annotations

from pathlib import Path

from monailabel.interfaces.tasks.infer_v2 import InferType

from crossmoda.labels import model_labels
from crossmoda.self_training.review import read_current
from crossmoda.self_training.work import BundleUse
from lib.infers.run_bundle import RunBundle

# What an overlay may change of how a scan becomes a label. The rest of it, such as maps of uncertainty that are written
# to a folder, belongs to the loop. What it adds, such as settings of its own, does nothing unless these name it.
SERVED = (
    "imports",
    "network_def",
    "prepare",
    "preprocessing",
    "sliding_window",
    "window_overlap",
    "keep_one_tumour",
    "amp",
)


class Segmenter(RunBundle):
    """Segment an hrT2 scan; the mask is NIfTI uint8 unless the request asks for another format.

    Args:
        run: the run folder.

    Raises:
        CrossmodaError: the run has no finished round, its weights are missing, or its settings name a key that the
            bundle does not have.
    """

    def __init__(self, run: Path) -> None:
        current = read_current(run)
        use = BundleUse(**current["segmentation_bundle"])
        super().__init__(use, run / current["segmenter"], f"{run / 'current.json'}", InferType.SEGMENTATION, SERVED)
        self.labels = model_labels(current["structures"])
        self.description: str = f"Segmenter of round {current['round']} of {run.name}"
