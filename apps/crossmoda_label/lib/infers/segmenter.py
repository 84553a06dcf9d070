"""The segmenter of a run's current round."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monailabel.interfaces.tasks.infer_v2 import InferType

from crossmoda.labels import model_labels
from crossmoda.segmentation.plausibility import remarks_on
from crossmoda.self_training.option_values import share, switch
from crossmoda.self_training.review import read_current
from crossmoda.self_training.review_order import ANATOMY
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
# Steps that overlays add to what becomes of a prediction, and that need no more: what the loop drops goes here, too.
STEPS = ("remove_small", "check_anatomy")
OPTIONS = "displayable_configs"  # what MONAI Label shows in 3D Slicer's panel of options, and takes from a request
LARGEST_OVERLAP = 0.9
FLIPS = "flips"  # of uncertainty.yaml and the like: axes of each mirrored copy that the run averages


class Segmenter(RunBundle):
    """Segment an hrT2 scan; the mask is NIfTI uint8 unless the request asks for another format.

    A network that slides over the scan has two options in 3D Slicer's panel: ``window_overlap``, the share of a window
    that its neighbour covers too (more is slower and smoother), and ``mirrored``, which averages the prediction with
    that of the mirror image (twice as long, a little surer). Both begin as the run has them, so that a prediction that
    is asked for is the one that the run offers for review; of several mirrored copies the left-right one alone is
    averaged.

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

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        """Return the bundle's configuration with the run's settings, its options where a request can change them."""
        parser = super()._load_bundle_config(path, config)
        added = {name: f"@{name}" for name in STEPS if name in parser}
        if added:
            places = {"decide": "@decide", "keep_one_tumour": "@keep_one_tumour"}
            composed = {"_target_": "crossmoda.segmentation.postprocessing.compose_steps", **places, **added}
            parser.update({"postprocessing": {**parser["postprocessing"], **composed}})
        if parser["sliding_window"]["_target_"] != "SlidingWindowInferer":  # nnU-Net, and models put together
            return parser
        averaged = bool(parser.get_parsed_content(FLIPS)) if FLIPS in parser else False
        parser.update(
            {
                OPTIONS: {"window_overlap": parser["window_overlap"], "mirrored": averaged},
                "window_overlap": f"@{OPTIONS}::window_overlap",
                "inferer": {
                    "_target_": "crossmoda.segmentation.inferers.FlipAveragingInferer",
                    "inferer": parser["inferer"],
                    "flips": f"$[[0]] if @{OPTIONS}::mirrored else []",  # left-right, the one symmetry of a head
                },
            }
        )
        return parser

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[Any, dict[str, Any]]:
        """Segment the request's image; see ``BasicInferTask``.

        Raises:
            CrossmodaError: an option is not what it can be.
        """
        options = self._config.keys() & request.keys() & CHECKS.keys()
        return super().__call__({**request, **{name: CHECKS[name](name, request[name]) for name in options}}, callbacks)

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the result, and tell the rules of anatomy that it breaks, where the run checks any."""
        file, told = super().writer(data, extension, dtype)
        report = data.get(f"{self.output_label_key}_anatomy")
        return file, told if report is None else {**told, ANATOMY: remarks_on(report)}


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "window_overlap": partial(share, most=LARGEST_OVERLAP),
    "mirrored": switch,
}
