"""Random tone curves: what they do to the tones of an image, derived by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.tone import RandToneCurved


def ramp() -> torch.Tensor:
    """Return an image (1, 11, 4, 4) of the tones 0, 1, ... 10, each alike often."""
    return torch.arange(11.0)[None, :, None, None].repeat(1, 1, 4, 4)


def with_curve(transform: RandToneCurved, places: list[float], heights: list[float]) -> RandToneCurved:
    """Fix what the transform would draw."""

    def fixed(data: object = None) -> None:
        transform._do_transform = True
        transform._places, transform._heights = np.array(places), np.array(heights)

    transform.randomize = fixed  # type: ignore[method-assign]
    return transform


def test_tones_follow_the_curve_with_mean_and_spread_of_before() -> None:
    # The tones run from 0 to 10 (99.5 % of what is shown lies below). Up to 5 the curve rises to 1, then falls to 0.5.
    transform = with_curve(RandToneCurved("image"), [0, 0.5, 1], [0, 1, 0.5])
    image = ramp()
    found = transform({"image": image, "case": "a"})
    tones = found["image"][0, :, 0, 0].numpy()
    curve = np.where(np.arange(11) <= 5, np.arange(11) / 5, 1 - 0.5 * (np.arange(11) - 5) / 5)
    by_hand = (curve - curve.mean()) / curve.std() * np.arange(11).std() + 5
    np.testing.assert_allclose(tones, by_hand, rtol=1e-5)
    assert found["case"] == "a"
    assert found["image"].dtype == image.dtype
    torch.testing.assert_close(image, ramp())  # what was given is not changed


def test_padding_takes_no_part_of_the_curve() -> None:
    transform = with_curve(RandToneCurved("image"), [0, 0.5, 1], [0, 1, 0.5])
    image = ramp()
    padded = torch.cat([image, torch.zeros(1, 40, 4, 4)], dim=1)
    inside = transform({"image": padded})["image"][0, :11, 0, 0].numpy()
    alone = transform({"image": image})["image"][0, :, 0, 0].numpy()
    # The same curve: one image's tones are the other's, scaled and shifted by what all voxels' mean and spread ask for.
    factor = (inside[5] - inside[0]) / (alone[5] - alone[0])
    np.testing.assert_allclose(inside - inside[0], factor * (alone - alone[0]), rtol=1e-4, atol=1e-5)


def test_a_few_voxels_of_great_brightness_take_no_part_of_the_curve() -> None:
    transform = with_curve(RandToneCurved("image"), [0, 0.5, 1], [0, 1, 0.5])
    image = ramp().repeat(1, 2, 2, 2)  # 1,408 voxels
    image[0, 21, 0, 0] = 1000.0
    changed = transform({"image": image})["image"][0]
    plain = transform({"image": ramp()})["image"][0, :, 0, 0]
    assert changed[5, 1, 1] == changed.max()  # the curve's top is where it was
    torch.testing.assert_close(changed[21, 0, 0], changed[21, 1, 1])  # as bright as the brightest of the others
    assert plain.argmax() == 5


def test_draws_are_those_of_the_seed_and_may_turn_the_order_of_tones_round() -> None:
    transform = RandToneCurved("image", prob=1.0).set_random_state(3)
    again = RandToneCurved("image", prob=1.0).set_random_state(3)
    turned = 0
    for _ in range(40):
        first, second = transform({"image": ramp()})["image"], again({"image": ramp()})["image"]
        torch.testing.assert_close(first, second)
        np.testing.assert_allclose(float(first.mean()), 5, rtol=1e-4)
        np.testing.assert_allclose(float(first.std(correction=0)), np.arange(11).std(), rtol=1e-4)
        turned += bool((first[0, 1:, 0, 0] < first[0, :-1, 0, 0]).any())
    assert turned > 20


def test_the_darkest_stays_the_darkest_as_often_as_asked() -> None:
    always = RandToneCurved("image", prob=1.0, dark_share=1.0).set_random_state(0)
    seldom = RandToneCurved("image", prob=1.0, dark_share=0.0).set_random_state(0)

    def share(transform: RandToneCurved) -> float:
        made = [transform({"image": ramp()})["image"][0, :, 0, 0] for _ in range(60)]
        return float(np.mean([bool(tones[0] <= tones.min() + 1e-5) for tones in made]))

    assert share(always) == 1.0
    assert share(seldom) < 0.6


def test_an_image_without_tones_and_one_that_was_not_chosen_stay() -> None:
    flat = torch.full((1, 3, 3, 3), 2.0)
    assert torch.equal(RandToneCurved("image", prob=1.0)({"image": flat})["image"], flat)
    assert torch.equal(RandToneCurved("image", prob=0.0)({"image": ramp()})["image"], ramp())


@pytest.mark.parametrize("points", [[3], [4, 2], [-1, 2]])
def test_points_must_ascend(points: list[int]) -> None:
    with pytest.raises(CrossmodaError, match="points"):
        RandToneCurved("image", points=points)
