"""Measures of a translation on volumes whose result is known."""

from __future__ import annotations

import pytest
import torch

from crossmoda.translation.metrics import IntensityDistance, case_files, foreground_quantiles


def test_quantiles_leave_air_out() -> None:
    volume = torch.cat([torch.full((1000,), -1.0), torch.linspace(-0.5, 0.5, 101)]).view(1, 1, 1, -1)
    torch.testing.assert_close(foreground_quantiles(volume), torch.linspace(-0.5, 0.5, 101))


def test_quantiles_of_air_alone_are_minus_one() -> None:
    assert foreground_quantiles(torch.full((1, 2, 3, 4), -0.95)).tolist() == [-1.0] * 101


def test_an_offset_of_all_intensities_is_the_distance() -> None:
    volume = torch.linspace(-0.5, 0.5, 24).view(1, 2, 3, 4)
    metric = IntensityDistance(torch.stack([foreground_quantiles(volume)] * 2))
    metric([volume + 0.125], None)
    assert metric.aggregate().item() == pytest.approx(0.125, abs=1e-6)


def test_volumes_are_averaged_before_they_are_compared() -> None:
    volume = torch.linspace(-0.5, 0.5, 24).view(1, 2, 3, 4)
    metric = IntensityDistance(foreground_quantiles(volume)[None])
    metric([volume + 0.25], None)
    metric([volume - 0.25], None)
    assert metric.aggregate().item() == pytest.approx(0.0, abs=1e-6)


def test_rows_of_results_are_named_by_case() -> None:
    assert case_files([{"case": "ldn_1"}, {"case": "etz_2"}]) == [
        {"filename_or_obj": "ldn_1"},
        {"filename_or_obj": "etz_2"},
    ]
