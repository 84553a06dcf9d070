"""The mean field against all pairs of voxels, written out, and against what a person would draw."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.crf import DenseCRF, DenseCRFd

SHAPE = (6, 5, 4)
WHOLE = {"least_probability": 0.0, "percentiles": (0, 100)}


def random_case(shape=SHAPE, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(classes, *shape, generator=generator).mul(3).softmax(dim=0)
    return probabilities, torch.rand(1, *shape, generator=generator) * 40 - 7


def all_pairs(
    probabilities,
    image,
    iterations=2,
    smoothness_weight=2.0,
    smoothness_std=(5, 5, 5),
    bilateral_weight=3.0,
    bilateral_std=(5, 5, 5),
    intensity_std=5.0,
    softening=0.2,
    truncation=1.0,
):
    """Mean field by matrices of all pairs of voxels (n, n) in double precision, cut off by the same window."""
    classes, shape = len(probabilities), probabilities.shape[1:]
    places = np.argwhere(np.ones(shape))
    offsets = places[:, None] - places[None]  # (n, n, 3)
    scaled = np.asarray(image[0], np.float64).ravel()
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min()) * 255

    def kernel(std):
        std = np.asarray(std, float)
        weights = np.exp(-0.5 * ((offsets / std) ** 2).sum(axis=2))
        weights[(np.abs(offsets) > truncation * std + 1e-6).any(axis=2)] = 0
        np.fill_diagonal(weights, 0)
        return weights

    def normalised(weights):
        return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)

    smoothness = normalised(kernel(smoothness_std))
    signal = np.exp(-0.5 * ((scaled[:, None] - scaled[None]) / intensity_std) ** 2)
    bilateral = normalised(kernel(bilateral_std) * signal)
    start = (1 - softening) * np.asarray(probabilities, np.float64).reshape(classes, -1).T + softening / classes
    marginals = start
    for _ in range(iterations):
        message = smoothness_weight * smoothness @ marginals + bilateral_weight * bilateral @ marginals
        marginals = start * np.exp(message)
        marginals /= marginals.sum(axis=1, keepdims=True)
    return torch.from_numpy(marginals.T.reshape(classes, *shape)).float()


SETTINGS = [
    {},
    {"iterations": 1, "softening": 0.0, "intensity_std": 60.0},
    {"iterations": 5, "smoothness_std": (1.0, 2.0, 3.0), "bilateral_std": (3.0, 1.0, 2.0), "intensity_std": 30.0},
    {"truncation": 2.0, "smoothness_std": (1.4, 0.9, 0.4), "bilateral_std": (0.6, 1.1, 1.0), "intensity_std": 90.0},
    {"smoothness_weight": 0.0, "bilateral_weight": 7.0, "intensity_std": 200.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_equals_the_sum_over_all_pairs_of_the_window(settings):
    probabilities, image = random_case()
    found = DenseCRF(**settings, **WHOLE)(probabilities, image)
    torch.testing.assert_close(found, all_pairs(probabilities, image, **settings), atol=2e-5, rtol=0)
    assert (found - probabilities).abs().max() > 0.05


@pytest.mark.parametrize("classes", [2, 4])
def test_any_number_of_classes_is_normalised(classes):
    probabilities, image = random_case(classes=classes)
    found = DenseCRF(**WHOLE)(probabilities, image)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(SHAPE))
    assert found.min() >= 0
    torch.testing.assert_close(found, all_pairs(probabilities, image), atol=2e-5, rtol=0)


ANISOTROPIC = {"smoothness_std": (1.0, 2.0, 3.0), "bilateral_std": (3.0, 1.0, 2.0), "intensity_std": 30.0, **WHOLE}


@pytest.mark.parametrize("axes", [[1], [2, 3], [1, 2, 3]])
def test_a_mirrored_image_gives_the_mirrored_result(axes):
    probabilities, image = random_case()
    expected = DenseCRF(**ANISOTROPIC)(probabilities, image).flip(axes)
    found = DenseCRF(**ANISOTROPIC)(probabilities.flip(axes), image.flip(axes))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_turned_axes_with_turned_deviations_give_the_turned_result(axes):
    probabilities, image = random_case()
    turned = {
        **ANISOTROPIC,
        **{key: [ANISOTROPIC[key][a] for a in axes] for key in ("smoothness_std", "bilateral_std")},
    }
    order = (0, *(axis + 1 for axis in axes))
    expected = DenseCRF(**ANISOTROPIC)(probabilities, image).permute(order)
    found = DenseCRF(**turned)(probabilities.permute(order), image.permute(order))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_on_a_uniform_image_the_bilateral_kernel_smooths_as_the_other_does():
    probabilities, image = random_case()
    flat = torch.full_like(image, 3.0)
    both = DenseCRF(smoothness_weight=2.0, bilateral_weight=3.0, **WHOLE)(probabilities, flat)
    one = DenseCRF(smoothness_weight=5.0, bilateral_weight=0.0, **WHOLE)(probabilities, flat)
    torch.testing.assert_close(both, one, atol=1e-5, rtol=0)


def test_the_image_s_scale_and_offset_do_not_matter():
    probabilities, image = random_case()
    expected = DenseCRF(**WHOLE)(probabilities, image)
    torch.testing.assert_close(DenseCRF(**WHOLE)(probabilities, image * 1000 - 5e4), expected, atol=1e-4, rtol=0)


def test_millimetres_are_voxels_times_their_size():
    probabilities, image = random_case()
    affine = torch.tensor([[0, -0.5, 0, 9], [2.0, 0, 0, 1], [0, 0, 1.5, 2], [0, 0, 0, 1]], dtype=torch.float64)
    std_mm = {"smoothness_std": (4.0, 1.0, 3.0), "bilateral_std": (2.0, 1.5, 3.0)}  # voxels of 2, 0.5 and 1.5 mm
    std = {"smoothness_std": (2, 2, 2), "bilateral_std": (1, 3, 2)}
    item = {"pred": MetaTensor(probabilities, affine=affine), "image": MetaTensor(image, affine=affine)}
    found = DenseCRFd("pred", unit="mm", **std_mm, **WHOLE)(item)["pred"]
    torch.testing.assert_close(
        found.as_tensor(),
        all_pairs(probabilities, image, **{k: np.array(v) for k, v in std.items()}),
        atol=2e-5,
        rtol=0,
    )
    torch.testing.assert_close(found.affine, affine)
    assert torch.equal(item["pred"].as_tensor(), probabilities)


def edge_case():
    """A bright structure of x < 8 in dark surroundings, labelled two voxels too far and with holes and specks."""
    rng = np.random.default_rng(3)
    truth = np.zeros((16, 12, 10), bool)
    truth[:8] = True
    image = torch.from_numpy(np.where(truth, 200.0, 50.0) + rng.normal(0, 3, truth.shape)).float()[None]
    labelled = truth.copy()
    labelled[8:10] = True
    labelled ^= rng.random(truth.shape) < 0.1
    foreground = torch.from_numpy(np.where(labelled, 0.8, 0.2)).float()
    return truth, labelled, torch.stack([1 - foreground, foreground]), image


def test_a_noisy_label_is_drawn_to_the_image_s_edge():
    truth, labelled, probabilities, image = edge_case()
    refined = DenseCRF(bilateral_std=(5, 5, 5), bilateral_weight=10.0, smoothness_weight=0.5)(probabilities, image)
    wrong = np.asarray(refined.argmax(dim=0) == 1) != truth
    assert (labelled != truth).mean() > 0.15
    assert wrong.mean() < 0.005


def test_the_card_s_weights_remove_specks_and_smoothness_alone_leaves_the_edge_wrong():
    truth, labelled, probabilities, image = edge_case()
    with_image = np.asarray(DenseCRF()(probabilities, image).argmax(dim=0) == 1) != truth
    without = np.asarray(DenseCRF(bilateral_weight=0.0)(probabilities, image).argmax(dim=0) == 1) != truth
    assert with_image.mean() < 0.5 * (labelled != truth).mean()
    assert without[8:10].mean() > 0.5


def test_softening_lets_the_field_overrule_a_sure_network():
    probabilities = torch.zeros(2, 9, 9, 9)
    probabilities[0] = 1
    probabilities[:, 4, 4, 4] = torch.tensor([0.0, 1.0])
    image = torch.zeros(1, 9, 9, 9)
    assert DenseCRF()(probabilities, image)[0, 4, 4, 4] > 0.5
    assert DenseCRF(softening=0.0)(probabilities, image)[0, 4, 4, 4] < 0.5


def test_only_the_box_about_the_structures_is_worked_on():
    probabilities = torch.zeros(2, 30, 7, 6)
    probabilities[1] = 0.005
    probabilities[1, 10:12, 3, 3] = 0.7
    probabilities[0] = 1 - probabilities[1]
    image = torch.rand(1, 30, 7, 6, generator=torch.Generator().manual_seed(2))
    settings = {"smoothness_std": (3, 3, 3), "bilateral_std": (5, 3, 3)}
    found = DenseCRF(**settings)(probabilities, image)
    assert torch.equal(found[:, :5], probabilities[:, :5])  # the window reaches 5 voxels from x = 10
    assert torch.equal(found[:, 17:], probabilities[:, 17:])
    whole = DenseCRF(**settings, least_probability=0.0)(probabilities, image)
    torch.testing.assert_close(found[:, 10:12, 3, 3], whole[:, 10:12, 3, 3], atol=0.01, rtol=0)


def test_without_a_structure_the_probabilities_stay():
    probabilities = torch.zeros(3, *SHAPE)
    probabilities[0] = 1
    assert torch.equal(DenseCRF()(probabilities, random_case()[1]), probabilities)


def test_what_lies_outside_a_crop_window_is_background():
    probabilities, image = random_case()
    probabilities[:, 3:] = 0
    found = DenseCRF(**WHOLE)(probabilities, image)
    as_background = probabilities.clone()
    as_background[0, 3:] = 1
    torch.testing.assert_close(found, DenseCRF(**WHOLE)(as_background, image))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"bilateral_weight": -1.0}, "weights must not be below 0"),
        ({"smoothness_std": (5, 5)}, "for x, y and z"),
        ({"bilateral_std": (5, 0, 5)}, "must exceed 0"),
        ({"softening": 1.0}, "softening is 1"),
        ({"unit": "cm"}, "unit is 'cm'"),
        ({"percentiles": (1,)}, "two percentiles"),
        ({"least_probability": 1.0}, "least_probability is 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(CrossmodaError, match=reason):
        DenseCRF(**settings)


def test_inputs_that_do_not_fit_are_refused():
    probabilities, image = random_case()
    with pytest.raises(CrossmodaError, match="have 6 x 5 x 4 and 5 x 5 x 4 voxels"):
        DenseCRF()(probabilities, image[:, 1:])
    moved = torch.eye(4, dtype=torch.float64)
    moved[0, 3] = 0.5
    with pytest.raises(CrossmodaError, match="lie in different places"):
        DenseCRF()(MetaTensor(probabilities), MetaTensor(image, affine=moved))
    with pytest.raises(CrossmodaError, match="are no probabilities"):
        DenseCRF()(probabilities * 5, image)
    with pytest.raises(CrossmodaError, match="are needed"):
        DenseCRF()(probabilities[:1], image)
