"""The app's tasks by themselves: order of cases, scores, and what is told of a training."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import UNet

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import PARTIAL_MARK, write_json, write_text

INFOS = {"b": {"uncertainty": 0.4}, "a": {}, "c": {"uncertainty": 0.6}, "d": {"uncertainty": 0.6}}


class FakeStore:
    """Images that nobody has touched."""

    def __init__(self, infos: dict[str, dict[str, Any]]) -> None:
        self.infos = infos

    def open_images(self) -> dict[str, dict[str, Any]]:
        return self.infos


pytestmark = pytest.mark.usefixtures("app_folder")


def task(name: str) -> Any:
    return importlib.import_module(f"lib.{name}")


def test_the_most_uncertain_case_comes_first_and_unmeasured_ones_last() -> None:
    order = task("strategies.order").Highest("uncertainty", "Most uncertain case first")
    assert order({}, FakeStore(INFOS)) == {"id": "c", "weight": 0.6}
    assert order({}, FakeStore({"a": {}, "b": {"uncertainty": 0.0}})) == {"id": "b", "weight": 0.0}
    assert order({}, FakeStore({"a": {}})) == {"id": "a", "weight": None}
    assert order({}, FakeStore({})) is None


def test_another_measure_gives_another_order_and_its_own_weight() -> None:
    infos = {"a": {"uncertainty": 0.9, "expected_change_ml": 0.1}, "b": {"uncertainty": 0.2, "expected_change_ml": 1.7}}
    order = task("strategies.order").Highest("expected_change_ml", "")
    assert order({}, FakeStore(infos)) == {"id": "b", "weight": 1.7}
    assert order({}, FakeStore({"z": {}, "y": {"expected_change_ml": None}})) == {"id": "y", "weight": None}


def test_the_first_case_is_the_first_by_name() -> None:
    assert task("strategies.order").First()({}, FakeStore(INFOS))["id"] == "a"


def test_random_order_hands_out_every_case_and_follows_its_seed() -> None:
    def draws(seed: int) -> list[str]:
        order = task("strategies.order").RandomOrder(np.random.default_rng(seed))
        return [order({}, FakeStore(INFOS))["id"] for _ in range(40)]

    assert set(draws(1)) == set(INFOS)
    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def write_history(folder: Path, epochs: int, dice: list[float | None]) -> None:
    series = {"loss": [1.0 / (epoch + 1) for epoch in range(epochs)], "val_mean_dice": dice}
    write_json(folder / "segmenter" / "history.json", {"epoch": list(range(1, epochs + 1)), "series": series})


def write_run_description(run: Path, *later_rounds: dict[str, Any]) -> None:
    """Write a ``run.yaml`` whose segmenter trains 8 epochs."""
    segmenter = {"root": "bundles/vs_cochlea_hrt2_segmentation", "train": {"max_epochs": 8}}
    settings = {
        "segmenter": {"_target_": "crossmoda.self_training.BundleUse", **segmenter},
        "rules": [],
        "later_rounds": [{"_target_": "crossmoda.self_training.FromRound", **change} for change in later_rounds],
    }
    write_text(run / "run.yaml", yaml.safe_dump({"trainer": settings}))


@pytest.mark.usefixtures("in_the_repository")
def test_progress_is_that_of_the_training_under_way(tmp_path: Path) -> None:
    trainer = task("trainers.next_round").NextRound(tmp_path, tmp_path / "review")
    assert trainer.stats() == {}
    write_run_description(tmp_path, {"number": 2, "train": {"max_epochs": 12}})
    write_history(tmp_path / "round_1", 8, [None, 0.5, None, 0.7, None, 0.6, None, 0.6])
    os.utime(tmp_path / "round_1" / "segmenter" / "history.json", (5, 5))
    done = trainer.stats()
    assert (done["epoch"], done["total_epochs"], done["best_metric"]) == (8, 8, 0.7)
    assert "total_time" in done
    write_history(tmp_path / "round_2" / f".segmenter{PARTIAL_MARK}0123", 3, [None, None, 0.4])
    running = trainer.stats()
    assert (running["epoch"], running["total_epochs"], running["best_metric"]) == (3, 12, 0.4)
    assert running["train"] == {"loss": pytest.approx(1 / 3), "val_mean_dice": 0.4}
    assert "total_time" not in running


def test_the_next_round_learns_from_the_folder_under_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = task("trainers.next_round"), []

    def continue_run(run: Path, studies: Path, **settings: Any) -> dict[str, Any]:
        calls.append((run, studies, settings))
        return {"round": 3}

    monkeypatch.setattr(module, "continue_run", continue_run)
    metrics = {"structures": {"vs": {"dice": {"mean": 0.81}}, "boundary": {"assd": {"mean": 1.0}}}}
    write_json(tmp_path / "metrics.json", metrics)
    trainer, own = module.NextRound(tmp_path, tmp_path / "review"), {"model": "next_round", "client_id": "anna"}
    assert trainer(own, None) == {"round": 3, "vs_dice": 0.81}
    trainer({**own, "max_epochs": 4, "device": "cpu", "gpus": "all", "local_rank": 0}, None)
    assert calls == [
        (tmp_path, tmp_path / "review", {"options": {}, "device": None}),
        (tmp_path, tmp_path / "review", {"options": {"max_epochs": 4}, "device": "cpu"}),
    ]


@pytest.mark.usefixtures("in_the_repository")
def test_the_panel_s_options_are_those_of_the_next_round_with_the_present_choice_first(tmp_path: Path) -> None:
    trainer = task("trainers.next_round").NextRound(tmp_path, tmp_path / "review")
    assert trainer.config() == {}  # nothing to go on from, which Train tells
    write_json(tmp_path / "current.json", {"round": 0})
    only = {"_target_": "crossmoda.self_training.LearnFromReviewed"}
    write_run_description(tmp_path, {"number": 1, "rules": [only], "warm_start": True})
    config = trainer.config()
    assert config.pop("device")[0]
    assert config == {
        "max_epochs": 8,
        "warm_start": True,
        "highest_uncertainty": 1.0,
        "learn_from": ["reviewed", "all", "approved"],
    }
    trainer.require_options({"model": "next_round", "client_id": "anna", "max_epochs": "3"})
    with pytest.raises(CrossmodaError, match="max_epochs '0': give a whole number"):
        trainer.require_options({"max_epochs": 0})


def test_a_round_that_fails_ends_with_its_reason_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = task("trainers.next_round")

    def fail(run: Path, studies: Path, **settings: Any) -> None:
        raise RuntimeError("wrapped") from CrossmodaError("a label is on another grid")

    monkeypatch.setattr(module, "continue_run", fail)
    with pytest.raises(SystemExit, match="error: a label is on another grid"):
        module.NextRound(tmp_path, tmp_path / "review")({}, None)


def test_the_app_names_the_missing_setting(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="--conf run: not given"):
        task("app").CrossmodaLabelApp(str(tmp_path), str(tmp_path / "review"), {})
    with pytest.raises(CrossmodaError, match="no finished round"):
        task("app").CrossmodaLabelApp(str(tmp_path), str(tmp_path / "review"), {"run": str(tmp_path)})


def test_a_setting_that_the_bundle_lacks_is_named_when_the_segmenter_is_loaded(
    repository: Path, tmp_path: Path
) -> None:
    bundle = repository / "bundles" / "vs_cochlea_hrt2_segmentation"
    use = {"root": str(bundle), "inference": {"patch_sze": [32, 32, 8]}}
    current = {"round": 1, "segmenter": "model.pt", "structures": ["vs", "cochlea"], "segmentation_bundle": use}
    write_json(tmp_path / "current.json", current)
    with pytest.raises(CrossmodaError, match=r"current\.json: no such key 'patch_sze' .*; did you mean 'patch_size'\?"):
        task("infers.segmenter").Segmenter(tmp_path)


def test_the_segmenter_takes_from_overlays_how_it_predicts_and_nothing_that_writes(
    repository: Path, tmp_path: Path
) -> None:
    bundle = repository / "bundles" / "vs_cochlea_hrt2_segmentation"
    overlay = tmp_path / "overlay.yaml"
    unet = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
    keys = {
        "network_def": {"_target_": "UNet", **unet},
        "sliding_window::overlap": 0.125,
        "low": 0.25,
        "prepare": [{"_target_": "ThresholdIntensity", "threshold": "@low", "cval": 0.5}],
        "keep_one_tumour": {"_target_": "Lambdad", "keys": "pred", "func": "$lambda label: label"},
        "save::output_dir": f"{tmp_path}/elsewhere",
    }
    overlay.write_text(yaml.safe_dump(keys))
    network = UNet(**unet)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    use = {"root": str(bundle), "inference": {"patch_size": [32, 32, 8]}, "inference_overlays": [str(overlay)]}
    current = {"round": 1, "segmenter": "model.pt", "structures": ["vs", "cochlea"], "segmentation_bundle": use}
    write_json(tmp_path / "current.json", current)
    segmenter = task("infers.segmenter").Segmenter(tmp_path)
    config = segmenter.bundle_config
    assert isinstance(config.get_parsed_content("network_def"), UNet)
    assert config.get_parsed_content("sliding_window").overlap == 0.125
    assert config.get_parsed_content("sliding_window").roi_size == [32, 32, 8]
    assert type(config.get_parsed_content("keep_one_tumour")).__name__ == "Lambdad"
    image, scan = np.random.default_rng(0).random((6, 5, 4), np.float32), tmp_path / "p_hrT2.nii.gz"
    write_volume(scan, image, np.diag([-1.0, 1, 1, 1]))
    prepared = segmenter.bundle_config.get_parsed_content("preprocessing").transforms[:2]
    found = prepared[1](prepared[0]({"image": str(scan)}))["image"].numpy()[0]
    np.testing.assert_array_equal(found, np.where(image > 0.25, image, np.float32(0.5)))
    assert config["weights"] == str((tmp_path / "model.pt").resolve())
    assert "elsewhere" not in str(config["save"])


def test_the_segmenter_drops_of_a_prediction_what_the_loop_drops(repository: Path, tmp_path: Path) -> None:
    bundle = repository / "bundles" / "vs_cochlea_hrt2_segmentation"
    use = {"root": str(bundle), "inference_overlays": ["uncertainty.yaml", "anatomy.yaml"]}
    shipped = str(bundle / "models" / "model.pt")
    current = {"round": 0, "segmenter": shipped, "structures": ["vs", "cochlea"], "segmentation_bundle": use}
    write_json(tmp_path / "current.json", current)
    steps = task("infers.segmenter").Segmenter(tmp_path).post_transforms({"device": "cpu"})
    label = torch.zeros(1, 70, 8, 8)
    label[:, 2:5, :3, :3] = label[:, 62:65, :3, :3] = 2  # two cochleae, 60 mm apart
    label[:, 30:34, :4, :4] = 1  # 26 mm from either
    label[:, 45, 7, 7] = 2  # a crumb
    names = [type(step).__name__ for step in steps]
    item = {"pred": label.clone()}
    for step in steps[names.index("KeepOneTumourd") - 1 :]:
        item = step(item)
    assert item["pred"].shape == (70, 8, 8)
    np.testing.assert_array_equal(np.unique(np.asarray(item["pred"])), [0, 2])
    assert int((item["pred"] == 2).sum()) == 54
    assert not any("Save" in name for name in names)
    told = task("infers.segmenter").Segmenter(tmp_path).writer({**item, "image_path": ""})[1]
    assert "vs of 64 mm3 dropped far from both cochleae, 0 allowed" in told["anatomy"]
