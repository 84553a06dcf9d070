from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.__main__ import main
from crossmoda.data.volumes import read_volume, same_grid, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.submission import write_submission
from crossmoda.files import read_json, sha256_of, write_json
from crossmoda.labels import EDITION_LABELS

SHAPE = (9, 7, 5)
TURN = np.radians(20)
OBLIQUE = np.array(  # anisotropic, left-posterior, turned about z
    [
        [-0.5 * np.cos(TURN), 0.7 * np.sin(TURN), 0, 11],
        [-0.5 * np.sin(TURN), -0.7 * np.cos(TURN), 0, -8],
        [0, 0, 1.5, 3],
        [0, 0, 0, 1],
    ]
)
LONDON, TILBURG = "crossmoda2021_ldn_211", "crossmoda2022_etz_210"


def scan(path: Path) -> None:
    write_volume(path, np.random.default_rng(1).random(SHAPE).astype(np.float32), OBLIQUE)


def label(vs: int = 1, cochlea: int = 2) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2:5, 2:4, 1:3], array[7:9, 5:7, 3] = vs, cochlea
    return array


def parts(extra: int, intra: int, cochlea: int) -> np.ndarray:
    array = label(extra, cochlea)
    array[5, 2:4, 1:3] = intra
    return array


def predict(folder: Path, case: str, array: np.ndarray, affine: np.ndarray = OBLIQUE, suffix: str = "_Label") -> Path:
    path = folder / f"{case}{suffix}.nii.gz"
    write_volume(path, array, affine)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of 2022 with one training and two validation scans."""
    folder = tmp_path / "data"
    scan(folder / "crossmoda2022_training/training_target/crossmoda2021_ldn_106_hrT2.nii.gz")
    for case in (LONDON, TILBURG):
        scan(folder / f"crossmoda2022_validation/{case}_hrT2.nii.gz")
    return folder


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    for case in (LONDON, TILBURG):
        predict(tmp_path / "predictions", case, label())
    return tmp_path / "predictions"


@pytest.fixture
def data_2023(tmp_path: Path) -> Path:
    folder = tmp_path / "data2023"
    for case in ("crossmoda2023_etz_211", "crossmoda2023_ukm_129"):
        scan(folder / f"crossmoda23_validation/{case}_T2.nii.gz")
    return folder


@pytest.fixture
def submit(data: Path, predictions: Path, tmp_path: Path) -> Callable[..., dict]:
    return lambda **options: write_submission(predictions, data, tmp_path / "out", **options)


def test_2022_gets_its_own_names_numbers_and_grids_and_a_zip(
    submit: Callable[..., dict], data: Path, predictions: Path, tmp_path: Path
) -> None:
    manifest = submit()
    folder = tmp_path / "out/predictions"
    assert sorted(path.name for path in folder.iterdir()) == [f"{LONDON}_Label.nii.gz", f"{TILBURG}_Label.nii.gz"]
    for case in (LONDON, TILBURG):
        written = folder / f"{case}_Label.nii.gz"
        assert np.array_equal(read_volume(written).array, label())
        assert nib.load(written).get_data_dtype() == np.uint8
        assert same_grid(written, data / f"crossmoda2022_validation/{case}_hrT2.nii.gz")
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as archive:
        assert archive.namelist() == sorted(path.name for path in folder.iterdir())
        assert archive.read(f"{LONDON}_Label.nii.gz") == (folder / f"{LONDON}_Label.nii.gz").read_bytes()
    told = manifest["cases"][LONDON]
    assert told["prediction_sha256"] == sha256_of(predictions / f"{LONDON}_Label.nii.gz")
    assert told["volumes_mm3"] == pytest.approx({"vs": 12 * 0.5 * 0.7 * 1.5, "cochlea": 4 * 0.5 * 0.7 * 1.5})
    assert read_json(tmp_path / "out/manifest.json") == manifest


def test_the_same_predictions_give_the_same_bytes(
    data: Path, predictions: Path, submit: Callable[..., dict], tmp_path: Path
) -> None:
    submit()
    write_submission(predictions, data, tmp_path / "again")
    assert sha256_of(tmp_path / "again/submission.zip") == sha256_of(tmp_path / "out/submission.zip")


def test_2023_gets_the_containers_names_and_the_parts_numbers(data_2023: Path, tmp_path: Path) -> None:
    for case in ("crossmoda2023_etz_211", "crossmoda2023_ukm_129"):
        predict(tmp_path / "p", case, parts(extra=2, intra=1, cochlea=3))
    manifest = write_submission(tmp_path / "p", data_2023, tmp_path / "out", structures="intra,extra,cochlea")
    written = tmp_path / "out/output/crossmoda2023_ukm_129.nii.gz"
    assert np.array_equal(read_volume(written).array, parts(**EDITION_LABELS["2023"]))
    assert manifest["archive"] is None
    assert not (tmp_path / "out/submission.zip").exists()


def test_a_segmenter_of_the_parts_serves_2022_by_their_union(data: Path, tmp_path: Path) -> None:
    for case in (LONDON, TILBURG):
        predict(tmp_path / "p", case, parts(extra=1, intra=2, cochlea=3))
    write_submission(tmp_path / "p", data, tmp_path / "out", structures=["extra", "intra", "cochlea"])
    written = read_volume(tmp_path / f"out/predictions/{LONDON}_Label.nii.gz").array
    assert np.array_equal(written, parts(extra=1, intra=1, cochlea=2))


def test_a_segmenter_of_the_whole_tumour_cannot_serve_2023(data_2023: Path, tmp_path: Path) -> None:
    for case in ("crossmoda2023_etz_211", "crossmoda2023_ukm_129"):
        predict(tmp_path / "p", case, label())
    for structures in ("", "vs,cochlea"):
        with pytest.raises(CrossmodaError, match="labels are of vs, cochlea, and 2023 wants extra, intra, cochlea"):
            write_submission(tmp_path / "p", data_2023, tmp_path / "out", structures=structures)


def test_a_run_folder_gives_its_served_round_with_its_model(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for case in (LONDON, TILBURG, "crossmoda2021_ldn_106"):
        predict(run / "round_1/predictions", case, label(vs=2, cochlea=1))
    write_json(run / "current.json", {"predictions": "round_1/predictions", "structures": ["cochlea", "vs"]})
    write_json(run / "round_1/segmenter/model.json", {"sha256": "abc", "round": 1})
    manifest = write_submission(run, data, tmp_path / "out")
    assert np.array_equal(read_volume(tmp_path / f"out/predictions/{TILBURG}_Label.nii.gz").array, label())
    assert manifest["left_out"] == 1  # the training scan's
    assert manifest["made_by"]["model"] == {"sha256": "abc", "round": 1}
    assert manifest["made_by"]["versions"].keys() >= {"python", "crossmoda"}


def test_a_plain_folder_of_test_scans_is_submitted_whole(tmp_path: Path) -> None:
    for case in ("crossmoda2023_etz_300", "crossmoda2023_ldn_301"):
        scan(tmp_path / f"test/{case}_T2.nii.gz")
        predict(tmp_path / "p", case, parts(1, 2, 3), suffix="")
    manifest = write_submission(tmp_path / "p", tmp_path / "test", tmp_path / "out")
    assert (manifest["edition"], len(manifest["cases"])) == ("2023", 2)


def test_a_folder_whose_names_tell_no_edition_needs_one(tmp_path: Path) -> None:
    scan(tmp_path / "test/patient7_T2.nii.gz")
    predict(tmp_path / "p", "patient7", label())
    with pytest.raises(CrossmodaError, match="case ids tell no edition; give --edition"):
        write_submission(tmp_path / "p", tmp_path / "test", tmp_path / "out")
    assert write_submission(tmp_path / "p", tmp_path / "test", tmp_path / "out", edition="2021")["edition"] == "2021"


def test_empty_predictions_are_named_with_what_they_cost(
    submit: Callable[..., dict], predictions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(predictions, TILBURG, label(cochlea=0))
    with caplog.at_level(logging.WARNING):
        manifest = submit()
    assert manifest["empty"] == {TILBURG: ["cochlea"]}
    assert f"Dice 0 and 350 mm each where the truth has it: {TILBURG}: cochlea" in caplog.text


def refuse(submit: Callable[..., dict], tmp_path: Path, message: str, **options: object) -> None:
    """Expect one line, and nothing left behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CrossmodaError, match=message) as refusal:
        submit(**options)
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scan_without_a_prediction_is_refused(submit: Callable[..., dict], predictions: Path, tmp_path: Path) -> None:
    (predictions / f"{TILBURG}_Label.nii.gz").unlink()
    refuse(submit, tmp_path, f"1 of 2 scans have no prediction, {TILBURG}; predict them first")


def test_a_prediction_of_no_scan_is_refused(submit: Callable[..., dict], predictions: Path, tmp_path: Path) -> None:
    predict(predictions, "crossmoda2022_etz_999", label())
    refuse(submit, tmp_path, r"1 prediction\(s\) of no scan in .*crossmoda2022_etz_999; take them out")


def test_two_predictions_of_one_scan_are_refused(
    submit: Callable[..., dict], predictions: Path, tmp_path: Path
) -> None:
    write_volume(predictions / f"{LONDON}_Label.nii", label(), OBLIQUE)
    refuse(submit, tmp_path, f"case {LONDON} is already there")


@pytest.mark.parametrize("change", ["shifted", "flipped", "cut"])
def test_a_prediction_on_another_grid_is_refused(
    submit: Callable[..., dict], predictions: Path, tmp_path: Path, change: str
) -> None:
    moved = OBLIQUE + np.pad([[0.3]], ((0, 3), (3, 0)))
    flipped = OBLIQUE @ np.diag([-1.0, 1, 1, 1])
    array, affine = {"shifted": (label(), moved), "flipped": (label(), flipped), "cut": (label()[:-1], OBLIQUE)}[change]
    predict(predictions, TILBURG, array, affine)
    refuse(submit, tmp_path, f"{TILBURG}_Label.nii.gz: lies on another grid than .*{TILBURG}_hrT2.nii.gz")


def test_a_value_that_the_edition_does_not_have_is_refused(
    submit: Callable[..., dict], predictions: Path, tmp_path: Path
) -> None:
    predict(predictions, TILBURG, label(cochlea=3))
    refuse(submit, tmp_path, f"{TILBURG}_Label.nii.gz: holds the value 3, unknown to the labels")


def test_predictions_of_two_editions_are_refused(
    submit: Callable[..., dict], predictions: Path, tmp_path: Path
) -> None:
    predict(predictions, "crossmoda2023_ukm_129", label())
    refuse(submit, tmp_path, r"holds cases of several editions, .*crossmoda2023_ukm_129 \(2023\)")


def test_predictions_of_another_editions_cases_are_refused(data_2023: Path, predictions: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"predicts cases of 2022 \(crossmoda2021_ldn_211\), and .* holds 2023"):
        write_submission(predictions, data_2023, tmp_path / "out")


def test_scans_of_another_edition_than_their_folders_are_refused(
    submit: Callable[..., dict], data: Path, tmp_path: Path
) -> None:
    for path in data.rglob("*.nii.gz"):
        path.unlink()
    scan(data / "crossmoda2022_validation/crossmoda2023_etz_211_T2.nii.gz")
    refuse(submit, tmp_path, r"laid out as 2022, but crossmoda2023_etz_211_T2\.nii\.gz is a case of 2023")


@pytest.mark.parametrize(("edition", "message"), [("2023", "holds 2022, not 2023"), ("1999", "'1999' is not known")])
def test_another_edition_than_the_datasets_is_refused(
    submit: Callable[..., dict], tmp_path: Path, edition: str, message: str
) -> None:
    refuse(submit, tmp_path, message, edition=edition)


def test_a_dataset_without_validation_scans_is_refused(data: Path, predictions: Path, tmp_path: Path) -> None:
    for path in (data / "crossmoda2022_validation").iterdir():
        path.unlink()
    with pytest.raises(CrossmodaError, match="holds no validation scans; unpack the challenge's validation archive"):
        write_submission(predictions, data, tmp_path / "out")


def test_only_an_earlier_submission_is_replaced(submit: Callable[..., dict], predictions: Path, tmp_path: Path) -> None:
    submit()
    predict(predictions, TILBURG, label(cochlea=0))
    assert submit()["empty"] == {TILBURG: ["cochlea"]}
    write_json(tmp_path / "out/manifest.json", {"steps": {}})  # as in a round of a run
    refuse(submit, tmp_path, "out: holds something that is no submission")


def test_the_command_tells_what_it_wrote(
    data: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["submit", str(predictions), "--dataset", str(data), "--output", str(out), "--edition", "2022"]) == 0
    printed = capsys.readouterr().out
    assert "crossMoDA 2022: 2 label maps (1 vs, 2 cochlea)" in printed
    assert f"written: {out / 'submission.zip'}" in printed
