"""Every method of the translation bundle from files to files: each variant trains, resumes, and translates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from support import assert_same_course, interrupt, train_in_processes, workflow_of

from crossmoda.data.datalist import load_datalist
from crossmoda.errors import find_user_error

BUNDLE = "cet1_to_hrt2_translation"
TINY: dict[str, Any] = {
    "spacing": [1.6, 1.6, 1.5],
    "crop_size": [64, 48],
    "ngf": 4,
    "n_blocks": 1,
    "device": "cpu",
    "num_workers": 0,
}
TRAINING: dict[str, Any] = {
    "patch_size": [32, 32],
    "minimum_foreground": 0.0,
    "ndf": 4,
    "batch_size": 2,
    "iterations_per_epoch": 2,
    "max_epochs": 3,
}
CUT = ["variant_cut"]
NCE = {"nce_layers": [0, 4, 8, 12], "patches": 16, "projection_width": 8}  # a generator of one block has no layer 16
METHODS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "cyclegan": ([], {}),
    "cyclegan of 10": ([], {"batch_size": 10}),
    "unet": (["variant_unet_generator"], {"n_halvings": 4}),
    "cut": (CUT, NCE),
    "fastcut": ([*CUT, "variant_fastcut"], NCE),
    "qs global": ([*CUT, "variant_qs_attn"], NCE),
    "qs local": ([*CUT, "variant_qs_attn"], {**NCE, "qs_mode": "local"}),
    "qs local_global": ([*CUT, "variant_qs_attn"], {**NCE, "qs_mode": "local_global"}),
    "cut on a plateau": ([*CUT, "variant_plateau"], NCE),
    "cyclegan on a plateau": (["variant_plateau"], {}),
    "cyclegan, structures": (["variant_structure_terms"], {}),
    "cut, structures": ([*CUT, "variant_structure_terms"], {**NCE, "focus": {"cochlea": 0.5}}),
    "cyclegan, sites": ([], {"sites": ["etz", "ldn"], "site": "etz"}),
    "cut, sites": (CUT, {**NCE, "sites": ["ldn", "etz"], "site": "ldn"}),
    "cyclegan, slabs": ([], {"context": 1}),
    "cut, slabs": (CUT, {**NCE, "context": 1}),
    "cut, reversed": (CUT, {**NCE, "reverse": True}),
}
REFUSED = {
    "unet, structures": (["variant_unet_generator", "variant_structure_terms"], {"n_halvings": 4}),
    "cut of unet": ([*CUT, "variant_unet_generator"], {**NCE, "n_halvings": 4}),
}
RESUMED = ["cut", "fastcut", "qs global", "cyclegan, slabs", "cut on a plateau", "cyclegan, structures", "cut, sites"]

pytestmark = pytest.mark.usefixtures("one_thread")


def training(configs: Path, dataset: Path, output: Path, method: str, **overrides: Any) -> ConfigWorkflow:
    overlays, settings = (METHODS | REFUSED)[method]
    places = {"dataset_dir": dataset, "output_dir": output}
    settings = {**TINY, **TRAINING, **places, **settings, **overrides}
    return workflow_of(configs, ["train", *overlays], "train", **settings)


def finish(workflow: ConfigWorkflow) -> None:
    workflow.run()
    workflow.finalize()


@pytest.fixture(scope="module", params=list(METHODS))
def trained(
    request: pytest.FixtureRequest, configs: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A method, and the folder of its training of three epochs."""
    output = tmp_path_factory.mktemp("translator")
    finish(training(configs, tiny_dataset, output, request.param))
    return request.param, output


def inference(configs: Path, dataset: Path, trained: Path, output: Path, method: str, *more: str, **s: Any) -> None:
    overlays, settings = METHODS[method]
    used = {key: settings[key] for key in ("sites", "site", "context", "n_halvings") if key in settings}
    overlays = [name for name in overlays if name == "variant_unet_generator"]
    used |= {"antialias": True} if "cut" in method or "qs" in method else {}
    settings = {**TINY, "dataset_dir": dataset, "output_dir": output, "weights": trained / "model.pt", **used, **s}
    workflow_of(configs, ["inference", *overlays, *more], "inference", **settings).run()


def test_a_training_leaves_weights_curves_and_pictures(trained: tuple[str, Path]) -> None:
    method, output = trained
    history = json.loads((output / "history.json").read_text())
    assert history["epoch"] == [1, 2, 3]
    assert all(np.isfinite(values).all() for values in history["series"].values())
    assert (output / "previews" / "epoch_003.png").is_file()
    assert (output / "return_generator.pt").is_file() == (not method.startswith(("cut", "fastcut", "qs")))
    expected = {"loss_nce_source"} if "cut" in method or "qs" in method else {"loss_cycle_source"}
    expected |= {"loss_structure_edges", "loss_structure_segmentation"} if "structures" in method else set()
    assert expected <= set(history["series"])


def test_the_translations_lie_on_the_scans_own_grid(
    trained: tuple[str, Path], configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    method, output = trained
    reverse = "reversed" in method
    section, modality = ("target", "ceT1") if reverse else ("source", "hrT2")
    inference(configs, tiny_dataset, output, tmp_path, method, section=section, modality=modality)
    for item in load_datalist(tiny_dataset)[section]:
        scan, translated = nib.load(item["image"]), nib.load(tmp_path / f"{item['case']}_{modality}.nii.gz")
        assert translated.shape == scan.shape
        np.testing.assert_allclose(translated.affine, scan.affine, atol=1e-4)
        assert np.isfinite(translated.get_fdata()).all()


@pytest.mark.parametrize("method", RESUMED)
def test_a_training_that_was_cut_off_ends_with_the_same_weights_and_losses(
    method: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    finish(training(configs, tiny_dataset, tmp_path / "unbroken", method))
    workflow = training(configs, tiny_dataset, tmp_path / "broken", method)
    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), interrupt)  # the second of epoch 2
    with pytest.raises(BaseException, match="cut off"):
        workflow.run()
    finish(training(configs, tiny_dataset, tmp_path / "broken", method))
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("unbroken", "broken")]
    assert histories[0] == histories[1]
    unbroken, resumed = (torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("unbroken", "broken"))
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


@pytest.mark.parametrize("method", ["cyclegan", "cut"])
def test_learning_rates_are_constant_and_then_fall_on_a_line(
    method: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Two epochs at the full rate, two on the way to 0, which a fifth would reach."""
    workflow = training(configs, tiny_dataset, tmp_path, method, max_epochs=4, discriminator_learning_rate=2.0e-5)
    names = ("generator", "discriminator", *(["projector"] if method == "cut" else []))
    rates: dict[str, list[float]] = {name: [] for name in names}

    def note(engine: Any) -> None:
        for name in names:
            optimizer = workflow.parser.get_parsed_content(f"{name}_optimizer")
            rates[name].append(optimizer.param_groups[0]["lr"])

    workflow.trainer.add_event_handler(Events.EPOCH_STARTED, note)
    finish(workflow)
    for name in names:
        full = 2e-5 if name == "discriminator" else 2e-4
        assert rates[name] == pytest.approx([full, full, full * 2 / 3, full / 3]), name


def test_the_learning_rate_of_a_plateau_falls_when_the_loss_does_not(
    configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """With so high a threshold no loss counts as lower than the first, and each is followed by a fall."""
    settings = {"plateau_patience": 0, "plateau_threshold": 0.99, "max_epochs": 3}
    workflow = training(configs, tiny_dataset, tmp_path, "cut on a plateau", **settings)
    finish(workflow)
    for name in ("generator", "discriminator", "projector"):
        rate = workflow.parser.get_parsed_content(f"{name}_optimizer").param_groups[0]["lr"]
        assert rate == pytest.approx(2e-4 * 0.2 * 0.2), name


@pytest.mark.parametrize("method", ["cyclegan", "cut, slabs", "cyclegan, sites"])
def test_a_training_measures_its_distance_to_real_slices(
    method: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = {"validation_interval": 2, "validation_slices": 6, "max_epochs": 4}
    workflow = training(configs, tiny_dataset, tmp_path, method, **settings)
    finish(workflow)
    found = json.loads((tmp_path / "history.json").read_text())["series"]["val_kernel_distance"]
    assert [value is None for value in found] == [True, False, True, False]
    assert found[1] != found[3]


def test_the_weights_of_the_best_look_are_deployed_even_after_an_interruption(
    configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = {"validation_interval": 1, "validation_slices": 6, "keep_best": True, "max_epochs": 4}
    settings |= {
        "ema_momentum": 0.5,
        "patience": 1,
        "learning_rate": 0.01,
    }  # so rough a rate that not every look is better
    finish(training(configs, tiny_dataset, tmp_path / "unbroken", "cyclegan", **settings))
    workflow = training(configs, tiny_dataset, tmp_path / "broken", "cyclegan", **settings)
    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), interrupt)
    with pytest.raises(BaseException, match="cut off"):
        workflow.run()
    finish(training(configs, tiny_dataset, tmp_path / "broken", "cyclegan", **settings))
    unbroken, resumed = (torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("unbroken", "broken"))
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    state = torch.load(tmp_path / "broken" / "checkpoints" / "training.pt", weights_only=True)["objects"]
    assert all(torch.equal(value, state["best"]["weights"]["network"][key]) for key, value in unbroken.items())
    back = torch.load(tmp_path / "broken" / "return_generator.pt", weights_only=True)
    assert all(torch.equal(value, state["best"]["weights"]["return_network"][key]) for key, value in back.items())
    found = json.loads((tmp_path / "broken" / "history.json").read_text())["series"]["val_kernel_distance"]
    assert state["best"]["best"] == pytest.approx(min(found))


def test_chens_rates_and_weight_decay_reach_the_optimizers(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    chen = {"discriminator_learning_rate": 2.0e-5, "weight_decay": 1.0e-4, "initialisation": "he"}
    parser = training(configs, tiny_dataset, tmp_path, "cut", **chen).parser
    groups = {
        name: parser.get_parsed_content(f"{name}_optimizer").param_groups[0]
        for name in ("generator", "discriminator", "projector")
    }
    assert {name: group["lr"] for name, group in groups.items()} == {
        "generator": 2e-4,
        "discriminator": 2e-5,
        "projector": 2e-4,
    }
    assert all(group["weight_decay"] == 1e-4 and group["betas"] == (0.5, 0.999) for group in groups.values())


def resolved(configs: Path, *overlays: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(configs / f"{name}.yaml") for name in ("train", *overlays)])
    return parser


def test_the_papers_figures_are_the_defaults(configs: Path) -> None:
    """Recipe cards 0.1 to 0.3."""

    def values(overlays: list[str], *keys: str) -> list[Any]:
        parser = resolved(configs, *overlays)
        return [parser.get_parsed_content(key) for key in keys]

    lengths = ("max_epochs", "constant_epochs", "batch_size")
    assert values([], *lengths) == [200, 100, 1]
    weights = ("adversarial_weight", "cycle_weight", "identity_weight", "pool_size")
    assert values([], *weights, "learning_rate", "beta1") == [1, 10, 5, 50, 2e-4, 0.5]
    assert values(CUT, *lengths) == [400, 200, 1]
    contrast = ("nce_layers", "patches", "nce_weight", "nce_identity", "nce_temperature", "projection_width")
    assert values(CUT, *contrast) == [[0, 4, 8, 12, 16], 256, 1, True, 0.07, 256]
    fast = [*CUT, "variant_fastcut"]
    assert values(fast, *lengths, "nce_weight", "nce_identity", "flip_equivariance") == [200, 150, 1, 10, False, True]
    attentive = values([*CUT, "variant_qs_attn"], "patch_choices")[0]
    assert [type(choice).__name__ for choice in attentive] == ["RandomPatches"] * 3 + ["GlobalAttentionPatches"] * 2


def test_weights_of_another_way_of_halving_are_refused(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    finish(training(configs, tiny_dataset, tmp_path, "cut", max_epochs=1))
    with pytest.raises(Exception, match=r".") as caught:
        inference(configs, tiny_dataset, tmp_path, tmp_path / "out", "cut", antialias=False)
    assert "weights of another network" in str(find_user_error(caught.value))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("cut, sites", {"sites": ["ldn"]}, "site 'etz' is not among sites ldn; add it there"),
        ("cut, structures", {"structures": ["vs"]}, "focus on cochlea, but structures are vs; add it there"),
        ("cut, structures", {"reverse": True}, "leave them out with reverse"),
        ("qs global", {"qs_mode": "none"}, "qs_mode 'none' is unknown"),
        ("cut", {"nce_layers": [0, 4, 99]}, "feature layers .* rising numbers from 0 to 23"),
        ("unet", {"n_halvings": 6}, "multiples of 64"),
        ("cyclegan, sites", {"site": "ukm"}, "site 'ukm' is not among sites"),
        (
            "cyclegan, sites",
            {"sites": ["etz", "ldn", "ukm"]},
            r"^sites: .* no target \(hrT2\) scan of site 'ukm'; there are scans of etz \(1\), ldn \(1\); none",
        ),
        ("cyclegan, sites", {"reverse": True}, "sites are styles of hrT2"),
        ("cyclegan", {"learn_sites": ["ldn", "EZT"]}, r"^learn_sites: .* 'EZT'; there are .* did you mean 'etz'\?$"),
        ("unet", {"sites": ["etz", "ldn"]}, "U-Net generator knows one style"),
        ("unet, structures", {}, "UNetGenerator has no numbered layers"),
        ("cyclegan", {"keep_best": True, "validation_interval": 0}, "keep_best need a look"),
        ("cyclegan", {"patience": 2, "validation_interval": 10}, "keep_best need a look"),
        ("cyclegan", {"validation_slices": 1, "validation_interval": 1}, "raise validation_slices above 1"),
        ("cut of unet", {}, "UNetGenerator has no numbered layers"),
    ],
)
def test_wrong_settings_stop_before_the_first_step(
    method: str, settings: dict[str, Any], message: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        training(configs, tiny_dataset, tmp_path, method, **settings).run()
    error = find_user_error(caught.value)
    assert error is not None, caught.value
    assert re.search(message, str(error)), error
    assert not (tmp_path / "history.json").exists()


def test_what_was_agreed_upon_in_training_is_asked_for_in_translation(
    configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """The order of the sites is what their numbers mean; weights of either order fit the network."""
    finish(training(configs, tiny_dataset, tmp_path, "cyclegan, sites", max_epochs=1))
    for changes, message in (
        ({"sites": ["ldn", "etz"]}, r"trained with sites \['etz', 'ldn'\], but sites is \['ldn', 'etz'\]"),
        ({"spacing": [1.0, 1.0, 1.5]}, r"trained with spacing \[1.6, 1.6, 1.5\]"),
        ({"intensity": "slice_percentile"}, "trained with intensity minmax_percentile"),
    ):
        with pytest.raises(Exception, match=r".") as caught:
            inference(configs, tiny_dataset, tmp_path, tmp_path / "out", "cyclegan, sites", **changes)
        assert re.search(message, str(find_user_error(caught.value)))


def test_without_looks_nothing_is_compared(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    finish(training(configs, tiny_dataset, tmp_path, "cyclegan", validation_interval=0, validation_slices=1))
    assert "val_kernel_distance" not in json.loads((tmp_path / "history.json").read_text())["series"]


def test_one_sites_scans_teach_and_slices_may_be_scaled_one_by_one(
    configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = {"learn_sites": ["ldn"], "intensity": "slice_percentile", "max_epochs": 1}
    workflow = training(configs, tiny_dataset, tmp_path, "cyclegan", **settings)
    dataset = workflow.parser.get_parsed_content("train::dataset")
    wanted = [item["case"] for item in load_datalist(tiny_dataset)["source"] if item["site"] == "ldn"]
    assert {dataset.source.case(entry) for entry in range(len(dataset.source))} == set(wanted)
    for entry in range(len(dataset.target)):  # every slice that shows anything fills the range
        slab, _ = dataset.target.slab(entry)
        assert (slab.min(), slab.max()) == (-1, 1)
    finish(workflow)


def test_a_site_must_be_named_to_be_rendered(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    finish(training(configs, tiny_dataset, tmp_path, "cyclegan, sites", max_epochs=1))
    with pytest.raises(Exception, match=r".") as caught:
        inference(configs, tiny_dataset, tmp_path, tmp_path / "out", "cyclegan, sites", site=None)
    assert "knows 2 sites; name one with --site" in str(find_user_error(caught.value))


def test_round_trips_of_cyclegan_and_of_two_cuts(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """ceT1' and ceT1'' of Wu 2021 (recipe card A), named as ceT1 and on the scans' own grids."""
    finish(training(configs, tiny_dataset, tmp_path / "cyclegan", "cyclegan", max_epochs=1))
    finish(training(configs, tiny_dataset, tmp_path / "cut", "cut", max_epochs=1))
    finish(training(configs, tiny_dataset, tmp_path / "back", "cut, reversed", max_epochs=1))
    ways = {"cyclegan": "cyclegan/return_generator.pt", "cut": "back/model.pt"}
    found = {}
    for method, back in ways.items():
        output = tmp_path / f"{method}_trip"
        settings = {"return_weights": str(tmp_path / back)}
        inference(configs, tiny_dataset, tmp_path / method, output, method, "round_trip", **settings)
        found[method] = sorted(path.name for path in output.iterdir())
    cases = sorted(f"{item['case']}_ceT1.nii.gz" for item in load_datalist(tiny_dataset)["source"])
    assert found == {"cyclegan": cases, "cut": cases}


def test_a_round_trip_is_both_generators_in_turn(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    finish(training(configs, tiny_dataset, tmp_path, "cyclegan", max_epochs=1))
    places = {"dataset_dir": tiny_dataset, "output_dir": tmp_path / "out"}
    weights = {"weights": tmp_path / "model.pt", "return_weights": tmp_path / "return_generator.pt"}
    parser = workflow_of(configs, ["inference", "round_trip"], "inference", **TINY, **places, **weights).parser
    slices = torch.randn(1, 1, 16, 16)
    there, back, trip = (parser.get_parsed_content(key) for key in ("there", "back", "network"))
    assert not torch.equal(there(slices), back(slices))
    torch.testing.assert_close(trip(slices), back(there(slices)))


NEW_KEYS = {
    "variant_cut": {
        "nce_layers", "patches", "nce_weight", "nce_identity", "nce_temperature", "projection_width",
        "flip_equivariance", "patch_choices", "projector_def", "projector", "projector_optimizer",
        "projector_schedule",
    },
    "variant_unet_generator": {"slices_at_once", "n_halvings"},
    "variant_structure_terms": {
        "segmentation_weight", "edge_weight", "visible_edge", "training_state::objects::structure_terms",
        "configuration::variants::structure_terms",
    },
    "variant_plateau": {
        "plateau_factor", "plateau_patience", "plateau_threshold", "projector_schedule",
        "configuration::variants::plateau",
    },
    "round_trip": {"return_weights", "return_network_def", "there", "back"},
}  # fmt: skip


@pytest.mark.parametrize("overlay", list(NEW_KEYS))
def test_overlays_change_keys_that_exist(overlay: str, configs: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / f"{'inference' if overlay == 'round_trip' else 'train'}.yaml"))
    keys = {key.lstrip("+") for key in yaml.safe_load((configs / f"{overlay}.yaml").read_text())}
    assert {key for key in keys if key not in parser} == NEW_KEYS[overlay]


@pytest.mark.parametrize("overlay", ["variant_fastcut", "variant_qs_attn"])
def test_overlays_of_cut_change_keys_of_cut(overlay: str, configs: Path) -> None:
    keys = {key.lstrip("+") for key in yaml.safe_load((configs / f"{overlay}.yaml").read_text())}
    new = {key for key in keys if key not in resolved(configs, *CUT)}
    assert new == ({"qs_mode", "attention_layers"} if "qs" in overlay else set())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_where_rates_follow_the_loss(
    configs: Path, tiny_dataset: Path, tmp_path: Path, repository: Path
) -> None:
    """Each sees other slices and hence another loss; were each to follow its own, they would drift apart."""
    names = ["train", "variant_cut", "variant_plateau"]
    settings = {**TINY, **TRAINING, **NCE, "max_epochs": 8, "plateau_patience": 0, "plateau_threshold": 0.1}
    settings |= {"dataset_dir": tiny_dataset, "validation_interval": 4, "amp": False}
    finish(workflow_of(configs, names, "train", **settings, output_dir=tmp_path / "one"))
    train_in_processes(configs, names, repository, **settings | {"batch_size": 1}, output_dir=tmp_path / "two")
    assert_same_course(tmp_path / "one", tmp_path / "two")
    for name in ("generator_optimizer", "projector_optimizer"):
        one, two = (
            torch.load(tmp_path / folder / "checkpoints" / "training.pt", weights_only=True)["objects"][name]
            for folder in ("one", "two")
        )
        assert one["param_groups"][0]["lr"] == two["param_groups"][0]["lr"] < 2e-4
