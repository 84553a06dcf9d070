"""The report's table of what became of each target case."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from crossmoda.evaluation.report import write_report
from crossmoda.evaluation.report.run_folder import RunFolder
from crossmoda.evaluation.report.selection import selections
from crossmoda.files import read_json, write_json


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    """A run of two rounds whose targets were weighted, corrected, flagged and left out by a rule."""
    return make_run(shape=(40, 36, 8), sources=1, targets=4, validations=1, rounds=2, anchors=False)


def section(run: Any) -> str:
    page = write_report(run.path).read_text(encoding="utf-8")
    return page[page.index('<section id="selection"') : page.index('<section id="uncertainty"')]


def rows(html: str) -> list[list[str]]:
    plain = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
        for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    ]
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in plain]


def test_every_case_is_told_with_fate_weight_and_reasons_those_left_out_first(run: Any) -> None:
    table = rows(section(run))
    cases = [row for row in table if row[0] in run.targets]
    first, second, third, fourth = run.targets
    assert [row[0] for row in cases] == [third, fourth, first, second]
    assert [row[2:5] for row in cases] == [
        ["flagged", "left out", "0.00"],
        ["pseudo-label", "left out", "0.00"],
        ["pseudo-label", "accepted", "0.80 cochlea 0.00"],
        ["corrected", "accepted", "1.00"],
    ]
    assert cases[0][5] == "flagged by a clinician, left out"
    assert cases[1][5] == "RequireNear, left out: vs 12.0 mm from the nearest cochlea"
    assert cases[2][5].endswith("WeightByCertainty, weighted: uncertainty 0.200: weight times 0.800")


def test_counts_per_round_and_per_rule(run: Any) -> None:
    table = rows(section(run))
    assert ["1", "4", "2", "2", "2", "0.90"] in table  # of 4 scans 2 accepted, 2 seen by clinicians; (0.8 + 1) / 2
    assert ["RequireNear", "1", "–", "–", "–", "1"] in table  # left out one, and one passed
    assert ["WeightByCertainty", "–", "–", "–", "1", "–"] in table
    (found,) = selections(RunFolder(run.path))
    assert [rule["name"] for rule in found.rules] == ["RequireNear", "WeightByCertainty"]


def test_a_round_that_stopped_for_want_of_labels_is_shown(run: Any) -> None:
    fates = {case: {"status": "pseudo", "weight": 0.0, "reasons": ["no vs found"]} for case in run.targets}
    write_json(run.path / "round_2" / "pseudo_labels" / "fates.json", fates)
    assert ["2", "4", "0", "4", "0", "–"] in rows(section(run))


def test_fates_of_a_run_that_noted_reasons_alone_are_shown(run: Any) -> None:
    path = run.path / "round_1" / "pseudo_labels" / "fates.json"
    old = {case: {"status": "pseudo", "weight": 0.5, "reasons": ["a <b> reason"]} for case in read_json(path)}
    write_json(path, old)
    assert "a &lt;b&gt; reason" in section(run)
    assert "Rule, number of cases" not in section(run)


def test_a_run_without_a_further_round_says_so(make_run: Callable[..., Any]) -> None:
    run = make_run(shape=(40, 36, 8), sources=1, targets=1, validations=1, rounds=1, anchors=False)
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "<li>Selection: no round has learnt from real scans yet.</li>" in page
