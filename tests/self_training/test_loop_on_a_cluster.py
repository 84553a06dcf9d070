"""The loop and cross-validations by the workers of a cluster: the same weights and records as in one process."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import LOOP, TINY_SEGMENTER, run_loop, tiny_loop, two_workers

from crossmoda.data.datalist import save_datalist
from crossmoda.files import read_json, sha256_of
from crossmoda.self_training.bundles import make_workflow
from crossmoda.self_training.cross_validation import cross_validate

BLOCKS = {"n_blocks": 5}  # so that QS-Attn finds its layer 16
SETTINGS = tiny_loop(
    rounds=1,
    anchors=False,
    # An untrained network finds nothing: a rule that asks for a tumour would leave no pseudo-label to look at.
    rules=[{"_target_": "crossmoda.self_training.WeightByCertainty", "power": 1.0}],
    translator_settings={**BLOCKS, "iterations_per_epoch": 1, "max_epochs": 8},
    translator_inference_settings=BLOCKS,
    segmenter_settings={"iterations_per_epoch": 1, "max_epochs": 1},
)
APART = {
    "segmenter_overlays": ["apart.yaml"],
    "segmenter_inference_overlays": ["inference_apart.yaml", "uncertainty.yaml"],
    "segmenter_settings": {
        **SETTINGS["segmenter_settings"],
        "members": {name: {"structures": [name]} for name in ("vs", "cochlea")},
    },
}

pytestmark = pytest.mark.usefixtures("one_thread", "in_the_repository")


def train_views(dataset: Path, run: Path, scheduler: str | None = None) -> None:
    """Train the translators of both views, nothing else."""
    files = [LOOP / "train.yaml", LOOP / "variant_two_views.yaml"]
    places = {"dataset_dir": str(dataset), "output_dir": str(run), "scheduler": scheduler}
    loop = make_workflow(files, "train", **SETTINGS, **places).parser.get_parsed_content("train::trainer")
    save_datalist(loop.work.dataset_file, dict(loop.work.datalist))
    with loop.work.launcher:
        loop.work.train_translators(loop.folder(0))


def kill_in_training(scheduler: str, run: Path, log: pytest.LogCaptureFixture) -> None:
    """Kill the worker that trains a view, as soon as there is a state to go on from."""
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        processes = client.run(os.getpid)
    while not list(run.glob("round_0/.translator_cyclegan.*/translator_cyclegan/checkpoints/training.pt")):
        time.sleep(0.005)
    begun = re.search(r"translator_cyclegan: begun by (\S+)", log.text)
    assert begun
    os.kill(processes[begun[1]], signal.SIGKILL)


def made(run: Path) -> dict[str, Any]:
    """Return the keys of all steps but the report, which shows times, and the hashes of all weights and figures."""
    manifests = sorted(run.rglob("manifest.json"))
    keys = {
        f"{path.parent.relative_to(run)}/{name}": record["key"]
        for path in manifests
        for name, record in read_json(path)["steps"].items()
        if name != "report"
    }
    files = [*run.rglob("*model.pt"), *run.rglob("metrics.json"), *run.rglob("scores/*.json")]
    return {**keys, **{str(path.relative_to(run)): sha256_of(path) for path in files}}


def test_two_workers_train_what_one_process_trains_though_one_of_them_is_killed(
    tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    train_views(tiny_dataset, tmp_path / "alone")
    caplog.set_level("INFO", logger="crossmoda")
    run = tmp_path / "together"
    with two_workers() as scheduler:
        killer = threading.Thread(target=kill_in_training, args=(scheduler, run, caplog), daemon=True)
        killer.start()
        train_views(tiny_dataset, run, scheduler)
        killer.join(1)
    assert not killer.is_alive()
    assert "translator_cyclegan: begun again by" in caplog.text
    assert re.search(r"resumed from \S+translator_cyclegan\S+ after epoch [1-7]\n", capfd.readouterr().err)
    assert len(made(run)) == 4
    assert made(run) == made(tmp_path / "alone")


@pytest.mark.slow
def test_a_whole_run_with_members_apart_is_the_same_by_two_workers(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, **APART}
    run_loop(tiny_dataset, tmp_path / "alone", "variant_two_views.yaml", **settings)
    with two_workers() as scheduler:
        run_loop(tiny_dataset, tmp_path / "together", "variant_two_views.yaml", **settings, scheduler=scheduler)
    assert {"round_1/predictions", "round_1/segmenter/members/vs/model.pt"} <= set(made(tmp_path / "alone"))
    assert made(tmp_path / "together") == made(tmp_path / "alone")


@pytest.mark.slow
def test_a_cross_validation_is_the_same_by_two_workers(tiny_dataset: Path, tmp_path: Path) -> None:
    shared = {name: TINY_SEGMENTER[name] for name in ("spacing", "crop_size", "patch_size")}
    settings = {
        "folds": 2,
        "sections": ["source"],
        "settings": shared,
        "train": {name: value for name, value in TINY_SEGMENTER.items() if name not in shared},
        "inference": {"amp": False, "flips": []},
        "configurations": {"plain": {}, "mirrored": {"inference": {"flips": [[0]]}}},
    }
    config = tmp_path / "cross_validation.yaml"
    config.write_text(yaml.safe_dump(settings))
    alone = cross_validate(tiny_dataset, tmp_path / "alone", config, "cpu")
    with two_workers() as scheduler:
        together = cross_validate(tiny_dataset, tmp_path / "together", config, "cpu", scheduler)
    assert together == alone
    assert made(tmp_path / "together") == made(tmp_path / "alone")
