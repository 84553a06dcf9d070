"""Structures learnt apart, from files to files: trained, gone on with, merged, refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from support import TINY_SEGMENTER, interrupt, workflow_of

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.volumes import read_volume, same_grid, write_volume
from crossmoda.engines import load_weights
from crossmoda.errors import find_user_error
from crossmoda.files import read_json
from crossmoda.segmentation.apart import ApartTraining, MemberNetworks, apart_network
from crossmoda.segmentation.apart import training as apart_training
from crossmoda.segmentation.apart.members import Member
from crossmoda.segmentation.merging import MergeStructures
from crossmoda.self_training.bundles import BundleUse

pytestmark = pytest.mark.usefixtures("in_the_repository", "one_thread")

BUNDLE = "vs_cochlea_hrt2_segmentation"
SMALL = {"network_def::filters": [4, 4, 8, 8]}
MEMBERS: dict[str, Any] = {
    "tumour": {
        "structures": ["vs"],
        "overlays": ["prepare_deconvolved.yaml"],
        "settings": {**SMALL, "deconvolution_iterations": 2, "spacing": [1.4, 1.5, 2.5]},
        "inference_overlays": ["prepare_deconvolved.yaml"],
        "inference_settings": {**SMALL, "deconvolution_iterations": 2, "amp": False},
    },
    "cochleae": {
        "structures": ["cochlea"],
        "overlays": ["prepare_clipped.yaml"],
        "settings": {**SMALL, "max_epochs": 3},
        "inference_overlays": ["prepare_clipped.yaml"],
        "inference_settings": SMALL,
    },
}
TINY: dict[str, Any] = {**TINY_SEGMENTER, "device": "cpu", "max_epochs": 2, "members": MEMBERS}


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """Return the members with some settings of one replaced."""
    return {**MEMBERS, name: {**MEMBERS[name], **changes}}


def train(configs: Path, dataset: Path, output: Path, **changes: Any) -> None:
    settings = {**TINY, "dataset_dir": dataset, "output_dir": output, **changes}
    workflow_of(configs, ["train", "apart"], "train", **settings).run()


@pytest.fixture(scope="module")
def trained(configs: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of two members of two and three epochs."""
    output = tmp_path_factory.mktemp("apart")
    train(configs, tiny_dataset, output)
    return output


def test_the_weights_are_all_members_and_the_sidecar_says_how_they_predict(trained: Path, configs: Path) -> None:
    made = read_json(trained / "model.json")
    assert made["structures"] == ["vs", "cochlea"]
    members = made["apart"]["members"]
    assert list(members) == ["tumour", "cochleae"]
    assert members["tumour"]["structures"] == ["vs"]
    assert members["tumour"]["inference_overlays"] == ["prepare_deconvolved.yaml"]
    assert members["tumour"]["inference_settings"]["spacing"] == [1.4, 1.5, 2.5]
    assert members["cochleae"]["inference_settings"] == {
        **SMALL,
        "spacing": [1.6, 1.6, 3.0],
        "crop_size": [48, 32],
        "patch_size": [32, 32, 8],
    }
    assert "VanCittert" in members["tumour"]["model"]["agreed"]["prepare"][0]
    state = torch.load(trained / "model.pt", weights_only=True)
    for name in members:
        own = torch.load(trained / "members" / name / "model.pt", weights_only=True)
        assert all(torch.equal(value, state[f"members.{name}.{key}"]) for key, value in own.items())
    assert len(state) == 2 * len(own)
    network = load_weights(apart_network(configs.parent, trained / "model.pt"), trained / "model.pt")
    assert isinstance(network, MemberNetworks)


def test_the_history_has_the_members_curves_and_their_mean(trained: Path) -> None:
    """The tumour's member ends after 2 epochs of 3, and keeps its last loss in the mean."""
    history = read_json(trained / "history.json")
    first, second = (read_json(trained / "members" / name / "history.json")["series"]["loss"] for name in MEMBERS)
    assert history["epoch"] == [1, 2, 3]
    assert history["series"]["loss_tumour"] == [*first, None]
    assert history["series"]["loss_cochleae"] == second
    assert history["series"]["loss"] == pytest.approx(
        [(first[0] + second[0]) / 2, (first[1] + second[1]) / 2, (first[1] + second[2]) / 2]
    )


def flipped_scan(path: Path, tiny_dataset: Path) -> Path:
    """Write a scan whose voxel axes run to the left, anterior and up in another order, unequally spaced."""
    scan = read_volume(load_datalist(tiny_dataset)["validation"][0]["image"])
    array = np.asarray(scan.array, dtype=np.float32).transpose(2, 0, 1)[:, ::-1]
    permuted = np.asarray(scan.affine)[:, [2, 0, 1, 3]].copy()
    permuted[:3, 3] += permuted[:3, 1] * (array.shape[1] - 1)
    permuted[:3, 1] *= -1
    write_volume(path, np.ascontiguousarray(array), permuted)
    return path


def predict(configs: Path, names: list[str], folder: Path, output: Path, weights: Path, **settings: Any) -> Any:
    """Return the labels and the probabilities of the one scan of a folder; the choice of a tumour is left out."""
    kept = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda label: label"}
    places = {"dataset_dir": folder, "output_dir": output, "weights": weights, "sections": ["target"]}
    workflow = workflow_of(
        configs, ["inference", *names], "inference", **{"device": "cpu", "keep_one_tumour": kept, **places, **settings}
    )
    workflow.run()
    return read_volume(output / "scan_Label.nii.gz")


def labels_apart_and_merged(configs: Path, tiny_dataset: Path, trained: Path, place: Path) -> Any:
    """Return the members' own label maps of a scan, merged, beside the label map of the merged probabilities."""
    scan = flipped_scan(place / "scans" / "scan_hrT2.nii.gz", tiny_dataset)
    labels = []
    for name, member in read_json(trained / "model.json")["apart"]["members"].items():
        overlays = [Path(file).stem for file in member["inference_overlays"]]
        settings = {**member["inference_settings"], "structures": member["structures"]}
        weights = trained / "members" / name / "model.pt"
        found = predict(configs, overlays, scan.parent, place / name, weights, **settings)
        labels.append(torch.from_numpy(np.asarray(found.array, dtype=np.uint8))[None])
    merged = predict(configs, ["inference_apart"], scan.parent, place / "out", trained / "model.pt")
    assert same_grid(place / "out" / "scan_Label.nii.gz", scan)
    assert int(((labels[0] > 0) & (labels[1] > 0)).sum()) > 100  # claimed by both
    expected = MergeStructures([["vs"], ["cochlea"]], ["vs", "cochlea"])(labels)[0].numpy()
    assert min(np.bincount(expected.ravel(), minlength=3)) > 100
    return expected, np.asarray(merged.array)


def test_the_merged_labels_are_those_of_the_members_on_their_own(
    configs: Path, tiny_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    expected, merged = labels_apart_and_merged(configs, tiny_dataset, trained, tmp_path)
    np.testing.assert_array_equal(merged, expected)


@pytest.mark.slow
def test_nnunet_may_be_a_member(
    configs: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other member is kept from a training without nnU-Net; on the way back, both are merged as label maps are."""
    pytest.importorskip("nnunetv2")
    settings = {"train_folds": "all", "trainer": "nnUNetTrainerNoMirroring", "num_workers": 0}
    nnunet = {
        "structures": ["vs"],
        "overlays": ["nnunet.yaml", "prepare_deconvolved.yaml"],
        "settings": {**settings, "deconvolution_iterations": 2},
        "inference_overlays": ["inference_nnunet.yaml", "prepare_deconvolved.yaml"],
        "inference_settings": {"mirroring": False, "deconvolution_iterations": 2},
    }
    small = {"memory_gb": 0.05, "validation_iterations": 1, "keep_preprocessed": False, "max_epochs": 1}
    out = tmp_path / "run"
    train(configs, tiny_dataset, out, members={**MEMBERS, "tumour": nnunet}, **small)
    made = read_json(out / "model.json")["apart"]["members"]["tumour"]
    assert made["model"]["nnunet"]["members"][0]["folds"] == ["all"]
    assert not (out / "members" / "tumour" / "predictions").exists()
    assert read_json(out / "history.json")["series"]["loss_tumour"][0] is not None
    expected, merged = labels_apart_and_merged(configs, tiny_dataset, out, tmp_path)
    np.testing.assert_array_equal(merged, expected)
    seen = watch(monkeypatch)
    train(configs, tiny_dataset, out, members={**MEMBERS, "tumour": nnunet}, **small)
    assert seen == []


def test_mirrored_copies_are_averaged_and_the_uncertainty_lies_on_the_scan_s_grid(
    configs: Path, tiny_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    scan = flipped_scan(tmp_path / "scans" / "scan_hrT2.nii.gz", tiny_dataset)
    predict(
        configs, ["inference_apart", "uncertainty", "crf"], tmp_path / "scans", tmp_path / "out", trained / "model.pt"
    )
    uncertainty = tmp_path / "out" / "uncertainty" / "scan_uncertainty.nii.gz"
    assert same_grid(uncertainty, scan)
    values = np.asarray(read_volume(uncertainty).array)
    assert 0 <= values.min() < 0.01
    assert 0.3 < values.max() <= 1
    assert 0 < read_json(tmp_path / "out" / "uncertainty" / "uncertainty.json")["scan"] < 1


def watch(monkeypatch: pytest.MonkeyPatch, cut_off: int | None = None) -> list[str]:
    """Return the list of members that will be trained, one of which may be cut off in its second epoch."""
    run, seen = apart_training.run_workflow, []

    def stand_in(workflow: Any) -> None:
        workflow.initialize()
        seen.append(Path(workflow.parser.get_parsed_content("output_dir")).name)
        if len(seen) != cut_off:
            run(workflow)
            return
        trainer = workflow.parser.get_parsed_content("train::trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), interrupt)
        workflow.run()

    monkeypatch.setattr(apart_training, "run_workflow", stand_in)
    return seen


def test_an_interrupted_training_goes_on_where_it_was_and_keeps_what_is_finished(
    configs: Path,
    tiny_dataset: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        seen = watch(patched, cut_off=2)
        with pytest.raises(KeyboardInterrupt):
            train(configs, tiny_dataset, tmp_path)
        assert seen == ["tumour", "cochleae"]
    assert not (tmp_path / "model.pt").exists()
    assert read_json(tmp_path / "members" / "cochleae" / "history.json")["epoch"] == [1]
    seen = watch(monkeypatch)
    with caplog.at_level(logging.INFO, "crossmoda.engines.state"):
        train(configs, tiny_dataset, tmp_path)
    assert seen == ["cochleae"]
    assert [record.message for record in caplog.records if "after epoch 1" in record.message]
    unbroken, resumed = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    seen.clear()
    train(configs, tiny_dataset, tmp_path)
    assert seen == []
    train(
        configs,
        tiny_dataset,
        tmp_path,
        members=changed("tumour", settings={**MEMBERS["tumour"]["settings"], "seed": 5}),
    )
    assert seen == ["tumour"]
    seen.clear()
    train(configs, tiny_dataset, tmp_path, fingerprint="another", resume=False)
    assert seen == ["tumour", "cochleae"]
    assert read_json(tmp_path / "model.json")["config_hash"] == "another"


def views(tiny_dataset: Path, folder: Path) -> Path:
    """Write a datalist with a scan as it is, its rendering, and an augmented copy of that; one labelled target scan."""
    datalist = load_datalist(tiny_dataset)
    labelled = datalist["source"][0]
    renderings = [{**labelled, "view": view} for view in ("", "cut", "cut+dark")]
    target = [{**datalist["target"][0], "image": labelled["image"], "label": labelled["label"]}]
    save_datalist(folder / "datalist.json", {**datalist, "source": renderings, "target": target})
    return folder / "datalist.json"


def test_an_augmented_copy_teaches_the_members_of_the_structure_that_it_alters() -> None:
    altered = [{"view": "cut+x", "augmentation": {"structure": name}} for name in ("vs", "cochlea")]
    members = [Member("a", structures=names) for names in (["vs"], ["cochlea"], ["intra"], ["vs", "cochlea"])]
    learnt = [[member.learns_from(item) for item in altered] for member in members]
    assert learnt == [[True, False], [False, True], [True, False], [True, True]]


def test_a_member_learns_from_the_renderings_that_it_asks_for(
    configs: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApartTraining, "_train", lambda self, member, key: None)
    monkeypatch.setattr(ApartTraining, "_export", lambda self: None)
    file = views(tiny_dataset, tmp_path)
    learnt = {}
    for items in ("all", "augmented", "translated"):
        train(configs, file, tmp_path / items, members=changed("cochleae", items=items))
        for name in MEMBERS:
            found = load_datalist(tmp_path / items / "members" / name / "datalist.json")
            learnt[items, name] = [item["view"] for item in found["source"]]
            assert len(found["target"]) == 1
    assert learnt["all", "cochleae"] == learnt["augmented", "tumour"] == ["", "cut", "cut+dark"]
    assert learnt["augmented", "cochleae"] == ["", "cut+dark"]
    assert learnt["translated", "cochleae"] == ["", "cut"]


def test_a_member_without_anything_to_learn_from_is_told_of_before_any_is_trained(
    configs: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    datalist = load_datalist(views(tiny_dataset, tmp_path))
    save_datalist(tmp_path / "datalist.json", {**datalist, "source": datalist["source"][1:2], "target": []})
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, tmp_path / "datalist.json", tmp_path, members=changed("cochleae", items="augmented"))
    assert "no labelled item for members::cochleae with items: augmented" in str(find_user_error(caught.value))
    assert seen == []


def test_a_training_may_begin_with_the_members_of_another(
    configs: Path, tiny_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    still = {"initial_weights": str(trained / "model.pt"), "learning_rate": 0.0}
    train(configs, tiny_dataset, tmp_path, **still)
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    for name in first:  # the moving average of equal weights rounds
        torch.testing.assert_close(second[name], first[name])


PATCH = {"settings": {**SMALL, "patch_size": [30, 32, 8]}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structures": ["vs", "cochlea", "extra"]}, "each structure must come from one member"),
        ({"members": changed("cochleae", structures=["vs", "cochlea"])}, "each structure must come from one member"),
        ({"members": {}}, "members: none is given"),
        ({"members": {"a.b": {"structures": ["vs"]}}}, "'a.b' is no name for a folder"),
        ({"members": changed("cochleae", items="blended")}, "items 'blended' is unknown; choose all, augmented"),
        ({"members": changed("cochleae", overlay=[])}, "no such key 'overlay'; did you mean 'overlays'?"),
        ({"members": changed("cochleae", overlays=["nothing.yaml"])}, "nothing.yaml: no such configuration file"),
        ({"members": changed("cochleae", settings={"epochs": 3})}, "epochs is no key of train.yaml and the overlays"),
        ({"members": changed("cochleae", inference_settings={"cut": 3})}, "cut is no key of inference.yaml"),
        ({"members": changed("cochleae", **PATCH)}, "patch_size [30, 32, 8] does not fit network_def"),
        ({"members": changed("cochleae", inference_overlays=[])}, "members::cochleae: trained with {'prepare'"),
        ({"members": changed("cochleae", inference_settings={})}, "predicts with another network than it trains"),
        (
            {"members": changed("cochleae", inference_overlays=["prepare_clipped.yaml", "crf.yaml"])},
            "inference_overlays change postprocessing, which the merged prediction has alone",
        ),
        (
            {"members": changed("cochleae", settings={"prepare": [{"_target_": "ScaleIntensity"}]})},
            "prepare holds a component; put it into an overlay file",
        ),
        (
            {"members": changed("cochleae", overlays=["nnunet.yaml", "prepare_clipped.yaml"], settings={})},
            "nnunet.yaml and inference_nnunet.yaml go together",
        ),
        ({"initial_weights": "nothing.pt"}, "nothing.pt: no weights there"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_member_is_trained(
    configs: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    message: str,
) -> None:
    seen = watch(monkeypatch)
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, tiny_dataset, tmp_path, **settings)
    assert message in str(find_user_error(caught.value))
    assert seen == []


def test_several_processes_are_refused(
    configs: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, tiny_dataset, tmp_path)
    assert "trains its members in one process" in str(find_user_error(caught.value))


def test_other_weights_structures_and_preparations_are_refused(
    configs: Path, tiny_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    wrong = [
        ({"weights": tmp_path / "model.pt"}, ["inference_apart"], "missing; train with apart.yaml first"),
        ({"weights": trained / "members" / "tumour" / "model.pt"}, ["inference_apart"], "not trained by apart.yaml"),
        ({"structures": ["cochlea", "vs"]}, ["inference_apart"], "segments ['vs', 'cochlea']; give these"),
        ({}, ["inference_apart", "prepare_clipped"], "trained with prepare []"),
    ]
    for settings, names, message in wrong:
        places = {"dataset_dir": tiny_dataset, "output_dir": tmp_path, "weights": trained / "model.pt", "device": "cpu"}
        with pytest.raises(Exception, match=r".") as caught:
            workflow_of(configs, ["inference", *names], "inference", **{**places, **settings}).run()
        assert message in str(find_user_error(caught.value))


def test_a_member_s_own_file_is_part_of_what_decides_a_round(configs: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "own.yaml"
    members = changed("cochleae", overlays=["prepare_clipped.yaml", str(overlay)])
    use = BundleUse(str(configs.parent), train={"members": members}, train_overlays=["apart.yaml"])
    overlay.write_text("weight_decay: 0.1\n")
    first = use.config("train")
    assert use.config("train") == first
    overlay.write_text("weight_decay: 0.25\n")
    assert use.config("train") != first


def test_members_and_nnunet_are_trained_in_one_process_whatever_the_loop_s_translators_take(configs: Path) -> None:
    root = str(configs.parent)
    apart = BundleUse(root, train={"members": MEMBERS}, train_overlays=["apart.yaml"], processes=2)
    nnunet = BundleUse(root, train_overlays=["nnunet.yaml"], processes=2)
    own = BundleUse(root, processes=2)
    assert [use.torchrun_processes for use in (apart, nnunet, own)] == [1, 1, 2]
