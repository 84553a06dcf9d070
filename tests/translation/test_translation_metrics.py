"""Distances of translations to real scans, gathered as an engine gathers them."""

from __future__ import annotations

import math

import pytest
import torch

from crossmoda.translation.measures.distances import frechet_distance, kernel_distance_with_error
from crossmoda.translation.measures.intensities import foreground_quantiles, intensity_distance
from crossmoda.translation.measures.real_scans import RealScans
from crossmoda.translation.metrics import FrechetDistance, IntensityDistance, KernelDistance, distance_metrics


def draw(rows: int, values: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, values, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def real() -> RealScans:
    """Three scans of 4, 5 and 6 slices."""
    cases = [name for name, count in (("a", 4), ("b", 5), ("c", 6)) for _ in range(count)]
    return RealScans(draw(15, 7, 0), cases, draw(3, 101, 1), [10.0, 40.0, 20.0], {"a": 0.1})


def test_quantiles_leave_air_out() -> None:
    volume = torch.cat([torch.full((1000,), -1.0), torch.linspace(-0.5, 0.5, 101)]).view(1, 1, 1, -1)
    torch.testing.assert_close(foreground_quantiles(volume), torch.linspace(-0.5, 0.5, 101))


def test_quantiles_of_air_alone_are_minus_one() -> None:
    assert foreground_quantiles(torch.full((1, 2, 3, 4), -0.95)).tolist() == [-1.0] * 101


def test_an_offset_of_all_intensities_is_the_distance_and_volumes_are_averaged_first() -> None:
    real = torch.linspace(-0.5, 0.5, 101).repeat(2, 1)
    assert intensity_distance(real + 0.125, real) == pytest.approx(0.125, abs=1e-6)
    assert intensity_distance(torch.stack([real[0] + 0.25, real[0] - 0.25]), real) == pytest.approx(0, abs=1e-6)


def test_cases_that_come_one_by_one_give_the_distance_of_all(real: RealScans) -> None:
    parts = [draw(3, 7, 2), draw(4, 7, 3), draw(2, 7, 4)]
    kernel, frechet, intensity = KernelDistance(real), FrechetDistance(real), IntensityDistance(real)
    for part in parts:
        kernel([part], None)
        frechet([part], None)
        intensity([part[:1].repeat(1, 15)[:, :101]], None)
    value, error = kernel_distance_with_error(torch.cat(parts), real.features, [0] * 3 + [1] * 4 + [2] * 2, real.cases)
    assert kernel.aggregate().item() == pytest.approx(value)
    assert kernel.standard_error == pytest.approx(error)
    assert frechet.aggregate().item() == pytest.approx(frechet_distance(torch.cat(parts), real.features))
    rows = torch.cat([part[:1].repeat(1, 15)[:, :101] for part in parts])
    assert intensity.aggregate().item() == pytest.approx(intensity_distance(rows, real.quantiles))


def test_a_case_without_slices_counts_for_nothing_and_one_case_has_no_kernel_distance(real: RealScans) -> None:
    kernel, frechet = KernelDistance(real), FrechetDistance(real)
    kernel([torch.empty(0, 7)], None)
    assert math.isnan(kernel.aggregate().item())
    kernel([draw(4, 7, 2)], None)
    frechet([draw(4, 7, 2)], None)
    assert math.isnan(kernel.aggregate().item())
    assert math.isfinite(frechet.aggregate().item())
    frechet.reset()
    frechet([draw(1, 7, 2)], None)
    assert math.isnan(frechet.aggregate().item())


def test_a_metric_forgets_on_reset(real: RealScans) -> None:
    kernel = KernelDistance(real)
    values = []
    for _ in range(2):
        kernel([draw(3, 7, 2), draw(3, 7, 3)], None)
        values.append(kernel.aggregate().item())
        kernel.reset()
    assert values[0] == values[1]


def test_the_engine_gets_every_distance_of_every_kind_of_image(real: RealScans) -> None:
    assert distance_metrics(None) is None
    metrics = distance_metrics(real)
    assert metrics is not None
    assert next(iter(metrics)) == "kernel_distance"  # the first is MONAI's key metric
    assert {
        f"{name}_distance{kind}" for name in ("kernel", "frechet", "intensity") for kind in ("", "_input", "_truth")
    } == set(metrics)
    metrics["frechet_distance_input"].update(
        metrics["frechet_distance_input"]._output_transform([{"input_features": draw(4, 7, 5)}, {}])
    )
    found = metrics["frechet_distance_input"].metric_fn.aggregate().item()
    assert found == pytest.approx(frechet_distance(draw(4, 7, 5), real.features))


def test_the_height_of_real_scans_is_the_median(real: RealScans) -> None:
    assert real.height_mm == 20
