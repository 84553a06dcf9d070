from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.confidence import (
    KeepLargestProbabilityd,
    MeasureConfidenced,
    confidence_within,
    largest_probability,
)

# Four voxels along x: sure background, VS at 0.7, cochlea at 0.5004, and one outside the crop window.
PROBABILITIES = torch.tensor([[0.99, 0.2, 0.2996, 0.0], [0.01, 0.7, 0.2, 0.0], [0.0, 0.1, 0.5004, 0.0]])[
    ..., None, None
]
AFFINE = torch.diag(torch.tensor([-0.5, 0.8, 1.5, 1.0], dtype=torch.float64))


def test_the_likeliest_class_counts_and_outside_the_window_it_is_background() -> None:
    found = largest_probability(PROBABILITIES)
    assert found.shape == (1, 4, 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.99, 0.7, 0.5, 1.0]))  # in thousandths


def test_the_map_keeps_the_geometry_and_the_probabilities_stay() -> None:
    item = {"pred": MetaTensor(PROBABILITIES.clone(), affine=AFFINE), "case": "c"}
    found = KeepLargestProbabilityd(keys="pred")(item)
    assert "confidence" not in item
    torch.testing.assert_close(found["confidence"].affine, AFFINE)
    torch.testing.assert_close(found["pred"].as_tensor(), PROBABILITIES)


def test_figures_are_of_each_structure_that_was_found() -> None:
    label = torch.tensor([0, 1, 1, 0]).reshape(1, 4, 1, 1)
    found = confidence_within(label, largest_probability(PROBABILITIES), ["vs", "cochlea"])
    assert found == {"vs": {"mean": pytest.approx(0.6), "max": pytest.approx(0.7)}}


def test_a_tumour_in_parts_has_figures_of_its_own() -> None:
    label = torch.tensor([0, 1, 2, 2]).reshape(1, 4, 1, 1)
    found = confidence_within(label, largest_probability(PROBABILITIES), ["extra", "intra"])
    assert sorted(found) == ["extra", "intra", "vs"]
    assert found["vs"] == {"mean": pytest.approx(np.mean([0.7, 0.5, 1.0]), abs=1e-6), "max": 1.0}


def test_structures_of_another_model_are_not_measured() -> None:
    item = {"pred": torch.tensor([0, 1, 2, 0]).reshape(1, 4, 1, 1), "confidence": largest_probability(PROBABILITIES)}
    found = MeasureConfidenced(keys="pred", structures=["vs", "cochlea"], measured=["cochlea"])(item)
    assert found["pred_confidence"] == {"cochlea": {"mean": 0.5, "max": 0.5}}
    assert "pred_confidence" not in item


def test_a_confidence_of_another_grid_is_refused() -> None:
    label = MetaTensor(torch.zeros(1, 4, 1, 1), affine=AFFINE)
    shifted = AFFINE.clone()
    shifted[0, 3] = 2
    confidence = MetaTensor(torch.ones(1, 4, 1, 1), affine=shifted)
    with pytest.raises(CrossmodaError, match="label map and confidence"):
        confidence_within(label, confidence, ["vs"])
