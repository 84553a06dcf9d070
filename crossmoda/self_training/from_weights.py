"""A run of scans that somebody has at hand, begun with weights that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.self_training.bundles import make_workflow, run_workflow

CONFIGS = (Path("bundles/vs_cochlea_self_training/configs/train.yaml"), Path("configs/from_weights.yaml"))


def begin_run(run: str | Path, scans: str | Path, **settings: Any) -> None:
    """Label hrT2 scans with given weights as round 0 of a new run, which can then be served, reviewed and continued.

    Begun and interrupted, the same call goes on; with more scans than before, it labels those too.

    Args:
        run: the folder to make.
        scans: a folder of hrT2 scans, or a datalist with a target section.
        settings: further keys of ``configs/from_weights.yaml``.

    Raises:
        CrossmodaError: the run has gone on to a further round, there are no usable scans, or no weights.
    """
    current = Path(run) / "current.json"
    if current.is_file() and (number := read_json(current)["round"]) > 0:
        raise CrossmodaError(
            f"{run}: round {number} of it is served already; serve it without --scans, or name a new folder for these"
        )
    places = {"dataset_dir": str(scans), "output_dir": str(run)}
    run_workflow(make_workflow(CONFIGS, "train", **places, **{"rounds": 0, **settings}))
