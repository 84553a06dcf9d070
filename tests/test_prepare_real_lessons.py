"""The datalist of the real volumes that may teach: whose labels know the VS alone, and no label that judges."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError


@pytest.fixture
def prepare(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The script's ``main``."""
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    main: Callable[[str], None] = importlib.import_module("prepare_real_lessons").main
    return main


def test_what_may_teach_is_listed_and_what_judges_is_not(
    prepare: Callable[[str], None], real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSMODA_REAL_DATA", str(real_data))
    prepare(str(tmp_path))
    found = load_datalist(tmp_path / "datalist.json")
    assert [item["labels"] for item in (*found["source"], *found["target"])] == 2 * [{"vs": 1}]
    assert [item["case"] for section in ("source", "target", "validation") for item in found[section]] == [
        "vs_gk_99",
        "inner_ear_right",
    ]
    assert "vs_gk_98" not in json.dumps(found)
    ear = found["target"][0]
    label, image = read_volume(ear["label"]), read_volume(ear["image"])
    assert label.array.shape == image.array.shape
    assert not label.array.any()
    assert (label.affine == image.affine).all()


def test_without_the_volumes_it_says_where_they_are_sought(
    prepare: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSMODA_REAL_DATA", str(tmp_path))
    with pytest.raises(CrossmodaError, match="CROSSMODA_REAL_DATA"):
        prepare(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
