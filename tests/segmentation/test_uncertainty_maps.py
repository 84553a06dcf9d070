import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from crossmoda.files import read_json
from crossmoda.segmentation.uncertainty import (
    PredictiveEntropyd,
    ScoreUncertaintyd,
    UncertaintyReport,
    expected_change_ml,
    predictive_entropy,
    uncertainty_score,
)


def voxels(*probabilities):
    return torch.tensor(probabilities).T.reshape(len(probabilities[0]), len(probabilities), 1, 1)


def test_entropy_of_known_probabilities():
    entropy = predictive_entropy(voxels([1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0.0, 0, 0])).flatten()
    torch.testing.assert_close(entropy, torch.tensor([0.0, 1.0, math.log(2) / math.log(3), 0.0]))


def test_score_is_the_mean_over_likely_foreground():
    probabilities = voxels([0.5, 0.5, 0.0], [0.94, 0.03, 0.03], [0.96, 0.04, 0.0])
    entropy = predictive_entropy(probabilities)
    assert uncertainty_score(entropy, probabilities) == pytest.approx(float(entropy.flatten()[:2].mean()))


def test_score_without_foreground_is_the_largest_entropy():
    probabilities = voxels([0.96, 0.04, 0.0], [0.99, 0.01, 0.0])
    entropy = predictive_entropy(probabilities)
    assert uncertainty_score(entropy, probabilities) == pytest.approx(float(entropy.max()))


def test_expected_change_is_the_volume_where_the_likeliest_class_is_expected_to_be_wrong():
    probabilities = voxels([0.96, 0.04, 0.0], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0])
    # The first voxel's 4 % say nothing.
    assert expected_change_ml(probabilities) == pytest.approx((0.5 + 0.2) / 1000)
    flipped = torch.diag(torch.tensor([-0.5, 0.8, 1.5, 1.0]))
    assert expected_change_ml(MetaTensor(probabilities, affine=flipped)) == pytest.approx(0.7 * 0.6 / 1000)
    found = PredictiveEntropyd("pred")({"pred": MetaTensor(probabilities, affine=flipped)})
    assert found["uncertainty_expected_change_ml"] == expected_change_ml(MetaTensor(probabilities, affine=flipped))


def test_map_is_rounded_so_that_background_compresses():
    item = {"pred": voxels([1 - 1e-6, 1e-6, 0.0], [0.2, 0.3, 0.5])}
    result = PredictiveEntropyd("pred")(item)
    assert result["uncertainty"].flatten()[0] == 0
    exact = float(predictive_entropy(item["pred"]).flatten()[1])
    assert result["uncertainty"].flatten()[1] == pytest.approx(exact, abs=5e-4)
    assert torch.equal(result["pred"], item["pred"])


def test_report_holds_one_score_a_case_and_starts_anew(tmp_path):
    def step(engine, batch):
        engine.state.batch = [{"case": batch}]
        return [{"uncertainty_score": len(batch) / 10}]

    engine = Engine(step)
    UncertaintyReport(tmp_path / "sub" / "uncertainty.json").attach(engine)
    engine.run(["ldn_1", "etz_10"])
    assert read_json(tmp_path / "sub" / "uncertainty.json") == {"ldn_1": 0.5, "etz_10": 0.6}
    engine.run(["ukm_3"])
    assert read_json(tmp_path / "sub" / "uncertainty.json") == {"ukm_3": 0.5}


def test_map_keeps_an_affine_with_exchanged_axes():
    affine = torch.tensor([[0.0, 0.8, 0, 7], [0, 0, 0.9, -11], [1.5, 0, 0, 13], [0, 0, 0, 1]], dtype=torch.float64)
    result = PredictiveEntropyd("pred")({"pred": MetaTensor(torch.full((3, 5, 4, 2), 1 / 3), affine=affine)})
    torch.testing.assert_close(result["uncertainty"].affine, affine)
    assert result["uncertainty"].spatial_ndim == 3


def test_a_map_that_is_there_is_scored_over_likely_foreground_and_rounded():
    affine = torch.diag(torch.tensor([-0.5, 0.6, 1.5, 1.0], dtype=torch.float64))
    information = MetaTensor(torch.tensor([0.30004, 0.1, 0.9]).reshape(1, 3, 1, 1), affine=affine)
    item = {"pred": voxels([0.5, 0.5], [0.94, 0.06], [0.99, 0.01]), "mutual_information": information}
    result = ScoreUncertaintyd("mutual_information")(item)
    assert result["mutual_information_score"] == pytest.approx(0.20002)
    assert result["mutual_information"].flatten().tolist() == pytest.approx([0.3, 0.1, 0.9], abs=1e-7)
    torch.testing.assert_close(result["mutual_information"].affine, affine)
    assert information.flatten()[0] == pytest.approx(0.30004)
