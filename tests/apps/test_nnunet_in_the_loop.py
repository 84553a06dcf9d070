"""nnU-Net as the segmenter of the self-training loop, and served to 3D Slicer's client by the same app."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import planned, recorded, run_loop, tiny_loop

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.files import read_json
from crossmoda.self_training.bundles import BundleUse

from .conftest import serve, slicer_client

pytest.importorskip("nnunetv2")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_repository", "one_thread")]

MODEL = "vs_cochlea_hrt2_segmentation"
OVERLAYS: dict[str, Any] = {
    "segmenter_overlays": ["nnunet.yaml"],
    "segmenter_inference_overlays": ["inference_nnunet.yaml", "uncertainty.yaml"],
    "segmenter_inference_settings": {"mirroring": False},
}
TRAINING: dict[str, Any] = {
    "train_folds": "all",
    "trainer": "nnUNetTrainerNoMirroring",
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "validation_iterations": 1,
    "memory_gb": 0.05,
    "num_workers": 0,
    "predict_sections": [],
    "keep_preprocessed": False,
}


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of round 0 and one round of self-training, all segmenters nnU-Net's, each of two steps."""
    folder = tmp_path_factory.mktemp("nnunet") / "run"
    settings = tiny_loop(rounds=1, anchors=False, **OVERLAYS)
    own = {"segmenter_settings": TRAINING, "segmenter_inference_settings": OVERLAYS["segmenter_inference_settings"]}
    run_loop(tiny_dataset, folder, **{**settings, **own})
    return folder


def test_every_round_trains_nnunet_on_its_own_datalist_and_labels_every_scan(run: Path, tiny_dataset: Path) -> None:
    for number in (0, 1):
        folder = run / f"round_{number}"
        sidecar = read_json(folder / "segmenter" / "model.json")
        assert sidecar["round"] == number
        assert sidecar["structures"] == ["vs", "cochlea"]
        assert sidecar["nnunet"]["members"][0]["folds"] == ["all"]
        items = [item for section in ("target", "validation") for item in load_datalist(tiny_dataset)[section]]
        for item in items:
            assert same_grid(folder / "predictions" / f"{item['case']}_Label.nii.gz", item["image"])
        assert set(read_json(folder / "uncertainty" / "uncertainty.json")) == {item["case"] for item in items}
        assert (folder / "metrics.json").is_file()
    assert recorded(run) == planned(run)
    first, second = (read_json(run / f"round_{n}" / "segmenter" / "model.json")["sha256"] for n in (0, 1))
    assert first != second


def test_the_app_serves_nnunet_s_prediction(run: Path, tmp_path: Path, repository: Path) -> None:
    item = load_datalist(run / "dataset.json")["target"][0]
    with serve(run, tmp_path, repository) as server:
        client = slicer_client(server, tmp_path)
        file, answer = client.infer(MODEL, Path(item["image"]).name.removesuffix(".nii.gz"), {})
    current = read_json(run / "current.json")
    assert current["round"] == 1
    use = BundleUse(**current["segmentation_bundle"])
    use = replace(use, inference_overlays=["inference_nnunet.yaml"])  # maps of uncertainty are the loop's alone
    places = {"dataset_dir": str(run / "dataset.json"), "output_dir": str(tmp_path), "sections": ["target"]}
    use.run("inference", "cpu", **places, weights=str(run / current["segmenter"]))
    own = read_volume(tmp_path / f"{item['case']}_Label.nii.gz")
    served = read_volume(file)
    assert same_grid(served, own)
    np.testing.assert_array_equal(served.array, own.array)
    assert answer["label_names"] == {"vs": 1, "cochlea": 2}
