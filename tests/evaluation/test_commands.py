from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.commands import evaluate_command, report_command
from crossmoda.files import read_json, write_json


def test_evaluate_prints_a_table_and_writes_the_metrics(
    finished_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "metrics.json"
    assert evaluate_command(finished_run.path / "round_2/predictions", finished_run.data / "truth", output) == 0
    printed = capsys.readouterr().out
    assert "structure  metric  cases" in printed
    assert any(line.split()[:3] == ["vs", "Dice", "all"] for line in printed.splitlines())
    assert len(read_json(output)["cases"]) == 7


def test_evaluate_prints_every_case_with_its_site_and_structures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = np.zeros((6, 5, 4), dtype=np.uint8)
    parts[1:3, 1:3, 1:3], parts[3, 1:3, 1:3], parts[5, 4, 3] = 1, 2, 3
    for case in ("crossmoda2023_ukm_129", "crossmoda2023_etz_211"):
        write_volume(tmp_path / f"truth/{case}_Label.nii.gz", parts, np.eye(4))
    without_intra = np.where(parts == 2, 0, parts).astype(np.uint8)
    write_volume(tmp_path / "p/crossmoda2023_ukm_129.nii.gz", without_intra, np.eye(4))
    evaluate_command(tmp_path / "p", tmp_path / "truth", tmp_path / "metrics.json")
    title, _, first, second = capsys.readouterr().out.splitlines()[:4]
    three = ["Dice", "ASSD", "HD95"]
    parts_titles = [title for structure in ("vs", "cochlea", "intra", "extra") for title in (structure, *three)]
    assert title.split() == ["case", "site", *parts_titles, "boundary", "ASSD", "HD95"]
    nothing = ["0.000", "350.00", "350.00"]
    assert first.split() == ["crossmoda2023_etz_211", "etz", *nothing * 4, "350.00", "350.00", "no", "prediction"]
    values = second.split()[2:]
    assert values[0] == "0.800"  # of 8 + 4 voxels the 8 are found: 2 * 8 / (12 + 8)
    assert values[3:] == ["1.000", "0.00", "0.00", *nothing, "1.000", "0.00", "0.00", "350.00", "350.00"]


def test_the_structures_of_a_run_are_read_from_its_pointers(tmp_path: Path) -> None:
    cochlea_first = np.zeros((6, 5, 4), dtype=np.uint8)
    cochlea_first[1:3, 1:3, 1:3], cochlea_first[4, 4, 3] = 1, 2
    truth = np.where(cochlea_first == 1, 2, np.where(cochlea_first == 2, 1, 0)).astype(np.uint8)
    write_volume(tmp_path / "run/round_0/predictions/crossmoda2021_ldn_211_Label.nii.gz", cochlea_first, np.eye(4))
    write_volume(tmp_path / "truth/crossmoda2021_ldn_211_Label.nii.gz", truth, np.eye(4))
    write_json(tmp_path / "run/current.json", {"structures": ["cochlea", "vs"]})
    evaluate_command(tmp_path / "run/round_0/predictions", tmp_path / "truth", tmp_path / "metrics.json")
    assert read_json(tmp_path / "metrics.json")["structures"]["vs"]["dice"]["mean"] == 1.0


def test_the_numbers_of_2023_are_told_from_the_case_ids(tmp_path: Path) -> None:
    truth = np.zeros((6, 5, 4), dtype=np.uint8)
    truth[1:3, 1:3, 1:3], truth[3, 1:3, 1:3], truth[5, 4, 3] = 1, 2, 3
    write_volume(tmp_path / "truth/crossmoda2023_ukm_44_Label.nii.gz", truth, np.eye(4))
    whole = np.array([0, 1, 1, 2], dtype=np.uint8)[truth]
    write_volume(tmp_path / "p/crossmoda2023_ukm_44.nii.gz", whole, np.eye(4))
    evaluate_command(tmp_path / "p", tmp_path / "truth", tmp_path / "metrics.json")
    found = read_json(tmp_path / "metrics.json")["structures"]
    assert {name: summary["dice"]["mean"] for name, summary in found.items()} == {"vs": 1.0, "cochlea": 1.0}


def test_the_parts_of_2023_are_told_by_their_volumes_where_the_numbers_are_the_other_way_round(tmp_path: Path) -> None:
    truth = np.zeros((20, 20, 20), dtype=np.uint8)
    truth[2:17, 2:17, 2:17], truth[17, 8, 8], truth[19, 19, 19] = 2, 1, 3  # 3.4 mL cannot lie in the canal
    for folder in ("truth", "p"):
        write_volume(tmp_path / folder / "crossmoda2023_ukm_44_Label.nii.gz", truth, np.eye(4))
    evaluate_command(tmp_path / "p", tmp_path / "truth", tmp_path / "metrics.json")
    case = read_json(tmp_path / "metrics.json")["cases"][0]
    assert (case["extra"]["truth_volume_mm3"], case["intra"]["truth_volume_mm3"]) == (15**3, 1)


def test_truth_of_two_editions_is_refused(tmp_path: Path) -> None:
    for case in ("crossmoda2022_etz_210", "crossmoda2023_ukm_44"):
        write_volume(tmp_path / f"truth/{case}_Label.nii.gz", np.ones((3, 3, 3), dtype=np.uint8), np.eye(4))
    with pytest.raises(CrossmodaError, match="truth: holds cases of several editions, crossmoda2022_etz_210"):
        evaluate_command(tmp_path / "truth", tmp_path / "truth", tmp_path / "metrics.json")


def test_an_unknown_edition_is_refused(finished_run: Any) -> None:
    with pytest.raises(CrossmodaError, match="edition '2020' is not known"):
        evaluate_command(finished_run.path / "round_0/predictions", finished_run.data / "truth", edition="2020")


def test_report_prints_where_the_page_is(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(shape=(40, 36, 8), sources=1, targets=1, validations=2, rounds=1, anchors=False)
    assert report_command(run.path) == 0
    assert "report.html" in capsys.readouterr().out
