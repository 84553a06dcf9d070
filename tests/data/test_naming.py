from __future__ import annotations

from pathlib import Path

import pytest

from crossmoda.data.naming import (
    case_name,
    common_editions,
    editions_of,
    extension_of,
    is_label,
    modality_of,
    site_of,
    stem_of,
    volume_files,
)
from crossmoda.errors import CrossmodaError


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("crossmoda2021_ldn_106_hrT2.nii.gz", "crossmoda2021_ldn_106"),
        ("crossmoda2023_ukm_44_T2.nii.gz", "crossmoda2023_ukm_44"),
        ("crossmoda2022_etz_0_Label.nii.gz", "crossmoda2022_etz_0"),
        ("vs_gk_98_hrT2_Label.nii.gz", "vs_gk_98"),
        ("case.3.v1.nii.gz", "case.3.v1"),
        ("case.3.v1_ceT1.nrrd", "case.3.v1"),
        ("sub-01_T1w.nii", "sub-01"),
        ("crossmoda2021_ldn_106_uncertainty.nii.gz", "crossmoda2021_ldn_106"),
        ("T2.nii.gz", "T2"),  # a name that is nothing but a modality stays
    ],
)
def test_case_name_leaves_modality_and_extension_out(name: str, case: str) -> None:
    assert case_name(Path("folder.with.dots") / name) == case


def test_extensions_are_recognised_whatever_the_case_of_their_letters() -> None:
    assert extension_of("A.NII.GZ") == ".nii.gz"
    assert stem_of("A.NII.GZ") == "A"
    assert extension_of("notes.txt") is None


def test_modality_and_label_are_told_by_the_last_word_that_says_so() -> None:
    assert modality_of("p_CET1.nii.gz") == "source"
    assert modality_of("p_t2_Label.nii.gz") == "target"
    assert modality_of("patient7.nii.gz") is None
    assert is_label("p_t2_LABEL.nii.gz")
    assert is_label("p_seg.nrrd")
    assert not is_label("label_of_honour_T2.nii.gz")


def test_site_is_read_from_challenge_names_only() -> None:
    assert [site_of(f"crossmoda2023_{site}_1_T2.nii.gz") for site in ("ldn", "etz", "ukm")] == ["ldn", "etz", "ukm"]
    assert site_of("patient7_T2.nii.gz") == "unknown"


def test_unfinished_and_foreign_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("b_T2.nii.gz", "a_T2.nrrd", ".1234.partial-c_T2.nii.gz", "readme.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in volume_files(tmp_path)] == ["a_T2.nrrd", "b_T2.nii.gz"]


def test_the_edition_is_read_from_challenge_names_only() -> None:
    assert editions_of("crossmoda2021_ldn_211_hrT2.nii.gz") == ("2021", "2022")
    assert editions_of("crossmoda2022_etz_210") == ("2022",)
    assert editions_of("crossmoda2023_ukm_44_T2.nii.gz") == ("2023",)
    assert editions_of("patient7_T2.nii.gz") == ()


def test_london_and_tilburg_together_are_2022() -> None:
    assert common_editions(["crossmoda2021_ldn_211", "patient7", "crossmoda2022_etz_210"], "here") == ("2022",)
    assert common_editions(["crossmoda2021_ldn_211"], "here") == ("2021", "2022")
    assert common_editions(["patient7"], "here") == ()


def test_cases_of_several_editions_are_refused_naming_one_of_each() -> None:
    cases = ["crossmoda2021_ldn_211", "crossmoda2022_etz_210", "crossmoda2023_etz_211"]
    with pytest.raises(
        CrossmodaError, match=r"here: .* crossmoda2022_etz_210 \(2022\) and crossmoda2023_etz_211 \(2023\)"
    ):
        common_editions(cases, "here")
