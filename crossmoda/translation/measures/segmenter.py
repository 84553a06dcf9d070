"""What a fixed segmenter makes of translations: the measure that is nearest to what translations are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from crossmoda.data.datalist import save_datalist
from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import score_case, shared_structures
from crossmoda.labels import model_labels
from crossmoda.unknown_keys import require_known_keys

Item = Mapping[str, Any]


class FixedSegmenter:
    """Segment images with the segmentation bundle's ``inference.yaml`` and compare with the cases' own labels.

    The bundle reads the images from files, on their own grid, with the preprocessing, inferer and postprocessing that
    it deploys; its predictions stay in the output folder.

    Args:
        weights: of a segmenter that was trained without the translations at hand.
        bundle: the segmentation bundle's folder.
        settings: overrides of its ``inference.yaml``: those that the weights were trained with.
        device: to run on.

    Raises:
        CrossmodaError: weights or bundle are not there, or a setting is none that the bundle has.
    """

    def __init__(
        self,
        weights: str | Path,
        bundle: str | Path,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.weights = Path(weights)
        self.bundle = Path(bundle)
        self.settings = dict(settings or {})
        self.device = torch.device(device)
        if not self.weights.is_file():
            raise CrossmodaError(f"segmenter_weights: {weights}: no weights there; name a segmenter's model.pt")
        if not self._inference.is_file():
            raise CrossmodaError(
                f"segmenter_bundle: {self._inference}: not found; name the segmentation bundle's folder"
            )
        require_known_keys([self._inference], self.settings, "segmenter_settings")

    @property
    def _inference(self) -> Path:
        return self.bundle / "configs" / "inference.yaml"

    def dice(self, items: Sequence[Item], images: Mapping[str, str | Path], output_dir: Path) -> dict[str, Any]:
        """Return ``{case: {"dice_NAME": value}}`` of the labelled cases.

        Args:
            items: of the cases, with ``case``, ``structures`` (label map) and ``labels`` (what its values mean).
            images: case -> image to segment, on the label map's grid.
            output_dir: gets ``datalist.json`` and ``<case>_Label.nii.gz``.

        Raises:
            CrossmodaError: the weights do not fit the settings, or an image lies on another grid than the label.
        """
        labels = self._predict(images, output_dir)
        found = {}
        for item in items:
            known = {str(name): int(number) for name, number in item["labels"].items()}
            files = output_dir / f"{item['case']}{LABEL_SUFFIX}", Path(item["structures"])
            structures = shared_structures(labels, known)
            scores = score_case(*files, labels, known, structures)
            present = {name: scores[name]["dice"] for name in structures if scores[name]["truth_volume_mm3"] > 0}
            found[item["case"]] = {f"dice_{name}": value for name, value in present.items()}
        return found

    def _predict(self, images: Mapping[str, str | Path], output_dir: Path) -> dict[str, int]:
        """Write a label map for every image, and return what the maps' values mean."""
        datalist = output_dir / "datalist.json"
        target = [{"case": case, "site": "", "image": str(Path(image).resolve())} for case, image in images.items()]
        save_datalist(
            datalist, {"edition": "2022", "labels": {"vs": 1}, "source": [], "target": target, "validation": []}
        )
        places = {
            "dataset_dir": str(datalist),
            "output_dir": str(output_dir),
            "bundle_root": str(self.bundle.resolve()),
        }
        settings = {
            **self.settings,
            **places,
            "sections": ["target"],
            "weights": str(self.weights),
            "device": self.device,
        }
        workflow = ConfigWorkflow([str(self._inference)], workflow_type="inference", logging_file=False, **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return model_labels(workflow.parser.get_parsed_content("structures"))


def fixed_segmenter(
    weights: str | Path | None, bundle: str | Path, settings: Mapping[str, Any] | None, device: torch.device | str
) -> FixedSegmenter | None:
    """Return a ``FixedSegmenter``, or None without weights."""
    return None if weights is None else FixedSegmenter(weights, bundle, settings, device)
