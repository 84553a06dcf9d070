"""Prediction with nnU-Net's own preprocessing, window, mirroring and ensembling, inside the bundle's inference."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type

from crossmoda.data.volumes import spacing_mm
from crossmoda.errors import CrossmodaError, require_flag
from crossmoda.segmentation.inferers import SMALLEST_PROBABILITY
from crossmoda.segmentation.nnunet.model import DESCRIPTION, NnUNetEnsemble
from crossmoda.segmentation.nnunet.settings import require_nnunet
from crossmoda.segmentation.sidecars import read_sidecar

Array = np.ndarray


class NnUNetInferer(Inferer):
    """Predict one scan as nnU-Net does, from its own grid to its own grid.

    Per configuration nnU-Net crops, standardises and resamples the scan, slides its window over it (mirrored copies
    averaged), averages its folds' logits, and brings the result back; configurations are averaged as probabilities, as
    nnU-Net's own ensembling does. What comes out is the logarithm of the mean probability, so the softmax that follows
    any other inferer gives the mean probability here.

    Args:
        overlap: share by which neighbouring windows overlap, 0 to below 1 (nnU-Net's step is 1 - overlap).
        mirroring: average over mirrored copies, along the axes that were mirrored in training; takes 8 times as long.
        folds: which folds' networks to use; all that the model has by default.
    """

    def __init__(self, overlap: float = 0.5, mirroring: bool = True, folds: Sequence[int | str] | None = None) -> None:
        super().__init__()
        require_nnunet()
        require_flag("mirroring", mirroring)
        if not 0 <= overlap < 1:
            raise CrossmodaError(f"window_overlap is {overlap}; give 0 to below 1")
        self.overlap = overlap
        self.mirroring = mirroring
        self.folds = None if folds is None else [str(fold) for fold in folds]

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return log mean probabilities (1, C, X, Y, Z) of a RAS scan (1, 1, X, Y, Z) with an affine.

        Raises:
            CrossmodaError: the network is not nnU-Net's, a fold is asked for that it has not, or no affine is there.
        """
        if not isinstance(network, NnUNetEnsemble):
            raise CrossmodaError(f"{type(network).__name__} is not nnU-Net's network; give inference_nnunet.yaml whole")
        image, spacing = _as_nnunet_reads(inputs)
        mean: Any = 0.0
        for index, member in enumerate(network.description["members"]):
            networks = self._networks(network, index, member)
            mean = mean + self._probabilities(image, spacing, network, member, networks, inputs.device)
        mean = torch.from_numpy(np.ascontiguousarray(mean.transpose(0, 3, 2, 1))) / len(network.members)
        logarithm = mean.clamp_(min=SMALLEST_PROBABILITY).log_()[None].to(inputs.device)
        return convert_to_dst_type(logarithm, inputs, dtype=torch.float32)[0]

    def _networks(self, network: NnUNetEnsemble, index: int, member: Mapping[str, Any]) -> list[torch.nn.Module]:
        names = member["folds"] if self.folds is None else self.folds
        unknown = [name for name in names if name not in member["folds"]]
        if unknown or not names:
            raise CrossmodaError(
                f"fold {', '.join(unknown) or 'list empty'}: the model has folds {', '.join(member['folds'])}; "
                "name some of these, or null for all"
            )
        folds = cast(torch.nn.ModuleDict, network.members[index])
        return [folds[name] for name in names]

    def _probabilities(
        self,
        image: Array,
        spacing: list[float],
        ensemble: NnUNetEnsemble,
        member: Mapping[str, Any],
        networks: Sequence[torch.nn.Module],
        device: torch.device,
    ) -> Array:
        """Return one configuration's class probabilities (C, z, y, x) on the scan's grid."""
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        plans = PlansManager(ensemble.description["plans"])
        configuration = plans.get_configuration(member["configuration"])
        dataset = ensemble.description["dataset"]
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, {"spacing": spacing}, plans, configuration, dataset
        )
        logits = self._logits(torch.from_numpy(data), plans, configuration, dataset, member, networks, device)
        _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            plans,
            configuration,
            plans.get_label_manager(dataset),
            properties,
            return_probabilities=True,
            num_threads_torch=torch.get_num_threads(),
        )
        return cast(Array, probabilities)

    def _logits(
        self,
        data: torch.Tensor,
        plans: Any,
        configuration: Any,
        dataset: Mapping[str, Any],
        member: Mapping[str, Any],
        networks: Sequence[torch.nn.Module],
        device: torch.device,
    ) -> torch.Tensor:
        """Return the folds' mean logits, on the configuration's grid."""
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            1 - self.overlap, True, self.mirroring, device.type == "cuda", device, allow_tqdm=False
        )
        axes = member["mirror_axes"]
        total: Any = 0.0
        for network in networks:
            predictor.manual_initialization(network, plans, configuration, None, dict(dataset), member["trainer"], axes)
            total = total + predictor.predict_sliding_window_return_logits(data).to("cpu", torch.float32)
        return cast(torch.Tensor, total / len(networks))


def _as_nnunet_reads(inputs: torch.Tensor) -> tuple[Array, list[float]]:
    """Return a scan (1, 1, X, Y, Z) as nnU-Net's reader gives it: (1, z, y, x) and the spacing (z, y, x) in mm."""
    if not isinstance(inputs, MetaTensor) or inputs.shape[:2] != (1, 1):
        raise CrossmodaError("nnU-Net predicts one scan at a time, with its affine; load one file at a time")
    affine = inputs.affine.reshape(-1, 4, 4)[0].cpu().numpy()
    image = inputs.as_tensor()[0].float().cpu().numpy()
    return np.ascontiguousarray(image.transpose(0, 3, 2, 1)), [float(value) for value in spacing_mm(affine)[::-1]]


class NnUNetPostprocessing(Transform):
    """Apply the post-processing that cross-validation chose: of some structures, only the largest component is kept.

    Deterministic; not invertible. Where nothing was chosen, or no fold was held out, labels stay as they are.

    Args:
        chosen: what ``model.json`` says under ``nnunet``.
    """

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        self.steps: list[Any] = chosen["postprocessing"]

    def __call__(self, label: torch.Tensor) -> torch.Tensor:
        """Return a label map (1, X, Y, Z) with the model's numbers, post-processed; the input is not changed."""
        from nnunetv2.postprocessing.remove_connected_components import (
            remove_all_but_largest_component_from_segmentation,
        )

        found = label.cpu().numpy()[0].astype(np.uint8)
        for step in self.steps:
            found = remove_all_but_largest_component_from_segmentation(found, step)
        return convert_to_dst_type(found[None], label)[0]


class NnUNetPostprocessingd(MapTransform):
    """Dictionary twin of ``NnUNetPostprocessing``.

    Args:
        keys: label maps (1, X, Y, Z) with the model's numbers.
        weights: the model, whose sidecar says what was chosen.
    """

    def __init__(self, keys: KeysCollection, weights: str | Path) -> None:
        super().__init__(keys)
        self.transform = NnUNetPostprocessing(read_sidecar(weights, DESCRIPTION)[DESCRIPTION])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its labels post-processed; the input is not changed."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.transform(item[key])
        return item


def predict_with_bundle(bundle_root: str | Path, **settings: Any) -> None:
    """Run the bundle's ``inference.yaml`` with ``inference_nnunet.yaml``, so that there is one way of predicting.

    Args:
        bundle_root: the segmentation bundle's folder.
        settings: overrides, e.g. ``weights, dataset_dir, output_dir, sections, device``; no sections, no prediction.
    """
    if not settings.get("sections", True):
        return
    files = [str(Path(bundle_root) / "configs" / name) for name in ("inference.yaml", "inference_nnunet.yaml")]
    workflow = ConfigWorkflow(
        config_file=files, workflow_type="inference", logging_file=False, bundle_root=str(bundle_root), **settings
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
