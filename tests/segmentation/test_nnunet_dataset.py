"""nnU-Net's data set and folds, made of a datalist, and the settings of its training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import ClipIntensityPercentiles, Transform
from scipy.ndimage import gaussian_filter

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.volumes import read_volume, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.preprocessing import VanCittertDeconvolution
from crossmoda.segmentation.cases import cases_to_learn
from crossmoda.segmentation.nnunet import NnUNetSettings, NnUNetTraining, export_model, worker
from crossmoda.segmentation.nnunet import training as nnunet_training
from crossmoda.segmentation.nnunet.raw_dataset import name_items, patient_splits, write_raw_dataset
from crossmoda.segmentation.nnunet.settings import NnUNetFolders
from crossmoda.segmentation.nnunet.worker import with_base_features

pytest.importorskip("nnunetv2")

SHAPE = (6, 5, 4)
AFFINE = np.array([[0, 0, 2.0, 5], [-0.5, 0, 0, 7], [0, 0.8, 0, -3], [0, 0, 0, 1]])  # axes stored as P, S, R
STRUCTURES = ["vs", "cochlea"]


def label_of(*numbers: int) -> np.ndarray:
    """Return a label map with one voxel of each number, at (number, 0, 0)."""
    array = np.zeros(SHAPE, np.uint8)
    for number in numbers:
        array[number, 0, 0] = number
    return array


def item(folder: Path, case: str, numbers: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """Write an image and a label and return their item."""
    name = f"{case}_{more.get('view', '')}"
    write_volume(folder / f"{name}_image.nii.gz", np.random.default_rng(0).random(SHAPE, np.float32), AFFINE)
    write_volume(folder / f"{name}_label.nii.gz", label_of(*numbers), AFFINE)
    files = {key: str(folder / f"{name}_{key}.nii.gz") for key in ("image", "label")}
    return {"case": case, "site": "ldn", **files, **more}


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Two patients in two views each, one augmented copy, a pseudo-labelled scan in other numbers, one of weight 0."""
    pseudo = {"labels": {"cochlea": 1, "vs": 2}, "provenance": {"status": "pseudo"}}
    sections = {
        "source": [
            item(tmp_path, "a", (1, 2, 3), view="cyclegan"),
            item(tmp_path, "a", (1, 2, 3), view="qs"),
            item(tmp_path, "b", (1, 2, 3), view="cyclegan"),
            item(tmp_path, "b", (1, 2, 3), view="qs"),
            item(tmp_path, "b", (1, 2, 3), view="qs+blended"),
        ],
        "target": [item(tmp_path, "c", (1, 2), **pseudo), item(tmp_path, "d", (1, 2), weight=0.0, **pseudo)],
        "validation": [],
    }
    labels = {"extra": 1, "intra": 2, "cochlea": 3}  # the edition of 2023
    save_datalist(tmp_path / "datalist.json", {"edition": "2023", "labels": labels, **sections})
    return tmp_path / "datalist.json"


def training(datalist: Path, output: Path, **settings: Any) -> NnUNetTraining:
    return NnUNetTraining(datalist, output, **{"structures": STRUCTURES, "folds": 2, "train_folds": [0], **settings})


# --- Weights ---


def test_weights_that_count_as_1_are_named_once_and_0_leaves_a_case_out(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str) -> list[str]:
        with pytest.raises(CrossmodaError, match="exit status 1"):  # the process is not started
            training(datalist, tmp_path / name).run()
        return [record.message for record in caplog.records if "count as 1" in record.message]

    ended = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(nnunet_training.subprocess, "run", lambda *_, **__: ended)
    assert run("plain") == []
    lists = load_datalist(datalist)
    lists["source"][2]["weight"] = 0.3
    lists["target"][0]["weight"] = 2.0
    save_datalist(datalist, lists)
    message = "weights count as 1, since nnU-Net knows none: 2 of 6 items, the first b of weight 0.3; "
    assert [found.split("give")[0] for found in run("weighted")] == [message]
    written = read_json(NnUNetFolders(tmp_path / "weighted" / "nnunet").raw / "cases.json")
    assert sorted({case["case"] for case in written.values()}) == ["a", "b", "c"]  # and not d, of weight 0


# --- The data set ---


def test_nnunet_is_told_of_as_many_cases_as_it_is_to_plan_for(datalist: Path, tmp_path: Path) -> None:
    named = name_items(cases_to_learn(datalist, ["source", "target"]))
    write_raw_dataset(tmp_path / "raw", named, {"extra": 1, "intra": 2, "cochlea": 3}, STRUCTURES, count=420)
    assert read_json(tmp_path / "raw" / "dataset.json")["numTraining"] == 420
    plain, planned = NnUNetSettings(STRUCTURES), NnUNetSettings(STRUCTURES, plan_for_cases=420)
    assert plain.planning_key != planned.planning_key
    with pytest.raises(CrossmodaError, match="plan_for_cases is 0"):
        NnUNetSettings(STRUCTURES, plan_for_cases=0)


def test_networks_of_the_plans_get_as_many_features_as_asked_for() -> None:
    def plans(*features: int) -> dict[str, Any]:
        network = {"n_stages": len(features), "features_per_stage": list(features)}
        own = {"batch_size": 2, "architecture": {"arch_kwargs": network}}
        return {"configurations": {"3d_fullres": own, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}}}

    planned = plans(32, 64, 128, 256, 320)
    assert with_base_features(planned, 8) == plans(8, 16, 32, 64, 80) == with_base_features(plans(8, 16, 32, 64, 80), 8)
    assert planned == plans(32, 64, 128, 256, 320)
    plain, small = NnUNetSettings(STRUCTURES), NnUNetSettings(STRUCTURES, base_features=8)
    assert plain.planning_key != small.planning_key
    with pytest.raises(CrossmodaError, match="base_features is 0"):
        NnUNetSettings(STRUCTURES, base_features=0)
    with pytest.raises(CrossmodaError, match=r"base_features is 8\.0; give a whole number"):
        NnUNetSettings(STRUCTURES, base_features=8.0)  # type: ignore[arg-type]


def test_labels_become_the_model_s_numbers_by_name(datalist: Path, tmp_path: Path) -> None:
    """2023 writes extra 1, intra 2, cochlea 3; the pseudo-label cochlea 1, vs 2. The model's are vs 1, cochlea 2."""
    named = name_items(cases_to_learn(datalist, ["source", "target"]))
    raw = tmp_path / "raw"
    write_raw_dataset(raw, named, {"extra": 1, "intra": 2, "cochlea": 3}, STRUCTURES)
    assert read_json(raw / "dataset.json")["labels"] == {"background": 0, "vs": 1, "cochlea": 2}
    assert read_json(raw / "dataset.json")["numTraining"] == len(list((raw / "labelsTr").iterdir())) == 6
    source, pseudo = (read_volume(raw / "labelsTr" / f"{name}.nii.gz") for name in ("a_0000", "c_0005"))
    assert [source.array[n, 0, 0] for n in (1, 2, 3)] == [1, 1, 2]
    assert [pseudo.array[n, 0, 0] for n in (1, 2)] == [2, 1]
    np.testing.assert_allclose(source.affine, AFFINE, atol=1e-6)


def test_views_of_a_patient_have_names_of_their_own_and_weight_0_is_left_out(datalist: Path) -> None:
    named = name_items(cases_to_learn(datalist, ["source", "target"]))
    assert list(named) == ["a_0000", "a_0001", "b_0002", "b_0003", "b_0004", "c_0005"]


def test_images_are_linked_to_unless_nnunet_would_read_them_otherwise(datalist: Path, tmp_path: Path) -> None:
    """Written anew: a file whose sform and pixdim disagree about the spacing, and one of four axes."""
    items = cases_to_learn(datalist, ["source"])[:3]
    disagree(Path(items[1]["image"]))
    disagree(Path(items[1]["label"]))
    write_four_axes(Path(items[2]["image"]))
    raw = tmp_path / "raw"
    write_raw_dataset(raw, name_items(items), {"extra": 1, "intra": 2, "cochlea": 3}, STRUCTURES)
    placed = [raw / "imagesTr" / f"{name}_0000.nii.gz" for name in name_items(items)]
    assert [path.is_symlink() for path in placed] == [True, False, False]
    assert placed[0].resolve() == Path(items[0]["image"]).resolve()
    for path, entry in zip(placed, items, strict=True):
        written: Any = nib.load(path)
        ours = read_volume(entry["image"])  # what the rest of the project sees
        assert written.shape == SHAPE
        np.testing.assert_allclose(written.header.get_zooms(), ours.spacing_mm, rtol=1e-6)
        np.testing.assert_allclose(written.affine, ours.affine, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(written.dataobj), ours.array)


def test_prepared_images_are_written_anew_on_their_own_grid(datalist: Path, tmp_path: Path) -> None:
    """One step of the deconvolution, by hand, with widths of 0.5, 0.4 and 1 mm along the patient's x, y and z.

    The file's axes are P, S, R, so along them the widths are 0.4 / 0.5, 1 / 0.8 and 0.5 / 2 voxels.
    """
    items = cases_to_learn(datalist, ["source"])[:2]
    write_four_axes(Path(items[1]["image"]))
    prepare = [VanCittertDeconvolution((0.5, 0.4, 1.0), iterations=1), ClipIntensityPercentiles(None, 80)]
    raw, labels = tmp_path / "raw", {"extra": 1, "intra": 2, "cochlea": 3}
    contents = [Path(entry["image"]).read_bytes() for entry in items]
    write_raw_dataset(raw, name_items(items), labels, STRUCTURES, prepare)
    for name, entry in zip(name_items(items), items, strict=True):
        path = raw / "imagesTr" / f"{name}_0000.nii.gz"
        given = read_volume(entry["image"]).array
        again = gaussian_filter(given, (0.4 / 0.5, 1 / 0.8, 0.5 / 2), mode="reflect")
        sharp = np.clip(2 * given - again, given.min(), given.max())
        written: Any = nib.load(path)
        assert not path.is_symlink()
        np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
        np.testing.assert_allclose(written.header.get_zooms(), (0.5, 0.8, 2), atol=1e-6)
        np.testing.assert_allclose(written.get_fdata(), np.minimum(sharp, np.percentile(sharp, 80)), atol=1e-5)
        assert np.abs(written.get_fdata() - given).max() > 0.1
    assert [Path(entry["image"]).read_bytes() for entry in items] == contents


class FirstTwo(Transform):
    """Leave the first two planes of an image."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(image.shape[1]).reshape(1, -1, 1, 1) < 2, image, 0.0)


def test_a_label_where_nothing_is_left_of_its_image_is_told(
    datalist: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = cases_to_learn(datalist, ["source"])[:1]  # labelled voxels in the planes 1, 2 and 3
    labels = {"extra": 1, "intra": 2, "cochlea": 3}
    write_raw_dataset(tmp_path / "raw", name_items(items), labels, STRUCTURES, [FirstTwo()])
    told = [record.getMessage() for record in caplog.records if record.name == "crossmoda.preprocessing.crop"]
    assert told == [f"{items[0]['label']}: 67 % of the label lies outside what is left of its image"]


def test_another_preparation_starts_afresh_and_is_told_beside_the_weights(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """nnU-Net itself is not started: what it would find, and what would be written of it, is looked at."""
    told: list[Any] = []
    monkeypatch.setattr(nnunet_training.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    monkeypatch.setattr(nnunet_training, "export_model", lambda folders, settings, path, info: told.append(info))
    brightest = []
    for percentile in (None, 50, 50.0, 70):
        prepare = [] if percentile is None else [ClipIntensityPercentiles(None, percentile)]
        training(datalist, tmp_path, prepare=prepare).run()
        image = NnUNetFolders(tmp_path / "nnunet").raw / "imagesTr" / "a_0000_0000.nii.gz"
        brightest.append(float(read_volume(image).array.max()))
    image = read_volume(load_datalist(datalist)["source"][0]["image"]).array
    assert brightest == pytest.approx([image.max(), *(np.percentile(image, q) for q in (50, 50, 70))], abs=1e-6)
    assert sum("starts afresh" in record.message for record in caplog.records) == 2
    none, first, same, other = (info["agreed"]["prepare"] for info in told)
    assert none == []
    assert first == same
    assert "upper=70, " in other[0]
    hashes = [info["nnunet_training"] for info in told]
    assert len(set(hashes)) == 3
    assert hashes[1] == hashes[2]


def disagree(path: Path) -> None:
    image: Any = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    image.header["pixdim"][1:4] = 9.0
    nib.save(image, path)


def write_four_axes(path: Path) -> None:
    image: Any = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine), path)


def test_a_label_on_another_grid_is_refused(datalist: Path, tmp_path: Path) -> None:
    items = cases_to_learn(datalist, ["source"])
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    write_volume(items[0]["label"], label_of(1, 2, 3), shifted)
    with pytest.raises(CrossmodaError, match="not on the grid of"):
        write_raw_dataset(tmp_path / "raw", name_items(items), {"extra": 1, "intra": 2, "cochlea": 3}, STRUCTURES)
    assert not (tmp_path / "raw").exists()


# --- Folds ---


def test_folds_keep_a_patient_s_views_together_and_judge_no_copy_and_no_pseudo_label(datalist: Path) -> None:
    named = name_items(cases_to_learn(datalist, ["source", "target"]))
    splits = patient_splits(named, datalist, ["source", "target"], folds=2, required=[])
    case = {name: entry["case"] for name, entry in named.items()}
    for split in splits:
        assert not {case[name] for name in split["train"]} & {case[name] for name in split["val"]}
        assert not {"b_0004", "c_0005"} & set(split["val"])
    assert sorted(splits[0]["val"] + splits[1]["val"]) == ["a_0000", "a_0001", "b_0002", "b_0003"]
    learnt = [set(split["train"]) for split in splits]
    assert sum("b_0004" in names for names in learnt) == 1  # the copy is learnt from where its patient is
    assert learnt[0] | learnt[1] == set(named)


def test_a_fold_of_pseudo_labels_alone_cannot_be_validated(datalist: Path) -> None:
    named = name_items(cases_to_learn(datalist, ["source", "target"]))
    with pytest.raises(CrossmodaError, match="holds pseudo-labels alone and cannot be validated"):
        patient_splits(named, datalist, ["source", "target"], folds=3, required=[0, 1, 2])


# --- Settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_folds": [0, 5]}, "fold is 5; give 0 to 4"),
        ({"train_folds": [-1]}, "fold is -1"),
        ({"train_folds": "none"}, "train_folds is 'none'; give a list of folds, or all"),
        ({"train_folds": []}, "train_folds is empty"),
        ({"train_folds": "all", "configurations": ["2d", "3d_fullres"]}, "leaves no case to compare"),
        ({"configurations": ["3d_cascade_fullres"]}, "a cascade is not supported"),
        ({"configurations": []}, "give some of 2d, 3d_fullres"),
        ({"checkpoint": "latest"}, "checkpoint 'latest' is unknown; choose final or best"),
        ({"max_epochs": 0}, "max_epochs is 0; give a positive number"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"target_spacing": [0.4, 0.4]}, r"target_spacing is \[0.4, 0.4\]; give three positive numbers"),
        ({"target_spacing": [0.4, 0.4, 0.0]}, "give three positive numbers of mm"),
    ],
)
def test_a_setting_that_cannot_be_is_named_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        NnUNetSettings(STRUCTURES, **settings)


def test_the_environment_is_of_the_run_and_shows_the_named_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    folders = NnUNetFolders(tmp_path)
    one = folders.environment("cuda:1", 3)
    assert one["CUDA_VISIBLE_DEVICES"] == "6"
    assert folders.environment("cuda", 0)["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert {one[name] for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")} == {
        str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    assert (one["nnUNet_def_n_proc"], folders.environment("cpu", 0)["nnUNet_def_n_proc"]) == ("3", "1")


def test_scans_are_preprocessed_by_as_many_processes_as_wanted_and_by_all_cores_where_none_augments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert NnUNetSettings(STRUCTURES, num_workers=3).preprocessing_processes == 3
    for cores, processes in ((2, 2), (64, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert NnUNetSettings(STRUCTURES, num_workers=0).preprocessing_processes == processes


def test_only_what_decides_the_weights_makes_a_fold_train_anew() -> None:
    plain = NnUNetSettings(STRUCTURES)
    same = NnUNetSettings(STRUCTURES, train_folds=[0], device="cuda", num_workers=0, checkpoint="best")
    longer = NnUNetSettings(STRUCTURES, max_epochs=2000)
    assert plain.training_key == same.training_key != longer.training_key
    assert plain.planning_key == longer.planning_key != NnUNetSettings(STRUCTURES, memory_gb=24.0).planning_key
    assert plain.planning_key != NnUNetSettings(STRUCTURES, target_spacing=[0.4, 0.4, 1]).planning_key


# --- Wrong input, before anything is planned ---


def test_no_labelled_case_stops_before_planning(datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="no labelled case in validation to train on"):
        training(datalist, tmp_path / "out", sections=["validation"]).run()


def test_a_structure_that_the_labels_do_not_know_is_named(datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="structure 'intra' is not in the labels"):
        training(datalist, tmp_path / "out", structures=["intra", "cochlea"], sections=["source", "target"]).run()


def test_a_structure_that_no_label_shows_is_named(datalist: Path, tmp_path: Path) -> None:
    for entry in cases_to_learn(datalist, ["source"]):
        write_volume(entry["label"], label_of(1, 2), AFFINE)
    with pytest.raises(CrossmodaError, match="no label shows cochlea"):
        training(datalist, tmp_path / "out", sections=["source"]).run()


def test_more_folds_than_patients_are_refused(datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="there are labels of 3 patients, too few for 5 folds"):
        training(datalist, tmp_path / "out", folds=5).run()


# --- Folds that are not there ---


def folders_with_fold(root: Path, content: Any) -> NnUNetFolders:
    folders = NnUNetFolders(root)
    place = folders.model("nnUNetTrainer", "3d_fullres") / "fold_all"
    place.mkdir(parents=True)
    if isinstance(content, bytes):
        (place / "checkpoint_final.pth").write_bytes(content)
    else:
        torch.save(content, place / "checkpoint_final.pth")
    return folders


def test_a_missing_checkpoint_names_the_fold(tmp_path: Path) -> None:
    folders = folders_with_fold(tmp_path, {"network_weights": {}})
    settings = NnUNetSettings(STRUCTURES, train_folds="all", checkpoint="best")
    with pytest.raises(CrossmodaError, match=r"fold all has no checkpoint_best.pth \(folds that have: none\)"):
        export_model(folders, settings, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("content", [b"cut off", {"something": "else"}])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: Any) -> None:
    folders = folders_with_fold(tmp_path, content)
    with pytest.raises(CrossmodaError, match="damaged; delete its folder to train the fold anew"):
        export_model(folders, NnUNetSettings(STRUCTURES, train_folds="all"), tmp_path / "model.pt")


def test_a_cut_off_checkpoint_is_found_before_any_other_fold_is_trained(tmp_path: Path) -> None:
    folders, settings = (
        folders_with_fold(tmp_path, {"network_weights": {}}),
        NnUNetSettings(STRUCTURES, train_folds="all"),
    )
    worker.require_whole_checkpoints(folders, settings)
    final = next(folders.results.rglob("checkpoint_final.pth"))
    final.write_bytes(final.read_bytes()[:-40])
    with pytest.raises(CrossmodaError, match=r"checkpoint_final\.pth: damaged; delete its folder"):
        worker.require_whole_checkpoints(folders, settings)


def test_planner_and_trainer_are_looked_up_by_name() -> None:
    worker.require_classes(NnUNetSettings(STRUCTURES))
    for wrong in ({"trainer": "nnUNetTrainerOfMine"}, {"planner": "nnUNetPlannerResEncX"}):
        (setting, name), *_ = wrong.items()
        with pytest.raises(CrossmodaError, match=f"{setting} '{name}': nnU-Net has no class of that name; correct it"):
            worker.require_classes(NnUNetSettings(STRUCTURES, **wrong))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its parent's end")
def test_nnunet_s_process_ends_with_the_one_that_waits_for_it(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    os.mkfifo(job)  # which the process waits for, until somebody writes to it
    start = "import os, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:], str(os.getpid())])"
    command = [sys.executable, "-c", start, "-m", nnunet_training.WORKER, str(job)]
    with subprocess.Popen(command) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.02)
        worker = Path(f"/proc/{found[0]}/stat")
        parent.kill()
    until = time.monotonic() + 240  # it loads PyTorch first, beside whatever else runs
    while worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    ended = time.monotonic() < until
    if not ended:
        os.kill(int(found[0]), signal.SIGKILL)
    assert ended
