"""The app's datastore by itself, and what works on it: verdicts, scores, batches."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException

from crossmoda.self_training.review_store import ORIGINAL, ReviewStore

from .conftest import AFFINES, SHAPE, STRUCTURES, blocks, save_nifti

CASES = list(AFFINES)


pytestmark = pytest.mark.usefixtures("app_folder")


@pytest.fixture
def datastore(tmp_path: Path) -> Any:
    """Three scans with their pseudo-labels."""
    store = ReviewStore(tmp_path / "review")
    with store.edit() as model:
        for case, affine in AFFINES.items():
            store.add_image(
                model, save_nifti(tmp_path / f"{case}.nii.gz", np.ones(SHAPE, np.float32), affine), case, {}
            )
            label = save_nifti(tmp_path / "label.nii.gz", blocks(1, 2), affine)
            store.put_label(model, case, ORIGINAL, label, {"values": {"vs": 1, "cochlea": 2}})
    return importlib.import_module("lib.datastore").ReviewDatastore(store, lambda: {"structures": STRUCTURES})


def test_a_verdict_of_nobody_does_not_keep_the_name_of_the_one_before(datastore: Any) -> None:
    meta = {"status": "approved", "approvedBy": "berg"}
    datastore.update_label_info("case.1", ORIGINAL, {"segmentationMeta": meta, "user": "berg"})
    assert datastore.get_label_info("case.1", ORIGINAL)["judged_by"] == "berg"
    datastore.update_label_info("case.1", ORIGINAL, {"segmentationMeta": {**meta, "status": "flagged"}})
    info = datastore.get_label_info("case.1", ORIGINAL)
    assert "judged_by" not in info
    assert info["segmentationMeta"]["status"] == "flagged"


def test_scores_of_many_scans_are_entered_in_one_change(datastore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, write = [], ReviewStore._write
    monkeypatch.setattr(ReviewStore, "_write", lambda *arguments: (writes.append(1), write(*arguments)))
    datastore.enter_scores("model_scores", {case: {"vs": {"dice": 0.5}} for case in [*CASES, "gone meanwhile"]})
    assert len(writes) == 1
    assert [datastore.get_image_info(case)["model_scores"] for case in CASES] == [{"vs": {"dice": 0.5}}] * 3
    assert datastore.list_images() == CASES


def test_a_batch_leaves_out_scans_that_cannot_be_read_and_goes_on_after_one_that_fails(
    datastore: Any, caplog: pytest.LogCaptureFixture
) -> None:
    file = datastore.review_store().folder / "case.2.nii.gz"
    content = file.read_bytes()
    file.unlink()  # it is a link to the data set's
    file.write_bytes(content[:-99])
    asked = []

    def infer(request: dict[str, Any], store: Any) -> dict[str, Any]:
        asked.append((request["image"], request["device"], request["save_label"]))
        if request["image"] == "case.1":
            raise HTTPException(503, "the GPU has no memory left")
        return {"label": request["image"]}

    batch = importlib.import_module("lib.infers.batch").Batch()
    request = {"images": "all", "device": "cpu", "multi_gpu": True, "max_workers": 4}
    caplog.set_level(logging.INFO)
    answers = batch(request, datastore, infer)
    assert "1 scans labelled, 1 failed" in caplog.text
    assert not any(case in caplog.text for case in CASES)  # names of scans may name patients
    assert answers == {"case.1": {"error": "the GPU has no memory left"}, "case.3": {"label": "case.3"}}
    assert [image for image, _, _ in asked] == ["case.1", "case.3"]
    assert all(saved for _, _, saved in asked)
    assert datastore.get_image_info("case.2")["quarantined"]
