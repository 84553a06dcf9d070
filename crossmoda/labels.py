"""Every structure's name, its number on disk per edition, and its colour: the one place that knows them.

Inside the project a structure is known by its name. Numbers exist on disk (they differ between editions of the
challenge) and inside a network (channel ``i + 1`` is ``structures[i]``), and are turned into names where they enter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossmoda.errors import CrossmodaError

BACKGROUND = "background"
VS = "vs"  # whole vestibular schwannoma
COCHLEA = "cochlea"  # both sides together
INTRA = "intra"  # part of the VS inside the internal auditory canal (intra-meatal)
EXTRA = "extra"  # part of the VS in the cerebellopontine cistern (extra-meatal)

STRUCTURES = (VS, COCHLEA, INTRA, EXTRA)

FULL_NAMES = {
    VS: "vestibular schwannoma",
    COCHLEA: "cochlea",
    INTRA: "intra-meatal vestibular schwannoma",
    EXTRA: "extra-meatal vestibular schwannoma",
}

COLOURS = {
    VS: "#e4572e",
    COCHLEA: "#2e9ce4",
    INTRA: "#f3a712",
    EXTRA: "#c2185b",
}  # sRGB, used in reports and in 3D Slicer

# What the challenge wrote into its files. 2023: the larger part is extra-meatal (crossmoda.md 1.2, recipes.md 0.6).
EDITION_LABELS: dict[str, dict[str, int]] = {
    "2021": {VS: 1, COCHLEA: 2},
    "2022": {VS: 1, COCHLEA: 2},
    "2023": {EXTRA: 1, INTRA: 2, COCHLEA: 3},
}

PARTS = {VS: (INTRA, EXTRA)}  # a structure that some editions store in parts


def numbers_of(structure: str, labels: dict[str, int]) -> tuple[int, ...]:
    """Return the voxel values that make up a structure under a ``name -> number`` mapping.

    Args:
        structure: a name of ``STRUCTURES``.
        labels: the mapping on disk, e.g. ``EDITION_LABELS["2023"]``; ``vs`` is the union of its parts there.

    Raises:
        CrossmodaError: the mapping cannot tell the structure apart.
    """
    if structure in labels:
        return (labels[structure],)
    parts = PARTS.get(structure, ())
    if parts and all(part in labels for part in parts):
        return tuple(labels[part] for part in parts)
    raise CrossmodaError(f"structure '{structure}' is not in the labels {labels}; known are {', '.join(STRUCTURES)}")


def mask_of(structure: str, label_map: np.ndarray, labels: dict[str, int]) -> np.ndarray:
    """Return a structure's boolean mask, shaped as ``label_map``, by name."""
    label_map = np.asarray(label_map)
    first, *others = (label_map == number for number in numbers_of(structure, labels))
    return np.logical_or.reduce([first, *others]) if others else first  # np.isin takes five times as long


def model_labels(structures: Sequence[str]) -> dict[str, int]:
    """Return the ``name -> number`` mapping that a network with these output structures writes (1, 2, ... in order)."""
    return {name: index + 1 for index, name in enumerate(structures)}


def channel_def(structures: Sequence[str]) -> dict[str, str]:
    """Return the ``channel_def`` of a bundle's metadata for a network with these output structures."""
    return {str(index): name for index, name in enumerate([BACKGROUND, *structures])}
