from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from crossmoda.__main__ import main
from crossmoda.data.checks import (
    check_command,
    check_dataset,
    describe,
    require_usable,
    require_writable,
)
from crossmoda.data.datalist import build_datalist, load_datalist, save_datalist
from crossmoda.data.layouts import read_dataset
from crossmoda.errors import CrossmodaError

SOURCE = Path("crossmoda2022_training/training_source")
CE_T1 = SOURCE / "crossmoda2021_ldn_1_ceT1.nii.gz"
LABEL = SOURCE / "crossmoda2021_ldn_1_Label.nii.gz"
HR_T2 = Path("crossmoda2022_training/training_target/crossmoda2022_etz_105_hrT2.nii.gz")


def change(path: Path, edit: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    image = nib.load(path)
    array, affine = edit(np.array(image.dataobj), np.array(image.affine))
    nib.save(nib.Nifti1Image(array, affine), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def with_nan(path: Path) -> None:
    array = np.array(nib.load(path).dataobj)
    array[1, 2, 3] = np.nan
    change(path, lambda _, affine: (array, affine))


def shift(path: Path) -> None:
    change(path, lambda array, affine: (array, affine + np.array([[0, 0, 0, 0.5]] + [[0] * 4] * 3)))


def flatten_affine(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[312:328] = bytes(16)  # srow_z of a NIfTI-1 header
    path.write_bytes(gzip.compress(bytes(raw)))


BREAKAGES: dict[str, tuple[Path, Callable[[Path], Any], str]] = {
    "truncated image": (HR_T2, cut, "truncated or damaged"),
    "empty image": (CE_T1, empty, r"the file is empty \(0 bytes\)"),
    "truncated label": (LABEL, lambda path: path.write_bytes(path.read_bytes()[:60]), "truncated or damaged"),
    "NaN voxels": (HR_T2, with_nan, "1 voxels are NaN or infinite"),
    "2D": (HR_T2, lambda path: change(path, lambda a, affine: (a[..., 0], affine)), "holds a 2D image"),
    "single slice": (HR_T2, lambda path: change(path, lambda a, affine: (a[..., :1], affine)), "holds a 2D image"),
    "4D": (CE_T1, lambda path: change(path, lambda a, affine: (np.stack([a, a], -1), affine)), "holds 4D data"),
    "constant": (
        HR_T2,
        lambda path: change(path, lambda a, affine: (np.ones_like(a), affine)),
        "all voxels have one value",
    ),
    "label of another size": (
        LABEL,
        lambda path: change(path, lambda a, affine: (a[1:], affine)),
        r"another grid than crossmoda2021_ldn_1_ceT1\.nii\.gz \(11x10x6 voxels instead of 12x10x6\)",
    ),
    "label elsewhere": (LABEL, shift, "another position or orientation"),
    "label of another spacing": (
        LABEL,
        lambda path: change(path, lambda a, affine: (a, affine @ np.diag([1, 1, 2, 1]))),
        "another voxel spacing",
    ),
    "unknown label value": (
        LABEL,
        lambda path: change(path, lambda a, affine: (a * 3, affine)),
        "unknown label values 3, 6",
    ),
    "fractional label value": (
        LABEL,
        lambda path: change(path, lambda a, affine: (a * np.float32(0.5), affine)),
        r"unknown label values 0\.5",
    ),
    "missing label": (LABEL, Path.unlink, "its label is missing"),
    "flat affine": (HR_T2, flatten_affine, "no usable voxel spacing"),
}


def test_a_sound_dataset_has_no_problems(dataset_2022: Path) -> None:
    report = check_dataset(dataset_2022)
    assert report.problems == []
    assert len(report.scans) == 7  # five cases, and the truth of two
    require_usable(dataset_2022, ["source", "target", "validation", "labels"])


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_breakage_is_one_error_naming_the_file(dataset_2022: Path, name: str) -> None:
    path, damage, message = BREAKAGES[name]
    damage(dataset_2022 / path)
    errors = check_dataset(dataset_2022).errors
    culprit = CE_T1 if name == "missing label" else path
    assert [problem.path for problem in errors] == [dataset_2022 / culprit]
    with pytest.raises(CrossmodaError, match=message) as caught:
        require_usable(dataset_2022)
    assert culprit.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_is_needed_is_looked_at(dataset_2022: Path) -> None:
    empty(dataset_2022 / HR_T2)
    require_usable(dataset_2022, ["source"])
    with pytest.raises(CrossmodaError, match="the file is empty"):
        require_usable(dataset_2022, ["target"])


def test_the_first_error_counts_the_others(dataset_2022: Path) -> None:
    empty(dataset_2022 / CE_T1)
    empty(dataset_2022 / HR_T2)
    with pytest.raises(CrossmodaError, match=r"ldn_1_ceT1.*and 1 more; 'python -m crossmoda check"):
        require_usable(dataset_2022)


def test_repeated_case_ids_are_errors_and_left_over_labels_warnings(dataset_2022: Path) -> None:
    training = dataset_2022 / "crossmoda2022_training"
    copy = training / "training_target" / "crossmoda2022_etz_105_hrT2.nii"
    nib.save(nib.load(dataset_2022 / HR_T2), copy)
    (training / "training_source" / "crossmoda2021_ldn_9_Label.nii.gz").touch()
    (dataset_2022 / "truth" / "crossmoda2021_ldn_999_Label.nii.gz").touch()
    report = check_dataset(dataset_2022)
    assert [problem.severity for problem in report.problems] == ["error", "warning", "warning"]
    assert "case id crossmoda2022_etz_105 is also that of" in report.problems[0].message
    assert {"a label without a scan of its own", "truth of a case that is not here"} == {
        problem.message.split(";")[0] for problem in report.problems[1:]
    }


def test_an_empty_section_is_an_error_in_the_challenges_folders(dataset_2022: Path) -> None:
    for file in (dataset_2022 / "crossmoda2022_training" / "training_target").iterdir():
        file.unlink()
    with pytest.raises(CrossmodaError, match=r"no target \(hrT2\) scans; add them") as caught:
        require_usable(dataset_2022)
    assert "more" not in str(caught.value)


def test_a_plain_folder_need_not_hold_everything_unless_asked_for(dataset_2022: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    nib.save(nib.load(dataset_2022 / HR_T2), tmp_path / "plain" / "p_T2.nii.gz")
    report = check_dataset(tmp_path / "plain")
    assert report.errors == []
    require_usable(tmp_path / "plain", ["target"])
    with pytest.raises(CrossmodaError, match=r"plain: no source \(ceT1\) scans"):
        require_usable(tmp_path / "plain")
    with pytest.raises(CrossmodaError, match="no labelled scan in target"):
        require_usable(tmp_path / "plain", ["target", "labels"])


def test_a_datalist_is_checked_with_each_items_own_numbering(dataset_2022: Path, tmp_path: Path) -> None:
    datalist = build_datalist(read_dataset(dataset_2022))
    item = datalist["source"][0]
    change(Path(item["label"]), lambda a, affine: (np.where(a == 1, 5, a), affine))
    item["labels"] = {"vs": 5, "cochlea": 2}
    save_datalist(tmp_path / "list" / "datalist.json", datalist)
    assert check_dataset(tmp_path / "list" / "datalist.json").errors == []
    del item["labels"]
    save_datalist(tmp_path / "list" / "datalist.json", datalist)
    with pytest.raises(CrossmodaError, match="unknown label values 5"):
        require_usable(tmp_path / "list" / "datalist.json")


def test_a_datalist_may_mix_editions_only_where_each_item_says_what_its_numbers_mean(
    dataset_2022: Path, tmp_path: Path
) -> None:
    datalist = build_datalist(read_dataset(dataset_2022))
    item = {**datalist["source"][0], "case": "crossmoda2023_ldn_1"}
    path = tmp_path / "list" / "datalist.json"
    save_datalist(path, datalist | {"source": [*datalist["source"], {**item, "labels": {"vs": 1, "cochlea": 2}}]})
    assert check_dataset(path).errors == []
    save_datalist(path, datalist | {"source": [*datalist["source"], item]})
    with pytest.raises(CrossmodaError, match=r"several editions, crossmoda2022_etz_0 \(2022\) and crossmoda2023_ldn_1"):
        check_dataset(path)


def test_the_command_tells_a_mixture_of_editions_in_one_line(
    dataset_2022: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset_2022 / HR_T2).with_name("crossmoda2023_ukm_44_T2.nii.gz").write_bytes((dataset_2022 / HR_T2).read_bytes())
    assert main(["check", str(dataset_2022)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {dataset_2022}: holds cases of several editions, ")
    assert "crossmoda2023_ukm_44_T2.nii.gz (2023)" in printed.err
    assert printed.err.count("\n") == 1


def test_2023_labels_are_held_against_their_numbering(
    make_2023: Callable[[list[dict[int, int]]], Path], tmp_path: Path
) -> None:
    root = make_2023([{1: 9, 2: 3, 3: 2}])
    assert check_dataset(root).errors == []
    datalist = load_datalist(root) | {"labels": {"extra": 2, "intra": 1, "cochlea": 3}}
    save_datalist(tmp_path / "list" / "datalist.json", datalist)
    with pytest.raises(CrossmodaError, match=r"the volumes say \{'extra': 1, 'intra': 2, 'cochlea': 3\}"):
        require_usable(tmp_path / "list" / "datalist.json")


def test_the_description_shows_sections_sites_and_volumes(dataset_2022: Path) -> None:
    empty(dataset_2022 / HR_T2)
    lines = describe(check_dataset(dataset_2022)).splitlines()
    assert lines[0] == f"{dataset_2022}: crossMoDA 2022"
    assert any(
        line.split() == ["source", "ldn", "1", "12", "x", "10", "x", "6", "0.50", "x", "0.60", "x", "1.50"]
        for line in lines
    )
    assert any(line.split() == ["target", "etz", "1", "-", "-"] for line in lines)
    # two labels of 8 voxels of 0.45 mm3 for the tumour: 3.6 mm3 rounds to 0.00 mL
    assert any(line.split()[:4] == ["vs", "1", "source", "2"] for line in lines)
    assert lines[-1].startswith(f"error: {dataset_2022 / HR_T2}: the file is empty")
    assert "1 error, 0 warnings" in lines


def test_the_commands_exit_status_tells_whether_there_are_errors(
    dataset_2022: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_command(dataset_2022) == 0
    empty(dataset_2022 / CE_T1)
    assert check_command(str(dataset_2022)) == 1
    assert "error: " in capsys.readouterr().out


def test_a_check_leaves_the_dataset_as_it_was(dataset_2022: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset_2022.rglob("*")}
    check_dataset(dataset_2022)
    assert {path: path.stat().st_mtime_ns for path in dataset_2022.rglob("*")} == before


def test_an_output_folder_need_not_exist_and_is_not_made(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b", need_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CrossmodaError, match=r"file is a file, not a folder"):
        require_writable(tmp_path / "file" / "out")


def test_a_read_only_or_full_disk_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossmodaError, match=r"the disk is too full, 1000000000\.0 GB are needed"):
        require_writable(tmp_path, need_bytes=10**18)

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", read_only)
    with pytest.raises(CrossmodaError, match=r"cannot be written to \(Read-only file system\); choose another folder"):
        require_writable(tmp_path / "out")


def test_the_real_folder_has_warnings_only(real_data: Path) -> None:
    report = check_dataset(real_data)
    assert report.errors == []
    assert {problem.path.name for problem in report.problems} == {
        "crossmoda2021_ldn_1_Label.nii.gz",
        "brain1_ceT1.nrrd",
        "tcga_fg_6692_ceT1.nii.gz",
        "tcga_fg_6692_T2.nii.gz",
    }
    volumes = [scan.volumes_mm3[1] for scan in report.scans if scan.volumes_mm3]
    assert volumes == pytest.approx([3050, 2090], rel=0.005)  # as the folder's README states
