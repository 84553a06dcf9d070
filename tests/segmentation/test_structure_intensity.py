import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.augmentation import LARGEST_FACTOR, RandStructureIntensity, RandStructureIntensityd

STRUCTURES = ["vs", "cochlea"]


def item():
    """Return a ramp of 0..959, whose 5th percentile is about 48 and whose 99th is about 949, and two structures."""
    image = torch.arange(960.0).reshape(1, 12, 10, 8)
    label = torch.zeros(1, 12, 10, 8)
    label[0, 2:9, 2:9, 1:8] = 1
    label[0, 10, 8:10, 2] = 2
    return {"image": MetaTensor(image, affine=np.diag([0.5, 0.7, 1.5, 1.0])), "label": label}


def transform(levels, prob=1.0, **settings):
    return RandStructureIntensityd("image", "label", STRUCTURES, levels, prob=prob, **settings).set_random_state(0)


def level_of(image, mask):
    dark, bright = np.percentile(image.numpy(), [5, 99])
    return (float(np.median(image.numpy()[mask.numpy()])) - dark) / (bright - dark)


@pytest.mark.parametrize("level", [0.1, 0.4, 0.7])
def test_the_structures_median_comes_to_the_level_between_the_5th_and_99th_percentile(level):
    data = item()
    tumour = data["label"] == 1
    dark, bright = np.percentile(np.arange(960), [5, 99])
    result = transform({"vs": [level, level]}, edge_voxels=0)(data)["image"].numpy()
    assert np.median(result[tumour.numpy()]) == pytest.approx(dark + level * (bright - dark), rel=1e-4)


def test_the_level_does_not_depend_on_how_dark_the_structure_was():
    data = item()
    cochlea = data["label"] == 2
    data["image"][cochlea] *= 0.2  # as translators leave it
    faint, plain = transform({"cochlea": [0.5, 0.5]}, edge_voxels=0)(data)["image"], item()["image"]
    assert level_of(faint, cochlea) == pytest.approx(0.5, abs=0.01)
    assert level_of(plain, cochlea) > 0.8


def test_the_pattern_within_is_kept():
    data = item()
    data["image"] -= 100  # the factor applies above the minimum, wherever that lies
    tumour = data["label"] == 1
    result = transform({"vs": [0.6, 0.6]}, edge_voxels=0)(data)["image"]
    ratio = (result + 100)[tumour] / (data["image"] + 100)[tumour]
    np.testing.assert_allclose(ratio.numpy(), ratio.numpy()[0], rtol=1e-5)


def test_the_edge_is_soft_and_only_inside():
    data = item()
    changed = (transform({"vs": [0.9, 0.9]}, edge_voxels=2.0)(data)["image"] / data["image"]).numpy()[0]
    assert changed[1, 5, 4] == 1.0  # first voxel outside
    assert changed[2, 5, 4] - 1 == pytest.approx((changed[5, 5, 4] - 1) / 2, rel=1e-4)  # first inside: distance 1 of 2
    assert changed[3, 5, 4] == pytest.approx(changed[5, 5, 4])


def test_nothing_is_brightened_beyond_the_largest_factor():
    data = item()
    cochlea = data["label"] == 2
    data["image"][cochlea] = 0.5  # next to nothing, which no factor turns into a pattern
    result = transform({"cochlea": [0.7, 0.7]}, edge_voxels=0)(data)["image"]
    np.testing.assert_allclose(result[cochlea].numpy(), 0.5 * LARGEST_FACTOR)


def test_nothing_outside_the_named_structure_changes():
    data = item()
    changed = (transform({"cochlea": [0.3, 0.3]}, edge_voxels=0)(data)["image"] != data["image"]).numpy()
    np.testing.assert_array_equal(changed, data["label"].numpy() == 2)


def test_input_stays_and_metadata_goes_on():
    data = item()
    before = data["image"].clone()
    result = transform({"vs": [0.1, 0.2]})(data)
    assert torch.equal(data["image"], before)
    assert not torch.equal(result["image"], before)
    assert torch.equal(result["image"].affine, data["image"].affine)
    assert torch.equal(result["label"], data["label"])


def test_same_seed_same_result():
    levels = {"vs": [0.2, 0.9], "cochlea": [0.1, 0.8]}
    assert torch.equal(transform(levels)(item())["image"], transform(levels)(item())["image"])


def test_an_image_without_the_structure_is_left_alone():
    data = item() | {"label": torch.zeros(1, 12, 10, 8)}
    assert torch.equal(transform({"vs": [0.5, 0.5]})(data)["image"], data["image"])


def test_a_structure_that_fills_the_image_is_scaled():
    data = {"image": torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1), "label": torch.ones(1, 2, 1, 1)}
    # The percentiles are 0.05 and 0.99, the median 0.5; a level of 0.5 lies at 0.52.
    assert transform({"vs": [0.5, 0.5]})(data)["image"].flatten().tolist() == pytest.approx([0.0, 1.04])


def test_channels_are_judged_each_by_itself():
    data = item()
    data["image"] = torch.cat([data["image"], 3 * data["image"]])
    result = transform({"vs": [0.5, 0.5]}, edge_voxels=0)(data)["image"]
    np.testing.assert_allclose(result[1].numpy(), 3 * result[0].numpy(), rtol=1e-5)


def test_probability_zero_never_changes_anything():
    data = item()
    augment = transform({"vs": [0.5, 0.5]}, prob=0.0)
    assert all(torch.equal(augment(data)["image"], data["image"]) for _ in range(20))


def test_real_scans_are_left_alone_where_only_translated_ones_are_meant():
    levels = {"vs": [0.5, 0.5]}
    augment = transform(levels, translated_only=True)
    for real in (item(), item() | {"view": ""}):
        assert torch.equal(augment(real)["image"], item()["image"])
        assert not torch.equal(transform(levels)(real)["image"], item()["image"])
    assert not torch.equal(augment(item() | {"view": "cyclegan"})["image"], item()["image"])


def test_vs_may_be_named_where_the_network_tells_its_parts_apart():
    parts, levels = ["extra", "intra", "cochlea"], {"vs": [1.0, 1.0]}
    augment = RandStructureIntensityd("image", "label", parts, levels, prob=1.0, edge_voxels=0)
    data = {"image": torch.arange(4.0).reshape(1, 4, 1, 1), "label": torch.tensor([0, 1, 2, 3]).reshape(1, 4, 1, 1)}
    # The 99th percentile is 2.97, the median of both parts 1.5: both are multiplied by 1.98, and nothing else.
    assert augment(data)["image"].flatten().tolist() == pytest.approx([0.0, 1.98, 3.96, 3.0])


def test_impossible_settings_are_refused():
    with pytest.raises(CrossmodaError, match="'intra' is not in the labels"):
        transform({"intra": [0.1, 0.2]})
    with pytest.raises(ValueError, match="levels of vs must ascend"):
        transform({"vs": [0.0, 1.1]})
    with pytest.raises(ValueError, match="edge_voxels"):
        transform({"vs": [0.5, 1.0]}, edge_voxels=-1)


def test_what_a_seed_draws_is_what_numpy_s_generator_draws_in_array_and_twin():
    levels, structures = {"vs": (0.2, 0.9), "cochlea": (0.15, 0.75)}, {"vs": 1, "cochlea": 2}
    array = RandStructureIntensity(STRUCTURES, levels, prob=0.6, edge_voxels=0).set_random_state(4)
    twin = transform(levels, prob=0.6, edge_voxels=0, translated_only=True).set_random_state(4)
    draws = np.random.RandomState(4)
    for view in ("cut", "", "cut", "cut", "", "cut"):
        data = item() | {"view": view}
        expected = data["image"].numpy().astype(np.float64)
        for name, number in structures.items():  # a level is drawn for each, chosen or not
            chosen, level = draws.random_sample() < 0.6, draws.uniform(*levels[name])
            if chosen:
                mask = data["label"].numpy() == number
                dark, bright = np.percentile(expected, [5, 99])
                wanted = dark + level * (bright - dark) - expected.min()
                factor = np.clip(wanted / (np.median(expected[mask]) - expected.min()), 0.1, 10)
                expected[mask] = expected.min() + (expected[mask] - expected.min()) * factor
        found = array(data["image"], data["label"])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)
        assert torch.equal(twin(data)["image"], found if view else data["image"])


class Elsewhere(torch.Tensor):
    """A tensor that, like a GPU's, NumPy can read after it has been brought to the CPU alone."""

    def __array__(self, *_args):
        raise TypeError("can't convert a tensor that is elsewhere to numpy")

    numpy = __array__

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def to(self, *args, **kwargs):
        moved = self.as_subclass(torch.Tensor).to(*args, **kwargs)
        return moved if "device" in kwargs else moved.as_subclass(Elsewhere)


def test_a_label_map_and_an_image_on_a_gpu_are_read():
    here = {key: torch.as_tensor(value).as_subclass(torch.Tensor) for key, value in item().items()}
    there = {key: value.as_subclass(Elsewhere) for key, value in here.items()}
    changed = [transform({"vs": [0.6, 0.6]})(data)["image"].as_subclass(torch.Tensor) for data in (here, there)]
    assert torch.equal(*changed)
    assert not torch.equal(changed[0], here["image"])
