"""How sure a prediction is, voxel by voxel and case by case."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from crossmoda.data.volumes import voxel_volume_mm3
from crossmoda.segmentation.geometry import affine_of
from crossmoda.segmentation.reports import CaseReport

FOREGROUND_PROBABILITY = 0.05  # a voxel less likely than this to be any structure says nothing about the structures
STEPS = 1000  # map values are multiples of 1 / STEPS, so that the far background is 0 and compresses to nothing


def predictive_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the entropy of class probabilities (C, X, Y, Z) as (1, X, Y, Z), scaled to 0 (certain) .. 1 (uniform).

    Works channel by channel, since a whole head has tens of millions of voxels. Voxels of probability 0 in every class,
    as outside a crop window, have entropy 0.
    """
    total = sum(torch.special.entr(channel) for channel in _plain(probabilities))
    entropy = (total / math.log(len(probabilities))).clamp_(0, 1)[None]
    return convert_to_dst_type(entropy, probabilities)[0]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor without metadata, because channels cut from a MetaTensor lose track of their affine."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def uncertainty_score(entropy: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Return one number for a case: the mean entropy where a structure is at least ``FOREGROUND_PROBABILITY`` likely.

    Averaging over the whole image would measure how small the structures are. Where nothing is that likely, the largest
    entropy counts.

    Args:
        entropy: (1, X, Y, Z) in 0..1.
        probabilities: (C, X, Y, Z), background first.
    """
    values = _plain(entropy)
    foreground = _plain(probabilities)[1:].sum(dim=0, keepdim=True) > FOREGROUND_PROBABILITY
    return float(values[foreground].mean() if foreground.any() else values.max())


def expected_change_ml(probabilities: torch.Tensor) -> float:
    """Return how much of the label, in mL, a corrector is expected to change, if the probabilities are right.

    That is the volume of the voxels where a structure is at least ``FOREGROUND_PROBABILITY`` likely, each times the
    probability that its likeliest class is not the true one: a large tumour with a doubtful border counts for more than
    a small one, which an average over voxels does not tell.

    Args:
        probabilities: (C, X, Y, Z), background first, with an affine to RAS+ mm (without one, voxels are of 1 mm3).
    """
    plain = _plain(probabilities)
    likely = plain[1:].sum(dim=0) > FOREGROUND_PROBABILITY
    wrong = 1 - plain[:, likely].amax(dim=0)
    return float(wrong.sum(dtype=torch.float64)) * voxel_volume_mm3(affine_of(probabilities)) / 1000


class PredictiveEntropyd(MapTransform):
    """Add a prediction's entropy map and score to the item, for probabilities (C, X, Y, Z) under each key.

    The map goes to ``uncertainty_key`` with the geometry of the probabilities, the score to ``uncertainty_key`` +
    ``"_score"``, ``expected_change_ml`` to ``uncertainty_key`` + ``"_expected_change_ml"``. Deterministic; not
    invertible.

    Args:
        keys: one key, of the class probabilities, background first.
        uncertainty_key: where the map goes.
    """

    def __init__(self, keys: KeysCollection, uncertainty_key: str = "uncertainty") -> None:
        super().__init__(keys)
        self.uncertainty_key = uncertainty_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the map (1, X, Y, Z) and the score, both in 0..1."""
        item = dict(data)
        for key in self.key_iterator(item):
            entropy = predictive_entropy(item[key])
            item[f"{self.uncertainty_key}_score"] = uncertainty_score(entropy, item[key])
            item[f"{self.uncertainty_key}_expected_change_ml"] = expected_change_ml(item[key])
            item[self.uncertainty_key] = entropy.mul_(STEPS).round_().div_(STEPS)
        return item


class ScoreUncertaintyd(MapTransform):
    """Add the score of an uncertainty map that is in the item already, such as the members' mutual information.

    The score goes to the map's key + ``"_score"``, see ``uncertainty_score``; the map is rounded as
    ``PredictiveEntropyd`` does. Deterministic; not invertible.

    Args:
        keys: of maps (1, X, Y, Z) in 0..1.
        probabilities_key: of the class probabilities (C, X, Y, Z) on the same grid, background first.
    """

    def __init__(self, keys: KeysCollection, probabilities_key: str = "pred") -> None:
        super().__init__(keys)
        self.probabilities_key = probabilities_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with scores and rounded maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[f"{key}_score"] = uncertainty_score(item[key], item[self.probabilities_key])
            item[key] = item[key].mul(STEPS).round_().div_(STEPS)
        return item


class UncertaintyReport(CaseReport):
    """Write the cases' scores to a JSON file ``{case: score}`` when the evaluator has seen them all.

    Args:
        path: of the file.
        key: where ``PredictiveEntropyd`` left the score in the engine's output.
    """

    def __init__(self, path: str | Path, key: str = "uncertainty_score") -> None:
        super().__init__(path, key)

    def value_of(self, output: Any) -> float:
        """Return the score, rounded."""
        return round(float(output), 6)
