"""A run that begins with given weights, on unlabelled hrT2 alone (configs/from_weights.yaml)."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from crossmoda.data.teacher import TISSUE_NAMES
from crossmoda.data.teacher.bank import DESCRIPTION, VERSION
from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.bundles import make_workflow, run_workflow
from crossmoda.self_training.candidates import Candidate, apply_rules
from crossmoda.self_training.from_weights import begin_run
from crossmoda.self_training.review import collect, publish, store_upload
from crossmoda.self_training.review_store import ReviewStore

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "bundles" / "vs_cochlea_self_training" / "configs"
SEGMENTATION = REPOSITORY / "bundles" / "vs_cochlea_hrt2_segmentation"
SHAPE, SPACING = (48, 40, 16), (0.6, 0.6, 1.5)
SIZES = {"patch_size": [32, 24, 12], "network_def::filters": [4, 4, 4, 4]}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a folder of two scans, one of a tissue map, and random weights."""
    folder = tmp_path_factory.mktemp("from_weights")
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        scan = rng.normal(100, 10, SHAPE).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.diag([*SPACING, 1.0])), folder / "scans" / f"{name}_hrT2.nii.gz")
    (folder / "maps").mkdir()
    voxels = np.zeros((4, *SHAPE), np.uint8)
    voxels[2] = 255
    voxels[3, 30:36, 14:20, 6:9] = 3
    np.save(folder / "maps" / "teacher_00000.npy", voxels)
    case = {"shape": list(SHAPE), "affine": np.diag([*SPACING, 1.0]).tolist(), "centres": {"vs": [], "cochlea": []},
            "counts": np.bincount(voxels[0].ravel(), minlength=len(TISSUE_NAMES)).tolist()}  # fmt: skip
    told = {"version": VERSION, "seed": 0, "tissues": list(TISSUE_NAMES), "cases": {"teacher_00000": case}}
    (folder / "maps" / DESCRIPTION).write_text(json.dumps(told))
    parser = ConfigParser()
    parser.read_config(str(SEGMENTATION / "configs" / "inference.yaml"))
    parser.update({"network_def::filters": SIZES["network_def::filters"]})
    torch.manual_seed(0)
    save_weights(parser.get_parsed_content("network_def"), folder / "model.pt", {"structures": ["vs", "cochlea"]})
    return folder


TINY = {
    "crop_size": [40, 36],
    "device": "cpu",
    "first_weights_settings": {**SIZES, "crop_size": [40, 36]},
    "segmenter_sizes": {"dynunet": {**SIZES, "iterations_per_epoch": 2, "max_epochs": 1}},
    "segmenter_inference_sizes": {"dynunet": SIZES},
    "rules": [],
}


def run(places):
    """Run the recipe, small."""
    files = [CONFIGS / "train.yaml", REPOSITORY / "configs" / "from_weights.yaml"]
    own = {"teacher_dir": str(places / "maps"), "first_weights": str(places / "model.pt")}
    at = {"dataset_dir": str(places / "scans"), "output_dir": str(places / "run")}
    run_workflow(make_workflow(files, "train", **TINY, **own, **at))
    return places / "run"


def test_round_0_labels_with_the_given_weights_and_round_1_goes_on_from_them(places):
    folder = run(places)
    given = torch.load(places / "model.pt", weights_only=True)
    rounds = [torch.load(folder / f"round_{n}" / "segmenter" / "model.pt", weights_only=True) for n in (0, 1)]
    assert all(torch.equal(given[name], rounds[0][name]) for name in given)
    changed = [float((given[name].float() - rounds[1][name].float()).abs().max()) for name in given]
    assert 0 < max(changed) < 0.1  # two small steps from the given weights, not from random ones
    for number in (0, 1):
        assert sorted(path.name for path in (folder / f"round_{number}" / "predictions").glob("*.nii.gz")) == [
            "one_Label.nii.gz",
            "two_Label.nii.gz",
        ]
    assert json.loads((folder / "current.json").read_text())["round"] == 1
    assert (folder / "report.html").is_file()


def test_other_weights_are_noticed_and_everything_is_done_again(places):
    folder = run(places)
    before = (folder / "round_0" / "segmenter" / "model.pt").stat().st_mtime_ns
    run(places)
    assert (folder / "round_0" / "segmenter" / "model.pt").stat().st_mtime_ns == before
    state = torch.load(places / "model.pt", weights_only=True)
    state["output_block.conv.conv.bias"] += 0.01
    torch.save(state, places / "model.pt")
    (places / "model.json").unlink()
    run(places)
    now = torch.load(folder / "round_0" / "segmenter" / "model.pt", weights_only=True)
    assert torch.equal(now["output_block.conv.conv.bias"], state["output_block.conv.conv.bias"])


def test_scans_at_hand_become_a_run_that_can_be_reviewed(places, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    begin_run(tmp_path / "mine", places / "scans", first_weights=str(places / "model.pt"), **TINY)
    current = json.loads((tmp_path / "mine" / "current.json").read_text())
    assert current["round"] == 0
    assert publish(tmp_path / "mine", tmp_path / "mine" / "review") == 2
    correction = np.zeros(SHAPE, np.uint8)
    correction[10:20, 10:20, 5:9] = 1
    nib.save(nib.Nifti1Image(correction, np.diag([*SPACING, 1.0])), tmp_path / "upload.nii.gz")
    studies = tmp_path / "mine" / "review"
    about = {"client_id": "anna", "label_info": [{"name": "vs", "idx": 1}]}
    store_upload(ReviewStore(studies), "one_hrT2", "final", tmp_path / "upload.nii.gz", about, ["vs", "cochlea"])
    before = (tmp_path / "mine" / "round_0" / "segmenter" / "model.pt").stat().st_mtime_ns
    more = shutil.copytree(places / "scans", tmp_path / "more")
    shutil.copy(more / "one_hrT2.nii.gz", more / "three_hrT2.nii.gz")
    begin_run(tmp_path / "mine", more, first_weights=str(places / "model.pt"), **TINY)
    assert len(list((tmp_path / "mine" / "round_0" / "predictions").glob("*.nii.gz"))) == 3
    assert (tmp_path / "mine" / "round_0" / "segmenter" / "model.pt").stat().st_mtime_ns == before
    assert publish(tmp_path / "mine", studies) == 3
    kept = collect(studies, ["vs", "cochlea"])  # scans that come later cost no correction
    assert list(kept) == ["one"]
    np.testing.assert_array_equal(np.asarray(nib.load(kept["one"].label).dataobj), correction)


def test_a_run_that_has_gone_on_is_not_begun_anew(places):
    folder = run(places)
    with pytest.raises(CrossmodaError, match="round 1 of it is served already"):
        begin_run(folder, places / "scans")


def test_without_weights_it_stops_before_anything_is_done(places, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(CrossmodaError, match=r"none\.pt: no weights there"):
        begin_run(tmp_path / "mine", places / "scans", first_weights=str(places / "none.pt"), **TINY)
    assert not (tmp_path / "mine" / "round_0" / "segmenter").exists()


def test_a_scan_whose_tumour_was_not_found_teaches_nothing_before_it_is_reviewed():
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(REPOSITORY / "configs" / "from_weights.yaml")])
    rules = parser.get_parsed_content("rules")
    label = np.zeros((40, 10, 10), np.uint8)
    label[2:5, 2:5, 2:5] = 2
    missed = apply_rules(Candidate("one", label, ("vs", "cochlea"), 0.1), rules)
    assert missed.weight == 0
    assert "no vs found" in missed.reasons
    label[7:10, 2:5, 2:5] = 1
    assert apply_rules(Candidate("two", label, ("vs", "cochlea"), 0.1), rules).weight > 0
