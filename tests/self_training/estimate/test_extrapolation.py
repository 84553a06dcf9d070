"""From measured seconds to hours, by hand."""

from __future__ import annotations

import math

import pytest

from crossmoda.engines.speed import Pace
from crossmoda.self_training.estimate.extrapolation import Row, TimedScans, TimedTraining, extrapolate, places
from crossmoda.self_training.estimate.table import table
from crossmoda.self_training.estimate.trainings import Length
from crossmoda.self_training.plan import PlannedStep, Scans

FIRST = PlannedStep("segmenter", settings="a", trains=True, scans=Scans(rendered=4), folder="round_0")
SECOND = PlannedStep(
    "segmenter", settings="a", trains=True, scans=Scans(rendered=4, pseudo_labelled=6), folder="round_1"
)
ORACLE = PlannedStep("segmenter", settings="b", trains=True, scans=Scans(plain=5), folder="anchors/oracle")
PREDICTIONS = PlannedStep("predictions", scans=Scans(8), folder="round_1")
REPORT = PlannedStep("report", brief=True, folder=".")
PLAN = [FIRST, SECOND, PREDICTIONS, ORACLE, REPORT]

# Two folds of 10 epochs of 50 steps; every case has two renderings, of which one is judged.
TRAINING = TimedTraining(
    *("fine", Length(runs=2, epochs=10, steps=50, judged_share=1.0), Pace(step=0.5, epoch=2.0)),
    scan_seconds=3.0,
    scans_of_case=2.0,
    judged_seconds=5.0,
    run_seconds=7.0,
    fixed_seconds=11.0,
    mib=800.0,
)
TIMED = {
    FIRST.like: [TRAINING],
    PREDICTIONS.like: [TimedScans("2d", 1.5, fixed_seconds=4.0), TimedScans("3d", 2.0)],
    ORACLE.like: [TimedTraining("", Length(1, 2, 3), Pace(1.0, 0.0))],
}


def test_a_training_is_its_steps_and_what_comes_beside_them() -> None:
    """11 s once, 2 x (7 + 10 x 2) s of runs and epochs, 8 renderings of 3 s each, 4 of them judged in 5 s each."""
    assert TRAINING.steps == 1000
    assert TRAINING.beside(FIRST.scans) == 11 + 54 + 24 + 20
    assert TRAINING.seconds(FIRST) == 500 + 109
    assert TRAINING.seconds(SECOND) == 500 + 109 + 6 * 3  # pseudo-labelled scans are learnt from, not judged


def test_weights_that_are_given_take_time_but_no_step() -> None:
    given = TimedTraining("", Length(0, 0, 0), Pace(0.0, 0.0), fixed_seconds=2.0, mib=10.0)
    assert given.seconds(FIRST) == 2.0
    (row,) = given.rows([FIRST], "segmenter")
    assert (row.what, row.unit, row.times, row.seconds) == ("segmenter", "besides", 1, 2.0)


def test_steps_that_are_alike_share_a_line_and_have_seconds_each() -> None:
    found = extrapolate(PLAN, TIMED)
    assert found.rows[:4] == [
        Row("segmenter (rounds 0-1) fine", "training step", 2000, 0.5, 800.0),
        Row("segmenter (rounds 0-1) fine", "besides", 2, (109 + 127) / 2, 800.0),
        *(row for part in TIMED[PREDICTIONS.like] for row in part.rows([PREDICTIONS], "predictions")),
    ]
    assert [row.seconds * row.times for row in found.rows[2:4]] == [4 + 8 * 1.5, 8 * 2]
    assert found.steps == {
        "round_0/segmenter": 609,
        "round_1/segmenter": 627,
        "round_1/predictions": 16 + 16,
        "anchors/oracle/segmenter": 6,
    }
    assert found.hours == pytest.approx((609 + 627 + 32 + 6) / 3600)
    assert found.left_out == ["./report"]


def test_where_steps_are_done_is_told_as_people_do() -> None:
    folders = ["round_0", "round_1", "round_2", "round_4", "anchors/source_only", "anchors/oracle"]
    assert places([PlannedStep("segmenter", folder=folder) for folder in folders]) == "rounds 0-2, 4, anchors"
    assert places([FIRST]) == "round 0"
    assert places([ORACLE]) == "anchors"


def test_the_table_has_the_sum_the_cost_and_what_is_not_in_it() -> None:
    text = table(extrapolate(PLAN, TIMED, {"scans": {"source": 2, "target": 3}}), price_per_hour=10)
    lines = text.splitlines()
    cells = [" ".join(line.split()) for line in lines]
    assert cells[1] == "segmenter (rounds 0-1) fine, training step 2000 0.5 0.278 800"
    assert cells[3] == "predictions 2d, scan 8 2 0.004"  # whose memory is not known
    assert cells[7] == "in all 0.354"
    assert "about 21 min 14 s for 4 steps, measured on scans: 2 source, 3 target" in lines
    assert "cost: 3.54, at 10 an hour" in lines
    assert "not measured: report (1x)" in text
    assert "cost" not in table(extrapolate(PLAN, TIMED))


def test_what_was_not_measured_is_left_out() -> None:
    found = extrapolate(PLAN, {})
    assert found.rows == []
    assert found.hours == 0
    assert found.left_out == [step.key for step in PLAN]
    assert math.isnan(TimedScans("", 1.0).mib)
