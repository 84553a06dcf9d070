"""The loop with its steps done by the workers of a cluster: the same files, also where a worker is killed."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import run_loop, tiny_loop, two_workers

from crossmoda.files import read_json

BLOCKS = {"n_blocks": 5}  # so that QS-Attn finds its layer 16
SETTINGS = tiny_loop(
    rounds=0,
    anchors=False,
    translator_settings={**BLOCKS, "iterations_per_epoch": 1, "max_epochs": 8, "checkpoint_interval": 1},
    translator_inference_settings=BLOCKS,
    segmenter_settings={"iterations_per_epoch": 1, "max_epochs": 1},
)
BEGUN = re.compile(r"translator_cyclegan: begun by (\S+)")

pytestmark = pytest.mark.usefixtures("one_thread", "in_the_repository")


def kill_in_training(scheduler: str, run: Path, log: pytest.LogCaptureFixture) -> None:
    """Kill the worker that trains a view, as soon as there is a state to go on from."""
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        processes = client.run(os.getpid)
    while not list(run.glob("round_0/.translator_cyclegan.*/translator_cyclegan/checkpoints/training.pt")):
        time.sleep(0.005)
    begun = BEGUN.search(log.text)
    assert begun
    os.kill(processes[begun[1]], signal.SIGKILL)


def recorded(run: Path) -> dict[str, Any]:
    steps = read_json(run / "round_0" / "manifest.json")["steps"]
    return {
        name: (step["key"], {out: made["sha256"] for out, made in step["outputs"].items()})
        for name, step in steps.items()
    }


def test_two_workers_make_what_one_process_makes_though_one_is_killed_in_a_training(
    tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    run_loop(tiny_dataset, tmp_path / "alone", "variant_two_views.yaml", **SETTINGS)
    caplog.set_level("INFO", logger="crossmoda")
    run = tmp_path / "together"
    with two_workers() as scheduler:
        killer = threading.Thread(target=kill_in_training, args=(scheduler, run, caplog), daemon=True)
        killer.start()
        run_loop(tiny_dataset, run, "variant_two_views.yaml", **SETTINGS, scheduler=scheduler)
        killer.join(1)
    assert not killer.is_alive()
    assert "translator_cyclegan: begun again by" in caplog.text
    assert re.search(r"resumed from \S+translator_cyclegan\S+ after epoch [1-7]\n", capfd.readouterr().err)
    assert recorded(run) == recorded(tmp_path / "alone")
