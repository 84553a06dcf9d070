"""The weights in the bundle: that they are those of the model card, and what they find on scans that they never saw."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from support import workflow_of

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.data.volumes import read_volume
from crossmoda.engines import load_weights
from crossmoda.evaluation.report.slices import to_ras
from crossmoda.files import read_json, sha256_of

BUNDLE = "vs_cochlea_hrt2_segmentation"
VIEW_MM = (104.0, 66.0, 40.0)  # both ears
LARGEST_BYTES = 20_000_000

pytestmark = pytest.mark.usefixtures("one_thread", "in_the_repository")


@pytest.fixture(scope="module")
def bundle(repository: Path) -> Path:
    return repository / "bundles" / BUNDLE


@pytest.fixture(scope="module")
def card(bundle: Path) -> str:
    return (bundle / "docs" / "model_card.md").read_text()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def predict(bundle: Path, images: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Return the label files of scans, predicted as make serve does: no setting is changed."""
    items = [{"case": case, "site": "unknown", "image": str(image)} for case, image in images.items()]
    empty: dict[str, Any] = {"edition": "plain", "labels": {"vs": 1}, "source": [], "target": []}
    save_datalist(folder / "datalist.json", {**empty, "validation": items})
    places = {"dataset_dir": str(folder / "datalist.json"), "output_dir": str(folder / "out")}
    workflow_of(bundle / "configs", ["inference", "uncertainty", "anatomy"], "inference", **places).run()
    return {case: folder / "out" / f"{case}_Label.nii.gz" for case in images}


def test_they_are_small_and_those_of_the_card(bundle: Path, card: str) -> None:
    weights = bundle / "models" / "model.pt"
    assert weights.stat().st_size < LARGEST_BYTES
    assert read_json(weights.with_suffix(".json"))["sha256"] == sha256_of(weights)
    assert sha256_of(weights) in card
    assert (
        read_json(bundle / "configs" / "metadata.json")["network_data_format"]["outputs"]["pred"]["num_channels"] == 3
    )


def test_they_fit_the_bundle_s_own_settings(bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    agreed = {key: parser.get_parsed_content(key) for key in ("structures", "spacing")}
    load_weights(parser.get_parsed_content("network_def"), bundle / "models" / "model.pt", agreed)
    told = read_json(bundle / "models" / "model.json")
    assert all(told[key] == parser.get_parsed_content(key) for key in ("crop_size", "patch_size"))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth and prediction of a synthetic scan, and the prediction of the same scan with other axes."""
    folder = tmp_path_factory.mktemp("shipped")
    data = write_phantom_dataset(
        folder / "data", cases=2, seed=99, edition="2022", validation=2, field_of_view_mm=VIEW_MM, processes=1
    )
    item = load_datalist(data)["validation"][0]
    scan = nib.load(item["image"])
    turned = scan.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P"), (("L", "R"), ("P", "A"), ("I", "S"))))
    nib.save(turned, folder / "turned.nii.gz")
    files = predict(bundle, {"plain": Path(item["image"]), "turned": folder / "turned.nii.gz"}, folder)
    assert nib.load(files["turned"]).shape == turned.shape
    truth = to_ras(read_volume(data / "truth" / f"{item['case']}_Label.nii.gz")).array
    return truth, *(to_ras(read_volume(files[name])).array for name in ("plain", "turned"))


def test_tumour_and_cochleae_of_a_synthetic_patient_are_found(seen: tuple[np.ndarray, ...]) -> None:
    truth, found, _ = seen
    assert dice(truth == 1, found == 1) > 0.6
    assert dice(truth == 2, found == 2) > 0.75
    half = len(found) // 2
    assert (found[:half] == 2).any()
    assert (found[half:] == 2).any()


def test_other_axes_give_the_same_label(seen: tuple[np.ndarray, ...]) -> None:
    _, found, turned = seen
    assert found.shape == turned.shape
    for number in (1, 2):
        assert dice(found == number, turned == number) > 0.97


def test_the_real_tumour_is_found_as_the_card_says(bundle: Path, card: str, real_data: Path, tmp_path: Path) -> None:
    files = predict(bundle, {"vs_gk_98": real_data / "vs_gk_98_hrT2.nii.gz"}, tmp_path)
    found = read_volume(files["vs_gk_98"]).array
    truth = read_volume(real_data / "vs_gk_98_hrT2_Label.nii.gz").array
    told = re.search(r"\| vs_gk_98[^|]*\| ([\d.]+) \|", card)
    assert told is not None
    assert dice(found == 1, truth == 1) == pytest.approx(
        float(told[1]), abs=0.02
    )  # sums depend on the number of threads
