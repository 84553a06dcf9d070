"""Every published system, and ours, rehearsed at the smallest size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import LOOP, NETWORKS, TINY_PATCH

from crossmoda.self_training.estimate import estimate

CONFIGS = LOOP.parents[2] / "configs"
SMALLEST: dict[str, Any] = {
    "spacing": [1.6, 1.6, 3.0],
    "crop_size": [48, 32],
    "structures": ["vs", "cochlea"],
    "segmenter_folds": 2,
    "translator_sizes": {
        **{"ngf": 4, "n_blocks": 5, "ndf": 4, "batch_size": 2, "num_workers": 0},
        **{"patch_size": [48, 32], "iterations_per_epoch": 4, "max_epochs": 3},
    },
    "translator_inference_sizes": {"ngf": 4, "n_blocks": 5},
    "segmenter_sizes": {
        **{key: {**TINY_PATCH, "batch_size": 1, "iterations_per_epoch": 4, "max_epochs": 3} for key in NETWORKS},
        "nnunet": {
            **{"memory_gb": 0.05, "num_workers": 0, "iterations_per_epoch": 4, "max_epochs": 3},
            "target_spacing": "@spacing",
        },
    },
    "segmenter_inference_sizes": {**dict.fromkeys(NETWORKS, TINY_PATCH), "nnunet": {}},
}
UNMIRRORED = {"segmenter_inference_settings": {"mirroring": False, "window_mm": "@window_mm"}}
OF_RECIPES: dict[str, dict[str, Any]] = {
    "wu2021": {},
    "chen2023": {},
    "yang2022": UNMIRRORED,
    "kang2022": UNMIRRORED,
    "salle2022": {
        "singan_sizes": {"filters": 4, "maximum_filters": 4, "scale_factor": 0.9},
        "blending_settings": {"rules": [{"name": "all", "structure": "cochlea", "lambdas": [2.0], "scales": [3]}]},
        "deconvolved::deconvolution_iterations": 2,
        "nnunet_inference_sizes": {"mirroring": False},
    },
    "best": {},
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_repository", "one_thread")]


def test_a_recipe_that_starts_from_weights_is_measured_and_has_a_round_less_to_train(tiny_dataset: Path) -> None:
    files = [LOOP / "train.yaml", *(CONFIGS / f"{name}.yaml" for name in ("best", "start_from_weights"))]
    found = estimate(tiny_dataset, files, settings={**SMALLEST, "anchors": False})
    steps = {row.what: row.times for row in found.rows if row.unit == "training step" and "segmenter" in row.what}
    assert steps == {"segmenter (rounds 1-3)": 3 * 4 * 3}
    assert "segmenter (round 0)" in {row.what for row in found.rows if row.unit == "besides"}


@pytest.mark.parametrize("recipe", OF_RECIPES)
def test_every_step_of_a_recipe_is_measured(recipe: str, tiny_dataset: Path) -> None:
    if recipe in ("yang2022", "kang2022", "salle2022"):
        pytest.importorskip("nnunetv2")
    files = [LOOP / "train.yaml", CONFIGS / f"{recipe}.yaml"]
    found = estimate(tiny_dataset, files, settings={**SMALLEST, **OF_RECIPES[recipe]})
    assert {key.rsplit("/", 1)[1] for key in found.left_out} == {"reviewed", "metrics", "report"}
    assert all(seconds > 0 for seconds in found.steps.values())
    assert found.hours == pytest.approx(sum(found.steps.values()) / 3600, rel=0.01)
    assert {row.unit for row in found.rows} == {"training step", "besides", "scan"}
    assert all(row.seconds > 0 and row.mib > 0 for row in found.rows)
