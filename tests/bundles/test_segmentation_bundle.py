"""The segmentation bundle from files to files, on a data set of a few thousand voxels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from support import interrupt, workflow_of

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.errors import find_user_error
from crossmoda.files import read_json
from crossmoda.labels import channel_def

BUNDLE = "vs_cochlea_hrt2_segmentation"
SHAPE = (44, 36, 12)
SPACING = (0.8, 0.9, 1.5)
AXES = {1: "LPS", 2: "RAS", 3: "RPS", 106: "LPS", 107: "RPI", 211: "RAI", 212: "PLS"}
SHARED: dict[str, Any] = {
    "spacing": [0.8, 0.9, 1.5],
    "crop_size": [40, 32],
    "patch_size": [32, 24, 12],
    "device": "cpu",
    "network_def::filters": [8, 12, 16, 16],
}
TRAINING: dict[str, Any] = {**SHARED, "max_epochs": 4, "iterations_per_epoch": 2, "val_interval": 2}


pytestmark = pytest.mark.usefixtures("one_thread")


def patient(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an elliptic head with one bright ball (VS) and a brighter small one (cochlea), and its label map."""
    rng = np.random.default_rng(number)
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    middle = np.array(SHAPE) / 2
    image = 1.0 * ((((x - middle[0]) / 19) ** 2 + ((y - middle[1]) / 15) ** 2) < 1)
    tumour = middle + rng.uniform(-4, 4, 3) * (1, 1, 0.3)
    cochlea = tumour + (rng.choice([-9, 9]), -5, 0)
    label = np.zeros(SHAPE, np.uint8)
    for number_on_disk, centre, radius in ((1, tumour, 5.0), (2, cochlea, 3.0)):
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - centre[2])) ** 2 < radius**2
        image[ball], label[ball] = 1.5 + number_on_disk, number_on_disk
    return image + rng.normal(0, 0.1, SHAPE), label


def save(path: Path, array: np.ndarray, number: int) -> None:
    """Save with the voxel axes turned as AXES says, off the origin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (7, -11, 13)
    image = nib.Nifti1Image(array, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(AXES[number]))
    nib.save(image.as_reoriented(turn), path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist in the layout of 2022: three source, two target, two validation cases with labels."""
    root = tmp_path_factory.mktemp("dataset")
    training = root / "crossmoda2022_training"
    for number in AXES:
        case = f"crossmoda2021_ldn_{number}"
        image, label = patient(number)
        if number < 100:
            save(training / "training_source" / f"{case}_ceT1.nii.gz", image.astype(np.float32), number)
            save(training / "training_source" / f"{case}_Label.nii.gz", label, number)
        else:
            folder = training / "training_target" if number < 200 else root / "crossmoda2022_validation"
            save(folder / f"{case}_hrT2.nii.gz", image.astype(np.float32), number)
            save(root / "truth" / f"{case}_Label.nii.gz", label, number)
    datalist = load_datalist(root)
    for item in datalist["validation"]:
        item["label"] = str(root / "truth" / f"{item['case']}_Label.nii.gz")
    save_datalist(root / "datalist.json", datalist)
    return root / "datalist.json"


def train(configs: Path, dataset: Path, output: Path, stop_in_epoch: int | None = None, **overrides: Any) -> None:
    settings = {**TRAINING, "dataset_dir": str(dataset), "output_dir": str(output), **overrides}
    workflow = workflow_of(configs, ["train"], "train", **settings)
    if stop_in_epoch is not None:
        event = Events.ITERATION_COMPLETED(once=TRAINING["iterations_per_epoch"] * (stop_in_epoch - 1) + 1)
        workflow.trainer.add_event_handler(event, interrupt)
    workflow.run()


@pytest.fixture(scope="module")
def trained(configs: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an unbroken training of four epochs."""
    output = tmp_path_factory.mktemp("segmenter")
    train(configs, dataset, output)
    return output


def predict(configs: Path, dataset: Path, weights: Path, output: Path, names: list[str], **overrides: Any) -> None:
    settings = {**SHARED, "dataset_dir": str(dataset), "output_dir": str(output), "weights": str(weights), **overrides}
    workflow_of(configs, names, "inference", **settings).run()


# --- What the bundle declares ---


def test_required_properties_are_there(configs: Path, dataset: Path) -> None:
    places = {"dataset_dir": str(dataset)}
    assert workflow_of(configs, ["train"], "train", **places).check_properties() == []
    assert workflow_of(configs, ["train", "variant_unet2d5"], "train", **places).check_properties() == []
    assert workflow_of(configs, ["inference"], "inference", **places).check_properties() == []
    assert workflow_of(configs, ["inference", "uncertainty"], "inference", **places).check_properties() == []
    places["sections"] = ["validation"]
    assert workflow_of(configs, ["inference", "evaluate"], "inference", **places).check_properties() == []


def test_training_and_inference_agree(configs: Path) -> None:
    train_config = ConfigParser.load_config_file(configs / "train.yaml")
    inference_config = ConfigParser.load_config_file(configs / "inference.yaml")
    for key in (
        "network_def",
        "structures",
        "prepare",
        "agreed",
        "spacing",
        "crop_size",
        "patch_size",
        "amp",
        "bundle_root",
    ):
        assert train_config[key] == inference_config[key], key
    working_space, preprocessing = train_config["to_working_space"], inference_config["preprocessing"]
    assert (
        preprocessing.pop("pad_size") == "@patch_size"
    )  # a training draws patches from what is padded; a window need not
    assert {**working_space, "label_keys": None} == {**preprocessing, "label_keys": None}


@pytest.mark.parametrize(
    ("base", "overlay"),
    [
        ("inference", "uncertainty"),
        ("inference", "evaluate"),
        ("inference", "variant_unet2d5"),
        ("train", "multi_gpu_train"),
        ("train", "variant_unet2d5"),
    ],
)
def test_an_overlay_s_keys_exist_in_its_base_or_are_marked_new(configs: Path, base: str, overlay: str) -> None:
    lines = (configs / f"{overlay}.yaml").read_text().splitlines()
    marked = {line.split(":")[0] for line in lines if "# new" in line and not line.startswith((" ", "#"))}
    parser = ConfigParser(ConfigParser.load_config_file(configs / f"{base}.yaml"))
    for key in ConfigParser.load_config_file(configs / f"{overlay}.yaml"):
        parent = key.lstrip("+").rsplit("::", 1)[0]
        assert key in marked or parent in parser, key


def test_metadata_names_the_channels_and_shapes_of_the_network(configs: Path) -> None:
    metadata = json.loads((configs / "metadata.json").read_text())
    structures = ConfigParser.load_config_file(configs / "inference.yaml")["structures"]
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == channel_def(structures)
    assert output["num_channels"] == len(structures) + 1
    assert metadata["version"] in metadata["changelog"]


def test_metadata_follows_the_schema(configs: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(__file__).with_name("metadata_schema.json")
    if not schema.is_file():
        pytest.skip("no local copy of the metadata schema")
    jsonschema.validate(json.loads((configs / "metadata.json").read_text()), json.loads(schema.read_text()))


def test_default_network_accepts_the_stated_patch_sizes(configs: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(configs / "inference.yaml"))
    network = parser.get_parsed_content("network_def").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, 24, 16, 8)).shape == (1, 3, 24, 16, 8)


# --- Training ---


def test_training_leaves_weights_curves_and_a_sidecar(trained: Path) -> None:
    history = read_json(trained / "history.json")
    assert history["epoch"] == [1, 2, 3, 4]
    assert set(history["series"]) == {"loss", "val_mean_dice", "val_vs_dice", "val_cochlea_dice"}
    assert [value is None for value in history["series"]["val_mean_dice"]] == [True, False, True, False]
    sidecar = read_json(trained / "model.json")
    assert sidecar["structures"] == ["vs", "cochlea"]
    assert sidecar["iterations"] == 8
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert list((trained / "logs").glob("events*"))


def test_a_killed_training_ends_with_the_same_weights(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(configs, dataset, tmp_path, stop_in_epoch=3)
    train(configs, dataset, tmp_path)
    expected, found = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert read_json(tmp_path / "history.json") == read_json(trained / "history.json")


def test_another_seed_gives_other_weights(configs: Path, dataset: Path, trained: Path, tmp_path: Path) -> None:
    train(configs, dataset, tmp_path, seed=1, max_epochs=1)
    expected, found = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert not all(torch.equal(expected[name], found[name]) for name in expected)


def test_without_labelled_validation_cases_validation_is_skipped(configs: Path, dataset: Path, tmp_path: Path) -> None:
    train(configs, dataset.parent, tmp_path, max_epochs=2)  # the folder: its validation images have no labels
    assert set(read_json(tmp_path / "history.json")["series"]) == {"loss"}


def test_a_patch_larger_than_the_images_works(configs: Path, dataset: Path, tmp_path: Path) -> None:
    big = {"patch_size": [56, 48, 24], "crop_size": [24, 24]}
    train(configs, dataset, tmp_path, max_epochs=1, iterations_per_epoch=1, val_interval=1, **big)
    predict(configs, dataset, tmp_path / "model.pt", tmp_path / "out", ["inference"], sections=["validation"], **big)
    assert nib.load(tmp_path / "out" / "crossmoda2021_ldn_212_Label.nii.gz").shape == (SHAPE[1], SHAPE[0], SHAPE[2])


def test_a_short_training_learns_an_easy_problem(configs: Path, dataset: Path, tmp_path: Path) -> None:
    easy = {"max_epochs": 4, "iterations_per_epoch": 20, "val_interval": 4, "learning_rate": 1.0e-2}
    train(configs, dataset, tmp_path, **easy)
    assert read_json(tmp_path / "history.json")["series"]["val_vs_dice"][-1] > 0.8


def test_no_labelled_case_stops_before_training(configs: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, dataset, tmp_path, train_sections=["target"])
    assert "no labelled case in target to train on" in str(find_user_error(caught.value))


def test_too_few_patients_for_the_folds_stop_before_training(configs: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, dataset, tmp_path, fold=0)
    told = (
        f"{dataset}: there are labels of 3 patients, too few for 5 folds; set folds to 3 or less, or add labelled scans"
    )
    assert str(find_user_error(caught.value)) == told
    assert not list(tmp_path.iterdir())


# --- Prediction ---


@pytest.fixture(scope="module")
def predicted(configs: Path, dataset: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predictions")
    predict(configs, dataset, trained / "model.pt", output, ["inference", "uncertainty"])
    return output


def test_predictions_lie_on_the_images_own_grids(dataset: Path, predicted: Path) -> None:
    datalist = load_datalist(dataset)
    for item in [*datalist["target"], *datalist["validation"]]:
        image, label, entropy = (
            nib.load(path)
            for path in (
                item["image"],
                predicted / f"{item['case']}_Label.nii.gz",
                predicted / "uncertainty" / f"{item['case']}_uncertainty.nii.gz",
            )
        )
        assert label.shape == entropy.shape == image.shape
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
        np.testing.assert_allclose(entropy.affine, image.affine, atol=1e-4)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}
        values = entropy.get_fdata()
        assert 0 <= values.min() <= values.max() <= 1


def test_every_case_has_an_uncertainty_score(predicted: Path) -> None:
    scores = read_json(predicted / "uncertainty" / "uncertainty.json")
    assert sorted(scores) == [f"crossmoda2021_ldn_{number}" for number in (106, 107, 211, 212)]
    assert all(0 < score <= 1 for score in scores.values())


def test_thick_slices_keep_their_grid(configs: Path, trained: Path, tmp_path: Path) -> None:
    affine = np.array([[-0.9, 0.1, 0, 20], [0.1, 0.9, 0.3, -15], [0, -0.05, 5.5, 8], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(patient(9)[0].astype(np.float32), affine), tmp_path / "in" / "oblique.v1_T2.nii.gz")
    predict(configs, tmp_path / "in", trained / "model.pt", tmp_path / "out", ["inference"])
    label = nib.load(tmp_path / "out" / "oblique.v1_Label.nii.gz")
    assert label.shape == SHAPE
    np.testing.assert_allclose(label.affine, affine, atol=1e-4)


def test_an_image_stored_in_sagittal_slices_keeps_its_grid(configs: Path, trained: Path, tmp_path: Path) -> None:
    affine = np.array([[0, 0, -1.5, 20], [-0.8, 0, 0, 15], [0, 0.9, 0, 8], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(patient(9)[0].astype(np.float32), affine), tmp_path / "in" / "sagittal_T2.nii.gz")
    predict(configs, tmp_path / "in", trained / "model.pt", tmp_path / "out", ["inference"])
    np.testing.assert_allclose(nib.load(tmp_path / "out" / "sagittal_Label.nii.gz").affine, affine, atol=1e-4)


def test_at_most_one_tumour_is_left(predicted: Path) -> None:
    from scipy import ndimage

    for path in predicted.glob("*_Label.nii.gz"):
        tumour = np.asarray(nib.load(path).dataobj) == 1
        assert ndimage.label(tumour, structure=np.ones((3, 3, 3)))[1] <= 1


def test_evaluation_writes_dice_and_distance_of_each_structure(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    predict(configs, dataset, trained / "model.pt", tmp_path, ["inference", "evaluate"], sections=["validation"])
    names = [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert names == ["mean_dice", "vs_dice", "cochlea_dice", "vs_assd_mm", "cochlea_assd_mm"]


def test_missing_weights_stop_with_their_name(configs: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        predict(configs, dataset, tmp_path / "absent.pt", tmp_path / "out", ["inference"])
    assert "absent.pt: no weights there" in str(find_user_error(caught.value))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"structures": ["cochlea", "vs"]}, "structures ['vs', 'cochlea'], but structures is ['cochlea', 'vs']"),
        ({"structures": ["extra", "cochlea"]}, "structures ['vs', 'cochlea'], but structures is ['extra', 'cochlea']"),
        ({"spacing": [1.0, 1.0, 1.0]}, "but spacing is [1.0, 1.0, 1.0]; give --spacing alike"),
    ],
)
def test_weights_of_other_structures_or_spacing_are_refused_before_any_image_is_read(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        predict(configs, dataset, trained / "model.pt", tmp_path, ["inference"], **other)
    assert told in str(find_user_error(caught.value))
    assert not list(tmp_path.iterdir())


def test_a_training_does_not_begin_with_weights_of_other_structures(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    weights = str(trained / "model.pt")
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, dataset, tmp_path, structures=["cochlea", "vs"], initial_weights=weights)
    assert "give --structures alike" in str(find_user_error(caught.value))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"class_weights": {"vs": 2.0}}, "class_weights"),
        ({"batch_size": 0}, "batch_size is 0; give a whole number from 1 up"),
        ({"max_epochs": 0}, "max_epochs is 0; give a whole number from 1 up"),
    ],
)
def test_a_loss_or_a_length_that_cannot_be_stops_before_any_image_is_read(
    configs: Path, dataset: Path, tmp_path: Path, wrong: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr("crossmoda.data.transforms.read_volume", read)
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, dataset, tmp_path, **wrong)
    assert told in str(find_user_error(caught.value))


def test_another_network_s_weights_stop_with_their_name(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    other: dict[str, Any] = {"network_def::filters": [8, 8, 8, 8]}
    with pytest.raises(Exception, match=r".") as caught:
        predict(configs, dataset, trained / "model.pt", tmp_path, ["inference"], **other)
    assert "model.pt: weights of another network" in str(find_user_error(caught.value))
