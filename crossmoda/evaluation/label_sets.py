"""What the numbers in a folder of label maps mean: said by the user, by the run around it, or by the challenge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossmoda.data.naming import common_editions
from crossmoda.data.parts import number_parts
from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import label_files
from crossmoda.files import read_json
from crossmoda.labels import EDITION_LABELS, EXTRA, model_labels

POINTERS = "current.json"  # in a run folder: which round is served, and what its model tells apart


def require_edition(edition: str) -> None:
    """Refuse an edition that the challenge did not have.

    Raises:
        CrossmodaError: it is none of 2021, 2022, 2023.
    """
    if edition not in EDITION_LABELS:
        raise CrossmodaError(f"edition '{edition}' is not known; give one of {', '.join(EDITION_LABELS)}")


def run_around(predictions: str | Path) -> Path | None:
    """Return the run folder that a folder of predictions lies in, or None."""
    return next((f for f in list(Path(predictions).resolve().parents)[:3] if (f / POINTERS).is_file()), None)


def labels_of_truth(truth: str | Path, edition: str = "") -> dict[str, int]:
    """Return the labels of an edition, by default of the one that the truth's case ids belong to (2022 for other ids).

    Which number of 2023 is which part of the tumour is decided from the files, as the dataset's reader does.

    Raises:
        CrossmodaError: the edition is not known, the ids belong to several, or volumes contradict every numbering.
    """
    files = label_files(truth)
    if not edition:
        edition = [*common_editions(files, truth), "2022"][0]
    require_edition(edition)
    labels = EDITION_LABELS[edition]
    return number_parts(list(files.values()), labels) if EXTRA in labels else labels


def labels_of_predictions(
    predictions: str | Path, structures: str | Sequence[str], edition_labels: dict[str, int]
) -> dict[str, int]:
    """Return the labels of a folder of predictions.

    Args:
        predictions: the folder.
        structures: what the values 1, 2, ... mean, e.g. ``vs,cochlea``. Where none are given, the run folder around the
            predictions is asked; where there is none, they are taken to be numbered as ``edition_labels``. With 2023's
            and no value that only a split tumour has, they are those of a segmenter of the whole tumour.
        edition_labels: the challenge's, ``{name: number}``.
    """
    names = structures.split(",") if isinstance(structures, str) and structures else list(structures)
    run = run_around(predictions)
    if not names and run:
        names = read_json(run / POINTERS).get("structures") or []
    if names:
        return model_labels([name.strip() for name in names])
    if EXTRA in edition_labels and _largest_value(predictions) < max(edition_labels.values()):
        return EDITION_LABELS["2022"]
    return edition_labels


def _largest_value(predictions: str | Path) -> float:
    return max(float(read_volume(path).array.max()) for path in label_files(predictions).values())
