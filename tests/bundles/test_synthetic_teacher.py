"""The segmentation bundle's training by the synthetic teacher."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from support import assert_same_course, train_in_processes, workflow_of

from crossmoda.data.teacher import TISSUE_NAMES
from crossmoda.data.teacher.bank import DESCRIPTION, VERSION
from crossmoda.errors import find_user_error
from crossmoda.segmentation.tissue_teaching import UNKNOWN_TISSUE, TaughtNetwork

BUNDLE = "vs_cochlea_hrt2_segmentation"
SHAPE, SPACING = (48, 40, 16), (0.7, 0.7, 1.5)
TINY = {
    "patch_size": [32, 24, 12],
    "crop_size": [40, 36],
    "device": "cpu",
    "network_def::filters": [4, 4, 4, 4],
    "max_epochs": 2,
    "iterations_per_epoch": 2,
    "val_interval": 2,
    "num_workers": 0,
}
LABELLED = (slice(10, 22), slice(12, 22), slice(5, 11))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Return a folder of one tissue map: white matter with a tumour and a cochlea."""
    folder = tmp_path_factory.mktemp("maps")
    voxels = np.zeros((4, *SHAPE), np.uint8)
    voxels[0] = voxels[1] = TISSUE_NAMES.index("white")
    voxels[2] = 255
    voxels[3][LABELLED] = 2
    voxels[0][LABELLED] = TISSUE_NAMES.index("tumour_dense")
    voxels[3, 30:36, 14:20, 6:9] = 3
    voxels[0, 30:36, 14:20, 6:9] = TISSUE_NAMES.index("perilymph")
    np.save(folder / "teacher_00000.npy", voxels)
    case = {
        "shape": list(SHAPE),
        "affine": np.diag([*SPACING, 1.0]).tolist(),
        "counts": np.bincount(voxels[0].ravel(), minlength=len(TISSUE_NAMES)).tolist(),
        "centres": {"vs": np.argwhere(voxels[3] == 2).tolist(), "cochlea": np.argwhere(voxels[3] == 3).tolist()},
    }
    told = {"version": VERSION, "seed": 0, "tissues": list(TISSUE_NAMES), "cases": {"teacher_00000": case}}
    (folder / DESCRIPTION).write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return a datalist of one labelled validation scan."""
    folder = tmp_path_factory.mktemp("judged")
    label = np.zeros(SHAPE, np.uint8)
    label[LABELLED] = 1
    label[30:36, 14:20, 6:9] = 2
    image = np.random.default_rng(0).normal(5, 1, SHAPE).astype(np.float32) + 3 * (label > 0)
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), folder / f"{name}.nii.gz")
    item = {"case": "one", "site": "ukm", "image": "image.nii.gz", "label": "label.nii.gz"}
    path = folder / "datalist.json"
    path.write_text(
        json.dumps(
            {"edition": "2022", "labels": {"vs": 1, "cochlea": 2}, "source": [], "target": [], "validation": [item]}
        )
    )
    return path


def workflow(configs, maps, judged, output, **settings):
    return workflow_of(
        configs,
        ["train", "teacher", "variant_synthetic_teacher", "variant_tissues"],
        "train",
        teacher_dir=str(maps),
        dataset_dir=str(judged),
        output_dir=str(output),
        **TINY,
        **settings,
    )


@pytest.fixture(scope="module")
def trained(configs, maps, judged, tmp_path_factory):
    """Return the output folder of two epochs."""
    output = tmp_path_factory.mktemp("out")
    made = workflow(configs, maps, judged, output)
    made.run()
    return output


def test_what_is_saved_is_the_bundles_own_network_and_it_was_validated(configs, trained, judged):
    state = torch.load(trained / "model.pt", weights_only=True)
    assert state["output_block.conv.conv.weight"].shape[0] == 3  # background, vs, cochlea; no tissue
    history = json.loads((trained / "history.json").read_text())
    assert history["epoch"] == [1, 2]
    assert "cochlea" in json.dumps(history["series"])
    predict = workflow_of(
        configs,
        ["inference"],
        "inference",
        dataset_dir=str(judged),
        sections=["validation"],
        output_dir=str(trained / "predicted"),
        weights=str(trained / "model.pt"),
        **{key: TINY[key] for key in ("patch_size", "crop_size", "device", "network_def::filters")},
    )
    predict.run()
    assert nib.load(trained / "predicted" / "one_Label.nii.gz").shape == SHAPE


def test_the_same_seed_gives_the_same_weights_and_they_can_be_begun_with(configs, trained, maps, judged, tmp_path):
    made = workflow(configs, maps, judged, tmp_path)
    made.run()
    first, again = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)
    further = workflow(configs, maps, judged, tmp_path / "further", initial_weights=str(trained / "model.pt"))
    begun = further.parser.get_parsed_content("network").network.state_dict()
    assert all(torch.equal(begun[name][: len(value)], value) for name, value in first.items() if value.ndim)


@pytest.mark.slow
def test_two_processes_learn_tissues_as_one_does(configs, maps, judged, tmp_path, repository):
    files = ["train", "teacher", "variant_synthetic_teacher", "variant_tissues"]
    both = {**TINY, "batch_dice": False, "amp": False, "teacher_dir": maps, "dataset_dir": judged}
    workflow_of(configs, files, "train", **both, batch_size=4, output_dir=tmp_path / "one").run()
    train_in_processes(
        configs, files, repository, **both, batch_size=2, output_dir=tmp_path / "two", bundle_root=configs.parent
    )
    assert_same_course(tmp_path / "one", tmp_path / "two")
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two"))
    assert all(torch.allclose(value, two[name], rtol=1e-3, atol=1e-4) for name, value in one.items())


def test_tissues_of_cases_of_which_nobody_knows_them_are_refused_in_one_line(configs, judged, tmp_path):
    datalist = json.loads(judged.read_text())
    datalist["target"] = [{**datalist["validation"][0], "case": "two"}]
    path = judged.with_name("without_teacher.json")
    path.write_text(json.dumps(datalist))
    overlays = ["train", "variant_tissues"]
    made = workflow_of(configs, overlays, "train", dataset_dir=str(path), output_dir=str(tmp_path), **TINY)
    with pytest.raises(Exception, match="trainer") as raised:
        made.run()
    assert "variant_beside_teacher.yaml" in str(find_user_error(raised.value))


def test_without_maps_it_stops_in_one_line(configs, judged, tmp_path):
    with pytest.raises(Exception, match="teacher") as raised:
        workflow(configs, tmp_path, judged, tmp_path / "out").run()
    assert "python -m crossmoda teacher" in str(find_user_error(raised.value))


def test_given_weights_take_the_place_of_a_training(configs, trained, judged, tmp_path):
    settings = {key: TINY[key] for key in ("patch_size", "crop_size", "device", "network_def::filters")}
    given = {"dataset_dir": str(judged), "initial_weights": str(trained / "model.pt")}
    workflow_of(
        configs, ["train", "variant_given_weights"], "train", output_dir=str(tmp_path), **given, **settings
    ).run()
    first, again = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)
    told = json.loads((tmp_path / "model.json").read_text())
    assert told["given"]["training"]["sha256"] == told["given"]["sha256"]
    with pytest.raises(Exception, match="initial_weights") as raised:
        workflow_of(
            configs,
            ["train", "variant_given_weights"],
            "train",
            output_dir=str(tmp_path / "other"),
            **given,
            **{**settings, "network_def::filters": [4, 4, 4, 8]},
        )
    assert "weights of another network" in str(find_user_error(raised.value))
    assert not (tmp_path / "other").exists()


def test_real_cases_are_learnt_beside_the_teacher(configs, maps, judged, tmp_path):
    datalist = json.loads(judged.read_text())
    datalist["target"] = [{**datalist["validation"][0], "case": "two", "weight": 0.5}]
    path = judged.with_name("beside.json")
    path.write_text(json.dumps(datalist))
    made = workflow_of(
        configs,
        ["train", "teacher", "variant_beside_teacher"],
        "train",
        teacher_dir=str(maps),
        dataset_dir=str(path),
        output_dir=str(tmp_path),
        **{**TINY, "iterations_per_epoch": 8},
    )
    made.run()
    assert torch.load(tmp_path / "model.pt", weights_only=True)["output_block.conv.conv.weight"].shape[0] == 3
    draws = made.parser.get_parsed_content("train::draws")
    cases = [draws[position][0]["case"] for position in range(len(draws))]
    assert {"two", "teacher_00000"} == set(cases)


@pytest.mark.parametrize("tissues", [False, True])
@pytest.mark.parametrize("last", ["variant_partial_labels", "variant_beside_teacher"])
def test_a_scan_of_another_sequence_whose_label_knows_one_structure_is_learnt_beside_the_teacher(
    configs, maps, judged, tmp_path, last, tissues
):
    datalist = json.loads(judged.read_text())
    datalist["source"] = [{**datalist["validation"][0], "case": "tumour_alone", "labels": {"vs": 1, "other": 2}}]
    path = judged.with_name("partial.json")
    path.write_text(json.dumps(datalist))
    both = sorted(["variant_partial_labels", "variant_beside_teacher"], key=lambda name: name == last)
    overlays = [*both, "variant_any_contrast", *(["variant_tissues"] if tissues else [])]
    made = workflow_of(
        configs,
        ["train", "teacher", *overlays],
        "train",
        teacher_dir=str(maps),
        dataset_dir=str(path),
        output_dir=str(tmp_path),
        **{**TINY, "iterations_per_epoch": 8},
    )
    draws = made.parser.get_parsed_content("train::draws")
    known, tissue = {}, {}
    for position in range(len(draws)):
        patch = draws[position][0]
        assert patch["label"].shape == (2, *TINY["patch_size"])
        assert patch["structure_weight"].tolist() == [1, 1]
        assert (patch["label"][1] == 255).all()
        assert patch["tissue"].shape == (1, *TINY["patch_size"])
        known[patch["case"]] = patch["channel_group"].tolist()
        tissue[patch["case"]] = bool((patch["tissue"] == UNKNOWN_TISSUE).all())
    assert known == {"tumour_alone": [0, 1, 0], "teacher_00000": [0, 1, 2]}
    assert tissue == {"tumour_alone": True, "teacher_00000": False}
    network = made.parser.get_parsed_content("network")
    assert isinstance(network, TaughtNetwork) == tissues
    made.run()
    assert torch.load(tmp_path / "model.pt", weights_only=True)["output_block.conv.conv.weight"].shape[0] == 3
