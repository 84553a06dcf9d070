"""Several renderings of every labelled scan: two translators, or one that knows the styles of two sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import planned, recorded, run_loop, tiny_loop

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume
from crossmoda.errors import find_user_error
from crossmoda.files import read_json
from crossmoda.segmentation.cases import cases_to_learn, cases_to_validate

BLOCKS = {"n_blocks": 5}  # so that QS-Attn finds its layer 16
SETTINGS = tiny_loop(
    rounds=0,
    anchors=False,
    translator_settings={**BLOCKS, "max_epochs": 1},
    translator_inference_settings=BLOCKS,
    segmenter_settings={"iterations_per_epoch": 1, "max_epochs": 1},
)

pytestmark = pytest.mark.usefixtures("one_thread", "in_the_repository")


def run_round_0(dataset: Path, run: Path, variant: str, **changes: Any) -> Path:
    run_loop(dataset, run, variant, **{**SETTINGS, **changes})
    return run / "round_0"


@pytest.fixture(scope="module")
def two_views(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_round_0(tiny_dataset, tmp_path_factory.mktemp("views") / "run", "variant_two_views.yaml")


def test_each_view_is_a_training_image_that_shares_the_label(two_views: Path, tiny_dataset: Path) -> None:
    items = load_datalist(two_views / "datalist.json")["source"]
    cases = [item["case"] for item in load_datalist(tiny_dataset)["source"]]
    assert [(item["view"], item["case"]) for item in items] == [(v, c) for v in ("cyclegan", "qs_attn") for c in cases]
    by_case = {case: {str(item["label"]) for item in items if item["case"] == case} for case in cases}
    assert all(len(labels) == 1 for labels in by_case.values())
    first, second = (read_volume(item["image"]).array for item in (items[0], items[len(cases)]))
    assert not np.allclose(first, second, atol=0.01)
    assert recorded(two_views.parent) == planned(two_views.parent)


def test_folds_keep_the_views_of_a_patient_together(two_views: Path) -> None:
    datalist = two_views / "datalist.json"
    for fold in (0, 1):
        learnt = {item["case"] for item in cases_to_learn(datalist, ["source"], fold, 2)}
        judged = cases_to_validate(datalist, fold=fold, folds=2, train_sections=["source"])
        assert not learnt & {item["case"] for item in judged}
        assert {item["view"] for item in judged} == {"cyclegan", "qs_attn"}


def test_two_styles_come_from_one_translator(tiny_dataset: Path, tmp_path: Path) -> None:
    round_0 = run_round_0(tiny_dataset, tmp_path / "run", "variant_site_styles.yaml")
    assert sorted(path.name for path in round_0.glob("translator_*")) == ["translator_ldn"]
    views = [item["view"] for item in load_datalist(round_0 / "datalist.json")["source"]]
    assert views == ["ldn", "ldn", "etz", "etz"]
    renderings = read_json(round_0 / "manifest.json")["steps"]["pseudo_hrt2/etz"]
    assert renderings["inputs"]["weights"]["path"] == "translator_ldn/model.pt"
    assert recorded(tmp_path / "run") == planned(tmp_path / "run")


def test_a_view_must_name_one_that_trains(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        run_round_0(tiny_dataset, tmp_path / "run", "variant_site_styles.yaml", **{"views::etz::weights_of": "ukm"})
    assert "view 'etz' uses the translator of 'ukm'" in str(find_user_error(caught.value))
    assert not (tmp_path / "run" / "round_0").exists()
