"""What changes from one round to the next: settings, overlays, rules, and what a training begins from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.candidates import Rule


@dataclass(frozen=True)
class FromRound:
    """Changes of the segmenter and of the rules that hold from a round on, until a later one changes them again.

    Settings are merged into those of the rounds before; overlays and rules take the place of the former ones.

    Args:
        number: of the first round that they hold for, 0 being the one without pseudo-labels.
        shared: settings of both ``train.yaml`` and ``inference.yaml``, such as ``spacing``.
        train: settings of ``train.yaml`` alone.
        inference: settings of ``inference.yaml`` alone.
        train_overlays: files merged after ``train.yaml``; None keeps them.
        inference_overlays: files merged after ``inference.yaml``; None keeps them.
        rules: what becomes of the labels that the round before has predicted; None keeps them. The rules of round n
            decide what round n learns from.
        warm_start: begin the training from the weights of the round before (card C) instead of random ones; None
            keeps what was.
    """

    number: int
    shared: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)
    train_overlays: Sequence[str] | None = None
    inference_overlays: Sequence[str] | None = None
    rules: Sequence[Rule] | None = None
    warm_start: bool | None = None


@dataclass(frozen=True)
class RoundMethod:
    """How one round trains, predicts and judges labels.

    Args:
        segmenter: the segmentation bundle with the round's settings.
        rules: what becomes of the labels that the round before has predicted, in order.
        warm_start: the training begins from the weights of the round before.
    """

    segmenter: BundleUse
    rules: tuple[Rule, ...]
    warm_start: bool = False

    def changed(self, change: FromRound) -> RoundMethod:
        """Return the method with a change."""
        now = self.segmenter
        segmenter = replace(
            now,
            train={**now.train, **change.shared, **change.train},
            inference={**now.inference, **change.shared, **change.inference},
            train_overlays=now.train_overlays if change.train_overlays is None else change.train_overlays,
            inference_overlays=(
                now.inference_overlays if change.inference_overlays is None else change.inference_overlays
            ),
        )
        rules = self.rules if change.rules is None else tuple(change.rules)
        return RoundMethod(segmenter, rules, self.warm_start if change.warm_start is None else change.warm_start)


@dataclass(frozen=True)
class RoundMethods:
    """The methods of all rounds, however many there are.

    Args:
        first: of round 0, unless ``start`` is, and of all others but for the changes.
        changes: what later rounds do otherwise; in the order of their rounds.
        start: of round 0 alone; None where it is like the others. Where its network is another one, round 1 makes no
            warm start.

    Raises:
        CrossmodaError: a number is negative, or two changes begin in the same round.
    """

    first: RoundMethod
    changes: tuple[FromRound, ...] = ()
    start: RoundMethod | None = None

    def __post_init__(self) -> None:
        """Put the changes in order; refuse what cannot be."""
        numbers = [change.number for change in self.changes]
        if any(number < 0 for number in numbers) or len(set(numbers)) < len(numbers):
            raise CrossmodaError(f"from_rounds begin in rounds {numbers}; give each a round of its own, from 0 up")
        object.__setattr__(self, "changes", tuple(sorted(self.changes, key=lambda change: change.number)))

    def of(self, number: int) -> RoundMethod:
        """Return the method of a round."""
        if number == 0 and self.start is not None:
            return self.start
        method = self.first
        for change in self.changes:
            if change.number <= number:
                method = method.changed(change)
        if number == 1 and self.start is not None and method.warm_start:
            method = replace(method, warm_start=_same_network(self.start.segmenter, method.segmenter))
        return method

    def distinct(self) -> dict[int, RoundMethod]:
        """Return the methods by the first round that each is used in."""
        begins = {0, *(change.number for change in self.changes), *([] if self.start is None else [1])}
        return {number: self.of(number) for number in sorted(begins)}


def _same_network(a: BundleUse, b: BundleUse) -> bool:
    """Tell whether two segmenters train the same network, so that one may begin with the other's weights."""
    networks = [use.config("train").get("network_def") for use in (a, b)]
    return networks[0] is not None and networks[0] == networks[1]
