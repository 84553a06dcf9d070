"""What ``scripts/judge_weights.py`` tells of weights, beside what the evaluation's own tests cover."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from crossmoda.data.volumes import Volume


@pytest.fixture
def judge(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    return importlib.import_module("judge_weights")


def test_overlap_is_counted_by_voxels(judge: ModuleType) -> None:
    true, found = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    true[0, 0, :8] = True
    found[0, 0, 4:10] = True
    assert judge.overlap(found, true) == {"recall": 4 / 8, "precision": 4 / 6}
    nothing = judge.overlap(np.zeros_like(true), true)
    assert nothing["recall"] == 0
    assert np.isnan(nothing["precision"])


@pytest.mark.parametrize("flip", [1, -1])
def test_volumes_tell_the_patients_sides_whatever_the_axes_say(judge: ModuleType, flip: int) -> None:
    label = np.zeros((10, 4, 4), np.uint8)
    label[7:9, 0, 0] = 2  # the patient's right half in RAS, where x grows to the right
    label[1, 0, 0] = 2
    label[5, 2, :3] = 1
    affine = np.diag([2.0 * flip, 1.0, 3.0, 1.0])  # 6 mm3 a voxel
    told = judge.volumes(Volume(label[::flip].copy(), affine))
    assert told == {"vs_ml": 0.018, "cochlea_left_mm3": 6.0, "cochlea_right_mm3": 12.0}


def test_a_scan_without_a_label_has_no_figures_that_need_one(judge: ModuleType) -> None:
    row = {"vs_ml": 0.5, "cochlea_left_mm3": 60.0, "cochlea_right_mm3": 70.0, "uncertainty": 0.25}
    judged = {**row, "dice": 0.75, "assd": 1.0, "recall": 0.7, "precision": 0.8}
    header, ruler, first, second, _ = judge.lines({"real": {"judged": judged, "not": row}})
    assert first == "| judged | 0.750 | 0.700 | 0.800 | 1.000 | 0.50 | 70, 60 | 0.250 |"
    assert second == "| not | no label | no label | no label | no label | 0.50 | 70, 60 | 0.250 |"
    assert {line.count("|") for line in (header, ruler, first, second)} == {9}
