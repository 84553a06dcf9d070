"""What became of each target case between two rounds: which rules left it out, changed or weighted it, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from crossmoda.evaluation.report.run_folder import RunFolder
from crossmoda.files import read_json

EFFECTS = ("left out", "structure left out", "changed", "weighted", "passed")  # of a rule on a case
REVIEWED = ("approved", "corrected", "flagged")


@dataclass(frozen=True)
class Fate:
    """A case's fate in one round.

    Args:
        case: its name.
        site: where it was scanned.
        status: pseudo, approved, corrected or flagged.
        accepted: whether the round learns from it.
        weight: in the loss; 0 where it is left out.
        structure_weights: of structures that are trusted less than the others.
        findings: per rule its name (empty where no rule is noted), effect and text, in order.
    """

    case: str
    site: str
    status: str
    accepted: bool
    weight: float
    structure_weights: dict[str, float]
    findings: list[dict[str, str]]


@dataclass(frozen=True)
class RoundSelection:
    """The selection that a round begins with.

    Args:
        number: of the round.
        fates: of all target cases, those left out first, then by rising weight.
    """

    number: int
    fates: list[Fate]

    @property
    def accepted(self) -> list[Fate]:
        """The cases that the round learns from."""
        return [fate for fate in self.fates if fate.accepted]

    @property
    def reviewed(self) -> int:
        """How many cases a clinician has seen."""
        return sum(fate.status in REVIEWED for fate in self.fates)

    @property
    def mean_weight(self) -> float | None:
        """Of the cases that the round learns from."""
        weights = [fate.weight for fate in self.accepted]
        return sum(weights) / len(weights) if weights else None

    @property
    def rules(self) -> list[dict[str, Any]]:
        """Per rule, in the order in which they are applied, its name, and how many cases each effect had."""
        counts: dict[str, Counter[str]] = {}
        for fate in sorted(self.fates, key=lambda fate: -len(fate.findings)):
            for name, effect in dict.fromkeys((found["rule"], found["effect"]) for found in fate.findings):
                if name:
                    counts.setdefault(name, Counter())[effect] += 1
        return [{"name": name, **{effect: counted[effect] for effect in EFFECTS}} for name, counted in counts.items()]


def selections(run: RunFolder) -> list[RoundSelection]:
    """Return the selection of every round that has one, the last round first."""
    found = []
    for folder in reversed(run.round_folders):
        path = folder / "pseudo_labels" / "fates.json"
        if path.is_file():
            fates = [_fate(run, case, fate) for case, fate in read_json(path).items()]
            ranked = sorted(fates, key=lambda fate: (fate.accepted, fate.weight, fate.case))
            found.append(RoundSelection(int(folder.name.removeprefix("round_")), ranked))
    return found


def _fate(run: RunFolder, case: str, fate: dict[str, Any]) -> Fate:
    weight = float(fate["weight"])
    reasons = [{"rule": "", "effect": "", "text": text} for text in fate.get("reasons", ())]
    return Fate(
        case=case,
        site=run.targets.get(case, {}).get("site", "unknown"),
        status=fate["status"],
        accepted=weight > 0,
        weight=weight,
        structure_weights=fate.get("structure_weights", {}),
        findings=fate.get("rules", reasons),  # clinicians' labels pass no rule
    )
