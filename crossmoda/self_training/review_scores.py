"""How good pseudo-labels, and the model that is served, are against the labels that clinicians made final."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.data.volumes import read_grid, same_grid, spacing_mm
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import read_label_map
from crossmoda.evaluation.metrics import structure_scores
from crossmoda.labels import mask_of, model_labels
from crossmoda.self_training.review import label_in_store
from crossmoda.self_training.review_store import FINAL, ORIGINAL, ReviewStore

Scores = dict[str, dict[str, float]]  # structure -> dice, assd_mm


def pseudo_label_scores(store: ReviewStore, structures: Sequence[str]) -> dict[str, Scores]:
    """Return image id -> structure -> Dice and ASSD of the pseudo-label that was shown against the final label.

    Args:
        store: the folder under review; cases without a final label are left out.
        structures: of the run.
    """
    found = {}
    for image_id, entry in store.read()["objects"].items():
        if {ORIGINAL, FINAL} <= set(entry["labels"]):
            label, final = (label_in_store(store, image_id, entry, tag, structures) for tag in (ORIGINAL, FINAL))
            maps = label.voxels(structures), final.voxels(structures)
            found[image_id] = scores_of(*maps, structures, read_grid(final.image).affine)
    return found


def model_scores(
    store: ReviewStore, run: Path, current: Mapping[str, Any], structures: Sequence[str]
) -> dict[str, Scores]:
    """Return image id -> structure -> Dice and ASSD of what the served model predicts against the final label.

    The model's round has predicted every target scan, the reviewed ones too. It has learnt from these labels, unless
    they were saved after it was trained, so that the figures tell whether it follows the corrections.

    Args:
        store: the folder under review; cases without a final label are left out.
        run: the run folder.
        current: its ``current.json``.
        structures: of the run.

    Raises:
        CrossmodaError: a prediction lies on another grid than its scan.
    """
    found = {}
    for image_id, entry in store.read()["objects"].items():
        if FINAL not in entry["labels"]:
            continue
        final = label_in_store(store, image_id, entry, FINAL, structures)
        file = run / current["predictions"] / f"{final.case}{LABEL_SUFFIX}"
        if not file.is_file():  # a scan that a client uploaded
            continue
        predicted = read_label_map(file, model_labels(structures))
        grid = read_grid(final.image)
        if not same_grid(predicted, grid):
            raise CrossmodaError(f"{file}: lies on another grid than {final.image}; predict the case again")
        found[image_id] = scores_of(predicted.array, final.voxels(structures), structures, grid.affine)
    return found


def scores_of(label: np.ndarray, final: np.ndarray, structures: Sequence[str], affine: np.ndarray) -> Scores:
    """Return structure -> ``dice`` (0 to 1) and ``assd_mm`` of two label maps (X, Y, Z) on one grid.

    Two empty masks agree fully; where one alone is empty, the Dice is 0 and the distance 350 mm, as in the challenge.

    Args:
        label: numbered as ``model_labels(structures)``.
        final: likewise.
        structures: names in the order of the numbers.
        affine: (4, 4) of both, from voxels to mm.
    """
    labels = model_labels(structures)
    scores = {}
    for name in structures:
        measured = structure_scores(mask_of(name, label, labels), mask_of(name, final, labels), spacing_mm(affine))
        scores[name] = {"dice": round(measured["dice"], 6), "assd_mm": round(measured["assd"], 4)}
    return scores
