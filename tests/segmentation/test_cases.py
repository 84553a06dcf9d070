"""Which cases a segmenter learns from and is validated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.cases import cases_to_learn, cases_to_validate


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Six patients in two views, one with an augmented copy, and two pseudo-labelled scans of other patients."""
    views = ["cyclegan", "cut"]
    source = [item(f"ldn_{n}", view) for view in views for n in range(6)] + [item("ldn_3", "cut+vs_x0.7_scale13")]
    lists = {"source": source, "target": [item("ldn_106"), item("ldn_107")], "validation": [item("ldn_211")]}
    for entry in (entry for section in lists.values() for entry in section):
        for key in ("image", "label"):
            (tmp_path / entry[key]).touch()  # only their names are looked at
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"edition": "2022", "labels": {"vs": 1, "cochlea": 2}, **lists}))
    return path


def item(case: str, view: str = "") -> dict[str, Any]:
    return {
        "case": case,
        "site": "ldn",
        "view": view,
        "image": f"{case}_{view}.nii.gz",
        "label": f"{case}_Label.nii.gz",
    }


SECTIONS = ("source", "target")


def names(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(found["case"], found["view"]) for found in items]


def test_without_a_fold_all_are_learnt_from_and_the_validation_section_judges(datalist: Path) -> None:
    assert len(cases_to_learn(datalist, SECTIONS)) == 15
    assert names(cases_to_validate(datalist)) == [("ldn_211", "")]


def test_a_fold_leaves_out_all_views_and_copies_of_its_patients(datalist: Path) -> None:
    seen = []
    for fold in range(4):
        learnt = cases_to_learn(datalist, SECTIONS, fold, 4)
        judged = cases_to_validate(datalist, fold=fold, folds=4, train_sections=SECTIONS)
        assert not {case for case, _ in names(learnt)} & {case for case, _ in names(judged)}
        assert not any("+" in view for _, view in names(judged))
        copies = [pair for pair in names(learnt) if "+" in pair[1]]
        assert len(copies) == (0 if ("ldn_3", "cut") in names(judged) else 1)
        seen += names(judged)
    assert len(seen) == len(set(seen)) == 14  # every view of every patient is judged once


def only(datalist: Path, kept: Any) -> Path:
    """Write the datalist with the source items alone that are kept, and pseudo-labelled target items."""
    found = json.loads(datalist.read_text())
    for entry in found["target"]:
        entry["provenance"] = {"status": "pseudo"}
    datalist.write_text(json.dumps({**found, "source": [entry for entry in found["source"] if kept(entry)]}))
    return datalist


def judged_of_folds(datalist: Path, folds: int) -> list[tuple[str, str]]:
    found = [cases_to_validate(datalist, fold=f, folds=folds, train_sections=SECTIONS) for f in range(folds)]
    return sorted(pair for fold in found for pair in names(fold))


def test_where_there_are_augmented_copies_alone_they_are_judged(datalist: Path) -> None:
    """As of a member that learns from them (Salle 2022), beside real scans whose labels are a network's."""
    copies = only(datalist, lambda entry: "+" in entry["view"])
    assert judged_of_folds(copies, 3) == [("ldn_3", "cut+vs_x0.7_scale13")]


def test_where_all_labels_are_a_network_s_all_are_judged(datalist: Path) -> None:
    assert judged_of_folds(only(datalist, lambda entry: False), 2) == [("ldn_106", ""), ("ldn_107", "")]


@pytest.mark.parametrize(("key", "value"), [("confidence", "trust.nii.gz"), ("structure_weights", {"cochlea": 0.3})])
def test_trust_that_a_training_does_not_read_is_refused(datalist: Path, key: str, value: Any) -> None:
    (datalist.parent / "trust.nii.gz").touch()
    lists = json.loads(datalist.read_text())
    lists["target"][1][key] = value
    datalist.write_text(json.dumps(lists))
    message = rf"case ldn_107 has '{key}', which train.yaml reads with variant_partial_labels.yaml alone"
    with pytest.raises(CrossmodaError, match=message):
        cases_to_learn(datalist, SECTIONS)
    assert len(cases_to_learn(datalist, ["source"])) == 13  # others are learnt from as before
    assert key in cases_to_learn(datalist, ["target"], reads_trust=True)[1]
    lists["target"][1]["weight"] = 0  # not learnt from, whatever it says
    datalist.write_text(json.dumps(lists))
    assert len(cases_to_learn(datalist, SECTIONS)) == 14


def test_a_fold_that_is_not_there_is_refused(datalist: Path) -> None:
    with pytest.raises(CrossmodaError, match="fold is 4; give 0 to 3"):
        cases_to_learn(datalist, SECTIONS, 4, 4)
