"""The translators of a run, to show what its segmenter has learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from crossmoda.self_training.review import read_current
from crossmoda.self_training.work import BundleUse
from lib.infers.run_bundle import RunBundle

# What an overlay may change of how a scan is rendered.
SERVED = ("imports", "network_def", "preprocessing", "slice_inferer", "inferer", "amp")


class Translator(RunBundle):
    """Render a ceT1 scan as pseudo-hrT2: an image from 0 (air, and all outside the window about the brain) to 1.

    NIfTI float32 unless the request asks for another format. It is no label: it cannot be saved as one.

    Args:
        run: the run folder.
        view: whose translator it is.

    Raises:
        CrossmodaError: the run has no such view, its weights are missing, or its settings name a key that the bundle
            does not have.
    """

    dtype = "float32"

    def __init__(self, run: Path, view: str) -> None:
        found = read_current(run)["translators"][view]
        use = BundleUse(**found["bundle"])
        super().__init__(use, run / found["weights"], f"{run / 'current.json'}", InferType.OTHERS, SERVED)
        self.labels: dict[str, int] = {}
        self.description: str = f"Pseudo-hrT2 of a ceT1 scan, view {view} of {run.name}"


def translators_of(run: Path) -> dict[str, Any]:
    """Return model name -> task of each view that a run renders; none of a run that has not noted them."""
    return {f"pseudo_hrt2_{view}": Translator(run, view) for view in read_current(run).get("translators", {})}
