"""Another bundle as one step of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import TINY_SEGMENTER, assert_same_course

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.self_training import BundleUse, TumourBlending
from crossmoda.self_training.bundles import make_workflow, require_known_settings


@pytest.fixture
def root(repository: Path) -> str:
    return str(repository / "bundles" / "vs_cochlea_hrt2_segmentation")


def test_overrides_and_overlays_decide_the_configuration_and_places_do_not(root: str) -> None:
    plain = BundleUse(root).config("train")
    assert plain["max_epochs"] == 200
    assert "output_dir" not in plain
    assert "device" not in plain
    changed = BundleUse(root, train={"max_epochs": 3}, train_overlays=["variant_unet2d5.yaml"]).config("train")
    assert changed["max_epochs"] == 3
    assert changed["network_def"]["_target_"] != plain["network_def"]["_target_"]


def test_a_key_that_the_bundle_lacks_and_a_missing_file_are_named(root: str) -> None:
    message = r"^settings: no such key 'max_epoch' in .*/configs/train\.yaml; did you mean 'max_epochs'\?$"
    for act in (BundleUse.config, BundleUse.workflow):
        with pytest.raises(CrossmodaError, match=message):
            act(BundleUse(root, train={"max_epoch": 3}), "train")
    with pytest.raises(CrossmodaError, match=r"nowhere\.yaml: no such configuration file"):
        BundleUse(root, inference_overlays=["nowhere.yaml"]).config("inference")


def test_an_argument_that_a_component_lacks_is_named_before_it_is_built(root: str) -> None:
    with pytest.raises(
        CrossmodaError, match=r"'output_postfx' of SaveImaged \(save\); did you mean 'output_postfix'\?"
    ):
        BundleUse(root, inference={"save::output_postfx": "x"}).workflow("inference")


def test_places_that_a_bundle_has_no_use_for_are_ignored(root: str) -> None:
    workflow = BundleUse(root).workflow("inference", uncertainty_dir="somewhere")  # of uncertainty.yaml
    assert workflow.parser["bundle_root"] == root


def test_a_workflow_by_its_files_takes_no_setting_that_they_lack(root: str) -> None:
    file = Path(root) / "configs" / "train.yaml"
    with pytest.raises(CrossmodaError, match=r"'learning_rte' .*; did you mean 'learning_rate'\?"):
        make_workflow([file], "train", learning_rte=1.0e-3)


BLENDING = {"shared": {"minsize": 20}}
USES: dict[str, tuple[dict[str, Any], str]] = {
    "translator's training": (
        {"views": {"kang": {"train": {"nfg": 8}}}},
        r"^settings of the view 'kang': no such key 'nfg' in .*/train\.yaml; did you mean 'ngf'\?$",
    ),
    "translator's inference": (
        {"views": {"kang": {"inference": {"slices_at_one": 8}}}},
        r"^settings of the view 'kang': .* in .*/inference\.yaml; did you mean 'slices_at_once'\?$",
    ),
    "view without a training": (
        {"views": {"kang": {}, "other": {"weights_of": "kang", "inference": {"sit": "etz"}}}},
        r"^settings of the view 'other': .*; did you mean 'site'\?$",
    ),
    "segmenter's inference": (
        {"segmenter": {"inference": {"window_overlaps": 0.5}}},
        r"^settings of the segmenter: .* in .*/inference\.yaml; did you mean 'window_overlap'\?$",
    ),
    "blending": (
        {"blending": BLENDING},
        r"^settings of the blending: .*/singan_train\.yaml; did you mean 'min_size'\?$",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_settings_of_every_other_bundle_are_looked_at(use: str, repository: Path) -> None:
    changes, message = USES[use]
    translation, segmentation = (
        str(repository / "bundles" / name) for name in ("cet1_to_hrt2_translation", "vs_cochlea_hrt2_segmentation")
    )
    views = {name: BundleUse(translation, **given) for name, given in changes.get("views", {"kang": {}}).items()}
    segmenter = BundleUse(segmentation, **changes.get("segmenter", {}))
    blending = TumourBlending(translation, **changes["blending"]) if "blending" in changes else None
    with pytest.raises(CrossmodaError, match=message):
        require_known_settings(views, segmenter, blending)
    require_known_settings({"kang": BundleUse(translation)}, BundleUse(segmentation), TumourBlending(translation))


def without_validation(dataset: Path, folder: Path) -> str:
    """Return a datalist of the dataset without validation cases, since only the training is looked at."""
    datalist = load_datalist(dataset)
    datalist["validation"] = []
    save_datalist(folder / "datalist.json", datalist)
    return str(folder / "datalist.json")


def test_two_processes_learn_what_one_with_batches_twice_as_large_learns(
    root: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    dataset = without_validation(tiny_dataset, tmp_path)
    for processes in (1, 2):
        train = {**TINY_SEGMENTER, "max_epochs": 2, "batch_size": 2 // processes, "amp": False}
        places = {"dataset_dir": dataset, "output_dir": str(tmp_path / str(processes) / "segmenter")}
        BundleUse(root, train=train, processes=processes).run("train", torch.device("cpu"), **places)
    one, two = (tmp_path / str(processes) / "segmenter" for processes in (1, 2))
    assert_same_course(one, two)
    alone, together = (torch.load(folder / "model.pt", weights_only=True) for folder in (one, two))
    assert alone.keys() == together.keys()  # fit for inference on one device
    apart = torch.cat([(together[name] - value).flatten().abs() for name, value in alone.items()])
    assert (
        float(apart.mean()) < 2e-4
    )  # of four steps of 1e-3; where a gradient is 0 but for rounding, AdamW steps as far
    assert read_json(two / "model.json")["structures"] == ["vs", "cochlea"]
    assert [path.name for path in (two / "checkpoints").iterdir()] == ["state.pt"]


def test_a_training_that_fails_in_its_processes_fails_here(
    root: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    places = {"dataset_dir": str(tmp_path / "nowhere"), "output_dir": str(tmp_path / "segmenter")}
    with pytest.raises(CrossmodaError, match="training with 2 processes failed"):
        BundleUse(root, train=TINY_SEGMENTER, processes=2).run("train", torch.device("cpu"), **places)
    assert not (tmp_path / "segmenter" / "model.pt").exists()
