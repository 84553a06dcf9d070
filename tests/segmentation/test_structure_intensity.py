import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.segmentation.augmentation import RandStructureIntensityd

STRUCTURES = ["vs", "cochlea"]


def item():
    image = torch.full((1, 12, 10, 8), 2.0)
    image[0, 0, 0, 0] = -1.0  # the minimum
    label = torch.zeros(1, 12, 10, 8)
    label[0, 2:9, 2:9, 1:8] = 1
    label[0, 10, 8:10, 2] = 2
    return {"image": MetaTensor(image, affine=np.diag([0.5, 0.7, 1.5, 1.0])), "label": label}


def transform(factors, prob=1.0, **settings):
    return RandStructureIntensityd("image", "label", STRUCTURES, factors, prob=prob, **settings).set_random_state(0)


def test_signal_above_the_minimum_is_multiplied_deep_inside():
    result = transform({"vs": [0.5, 0.5]})(item())["image"]
    assert result[0, 5, 5, 4] == pytest.approx(-1.0 + 3.0 * 0.5)


def test_the_edge_is_soft_and_only_inside():
    result = transform({"vs": [0.5, 0.5]}, edge_voxels=2.0)(item())["image"]
    assert result[0, 1, 5, 4] == 2.0  # first voxel outside
    assert result[0, 2, 5, 4] == pytest.approx(-1.0 + 3.0 * 0.75)  # first inside: distance 1 of 2
    assert result[0, 3, 5, 4] == pytest.approx(-1.0 + 3.0 * 0.5)


def test_nothing_outside_the_named_structure_changes():
    data = item()
    changed = (transform({"cochlea": [2.0, 2.0]}, edge_voxels=0)(data)["image"] != data["image"]).numpy()
    np.testing.assert_array_equal(changed, data["label"].numpy() == 2)


def test_input_stays_and_metadata_goes_on():
    data = item()
    before = data["image"].clone()
    result = transform({"vs": [0.3, 0.4]})(data)
    assert torch.equal(data["image"], before)
    assert torch.equal(result["image"].affine, data["image"].affine)
    assert torch.equal(result["label"], data["label"])


def test_same_seed_same_result():
    factors = {"vs": [0.4, 1.8], "cochlea": [0.6, 1.6]}
    assert torch.equal(transform(factors)(item())["image"], transform(factors)(item())["image"])


def test_an_image_without_the_structure_is_left_alone():
    data = item() | {"label": torch.zeros(1, 12, 10, 8)}
    assert torch.equal(transform({"vs": [0.5, 0.5]})(data)["image"], data["image"])


def test_a_structure_that_fills_the_image_is_scaled():
    data = {"image": torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1), "label": torch.ones(1, 2, 1, 1)}
    assert transform({"vs": [0.5, 0.5]})(data)["image"].flatten().tolist() == [0.0, 0.5]


def test_probability_zero_never_changes_anything():
    data = item()
    augment = transform({"vs": [0.5, 0.5]}, prob=0.0)
    assert all(torch.equal(augment(data)["image"], data["image"]) for _ in range(20))


def test_vs_may_be_named_where_the_network_tells_its_parts_apart():
    parts, factors = ["extra", "intra", "cochlea"], {"vs": [0.5, 0.5]}
    augment = RandStructureIntensityd("image", "label", parts, factors, prob=1.0, edge_voxels=0)
    data = {"image": torch.arange(4.0).reshape(1, 4, 1, 1), "label": torch.tensor([0, 1, 2, 3]).reshape(1, 4, 1, 1)}
    assert augment(data)["image"].flatten().tolist() == [0.0, 0.5, 1.0, 3.0]


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="factors of vs must be positive"):
        transform({"vs": [0.0, 1.0]})
    with pytest.raises(ValueError, match="edge_voxels"):
        transform({"vs": [0.5, 1.0]}, edge_voxels=-1)
