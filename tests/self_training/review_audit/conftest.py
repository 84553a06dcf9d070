"""A small run's folder under review, and what people do there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from crossmoda.files import read_json, write_json
from crossmoda.self_training.review import store_upload
from crossmoda.self_training.review_audit import read_events
from crossmoda.self_training.review_store import STORE_FILE, ReviewStore

STRUCTURES = ["vs", "cochlea"]
SHAPE = (10, 8, 6)
AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])  # a voxel is 1 mm3, 0.001 mL
CASES = ("case_a", "case_b")
IMAGE = "case_a_hrT2"


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.nifti1.Nifti1Image(array, AFFINE), path)
    return path


def label_map(vs: int, cochlea: int = 4) -> np.ndarray:
    """Return a label map with so many voxels of each structure, in a row along x."""
    label = np.zeros(SHAPE, np.uint8)
    label[:vs, 1, 1] = 1
    label[:cochlea, 5, 4] = 2
    return label


def write_round(run: Path, number: int, label: np.ndarray) -> None:
    for case in CASES:
        save(run / f"round_{number}" / "predictions" / f"{case}_Label.nii.gz", label)
    items = [{"case": case, "image": f"../scans/{case}_hrT2.nii.gz"} for case in CASES]
    datalist = {"edition": "plain", "labels": {"vs": 1, "cochlea": 2}, "source": [], "validation": [], "target": items}
    write_json(run / f"round_{number}" / "datalist.json", datalist)
    places = {key: f"round_{number}/{key}" for key in ("predictions", "uncertainty")}
    places |= {"segmenter": f"round_{number}/segmenter/model.pt", "datalist": f"round_{number}/datalist.json"}
    write_json(run / "current.json", {"round": number, "structures": STRUCTURES, **places})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for index, case in enumerate(CASES):
        save(tmp_path / "run" / "scans" / f"{case}_hrT2.nii.gz", np.full(SHAPE, index + 1, np.float32))
    write_round(tmp_path / "run", 0, label_map(vs=8))
    return tmp_path / "run"


Upload = Callable[..., str]


@pytest.fixture
def upload(studies: Path, tmp_path: Path) -> Upload:
    def send(label: np.ndarray, client_id: str = "anna", tag: str = "final", **info: Any) -> str:
        file = save(tmp_path / f"{client_id}.nii.gz", label)
        return store_upload(ReviewStore(studies), IMAGE, tag, file, {"client_id": client_id, **info}, STRUCTURES)

    return send


def hand_out(studies: Path, client_id: str, strategy: str = "uncertainty", image_id: str = IMAGE) -> None:
    """Note a hand-out as MONAI Label's endpoint does."""
    with ReviewStore(studies).edit() as model:
        info = model["objects"][image_id]["image"]["info"]
        info.setdefault("strategy", {})[strategy] = {"ts": 1767225600, "client_id": client_id}


def judge(studies: Path, tag: str, status: str, by: str, **meta: Any) -> None:
    with ReviewStore(studies).edit() as model:
        said = {"status": status, "approvedBy": by, **meta}
        model["objects"][IMAGE]["labels"][tag]["info"]["segmentationMeta"] = said


def info_of(studies: Path, tag: str) -> dict[str, Any]:
    return read_json(studies / STORE_FILE)["objects"][IMAGE]["labels"][tag]["info"]


def events(studies: Path, what: str | None = None) -> list[dict[str, Any]]:
    return [event for event in read_events(studies) if what in (None, event["event"])]


def a_full_history(studies: Path, upload: Upload) -> None:
    hand_out(studies, "anna")
    hand_out(studies, "bert", "first")
    upload(label_map(vs=6), "anna")
    upload(label_map(vs=5), "bert")
    judge(studies, "final", "approved", "Dr. Berg", comment='"; DROP TABLE events; -- \u00e9')
    upload(label_map(vs=4), "carla")
