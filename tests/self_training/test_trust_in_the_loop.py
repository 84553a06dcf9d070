"""Voxels and cases trusted by how sure the segmenter was, from prediction to training, with the real bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import planned, recorded, run_loop, tiny_loop

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.files import read_json

OVERLAYS = ["uncertainty.yaml", "mutual_information.yaml", "crf.yaml", "crf_agreement.yaml", "confidence.yaml"]
SETTINGS = tiny_loop(
    rounds=1,
    anchors=False,
    segmenter_overlays=["variant_partial_labels.yaml"],
    segmenter_inference_overlays=OVERLAYS,
    rules=[
        {"_target_": "crossmoda.self_training.RejectMostUncertain", "source": "mutual_information", "fraction": 0.0},
        {"_target_": "crossmoda.self_training.TrustVoxels", "least": 0.4},
        {"_target_": "crossmoda.self_training.RequireProbability", "least": 0.01, "by_structure": True},
        {  # after two steps of training hardly anything agrees: the VS is left out, the cochlea is not judged
            "_target_": "crossmoda.self_training.RequireAgreement",
            "structures": ["vs"],
            "above": 0.9,
            "by_structure": True,
        },
        {"_target_": "crossmoda.self_training.WeightByUncertainty", "least_weight": 0.5, "low": None, "high": None},
    ],
)

pytestmark = pytest.mark.usefixtures("in_the_repository", "one_thread")


def test_confidence_and_agreement_reach_the_rules_and_trust_reaches_the_training(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    run_loop(tiny_dataset, tmp_path / "run", **SETTINGS)
    first, second = tmp_path / "run" / "round_0", tmp_path / "run" / "round_1"
    probabilities = read_json(first / "uncertainty" / "confidence.json")
    assert sorted(read_json(first / "predictions" / "crf_agreement.json")) == sorted(probabilities)

    fates = read_json(second / "pseudo_labels" / "fates.json")
    items = {item["case"]: item for item in load_datalist(second / "datalist.json")["target"]}
    assert len(items) == 2
    for case, item in items.items():
        confidence = read_volume(item["confidence"])
        assert same_grid(item["confidence"], item["image"])
        measured = read_volume(first / "uncertainty" / f"{case}_confidence.nii.gz").array
        np.testing.assert_array_equal(confidence.array, measured >= np.float32(0.4))
        assert item["structure_weights"] == {"vs": 0.0}
        told = {finding["rule"] for finding in fates[case]["rules"]}
        assert {"RejectMostUncertain", "TrustVoxels", "RequireAgreement", "WeightByUncertainty"} <= told
    scores = read_json(first / "uncertainty" / "uncertainty.json")
    shared = read_json(first / "uncertainty" / "mutual_information.json")
    assert all(0 < shared[case] < scores[case] for case in scores)  # what copies disagree on is part of the doubt
    weights = [items[case]["weight"] for case in sorted(items, key=scores.__getitem__)]
    assert weights == pytest.approx([1.0, 0.5])  # the surest of the two, and the other
    assert "TrustVoxels" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert recorded(tmp_path / "run") == planned(tmp_path / "run")


@pytest.mark.parametrize(
    ("variant", "judges"),
    [
        ("variant_select_wu.yaml", {"RequireStructures", "RequireAnatomy"}),
        ("variant_select_chen.yaml", {"RejectUncertain", "RequireStructures", "TrustVoxels"}),
    ],
)
def test_the_papers_selections_run_with_the_bundles_as_they_are(
    tiny_dataset: Path, tmp_path: Path, variant: str, judges: set[str]
) -> None:
    run_loop(tiny_dataset, tmp_path / "run", variant, **tiny_loop(rounds=1, anchors=False))
    fates = read_json(tmp_path / "run" / "round_1" / "pseudo_labels" / "fates.json")
    assert len(fates) == 2
    for fate in fates.values():
        assert {finding["rule"] for finding in fate["rules"]} & judges
    assert (tmp_path / "run" / "round_1" / "segmenter" / "model.pt").is_file()
    assert recorded(tmp_path / "run") == planned(tmp_path / "run")
