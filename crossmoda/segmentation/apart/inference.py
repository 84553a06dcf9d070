"""Prediction by members that each prepare, resample and normalise a scan in their own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose
from monai.utils import convert_to_dst_type
from torch import nn

from crossmoda.data.transforms import LoadVolumed
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.apart.model import DESCRIPTION, MemberNetworks, inference_config
from crossmoda.segmentation.apart.probabilities import MergeProbabilities
from crossmoda.segmentation.nnunet.inference import NnUNetPostprocessing
from crossmoda.segmentation.nnunet.model import DESCRIPTION as NNUNET
from crossmoda.segmentation.sidecars import read_sidecar


class ApartInferer(Inferer):
    """Predict one scan by every member in its own way, from the scan's grid to the scan's grid, and merge.

    Each member's inference configuration says how: its preprocessing after loading (preparation, resampling, crop,
    intensities), its window and precision, and the way back to the scan's grid. What comes out is the logarithm of the
    merged probabilities (see ``MergeProbabilities``), so the softmax that follows any other inferer gives these.

    Members predict one after the other; of each, the probabilities on the scan's grid are kept until they are merged.

    Args:
        bundle_root: the segmentation bundle's folder.
        weights: ``model.pt`` of a training with ``apart.yaml``, whose sidecar names the members.

    Raises:
        CrossmodaError: no such model, or a member's configuration is not there any more.
    """

    def __init__(self, bundle_root: str | Path, weights: str | Path) -> None:
        super().__init__()
        made = read_sidecar(weights, DESCRIPTION)
        described = made[DESCRIPTION]["members"]
        self.members = {name: _MemberPath(bundle_root, name, member) for name, member in described.items()}
        self.merge = MergeProbabilities([member["structures"] for member in described.values()], made["structures"])

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return log probabilities (1, C, X, Y, Z) of a RAS scan (1, 1, X, Y, Z) with an affine.

        Raises:
            CrossmodaError: the network is not that of members, or no affine is there.
        """
        if not isinstance(network, MemberNetworks):
            raise CrossmodaError(f"{type(network).__name__} has no members; give inference_apart.yaml whole")
        image = _scan(inputs)
        with torch.autocast(inputs.device.type, enabled=False):  # each member's network has its own
            found = [path(image, network.members[name], inputs.device) for name, path in self.members.items()]
            merged = self.merge(found)[None].to(inputs.device)
        return convert_to_dst_type(merged, inputs, dtype=torch.float32)[0]


class _MemberPath:
    """One member's way from a scan that is loaded to probabilities on the scan's grid."""

    def __init__(self, bundle_root: str | Path, name: str, described: Mapping[str, Any]) -> None:
        parser = inference_config(bundle_root, name, described)
        whole = parser.get_parsed_content("preprocessing")
        self.preprocessing = Compose(_without_loading(whole.transforms, name))
        self.inferer: Inferer = parser.get_parsed_content("inferer")
        self.back = Compose([parser.get_parsed_content(key) for key in ("to_probabilities", "to_own_grid")])
        chosen = described["model"].get(NNUNET)  # by the cross-validation of nnU-Net's members
        self.postprocessing = NnUNetPostprocessing(chosen) if chosen else None

    def __call__(self, image: MetaTensor, network: nn.Module, device: torch.device) -> torch.Tensor:
        """Return probabilities (C, X, Y, Z) of a scan (1, X, Y, Z) on the CPU."""
        item = self.preprocessing({"image": image})
        logits = self.inferer(item["image"][None].to(device), network)
        plain = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
        probabilities: torch.Tensor = self.back({**item, "pred": plain[0]})["pred"]
        return probabilities if self.postprocessing is None else without_removed(probabilities, self.postprocessing)


def without_removed(
    probabilities: torch.Tensor, postprocessing: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return probabilities that are background for certain where a post-processing takes the likeliest class away.

    Args:
        probabilities: (C, X, Y, Z), background first; not modified.
        postprocessing: of label maps (1, X, Y, Z).
    """
    label = probabilities.argmax(dim=0, keepdim=True)
    removed = ((postprocessing(label) != label) & (label != 0))[0]
    if not removed.any():
        return probabilities
    kept = probabilities.clone()
    kept[:, removed] = 0.0
    kept[0, removed] = 1.0
    return kept


def _without_loading(transforms: Sequence[Any], name: str) -> list[Any]:
    if not transforms or not isinstance(transforms[0], LoadVolumed):
        raise CrossmodaError(f"members::{name}: preprocessing does not begin with LoadVolumed; mend its overlays")
    return list(transforms[1:])


def _scan(inputs: torch.Tensor) -> MetaTensor:
    """Return the scan (1, X, Y, Z) of a batch of one as if it had just been loaded."""
    if not isinstance(inputs, MetaTensor) or inputs.shape[:2] != (1, 1):
        raise CrossmodaError("members predict one scan at a time, with its affine; load one file at a time")
    image = MetaTensor(inputs.as_tensor()[0].float().cpu(), affine=inputs.affine.reshape(-1, 4, 4)[0].cpu())
    name = inputs.meta.get("filename_or_obj")
    image.meta["filename_or_obj"] = name[0] if isinstance(name, (list, tuple)) else name
    return image
