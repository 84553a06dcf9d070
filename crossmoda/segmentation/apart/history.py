"""The course of several trainings in the form of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged_history(histories: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the members' curves, each under its name and the member's, and the means of what all of them have.

    A member that ends before others keeps its last value in the means, and has none of its own from there on.

    Args:
        histories: member -> what its ``history.json`` holds, ``{"epoch": [1, 2, ...], "series": {name: [...]}}``.
    """
    epochs = max(len(history["epoch"]) for history in histories.values())
    curves = {name: history["series"] for name, history in histories.items()}
    common = [key for key in next(iter(curves.values())) if all(curve.get(key) for curve in curves.values())]
    series = {key: [_mean([curve[key] for curve in curves.values()], at) for at in range(epochs)] for key in common}
    for name, curve in curves.items():
        series |= {f"{key}_{name}": [*values, *[None] * (epochs - len(values))] for key, values in curve.items()}
    return {"epoch": list(range(1, epochs + 1)), "series": series}


def _mean(curves: Sequence[Sequence[float | None]], at: int) -> float | None:
    values = [curve[min(at, len(curve) - 1)] for curve in curves]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
