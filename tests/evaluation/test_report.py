from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmoda.data.volumes import Volume, read_volume, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import summarise
from crossmoda.evaluation.report import write_report
from crossmoda.evaluation.report.charts import learning_chart
from crossmoda.evaluation.report.panels import draw_panel, focus, middle
from crossmoda.evaluation.report.pictures import by_uncertainty, case_strips, ranked_cases
from crossmoda.evaluation.report.run_folder import RunFolder
from crossmoda.evaluation.report.slices import AXIAL, to_ras, window_about
from crossmoda.files import read_json, write_json

SMALL: dict[str, Any] = {"shape": (40, 36, 8), "sources": 1, "targets": 1, "validations": 2}
VOID = {"meta", "input", "br", "image", "path", "line", "use", "circle", "rect"}


@pytest.fixture(scope="module")
def page(finished_run: Any) -> str:
    return write_report(finished_run.path).read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Checks that every tag that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert "http" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', page)
    assert not re.findall(r"url\((?!#)", page)
    assert "@import" not in page


def test_the_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    ids = re.findall(r'<(?:section|div)[^>]* id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'<a href="#([^"]+)"', page)) <= set(ids)


def test_the_headline_says_what_was_reached_and_recovered(page: str) -> None:
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert re.search(
        r"After 2 self-training rounds, the segmenter reaches a mean Dice of 0\.\d{3} for the vestibular", text
    )
    assert re.search(r"it recovers \d+ % \(vestibular schwannoma\) and \d+ % \(cochlea\)", text)
    assert "on 4 hrT2 scans whose truth training never saw" in text


def test_every_section_is_there(page: str) -> None:
    for heading in (
        "What was gained",
        "From ceT1 to pseudo-hrT2",
        "Learning curves",
        "Dice per round",
        "What to review first",
    ):
        assert f"<h2>{heading}</h2>" in page
    for words in (
        "Worst case",
        "Median case",
        "Best case",
        "pseudo-hrT2, cyclegan",
        "Translator (cyclegan), round 0",
        "oracle",
    ):
        assert words in page


def test_the_case_table_has_the_worst_case_first(page: str, finished_run: Any) -> None:
    table = page[page.index('id="tables"') :]
    places = [table.index(case["case"]) for case in ranked_cases(RunFolder(finished_run.path))]
    assert places == sorted(places)


def test_the_most_uncertain_case_comes_first_with_its_status(page: str, finished_run: Any) -> None:
    section = page[page.index('id="uncertainty"') :]
    assert by_uncertainty(RunFolder(finished_run.path)) == finished_run.targets
    assert section.index(f"1. {finished_run.targets[0]}") < section.index(f"2. {finished_run.targets[1]}")
    assert "corrected" in section
    assert "flagged" in section


def test_how_far_uncertainty_can_be_trusted_is_said_not_to_be_known(page: str) -> None:
    assert "How far this uncertainty can be trusted is not known" in page
    assert "expected Dice" not in page


def test_how_sure_the_model_is_is_measured_on_the_validation_scans(make_run: Callable[..., Any]) -> None:
    run = make_run(**{**SMALL, "validations": 6})
    number = read_json(run.path / "current.json")["round"]
    cases = read_json(run.path / f"round_{number}" / "metrics.json")["cases"]
    dice = {case["case"]: (case["vs"]["dice"] + case["cochlea"]["dice"]) / 2 for case in cases}
    file = run.path / f"round_{number}" / "uncertainty" / "uncertainty.json"
    scores = {case: (1 - value) / 2 for case, value in dice.items()}
    worst = max(scores, key=lambda case: scores[case])
    write_json(file, {**scores, run.targets[0]: scores[worst]})
    text = write_report(run.path).read_text()
    assert "the validation scans of this run, whose truth is known (6)" in text
    assert "uncertainty and error 1.00" in text
    first = text[text.index(f"1. {run.targets[0]}") :]
    assert re.search(r"expected Dice <b>([\d.]+)</b>", first)[1] == f"{dice[worst]:.2f}"  # type: ignore[index]
    write_json(file, {**scores, run.targets[0]: 0.9})  # beyond all that were measured
    text = write_report(run.path).read_text()
    assert "less sure than of any scan measured" in text
    assert "<td>not known</td>" in text


def test_given_weights_bring_what_was_measured_with_them(make_run: Callable[..., Any]) -> None:
    run = make_run(**SMALL)
    current = read_json(run.path / "current.json")
    write_json(run.path / "current.json", current | {"segmenter": "round_1/segmenter/model.pt"})
    measured = {"uncertainty": [0.1, 0.2, 0.3], "dice": [0.9, 0.8, 0.7], "measured_on": "3 scans of elsewhere"}
    write_json(run.path / "round_1" / "segmenter" / "model.json", {"given": {"training": {"calibration": measured}}})
    text = write_report(run.path).read_text()
    assert "Measured on 3 scans of elsewhere (3)" in text


def test_rounds_that_took_away_from_given_weights_are_told(make_run: Callable[..., Any]) -> None:
    run = make_run(**SMALL)
    assert "took away" not in write_report(run.path).read_text()
    write_json(run.path / "round_0" / "segmenter" / "model.json", {"given": {"file": "model.pt"}})
    scores = read_json(run.path / "round_0" / "metrics.json")
    scores["structures"]["vs"]["dice"]["mean"] = 0.991
    write_json(run.path / "round_0" / "metrics.json", scores)
    text = " ".join(re.sub(r"<[^>]+>", "", write_report(run.path).read_text()).split())
    assert "Given weights taken over as they are (round 0)" in text
    assert "equal training budget" not in text
    last = run.path / max(folder.name for folder in run.path.glob("round_*")) / "metrics.json"
    reached = read_json(last)["structures"]["vs"]["dice"]["mean"]
    assert f"The later rounds took away from round 0: vestibular schwannoma 0.991 to {reached:.3f}." in text


def test_seed_versions_and_step_times_are_told(page: str) -> None:
    section = page[page.index('id="provenance"') :]
    assert "1.6.1" in section
    assert "max_epochs: 30" in section
    assert "37.5 s" not in section
    assert "1 min 15 s" in section  # 12.5 + 25 + 37.5 s together


def test_the_same_run_gives_the_same_bytes(finished_run: Any) -> None:
    first = write_report(finished_run.path).read_bytes()
    assert write_report(finished_run.path).read_bytes() == first


def test_no_anchors_leave_out_the_recovered_share_with_a_sentence(make_run: Callable[..., Any]) -> None:
    text = write_report(make_run(**SMALL, rounds=2, anchors=False).path).read_text(encoding="utf-8")
    assert "so there is no recovered share" in text
    assert "Recovered" not in text


def test_one_round_has_no_chart_of_rounds(make_run: Callable[..., Any]) -> None:
    text = write_report(make_run(**SMALL, rounds=1, anchors=False).path).read_text(encoding="utf-8")
    assert "<li>Rounds: only one round has been scored.</li>" in text
    assert 'id="rounds"' not in text
    assert 'href="#rounds"' not in text
    assert "round 0 alone" in text


def test_without_truth_and_dataset_the_rest_is_still_shown(make_run: Callable[..., Any]) -> None:
    run = make_run(**SMALL, rounds=1, anchors=False)
    (run.path / "round_0/metrics.json").unlink()
    shutil.rmtree(run.data)
    text = write_report(run.path).read_text(encoding="utf-8")
    assert "The truth of the hrT2 scans is not known here" in text
    assert "<li>Translation: no translated source scan is at hand" in text
    shown = re.findall(r'<section id="(\w+)">', text)
    assert shown == ["learning", "provenance"]
    assert re.findall(r'<li><a href="#(\w+)">', text) == shown
    assert "Learning curves of Segmenter, round 0" in text


def test_a_run_that_has_just_begun_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "demo/round_0").mkdir(parents=True)
    text = write_report(tmp_path / "demo").read_text(encoding="utf-8")
    assert "<li>Figures: no round has been scored" in text
    assert "recorded neither settings nor steps" in text


def test_the_parts_of_2023_and_their_boundary_are_shown(tmp_path: Path) -> None:
    summary = summarise([0.5, 0.7])
    scores = {"dice": 0.6, "assd": 1.2, "hd95": 3.4, "volume_mm3": 900.0, "truth_volume_mm3": 1000.0}
    names = ("vs", "cochlea", "intra", "extra")
    structures = {name: dict.fromkeys(("dice", "assd", "hd95"), summary) for name in names}
    structures["boundary"] = {"assd": summarise([1.25]), "hd95": summarise([2.0])}
    case = {"case": "crossmoda2023_ukm_44", "site": "ukm", **dict.fromkeys(names, scores)}
    metrics = {"structures": structures, "sites": {"ukm": structures}, "cases": [case], "missing": []}
    for number in (0, 1):
        write_json(tmp_path / f"demo/round_{number}/metrics.json", metrics)
    write_json(tmp_path / "demo/anchors/oracle/metrics.json", metrics)
    text = write_report(tmp_path / "demo").read_text(encoding="utf-8")
    assert "intra-meatal vestibular schwannoma" in text
    assert "ASSD 1.250" in text
    assert "UK multi-centre" in text


def test_anchors_without_a_distance_between_them_are_said_to_give_no_share(make_run: Callable[..., Any]) -> None:
    run = make_run(**SMALL, rounds=2)
    shutil.copy(run.path / "anchors/oracle/metrics.json", run.path / "anchors/source_only/metrics.json")
    text = write_report(run.path).read_text(encoding="utf-8")
    assert "there is no distance to recover" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="holds no round_0; give the output folder of a run"):
        write_report(tmp_path)


def test_names_from_the_run_cannot_break_the_page(make_run: Callable[..., Any]) -> None:
    run = make_run(**SMALL, rounds=1, anchors=False)
    (run.path / "run.yaml").write_text("seed: '<script>alert(1)</script>'\n", encoding="utf-8")
    assert "<script>alert" not in write_report(run.path).read_text(encoding="utf-8")


def test_the_tumour_of_a_flipped_file_is_drawn_at_the_same_place(finished_run: Any, tmp_path: Path) -> None:
    case = finished_run.validations[0]
    stored = read_volume(finished_run.image_of(case))
    flip = np.diag([-1.0, 1, -1, 1])
    flip[0, 3], flip[2, 3] = stored.array.shape[0] - 1, stored.array.shape[2] - 1
    write_volume(tmp_path / "flipped.nii.gz", stored.array[::-1, :, ::-1], stored.affine @ flip)
    panels = []
    label = Volume(finished_run.label(case).astype(np.float32), stored.affine)
    for path in (finished_run.image_of(case), tmp_path / "flipped.nii.gz"):
        scan = to_ras(read_volume(path))
        mask = to_ras(label).array == 1
        panels.append(
            draw_panel("axial", scan, window_about(scan, AXIAL, focus(mask), (40, 30)), {"truth": {"vs": mask}})
        )
    assert panels[0] == panels[1]


def test_worst_median_and_best_are_three_different_cases(finished_run: Any) -> None:
    strips = case_strips(RunFolder(finished_run.path))
    assert [strip.heading for strip in strips[:3]] == ["Worst case", "Median case", "Best case"]
    assert len({strip.case for strip in strips}) == 4
    assert [panel.title for panel in strips[0].panels] == [
        "axial, posterior fossa",
        "coronal",
        "close-up: tumour",
        "close-up: cochlea",
    ]
    assert {outline.kind for outline in strips[0].panels[0].outlines} == {"truth", "prediction"}
    assert {outline.kind for outline in strips[3].panels[0].outlines} == {"truth", "prediction", "pseudo"}


def test_a_label_that_the_rules_left_out_is_not_shown_as_learnt_from(make_run: Callable[..., Any]) -> None:
    run = make_run(**{**SMALL, "targets": 3}, anchors=False)
    learnt = "The most uncertain case that the model learns from"
    path = run.path / read_json(run.path / "current.json")["datalist"]
    doubtful = by_uncertainty(RunFolder(run.path))
    labelled = [case for case in doubtful if "label" in RunFolder(run.path).targets[case]]
    assert len(labelled) == 3
    for left_out in (0, 1, len(labelled)):
        found = read_json(path)
        for item in found["target"]:
            item["weight"] = 0.0 if item["case"] in labelled[:left_out] else 0.5
        write_json(path, found)
        shown = [strip.case for strip in case_strips(RunFolder(run.path)) if strip.heading == learnt]
        assert shown == labelled[left_out : left_out + 1]
    for metrics in run.path.glob("round_*/metrics.json"):
        metrics.unlink()
    strips = case_strips(RunFolder(run.path))
    assert [(strip.heading, strip.case) for strip in strips] == [("The most uncertain case", doubtful[0])]


def test_the_focus_is_the_largest_piece_in_the_largest_slice() -> None:
    mask = np.zeros((12, 10, 6), dtype=bool)
    mask[1:4, 1:4, 2] = True
    mask[8:10, 5:7, 2] = True
    mask[8, 5, 4] = True
    assert focus(mask) == (2.0, 2.0, 2.0)
    assert middle({"cochlea": mask}, mask.shape) == (5.0, 3.5, 3.0)
    assert middle({}, (5, 7, 9)) == (2.0, 3.0, 4.0)


def test_learning_curves_skip_epochs_without_a_measurement() -> None:
    history = {"epoch": [1, 2, 3], "series": {"loss": [3.0, 2.0, 1.0], "val_mean_dice": [None, 0.5, None]}}
    svg = learning_chart("a model", history)
    assert svg.startswith("<svg")
    assert "val mean dice" in svg
    assert "scores" in svg
    assert learning_chart("a model", {"epoch": [], "series": {}}) == ""


def test_scans_of_ordinary_size_are_reported_in_a_few_seconds_of_processor_time(make_run: Callable[..., Any]) -> None:
    run = make_run(shape=(150, 125, 40), sources=1, targets=3, validations=2, rounds=1, anchors=False)
    started = time.process_time()
    write_report(run.path)
    assert time.process_time() - started < 6
