"""How far a step that changes probabilities, such as a conditional random field, changes what they decide (card A)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Identityd, MapTransform
from monai.utils import TransformBackends

from crossmoda.labels import PARTS, model_labels, numbers_of
from crossmoda.segmentation.decision import MostLikely


def dice_by_structure(first: torch.Tensor, second: torch.Tensor, structures: Sequence[str]) -> dict[str, float]:
    """Return the Dice of two label maps (1, X, Y, Z) by structure; 1 where neither shows it.

    Args:
        first: numbered as ``model_labels(structures)``.
        second: likewise, of the same shape.
        structures: names of the numbers; a structure whose parts are all among them is measured as well.
    """
    labels = model_labels(structures)
    wholes = [whole for whole, parts in PARTS.items() if whole not in labels and all(part in labels for part in parts)]
    found = {}
    for name in (*structures, *wholes):
        masks = [_is_any(label_map, numbers_of(name, labels)) for label_map in (first, second)]
        total = int(masks[0].sum()) + int(masks[1].sum())
        found[name] = round(2 * int((masks[0] & masks[1]).sum()) / total, 6) if total else 1.0
    return found


def _is_any(label_map: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    plain = label_map.as_tensor() if isinstance(label_map, MetaTensor) else label_map
    return torch.isin(plain, torch.tensor(numbers, dtype=plain.dtype, device=plain.device))


class MeasureAgreementd(MapTransform):
    """Do another step, and add how far what the probabilities decide is still the same, by structure.

    The Dice of the two decisions, each the likeliest class, goes to a key's name + ``"_agreement"``. Not invertible.

    Args:
        keys: of class probabilities (C, X, Y, Z), background first.
        structures: names in the order of the channels after the background.
        step: a dictionary transform that changes them; by default one that leaves them as they are, see ``around``.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, keys: KeysCollection, structures: Sequence[str], step: Callable[..., Any] | None = None) -> None:
        super().__init__(keys)
        self.step = Identityd(keys) if step is None else step
        self.structures = list(structures)
        self.decide = MostLikely()

    def around(self, step: Callable[..., Any]) -> MeasureAgreementd:
        """Return the same measurement of another step."""
        return MeasureAgreementd(self.keys, self.structures, step)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return what the step returns, with the agreement."""
        before = {key: self.decide(data[key]) for key in self.key_iterator(dict(data))}
        item = dict(self.step(dict(data)))
        for key, decided in before.items():
            item[f"{key}_agreement"] = dice_by_structure(decided, self.decide(item[key]), self.structures)
        return item
