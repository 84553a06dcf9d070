"""The segmentation bundle's training with other structures, labels, losses and augmentations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data.utils import set_rnd
from support import interrupt, train_in_processes, workflow_of

from crossmoda.errors import find_user_error

BUNDLE = "vs_cochlea_hrt2_segmentation"
SHAPE, PATCH, SPACING = (40, 36, 16), (32, 24, 12), (0.6, 0.6, 1.5)
EDITIONS = {"2022": {"vs": 1, "cochlea": 2}, "2023": {"extra": 1, "intra": 2, "cochlea": 3}}
AUGMENTATIONS = ["variant_augmentation_chen", "variant_augmentation_nnunet", "variant_augmentation_wu"]
TINY: dict[str, Any] = {
    "spacing": list(SPACING),
    "crop_size": [40, 36],
    "patch_size": list(PATCH),
    "device": "cpu",
    "network_def::filters": [4, 4, 4, 4],
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "val_interval": 1,
}

pytestmark = pytest.mark.usefixtures("one_thread")


def patient(number: int, edition: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy bright block with a tumour of 12 x 10 x 6 voxels, one third intra-meatal, and a cochlea."""
    rng = np.random.default_rng(number)
    image = rng.normal(5, 1, SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    labels = EDITIONS[edition]
    label[10:22, 12:22, 5:11] = labels.get("vs", labels.get("extra"))
    label[10:14, 12:22, 5:11] = labels.get("vs", labels.get("intra"))
    label[28:32, 14:18, 6:9] = labels["cochlea"]
    image[label > 0] += 3
    return image, label


def save(path: Path, array: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), path)
    return str(path)


@pytest.fixture(scope="module", params=sorted(EDITIONS))
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of two source cases and one for validation, with an edition's labels."""
    return write_dataset(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def plain_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("plain"), "2022")


def write_dataset(folder: Path, edition: str) -> Path:
    items = []
    for number in range(3):
        image, label = patient(number, edition)
        files = {
            "image": save(folder / f"{number}_hrT2.nii.gz", image),
            "label": save(folder / f"{number}_Label.nii.gz", label),
        }
        items.append({"case": f"case_{number}", "site": "ldn", "view": "cyclegan", **files})
    path = folder / "datalist.json"
    sections = {"source": items[:2], "target": [], "validation": items[2:]}
    path.write_text(json.dumps({"edition": edition, "labels": EDITIONS[edition], **sections}))
    return path


def changed(path: Path, name: str, **changes: Any) -> Path:
    """Write a copy of a datalist whose first source item has changes, and return its path."""
    datalist = json.loads(path.read_text())
    datalist["source"][0].update(changes)
    copy = path.with_name(f"{name}.json")
    copy.write_text(json.dumps(datalist))
    return copy


def workflow(configs: Path, dataset: Path, output: Path, *overlays: str, **settings: Any) -> ConfigWorkflow:
    places = {"dataset_dir": str(dataset), "output_dir": str(output)}
    return workflow_of(configs, ["train", *overlays], "train", **{**TINY, **places, **settings})


def patches(workflow: ConfigWorkflow, count: int, seed: int = 0) -> list[dict[str, Any]]:
    dataset = workflow.parser.get_parsed_content("train::dataset")
    set_rnd(dataset, seed=seed)
    return [dataset[i % 2][0] for i in range(count)]  # a crop gives a list of patches


def check(patch: dict[str, Any], classes: int) -> None:
    assert patch["image"].shape == patch["label"].shape == (1, *PATCH)
    assert patch["image"].dtype == torch.float32
    assert patch["image"].isfinite().all()
    assert patch["label"].dtype == torch.uint8
    assert set(patch["label"].unique().tolist()) <= set(range(classes))


# --- Structures by name ---


@pytest.mark.parametrize("structures", [["vs", "cochlea"], ["vs"], ["cochlea"]])
def test_training_takes_settings_by_name_for_any_structures(
    configs: Path, dataset: Path, tmp_path: Path, structures: list[str]
) -> None:
    workflow(configs, dataset, tmp_path, structures=structures).run()
    series = json.loads((tmp_path / "history.json").read_text())["series"]
    assert {f"val_{name}_dice" for name in structures} <= set(series)
    assert np.isfinite(series["loss"]).all()


def test_parts_of_the_tumour_are_learnt_where_the_labels_have_them(configs: Path, tmp_path: Path) -> None:
    structures = ["intra", "extra", "cochlea"]
    parts = write_dataset(tmp_path, "2023")
    made = workflow(configs, parts, tmp_path / "out", structures=structures)
    made.run()
    history = json.loads((tmp_path / "out" / "history.json").read_text())["series"]
    assert {"val_intra_dice", "val_extra_dice", "val_cochlea_dice"} <= set(history)
    labels = [patch["label"] for patch in patches(made, 12)]
    assert set(torch.stack(labels).unique().tolist()) == {0, 1, 2, 3}


def test_parts_that_the_labels_do_not_have_are_refused(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        workflow(configs, plain_dataset, tmp_path, structures=["intra", "extra"]).run()
    assert "structure 'intra' is not in the labels" in str(find_user_error(caught.value))


# --- Overlays ---


def test_any_contrast_changes_tones_and_not_labels(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    # Patches before the rest of the augmentation, drawn with and without it from the same seed.
    shown, plain = (
        workflow(configs, plain_dataset, tmp_path, "variant_any_contrast", contrast_probability=share)
        .parser.get_parsed_content("train::patches")
        .set_random_state(0)
        for share in (1.0, 0.0)
    )
    assert len(shown.transforms) == len(plain.transforms)
    label = torch.zeros(1, 40, 36, 16)
    label[0, 10:22, 12:22, 5:11] = 1
    image = torch.rand(1, 40, 36, 16) + 3 * label  # the structure is brighter than all else
    item = {"image": image, "label": label, "case": "a", "site": "", "view": "", "weight": 1.0}
    brighter = []
    for _ in range(20):
        (patch,) = shown(dict(item))
        tumour = patch["label"] == 1
        if tumour.any() and not tumour.all():
            brighter.append(bool(patch["image"][tumour].mean() > patch["image"][~tumour].mean()))
        (patch,) = plain(dict(item))
        assert torch.equal(patch["label"] == 1, patch["image"] > 2)
    assert any(brighter)
    assert not all(brighter)


@pytest.mark.parametrize(
    "overlay",
    [*AUGMENTATIONS, "variant_any_contrast", "variant_loss_chen", "variant_loss_wu", "variant_partial_labels"],
)
def test_an_overlay_s_keys_exist_in_train_or_are_marked_new(configs: Path, overlay: str) -> None:
    lines = (configs / f"{overlay}.yaml").read_text().splitlines()
    assert lines[0].startswith("# Use after train.yaml")
    marked = {line.split(":")[0] for line in lines if "# new" in line and not line.startswith((" ", "#"))}
    parser = ConfigParser(ConfigParser.load_config_file(configs / "train.yaml"))
    for key in ConfigParser.load_config_file(configs / f"{overlay}.yaml"):
        assert key in marked or key.lstrip("+").rsplit("::", 1)[0] in parser, key


@pytest.mark.parametrize("overlay", AUGMENTATIONS)
def test_augmentations_give_finite_patches_that_follow_from_the_seed(
    configs: Path, plain_dataset: Path, tmp_path: Path, overlay: str
) -> None:
    made = workflow(configs, plain_dataset, tmp_path, overlay)
    first = patches(made, 24, seed=1)
    for patch in first:
        check(patch, classes=3)
    assert any((patch["label"] == 2).any() for patch in first)
    again, other = patches(made, 24, seed=1), patches(made, 24, seed=2)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("overlay", AUGMENTATIONS)
def test_labels_go_where_images_go(configs: Path, plain_dataset: Path, tmp_path: Path, overlay: str) -> None:
    # The image shows, off its middle in every direction, a tumour 60 times brighter than the rest.
    made = workflow(configs, plain_dataset, tmp_path, overlay)
    augment = made.parser.get_parsed_content("train::augmentation").set_random_state(0)
    label = torch.zeros(1, *PATCH, dtype=torch.uint8)
    label[0, 4:14, 14:21, 6:10] = 1
    item = {"image": label * 60.0 + torch.rand(1, *PATCH), "label": label, "view": ""}
    places = set()
    for _ in range(24):
        result = augment(item)
        bright = result["image"] > (result["image"].max() + result["image"].min()) / 2
        both, tumour = (bright & (result["label"] == 1)).sum(), (result["label"] == 1).sum()
        if tumour >= 40:  # not turned or blanked out of the patch
            assert 2 * both / (bright.sum() + tumour) > 0.75
            places.add(tuple((result["label"][0] == 1).nonzero().float().mean(dim=0).round().tolist()))
    assert len(places) >= 4


def test_half_of_card_a_s_patches_are_about_a_structure(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    made = workflow(configs, plain_dataset, tmp_path, "variant_augmentation_wu")
    assert made.parser.get_parsed_content("class_ratios") == [2, 1, 1]


def test_card_c_s_loss_and_augmentation_train_the_parts_of_the_tumour(configs: Path, tmp_path: Path) -> None:
    overlays = ("variant_augmentation_chen", "variant_loss_chen")
    settings = {"structures": ["extra", "intra", "cochlea"]}
    made = workflow(configs, write_dataset(tmp_path, "2023"), tmp_path / "out", *overlays, **settings)
    inner = made.parser.get_parsed_content("loss").loss.loss.loss
    assert inner.cross_entropy.weight.tolist() == [1, 5, 15, 5]
    made.run()
    assert np.isfinite(json.loads((tmp_path / "out" / "history.json").read_text())["series"]["loss"]).all()


def test_card_a_s_loss_counts_the_background(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    made = workflow(configs, plain_dataset, tmp_path / "out", "variant_loss_wu")
    loss = made.parser.get_parsed_content("loss")
    assert loss.batch_wise
    assert loss.loss.loss.dice.dice.include_background
    assert loss.loss.loss.cross_entropy_weight == 0
    made.run()
    assert np.isfinite(json.loads((tmp_path / "out" / "history.json").read_text())["series"]["loss"]).all()


# --- Preparation ---


def prepared_dataset(folder: Path, plain: Path) -> Path:
    """Write a copy of a datalist whose images are clipped at their 90th percentile, and return its path."""
    datalist = json.loads(plain.read_text())
    for item in (*datalist["source"], *datalist["validation"]):
        image = patient(int(item["case"][-1]), "2022")[0]
        item["image"] = save(folder / f"{item['case']}_hrT2.nii.gz", np.minimum(image, np.percentile(image, 90)))
    (folder / "prepared.json").write_text(json.dumps(datalist))
    return folder / "prepared.json"


def test_training_and_validation_learn_from_prepared_images(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    """Patches of raw images with the overlay are those of images that were clipped by hand, without it."""
    raw = workflow(configs, plain_dataset, tmp_path, "prepare_clipped", clipping_percentile=90)
    ready = workflow(configs, prepared_dataset(tmp_path, plain_dataset), tmp_path)
    plain = workflow(configs, plain_dataset, tmp_path)
    expected, unlike = patches(ready, 6), patches(plain, 6)
    for found, same, other in zip(patches(raw, 6), expected, unlike, strict=True):
        torch.testing.assert_close(found["image"], same["image"], atol=1e-3, rtol=0)
        assert torch.equal(found["label"], same["label"])
        assert not torch.allclose(found["image"], other["image"], atol=0.05)
    first, second, third = (made.parser.get_parsed_content("validate::dataset")[0] for made in (raw, ready, plain))
    torch.testing.assert_close(first["image"].as_tensor(), second["image"].as_tensor(), atol=1e-3, rtol=0)
    assert torch.equal(first["label"].as_tensor(), third["label"].as_tensor())
    assert not torch.allclose(first["image"].as_tensor(), third["image"].as_tensor(), atol=0.05)


def test_weights_tell_what_images_were_prepared_by_and_another_training_does_not_go_on(
    configs: Path, plain_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for percentile in (90, 80, 80.0):
        workflow(configs, plain_dataset, tmp_path, "prepare_clipped", clipping_percentile=percentile).run()
        (told,) = json.loads((tmp_path / "model.json").read_text())["agreed"]["prepare"]
        assert f"upper={percentile:g}, " in told
    afresh = [record for record in caplog.records if "belongs to another configuration" in record.message]
    assert len(afresh) == 1


# --- Weights to begin with ---


@pytest.fixture(scope="module")
def before(configs: Path, plain_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a training with another seed."""
    folder = tmp_path_factory.mktemp("before")
    workflow(configs, plain_dataset, folder, seed=5).run()
    return folder / "model.pt"


def states(*paths: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(path, weights_only=True) for path in paths]


def alike(*paths: Path) -> bool:
    first, second = states(*paths)
    return all(torch.allclose(value, second[name], atol=1e-6) for name, value in first.items())


def test_a_training_begins_with_the_given_weights_and_so_does_their_average(
    configs: Path, plain_dataset: Path, before: Path, tmp_path: Path
) -> None:
    """What does not learn ends with what it began with; its average would not, had it begun with random weights."""
    for name, given in (("warm", str(before)), ("cold", None)):
        workflow(configs, plain_dataset, tmp_path / name, learning_rate=0.0, initial_weights=given).run()
    assert alike(tmp_path / "warm" / "model.pt", before)
    assert not alike(tmp_path / "cold" / "model.pt", before)
    workflow(configs, plain_dataset, tmp_path / "learns", initial_weights=str(before)).run()
    assert not alike(tmp_path / "learns" / "model.pt", before)


def test_a_killed_training_goes_on_from_its_checkpoint_and_not_from_the_weights_it_began_with(
    configs: Path, plain_dataset: Path, before: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"initial_weights": str(before), "max_epochs": 2}
    workflow(configs, plain_dataset, tmp_path / "unbroken", **settings).run()
    broken = workflow(configs, plain_dataset, tmp_path / "broken", **settings)
    broken.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    workflow(configs, plain_dataset, tmp_path / "broken", **settings).run()
    first, second = states(tmp_path / "unbroken" / "model.pt", tmp_path / "broken" / "model.pt")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_content_of_the_weights_decides_and_not_their_name(
    configs: Path, plain_dataset: Path, before: Path, tmp_path: Path
) -> None:
    shutil.copy(before, tmp_path / "copy.pt")
    torch.save({name: value + 1 for name, value in states(before)[0].items()}, tmp_path / "other.pt")
    paths = [None, str(before), str(tmp_path / "copy.pt"), str(tmp_path / "other.pt")]
    made = [workflow(configs, plain_dataset, tmp_path, initial_weights=path) for path in paths]
    none, first, copy, other = (one.parser.get_parsed_content("fingerprint") for one in made)
    assert first == copy
    assert len({none, first, other}) == 3


def test_weights_that_no_training_can_begin_with_are_refused_before_it_is_run(
    configs: Path, plain_dataset: Path, before: Path, tmp_path: Path
) -> None:
    larger: dict[str, Any] = {"network_def::filters": [4, 4, 4, 8]}
    remedy = "train first or name another file with --initial_weights"
    (tmp_path / "damaged.pt").write_bytes(before.read_bytes()[:-300])
    for path, changes, reason in (
        (before, larger, "model.pt: weights of another network than network_def (DynUNet)"),
        (tmp_path / "damaged.pt", {}, "damaged.pt: not a file of weights"),
        (
            tmp_path / "absent.pt",
            {},
            f"absent.pt: no weights there; {remedy}",
        ),
    ):
        with pytest.raises(Exception, match=r".") as caught:
            workflow(configs, plain_dataset, tmp_path / "out", initial_weights=str(path), **changes)  # not run
        assert reason in str(find_user_error(caught.value))
    assert not (tmp_path / "out").exists()


def test_several_processes_are_initialised_as_one_is(configs: Path) -> None:
    one, several = (ConfigParser.load_config_file(configs / f"{n}.yaml") for n in ("train", "multi_gpu_train"))
    assert [line for line in several["initialize"] if line in one["initialize"]] == one["initialize"]


@pytest.mark.slow
def test_two_processes_begin_with_the_given_weights(
    configs: Path, plain_dataset: Path, before: Path, tmp_path: Path, repository: Path
) -> None:
    settings = {**TINY, "learning_rate": 0.0, "initial_weights": before, "dataset_dir": plain_dataset}
    train_in_processes(configs, ["train"], repository, **settings, output_dir=tmp_path, bundle_root=configs.parent)
    assert alike(tmp_path / "model.pt", before)


# --- Draws ---


@pytest.mark.parametrize("augmentation", [None, *AUGMENTATIONS])
def test_workers_draw_what_the_training_s_own_process_draws(
    configs: Path, plain_dataset: Path, tmp_path: Path, augmentation: str | None
) -> None:
    overlays = [augmentation] if augmentation else []
    drawn = []
    for workers in (0, 2):
        made = workflow(configs, plain_dataset, tmp_path, *overlays, num_workers=workers, iterations_per_epoch=3)
        loader = made.parser.get_parsed_content("train::dataloader")
        set_rnd(loader.dataset, seed=5)
        torch.manual_seed(workers)  # which nothing may depend on
        drawn.append(list(loader))
    for alone, by_worker in zip(*drawn, strict=True):
        assert alone["case"] == by_worker["case"]
        assert torch.equal(torch.as_tensor(alone["image"]), torch.as_tensor(by_worker["image"]))
        assert torch.equal(torch.as_tensor(alone["label"]), torch.as_tensor(by_worker["label"]))
    assert len({float(batch["image"].sum()) for batch in drawn[0]}) == 3  # no two batches alike


# --- Where patches are augmented ---


@pytest.mark.parametrize("overlay", [None, "variant_partial_labels"])
def test_patches_are_moved_before_they_are_augmented(
    configs: Path, plain_dataset: Path, tmp_path: Path, overlay: str | None
) -> None:
    overlays = [overlay] if overlay else []
    made = workflow(configs, plain_dataset, tmp_path, *overlays, augmentation_device="meta")  # has shapes and no data
    steps = made.parser.get_parsed_content("train::preprocessing").transforms
    augmentation = len(made.parser.get_parsed_content("train::augmentation").transforms)
    item: Any = made.parser.get_parsed_content("train::cases")[0]
    for step in steps[:-augmentation]:
        item = step(item[0] if isinstance(item, list) else item)
    (patch,) = item if isinstance(item, list) else [item]
    assert {patch[key].device.type for key in ("image", "label")} == {"meta"}
    assert tuple(patch["image"].shape) == (1, *PATCH)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("overlay", [None, *AUGMENTATIONS])
def test_patches_augmented_on_a_gpu_are_those_of_the_cpu(
    configs: Path, plain_dataset: Path, tmp_path: Path, overlay: str | None
) -> None:
    overlays = [overlay] if overlay else []
    here, there = (
        patches(workflow(configs, plain_dataset, tmp_path, *overlays, augmentation_device=device), 24, seed=1)
        for device in ("cpu", "cuda")
    )
    for on_cpu, on_gpu in zip(here, there, strict=True):
        assert on_gpu["image"].device.type == "cuda"
        assert (on_cpu["label"] == on_gpu["label"].cpu()).float().mean() > 0.999
        assert torch.allclose(on_cpu["image"], on_gpu["image"].cpu(), atol=1e-2)


# --- Partial labels ---


def test_labels_that_know_different_structures_are_trained_together(
    configs: Path, plain_dataset: Path, tmp_path: Path
) -> None:
    label = patient(0, "2022")[1]
    tumour = save(tmp_path / "tumour.nii.gz", (label == 1).astype(np.uint8))
    partial = changed(plain_dataset, "partial", label=tumour, labels={"vs": 1})
    made = workflow(configs, partial, tmp_path / "out", "variant_partial_labels")
    drawn = patches(made, 2)
    assert [patch["channel_group"].tolist() for patch in drawn] == [[0, 1, 0], [0, 1, 2]]
    assert all(patch["label"].shape == (2, *PATCH) for patch in drawn)
    made.run()
    assert np.isfinite(json.loads((tmp_path / "out" / "history.json").read_text())["series"]["loss"]).all()


def test_confidence_is_cropped_and_turned_with_its_label(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    # Confidence is low exactly where the label is, so after any crop, flip and turn it must be so still.
    label = patient(0, "2022")[1]
    confidence = save(tmp_path / "confidence.nii.gz", np.where(label > 0, 0.5, 1.0).astype(np.float32))
    made = workflow(configs, plain_dataset, tmp_path / "out", "variant_partial_labels")
    items = [dict(item) for item in made.parser.get_parsed_content("train::cases")]
    items[0]["confidence"] = confidence
    transform = made.parser.get_parsed_content("train::preprocessing").set_random_state(0)
    results = [transform(items[0])[0] for _ in range(8)]
    assert any((result["label"][0] > 0).any() for result in results)
    for result in results:
        assert torch.equal(result["label"][1] == 0, result["label"][0] > 0)
    assert (transform(items[1])[0]["label"][1] == 255).all()


def test_trust_is_refused_where_it_would_not_be_read(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    path = changed(plain_dataset, "trust", structure_weights={"cochlea": 0.3})
    with pytest.raises(Exception, match=r".") as caught:
        workflow(configs, path, tmp_path / "plain").run()
    assert "'structure_weights', which train.yaml reads with variant_partial_labels" in str(
        find_user_error(caught.value)
    )
    assert not (tmp_path / "plain").exists()
    made = workflow(configs, path, tmp_path / "partial", "variant_partial_labels")
    weights = [patch["structure_weight"].tolist() for patch in patches(made, 2)]
    assert weights == [pytest.approx([1, 0.3]), [1, 1]]


def test_partial_labels_cannot_judge(configs: Path, plain_dataset: Path, tmp_path: Path) -> None:
    datalist = json.loads(plain_dataset.read_text())
    datalist["validation"][0]["labels"] = {"vs": 1}
    path = plain_dataset.with_name("judge.json")
    path.write_text(json.dumps(datalist))
    with pytest.raises(Exception, match=r".") as caught:
        workflow(configs, path, tmp_path, "variant_partial_labels").run()
    assert "unknown label values [2.0]" in str(find_user_error(caught.value))


def test_no_training_goes_on_from_the_state_of_another_variant(configs: Path, plain_dataset: Path) -> None:
    prepared = [["prepare_clipped"], ["prepare_deconvolved"], ["prepare_deconvolved", "prepare_clipped"]]
    others = ["variant_loss_chen", "variant_partial_labels", "variant_any_contrast", *AUGMENTATIONS]
    variants = [[], *([name] for name in others), *prepared]
    settings = {**TINY, "dataset_dir": plain_dataset, "fold": None}
    found = []
    for overlays in variants:
        parser = ConfigParser()
        parser.read_config([str(configs / f"{name}.yaml") for name in ("train", *overlays)])
        parser.update({key: str(value) if isinstance(value, Path) else value for key, value in settings.items()})
        found.append(parser.get_parsed_content("fingerprint"))
    assert len(set(found)) == len(variants)
