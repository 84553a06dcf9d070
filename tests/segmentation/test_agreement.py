from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.agreement import MeasureAgreementd, dice_by_structure
from crossmoda.segmentation.postprocessing import compose_steps


def line(*values: int) -> torch.Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_dice_by_structure() -> None:
    first, second = line(1, 1, 1, 0, 0), line(1, 1, 0, 1, 0)
    assert dice_by_structure(first, second, ["vs", "cochlea"]) == {"vs": round(2 * 2 / 6, 6), "cochlea": 1.0}


def test_a_structure_that_one_of_the_two_lacks_does_not_agree() -> None:
    assert dice_by_structure(line(0, 2), line(0, 0), ["vs", "cochlea"])["cochlea"] == 0


def test_a_tumour_whose_parts_changed_places_agrees_as_a_whole() -> None:
    found = dice_by_structure(line(1, 2, 0), line(2, 1, 0), ["extra", "intra"])
    assert found == {"extra": 0, "intra": 0, "vs": 1}


def swap(item: dict[str, Any]) -> dict[str, Any]:
    """Exchange the probabilities of background and VS in the first voxel."""
    changed = item["pred"].clone()
    changed[:2, 0] = changed[:2, 0].flip(0)
    return {**item, "pred": changed}


def test_what_a_step_changes_is_measured_and_passed_on() -> None:
    probabilities = torch.tensor([[0.2, 0.1, 0.9], [0.8, 0.9, 0.1]])[..., None, None]  # VS, VS, background
    affine = torch.diag(torch.tensor([-0.5, 0.8, 1.5, 1.0], dtype=torch.float64))
    item = {"pred": MetaTensor(probabilities.clone(), affine=affine)}
    found = MeasureAgreementd(keys="pred", step=swap, structures=["vs"])(item)
    assert found["pred_agreement"] == {"vs": round(2 * 1 / 3, 6)}
    torch.testing.assert_close(found["pred"].as_tensor(), swap({"pred": probabilities})["pred"])
    torch.testing.assert_close(found["pred"].affine, affine)
    torch.testing.assert_close(item["pred"].as_tensor(), probabilities)
    assert "pred_agreement" not in item


def test_a_measurement_is_put_around_another_step() -> None:
    item = {"pred": torch.tensor([[0.2, 0.1], [0.8, 0.9]])[..., None, None]}
    plain = MeasureAgreementd(keys="pred", structures=["vs"])
    assert plain(item)["pred_agreement"] == {"vs": 1}
    assert plain.around(swap)(item)["pred_agreement"] == {"vs": round(2 / 3, 6)}
    with pytest.raises(CrossmodaError, match=r"no random field to measure; name crf\.yaml"):
        compose_steps([swap, plain], swap, plain, measure_agreement=plain)
