from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossmoda.data.parts import decide_parts, label_volumes_mm3, number_parts
from crossmoda.errors import CrossmodaError
from crossmoda.labels import EDITION_LABELS

LABELS = EDITION_LABELS["2023"]
SWAPPED = {"extra": 2, "intra": 1, "cochlea": 3}
A, B = Path("a_Label.nii.gz"), Path("b_Label.nii.gz")


def test_volumes_are_counted_in_mm3() -> None:
    array = np.zeros((4, 3, 2))
    array[0], array[1, 0, 0] = 1, 3
    assert label_volumes_mm3(array, np.diag([-0.5, 0.4, 2, 1])) == pytest.approx({1: 6 * 0.4, 3: 0.4})


def test_a_part_above_two_ml_is_extra_meatal() -> None:
    assert decide_parts([(A, {1: 2100.0, 2: 300.0})], LABELS) == LABELS
    assert decide_parts([(A, {1: 300.0, 2: 2100.0})], LABELS) == SWAPPED


def test_one_large_tumour_outweighs_many_small_ones() -> None:
    small = [(B, {1: 100.0, 2: 400.0})] * 30
    assert decide_parts([*small, (A, {1: 2500.0})], LABELS) == LABELS


def test_without_a_large_part_the_sum_over_cases_with_both_decides() -> None:
    assert decide_parts([(A, {1: 100.0, 2: 300.0}), (B, {1: 500.0, 2: 200.0})] * 5, LABELS) == LABELS
    assert decide_parts([(A, {1: 100.0, 2: 300.0}), (B, {1: 250.0, 2: 200.0})] * 5, LABELS) == SWAPPED


def test_a_handful_of_small_tumours_says_nothing() -> None:
    assert decide_parts([(A, {1: 110.0, 2: 990.0})] * 9, LABELS) == LABELS


def test_purely_intra_meatal_cases_say_nothing() -> None:
    assert decide_parts([(A, {2: 900.0, 3: 180.0})], LABELS) == LABELS
    assert decide_parts([], LABELS) == LABELS


def test_what_cannot_be_explained_is_refused_by_name() -> None:
    cases = [(A, {1: 2100.0}), (B, {2: 2200.0})]
    with pytest.raises(CrossmodaError, match=r"a_Label.*b_Label\.nii\.gz label 2, exceed 2 mL"):
        decide_parts(cases, LABELS, exhaustive=True)
    with pytest.raises(CrossmodaError, match=r"b_Label\.nii\.gz: label 3 measures 5\.0 mL"):
        decide_parts([(B, {1: 100.0, 3: 5000.0})], LABELS)


def test_unreadable_labels_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a_Label.nii.gz").write_bytes(b"nothing")
    assert number_parts([tmp_path / "a_Label.nii.gz", tmp_path / "absent.nii.gz"], LABELS) == LABELS
