"""What may be set for the next round, in 3D Slicer's panel or on the command line.

Each option begins as the run has it. What is changed holds from the next round on and is recorded in ``run.yaml`` as
one of ``later_rounds``, so that the rounds before stay as they are and are not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.self_training.bundles import BundleUse, in_one_line
from crossmoda.self_training.candidates import Rule
from crossmoda.self_training.certainty import RejectUncertain
from crossmoda.self_training.option_values import choice, share, switch, whole_number
from crossmoda.self_training.reviewed_only import LearnFromReviewed
from crossmoda.self_training.rounds import FromRound, RoundMethod, RoundMethods

ALL, REVIEWED, APPROVED = "all", "reviewed", "approved"
LEARN_FROM = (ALL, REVIEWED, APPROVED)


@dataclass(frozen=True)
class RoundOptions:
    """Settings of a round.

    Args:
        max_epochs: of the segmenter's training; None where its members, or nnU-Net's folds, have lengths of their own.
        warm_start: begin the training from the weights of the round before; None for a segmenter that cannot.
        highest_uncertainty: of scans whose pseudo-label is learnt from, 0 to 1; 1 leaves none out.
        learn_from: "all" pseudo-labels that the rules accept and reviewed labels; "reviewed" labels alone; "approved"
            ones alone. How much translated scans count beside them is the recipe's.
    """

    max_epochs: int | None
    warm_start: bool | None
    highest_uncertainty: float
    learn_from: str

    def known(self) -> dict[str, Any]:
        """Return name -> value of the options that this run has."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def changed(self, values: Mapping[str, Any]) -> RoundOptions:
        """Return the options with some of them changed; text is understood too, as a panel or a shell sends it.

        Raises:
            CrossmodaError: a name is unknown, or a value is not what it can be.
        """
        for name in values:
            if name not in self.known():
                raise CrossmodaError(f"{str(name)[:40]}: no option of this run's next round; use {self._names()}")
        return replace(self, **{name: _CHECKS[name](name, value) for name, value in values.items()})

    def _names(self) -> str:
        return ", ".join(self.known())


def next_round_options(run: Path) -> RoundOptions:
    """Return the options of a run's next round as they are now.

    Raises:
        CrossmodaError: the run has no finished round, or see ``options_of_round``.
    """
    return options_of_round(run, int(read_json(run / "current.json")["round"]) + 1)


def options_of_round(run: Path, number: int) -> RoundOptions:
    """Return the options of one of a run's rounds as ``run.yaml`` has them, read anew when that file is replaced.

    Raises:
        CrossmodaError: there is no such file, it is damaged, or it names a bundle or a rule that is not there.
    """
    file = run / "run.yaml"
    if not file.is_file():
        raise CrossmodaError(f"{run}: no run.yaml there; name a folder that the self-training bundle made")
    return _options_in(file, file.stat().st_mtime_ns, number)


@lru_cache(maxsize=8)
def _options_in(file: Path, modified_ns: int, number: int) -> RoundOptions:
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))["trainer"]
        keys = ("segmenter", "rules", "later_rounds", "first_segmenter")
        parser = ConfigParser({key: settings.get(key) for key in keys})
        segmenter, rules, changes, first = (parser.get_parsed_content(key) for key in keys)
    except Exception as error:  # whatever YAML, MONAI or a rule's constructor raises
        raise in_one_line(error, f"{file} cannot be read") from error
    start = None if first is None else RoundMethod(first, ())
    method = RoundMethods(RoundMethod(segmenter, tuple(rules or ())), tuple(changes or ()), start).of(number)
    method.segmenter.require_known_keys("train", str(file))
    return options_of(method)


def options_of(method: RoundMethod) -> RoundOptions:
    """Return a round's method as options."""
    only = [rule for rule in method.rules if isinstance(rule, LearnFromReviewed)]
    limits = [rule.limit for rule in _uncertainty_limits(method.rules)]
    return RoundOptions(
        max_epochs=_max_epochs(method.segmenter),
        warm_start=method.warm_start if method.segmenter.begins_with_weights else None,
        highest_uncertainty=min(limits, default=1.0),
        learn_from=ALL if not only else APPROVED if any(rule.approved for rule in only) else REVIEWED,
    )


def with_options(methods: RoundMethods, number: int, options: RoundOptions) -> RoundMethods:
    """Return the methods of a run with options that hold from a round on; only what differs is changed.

    Args:
        methods: of all rounds.
        number: of the round.
        options: wanted for it.
    """
    method = methods.of(number)
    now = options_of(method)
    if options == now:
        return methods
    change = next((change for change in methods.changes if change.number == number), FromRound(number))
    if options.max_epochs != now.max_epochs:
        change = replace(change, train={**change.train, "max_epochs": options.max_epochs})
    if options.warm_start != now.warm_start:
        change = replace(change, warm_start=options.warm_start)
    if (options.highest_uncertainty, options.learn_from) != (now.highest_uncertainty, now.learn_from):
        change = replace(change, rules=_with_limits(method.rules, options, now))
    others = tuple(known for known in methods.changes if known.number != number)
    return replace(methods, changes=(*others, change))


def _with_limits(rules: Sequence[Rule], options: RoundOptions, now: RoundOptions) -> list[Rule]:
    """Return the rules with other limits; the option's own are put first, so that the rest need not be applied."""
    kept: list[Rule] = list(rules)
    if options.highest_uncertainty != now.highest_uncertainty:
        limit: list[Rule] = [RejectUncertain(options.highest_uncertainty)] if options.highest_uncertainty < 1 else []
        kept = [*limit, *(rule for rule in kept if rule not in _uncertainty_limits(rules))]
    if options.learn_from != now.learn_from:
        only: list[Rule] = [LearnFromReviewed(options.learn_from == APPROVED)] if options.learn_from != ALL else []
        kept = [*only, *(rule for rule in kept if not isinstance(rule, LearnFromReviewed))]
    return kept


def _uncertainty_limits(rules: Sequence[Rule]) -> list[RejectUncertain]:
    return [rule for rule in rules if isinstance(rule, RejectUncertain) and rule.source == "uncertainty"]


def _max_epochs(segmenter: BundleUse) -> int | None:
    found = segmenter.parser("train").get("max_epochs")
    return found if isinstance(found, int) else None


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_epochs": whole_number,
    "warm_start": switch,
    "highest_uncertainty": share,
    "learn_from": partial(choice, choices=LEARN_FROM),
}
