from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from crossmoda.data.layouts import Case, read_dataset
from crossmoda.errors import CrossmodaError
from crossmoda.labels import EDITION_LABELS


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def ids(cases: Iterable[Case]) -> list[str]:
    return [case.case for case in cases]


@pytest.mark.parametrize(
    "validation", ["crossmoda_training/target_validation", "target_validation", "crossmoda_validation"]
)
def test_2021_is_read_wherever_its_validation_was_unpacked(tmp_path: Path, validation: str) -> None:
    training = tmp_path / "crossmoda_training"
    touch(training / "source_training", "crossmoda2021_ldn_1_ceT1.nii.gz", "crossmoda2021_ldn_1_Label.nii.gz")
    touch(training / "target_training", "crossmoda2021_ldn_106_hrT2.nii.gz")
    touch(tmp_path / validation, "crossmoda2021_ldn_211_hrT2.nii.gz")
    dataset = read_dataset(tmp_path)
    assert dataset.edition == "2021"
    assert dataset.labels == {"vs": 1, "cochlea": 2}
    assert [ids(part) for part in (dataset.source, dataset.target, dataset.validation)] == [
        ["crossmoda2021_ldn_1"],
        ["crossmoda2021_ldn_106"],
        ["crossmoda2021_ldn_211"],
    ]


def test_2022_has_two_sites_and_keeps_the_truth_apart(dataset_2022: Path) -> None:
    dataset = read_dataset(dataset_2022)
    assert dataset.edition == "2022"
    assert [case.site for case in dataset.source] == ["ldn", "etz"]
    assert all(case.label and case.label.name == f"{case.case}_Label.nii.gz" for case in dataset.source)
    assert all(case.label is None for case in [*dataset.target, *dataset.validation])
    assert sorted(dataset.truth) == ["crossmoda2021_ldn_106", "crossmoda2022_etz_105"]
    assert dataset.target[0].image.is_file()


def test_the_training_folder_itself_may_be_given(dataset_2022: Path) -> None:
    assert read_dataset(dataset_2022 / "crossmoda2022_training") == read_dataset(dataset_2022)


def test_2023_is_numbered_by_what_its_labels_hold(make_2023: Callable[[list[dict[int, int]]], Path]) -> None:
    dataset = read_dataset(make_2023([{1: 9, 2: 3, 3: 2}]))
    assert dataset.edition == "2023"
    assert dataset.labels == EDITION_LABELS["2023"]
    assert [dataset.source[0].site, dataset.target[0].site, dataset.validation[0].site] == ["etz", "ukm", "ldn"]


def test_2023_parts_are_swapped_where_the_disk_says_so(make_2023: Callable[[list[dict[int, int]]], Path]) -> None:
    assert read_dataset(make_2023([{1: 3, 2: 9, 3: 2}])).labels == {"extra": 2, "intra": 1, "cochlea": 3}


def test_a_plain_folder_is_sorted_by_names(tmp_path: Path) -> None:
    touch(
        tmp_path, "a_CET1.nii.gz", "a_ceT1_Label.nii.gz", "b_T1.nrrd", "b_seg.nrrd", "c_t2.mha", "c_hrT2_Label.nii.gz"
    )
    touch(tmp_path, "d_Label.nii.gz", "notes.txt")
    dataset = read_dataset(tmp_path)
    assert dataset.edition == "plain"
    assert [(case.case, case.label.name if case.label else None) for case in dataset.source] == [
        ("a", "a_ceT1_Label.nii.gz"),
        ("b", "b_seg.nrrd"),
    ]
    assert [(case.case, case.label) for case in dataset.target] == [("c", None)]
    assert {case: file.name for case, file in dataset.truth.items()} == {"c": "c_hrT2_Label.nii.gz"}
    assert [file.name for file in dataset.orphans] == ["d_Label.nii.gz"]


def test_sub_folders_tell_the_sections_and_validation_may_have_labels(tmp_path: Path) -> None:
    touch(tmp_path / "source", "a.nii.gz", "a_Label.nii.gz")
    touch(tmp_path / "target", "b.nii.gz", "b_Label.nii.gz")
    touch(tmp_path / "validation", "c.nii.gz", "c_Label.nii.gz")
    dataset = read_dataset(tmp_path)
    assert dataset.source[0].label == tmp_path / "source" / "a_Label.nii.gz"
    assert dataset.target[0].label is None
    assert dataset.validation[0].label == tmp_path / "validation" / "c_Label.nii.gz"
    assert sorted(dataset.truth) == ["b", "c"]


def test_scans_that_tell_no_modality_are_targets(tmp_path: Path) -> None:
    touch(tmp_path, "patient7.nii.gz", "patient8.v2.nrrd")
    dataset = read_dataset(tmp_path)
    assert ids(dataset.target) == ["patient7", "patient8.v2"]
    assert dataset.source == []


def test_challenge_files_of_2023_in_a_plain_folder_keep_their_numbering(tmp_path: Path) -> None:
    touch(tmp_path, "crossmoda2023_etz_1_T2.nii.gz")
    assert read_dataset(tmp_path).labels == EDITION_LABELS["2023"]


def test_a_folder_without_scans_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="no scans found"):
        read_dataset(tmp_path)
    (tmp_path / "crossmoda_training").mkdir()
    with pytest.raises(CrossmodaError, match="no scans in its 2021 folders"):
        read_dataset(tmp_path)
    with pytest.raises(CrossmodaError, match="absent: no such dataset folder"):
        read_dataset(tmp_path / "absent")


def test_two_editions_in_one_folder_are_refused(dataset_2022: Path) -> None:
    touch(dataset_2022 / "crossmoda_training" / "source_training", "crossmoda2021_ldn_1_ceT1.nii.gz")
    with pytest.raises(CrossmodaError, match=r"several editions \(2021 in crossmoda_training, 2022 in crossmoda2022_"):
        read_dataset(dataset_2022)


# --- Editions that must not be mixed ---


def test_a_case_of_another_edition_among_the_scans_is_named(dataset_2022: Path) -> None:
    """London's cases of 2022 keep the names of 2021, which is no mixture; 2023 numbers other structures."""
    strange = "crossmoda2023_ldn_7_ceT1.nii.gz"
    touch(dataset_2022 / "crossmoda2022_training" / "training_source", strange)
    with pytest.raises(CrossmodaError) as caught:
        read_dataset(dataset_2022)
    message = str(caught.value)
    assert message.startswith(f"{dataset_2022}: holds cases of several editions, crossmoda2022_etz_0")
    assert f"(2022) and {strange} (2023)" in message
    assert message.endswith("give each edition a folder")
    assert "\n" not in message


def test_a_plain_folder_of_two_editions_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "source", "crossmoda2022_etz_1_ceT1.nii.gz")
    touch(tmp_path / "target", "crossmoda2021_ldn_106_hrT2.nii.gz", "mine_hrT2.nii.gz")
    assert read_dataset(tmp_path).labels == EDITION_LABELS["2022"]
    touch(tmp_path / "target", "crossmoda2023_ukm_44_T2.nii.gz")
    with pytest.raises(CrossmodaError, match=r"crossmoda2022_etz_1_ceT1.nii.gz \(2022\) and crossmoda2023_ukm_44_T2"):
        read_dataset(tmp_path)


def test_folders_of_one_edition_with_cases_of_another_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "crossmoda_training" / "source_training", "crossmoda2021_ldn_1_ceT1.nii.gz")
    touch(tmp_path / "crossmoda_training" / "target_training", "crossmoda2022_etz_105_hrT2.nii.gz")
    with pytest.raises(
        CrossmodaError, match=r"laid out as 2021, but crossmoda2022_etz_105_hrT2\.nii\.gz is a case of 2022"
    ):
        read_dataset(tmp_path)


# --- Archives, unpacked as people do ---

ARCHIVES = {
    "2021": (
        "crossmoda_training",
        "source_training",
        "target_training",
        "crossmoda_validation",
        "crossmoda2021_ldn",
        "hr",
    ),
    "2022": (
        "crossmoda2022_training",
        "training_source",
        "training_target",
        "crossmoda2022_validation",
        "crossmoda2022_etz",
        "hr",
    ),
    "2023": (
        "crossmoda23_training",
        "TrainingSource",
        "TrainingTarget",
        "crossmoda23_validation",
        "crossmoda2023_ukm",
        "",
    ),
}


@pytest.mark.parametrize("edition", ARCHIVES)
@pytest.mark.parametrize("way", ["with top folders", "with top folders in folders made for them", "without any"])
def test_archives_unpacked_side_by_side_are_found(tmp_path: Path, edition: str, way: str) -> None:
    training, source, target, validation, case, letters = ARCHIVES[edition]
    places = {
        "with top folders": (tmp_path / training, tmp_path / validation),
        "with top folders in folders made for them": (tmp_path / "a" / training, tmp_path / "b" / validation),
        "without any": (tmp_path, tmp_path),
    }[way]
    touch(places[0] / source, f"{case}_1_ceT1.nii.gz")
    touch(places[0] / target, f"{case}_106_{letters}T2.nii.gz")
    touch(places[1], f"{case}_211_{letters}T2.nii.gz")
    (places[0] / "infos_source_training.csv").touch()
    dataset = read_dataset(tmp_path)
    assert dataset.edition == edition
    found = [ids(part) for part in (dataset.source, dataset.target, dataset.validation)]
    assert found == [[f"{case}_1"], [f"{case}_106"], [f"{case}_211"]]
    if way == "with top folders":
        assert read_dataset(tmp_path / training) == dataset


def test_an_archive_that_is_not_unpacked_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "crossmoda2022_training.zip")
    with pytest.raises(
        CrossmodaError, match=r"holds crossmoda2022_training\.zip, which is an archive; unpack it there"
    ):
        read_dataset(tmp_path)


def test_the_real_folder_reads_sensibly(real_data: Path) -> None:
    dataset = read_dataset(real_data)
    assert {case.case: bool(case.label) for case in dataset.source} == {
        "brain1": False,
        "tcga_fg_6692": False,
        "vs_gk_99": True,
    }
    assert ids(dataset.target) == ["inner_ear_right", "tcga_fg_6692", "vs_gk_98"]
    assert all(case.label is None for case in dataset.target)
    assert list(dataset.truth) == ["vs_gk_98"]
    assert [file.name for file in dataset.orphans] == ["crossmoda2021_ldn_1_Label.nii.gz"]
