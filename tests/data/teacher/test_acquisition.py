"""What a scanner's slices, in any direction, make of a rendered region."""

from __future__ import annotations

import numpy as np
import pytest

from crossmoda.data.teacher import acquisition
from crossmoda.data.teacher.acquisition import draw_acquisition, draw_thick_slices, resized

SPACING = np.array([0.5, 0.5, 1.5])


def ball(shape: tuple[int, int, int]) -> np.ndarray:
    """Return a smooth ball about the middle of a region, float32."""
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return np.exp(-sum((axis * step / 4) ** 2 for axis, step in zip(axes, SPACING, strict=True))).astype(np.float32)


@pytest.mark.parametrize(("axis", "slices"), [(0, 12), (1, 17), (2, 7)])
def test_thick_slices_move_nothing_and_blur_along_their_own_axis_alone(axis: int, slices: int) -> None:
    image = ball((60, 50, 24))
    shape = tuple(slices if n == axis else size for n, size in enumerate(image.shape))
    seen = resized(resized(image, shape, "area"), image.shape, "trilinear")
    total = seen.sum()
    for along, size in enumerate(image.shape):
        places = np.arange(size)
        profile, before = (i.sum(axis=tuple({0, 1, 2} - {along})) for i in (seen, image))
        middle = (profile * places).sum() / total
        assert middle == pytest.approx((size - 1) / 2, abs=0.01)
        wider = [(row * (places - middle) ** 2).sum() / row.sum() for row in (profile, before)]
        if (
            along == axis
        ):  # a box as wide as a slice and a triangle as wide as two widen a variance by a twelfth and a sixth
            step = size / slices
            assert wider[0] - wider[1] == pytest.approx(step**2 * (1 / 12 + 1 / 6), rel=0.35)
        else:
            assert wider[0] == pytest.approx(wider[1], rel=0.02)


def test_slices_are_as_thick_as_drawn_and_lie_along_every_axis() -> None:
    rng = np.random.default_rng(0)
    shape = (120, 100, 40)
    found = [draw_thick_slices(shape, SPACING, rng) for _ in range(300)]
    thick: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for drawn in found:
        changed = [axis for axis in range(3) if drawn[axis] != shape[axis]]
        assert len(changed) <= 1
        for axis in changed:
            thick[axis].append(shape[axis] * SPACING[axis] / drawn[axis])
    shares = [len(values) / len(found) for values in thick.values()]
    assert shares == pytest.approx(acquisition.THICK_ALONG, abs=0.1)
    for values in thick.values():
        assert 1.9 < min(values) < 2.3
        assert 5.4 < max(values) < 6.7


def test_a_region_thinner_than_two_slices_or_of_thick_voxels_is_left_as_it_is() -> None:
    rng = np.random.default_rng(1)
    assert {draw_thick_slices((8, 8, 8), np.full(3, 0.3), rng) for _ in range(50)} == {(8, 8, 8)}
    assert {draw_thick_slices((9, 9, 9), np.full(3, 7.0), rng) for _ in range(50)} == {(9, 9, 9)}


def test_the_share_decides_how_many_scans_have_thick_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(acquisition, "draw_thick_slices", lambda shape, *rest: seen.append(shape) or shape)
    image = np.ones((6, 6, 6), np.float32)
    for number in range(200):
        made = draw_acquisition(image.copy(), SPACING, 1.0, np.random.default_rng(number), thick_share=0.25)
        assert made.shape == image.shape
    assert 30 <= len(seen) <= 70
    seen.clear()
    draw_acquisition(image.copy(), SPACING, 1.0, np.random.default_rng(0))
    assert not seen
