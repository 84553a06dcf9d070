import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from crossmoda.data.phantom.canvas import Canvas
from crossmoda.data.phantom.frame import Frame, Push, Wave
from crossmoda.data.phantom.shapes import (
    capsule,
    coverage,
    ellipsoid,
    half_space,
    smooth_intersection,
    smooth_union,
    spiral,
    tube,
)
from crossmoda.data.phantom.texture import noise
from crossmoda.data.phantom.vessels import make_tubes

STILL = Frame((0, 0, 0), (0, 0, 0), (1, 1, 1))


def point(x, y, z):
    return tuple(np.array([[[v]]], float) for v in (x, y, z))


def grid(spacing, turn=(0, 0, 0), flip=(1, 1, 1), half_mm=9.0):
    """An affine about the origin and the shape that covers +-half_mm."""
    shape = [int(2 * half_mm / s) + 1 for s in spacing]
    linear = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag(np.multiply(spacing, flip))
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.array(shape) - 1) / 2)
    return shape, affine


def test_distance_to_a_sphere_is_exact():
    assert ellipsoid(point(3, 4, 0), (0, 0, 0), (2, 2, 2)).item() == pytest.approx(3)


def test_distance_to_an_ellipsoid_is_zero_on_its_surface_and_negative_inside():
    assert ellipsoid(point(4, 0, 0), (1, 0, 0), (3, 2, 1)).item() == pytest.approx(0)
    assert ellipsoid(point(1, 0, 0.5), (1, 0, 0), (3, 2, 1)).item() < 0


def test_distance_to_a_capsule_by_hand():
    assert capsule(point(5, 3, 0), (0, 0, 0), (10, 0, 0), 1).item() == pytest.approx(2)
    assert capsule(point(13, 4, 0), (0, 0, 0), (10, 0, 0), 1).item() == pytest.approx(4)
    assert capsule(point(10, 4, 0), (0, 0, 0), (10, 0, 0), 1, 2).item() == pytest.approx(2)


def test_distance_to_a_plane_by_hand():
    assert half_space(point(1, 1, 0), (0, 0, 0), (3, 4, 0)).item() == pytest.approx(1.4)


def test_tube_agrees_with_the_capsule_it_approximates():
    line = np.stack([np.linspace(0, 10, 400), np.zeros(400), np.zeros(400)], axis=1)
    p = point(5, 2, 1)
    assert tube(p, line, np.ones(400)).item() == pytest.approx(capsule(p, (0, 0, 0), (10, 0, 0), 1).item(), abs=1e-3)


def test_smooth_union_adds_a_fillet_only_where_shapes_meet():
    far, near = np.array([1.0, -0.5]), np.array([9.0, -0.5])
    joined = smooth_union(far, near, 2.0)
    assert joined[0] == 1.0
    assert joined[1] == pytest.approx(-1.0)  # min - k/4 where both are equal
    assert smooth_intersection(far, near, 2.0)[1] == pytest.approx(0.0)


def test_spiral_winds_as_often_as_asked_and_tapers():
    path = spiral(2.5, 3.0, 1.0, 4.0)
    angle = np.unwrap(np.arctan2(path[:, 1], path[:, 0]))
    assert angle[-1] / (2 * np.pi) == pytest.approx(2.5)
    assert np.hypot(*path[0, :2]) == pytest.approx(3.0)
    assert np.hypot(*path[-1, :2]) == pytest.approx(1.0)


def test_coverage_of_a_plane_through_a_voxel_centre_is_one_half():
    distance = np.broadcast_to(np.arange(-2.0, 3.0)[:, None, None], (5, 3, 2))
    assert coverage(distance)[:, 0, 0].tolist() == [1, 1, 0.5, 0, 0]


def test_coverage_does_not_depend_on_the_unit_of_distance():
    distance = np.random.default_rng(0).normal(size=(4, 5, 6)).cumsum(axis=0)
    np.testing.assert_allclose(coverage(distance), coverage(1000 * distance), atol=1e-5)


def test_coverage_of_a_single_slice_works():
    assert coverage(np.array([[[-1.0], [1.0]]])).ravel() == pytest.approx([1.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("spacing", "turn", "flip"),
    [
        ((0.5, 0.5, 0.5), (0, 0, 0), (1, 1, 1)),
        ((0.41, 0.41, 1.5), (0, 0, 0), (-1, -1, 1)),
        ((0.8, 0.6, 1.5), (20, -10, 35), (1, 1, 1)),
        ((1.0, 0.4, 2.5), (0, 45, 0), (1, -1, 1)),
    ],
)
def test_a_sphere_keeps_its_volume_at_any_spacing_and_orientation(spacing, turn, flip):
    shape, affine = grid(spacing, turn, flip)
    canvas = Canvas(shape, affine, STILL)
    cover = canvas.cover(lambda p: ellipsoid(p, (0.3, -0.2, 0.4), (5, 5, 5)), ((-5, -5, -5), (6, 6, 6)))
    volume = canvas.whole(cover).sum() * abs(np.linalg.det(affine[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * 125, rel=0.03)


def test_fine_sampling_keeps_the_volume_of_what_is_thinner_than_a_slice():
    shape, affine = grid((0.8, 0.8, 2.5))
    canvas = Canvas(shape, affine, STILL)
    rod = lambda p: capsule(p, (-5, 0, 0.6), (5, 0, 0.6), 0.9)  # noqa: E731
    fine = canvas.whole(canvas.cover(rod, ((-6, -1, -0.4), (6, 1, 1.6)), fine_mm=0.25))
    expected = np.pi * 0.81 * 10 + 4 / 3 * np.pi * 0.9**3
    assert fine.sum() * 0.8 * 0.8 * 2.5 == pytest.approx(expected, rel=0.03)


def test_tubes_drawn_piece_by_piece_equal_the_tube_drawn_at_once():
    shape, affine = grid((0.7, 0.8, 0.9))
    canvas = Canvas(shape, affine, STILL)
    tubes = make_tubes([([(-7, -3, -5), (0, 2, 0), (7, -2, 5)], 1.5, 1.0)])
    whole = canvas.whole(canvas.cover(tubes, tubes.box))
    np.testing.assert_allclose(canvas.whole(canvas.cover_tubes(tubes)), whole, atol=0.05)


def test_painting_over_keeps_the_sum_of_fractions():
    shape, affine = grid((1, 1.5, 2))
    canvas = Canvas(shape, affine, STILL)
    canvas.draw("csf", lambda p: ellipsoid(p, (0, 0, 0), (7, 6, 5)))
    canvas.paint("grey", canvas.cover(lambda p: ellipsoid(p, (2, 0, 0), (4, 4, 4))), 0.5)
    np.testing.assert_allclose(sum(canvas.fractions.values()), 1, atol=1e-6)
    assert canvas.fractions["grey"].max() == pytest.approx(0.5)


def test_what_lies_outside_the_grid_is_not_covered():
    shape, affine = grid((1, 1, 1))
    canvas = Canvas(shape, affine, STILL)
    assert canvas.cover(lambda p: p[0], ((50, 50, 50), (60, 60, 60))) is None
    assert not canvas.whole(None).any()


def test_frame_maps_back_and_forth():
    waves = (Wave((1.0, -0.5, 0.8), (0.06, 0.02, -0.03), 0.4),)
    frame = Frame((5, -3, 8), (4, -7, 2), (0.95, 1.04, 1.0), waves)
    points = np.array([[30.0, -20, 0], [5, 8, -40], [10, 0, 3]])
    scanner = frame.to_scanner(points)
    back = frame.bone(tuple(row.astype(np.float32) for row in scanner))
    np.testing.assert_allclose(np.stack(back), points, atol=0.1)


def test_a_push_makes_room_for_its_ball_and_keeps_the_volume_around_it():
    frame = Frame((0, 0, 0), (0, 0, 0), (1, 1, 1), push=Push((1.0, 0.0, 0.0), 3.0))
    moved = frame.soft(point(1 + (8 + 27) ** (1 / 3), 0, 0))
    # 2 mm away before the push: (2^3 + 3^3)^(1/3) mm away after it
    assert moved[0].item() == pytest.approx(3.0, abs=1e-3)
    assert frame.soft(point(2.0, 0, 0))[0].item() == pytest.approx(1.0)


def test_noise_is_the_same_at_a_point_whatever_grid_asks():
    x, y, z = np.meshgrid(np.arange(4.0), np.arange(5.0), np.arange(6.0), indexing="ij")
    whole = noise((x, y, z), 7, seed=3)
    np.testing.assert_allclose(noise((x[1:3], y[1:3], z[1:3]), 7, seed=3), whole[1:3], atol=1e-5)
    assert not np.allclose(noise((x, y, z), 7, seed=4), whole)


def test_noise_has_about_unit_variance():
    x, y, z = np.meshgrid(*[np.linspace(0, 120, 30)] * 3, indexing="ij")
    assert 0.6 < noise((x, y, z), 6, seed=0).std() < 1.2
