import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoise, RandGaussianNoised, RandScaleIntensityd, ScaleIntensityd

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.chen_augmentation import (
    InUnitRange,
    InUnitRanged,
    RandBlankBands,
    RandBlankBandsd,
    RandStructureContrast,
    RandStructureContrastd,
)

STRUCTURES = ["vs", "cochlea"]
SHAPE = (1, 10, 12, 8)
FIXED = {"contrast": [1, 1], "brightness": [1, 1], "gamma": [1, 1]}


def item(trust=False):
    """Return noise of mean 3, and a VS of 4 x 3 x 2 voxels at (2, 4, 3) with a cochlea at (9, 0, 7)."""
    image = torch.from_numpy(np.random.default_rng(0).normal(3, 1, SHAPE).astype(np.float32))
    label = torch.zeros(SHAPE, dtype=torch.uint8)
    label[0, 2:6, 4:7, 3:5] = 1
    label[0, 9, 0, 7] = 2
    if trust:
        label = torch.cat([label, torch.full_like(label, 255)])
    return {"image": MetaTensor(image, affine=np.diag([0.5, 0.7, 1.5, 1.0])), "label": label}


def contrast(structure="vs", structures=STRUCTURES, **settings):
    return RandStructureContrastd("image", "label", structures, structure, **(FIXED | settings)).set_random_state(0)


def test_bands_at_both_ends_of_y_are_dark_background_and_the_rest_stays():
    blank = RandBlankBandsd("image", "label", prob=1.0).set_random_state(3)
    data, seen = item(trust=True), set()
    data["label"][0, :, 0] = 1
    for _ in range(60):
        result = blank(data)
        dark = (result["image"] == data["image"].min()).all(dim=3).all(dim=1)[0]  # over x and z
        rows = int(dark[:6].sum())
        seen.add(rows)
        expected = [y < rows or y >= 12 - rows for y in range(12)]
        assert dark.tolist() == expected
        kept = ~torch.tensor(expected)
        assert torch.equal(result["image"][:, :, kept], data["image"][:, :, kept])
        assert torch.equal(result["label"][:, :, kept], data["label"][:, :, kept])
        assert result["label"][0][:, ~kept].sum() == 0
        assert (result["label"][1] == 255).all()
    assert seen == {0, 1, 2, 3, 4}  # up to a third of 12


def test_bands_lie_on_the_chosen_axis_and_leave_the_input_alone():
    data = item()
    before = data["image"].clone(), data["label"].clone()
    blank = RandBlankBandsd("image", "label", axis=0, largest_share=0.5, prob=1.0).set_random_state(1)
    result = [blank(data) for _ in range(10)]
    assert any((r["image"][0, 0] == data["image"].min()).all() for r in result)
    assert torch.equal(data["image"], before[0])
    assert torch.equal(data["label"], before[1])
    assert torch.equal(result[0]["image"].affine, data["image"].affine)


def test_nothing_outside_the_box_changes_and_all_within_does():
    data = item()
    result = contrast(brightness=[2, 2], margin=(2, 1, 0))(data)["image"]
    box = torch.zeros(SHAPE, dtype=torch.bool)
    box[0, 0:8, 3:8, 3:5] = True  # the VS grown by 2, 1 and 0 voxels
    assert torch.equal(result[~box], data["image"][~box])
    np.testing.assert_allclose(result[box].numpy(), 2 * data["image"][box].numpy(), rtol=1e-6)


def test_a_box_ends_where_the_image_ends():
    result = contrast("cochlea", brightness=[2, 2], margin=(3, 2, 1))(item())["image"]
    assert int((result != item()["image"]).sum()) == 4 * 3 * 2


def test_contrast_is_about_the_box_s_mean():
    data = item()
    box = (slice(None), slice(2, 6), slice(4, 7), slice(3, 5))
    before, after = data["image"][box], contrast(contrast=[0.5, 0.5], margin=(0, 0, 0))(data)["image"][box]
    np.testing.assert_allclose(after.numpy(), (before.mean() + (before - before.mean()) / 2).numpy(), rtol=1e-5)


def test_gamma_keeps_mean_spread_and_order():
    data = item()
    box = (slice(None), slice(2, 6), slice(4, 7), slice(3, 5))
    before, after = data["image"][box], contrast(gamma=[2, 2], margin=(0, 0, 0))(data)["image"][box]
    assert after.mean().item() == pytest.approx(before.mean().item(), rel=1e-5)
    assert after.std().item() == pytest.approx(before.std().item(), rel=1e-5)
    assert torch.equal(after.flatten().argsort(), before.flatten().argsort())
    unit = ((before - before.min()) / (before.max() - before.min())) ** 2  # by hand, before the mean is restored
    expected = (unit - unit.mean()) / unit.std() * before.std() + before.mean()
    np.testing.assert_allclose(after.numpy(), expected.numpy(), rtol=1e-4)


def test_a_box_of_one_voxel_stays_finite():
    result = contrast("cochlea", brightness=[2, 2], gamma=[2, 2], margin=(0, 0, 0))(item())["image"]
    assert result[0, 9, 0, 7].item() == pytest.approx(2 * item()["image"][0, 9, 0, 7].item())


def test_a_tumour_in_parts_has_one_box_and_an_absent_or_unsought_structure_none():
    data = item()
    whole = contrast(brightness=[2, 2])(data)["image"]
    data["label"][0, 9, 0, 7] = 3
    data["label"][0, 4:6] *= 2
    parts = contrast(structures=["extra", "intra", "cochlea"], brightness=[2, 2])(data)["image"]
    assert torch.equal(whole, parts)
    empty = data | {"label": torch.zeros_like(data["label"])}
    assert torch.equal(contrast(brightness=[2, 2])(empty)["image"], data["image"])
    assert torch.equal(contrast(structures=["cochlea"], brightness=[2, 2])(data)["image"], data["image"])


def test_the_same_seed_draws_the_same_factors_within_their_ranges():
    ranges = {"contrast": [0.5, 1.5], "brightness": [0.3, 2.0], "gamma": [0.5, 2.0]}
    first, second = contrast(**ranges), contrast(**ranges)
    for _ in range(5):
        assert torch.equal(first(item())["image"], second(item())["image"])
    brightness = [contrast(brightness=[0.3, 2.0]).set_random_state(seed)(item())["image"] for seed in range(40)]
    factors = [(image[0, 3, 5, 3] / item()["image"][0, 3, 5, 3]).item() for image in brightness]
    assert 0.3 <= min(factors) < 0.6
    assert 1.7 < max(factors) <= 2.0


def test_transforms_see_the_image_between_minus_one_and_one_and_it_comes_back_in_its_own_units():
    seen = {}

    def look(data):
        seen.update(low=data["image"].min().item(), high=data["image"].max().item())
        return data

    data = item()
    result = InUnitRanged("image", [look], upper_percentile=100)(data)["image"]
    assert (seen["low"], seen["high"]) == pytest.approx((-1, 1))
    np.testing.assert_allclose(result.numpy(), data["image"].numpy(), rtol=1e-4, atol=1e-5)
    assert torch.equal(result.affine, data["image"].affine)


def test_stated_numbers_apply_in_the_unit_range():
    # 0..10 becomes -1..1; doubling and clipping gives -1, -1, 0, 1, 1 for 0, 2.5, 5, 7.5, 10; back: 0, 0, 5, 10, 10.
    data = {"image": torch.tensor([0, 2.5, 5, 7.5, 10]).reshape(1, 5, 1, 1)}
    double = ScaleIntensityd("image", minv=None, maxv=None, factor=1.0)
    result = InUnitRanged("image", [double], upper_percentile=100)(data)["image"]
    assert result.flatten().tolist() == pytest.approx([0, 0, 5, 10, 10], abs=1e-5)


def test_what_is_brighter_than_the_percentile_is_clipped():
    data = {"image": torch.arange(1001.0).reshape(1, 1001, 1, 1)}
    result = InUnitRanged("image", [])(data)["image"].flatten()
    assert result[:1000].tolist() == pytest.approx(list(range(1000)), abs=1e-3)
    assert result[1000].item() == pytest.approx(999, abs=1e-3)  # the 99.9th percentile


def test_a_constant_image_stays_finite():
    data = {"image": torch.full((1, 4, 4, 4), 7.0)}
    assert InUnitRanged("image", [])(data)["image"].unique().tolist() == pytest.approx([7.0], abs=1e-4)


def test_transforms_within_follow_the_seed_even_through_a_compose():
    def pipeline():
        noise = RandGaussianNoised("image", prob=1.0, std=0.1)
        return Compose([InUnitRanged("image", [noise, RandScaleIntensityd("image", 0.5, 1.0)])]).flatten()

    first, second = pipeline().set_random_state(5), pipeline().set_random_state(5)
    one, two = first(item())["image"], first(item())["image"]
    assert torch.equal(one, second(item())["image"])
    assert torch.equal(two, second(item())["image"])
    assert not torch.equal(one, two)
    assert not torch.equal(one, pipeline().set_random_state(6)(item())["image"])


def test_impossible_settings_are_refused():
    with pytest.raises(CrossmodaError, match="structure: unknown tumor"):
        contrast("tumor")
    with pytest.raises(ValueError, match="gamma must be two ascending"):
        contrast(gamma=[0, 1])
    with pytest.raises(ValueError, match="margin"):
        contrast(margin=(1, 1))
    with pytest.raises(ValueError, match="axis"):
        RandBlankBandsd("image", "label", axis=3)
    with pytest.raises(ValueError, match="largest_share"):
        RandBlankBandsd("image", "label", largest_share=0.6)
    with pytest.raises(CrossmodaError, match="upper_percentile"):
        InUnitRanged("image", [], upper_percentile=101)


# --- Array transforms and their twins: what a seed draws is fixed, so that trainings can be repeated ---


def test_bands_of_a_seed_are_those_of_numpy_s_generator():
    data = item(trust=True)
    array, twin = RandBlankBands(prob=0.5), RandBlankBandsd(["image", "second"], "label", prob=0.5)
    array.set_random_state(7)
    twin.set_random_state(7)
    draws = np.random.RandomState(7)
    for _ in range(12):
        chosen, rows = draws.rand() < 0.5, draws.randint(0, 12 // 3 + 1)  # in this order, chosen or not
        image, label = data["image"].numpy().copy(), data["label"].numpy().copy()
        if chosen and rows:
            for band in (np.s_[:, :, :rows], np.s_[:, :, -rows:]):
                image[band] = data["image"].min()
                label[:1][band] = 0
        result = twin(data | {"second": data["image"] + 1})
        for found in (array(data["image"], data["label"]), (result["image"], result["label"])):
            np.testing.assert_array_equal(found[0], image)
            np.testing.assert_array_equal(found[1], label)
        np.testing.assert_array_equal(result["second"] == data["image"].min() + 1, image == data["image"].min().item())


def test_factors_of_a_seed_are_those_of_numpy_s_generator():
    data, settings = item(), {"contrast": [0.5, 1.5], "brightness": [0.3, 2], "gamma": [0.5, 2], "prob": 0.7}
    array = RandStructureContrast(STRUCTURES, "vs", **settings).set_random_state(5)
    twin = contrast(**settings).set_random_state(5)
    draws, box = np.random.RandomState(5), np.s_[:, 0:8, 2:9, 2:6]  # the VS grown by (2, 2, 1)
    for _ in range(12):
        chosen = draws.rand() < 0.7
        by, brighter, power = (draws.uniform(*settings[name]) for name in ("contrast", "brightness", "gamma"))
        expected = data["image"].numpy().astype(np.float64)
        if chosen:
            part = ((expected[box] - expected[box].mean()) * by + expected[box].mean()) * brighter
            curve = ((part - part.min()) / np.ptp(part)) ** power
            expected[box] = (curve - curve.mean()) / curve.std() * part.std() + part.mean()
        np.testing.assert_allclose(array(data["image"], data["label"]), expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(twin(data)["image"], array(data["image"], data["label"], randomize=False))


def test_an_image_in_unit_range_gets_the_noise_of_its_twin():
    data = item()
    array = InUnitRange([RandGaussianNoise(prob=1.0, std=0.1, sample_std=False)], upper_percentile=100)
    twin = InUnitRanged(
        "image", [RandGaussianNoised("image", prob=1.0, std=0.1, sample_std=False)], upper_percentile=100
    )
    low, high = data["image"].min(), data["image"].max()
    for transform in (array, twin):
        transform.set_random_state(2)
    results = array(data["image"]), twin(data)["image"]
    for result in results:
        noise = (result - data["image"]) / (high - low) * 2
        assert 0.09 < noise.std() < 0.11  # 960 voxels of 0.1, hardly any of them clipped at the ends
        assert result.min() >= low - 1e-4
        assert result.max() <= high + 1e-4
