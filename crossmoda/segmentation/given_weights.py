"""Weights that are there already in place of a training: a run of the loop can begin with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from crossmoda.engines import load_weights, require_own_weights, save_weights
from crossmoda.engines.weights import GIVEN
from crossmoda.files import read_json, sha256_of, write_json


def adopt_weights(
    network: nn.Module,
    weights: str | Path,
    output_dir: str | Path | None,
    agreed: Mapping[str, Any],
    info: Mapping[str, Any],
) -> None:
    """Write given weights as a training would have written its own: ``model.pt``, ``model.json``, ``history.json``.

    Args:
        network: of the configuration; the weights must fit it.
        weights: a file of a plain state dictionary; what its sidecar says of its own training is kept as ``given``.
        output_dir: for the files; None only looks whether the weights fit.
        agreed: settings that must be those of the weights' training.
        info: for the new sidecar.

    Raises:
        CrossmodaError: the file is missing, or belongs to another network or other settings; or the folder has weights
            that came from elsewhere.
    """
    load_weights(network, weights, agreed, "initial_weights")
    if output_dir is None:
        return
    sidecar, output = Path(weights).with_suffix(".json"), Path(output_dir)
    require_own_weights(output / "model.pt")
    told = read_json(sidecar) if sidecar.is_file() else {}
    given = {"file": Path(weights).name, "sha256": sha256_of(weights), "training": told}
    save_weights(network, output / "model.pt", {**info, GIVEN: given, "epochs": 0, "iterations": 0})
    write_json(output / "history.json", {"epoch": [], "series": {"loss": [None]}})
