"""Predictions averaged, one after the other: over mirrored copies of an image, over the weights of several trainings.

MONAI's ``MeanEnsemble`` and ``VoteEnsemble`` want all predictions at once, as many whole volumes as there are members.
Here only running sums are kept, so that memory does not grow with the members.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import IterationEvents
from monai.inferers import Inferer, SimpleInferer
from monai.utils import convert_to_dst_type
from torch import nn

from crossmoda.engines import load_weights
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.uncertainty import predictive_entropy

SMALLEST_PROBABILITY = 1e-7  # keeps the logarithm finite; far below what a prediction or an entropy can show


class AveragingInferer(Inferer):
    """Average the class probabilities of several predictions of an image; the base, subclasses say of which.

    What comes out is the logarithm of the mean probability, so the softmax that follows any other inferer gives the
    mean probability here. For the same reason one such inferer can predict the members of another: flips within folds.

    However many predictions there are, such a pair needs the memory of 3 C + 3 volumes of float32 more than a single
    one: for three classes 735 MiB at 448 x 448 x 80 voxels.

    Args:
        inferer: makes one prediction, logits (B, C, X, Y, Z); a plain forward call by default.
        hard: average decisions instead of probabilities: the mean is then each class's share of the votes.
        keep_mutual_information: leave in ``mutual_information``, after each call, how far the predictions disagree,
            (B, 1, X, Y, Z): the entropy of the mean less the mean of the entropies, scaled as ``predictive_entropy``,
            from 0 (all say the same, sure or not) to 1. Of hard votes it is the entropy of the shares.
    """

    def __init__(
        self, inferer: Inferer | None = None, hard: bool = False, keep_mutual_information: bool = False
    ) -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.hard = hard
        self.keep_mutual_information = keep_mutual_information
        self.mutual_information: torch.Tensor | None = None

    @abstractmethod
    def predictions(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Iterator[torch.Tensor]:
        """Yield at least one prediction: class probabilities (B, C, X, Y, Z), which the caller may overwrite."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return log mean probabilities (B, C, X, Y, Z) for inputs (B, channels, X, Y, Z)."""
        mean, entropy, count = None, None, 0
        for probabilities in self.predictions(inputs, network, *args, **kwargs):
            if self.hard:
                probabilities = _votes(probabilities)
            if self.keep_mutual_information:
                entropy = _entropy(probabilities) if entropy is None else entropy.add_(_entropy(probabilities))
            mean = probabilities if mean is None else mean.add_(probabilities)
            count += 1
            del probabilities  # before the next prediction is made
        assert mean is not None
        mean /= count
        if entropy is not None:
            information = entropy.div_(-count).add_(_entropy(mean)).clamp_(min=0)
            self.mutual_information = convert_to_dst_type(information, mean)[0]
        return mean.clamp_(min=SMALLEST_PROBABILITY).log_()

    def _probabilities(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return torch.softmax(self.inferer(inputs, network, *args, **kwargs), dim=1)


class FlipAveragingInferer(AveragingInferer):
    """Average the class probabilities that a network gives for an image and for mirrored copies of it.

    Each copy is flipped, predicted, and its probabilities flipped back.

    Args:
        inferer: predicts one copy; a plain forward call by default.
        flips: the spatial axes of each further copy, 0 for x; by default one copy, mirrored left-right, since heads are
            symmetric in x alone. The unflipped image always counts as well.
        hard: see ``AveragingInferer``.
        keep_mutual_information: see ``AveragingInferer``; of the copies' predictions.
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        flips: Sequence[Sequence[int]] = ((0,),),
        hard: bool = False,
        keep_mutual_information: bool = False,
    ) -> None:
        super().__init__(inferer, hard, keep_mutual_information)
        self.flips = [tuple(axis + 2 for axis in axes) for axes in flips]

    def predictions(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Iterator[torch.Tensor]:
        """Yield the image's probabilities and then each mirrored copy's, flipped back."""
        yield self._probabilities(inputs, network, *args, **kwargs)
        for axes in self.flips:
            yield torch.flip(self._probabilities(torch.flip(inputs, axes), network, *args, **kwargs), axes)


class EnsembleInferer(AveragingInferer):
    """Average the class probabilities that one network gives with the weights of several trainings, such as folds.

    Each member's weights are read into the network in turn, image by image; afterwards it has the last ones. With
    ``FlipAveragingInferer`` as the inferer every member predicts mirrored copies, too (card 0.4 of the recipes: folds
    and mirrored copies averaged).

    Args:
        weights: files of plain state dictionaries, all of the network that is passed at the call.
        inferer: makes one member's prediction; a plain forward call by default.
        hard: see ``AveragingInferer``; each member has one vote, the decision on its own probabilities.
        keep_mutual_information: see ``AveragingInferer``; of the members' predictions.

    Raises:
        CrossmodaError: no weights are given; at a call, a file is missing, damaged or of another network (to hear of it
            before the first image, see ``crossmoda.segmentation.ensembling.require_members``).
    """

    def __init__(
        self,
        weights: Sequence[str | Path],
        inferer: Inferer | None = None,
        hard: bool = False,
        keep_mutual_information: bool = False,
    ) -> None:
        super().__init__(inferer, hard, keep_mutual_information)
        self.weights = [Path(path) for path in weights]
        if not self.weights:
            raise CrossmodaError("EnsembleInferer: no weights are given; name one file for each member")

    def predictions(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Iterator[torch.Tensor]:
        """Yield each member's probabilities."""
        require_averageable(network)
        for path in self.weights:
            load_weights(cast(nn.Module, network), path)
            yield self._probabilities(inputs, network, *args, **kwargs)


def require_averageable(network: Any) -> None:
    """Make sure that a model has no overlay of its own that averages its networks.

    Raises:
        CrossmodaError: it has one, naming it.
    """
    own = getattr(network, "predicted_by", None)
    if own:
        raise CrossmodaError(
            f"ensemble.yaml with {own}: such a model averages its own networks; leave ensemble.yaml out"
        )


class KeepMutualInformation:
    """Hand an inferer's mutual information to the evaluator's output, where the postprocessing finds it.

    Args:
        inferer: made with ``keep_mutual_information=True``.
        key: of the map (B, 1, X, Y, Z) in the output, on the grid that the network works on.

    Raises:
        CrossmodaError: the inferer keeps none.
    """

    def __init__(self, inferer: AveragingInferer, key: str = "mutual_information") -> None:
        if not inferer.keep_mutual_information:
            raise CrossmodaError("KeepMutualInformation: give the inferer keep_mutual_information: true")
        self.inferer = inferer
        self.key = key

    def attach(self, engine: Engine) -> None:
        """Listen to ``engine``'s predictions."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Move the map to the output."""
        cast(dict, engine.state.output)[self.key] = self.inferer.mutual_information
        self.inferer.mutual_information = None


def require_hard_votes(inferer: Any) -> None:
    """Make sure, before the first image, that an inferer, or one that it averages, averages decisions.

    Raises:
        CrossmodaError: none does, as when an overlay has put another inferer in the place of that of ``votes.yaml``.
    """
    while inferer is not None and not getattr(inferer, "hard", False):
        inferer = getattr(inferer, "inferer", None)
    if inferer is None:
        raise CrossmodaError(
            "votes.yaml: the inferer averages probabilities, which are no votes; name votes.yaml after "
            "uncertainty.yaml, and with ensemble.yaml set hard_votes (True on the command line)"
        )


def _votes(probabilities: torch.Tensor) -> torch.Tensor:
    """Return 1 for each voxel's likeliest class and 0 for the others, of the same shape and type."""
    return torch.zeros_like(probabilities).scatter_(1, probabilities.argmax(dim=1, keepdim=True), 1)


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the predictive entropy (B, 1, X, Y, Z) of a batch (B, C, X, Y, Z), a plain tensor."""
    plain = probabilities.as_tensor() if isinstance(probabilities, MetaTensor) else probabilities
    return torch.stack([predictive_entropy(case) for case in plain])
