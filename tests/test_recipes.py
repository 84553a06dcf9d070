"""The published systems and ours as recipes: what they resolve to, what a profile may change, and that they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from support import LOOP, TINY_SIZES, planned, recorded

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.self_training import SelfTrainingLoop
from crossmoda.self_training.bundles import make_workflow, run_workflow
from crossmoda.self_training.work import describe

CONFIGS = LOOP.parents[2] / "configs"
WITHOUT_NNUNET = ("wu2021", "chen2023", "best")
RECIPES = (*WITHOUT_NNUNET, "yang2022", "kang2022", "salle2022")
PROFILES = sorted(path.stem for path in (CONFIGS / "profiles").glob("*.yaml"))
TWO_CLASSES = {"structures": ["vs", "cochlea"]}  # as the tiny data set's labels have them
TINY: dict[str, Any] = {**TINY_SIZES, "anchors": False, **TWO_CLASSES}

pytestmark = pytest.mark.usefixtures("in_the_repository", "one_thread")


def recipe_files(recipe: str, profile: str | None = None) -> list[Path]:
    further = [CONFIGS / "profiles" / f"{profile}.yaml"] if profile else []
    return [LOOP / "train.yaml", CONFIGS / f"{recipe}.yaml", *further]


def loop_of(recipe: str, dataset: Path, run: Path, profile: str | None = None, **settings: Any) -> SelfTrainingLoop:
    places = {"dataset_dir": str(dataset), "output_dir": str(run)}
    workflow = make_workflow(recipe_files(recipe, profile), "train", **places, **settings)
    return workflow.parser.get_parsed_content("train::trainer")


# Sizes, durations and what goes with them: all that a profile may change, by the keys of the bundles' own settings.
SIZES = {
    "spacing",
    "crop_size",
    "patch_size",
    "batch_size",
    "ngf",
    "n_blocks",
    "ndf",
    "iterations_per_epoch",
    "max_epochs",
    "learning_rate",
    "trainer",  # the one exception: of nnU-Net's own, another optimiser, as SGD finds nothing in so few steps
    "num_workers",
    "amp",
    "slices_at_once",
    "windows_at_once",
    "memory_gib",
    "memory_gb",
    "base_features",
    "validation_iterations",
    "checkpoint_interval",
    "folds",  # how many, never one alone
    "train_folds",
    "target_spacing",
    "window_mm",  # of the crop and its spacing
    "scale_factor",  # of the SinGAN, so that a smaller slice has as many scales
    "filters",
    "maximum_filters",
    "iterations_per_scale",
    "epochs_per_scale",
    "keep_preprocessed",
}


def methods(loop: SelfTrainingLoop) -> dict[str, Any]:
    """Return what a run does, from the loop's own description of itself, without the paths."""
    description = loop.described()
    return {key: value for key, value in description["trainer"].items() if key != "truth_dir"}


def differences(first: Any, second: Any, path: str = "") -> set[str]:
    """Return the paths at which two nested descriptions differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        return set().union(*(differences(first.get(k), second.get(k), f"{path}/{k}") for k in {*first, *second}))
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second) and path.endswith("rounds"):
        return set().union(*(differences(a, b, path) for a, b in zip(first, second, strict=True)))
    return set() if first == second else {path}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_profile_changes_sizes_and_nothing_of_the_method(
    recipe: str, profile: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    plain = methods(loop_of(recipe, tiny_dataset, tmp_path, **TWO_CLASSES))
    sized = methods(loop_of(recipe, tiny_dataset, tmp_path, profile, **TWO_CLASSES))
    changed = {path.rsplit("/", 1)[1] for path in differences(plain, sized)}
    assert changed <= SIZES
    assert differences(plain, {**plain, "rules": []}) == ({"/rules"} if plain["rules"] else set())  # it can tell


# Of a GPU's profiles the sizes are the papers' own.
@pytest.mark.parametrize("profile", [None, *(profile for profile in PROFILES if profile.startswith("cpu"))])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_fits_together(recipe: str, profile: str | None, tiny_dataset: Path, tmp_path: Path) -> None:
    """Every round's network, patch, rules and overlays, at the papers' sizes and the profiles'; nothing is trained."""
    if recipe not in WITHOUT_NNUNET:
        pytest.importorskip("nnunetv2")
    loop = loop_of(recipe, tiny_dataset, tmp_path, profile, **TWO_CLASSES)
    loop.work.dataset_file.parent.mkdir(exist_ok=True)
    save_datalist(loop.work.dataset_file, load_datalist(tiny_dataset))
    loop.require_fit()


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return random weights of a small network of the segmentation bundle, as a file with its sidecar."""
    parser = ConfigParser()
    parser.read_config(str(LOOP.parents[1] / "vs_cochlea_hrt2_segmentation" / "configs" / "inference.yaml"))
    parser.update({"network_def::filters": GIVEN["network_def::filters"]})
    path = tmp_path_factory.mktemp("given") / "model.pt"
    save_weights(parser.get_parsed_content("network_def"), path, {"structures": ["vs", "cochlea"]})
    return path


GIVEN = {"network_def::filters": [4, 4, 4, 4], "patch_size": [32, 24, 12], "crop_size": [40, 36]}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_may_start_from_given_weights(
    recipe: str, small_weights: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    if recipe not in WITHOUT_NNUNET:
        pytest.importorskip("nnunetv2")
    files = [*recipe_files(recipe), CONFIGS / "start_from_weights.yaml"]
    own: dict[str, Any] = {"first_weights": str(small_weights), "first_weights_settings": GIVEN, **TWO_CLASSES}
    places = {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path)}
    loop = make_workflow(files, "train", **places, **own).parser.get_parsed_content("train::trainer")
    save_datalist(loop.work.dataset_file, load_datalist(tiny_dataset))
    loop.require_fit()
    without = loop_of(recipe, tiny_dataset, tmp_path, **TWO_CLASSES)
    assert list(loop.methods.of(0).segmenter.train_overlays) == ["variant_given_weights.yaml"]
    last = loop.max_epochs - 1
    assert describe(loop.methods.of(last).segmenter) == describe(without.methods.of(last).segmenter)
    built = ConfigParser(loop.described()).get_parsed_content("trainer::first_segmenter")
    assert describe(built) == describe(loop.methods.of(0).segmenter)


def test_a_member_that_learns_from_augmented_scans_needs_blending(tiny_dataset: Path, tmp_path: Path) -> None:
    loop = loop_of("salle2022", tiny_dataset, tmp_path / "run", blend=False, **TWO_CLASSES)
    with pytest.raises(CrossmodaError, match="members::cochlea: items is 'augmented', but blend is false"):
        loop.run()
    assert not (tmp_path / "run" / "round_0").exists()


@pytest.fixture(scope="module")
def wu(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("wu") / "run"
    rules = [{"_target_": "crossmoda.self_training.WeightByCertainty", "power": 0.0}]  # one step teaches nothing
    places = {"dataset_dir": str(tiny_dataset), "output_dir": str(run)}
    run_workflow(make_workflow(recipe_files("wu2021"), "train", **places, **{**TINY, "rules": rules}))
    return run


def test_wu_learns_from_three_styles_of_source_scans_with_one_label(wu: Path, tiny_dataset: Path) -> None:
    source = load_datalist(tiny_dataset)["source"]
    items = load_datalist(wu / "round_0" / "datalist.json")["source"]
    assert [(item["view"], item["case"]) for item in items] == [
        (view, item["case"]) for view in ("cet1", "cyclegan", "cut") for item in source
    ]
    for item, original in zip(items, source * 3, strict=True):
        assert same_grid(item["image"], original["image"])
        assert read_volume(item["label"]).array.tolist() == read_volume(original["label"]).array.tolist()
    assert [item["image"] for item in items[: len(source)]] == [item["image"] for item in source]
    assert all(Path(item["image"]).name == f"{item['case']}_ceT1.nii.gz" for item in items[len(source) :])
    trained = sorted(path.name for path in (wu / "round_0").glob("translator_*"))
    assert trained == ["translator_cut", "translator_cut_back", "translator_cyclegan"]


def test_wu_does_the_steps_that_it_planned(wu: Path) -> None:
    """Among them renderings of the hrT2 scans, and these as they are for the random field."""
    assert recorded(wu) == planned(wu)
    assert {"target_view", "scans"} <= {*planned(wu)["round_0"]}


def test_wu_labels_target_scans_that_are_rendered_in_the_style_of_the_source(wu: Path, tiny_dataset: Path) -> None:
    steps = read_json(wu / "round_0" / "manifest.json")["steps"]
    assert steps["target_view"]["inputs"]["weights"]["path"] == "translator_cyclegan/return_generator.pt"
    assert steps["predictions"]["inputs"]["target_view"]["path"] == "target_view"
    datalist = load_datalist(tiny_dataset)
    for item in [*datalist["target"], *datalist["validation"]]:
        assert same_grid(wu / "round_0" / "target_view" / f"{item['case']}_ceT1.nii.gz", item["image"])
        assert same_grid(wu / "round_0" / "predictions" / f"{item['case']}_Label.nii.gz", item["image"])
    assert "target_view" not in read_json(wu / "round_1" / "manifest.json")["steps"]["predictions"]["inputs"]


def test_wu_learns_from_real_scans_alone_in_the_end_and_that_model_is_served(wu: Path) -> None:
    datalist = load_datalist(wu / "round_1" / "datalist.json")
    assert {item["weight"] for item in datalist["source"]} == {0.0}
    assert {item["weight"] for item in datalist["target"]} == {1.0}
    current = read_json(wu / "current.json")
    assert current["round"] == 1
    assert current["segmentation_bundle"]["inference_overlays"] == ["variant_unet2d5.yaml", "uncertainty.yaml"]


def test_a_round_trip_must_name_a_translator_that_is_trained(tiny_dataset: Path, tmp_path: Path) -> None:
    changes = {"views::cut::reads": {"return_weights": "cut_bak/model.pt"}, **TWO_CLASSES}
    loop = loop_of("wu2021", tiny_dataset, tmp_path / "run", **changes)
    with pytest.raises(CrossmodaError, match="view 'cut' uses the translator of 'cut_bak', which trains none"):
        loop.run()
    assert not (tmp_path / "run" / "round_0").exists()
