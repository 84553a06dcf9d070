"""What of a recipe does not fit its dataset: structures its labels lack, sites of no scan, fewer patients than folds.

Found before anything is trained, because a view's settings are otherwise looked at when its own training begins, and a
segmenter's folds when all translators have been trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from monai.bundle import ConfigParser

from crossmoda.data.folds import require_patients
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.labels import EXTRA, INTRA, numbers_of
from crossmoda.segmentation.apart.members import APART, files_of, read_config, read_members
from crossmoda.segmentation.nnunet.settings import ALL
from crossmoda.self_training.anchors import Anchors
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.loop import SelfTrainingLoop
from crossmoda.self_training.views import trained, translated
from crossmoda.translation.slices import site_numbers

logger = logging.getLogger(__name__)

Patients = Mapping[str, set[str]]  # section of the datalist -> case ids


def require_fit_of_dataset(loop: SelfTrainingLoop, dataset_dir: str | Path) -> None:
    """Make sure that structures and the sites which views name are there, and that there are patients for all folds.

    Args:
        loop: that is about to run.
        dataset_dir: a dataset folder or a datalist JSON: the loop's.

    Raises:
        CrossmodaError: a structure that the labels do not tell apart, a site that no scan is of or that a translator
            will not know, or too few patients.
    """
    require_structures(loop, dataset_dir)
    require_sites_of_views(loop, dataset_dir)
    require_patients_for_folds(loop, dataset_dir)


def require_structures(loop: SelfTrainingLoop, dataset_dir: str | Path) -> None:
    """Make sure that the dataset's labels tell every structure apart that the segmenter seeks."""
    try:
        for structure in loop.work.structures:
            numbers_of(structure, dict(loop.work.datalist["labels"]))
    except CrossmodaError as error:
        raise CrossmodaError(f"{dataset_dir}: {error}; give 'structures' that its labels tell apart") from error
    if loop.work.datalist.get("edition") == "2023" and not {INTRA, EXTRA} & set(loop.work.structures):
        logger.warning(
            "%s: the challenge of 2023 scores the parts of the VS, which %s leaves together; for a submission give "
            "--structures \"['%s','%s','cochlea']\"",
            *(dataset_dir, ", ".join(loop.work.structures), INTRA, EXTRA),
        )


def require_sites_of_views(loop: SelfTrainingLoop, dataset_dir: str | Path) -> None:
    """Make sure that every translator learns from sites that are there and renders one that it knows."""
    views, target_view = loop.work.views, loop.work.target_view
    known: dict[str, list[str]] = {}
    for name, use in trained(views).items():
        with _told_of(name):
            known[name] = _sites_learnt(use, dataset_dir)
    rendering = {**translated(views), **({} if target_view is None else {"target_view": target_view})}
    for name, use in rendering.items():
        owner = use.weights_of or name
        if owner in known:  # the loop itself tells views that use a translator which nobody trains
            with _told_of(name):
                _require_known_style(use, known[owner])


@contextmanager
def _told_of(view: str) -> Iterator[None]:
    """Name the view in an error, whatever MONAI wraps it in."""
    try:
        yield
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        raise CrossmodaError(f"view '{view}': {user_error}") from error


def _sites_learnt(use: BundleUse, dataset_dir: str | Path) -> list[str]:
    """Return the sites that a translator will tell apart, after looking for the scans it will learn from."""
    parser = use.parser("train", dataset_dir=str(dataset_dir))
    if "sites" not in parser.get():  # another bundle, which tells no sites apart
        return []
    sites = list(parser.get_parsed_content("sites"))
    _, target = parser.get_parsed_content("train::dataset::data")
    site_numbers(target, sites)
    parser.get_parsed_content("default_site")
    return sites


def _require_known_style(use: BundleUse, known: Sequence[str]) -> None:
    parser = use.parser("inference")
    if "sites" not in parser.get():
        return
    sites = list(parser.get_parsed_content("sites"))
    if sites != list(known):
        raise CrossmodaError(f"sites: renders with {sites}, but its translator learns {list(known)}; give both alike")
    parser.get_parsed_content("default_site")


def require_patients_for_folds(loop: SelfTrainingLoop, dataset_dir: str | Path) -> None:
    """Make sure that every round, and the anchors, can deal their patients out to the segmenter's folds.

    Of the real scans all are counted, since each may come to have a label.
    """
    trainings = {number: list(folded_trainings(method.segmenter)) for number, method in loop.methods.distinct().items()}
    for number in range(loop.max_epochs):
        patients = _patients_of_round(loop, number)
        for training in trainings[max(first for first in trainings if first <= number)]:
            training.require(patients, f"{dataset_dir}: round {number}")
    for anchors in [handler for handler in loop.handlers if isinstance(handler, Anchors)]:
        for name, (known, real) in anchors.taught(loop).items():
            patients = {"source": {item["case"] for item in known}, "target": {item["case"] for item in real}}
            for training in folded_trainings(loop.work.segmenter):
                training.require(patients, f"{dataset_dir}: the anchor {name}, which anchors: false leaves out,")


def _patients_of_round(loop: SelfTrainingLoop, number: int) -> Patients:
    """Return whom a round can learn from, by section."""
    source = {item["case"] for item in loop.work.items("source") if item.get("label")}
    if number == 0:
        return {"source": source}
    return {
        "source": source if loop.planned_weight(number) else set(),
        "target": {item["case"] for item in loop.work.items("target")},
    }


@dataclass(frozen=True)
class FoldedTraining:
    """A training of which folds are held out.

    Attributes:
        setting: that says how many, for messages.
        folds: how many.
        sections: of the datalist, whose patients are dealt out.
    """

    setting: str
    folds: int
    sections: Sequence[str]

    def require(self, patients: Patients, who: str) -> None:
        """Make sure that there are as many patients as folds.

        Raises:
            CrossmodaError: there are not.
        """
        learnt = set().union(*(patients.get(section, set()) for section in self.sections))
        require_patients(len(learnt), self.folds, f"{who} can learn from", self.setting)


def folded_trainings(use: BundleUse) -> Iterator[FoldedTraining]:
    """Yield every training of a segmenter that holds folds out: itself, or its members that are trained apart."""
    parser = use.parser("train")
    if APART not in parser.get():
        yield from _folded(parser, "segmenter_folds (or folds of segmenter_settings)")
        return
    sections = parser.get_parsed_content("train_sections")
    shared = {} if sections is None else {"train_sections": sections}
    for member in read_members(parser.get_parsed_content("members"), parser.get_parsed_content("structures")):
        files, where = files_of(use.root, "train.yaml", member.overlays), f"members::{member.name}::settings"
        own = read_config(files, {**shared, **member.settings}, where)
        yield from _folded(own, f"segmenter_folds (or folds of {where})")


def _folded(parser: ConfigParser, setting: str) -> Iterator[FoldedTraining]:
    if "train_folds" in parser.get():  # nnU-Net's
        held_out = parser.get_parsed_content("train_folds") != ALL
    else:
        held_out = parser.get_parsed_content("fold") is not None
    if held_out:
        sections = parser.get_parsed_content("train_sections")
        yield FoldedTraining(setting, int(parser.get_parsed_content("folds")), list(sections))
