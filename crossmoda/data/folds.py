"""Folds for cross-validation in which all that stems from one patient stays together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.errors import CrossmodaError

Item = Mapping[str, Any]


def folds_of_cases(
    items: Sequence[Item], folds: int, seed: int = 0, where: str | Path = "the dataset"
) -> dict[str, int]:
    """Return the fold, 0 to ``folds - 1``, of each case.

    A case is a patient: its views by several translators and its augmented copies are items of the same ``case`` and
    hence of one fold; otherwise a network would be judged on anatomy that it has learnt. Each site's cases are shuffled
    and dealt out in turn, so folds are of equal size, within one, for every site and in all.

    Args:
        items: ``{"case", "site", ...}``.
        folds: how many.
        seed: of the shuffling; the order of the items does not matter.
        where: whose items they are, for the error.

    Raises:
        CrossmodaError: fewer than two folds, or fewer cases than folds.
    """
    sites = {str(item["case"]): str(item.get("site", "")) for item in items}
    require_patients(len(sites), folds, f"{where}: there are labels of")
    generator = np.random.default_rng(seed)
    dealt: list[str] = []
    for site in sorted(set(sites.values())):
        cases = sorted(case for case, at in sites.items() if at == site)
        dealt += [cases[index] for index in generator.permutation(len(cases))]
    return {case: position % folds for position, case in enumerate(dealt)}


def require_patients(patients: int, folds: int, who: str, setting: str = "folds") -> None:
    """Make sure that patients can be dealt out to folds.

    Args:
        patients: how many there are.
        folds: how many are wanted.
        who: begins the error, before the number of patients.
        setting: that says how many folds, for the error.

    Raises:
        CrossmodaError: fewer than two folds, or fewer patients than folds.
    """
    if folds < 2:
        raise CrossmodaError(f"{setting} is {folds}; give 2 or more")
    if patients < folds:
        told = f"{who} {patients} patient{'s' * (patients != 1)}, too few for {folds} folds"
        lower = f"set {setting} to {patients}{' or less' * (patients > 2)}, or " if patients > 1 else ""
        raise CrossmodaError(f"{told}; {lower}add labelled scans")


def require_fold(fold: int | None, folds: int) -> None:
    """Make sure that a fold is one of its number.

    Raises:
        CrossmodaError: it is not.
    """
    if fold is not None and not 0 <= fold < folds:
        raise CrossmodaError(f"fold is {fold}; give 0 to {folds - 1}, or null to learn from all cases")
