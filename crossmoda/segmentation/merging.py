"""One label map of several models, each of which segments some of the structures (Salle 2022)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type

from crossmoda.errors import CrossmodaError
from crossmoda.labels import model_labels
from crossmoda.segmentation.geometry import require_same_grid


class MergeStructures(Transform):
    """Write the structures of several models' predictions into one label map, earlier ones over later ones.

    Card B of the recipes trains VS and cochlea separately: "VS, then cochlea where VS is absent". Not random; not
    invertible.

    Args:
        members: for each model the names of its structures, in the order of its output channels.
        structures: names in the order of the merged numbers; where two overlap, the one named first wins. By default
            the members' in their order.

    Raises:
        CrossmodaError: a structure comes from two members or from none; at a call, predictions are missing, do not fit
            their members, or lie on different grids.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, members: Sequence[Sequence[str]], structures: Sequence[str] | None = None) -> None:
        self.members = [tuple(member) for member in members]
        given = [name for member in self.members for name in member]
        self.structures = tuple(given if structures is None else structures)
        if sorted(given) != sorted(set(self.structures)):
            raise CrossmodaError(
                f"MergeStructures: members have {', '.join(given)}, merged are {', '.join(self.structures)}; "
                "each structure must come from one member"
            )

    def __call__(self, predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the label map (1, X, Y, Z) uint8 with ``i + 1`` where ``structures[i]`` lies, on the first's grid.

        Args:
            predictions: one of each member, probabilities (C, X, Y, Z) with background first, or a label map
                (1, X, Y, Z) numbered as ``model_labels(member)``.
        """
        if len(predictions) != len(self.members):
            raise CrossmodaError(f"MergeStructures: {len(predictions)} predictions of {len(self.members)} members")
        numbers: dict[str, torch.Tensor] = {}
        for member, prediction in zip(self.members, predictions, strict=True):
            require_same_grid(predictions[0], prediction, f"MergeStructures: predictions of {self._names()}")
            label = _decided(prediction, member).to(predictions[0].device)
            numbers |= {name: label == number for name, number in model_labels(member).items()}
        merged = torch.zeros(predictions[0].shape[1:], dtype=torch.uint8, device=predictions[0].device)
        for name, number in reversed(model_labels(self.structures).items()):
            merged[numbers[name]] = number
        return convert_to_dst_type(merged[None], predictions[0], dtype=torch.uint8)[0]

    def _names(self) -> str:
        return " and ".join("+".join(member) for member in self.members)


def _decided(prediction: torch.Tensor, member: Sequence[str]) -> torch.Tensor:
    """Return the label map (X, Y, Z) of one member's prediction."""
    plain = prediction.as_tensor() if isinstance(prediction, MetaTensor) else prediction
    if len(plain) == len(member) + 1:
        return plain.argmax(dim=0)
    if len(plain) != 1:
        raise CrossmodaError(
            f"MergeStructures: {len(plain)} channels of a model of {', '.join(member)}; give {len(member) + 1} "
            "(background first) or a label map"
        )
    unknown = sorted(set(torch.unique(plain).tolist()) - set(range(len(member) + 1)))
    if unknown:
        raise CrossmodaError(
            f"MergeStructures: label values {unknown[:5]} of a model of {', '.join(member)}; name its structures in "
            "the order of its channels"
        )
    return plain[0]


class MergeStructuresd(MapTransform):
    """Dictionary twin of ``MergeStructures``: keys hold the members' predictions, in their order.

    Args:
        keys: one of each member.
        members: see ``MergeStructures``.
        structures: see ``MergeStructures``.
        output_key: where the merged label map goes.
    """

    backend = MergeStructures.backend

    def __init__(
        self,
        keys: KeysCollection,
        members: Sequence[Sequence[str]],
        structures: Sequence[str] | None = None,
        output_key: str = "pred",
    ) -> None:
        super().__init__(keys)
        self.merge = MergeStructures(members, structures)
        if len(self.keys) != len(self.merge.members):
            raise CrossmodaError(f"MergeStructuresd: {len(self.keys)} keys for {len(self.merge.members)} members")
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the merged label map."""
        item = dict(data)
        item[self.output_key] = self.merge([item[key] for key in self.keys])
        return item
