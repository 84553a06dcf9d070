"""Class probabilities of several members made one, so that the likeliest class is what merged label maps say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.geometry import require_same_grid
from crossmoda.segmentation.inferers import SMALLEST_PROBABILITY
from crossmoda.segmentation.merging import MergeStructures


class MergeProbabilities(Transform):
    """Merge members' class probabilities into those of background and all structures, as ``MergeStructures`` labels.

    The likeliest class is, in every voxel, the first of ``structures`` that its own member holds likeliest, and
    background where there is none: "VS, then cochlea where VS is absent" (card B). Products of probabilities do not
    have this property: a VS at 0.45 beside a cochlea at 0.6 would win, since 0.6 x (1 - 0.45) is less.

    With ``p`` the probabilities of the member that knows structure s, its margin is m(s) = log p(s) - log(the largest
    other p), above 0 exactly where that member decides for s. What speaks for s in the merged map is its own margin,
    and that no structure of another member that goes before s is there:

        a(s) = min(m(s), -m(t) for all t before s of other members),   a(background) = 0,   q = softmax(a)

    Of all a, only that of the structure decided on is above 0: a later one is at most minus its margin, an earlier one
    is not decided on by its own member. For a member of one structure, m is its log-odds, so that q(s) = p(s) wherever
    the other members are sure that nothing of theirs is there; where two members claim a voxel, q is less sure than
    either of them. Voxels of probability 0 in every class, as outside a crop window, are background.

    Not random; not invertible.

    Args:
        members: for each member the names of its structures, in the order of its output channels.
        structures: names in the order of the merged channels after the background; where two overlap, the one named
            first wins.

    Raises:
        CrossmodaError: a structure comes from two members or from none; at a call, predictions are missing, do not fit
            their members, or lie on different grids.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, members: Sequence[Sequence[str]], structures: Sequence[str]) -> None:
        rules = MergeStructures(members, structures)
        self.members, self.structures = rules.members, rules.structures

    def __call__(self, predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return log probabilities (C, X, Y, Z), float32, background first, on the first prediction's grid.

        Args:
            predictions: one of each member, probabilities (C, X, Y, Z), background first; not modified.
        """
        if len(predictions) != len(self.members):
            raise CrossmodaError(f"MergeProbabilities: {len(predictions)} predictions of {len(self.members)} members")
        margins: dict[str, torch.Tensor] = {}
        for member, prediction in zip(self.members, predictions, strict=True):
            names = f"MergeProbabilities: predictions of {'+'.join(self.members[0])} and {'+'.join(member)}"
            require_same_grid(predictions[0], prediction, names)
            found = _margins(prediction, member).to(predictions[0].device)
            margins |= dict(zip(member, found, strict=True))
        evidence = [
            torch.zeros_like(margins[self.structures[0]]),
            *(self._evidence(n, margins) for n in self.structures),
        ]
        merged = torch.log_softmax(torch.stack(evidence), dim=0)
        return convert_to_dst_type(merged, predictions[0], dtype=torch.float32)[0]

    def _evidence(self, name: str, margins: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return what speaks for a structure (X, Y, Z), above 0 where the merged map shows it."""
        own = next(member for member in self.members if name in member)
        before = self.structures[: self.structures.index(name)]
        evidence = margins[name]
        for other in before:
            if other not in own:
                evidence = torch.minimum(evidence, -margins[other])
        return evidence


def _margins(prediction: torch.Tensor, member: Sequence[str]) -> torch.Tensor:
    """Return each structure's log probability less that of its likeliest rival in the member (C - 1, X, Y, Z)."""
    plain = (prediction.as_tensor() if isinstance(prediction, MetaTensor) else prediction).float()
    if len(plain) != len(member) + 1:
        raise CrossmodaError(
            f"MergeProbabilities: {len(plain)} channels of a model of {', '.join(member)}; give {len(member) + 1}, "
            "background first"
        )
    total = plain.sum(dim=0)
    shares = plain / torch.where(total > 0, total, 1.0)
    shares[0] += total <= 0
    logs = shares.clamp_(min=SMALLEST_PROBABILITY).log_()
    channels = range(
        len(logs)
    )  # compared one by one: a sort over the first axis of a whole head takes many times as long
    rivals = [reduce(torch.maximum, [logs[other] for other in channels if other != own]) for own in channels[1:]]
    return logs[1:] - torch.stack(rivals)
