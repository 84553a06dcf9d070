"""Which number is which part of the tumour in 2023's labels, decided from the disk.

Published descriptions name them the one way and the data's volumes say the other (label 2 stays below 0.93 mL in 226
cases, label 1 reaches 26.95 mL), so the files decide: the internal auditory canal cannot hold more than about 2 mL,
hence a larger part is extra-meatal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from crossmoda.data.volumes import read_volume, voxel_volume_mm3
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, EXTRA, INTRA

CANAL_LIMIT_MM3 = 2000.0
ENOUGH_CASES = 10
COCHLEA_LIMIT_MM3 = 1000.0  # both cochleae together are about 184 +/- 28 mm3

Volumes = dict[int, float]  # voxel value -> mm3, background left out


def label_volumes_mm3(array: np.ndarray, affine: np.ndarray) -> Volumes:
    """Return the volume of every value but 0 in a label map (X, Y, Z), in mm3; values are rounded to integers."""
    values, counts = np.unique(np.rint(array[array != 0]).astype(int), return_counts=True)
    return {
        int(value): float(count) * voxel_volume_mm3(affine)
        for value, count in zip(values, counts, strict=True)
        if value
    }


def number_parts(files: Sequence[Path], labels: Mapping[str, int]) -> dict[str, int]:
    """Return the mapping ``name -> number`` with ``extra`` and ``intra`` as the files on disk say.

    Reads label files only until the matter is settled, which a single large tumour does. Unreadable ones are passed
    over here; ``crossmoda.data.checks`` reports them.

    Raises:
        CrossmodaError: the files contradict every explanation (see ``decide_parts``).
    """
    return decide_parts(_volumes_of(files), labels)


def decide_parts(
    cases: Iterable[tuple[Path, Volumes]], labels: Mapping[str, int], exhaustive: bool = False
) -> dict[str, int]:
    """Decide which number is extra-meatal from the volumes of labelled cases.

    A part above ``CANAL_LIMIT_MM3`` is extra-meatal. Where no part is, it is the one with more volume in all, over the
    cases that have both, if there are ``ENOUGH_CASES`` of these: small tumours lie mostly in the canal, so a handful of
    them says nothing, and the mapping given stays.

    Args:
        cases: files with their ``label_volumes_mm3``.
        labels: the edition's mapping, with ``extra``, ``intra`` and ``cochlea``.
        exhaustive: look at all cases instead of stopping at the first large part.

    Returns:
        ``labels``, or ``labels`` with the two parts swapped.

    Raises:
        CrossmodaError: both numbers are too large for the canal, or the cochlea's number is too large for cochleae.
    """
    first, second = labels[EXTRA], labels[INTRA]
    totals = {first: 0.0, second: 0.0}
    counted = 0
    large: dict[int, Path] = {}
    for file, volumes in cases:
        _require_small_cochlea(file, volumes.get(labels[COCHLEA], 0.0), labels[COCHLEA])
        large |= {number: file for number in totals if volumes.get(number, 0.0) > CANAL_LIMIT_MM3}
        if large and not exhaustive:
            break
        if all(number in volumes for number in totals):
            totals = {number: total + volumes[number] for number, total in totals.items()}
            counted += 1
    if len(large) == 2:
        raise CrossmodaError(
            f"{large[first]}: label {first}, and in {large[second].name} label {second}, exceed "
            f"{CANAL_LIMIT_MM3 / 1000:g} mL, so neither can be intra-meatal; correct the labels"
        )
    larger = second if counted >= ENOUGH_CASES and totals[second] > totals[first] else first
    extra = next(iter(large), larger)
    return dict(labels) | {EXTRA: extra, INTRA: second if extra == first else first}


def _require_small_cochlea(file: Path, volume_mm3: float, number: int) -> None:
    if volume_mm3 > COCHLEA_LIMIT_MM3:
        raise CrossmodaError(
            f"{file}: label {number} measures {volume_mm3 / 1000:.1f} mL, too much for two cochleae; correct the label"
        )


def _volumes_of(files: Iterable[Path]) -> Iterator[tuple[Path, Volumes]]:
    for file in files:
        try:
            status = file.stat()
            yield file, _volumes_of_file(file, status.st_size, status.st_mtime_ns)
        except (CrossmodaError, OSError):
            continue


@lru_cache(maxsize=4096)
def _volumes_of_file(file: Path, size: int, modified_ns: int) -> Volumes:
    """Return a label file's volumes; size and time of change make a changed file count as another."""
    volume = read_volume(file)
    return label_volumes_mm3(volume.array, volume.affine)
