"""What is told of a run's progress, from manifests and an estimate made by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from crossmoda.files import write_json
from crossmoda.self_training.plan import PlannedStep, Scans
from crossmoda.self_training.progress import Progress
from crossmoda.self_training.steps import MANIFEST, Step, StepFolder

PLAN = [
    PlannedStep("segmenter", settings="a network", trains=True, folder="round_0"),
    PlannedStep("predictions", scans=Scans(4), folder="round_0"),
    PlannedStep("segmenter", settings="a network", trains=True, folder="round_1"),
    PlannedStep("predictions", scans=Scans(6), folder="round_1"),
    PlannedStep("report", brief=True, folder="."),
]


def record(run: Path, folder: str, **steps: Any) -> None:
    write_json(run / folder / MANIFEST, {"steps": {name: {"seconds": s, **m} for name, (s, m) in steps.items()}})


def test_what_is_done_tells_how_long_the_like_of_it_takes(tmp_path: Path) -> None:
    record(tmp_path, "round_0", segmenter=(100.0, {}), predictions=(8.0, {}))
    progress = Progress(tmp_path, PLAN)
    assert progress.done == {"round_0/segmenter", "round_0/predictions"}
    assert progress.left() == (100.0 + 8.0 / 4 * 6 + 0.0, 0)


def test_an_estimate_tells_of_what_was_not_done_yet_and_of_what_was_cut_off(tmp_path: Path) -> None:
    record(tmp_path, "round_0", segmenter=(3.0, {"resumed": True}))
    assert Progress(tmp_path, PLAN).left() == (0.0, 3)
    estimated = {"round_0/predictions": 5.0, "round_1/segmenter": 50.0, "round_1/predictions": 7.5}
    kinds = {step.key: step.like for step in PLAN}
    write_json(tmp_path / "estimate.json", {"steps": estimated, "kinds": kinds})
    assert Progress(tmp_path, PLAN).left() == (62.5, 0)
    write_json(tmp_path / "estimate.json", {"steps": estimated, "kinds": {**kinds, "round_1/segmenter": "other"}})
    assert Progress(tmp_path, PLAN).left() == (12.5, 1)  # the network has changed since


def test_what_is_left_costs_what_the_estimate_was_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="crossmoda.self_training.progress")
    record(tmp_path, "round_0", segmenter=(5400.0, {}), predictions=(0.0, {}))
    write_json(tmp_path / "estimate.json", {"price_per_hour": 2.5})
    Progress(tmp_path, PLAN).start()
    assert caplog.records[-1].getMessage() == "5 steps, 2 done already, about 1 h 30 min left, which costs 3.75"


def test_it_says_how_far_a_run_is_at_its_start_and_after_every_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="crossmoda.self_training.progress")
    record(tmp_path, "round_0", segmenter=(100.0, {}))
    progress = Progress(tmp_path, PLAN)
    progress.start()
    folder = StepFolder(tmp_path / "round_0", progress)
    step = Step("predictions", ("labels",), lambda place: (place / "labels").mkdir())
    folder.do(step)
    folder.do(step)  # nothing to do, nothing to say
    first, second = [record.getMessage() for record in caplog.records if record.name.endswith("progress")]
    assert first == "5 steps, 1 done already, at least 1 min 40 s left (2 of 4 to do are the first of their kind)"
    assert second == "round_0/predictions done in 0.0 s; 2 of 5 steps, about 1 min 40 s left"


def test_a_step_that_is_redone_takes_those_after_it_along(tmp_path: Path) -> None:
    for folder in ("round_0", "round_1"):
        record(tmp_path, folder, segmenter=(100.0, {}), predictions=(8.0, {}))
    progress = Progress(tmp_path, PLAN)
    assert progress.left() == (0.0, 0)
    progress.begun(tmp_path / "round_0", "predictions")
    assert progress.done == {"round_0/segmenter"}
    assert progress.left() == (16.0 / 10 * 4 + 100.0 + 16.0 / 10 * 6, 0)


def test_a_step_of_which_something_was_left_by_an_interruption_is_known(tmp_path: Path) -> None:
    def cut_off(place: Path) -> None:
        raise KeyboardInterrupt

    folder = StepFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        folder.do(Step("train", ("model",), cut_off))
    folder.do(Step("train", ("model",), lambda place: (place / "model").mkdir()))
    folder.do(Step("predict", ("labels",), lambda place: (place / "labels").mkdir()))
    records = folder.records()
    assert records["train"]["resumed"]
    assert "resumed" not in records["predict"]
    assert not list(tmp_path.rglob(".in_work"))


def test_a_try_that_a_cluster_repeated_is_known_too(tmp_path: Path) -> None:
    def work(place: Path) -> None:
        (place / "model").mkdir(exist_ok=True)

    course = StepFolder(tmp_path).doing(Step("train", ("model",), work))
    piece = next(course)
    for _ in range(2):  # the first worker was killed
        piece.work()
    with pytest.raises(StopIteration):
        course.send(5.0)
    assert StepFolder(tmp_path).records()["train"]["resumed"]
