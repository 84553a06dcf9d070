"""Distances between sets of features, against other implementations, and on the phantom."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from monai.transforms import GaussianSmooth

from crossmoda.errors import CrossmodaError
from crossmoda.translation.measures import (
    SliceFeatures,
    frechet_distance,
    kernel_distance,
    kernel_distance_with_error,
    volume_features,
)
from crossmoda.translation.measures.distances import standardise


def draw(rows: int, features: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    mix = draw(5, seed=9)
    return draw(40, seed=1) @ mix * 3 + 2, draw(60, seed=2) @ mix


def test_features_are_standardised_by_the_real_ones_alone() -> None:
    real = torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])  # mean 3 and 5, deviation 2 and 0
    torch.testing.assert_close(standardise(torch.tensor([[7.0, 6.0]]), real), torch.tensor([[2.0, 1.0]]))


@pytest.mark.filterwarnings("ignore:The `disp` argument")
def test_frechet_distance_is_monais(sets: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, real = sets
    expected = FIDMetric()(standardise(first, real), standardise(real, real))
    assert frechet_distance(first, real) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_an_offset_and_of_a_wider_spread_by_hand() -> None:
    real = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]])  # uncorrelated, deviation sqrt(4 / 3)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(real + 2, real) == pytest.approx(2 * 2**2 / (4 / 3))
    assert frechet_distance(3 * real, real) == pytest.approx(2 * (3 - 1) ** 2)


def test_frechet_distance_holds_with_fewer_slices_than_features() -> None:
    """Two slices on either side that differ along other features: means agree, nothing of the spreads overlaps."""
    first, real = torch.zeros(2, 6), torch.zeros(2, 6)
    first[:, 0] = torch.tensor([-1.0, 1.0])
    real[:, 3] = torch.tensor([-1.0, 1.0])  # variance 2, 1 when standardised
    assert frechet_distance(first, real) == pytest.approx(2 + 1)


def reference_mmd(x: np.ndarray, y: np.ndarray, a: list[int], b: list[int]) -> float:
    """Return the unbiased estimate by loops over all pairs of rows of different cases."""

    def kernel(u: np.ndarray, v: np.ndarray) -> float:
        return float((u @ v / len(u) + 1) ** 3)

    def within(rows: np.ndarray, cases: list[int]) -> float:
        pairs = [(i, j) for i, j in itertools.permutations(range(len(rows)), 2) if cases[i] != cases[j]]
        return float(np.mean([kernel(rows[i], rows[j]) for i, j in pairs]))

    across = np.mean([kernel(u, v) for u in x for v in y])
    return within(x, a) + within(y, b) - 2 * float(across)


def test_kernel_distance_is_the_mean_over_pairs_of_different_cases(sets: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, real = sets[0][:7], sets[1][:9]
    x, y = standardise(first, real).numpy(), standardise(real, real).numpy()
    a, b = [0, 0, 0, 1, 1, 2, 2], [3, 3, 1, 1, 1, 1, 0, 2, 2]
    alone = reference_mmd(x, y, list(range(7)), list(range(9)))
    assert kernel_distance(first, real) == pytest.approx(alone)
    assert kernel_distance(first, real, a, b) == pytest.approx(reference_mmd(x, y, a, b))


def test_its_standard_error_is_the_jackknifes(
    sets: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossmoda.translation.measures.distances._ROWS", 3)
    first, real = sets[0][:7], sets[1][:9]
    a, b = [0, 0, 0, 1, 1, 2, 2], [3, 3, 1, 1, 1, 1, 0, 2, 2]
    x, y = standardise(first, real).numpy(), standardise(real, real).numpy()

    def without(rows: np.ndarray, cases: list[int], case: int) -> tuple[np.ndarray, list[int]]:
        kept = [index for index, name in enumerate(cases) if name != case]
        return rows[kept], [cases[index] for index in kept]

    forth = [reference_mmd(*(p := without(x, a, case))[:1], y, p[1], b) for case in sorted(set(a))]
    back = [reference_mmd(x, *(p := without(y, b, case))[:1], a, p[1]) for case in sorted(set(b))]
    variance = sum((len(r) - 1) * np.var(r) for r in (forth, back))
    assert kernel_distance_with_error(first, real, a, b)[1] == pytest.approx(math.sqrt(variance))


def test_kernel_distance_of_one_distribution_is_0_on_average_and_its_error_tells_how_far_it_strays() -> None:
    found = np.array([kernel_distance_with_error(draw(30, seed=k), draw(40, seed=1000 + k)) for k in range(200)])
    values, errors = found.T
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    assert 0.7 < errors.mean() / values.std() < 1.6


def test_two_cases_have_a_distance_but_no_error() -> None:
    value, error = kernel_distance_with_error(draw(4), draw(6, seed=1), [0, 0, 1, 1], None)
    assert math.isfinite(value)
    assert math.isnan(error)


def test_unusable_sets_are_refused() -> None:
    with pytest.raises(CrossmodaError, match="two cases or more on either side"):
        kernel_distance(draw(4), draw(6), ["a"] * 4)
    with pytest.raises(CrossmodaError, match="3 cases for 4 rows"):
        kernel_distance(draw(4), draw(6), ["a", "b", "c"])
    for measure in (kernel_distance, frechet_distance):
        with pytest.raises(CrossmodaError, match="two slices or more"):
            measure(draw(1), draw(6))
        with pytest.raises(CrossmodaError, match="give \\(rows, features\\)"):
            measure(draw(4, 3), draw(6, 4))
        with pytest.raises(CrossmodaError, match="not finite"):
            measure(draw(4) / 0, draw(6))


def altered(volumes: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """Return other patients' real hrT2, what is made of it, and ceT1, from what is nearest to hrT2 to the farthest."""
    other = volumes["validation"]
    generator = torch.Generator().manual_seed(0)
    noisy = [(v + 0.3 * torch.randn(v.shape, generator=generator)).clamp(-1, 1) for v in other]
    return {
        "real hrT2": other,
        "mildly blurred": [GaussianSmooth((0.5, 0.5, 0.0))(v) for v in other],
        "darker tissue": [2 * ((v + 1) / 2) ** 1.3 - 1 for v in other],
        "noisy": noisy,
        "ceT1": volumes["source"],
    }


@pytest.mark.parametrize("measure", [kernel_distance, frechet_distance])
def test_what_looks_less_like_hrt2_is_farther_from_it(
    measure: Callable[..., float], phantom_volumes: dict[str, list[torch.Tensor]]
) -> None:
    features = SliceFeatures()

    def describe(volumes: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([volume_features(volume, features) for volume in volumes])

    real = describe(phantom_volumes["target"])
    found = {name: measure(describe(volumes), real) for name, volumes in altered(phantom_volumes).items()}
    for changed in ("darker tissue", "noisy"):
        order = [found[name] for name in ("real hrT2", "mildly blurred", changed, "ceT1")]
        assert order == sorted(order), found
        assert order[0] < 0.7 * order[1] < 0.6 * order[2] < 0.6 * order[3], found
