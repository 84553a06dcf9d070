"""Settings given by a structure's name, put in the order of a network's output channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.labels import BACKGROUND, PARTS, STRUCTURES, model_labels, numbers_of


def values_of_channels(
    values: Mapping[str, float] | Sequence[float], structures: Sequence[str], setting: str = "class_weights"
) -> list[float]:
    """Return one value for the background and each structure, in the order of the output channels.

    Args:
        values: by name, like ``{"background": 1, "vs": 3, "cochlea": 9}``, or a list in that order. A part of a
            structure that is not named itself takes the value of the whole (``intra`` that of ``vs``); structures that
            the network does not seek may be named, so that one setting serves several networks.
        structures: names in the order of the network's output channels.
        setting: what the values are, for messages.

    Raises:
        CrossmodaError: a name is no structure, one that is sought is missing, or a list has another length.
    """
    names = [BACKGROUND, *structures]
    if not isinstance(values, Mapping):
        if len(values) != len(names):
            raise CrossmodaError(
                f"{setting} {list(values)}: {len(names)} are needed, for {', '.join(names)}; or give them by name"
            )
        return [float(value) for value in values]
    _require_names(values, setting, (BACKGROUND, *STRUCTURES))
    return [float(values[_named(name, values, setting)]) for name in names]


def _named(name: str, values: Mapping[str, float], setting: str) -> str:
    """Return the name that the value of a channel goes by: its own or that of the structure it is part of."""
    for candidate in (name, *(whole for whole, parts in PARTS.items() if name in parts)):
        if candidate in values:
            return candidate
    raise CrossmodaError(f"{setting} {dict(values)}: no value for {name}; add one")


def values_sought(
    values: Mapping[str, Any], structures: Sequence[str], setting: str = "structure_levels"
) -> dict[str, Any]:
    """Return the entries of the structures that a network seeks; ``vs`` is sought where both its parts are.

    Args:
        values: anything, by name of a structure.
        structures: names in the order of the network's output channels.
        setting: what the values are, for messages.

    Raises:
        CrossmodaError: a name is no structure.
    """
    _require_names(values, setting, STRUCTURES)
    return {name: value for name, value in values.items() if _is_sought(name, structures)}


def _is_sought(name: str, structures: Sequence[str]) -> bool:
    try:
        return bool(numbers_of(name, model_labels(structures)))
    except CrossmodaError:
        return False


def _require_names(values: Mapping[str, Any], setting: str, names: Sequence[str]) -> None:
    unknown = [str(name) for name in values if name not in names]
    if unknown:
        raise CrossmodaError(f"{setting}: unknown {', '.join(unknown)}; known are {', '.join(names)}")
