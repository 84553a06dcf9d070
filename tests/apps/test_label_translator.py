"""A run's translator, asked for a pseudo-hrT2 of a ceT1 scan."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from support import workflow_of

from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json

BUNDLE = "bundles/cet1_to_hrt2_translation"
SETTINGS: dict[str, Any] = {"spacing": [1.0, 1.0, 2.0], "crop_size": [24, 20], "ngf": 4, "n_blocks": 1, "amp": False}
SITES = {"sites": ["ldn", "etz"], "site": "etz"}
C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[-0.9, 0, 0, 20], [0, 0.9 * C, -2.5 * S, -15], [0, 0.9 * S, 2.5 * C, 8], [0, 0, 0, 1]])


@pytest.fixture
def tasks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repository / "apps" / "crossmoda_label"))
    return importlib.import_module("lib.infers.translator")


@pytest.fixture
def run(tmp_path: Path, repository: Path) -> Path:
    """A run with one translator that two views use, each for the style of a site."""
    parser = ConfigParser(ConfigParser.load_config_file(repository / BUNDLE / "configs" / "inference.yaml"))
    parser.update({**SETTINGS, **SITES})
    torch.manual_seed(3)
    weights = tmp_path / "run" / "round_0" / "translator_ldn" / "model.pt"
    network = parser.get_parsed_content("network_def")
    for parameter in network.parameters():  # untrained, the styles of all sites are alike
        torch.nn.init.normal_(parameter, std=0.3)
    save_weights(network, weights)
    views = {
        site: {"bundle": {"root": str(repository / BUNDLE), "inference": {**SETTINGS, **SITES, "site": site}}}
        for site in SITES["sites"]
    }
    translators = {site: {**view, "weights": "round_0/translator_ldn/model.pt"} for site, view in views.items()}
    write_json(tmp_path / "run" / "current.json", {"round": 0, "translators": translators})
    return tmp_path / "run"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).gamma(2, 50, (26, 22, 9)).astype(np.float32)
    path = tmp_path / "source" / "patient.1_T1.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(array, OBLIQUE), path)
    return path


def test_it_renders_what_the_bundle_renders_on_the_scan_s_own_grid(
    tasks: Any, run: Path, scan: Path, repository: Path, tmp_path: Path
) -> None:
    translators = tasks.translators_of(run)
    assert list(translators) == ["pseudo_hrt2_ldn", "pseudo_hrt2_etz"]
    rendered = {}
    for name, task in translators.items():
        file, answer = task({"image": str(scan), "device": "cpu"})
        rendered[name] = nib.load(file)
        rendered[name].get_fdata()  # which keeps the voxels
        assert answer["label_names"] == {}
        Path(file).unlink()
    datalist = {
        "edition": "plain",
        "labels": {"vs": 1},
        "source": [{"case": "patient.1", "image": str(scan)}],
        "target": [],
    }
    write_json(tmp_path / "datalist.json", datalist)
    weights = run / "round_0" / "translator_ldn" / "model.pt"
    places = {"dataset_dir": tmp_path / "datalist.json", "output_dir": tmp_path / "out", "weights": weights}
    for site in SITES["sites"]:
        settings = {**SETTINGS, **SITES, "site": site}
        workflow_of(repository / BUNDLE / "configs", "inference", "inference", device="cpu", **settings, **places).run()
        expected, found = nib.load(tmp_path / "out" / "patient.1_hrT2.nii.gz"), rendered[f"pseudo_hrt2_{site}"]
        np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-4)
        np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=1e-5)
        assert found.get_data_dtype() == np.float32
        assert found.get_fdata().std() > 0.01
    ldn, etz = (image.get_fdata() for image in rendered.values())
    assert np.abs(ldn - etz).max() > 0.01  # two styles


def test_weights_that_are_gone_are_named_and_an_older_run_has_no_translators(tasks: Any, run: Path) -> None:
    (run / "round_0" / "translator_ldn" / "model.pt").unlink()
    with pytest.raises(CrossmodaError, match=r"translator_ldn/model.pt: no weights there, but current.json names them"):
        tasks.translators_of(run)
    current = read_json(run / "current.json")
    write_json(run / "current.json", {key: value for key, value in current.items() if key != "translators"})
    assert tasks.translators_of(run) == {}
