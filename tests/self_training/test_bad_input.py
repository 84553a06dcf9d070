"""Bad input ends with one line that names the file, before any training, and leaves nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support import LOOP

from crossmoda.data.datalist import load_datalist
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.self_training import BundleUse, SelfTrainingLoop
from crossmoda.self_training.bundles import make_workflow

TRAIN = "bundles/vs_cochlea_self_training/configs/train.yaml"


def source_file(dataset: Path, ending: str) -> Path:
    return sorted((dataset / "crossmoda2022_training" / "training_source").glob(f"*{ending}.nii.gz"))[0]


def truncate(dataset: Path) -> Path:
    path = source_file(dataset, "ceT1")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def empty(dataset: Path) -> Path:
    path = source_file(dataset, "ceT1")
    path.write_bytes(b"")
    return path


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], shift_mm: float = 0.0) -> Path:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += shift_mm
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), affine), path)
    return path


def put_nan(array: np.ndarray) -> np.ndarray:
    changed = array.astype(np.float32)
    changed[2, 2, 2] = np.nan
    return changed


def put_unknown_value(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[0, 0, 0] = 7
    return changed


SPOILERS: dict[str, Callable[[Path], Path]] = {
    "truncated": truncate,
    "empty": empty,
    "label on another grid": lambda data: rewrite(source_file(data, "Label"), lambda a: a, shift_mm=5.0),
    "unknown label value": lambda data: rewrite(source_file(data, "Label"), put_unknown_value),
    "NaN voxels": lambda data: rewrite(source_file(data, "ceT1"), put_nan),
    "2D file": lambda data: rewrite(source_file(data, "ceT1"), lambda a: a[:, :, 0]),
    "4D file": lambda data: rewrite(source_file(data, "ceT1"), lambda a: np.stack([a, a], axis=-1)),
}


def run(dataset: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", TRAIN, "--logging_file", "False"]
    command += ["--dataset_dir", str(dataset), "--output_dir", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset, tmp_path / "data"))


@pytest.mark.parametrize("kind", SPOILERS)
def test_a_spoilt_file_is_named_before_any_training(kind: str, dataset: Path, tmp_path: Path) -> None:
    from crossmoda.data.checks import require_usable
    from crossmoda.errors import CrossmodaError

    path = SPOILERS[kind](dataset)
    with pytest.raises(CrossmodaError) as caught:
        require_usable(dataset)
    assert str(path.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_bundle_s_own_command_prints_one_line_and_fails(
    dataset: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    path = truncate(dataset)
    ended = run(dataset, tmp_path / "run")
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert path.name in errors[0]
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run" / "round_0").exists()


def test_a_misspelt_setting_of_another_bundle_is_named_before_the_data_are_looked_at(tmp_path: Path) -> None:
    """The segmenter's inference, which would come after both trainings."""
    settings = {"segmenter_inference_settings": {"window_overlp": 0.5}, "dataset_dir": str(tmp_path / "nowhere")}
    workflow = make_workflow([LOOP / "train.yaml"], "train", output_dir=str(tmp_path / "run"), **settings)
    with pytest.raises(Exception, match=r".") as caught:
        workflow.initialize()
    message = str(find_user_error(caught.value))
    assert message.startswith("settings of the segmenter: no such key 'window_overlp'")
    assert message.endswith("did you mean 'window_overlap'?")
    assert not (tmp_path / "run").exists()


def test_a_run_built_again_names_a_misspelt_setting_before_it_writes(
    tiny_dataset: Path, tmp_path: Path, repository: Path
) -> None:
    """As when its bundles have been replaced by others that call a setting differently."""
    translation, segmentation = (
        BundleUse(str(repository / "bundles" / name), inference=inference)
        for name, inference in [("cet1_to_hrt2_translation", {"ngff": 4}), ("vs_cochlea_hrt2_segmentation", {})]
    )
    places = {"output_dir": tmp_path / "run", "datalist": load_datalist(tiny_dataset), "device": "cpu", "seed": 0}
    loop = SelfTrainingLoop(
        views={"a": translation}, segmenter=segmentation, rules=[], structures=["vs", "cochlea"], max_epochs=1, **places
    )
    with pytest.raises(CrossmodaError, match=r"^settings of the view 'a': no such key 'ngff' .*did you mean 'ngf'\?$"):
        loop.run()
    assert not (tmp_path / "run").exists()


def test_missing_labels_stop_before_training(dataset: Path) -> None:
    from crossmoda.data.checks import require_usable
    from crossmoda.errors import CrossmodaError

    for path in (dataset / "crossmoda2022_training" / "training_source").glob("*_Label.nii.gz"):
        path.unlink()
    with pytest.raises(CrossmodaError, match="label"):
        require_usable(dataset, need=("source", "target", "labels"))


def test_a_run_folder_that_is_a_file_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    from crossmoda.data.checks import require_writable
    from crossmoda.errors import CrossmodaError

    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(CrossmodaError, match="run"):
        require_writable(tmp_path / "run")
