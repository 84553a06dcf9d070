"""Cross-validation by patient: who is judged where, what is done again, and what ``best.yaml`` predicts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from scipy import ndimage
from support import BUNDLES, workflow_of
from torch import nn

from crossmoda.__main__ import main
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.volumes import read_volume, write_volume
from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.segmentation.anatomy import KeepOneTumourd
from crossmoda.self_training import BundleUse
from crossmoda.self_training.cross_validation import cross_validate, read_settings
from crossmoda.self_training.cross_validation.checks import require_configurations, require_patients
from crossmoda.self_training.cross_validation.outputs import best_overlay, write_best
from crossmoda.self_training.cross_validation.work import CrossValidation

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.usefixtures("in_the_repository")]

BUNDLE = BUNDLES / "vs_cochlea_hrt2_segmentation"
ONE_TUMOUR = {
    "_target_": "crossmoda.segmentation.anatomy.KeepOneTumourd",
    "keys": "pred",
    "structures": "@structures",
}
POINTWISE = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
TINY: dict[str, Any] = {
    "folds": 2,
    "sections": ["source"],
    "settings": {"spacing": [1.6, 1.6, 3.0], "crop_size": [48, 32], "patch_size": [32, 32, 8]},
    "train": {"iterations_per_epoch": 2, "max_epochs": 1, "batch_size": 1},
    "inference": {"amp": False, "flips": []},
    "configurations": {
        "pointwise": {"settings": {"network_def": POINTWISE}},
        "dynunet": {"settings": {"network_def::filters": [4, 8, 12, 16]}},
        "smoothed": {  # differs from the one before it in prediction alone
            "settings": {"network_def::filters": [4, 8, 12, 16]},
            "inference": {"flips": [[0]]},
        },
    },
    "postprocessing": {"one_tumour": [ONE_TUMOUR]},
}


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "cross_validation.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def two_views(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of two patients, each in two views."""
    folder = tmp_path_factory.mktemp("two_views")
    datalist = load_datalist(tiny_dataset)
    items = [{**item, "view": view} for view in ("cyclegan", "cut") for item in datalist["source"]]
    save_datalist(folder / "datalist.json", {**datalist, "source": items})
    return folder / "datalist.json"


@pytest.fixture(scope="module")
def finished(two_views: Path, tmp_path_factory: pytest.TempPathFactory, in_the_repository: None) -> Path:
    """A whole cross-validation; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    table = cross_validate(two_views, folder / "out", write_config(folder), "cpu")
    assert (folder / "out" / "cross_validation.md").read_text() == table
    return folder / "out"


def test_every_patient_is_judged_once_by_each_network_with_all_views_by_weights_that_have_not_seen_it(
    finished: Path,
) -> None:
    told = read_json(finished / "cross_validation.json")
    assert sorted(told["patients"].values()) == [0, 1]
    for name in TINY["configurations"]:
        own = [c for c in told["cases"] if c["configuration"] == name and c["postprocessing"] == "none"]
        assert len({(case["case"], case["view"]) for case in own}) == len(own) == 4
        assert all(case["fold"] == told["patients"][case["case"]] for case in own)
    for fold in range(2):
        folder = finished / "dynunet" / f"fold_{fold}"
        learnt = read_json(folder / "manifest.json")["steps"]["segmenter"]["config"]["train"]
        assert (learnt["fold"], learnt["folds"], learnt["seed"]) == (
            fold,
            2,
            told["seed"],
        )  # what train.yaml leaves out
        assert read_json(folder / "segmenter" / "model.json")["fold"] == fold
    for case, fold in told["patients"].items():
        predicted = finished / "dynunet" / f"fold_{fold}" / "predictions"
        assert sorted(path.name for path in predicted.iterdir()) == [
            f"{case}_cut_Label.nii.gz",
            f"{case}_cyclegan_Label.nii.gz",
        ]


def test_configurations_that_differ_in_prediction_alone_share_one_training(finished: Path) -> None:
    assert (finished / "dynunet" / "fold_1" / "segmenter" / "model.pt").is_file()
    assert not (finished / "smoothed" / "fold_1" / "segmenter").exists()
    weights = read_json(finished / "cross_validation.json")["weights"]
    files = {(w["configuration"], w["fold"]): w["file"] for w in weights}
    assert files["smoothed", 1] == files["dynunet", 1] == "dynunet/fold_1/segmenter/model.pt"


def test_all_figures_are_written_and_the_chosen_row_is_marked(finished: Path) -> None:
    told = read_json(finished / "cross_validation.json")
    assert len(told["results"]) == 3 * 2
    chosen = told["chosen"]
    assert chosen["dice"] == max(result["dice"] for result in told["results"])
    marked = [line for line in (finished / "cross_validation.md").read_text().splitlines() if "(chosen)" in line]
    assert len(marked) == 1
    assert f"**{chosen['configuration']}** (chosen) | **{chosen['postprocessing']}**" in marked[0]
    assert (finished / "cross_validation.png").read_bytes()[:4] == b"\x89PNG"


class Calls:
    """Count the workflows that are run; optionally stop before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        self.kinds: list[str] = []
        original = BundleUse.run

        def run(use: BundleUse, kind: str, device: Any, **places: Any) -> None:
            if len(self.kinds) == stop_at:
                raise KeyboardInterrupt
            self.kinds.append(kind)
            original(use, kind, device, **places)

        monkeypatch.setattr(BundleUse, "run", run)


def test_a_second_call_trains_and_predicts_nothing_and_writes_the_same(
    finished: Path, two_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")  # as a folder that has been moved
    calls = Calls(monkeypatch)
    cross_validate(two_views, out, write_config(tmp_path), "cpu")
    assert calls.kinds == []
    for name in ("cross_validation.json", "cross_validation.md", "cross_validation.png"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    assert yaml.safe_load((out / "best.yaml").read_text())["cross_validation_dir"] == str(out)


def test_a_new_candidate_costs_no_prediction(
    finished: Path, two_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    calls = Calls(monkeypatch)
    more = {**TINY["postprocessing"], "twice": [ONE_TUMOUR, ONE_TUMOUR]}
    cross_validate(two_views, out, write_config(tmp_path, postprocessing=more), "cpu")
    assert calls.kinds == []
    assert len(read_json(out / "cross_validation.json")["results"]) == 3 * 3


def test_a_run_that_is_cut_off_goes_on_where_it_was(
    two_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, configurations={"pointwise": TINY["configurations"]["pointwise"]})
    with monkeypatch.context() as patch:
        Calls(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(two_views, tmp_path / "out", config, "cpu")
    assert not (tmp_path / "out" / "best.yaml").exists()
    calls = Calls(monkeypatch)
    cross_validate(two_views, tmp_path / "out", config, "cpu")
    assert calls.kinds == ["inference"]  # two trainings and one prediction were there


def test_a_damaged_fold_is_trained_again_alone(
    finished: Path, two_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    weights = out / "pointwise" / "fold_1" / "segmenter" / "model.pt"
    whole = torch.load(weights, weights_only=True)
    weights.write_bytes(weights.read_bytes()[:-100])
    calls = Calls(monkeypatch)
    cross_validate(two_views, out, write_config(tmp_path), "cpu")
    assert calls.kinds[0] == "train"
    assert calls.kinds.count("train") == 1
    torch.testing.assert_close(torch.load(weights, weights_only=True), whole, rtol=0, atol=0)


# --- What best.yaml predicts ---


def threshold_weights(path: Path, vs: float, cochlea: float) -> Path:
    """Write a pointwise network that begins the VS and, brighter, the cochlea at intensities (z-scores)."""
    network = nn.Conv3d(1, 3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 4.0, 9.0]).view(3, 1, 1, 1, 1))
        network.bias.copy_(torch.tensor([0.0, -4 * vs, -4 * vs - 5 * cochlea]))
    save_weights(network, path, {"structures": ["vs", "cochlea"], "spacing": [1.6, 1.6, 3.0]})
    return path


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("thresholds")
    pairs = ((0.31, 1.52), (0.93, 1.87))
    return [threshold_weights(folder / f"c/fold_{i}/model.pt", *pair) for i, pair in enumerate(pairs)]


def test_left_out_scans_are_predicted_without_postprocessing(
    tiny_dataset: Path, thresholds: list[Path], tmp_path: Path
) -> None:
    save_datalist(tmp_path / "datalist.json", load_datalist(tiny_dataset))
    settings = read_settings(write_config(tmp_path))
    patients = require_patients(tmp_path / "datalist.json", settings)
    work = CrossValidation(tmp_path, tmp_path / "datalist.json", settings, patients, torch.device("cpu"))
    shutil.copytree(thresholds[0].parent, work.weights("pointwise", 0).parent)
    work.folder("pointwise", 0).do(work.prediction("pointwise", 0))
    (path,) = (tmp_path / "pointwise" / "fold_0" / "predictions").iterdir()
    assert ndimage.label(read_volume(path).array == 1, np.ones((3, 3, 3)))[1] > 1


def mean_of_folds(dataset: Path, thresholds: list[Path]) -> dict[str, torch.Tensor]:
    """Return the label maps that the folds' averaged probabilities give, by steps of plain ``inference.yaml``."""
    settings = {**TINY["settings"], "network_def": POINTWISE, "device": "cpu", "sections": ["validation"]}
    workflow = workflow_of(BUNDLE / "configs", "inference", "inference", dataset_dir=dataset, **settings)
    labels = {}
    for item in workflow.dataset:
        logits = []
        for path in thresholds:
            workflow.network_def.load_state_dict(torch.load(path, weights_only=True))
            logits.append(workflow.network_def(item["image"][None])[0].detach())
        mean = torch.stack([torch.softmax(values, dim=0) for values in logits]).mean(dim=0)
        pred = item["image"].new_empty(mean.shape)
        pred.copy_(mean)
        own = workflow.parser.get_parsed_content("to_own_grid")({**item, "pred": pred})["pred"]
        labels[item["case"]] = own.argmax(dim=0, keepdim=True)
    return labels


@pytest.mark.parametrize("transforms", [[ONE_TUMOUR], []], ids=["one tumour", "none"])
def test_best_yaml_predicts_the_folds_mean_with_the_chosen_postprocessing_voxel_by_voxel(
    transforms: list[dict[str, Any]], tiny_dataset: Path, thresholds: list[Path], tmp_path: Path
) -> None:
    settings = read_settings(write_config(tmp_path))
    use, output = settings.configurations["pointwise"], thresholds[0].parents[2]
    result: Any = type("Result", (), {"configuration": "pointwise", "postprocessing": "one_tumour", "dice": 1.0})
    write_best(tmp_path / "best.yaml", best_overlay(use, transforms, thresholds, output), result, use.root)

    # With nothing named but the files; the loop's own way to use a bundle.
    best = BundleUse(str(BUNDLE), inference_overlays=["ensemble.yaml", str(tmp_path / "best.yaml")])
    best.config("inference")
    places = {"dataset_dir": str(tiny_dataset), "sections": ["validation"], "output_dir": str(tmp_path / "out")}
    best.run("inference", torch.device("cpu"), **places)

    keep = KeepOneTumourd("pred", ["vs", "cochlea"])
    by_hand = mean_of_folds(tiny_dataset, thresholds)
    assert len(by_hand) == 2
    for case, label in by_hand.items():
        predicted = read_volume(tmp_path / "out" / f"{case}_Label.nii.gz").array
        expected = keep({"pred": label})["pred"] if transforms else label
        np.testing.assert_array_equal(predicted, expected.numpy()[0])
        assert ndimage.label(label.numpy()[0] == 1, np.ones((3, 3, 3)))[1] > 1  # there was something to take away
        assert {1.0, 2.0} <= set(np.unique(predicted))


def test_a_moved_folder_takes_one_override(tiny_dataset: Path, thresholds: list[Path], tmp_path: Path) -> None:
    moved = shutil.copytree(thresholds[0].parents[2], tmp_path / "moved")
    use = read_settings(write_config(tmp_path)).configurations["pointwise"]
    overlay = best_overlay(use, [], thresholds, thresholds[0].parents[2])
    overlay["cross_validation_dir"] = "/nowhere"
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(overlay))
    files = [BUNDLE / "configs" / "inference", BUNDLE / "configs" / "ensemble", tmp_path / "best"]
    workflow = workflow_of(
        Path("/"), [str(file) for file in files], "inference", cross_validation_dir=moved, dataset_dir=tiny_dataset
    )
    assert workflow.parser.get_parsed_content("members") == [str(moved / f"c/fold_{i}/model.pt") for i in range(2)]


@pytest.mark.parametrize("fault", ["cut off", "of another network", "gone"])
def test_a_corrupt_fold_stops_a_prediction_by_best_yaml_before_the_first_scan(
    fault: str, finished: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    overlay = yaml.safe_load((out / "best.yaml").read_text())
    chosen = read_json(out / "cross_validation.json")["chosen"]["configuration"]
    weights = Path(overlay["members"][1].split("'")[1].lstrip("/"))
    other = "pointwise" if chosen != "pointwise" else "dynunet"
    if fault == "cut off":
        (out / weights).write_bytes((out / weights).read_bytes()[:-100])
    elif fault == "of another network":
        shutil.copy(out / other / "fold_1" / "segmenter" / "model.pt", out / weights)
    else:
        (out / weights).unlink()
    reasons = {"cut off": "not a file of weights", "of another network": "another network", "gone": "no weights there"}
    best = BundleUse(str(BUNDLE), inference_overlays=["ensemble.yaml", str(out / "best.yaml")])
    places = {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path / "pred"), "cross_validation_dir": str(out)}
    with pytest.raises(CrossmodaError, match=reasons[fault]) as caught:
        best.run("inference", torch.device("cpu"), **places)
    assert "fold_1/segmenter/model.pt" in str(caught.value)
    assert not (tmp_path / "pred").exists()


# --- Wrong input, before any training ---


def no_structure_in_a_fold(datalist: dict[str, Any], folder: Path) -> None:
    """Take the cochleae out of one patient's label."""
    item = datalist["source"][0]
    volume = read_volume(item["label"])
    item["label"] = str(folder / "without_Label.nii.gz")
    write_volume(item["label"], np.where(volume.array == 2, 0, volume.array).astype(np.uint8), volume.affine)


def shifted_label(datalist: dict[str, Any], folder: Path) -> None:
    item = datalist["source"][0]
    volume = read_volume(item["label"])
    item["label"] = str(folder / "shifted_Label.nii.gz")
    write_volume(item["label"], volume.array.astype(np.uint8), volume.affine + np.eye(4)[:, [3, 0, 1, 2]])


def cut_off_label(datalist: dict[str, Any], folder: Path) -> None:
    item = datalist["source"][0]
    content = Path(item["label"]).read_bytes()
    item["label"] = str(folder / "cut_Label.nii.gz")
    Path(item["label"]).write_bytes(content[: len(content) // 2])


def unlabelled(datalist: dict[str, Any], folder: Path) -> None:
    for item in datalist["source"]:
        del item["label"]


def one_patient(datalist: dict[str, Any], folder: Path) -> None:
    del datalist["source"][1:]


def predicted_labels(datalist: dict[str, Any], folder: Path) -> None:
    datalist["source"][0]["provenance"] = {"status": "pseudo"}


DATA_FAULTS: dict[str, tuple[Callable[[dict[str, Any], Path], None], str]] = {
    "no structure": (no_structure_in_a_fold, r"fold \d \(\w+\): no label shows cochlea"),
    "label on another grid": (shifted_label, r"shifted_Label\.nii\.gz: lies on another grid"),
    "damaged label": (cut_off_label, r"cut_Label\.nii\.gz: truncated or damaged"),
    "no labels": (unlabelled, "no labelled case in source"),
    "too few patients": (one_patient, "labels of 1 patient, too few for 2 folds; add labelled scans"),
    "nobody to judge by": (predicted_labels, r"fold \d: no case whose label a person made"),
}


def expect_one_line(match: str, dataset: Path, config: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run and expect one line and no training."""
    calls = Calls(monkeypatch)
    with pytest.raises(CrossmodaError, match=match) as caught:
        cross_validate(dataset, out, config, "cpu")
    assert "\n" not in str(caught.value)
    assert calls.kinds == []


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_data_that_cannot_be_judged_stop_before_any_training(
    fault: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, match = DATA_FAULTS[fault]
    datalist = load_datalist(tiny_dataset)
    spoil(datalist, tmp_path)
    save_datalist(tmp_path / "datalist.json", datalist)
    config = write_config(tmp_path)
    expect_one_line(match, tmp_path / "datalist.json", config, tmp_path / "out", monkeypatch)


def only(**configuration: Any) -> dict[str, Any]:
    return {"configurations": {"a": configuration}}


def test_an_overlay_that_acts_before_labels_are_decided_may_be_compared(tmp_path: Path, tiny_dataset: Path) -> None:
    settings = read_settings(write_config(tmp_path, **only(inference_overlays=["crf.yaml"])))
    datalist = load_datalist(tiny_dataset)
    save_datalist(tmp_path / "datalist.json", datalist)
    require_configurations(settings, tmp_path / "datalist.json", torch.device("cpu"))


CONFIG_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "network": (
        only(settings={"network_def": {"_target_": "DynUNett"}}),
        r"configuration 'a': Cannot locate class or function path: 'DynUNett'; correct the name",
    ),
    "class count": (
        only(settings={"network_def": {**POINTWISE, "out_channels": 4}}),
        r"configuration 'a': network_def::out_channels is 4, but background and structures",
    ),
    "patch": (only(settings={"patch_size": [30, 32, 8]}), r"configuration 'a': patch_size \[30, 32, 8\] does not fit"),
    "key": (
        only(train={"max_epoch": 3}),
        r"configuration 'a': settings: no such key 'max_epoch' in .*/train\.yaml; did you mean 'max_epochs'\?",
    ),
    "overlay": (only(overlays=["variant_none.yaml"]), r"configuration 'a': variant_none\.yaml: no such configuration"),
    "network in training alone": (
        only(train_overlays=["variant_unet2d5.yaml"]),
        "configuration 'a': network_def differs between training and inference",
    ),
    "overlay that averages otherwise": (only(inference_overlays=["votes.yaml"]), "'inferer' is changed"),
    "post-processing in a configuration": (only(inference_overlays=["anatomy.yaml"]), "use 'postprocessing'"),
    "fold in a configuration": (only(train={"fold": 1}), "'fold' cannot be one of the settings"),
    "loss": (
        only(train={"loss_def::loss::loss": {"_target_": "NoLoss"}}),
        r"Cannot locate class or function path: 'NoLoss'; correct the name",
    ),
    "entry": ({**only(), "fold": 3}, r"no such key 'fold'; did you mean 'folds'\?"),
    "entry of a configuration": (
        only(overlay="x"),
        r"configuration 'a': no such key 'overlay'; did you mean 'overlays'\?",
    ),
    "name": ({"configurations": {"a/b": {}}}, "the name 'a/b' must be made of"),
    "no configuration": ({"configurations": {}}, "must name at least one network"),
    "folds": ({"folds": 1}, "folds is 1; give 2 or more"),
    "structures": ({"structures": ["vs", "nerve"]}, "structure 'nerve'"),
    "no structures": ({"structures": "vs"}, "structures is 'vs'; give a list of names"),
    "transform": ({"postprocessing": {"p": [{"_target_": "KeepTwod"}]}}, r"post-processing 'p': .*KeepTwod"),
    "key of a transform": (
        {"postprocessing": {"p": [{**ONE_TUMOUR, "keys": "prediction"}]}},
        "post-processing 'p': .*prediction",
    ),
    "no label map": (
        {"postprocessing": {"p": [{"_target_": "AsDiscreted", "keys": "pred", "to_onehot": 3}]}},
        r"post-processing 'p': makes \(3, 6, 5, 4\) of a label map \(1, 6, 5, 4\)",
    ),
    "none": ({"postprocessing": {"none": [ONE_TUMOUR]}}, "'none' must be an empty list"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_what_cannot_be_compared_is_named_before_any_training(
    fault: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, match = CONFIG_FAULTS[fault]
    expect_one_line(match, tiny_dataset, write_config(tmp_path, **changes), tmp_path / "out", monkeypatch)


def test_scans_without_a_structure_or_smaller_than_the_patch_are_named_and_used(
    two_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datalist = load_datalist(two_views)
    no_structure_in_a_fold(datalist, tmp_path)  # in one view of two, so that its fold can be judged
    save_datalist(tmp_path / "datalist.json", datalist)
    settings = {**TINY["settings"], "patch_size": [64, 32, 8]}  # 64 voxels are 102 mm, the scans 90
    configurations = {"pointwise": TINY["configurations"]["pointwise"]}
    config = write_config(tmp_path, settings=settings, configurations=configurations)
    cross_validate(tmp_path / "datalist.json", tmp_path / "out", config, "cpu")
    warnings = read_json(tmp_path / "out" / "cross_validation.json")["warnings"]
    assert any("without_Label.nii.gz: shows no cochlea" in line for line in warnings)
    assert any("patch_size [64, 32, 8] is larger than 4 of 4 scans" in line for line in warnings)
    assert all(line in (tmp_path / "out" / "cross_validation.md").read_text() for line in warnings)


def test_the_command_reports_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cross_validate", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "out")]
    assert main(command) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "nowhere" in printed
    assert printed.count("\n") == 1


def test_the_file_that_comes_with_the_project_names_networks_and_postprocessings_that_can_be_built(
    repository: Path, tiny_dataset: Path
) -> None:
    settings = read_settings(repository / "configs" / "cross_validation.yaml")
    assert settings.folds == 5
    assert next(iter(settings.postprocessing)) == "none"
    require_configurations(settings, tiny_dataset, torch.device("cpu"))


def test_the_anatomy_that_is_tried_is_that_of_the_overlay(repository: Path) -> None:
    configs = repository / "bundles" / "vs_cochlea_hrt2_segmentation" / "configs"
    parser = ConfigParser()
    parser.read_config([configs / "inference.yaml", configs / "anatomy.yaml"])
    applied = [step for key in ("remove_small", "check_anatomy") for step in parser.get_parsed_content(key).transforms]
    listed = yaml.safe_load((repository / "configs" / "cross_validation.yaml").read_text())["postprocessing"]["anatomy"]
    tried = ConfigParser({"structures": ["vs", "cochlea"], "steps": listed}).get_parsed_content("steps")
    assert [type(step).__name__ for step in applied] == [*(type(step).__name__ for step in tried), "CheckAnatomyd"]
    for one, other in zip(applied, tried, strict=False):
        assert vars(one.transform) == vars(other.transform)


def test_an_overlay_counts_more_than_common_settings_and_a_configuration_s_own_most(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"patch_size": [48, 48, 8], "crop_size": [64, 64]}))
    own = {"overlays": [str(tmp_path / "plan.yaml")], "settings": {"crop_size": [80, 80]}}
    use = read_settings(write_config(tmp_path, configurations={"planned": own})).configurations["planned"]
    for kind in ("train", "inference"):
        config = use.config(kind)
        assert (config["spacing"], config["patch_size"]) == ([1.6, 1.6, 3.0], [48, 48, 8])
        assert config["crop_size"] == [80, 80]
