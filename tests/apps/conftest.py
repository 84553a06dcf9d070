"""A small run folder, served by a live MONAI Label, and 3D Slicer's own clients to talk to it."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from crossmoda.engines import save_weights
from crossmoda.files import write_json
from crossmoda.self_training.review import server_arguments, server_environment

STRUCTURES = ["vs", "cochlea"]
SEGMENTER = "bundles/vs_cochlea_hrt2_segmentation"
TRANSLATOR = "bundles/cet1_to_hrt2_translation"
TRANSLATOR_SETTINGS = {"spacing": [1.0, 1.0, 2.0], "crop_size": [32, 32], "ngf": 4, "n_blocks": 1, "amp": False}
SETTINGS = {  # a network and a grid small enough for a test
    "spacing": [1.0, 1.0, 2.0],
    "crop_size": [32, 32],
    "patch_size": [16, 16, 8],
    "network_def::filters": [4, 4, 8, 8],
    "structures": STRUCTURES,
    "amp": False,
}
SCORES = {"case.1": 0.3, "case.2": 0.8, "case.3": 0.5}
ANGLE = np.pi / 9
AFFINES = {  # axes to the left and posterior; oblique and flipped; as stored by a scanner in RAS
    "case.1": np.array([[-1.1, 0, 0, 20], [0, -0.9, 0, 15], [0, 0, 2, -9], [0, 0, 0, 1.0]]),
    "case.2": np.array(
        [
            [1.1, 0, 0, -14],
            [0, -0.9 * np.cos(ANGLE), -2 * np.sin(ANGLE), 8],
            [0, -0.9 * np.sin(ANGLE), 2 * np.cos(ANGLE), 3],
            [0, 0, 0, 1.0],
        ]
    ),
    "case.3": np.diag([1.1, 0.9, 2, 1.0]),
}
SHAPE = (26, 22, 10)


def blocks(vs: int, cochlea: int) -> np.ndarray:
    """Return a label map (26, 22, 10) with a block of each value."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 4:9, 2:6] = vs
    label[14:17, 12:15, 4:7] = cochlea
    return label


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.nifti1.Nifti1Image(array, affine), path)
    return path


def write_run(run: Path, repository: Path) -> Path:
    """Write a run folder with its scans and a finished round, and return it."""
    rng = np.random.default_rng(3)
    for case, affine in AFFINES.items():
        save_nifti(run / "scans" / f"{case}_hrT2.nii.gz", rng.gamma(2, 50, SHAPE).astype(np.float32), affine)
    write_round(run, 0, repository)
    return run


def write_round(run: Path, number: int, repository: Path) -> None:
    """Write a round of a run, weights drawn from its number as seed, and make it the current one."""
    bundle = {
        "root": str(repository / SEGMENTER),
        "inference": SETTINGS,
        "inference_overlays": ["uncertainty.yaml", "anatomy.yaml"],
    }
    parser = ConfigParser()
    parser.read_config(str(repository / SEGMENTER / "configs" / "inference.yaml"))
    parser.update(SETTINGS)
    torch.manual_seed(number)
    save_weights(parser.get_parsed_content("network_def"), run / f"round_{number}" / "segmenter" / "model.pt")
    items = [{"case": case, "site": "unknown", "image": f"../scans/{case}_hrT2.nii.gz"} for case in SCORES]
    folder = run / f"round_{number}"
    datalist = {"edition": "plain", "labels": {"vs": 1, "cochlea": 2}, "source": [], "target": items, "validation": []}
    write_json(folder / "datalist.json", datalist)
    write_json(folder / "uncertainty" / "uncertainty.json", SCORES)
    for case, affine in AFFINES.items():
        save_nifti(folder / "predictions" / f"{case}_Label.nii.gz", blocks(1, 2) * (number == 0), affine)
    broken = [{"rule": "far_vs_mm3", "found": 4530, "allowed": [0, 0]}]
    write_json(folder / "predictions" / "anatomy.json", {"case.2": {"found": {}, "failed": broken}})
    places = {key: f"round_{number}/{key}" for key in ("predictions", "uncertainty")}
    places |= {"segmenter": f"round_{number}/segmenter/model.pt", "datalist": f"round_{number}/datalist.json"}
    translators = {"cyclegan": write_translator(run, repository)}
    about = {"structures": STRUCTURES, "segmentation_bundle": bundle, "translators": translators}
    write_json(run / "current.json", {"round": number, **about, **places})


def write_translator(run: Path, repository: Path) -> dict[str, Any]:
    """Write an untrained translator, unless it is there, and return what ``current.json`` says of it."""
    parser = ConfigParser()
    parser.read_config(str(repository / TRANSLATOR / "configs" / "inference.yaml"))
    parser.update(TRANSLATOR_SETTINGS)
    weights = run / "round_0" / "translator_cyclegan" / "model.pt"
    if not weights.is_file():
        save_weights(parser.get_parsed_content("network_def"), weights)
    bundle = {"root": str(repository / TRANSLATOR), "inference": TRANSLATOR_SETTINGS}
    return {"bundle": bundle, "weights": str(weights.relative_to(run))}


@dataclass
class Served:
    """A live server on a run folder.

    Args:
        url: where it listens.
        run: the run folder.
        studies: the folder under review.
        log: what the server has printed.
        seconds_to_start: from the start of the process to its first answer.
    """

    url: str
    run: Path
    studies: Path
    log: Path
    seconds_to_start: float


@pytest.fixture(scope="module")
def server_settings() -> dict[str, str]:
    """What the server is given as ``--conf``; a module may give its own."""
    return {}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, server_settings: dict[str, str]
) -> Iterator[Served]:
    """A live server on a small run."""
    folder = tmp_path_factory.mktemp("served")
    run = write_run(folder / "run", repository)
    with serve(run, folder, repository, server_settings) as server:
        yield server


@contextmanager
def serve(
    run: Path,
    folder: Path,
    repository: Path,
    settings: dict[str, str] | None = None,
    studies: str | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Served]:
    """Start MONAI Label on a run, as ``make serve`` does, on a free port of this machine alone; end it at last.

    Args:
        run: the run folder.
        folder: for the log.
        repository: the project's root.
        settings: given as ``--conf``.
        studies: address of a DICOMweb server; by default the run's own folder is served.
        environment: settings of MONAI Label.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = server_arguments(run, studies or run / "review", port, "127.0.0.1")
    arguments += [word for name, value in (settings or {}).items() for word in ("--conf", name, value)]
    environment = {**server_environment(), **(environment or {})}
    log, started = folder / "server.log", time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(arguments, cwd=repository, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_until_answering(f"http://127.0.0.1:{port}", process, log)
        yield Served(f"http://127.0.0.1:{port}", run, run / "review", log, time.monotonic() - started)
    finally:
        process.terminate()
        process.wait(30)


def wait_until_answering(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 240) -> None:
    """Return once the server answers; fail with its log if it ends or takes too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/info/", timeout=20):
                return
        except urllib.error.HTTPError:  # it asks who is there
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not start:\n{log.read_text()[-4000:]}")


def slicer_module(name: str) -> ModuleType:
    """Load a file of the 3D Slicer modules that MONAI Label's package carries among its data."""
    places = [
        Path(sysconfig.get_paths()["purelib"]).glob("monailabel-*.data/data/monailabel"),
        [Path(sys.prefix) / "monailabel"],
    ]
    found = [
        file for place in places for root in place for file in [root / "plugins" / "slicer" / name] if file.is_file()
    ]
    if not found:
        pytest.skip(f"MONAI Label's package carries no {name} here")
    spec = importlib.util.spec_from_file_location(Path(name).stem, found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def slicer(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The client of 3D Slicer's MONAI Label module."""
    return slicer_client(served, tmp_path_factory.mktemp("slicer"))


def slicer_client(served: Served, folder: Path) -> Any:
    """Return the client of 3D Slicer's MONAI Label module, which keeps what it fetches in a folder."""
    module = slicer_module("MONAILabel/MONAILabelLib/client.py")
    return module.MONAILabelClient(served.url, tmpdir=str(folder), client_id="user-anna")


@pytest.fixture(scope="module")
def reviewer(served: Served) -> Any:
    """The client of 3D Slicer's MONAI Label Reviewer module."""
    module = slicer_module("MONAILabelReviewer/MONAILabelReviewerLib/MonaiServerREST.py")
    return module.MonaiServerREST(served.url)


@pytest.fixture(scope="module")
def app_folder(repository: Path) -> Iterator[None]:
    """Let ``lib`` be imported as MONAI Label does, from the app's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "apps" / "crossmoda_label"))
        yield
