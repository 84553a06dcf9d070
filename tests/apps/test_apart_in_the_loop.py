"""Structures learnt apart as the segmenter of the self-training loop, and served by the same app."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import planned, recorded, run_loop, tiny_loop

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.files import PARTIAL_MARK, read_json, write_json
from crossmoda.self_training.bundles import BundleUse

pytestmark = pytest.mark.usefixtures("in_the_repository", "one_thread")

MEMBERS = {
    "tumour": {
        "structures": ["vs"],
        "overlays": ["prepare_deconvolved.yaml"],
        "inference_overlays": ["prepare_deconvolved.yaml"],
        "settings": {"deconvolution_iterations": 2},
        "inference_settings": {"deconvolution_iterations": 2},
    },
    "cochleae": {
        "structures": ["cochlea"],
        "overlays": ["prepare_clipped.yaml"],
        "inference_overlays": ["prepare_clipped.yaml"],
        "items": "translated",
    },
}


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of round 0 and one round of self-training."""
    folder = tmp_path_factory.mktemp("apart") / "run"
    settings = tiny_loop(
        rounds=1,
        anchors=False,
        segmenter_overlays=["apart.yaml"],
        segmenter_inference_overlays=["inference_apart.yaml", "uncertainty.yaml"],
        segmenter_settings={"members": MEMBERS},
    )
    run_loop(tiny_dataset, folder, **settings)
    return folder


@pytest.fixture
def app(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What imports a module of the app."""
    monkeypatch.syspath_prepend(str(repository / "apps" / "crossmoda_label"))
    return importlib.import_module


def test_every_round_trains_both_members_and_labels_every_scan(run: Path, tiny_dataset: Path) -> None:
    for number in (0, 1):
        folder = run / f"round_{number}"
        sidecar = read_json(folder / "segmenter" / "model.json")
        assert sidecar["round"] == number
        assert list(sidecar["apart"]["members"]) == ["tumour", "cochleae"]
        assert set(read_json(folder / "segmenter" / "history.json")["series"]) >= {"loss", "loss_tumour"}
        items = [item for section in ("target", "validation") for item in load_datalist(tiny_dataset)[section]]
        for item in items:
            assert same_grid(folder / "predictions" / f"{item['case']}_Label.nii.gz", item["image"])
        assert set(read_json(folder / "uncertainty" / "uncertainty.json")) == {item["case"] for item in items}
        assert (folder / "metrics.json").is_file()
    assert recorded(run) == planned(run)
    assert "cochleae" in (run / "report.html").read_text(encoding="utf-8")


def test_the_app_s_task_predicts_as_the_bundle_does(run: Path, tmp_path: Path, app: Any) -> None:
    item = load_datalist(run / "dataset.json")["target"][0]
    segmenter = app("lib.infers.segmenter").Segmenter(run)
    file, answer = segmenter({"image": item["image"], "device": "cpu", "result_extension": ".nii.gz"})
    current = read_json(run / "current.json")
    use = replace(BundleUse(**current["segmentation_bundle"]), inference_overlays=["inference_apart.yaml"])
    places = {"dataset_dir": str(run / "dataset.json"), "output_dir": str(tmp_path), "sections": ["target"]}
    use.run("inference", "cpu", **places, weights=str(run / current["segmenter"]))
    own, served = read_volume(tmp_path / f"{item['case']}_Label.nii.gz"), read_volume(file)
    Path(file).unlink()
    assert same_grid(served, own)
    assert own.array.any()
    np.testing.assert_array_equal(served.array, own.array)
    assert answer["label_names"] == {"vs": 1, "cochlea": 2}


def test_progress_of_a_training_is_that_of_the_member_under_way(run: Path, tmp_path: Path, app: Any) -> None:
    (tmp_path / "run.yaml").write_text((run / "run.yaml").read_text())
    place = tmp_path / "round_1" / f".segmenter{PARTIAL_MARK}0123" / "segmenter" / "members" / "tumour"
    write_json(place / "history.json", {"epoch": [1], "series": {"loss": [3.0]}})
    stats = app("lib.trainers.next_round").NextRound(tmp_path, tmp_path / "review").stats()
    assert (stats["epoch"], stats["total_epochs"]) == (1, 2)  # of each member, as TINY_LOOP has it
    assert "total_time" not in stats
    text = (run / "run.yaml").read_text().replace("max_epochs: 2\n", "max_epochs: null\n")
    (tmp_path / "run.yaml").write_text(text)
    stats = app("lib.trainers.next_round").NextRound(tmp_path, tmp_path / "review").stats()
    assert stats["total_epochs"] == 1  # no more is known than what is done
