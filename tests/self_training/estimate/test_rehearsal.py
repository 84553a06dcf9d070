"""What a rehearsal is done on, and how what it took is taken apart."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import BUNDLES

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.errors import CrossmodaError
from crossmoda.self_training import BundleUse, TumourBlending
from crossmoda.self_training.estimate.extrapolation import TimedScans
from crossmoda.self_training.estimate.rehearsal import few_scans
from crossmoda.self_training.estimate.rehearsed import steps_of_all_slices, timed_scans
from crossmoda.self_training.estimate.trainings import Part
from crossmoda.self_training.work import Work

TRANSLATION = str(BUNDLES / "cet1_to_hrt2_translation")


def work_with(source: dict[str, str], target: dict[str, str], labelled: str = "abcdef", **changes: Any) -> Work:
    """Return the work on cases of sites, named ``{case: site}``."""
    datalist = {
        "labels": {"vs": 1},
        "source": [{"case": c, "site": s, **({"label": c} if c in labelled else {})} for c, s in source.items()],
        "target": [{"case": c, "site": s} for c, s in target.items()],
        "validation": [{"case": "v", "site": "ldn"}, {"case": "w", "site": "etz"}],
    }
    use = BundleUse(TRANSLATION)
    return Work(Path(), datalist, {}, {}, use, (), ["vs"], 0, torch.device("cpu"), **changes)


def cases(datalist: dict[str, Any], section: str) -> list[str]:
    return [item["case"] for item in datalist[section]]


def test_few_scans_are_of_every_site_in_turn_and_labelled_where_they_can_be() -> None:
    sites = {"a": "ldn", "b": "ldn", "c": "ldn", "d": "etz", "e": "ukm"}
    few = few_scans(work_with(sites, sites, labelled="bcd"), cases=2)
    assert cases(few, "source") == ["b", "d", "e"]
    assert cases(few, "target") == ["a", "d", "e"]
    assert cases(few, "validation") == []  # a prediction of which would tell nothing new
    assert cases(few_scans(work_with(sites, sites, labelled="bcd"), cases=4), "source") == ["b", "d", "e", "c"]


def test_the_scan_that_a_singan_is_to_learn_is_among_them() -> None:
    sites = {"a": "ldn", "b": "ldn", "c": "ldn"}
    blending = TumourBlending(TRANSLATION, train={"case": "c"})
    assert cases(few_scans(work_with(sites, sites, blending=blending), cases=2), "target") == ["c", "a"]


@pytest.mark.parametrize(("labelled", "number", "message"), [("ab", 1, "give 2 or more"), ("a", 2, "1 source scans")])
def test_too_few_scans_are_refused(labelled: str, number: int, message: str) -> None:
    sites = {"a": "ldn", "b": "ldn"}
    with pytest.raises(CrossmodaError, match=message):
        few_scans(work_with(sites, sites, labelled=labelled), cases=number)


def test_a_scan_takes_as_long_as_lies_between_the_files(tmp_path: Path) -> None:
    for number, moment in enumerate([100.0, 103.0, 108.0]):
        (tmp_path / f"{number}_Label.nii.gz").touch()
        os.utime(tmp_path / f"{number}_Label.nii.gz", (moment, moment))
    assert timed_scans(tmp_path, 3, seconds=20.0, mib=7.0) == TimedScans("", 4.0, 8.0, 7.0)
    assert timed_scans(tmp_path, 1, seconds=20.0, mib=7.0).scan_seconds == 12.0  # of one scan, three volumes
    assert timed_scans(tmp_path / "none", 4, seconds=20.0, mib=7.0) == TimedScans("", 5.0, 0.0, 7.0)


@pytest.mark.parametrize(("settings", "steps"), [({}, 100), ({"learn_sites": ["ldn"]}, 50), ({"batch_size": 8}, 13)])
def test_a_training_on_all_slices_has_as_many_steps_as_the_modality_with_more(
    tiny_dataset: Path, tmp_path: Path, settings: dict[str, Any], steps: int
) -> None:
    """Of one scan of each kind there are 30 and 50 slices, of all twice as many, but of each site there is one."""
    datalist, few = load_datalist(tiny_dataset), tmp_path / "few.json"
    ldn = {name: [i for i in datalist[name] if i["site"] == "ldn"] for name in ("source", "target")}
    assert [len(items) for items in ldn.values()] == [1, 1]
    save_datalist(few, {**datalist, **ldn})
    part = Part("", BundleUse(TRANSLATION, train=settings))
    dataset = SimpleNamespace(source=range(30), target=range(50))
    assert steps_of_all_slices(part, dataset, few, tiny_dataset) == steps
