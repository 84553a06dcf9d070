"""A datalist's labelled scans in nnU-Net's format, and its folds by patient.

MONAI's ``nnUNetV2Runner.convert_dataset`` is not used: it calls structures class1, class2, ..., takes label numbers as
they lie on disk (ours differ within one list), copies every image, and turns what goes wrong into a warning.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import Transform

from crossmoda.data.transforms import LoadVolume, LoadVolumed, MapLabelsByNamed
from crossmoda.data.volumes import Grid, Volume, read_grid, read_volume, same_grid, spacing_mm, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_directory, write_json
from crossmoda.labels import model_labels
from crossmoda.preprocessing import PrepareImage
from crossmoda.preprocessing.crop import tell_of_cut_label
from crossmoda.segmentation.cases import cases_to_learn, cases_to_validate
from crossmoda.segmentation.geometry import affine_of

ENDING = ".nii.gz"
CASES = "cases.json"  # identifier -> which case, view and image it is
SPACING_TOLERANCE = 1e-3  # relative, between a header's own spacing and its affine's

Item = dict[str, Any]


def name_items(items: Sequence[Item]) -> dict[str, Item]:
    """Return nnU-Net's identifier of each item: the case and a number, which tells a patient's views apart.

    The number comes last, because nnU-Net takes files that end in ``_seg`` for label maps.
    """
    return {f"{item['case']}_{number:04d}": item for number, item in enumerate(items)}


def write_raw_dataset(
    folder: Path,
    named: Mapping[str, Item],
    labels: Mapping[str, int],
    structures: Sequence[str],
    prepare: Sequence[Transform] = (),
    count: int | None = None,
) -> None:
    """Write ``dataset.json``, ``imagesTr`` and ``labelsTr`` (and ``cases.json``), whole or not at all.

    Images are linked to, and written anew only where they are prepared or nnU-Net would not read them as the project
    does. Labels get the numbers 1, 2, ... of ``structures``, whatever they are numbered on disk. nnU-Net is told to
    read in RAS, so scans whose axes are stored in other orders look alike to it, and to write predictions back on the
    scan's own grid.

    Args:
        folder: of the data set, replaced if it is there.
        named: identifier -> item with ``image``, ``label`` and perhaps ``labels``.
        labels: ``name -> number`` of label files whose item does not say.
        structures: what is to be segmented.
        prepare: array transforms of intensity, applied to each image (see ``PrepareImage``).
        count: of the cases that nnU-Net is told of; by default those that are written.

    Raises:
        CrossmodaError: a structure that labels cannot tell apart or that no label shows, or a label that is not on its
            image's grid.
    """
    load, to_structures = LoadVolumed("label"), MapLabelsByNamed("label", labels, structures)
    preparation = PrepareImage(prepare) if prepare else None
    seen: set[int] = set()
    with atomic_directory(folder) as partial:
        for name in ("imagesTr", "labelsTr"):
            (partial / name).mkdir()
        for identifier, item in named.items():
            image = partial / "imagesTr" / f"{identifier}_0000{ENDING}"
            grid = _place_image(Path(item["image"]), image, preparation)
            label = to_structures(load({key: item[key] for key in ("label", "labels") if key in item}))["label"]
            array = label.numpy()[0].astype(np.uint8)
            if not same_grid(grid, Grid(array.shape, label.affine.numpy())):
                raise CrossmodaError(f"{item['label']}: not on the grid of {item['image']}; resample it to that grid")
            write_volume(partial / "labelsTr" / f"{identifier}{ENDING}", array, grid.affine)
            if isinstance(grid, Volume) and preparation is not None:
                seen_of_it = np.count_nonzero(array[grid.array != 0])
                tell_of_cut_label(str(item["label"]), np.count_nonzero(array), seen_of_it, "what is left of its image")
            seen |= set(np.unique(array).tolist())
        absent = [name for name, number in model_labels(structures).items() if number not in seen]
        if absent:
            raise CrossmodaError(
                f"no label shows {' or '.join(absent)}; add cases that do, or leave it out of structures"
            )
        write_json(partial / "dataset.json", dataset_json(structures, count or len(named)))
        write_json(partial / CASES, {key: _identity(item) for key, item in named.items()})


def dataset_json(structures: Sequence[str], count: int) -> dict[str, Any]:
    """Return nnU-Net's description of a data set of single-channel MR scans with these structures."""
    return {
        "channel_names": {"0": "MR"},  # standardised scan by scan, as everything is that nnU-Net does not know as CT
        "labels": {"background": 0, **model_labels(structures)},
        "numTraining": count,
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }


def patient_splits(
    named: Mapping[str, Item],
    dataset_dir: str | Path,
    sections: Sequence[str],
    folds: int,
    required: Sequence[int],
    seed: int = 0,
) -> list[dict[str, list[str]]]:
    """Return nnU-Net's ``splits_final.json``: all views and copies of a patient lie on one side of every split.

    What the bundle's own training validates on is validated on here: neither augmented copies nor pseudo-labels.

    Args:
        named: identifier -> item.
        dataset_dir: the datalist that they come from.
        sections: of it.
        folds: how many.
        required: those that will be trained.
        seed: of the folds.

    Raises:
        CrossmodaError: more folds than cases, or a fold to be trained that has no case to be validated on.
    """
    names = {_key(item): name for name, item in named.items()}
    splits = []
    for fold in range(folds):
        learnt = cases_to_learn(dataset_dir, sections, fold, folds, seed)
        judged = cases_to_validate(dataset_dir, fold=fold, folds=folds, seed=seed, train_sections=sections)
        splits.append({"train": [names[_key(item)] for item in learnt], "val": [names[_key(item)] for item in judged]})
        if fold in required and not judged:
            raise CrossmodaError(
                f"fold {fold} of {folds} holds pseudo-labels alone and cannot be validated; use fewer folds, or all"
            )
    return splits


def _key(item: Item) -> tuple[str, str, str]:
    return item["case"], item["view"], str(item["image"])


def _identity(item: Item) -> dict[str, Any]:
    return {key: str(item[key]) for key in ("case", "site", "view", "image", "label")}


def _place_image(source: Path, target: Path, preparation: PrepareImage | None) -> Grid | Volume:
    """Link to an image, or write it prepared or as nnU-Net reads it, and return its grid."""
    if preparation is not None:
        image = preparation(LoadVolume()(source))
        prepared = Volume(image.numpy()[0], affine_of(image))
        write_volume(target, prepared.array, prepared.affine, dtype=np.float32)
        return prepared
    if _reads_alike(source):
        _link(source.resolve(), target)
        return read_grid(source)
    volume = read_volume(source)
    write_volume(target, volume.array, volume.affine, dtype=np.float32)
    return volume


def _reads_alike(path: Path) -> bool:
    """Tell whether nnU-Net sees three axes and the spacing of the affine; it takes the spacing from another field."""
    if not path.name.endswith(ENDING):
        return False
    read_grid(path)  # whose errors say what to do
    image: Any = nib.load(str(path))
    spacing = image.header.get_zooms()
    return len(image.shape) == 3 and np.allclose(spacing, spacing_mm(image.affine), rtol=SPACING_TOLERANCE)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
