"""Dice of pseudo-labels against what the clinician made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from monailabel.interfaces.tasks.scoring import ScoringMethod

from crossmoda.self_training.review import label_in_store, read_current
from crossmoda.self_training.review_store import FINAL, ORIGINAL
from lib.datastore import ReviewDatastore


class DiceOfPseudoLabels(ScoringMethod):
    """Compute the Dice per structure of ``original`` against ``final``, case by case; two empty masks agree fully.

    Args:
        run: the run folder, whose structures are scored.
    """

    def __init__(self, run: Path) -> None:
        super().__init__("Dice per structure of the pseudo-label against the clinician's label")
        self.run = run

    def __call__(self, request: dict[str, Any], datastore: ReviewDatastore) -> dict[str, dict[str, float]]:
        """Return image id -> structure -> Dice, and enter it into the scans' info."""
        structures = read_current(self.run)["structures"]
        store = datastore.review_store()
        scores = {}
        for image_id, entry in store.read()["objects"].items():
            if {ORIGINAL, FINAL} <= set(entry["labels"]):
                label, truth = (
                    label_in_store(store, image_id, entry, tag, structures).voxels(structures)
                    for tag in (ORIGINAL, FINAL)
                )
                scores[image_id] = dice_per_structure(label, truth, structures)
                datastore.update_image_info(image_id, {"dice": scores[image_id]})
        return scores


def dice_per_structure(label: np.ndarray, truth: np.ndarray, structures: list[str]) -> dict[str, float]:
    """Return structure -> Dice (0 to 1) of two label maps (X, Y, Z) numbered as ``model_labels(structures)``."""
    masks = [
        one_hot(torch.from_numpy(array[None, None].astype(np.int64)), len(structures) + 1) for array in (label, truth)
    ]
    dice = compute_dice(masks[0], masks[1], include_background=False, ignore_empty=False)[0]
    return {name: round(float(value), 6) for name, value in zip(structures, dice, strict=True)}
