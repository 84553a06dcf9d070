"""A misspelt key is named with the right one, and nothing that the project holds is taken for misspelt."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import BUNDLES

from crossmoda.errors import CrossmodaError
from crossmoda.unknown_keys import require_arguments, require_known_keys, require_known_keys_of_command

SELF_TRAINING, SEGMENTATION, TRANSLATION = (
    BUNDLES / name / "configs"
    for name in ("vs_cochlea_self_training", "vs_cochlea_hrt2_segmentation", "cet1_to_hrt2_translation")
)
# Tested with these commands.
READ_BY_COMMANDS = {
    *("benchmark", "cross_validation", "segmenters", "simulated_reader", "teacher_ablation", "translators"),
}
CONFIGS = BUNDLES.parent / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in READ_BY_COMMANDS)
RECIPES_OF_PAPERS = sorted(name for name in RECIPES if name[-4:].isdigit())
PROFILES = sorted(path.stem for path in (CONFIGS / "profiles").glob("*.yaml"))
# Overlays that go after others, which their first line names.
AFTER = {
    "crf_agreement.yaml": ["crf.yaml"],
    "mutual_information.yaml": ["uncertainty.yaml"],
    "variant_beside_teacher.yaml": ["teacher.yaml"],
    "variant_fastcut.yaml": ["variant_cut.yaml"],
    "variant_qs_attn.yaml": ["variant_cut.yaml"],
    "variant_synthetic_teacher.yaml": ["teacher.yaml"],
    "variant_tissues.yaml": ["teacher.yaml", "variant_synthetic_teacher.yaml"],
}
BEFORE = {"teacher.yaml": ["variant_synthetic_teacher.yaml"]}  # that do nothing without another after them
COMBINATIONS = [  # of overlays, as docs and tests use them
    [TRANSLATION, "train", "variant_cut", "variant_plateau"],
    [TRANSLATION, "train", "variant_cut", "variant_structure_terms"],
    [TRANSLATION, "train", "variant_unet_generator", "multi_gpu_train"],
    [TRANSLATION, "inference", "variant_unet_generator", "evaluate"],
    [SEGMENTATION, "inference", "votes", "ensemble", "evaluate"],
    [SEGMENTATION, "inference", "inference_nnunet", "uncertainty", "anatomy"],
    [SEGMENTATION, "inference", "uncertainty", "votes", "confidence"],
    [SEGMENTATION, "train", "variant_augmentation_chen", "variant_loss_chen", "variant_partial_labels"],
    [SEGMENTATION, "train", "teacher", "variant_beside_teacher", "variant_partial_labels", "variant_any_contrast"],
    [SEGMENTATION, "train", "teacher", "variant_partial_labels", "variant_beside_teacher", "variant_tissues"],
    [SEGMENTATION, "train", "teacher", "variant_synthetic_teacher", "variant_tissues", "multi_gpu_train"],
]


def uses() -> list[Any]:
    """Return every overlay after every file that its first lines name."""
    found = []
    for configs in (SELF_TRAINING, SEGMENTATION, TRANSLATION):
        for overlay in sorted(configs.glob("*.yaml")):
            first = overlay.read_text().splitlines()[0]
            for base in ("train.yaml", "inference.yaml"):
                if first.startswith("# Use after") and re.search(rf"\b{base}", first):
                    names = [base, *AFTER.get(overlay.name, []), overlay.name, *BEFORE.get(overlay.name, [])]
                    found.append(pytest.param([configs / name for name in names], id=f"{configs.parent.name}/{names}"))
    return found


@pytest.mark.parametrize("files", uses())
def test_every_overlay_is_right_where_it_says_that_it_is_used(files: list[Path]) -> None:
    require_known_keys(files)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "+".join([c[0].parent.name, *c[1:]]))
def test_overlays_are_right_together(combination: list[Any]) -> None:
    require_known_keys([combination[0] / f"{name}.yaml" for name in combination[1:]])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_every_recipe_is_right(recipe: str, profile: str | None) -> None:
    further = [CONFIGS / "profiles" / f"{profile}.yaml"] if profile else []
    require_known_keys([SELF_TRAINING / "train.yaml", CONFIGS / f"{recipe}.yaml", *further])


def test_the_tests_above_go_through_all_overlays() -> None:
    gone_through = {path for case in uses() for path in case.values[0]}
    there = {path for bundle in BUNDLES.glob("*/configs") for path in bundle.glob("*.yaml")}
    assert {path.name for path in there - gone_through} == {"singan_train.yaml", "tumour_blending.yaml"}


def written(folder: Path, content: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content)
    return path


MISSPELT = {  # what a recipe after train.yaml says, and the key that is meant
    "segmenter_setings: {max_epochs: 3}": ("segmenter_setings", "segmenter_settings"),
    "Rounds: 3": ("Rounds", "rounds"),
    "+view: {other: null}": ("view", "views"),
    "train::handlrs: []": ("train::handlrs", "train::handlers"),
    "+train: {handlrs: []}": ("train::handlrs", "train::handlers"),
    "train#handlrs: []": ("train::handlrs", "train::handlers"),  # MONAI's older separator
    "train::traner::max_epochs: 3": ("train::traner", "train::trainer"),
    "handlers: []": ("handlers", "train::handlers"),  # of another mapping
    "roundz: '$@roundz + 1'": ("roundz", "rounds"),  # refers to itself alone
}


@pytest.mark.parametrize("content", MISSPELT)
def test_a_misspelt_key_of_a_recipe_is_named_with_the_right_one(content: str, tmp_path: Path) -> None:
    key, meant = MISSPELT[content]
    recipe, train = written(tmp_path, content), SELF_TRAINING / "train.yaml"
    with pytest.raises(CrossmodaError) as caught:
        require_known_keys([train, recipe])
    assert str(caught.value) == f"{recipe}: no such key '{key}' in {train}; did you mean '{meant}'?"


def test_a_key_that_is_like_none_is_told_how_many_there_are(tmp_path: Path) -> None:
    train = SELF_TRAINING / "train.yaml"
    count = len(yaml.safe_load(train.read_text()))
    with pytest.raises(CrossmodaError, match=f"'qqqq' .*; none of the {count} that there are is like it$"):
        require_known_keys([train, written(tmp_path, "qqqq: 1")])


def test_a_key_below_another_bundle_s_settings_is_that_bundle_s_to_refuse(tmp_path: Path) -> None:
    require_known_keys([SELF_TRAINING / "train.yaml"], {"segmenter_settings::max_epochs": 3})


NEW = [
    "sizes: [1, 2]\nsegmenter_settings: {patch_size: '@sizes'}",  # referred to as a whole
    "sizes: {patch: [1, 2]}\nsegmenter_settings: {patch_size: '@sizes::patch'}",  # in part
    "sizes: {patch: [1, 2]}\nsegmenter_settings: {patch_size: '%sizes::patch'}",  # copied
    "translator_sites: [ldn]\nrounds: '$len(@translator_sites)'",  # in an expression
    "views::other: {_target_: crossmoda.self_training.BundleUse, root: x}",  # in what is read with all that is in it
    "+imports: ['$import math']\nfinalize: ['$print(1)']",  # MONAI's own words
    "phantom: {cases: 3}",  # for a command
]


@pytest.mark.parametrize("content", NEW)
def test_a_new_key_that_something_reads_is_right(content: str, tmp_path: Path) -> None:
    require_known_keys([SELF_TRAINING / "train.yaml", written(tmp_path, content)])


def test_what_another_file_s_content_refers_to_is_right(tmp_path: Path) -> None:
    fetched = tmp_path / "fetched.yaml"
    fetched.write_text("settings: {patch_size: '@sizes'}\n")
    content = f"sizes: [1, 2]\nsegmenter_settings: '%{fetched}::settings'"
    require_known_keys([SELF_TRAINING / "train.yaml", written(tmp_path, content)])
    with pytest.raises(CrossmodaError, match="no such key 'sizez'"):
        require_known_keys([SELF_TRAINING / "train.yaml", written(tmp_path, content.replace("sizes: ", "sizez: "))])


@pytest.mark.parametrize("recipe", [*RECIPES_OF_PAPERS, "best"])
@pytest.mark.parametrize("profile", [None, "cpu_small"])
def test_every_recipe_may_start_from_weights(recipe: str, profile: str | None) -> None:
    further = [CONFIGS / "profiles" / f"{profile}.yaml"] if profile else []
    require_known_keys(
        [SELF_TRAINING / "train.yaml", CONFIGS / f"{recipe}.yaml", *further, CONFIGS / "start_from_weights.yaml"]
    )


NNUNET = [SEGMENTATION / "train.yaml", SEGMENTATION / "nnunet.yaml"]


@pytest.mark.parametrize("key", ["fold", "patch_size", "batch_size", "initial_weights", "train::handlers"])
def test_a_setting_of_the_training_that_nnunet_replaces_is_refused_where_effects_are_asked_for(key: str) -> None:
    require_known_keys(NNUNET, {key: None})
    with pytest.raises(
        CrossmodaError, match=rf"^settings: '{key}' has no effect, as nothing .* reads it; leave it out$"
    ):
        require_known_keys(NNUNET, {key: None}, idle=())


def test_settings_with_an_effect_direct_or_through_others_are_right() -> None:
    require_known_keys(NNUNET, {"max_epochs": 3, "structures": ["vs"], "bundle_root": "x", "nnunet::folds": 2}, idle=())
    plain = {"fold": 0, "network_def::filters": [1], "betas": [0.9, 0.9], "train::trainer::max_epochs": 3}
    require_known_keys([SEGMENTATION / "train.yaml"], plain, idle=())
    require_known_keys(NNUNET, {"fold": None}, idle=["fold"])
    loop = {"segmenter_settings": {"max_epochs": 3}, "views::cyclegan": None, "structures": ["vs"], "rounds": 1}
    require_known_keys([SELF_TRAINING / "train.yaml"], loop, idle=())


@pytest.mark.parametrize("text", ["false", "True", "no"])
def test_text_in_place_of_true_or_false_is_refused(text: str) -> None:
    with pytest.raises(CrossmodaError, match=f"^settings: resume is '{text}'; write True or False on the command line"):
        require_known_keys([SEGMENTATION / "train.yaml"], {"resume": text})


def test_a_number_that_yaml_takes_for_text_is_refused(tmp_path: Path) -> None:
    mine = written(tmp_path, "learning_rate: 1e-3")
    with pytest.raises(CrossmodaError) as caught:
        require_known_keys([SEGMENTATION / "train.yaml", mine])
    assert str(caught.value) == f"{mine}: learning_rate is '1e-3', which is text; write 0.001"
    require_known_keys([SEGMENTATION / "train.yaml", written(tmp_path, "learning_rate: 1.0e-3")])
    require_known_keys([SEGMENTATION / "train.yaml", written(tmp_path, "learning_rate: $1e-3")])


def test_a_file_for_training_and_inference_may_name_keys_of_either(tmp_path: Path) -> None:
    plan = written(tmp_path, "batch_size: 4\nwindow_overlap: 0.5")  # of train.yaml, and of inference.yaml
    require_known_keys([SEGMENTATION / "train.yaml", plan])
    require_known_keys([SEGMENTATION / "inference.yaml", plan])


def test_an_override_of_another_workflow_s_key_is_refused_since_it_does_nothing() -> None:
    with pytest.raises(CrossmodaError, match=r"train\.yaml of the bundle has one: give that file too"):
        require_known_keys([SEGMENTATION / "inference.yaml"], {"batch_size": 4})


def test_a_key_of_an_overlay_that_was_not_given_names_the_overlay(tmp_path: Path) -> None:
    recipe = written(tmp_path, "crf_iterations: 4")
    with pytest.raises(CrossmodaError, match=r"'crf_iterations' .*; crf\.yaml of the bundle has one"):
        require_known_keys([SEGMENTATION / "inference.yaml", recipe])
    require_known_keys([SEGMENTATION / "inference.yaml", SEGMENTATION / "crf.yaml", recipe])


def test_a_misspelt_override_is_named_with_where_it_comes_from() -> None:
    files = [SEGMENTATION / "train.yaml", SEGMENTATION / "variant_mednext.yaml"]
    with pytest.raises(CrossmodaError) as caught:
        require_known_keys(files, {"learning_rte": 1.0e-3}, "settings of the segmenter")
    assert str(caught.value) == (
        f"settings of the segmenter: no such key 'learning_rte' in {files[0]} and the 1 after it; "
        "did you mean 'learning_rate'?"
    )


ARGUMENTS: dict[str, Any] = {  # override -> the misspelt argument, of what, and what is meant
    "network_def::filers": ("filers", "DynUNet", "filters"),
    "loss_def::loss::loss::cross_entropy_wait": (
        "cross_entropy_wait",
        "DiceAndWeightedCrossEntropy",
        "cross_entropy_weight",
    ),
    "train::patches::transforms::2::num_clases": ("num_clases", "RandCropByLabelClassesd", "num_classes"),
}


@pytest.mark.parametrize("key", ARGUMENTS)
def test_a_misspelt_argument_of_a_component_is_named_before_it_is_built(key: str) -> None:
    argument, component, meant = ARGUMENTS[key]
    wanted = rf"no such argument '{argument}' of {component} \({key.rpartition('::')[0]}\); did you mean '{meant}'\?"
    with pytest.raises(CrossmodaError, match=wanted):
        require_known_keys([SEGMENTATION / "train.yaml"], {key: 1})


def test_arguments_of_a_component_that_a_file_brings_are_looked_at_wherever_it_stands(tmp_path: Path) -> None:
    overlay = written(
        tmp_path, "postprocessing::transforms:\n- {_target_: Compose, transforms: [{_target_: Invertd, transfrom: 1}]}"
    )
    with pytest.raises(CrossmodaError, match=r"'transfrom' of Invertd .*; did you mean 'transform'"):
        require_known_keys([SEGMENTATION / "inference.yaml", overlay])


def test_words_of_monai_in_a_component_and_targets_that_take_anything_are_right(tmp_path: Path) -> None:
    keys = {"network_def::_disabled_": False, "network_def::_desc_": "mine"}
    require_known_keys([SEGMENTATION / "train.yaml"], keys)
    overlay = written(tmp_path, "network_def: {_target_: builtins.dict, anything: 1}\n")
    require_known_keys([SEGMENTATION / "train.yaml", overlay])


def test_a_missing_file_and_a_key_that_fits_nothing_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"nowhere\.yaml: no such configuration file"):
        require_known_keys([SEGMENTATION / "train.yaml", tmp_path / "nowhere.yaml"])
    with pytest.raises(CrossmodaError, match="'seed::x' does not fit what it goes into"):
        require_known_keys([SEGMENTATION / "train.yaml"], {"seed::x": 1})


def test_looking_does_not_change_the_overrides() -> None:
    overrides = {"translator_settings": {}, "translator_settings::ngf": 4}
    require_known_keys([SELF_TRAINING / "train.yaml"], overrides)
    assert overrides == {"translator_settings": {}, "translator_settings::ngf": 4}


def test_arguments_of_a_function_are_held_against_its_signature() -> None:
    def draw(cases: int, *, seed: int = 0) -> None: ...

    require_arguments("demo.yaml: phantom", draw, {"cases": 1, "seed": 2})
    with pytest.raises(
        CrossmodaError, match=r"demo\.yaml: phantom: no such argument 'cses' of draw; did you mean 'cases'\?"
    ):
        require_arguments("demo.yaml: phantom", draw, {"cses": 1})


# --- The command line ---

MODULE = "/somewhere/site-packages/monai/bundle/__main__.py"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str, program: str = MODULE) -> None:
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    require_known_keys_of_command()


def test_the_command_line_is_read_as_monai_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train, recipe = str(SELF_TRAINING / "train.yaml"), str(written(tmp_path, "rounds: 1"))
    files = f"['{train}','{recipe}']"
    places = ["--dataset_dir", "data", "--output_dir=out"]
    command(monkeypatch, "run", "--config_file", files, *places, "--logging_file", "False", "--seed", "3")
    command(monkeypatch, "run", "--config_file", train, "--tracking", "mlflow", "--experiment_name", "mine")
    command(monkeypatch, "run", "training", "--config_file", train, "--training", "['$print(1)']")  # another run_id
    for wrong in (["--learning_rte", "1"], ["--learning_rte=1"], ["--learning-rte", "1"]):
        with pytest.raises(CrossmodaError, match=r"^command line: no such key 'learning_rte'"):
            command(monkeypatch, "run", "--config_file", files, *places, *wrong)


def test_a_file_of_arguments_is_read_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = tmp_path / "arguments.yaml"
    arguments.write_text(yaml.safe_dump({"config_file": str(SELF_TRAINING / "train.yaml"), "rundes": 3}))
    with pytest.raises(CrossmodaError, match=r"'rundes' .*; did you mean 'rounds'"):
        command(monkeypatch, "run", "--args_file", str(arguments))


def test_another_program_s_command_line_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/somewhere/pytest", "/somewhere/crossmoda/__main__.py"):
        command(monkeypatch, "run", "--config_file", "nowhere.yaml", "--anything", "1", program=program)
    command(monkeypatch, "verify_net_in_out", "--config_file", "nowhere.yaml")


def test_the_bundle_s_own_command_ends_with_one_line(repository: Path, tmp_path: Path) -> None:
    train = "bundles/vs_cochlea_hrt2_segmentation/configs/train.yaml"
    arguments = ["--config_file", train, "--logging_file", "False", "--learning_rte", "1e-3", "--output_dir", tmp_path]
    ended = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"error: command line: no such key 'learning_rte' in {train}; did you mean 'learning_rate'?"
    )
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_workflow_looks_before_all_else() -> None:
    """Also where an overlay brings a list of its own."""
    for path in sorted(BUNDLES.glob("*/configs/*.yaml")):
        content = yaml.safe_load(path.read_text())
        if "initialize" in content:
            steps = ["$report_in_one_line()", "$require_known_keys_of_command()"]
            assert content["initialize"][:2] == steps, path
