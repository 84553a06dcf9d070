"""Several predictions made one: weights that belong together, and votes with thresholds (Chen 2023)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type
from scipy import ndimage
from torch import nn

from crossmoda.data.volumes import voxel_volume_mm3
from crossmoda.engines import load_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, sha256_of
from crossmoda.labels import COCHLEA, EXTRA, INTRA, PARTS, VS, mask_of, model_labels
from crossmoda.segmentation.geometry import affine_of, box_of
from crossmoda.segmentation.inferers import require_averageable

SOME, ALL = 1e-3, 1 - 1e-3  # shares of votes above which one prediction, and every prediction, has voted for a class
NEIGHBOURS = np.ones((3, 3, 3))


def require_members(
    network: nn.Module, weights: Sequence[str | Path], agreed: Mapping[str, Any] | None = None, **settings: Any
) -> None:
    """Make sure, before any image is predicted, that weights can be members of one ensemble.

    Args:
        network: each file is loaded into it; it ends with the last one's weights.
        weights: files of plain state dictionaries.
        agreed: settings that ``load_weights`` holds against the ``.json`` beside each file.
        settings: what every member's training must have had, such as ``structures``; held against the ``.json`` beside
            the weights where it tells. Networks of the same shape may name their channels differently.

    Raises:
        CrossmodaError: a file is missing, damaged, of another network or another training, or is given twice; or the
            network has an overlay of its own for its predictions.
    """
    require_averageable(network)
    seen: dict[str, Path] = {}
    for path in map(Path, weights):
        load_weights(network, path, agreed)
        digest = sha256_of(path)
        if digest in seen:
            raise CrossmodaError(f"{path}: the same weights as {seen[digest]}; give each member once")
        seen[digest] = path
        sidecar = path.with_suffix(".json")
        trained = read_json(sidecar) if sidecar.is_file() else {}
        for key, value in settings.items():
            if key in trained and trained[key] != value:
                raise CrossmodaError(
                    f"{path}: trained with {key} {trained[key]}, but {key} is {value}; "
                    "leave it out of the ensemble or name the weights that belong there"
                )


def disagreement(votes: torch.Tensor) -> float:
    """Return how far predictions disagree on what is foreground, from 0 to 1 (card C of the recipes).

    With A the voxels that all predictions count as foreground and B those that any does, it is |A xor B| /
    (|A| + |B| + 1).

    Args:
        votes: each class's share of the votes (C, X, Y, Z), background first.
    """
    foreground = _plain(votes)[1:].sum(dim=0)
    every, some = int((foreground > ALL).sum()), int((foreground > SOME).sum())
    return (some - every) / (every + some + 1)


class VoteByThresholds(Transform):
    """Decide by the votes of several predictions, with thresholds and fallbacks: Chen 2023, card C of the recipes.

    Where the predictions agree on most of the foreground (see ``disagreement``):

    - the tumour is where more than ``tumour_share`` vote for any of its parts, a part where more than that vote for it;
    - of the intra-meatal part the largest component keeps its name, the rest of the tumour becomes intra-meatal if
      more voxels are extra-meatal by all votes than are intra-meatal by any, and extra-meatal otherwise;
    - the cochlea is where more than ``cochlea_share`` vote for it; if that is nowhere, where any does outside the
      tumour, in components larger than ``least_cochlea_mm3``.

    Where they disagree by more than ``worst_disagreement``, whatever any prediction calls foreground is, under the name
    that has most votes there, and the cochlea's voxels that lie farther than ``cochlea_within_mm`` above or below the
    mean of the intra-meatal part (of the tumour, where there are no parts) are dropped. At the end one component of the
    tumour is kept: the largest of those with both parts, or else the largest. Components have 26 neighbours.

    The source counts 50 voxels of about 0.41 x 0.41 x 1.5 mm, and 30 slices of 1.5 mm; here both are in mm, by the
    affine. Deterministic; not invertible.

    Args:
        structures: names in the order of the channels after the background: any of the cochlea and of the tumour, the
            latter whole (``vs``) or in both parts.
        tumour_share: of the votes, from 0.5 to below 1; 0.7 asks for six of eight.
        cochlea_share: likewise.
        worst_disagreement: from 0 to 1.
        cochlea_within_mm: along the body's long axis.
        least_cochlea_mm3: volume.

    Raises:
        CrossmodaError: structures or settings are none of these; at a call, the channels do not fit the structures, or
            what is given are no shares (the output of an inferer with ``hard: true``, after its softmax).
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        structures: Sequence[str],
        tumour_share: float = 0.7,
        cochlea_share: float = 0.5,
        worst_disagreement: float = 0.7,
        cochlea_within_mm: float = 45.0,
        least_cochlea_mm3: float = 12.5,
    ) -> None:
        self.labels = model_labels(structures)
        self.tumour = [name for name in self.labels if name != COCHLEA]
        if self.tumour not in ([], [VS]) and set(self.tumour) != set(PARTS[VS]):
            raise CrossmodaError(f"VoteByThresholds: structures {list(structures)}; give vs, or intra and extra")
        for name, share in (("tumour_share", tumour_share), ("cochlea_share", cochlea_share)):
            if not 0.5 <= share < 1:  # from a half on, no voxel can have two names
                raise CrossmodaError(f"VoteByThresholds: {name} is {share}, but must be from 0.5 to below 1")
        if not 0 <= worst_disagreement <= 1 or cochlea_within_mm <= 0 or least_cochlea_mm3 < 0:
            raise CrossmodaError(
                f"VoteByThresholds: worst_disagreement {worst_disagreement} must be from 0 to 1, cochlea_within_mm "
                f"{cochlea_within_mm} above 0, least_cochlea_mm3 {least_cochlea_mm3} not below 0"
            )
        self.tumour_share, self.cochlea_share = tumour_share, cochlea_share
        self.worst_disagreement = worst_disagreement
        self.cochlea_within_mm, self.least_cochlea_mm3 = cochlea_within_mm, least_cochlea_mm3

    def __call__(self, votes: torch.Tensor) -> torch.Tensor:
        """Return the label map (1, X, Y, Z) uint8, numbered by ``model_labels``, of shares of votes (C, X, Y, Z)."""
        self._require_shares(votes)
        plain, affine = _plain(votes), affine_of(votes)
        label = torch.zeros(votes.shape[1:], dtype=torch.uint8)
        box = box_of(plain[1:].sum(dim=0) > SOME)
        if box is not None:
            shares = {name: plain[number][box].float().cpu().numpy() for name, number in self.labels.items()}
            bad = disagreement(votes) > self.worst_disagreement
            decided = self._united(shares, affine) if bad else self._voted(shares, affine)
            label[box] = torch.from_numpy(self._with_one_tumour(decided))
        return convert_to_dst_type(label[None], votes, dtype=torch.uint8)[0]

    def _require_shares(self, votes: torch.Tensor) -> None:
        if votes.ndim != 4 or len(votes) != len(self.labels) + 1:
            raise CrossmodaError(
                f"VoteByThresholds: votes of shape {tuple(votes.shape)}, but background and {', '.join(self.labels)} "
                f"make {len(self.labels) + 1} channels"
            )
        if float(votes.min()) < 0 or float(votes.max()) > 1 + SOME:
            raise CrossmodaError("VoteByThresholds: values beyond 0 to 1 are no shares of votes; put a softmax before")

    def _voted(self, shares: Mapping[str, np.ndarray], affine: np.ndarray) -> np.ndarray:
        """Return the label map (X, Y, Z) where the predictions agree well enough."""
        label = np.zeros(next(iter(shares.values())).shape, np.uint8)
        for name in self.tumour:
            label[shares[name] > self.tumour_share] = self.labels[name]
        if INTRA in self.tumour:
            self._name_parts(label, shares)
        if COCHLEA in shares:
            cochlea = shares[COCHLEA] > self.cochlea_share
            if not cochlea.any():
                some = (shares[COCHLEA] > SOME) & (label == 0)
                cochlea = _larger_than(some, self.least_cochlea_mm3 / voxel_volume_mm3(affine))
            label[cochlea] = self.labels[COCHLEA]
        return label

    def _name_parts(self, label: np.ndarray, shares: Mapping[str, np.ndarray]) -> None:
        """Fill the voxels of the tumour that no part has won, in place."""
        intra = label == self.labels[INTRA]
        label[intra & ~_largest(intra)] = 0
        rest = (shares[INTRA] + shares[EXTRA] > self.tumour_share) & (label == 0)
        mostly_extra = (shares[EXTRA] > ALL).sum() > (shares[INTRA] > SOME).sum()
        label[rest] = self.labels[INTRA if mostly_extra else EXTRA]

    def _united(self, shares: Mapping[str, np.ndarray], affine: np.ndarray) -> np.ndarray:
        """Return the label map (X, Y, Z) of all that any prediction calls foreground."""
        stacked = np.stack(list(shares.values()))
        label = np.where(stacked.sum(axis=0) > SOME, np.argmax(stacked, axis=0) + 1, 0).astype(np.uint8)
        reference = label == self.labels.get(INTRA, self.labels.get(VS, -1))
        if COCHLEA in shares and reference.any():
            cochlea = label == self.labels[COCHLEA]
            heights = [np.argwhere(mask) @ affine[2, :3] for mask in (cochlea, reference)]
            cochlea[cochlea] = np.abs(heights[0] - heights[1].mean()) > self.cochlea_within_mm
            label[cochlea] = 0
        return label

    def _with_one_tumour(self, label: np.ndarray) -> np.ndarray:
        """Return the label map (X, Y, Z) with one component of the tumour."""
        if not self.tumour:
            return label
        tumour = mask_of(VS, label, self.labels)
        whole = np.zeros_like(tumour)
        if INTRA in self.tumour:
            components, _ = ndimage.label(tumour, NEIGHBOURS)
            with_both = set(components[label == self.labels[INTRA]]) & set(components[label == self.labels[EXTRA]])
            whole = np.isin(components, list(with_both))
        return np.where(tumour & ~_largest(whole if whole.any() else tumour), 0, label).astype(np.uint8)


class VoteByThresholdsd(MapTransform):
    """Dictionary twin of ``VoteByThresholds``.

    It also adds how far the predictions disagree, from 0 to 1, under a key's name + ``"_disagreement"``; card C drops
    cases above 0.7 from what the next training learns from.

    Args:
        keys: of shares of votes (C, X, Y, Z).
        structures: see ``VoteByThresholds``.
        allow_missing_keys: skip keys that an item lacks.
        settings: those of ``VoteByThresholds``.
    """

    backend = VoteByThresholds.backend

    def __init__(
        self, keys: KeysCollection, structures: Sequence[str], allow_missing_keys: bool = False, **settings: float
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.vote = VoteByThresholds(structures, **settings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with label maps (1, X, Y, Z) in place of the shares."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[f"{key}_disagreement"] = disagreement(item[key])
            item[key] = self.vote(item[key])
        return item


def _largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest component (26 neighbours) of a mask (X, Y, Z), empty if that is."""
    components, count = ndimage.label(mask, NEIGHBOURS)
    if count < 2:
        return mask
    return components == np.argmax(np.bincount(components.ravel())[1:]) + 1


def _larger_than(mask: np.ndarray, voxels: float) -> np.ndarray:
    """Return the components (26 neighbours) of a mask (X, Y, Z) that have more than this number of voxels."""
    components, _ = ndimage.label(mask, NEIGHBOURS)
    large = np.bincount(components.ravel()) > voxels
    large[0] = False
    return large[components]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
