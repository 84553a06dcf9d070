"""How long the recipes' trainings are, and how they are cut short by their own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import LOOP

from crossmoda.self_training import SelfTrainingLoop
from crossmoda.self_training.bundles import BundleUse, make_workflow
from crossmoda.self_training.estimate.trainings import (
    Length,
    alternatives,
    length_of,
    parts_of,
    settings_of,
    shortened,
    timed_steps,
)

CONFIGS = LOOP.parents[2] / "configs"
NNUNET = (5, 1000, 300)  # folds, epochs, iterations with those of the validation

pytestmark = pytest.mark.usefixtures("in_the_repository")


def loop_of(dataset: Path, run: Path, *files: str, **settings: Any) -> SelfTrainingLoop:
    configs = [LOOP / "train.yaml", *(CONFIGS / f"{name}.yaml" for name in files)]
    workflow = make_workflow(configs, "train", dataset_dir=str(dataset), output_dir=str(run), **settings)
    loop: SelfTrainingLoop = workflow.parser.get_parsed_content("train::trainer")
    return loop


def lengths(use: BundleUse) -> dict[str, Length]:
    return {part.name: length_of(part) for part in parts_of(use)}


@pytest.fixture
def recipe(tiny_dataset: Path, tmp_path: Path) -> Any:
    """What builds the loop of a recipe."""
    return lambda *files, **settings: loop_of(tiny_dataset, tmp_path / "run", *files, **settings)


def test_the_papers_lengths_are_read_from_their_recipes(recipe: Any) -> None:
    pytest.importorskip("nnunetv2")
    kang, salle = recipe("kang2022"), recipe("salle2022")
    assert lengths(kang.work.views["cyclegan"]) == {"": Length(1, 200, 0)}  # as many steps as there are slices
    assert lengths(kang.work.segmenter) == {name: Length(*NNUNET, 1.0) for name in ("2d", "3d_fullres")}
    assert lengths(recipe("yang2022").work.segmenter) == {"3d_fullres": Length(1, 1000, 300, 0.0)}
    assert lengths(salle.work.blending) == {"": Length(1, 17 * 8, 250)}
    members = {name: Length(5, 500, 300, 1.0) for name in ("vs 3d_fullres", "cochlea 3d_fullres")}
    assert lengths(salle.work.segmenter) == members
    assert lengths(salle.work_of(4).segmenter)["vs 3d_fullres"].epochs == 1000
    assert [part.place for part in parts_of(salle.work.segmenter)] == ["members/vs", "members/cochlea"]
    assert lengths(recipe("chen2023", structures=["vs", "cochlea"]).work.segmenter) == {"": Length(1, 200, 65)}


def test_a_profile_s_lengths_take_the_place_of_the_paper_s(recipe: Any) -> None:
    small = recipe("wu2021", "profiles/cpu_small")
    assert lengths(small.work.segmenter) == {"": Length(1, 16, 25)}
    assert {name: lengths(view)[""] for name, view in small.work.views.items() if isinstance(view, BundleUse)} == {
        name: Length(1, 24, 50) for name in ("cyclegan", "cut", "cut_back")
    }


def test_a_training_is_cut_short_by_its_own_settings_and_nothing_else(recipe: Any) -> None:
    chen = recipe("chen2023", structures=["vs", "cochlea"])
    view = chen.work.views["cut"]
    whole, short = view.config("train"), shortened(view).config("train")
    changed = {key for key in whole if whole[key] != short[key]}
    assert changed == {
        *("max_epochs", "constant_epochs", "iterations_per_epoch"),
        *("validation_interval", "keep_best"),
    }
    assert lengths(shortened(view)) == {"": Length(1, 2, 8)}  # of two processes that make four batches in store
    assert lengths(shortened(chen.work.segmenter)) == {"": Length(1, 2, 6)}


def test_of_nnunet_one_fold_is_trained_which_predicts_as_often_as_there_are_folds(recipe: Any) -> None:
    pytest.importorskip("nnunetv2")
    uses = alternatives(recipe("kang2022", "profiles/gpu_24gb").work.segmenter)
    assert list(uses) == ["2d", "3d_fullres"]
    short = shortened(uses["2d"], scans=420)
    found = settings_of(short, "configurations", "train_folds", "folds", "plan_for_cases")
    assert found == {"configurations": ["2d"], "train_folds": [0], "folds": 2, "plan_for_cases": 420}
    assert timed_steps(uses["2d"]) == 32  # eight processes
    assert lengths(short) == {"2d": Length(1, 2, 32 + 6, 0.5)}  # a fifth as many steps of validation
    assert short.overrides("inference")["use_folds"] == [0] * 5


def test_of_members_each_is_cut_short_in_its_own_settings(recipe: Any) -> None:
    pytest.importorskip("nnunetv2")
    salle = recipe("salle2022", "profiles/cpu_small")
    short = shortened(salle.work.segmenter, scans=9)
    assert list(alternatives(salle.work.segmenter)) == [""]
    members = settings_of(short, "members")["members"]
    assert members["vs"]["overlays"] == ["nnunet.yaml", "prepare_deconvolved.yaml", "prepare_windowed.yaml"]
    coarser = 1.2 * (20 / 8) ** 0.5  # 20 networks share the pixels of eight
    assert members["vs"]["settings"]["target_spacing"] == pytest.approx([coarser, coarser, 1.5])
    served = members["cochlea"]["inference_settings"]
    assert served == {"amp": True, "use_folds": [0, 0], "window_mm": pytest.approx([88 * 1.2, 64 * 1.2])}
    assert lengths(short) == {name: Length(1, 2, 6 + 1, 0.5) for name in ("vs 3d_fullres", "cochlea 3d_fullres")}
    assert lengths(shortened(salle.work.blending)) == {"": Length(1, 17, 4)}
