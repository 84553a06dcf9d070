"""Trainings cut short: by their own settings, so that what is timed is what will be trained, with fewer steps.

A training consists of *parts*: nnU-Net's of its configurations, each with its folds, structures apart of their members,
all others of themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from crossmoda.engines.speed import Pace, training_pace
from crossmoda.segmentation.apart.members import APART
from crossmoda.segmentation.nnunet.settings import ALL
from crossmoda.segmentation.nnunet.spent import ROOT as NNUNET
from crossmoda.segmentation.nnunet.spent import read_spent
from crossmoda.self_training.bundles import BundleUse

EPOCHS = 2  # so that one can be told from the next
STEPS = 6  # of an epoch, the first half being its warm-up
AHEAD = 4  # steps for each process that makes batches: it has two in store when an epoch begins
STEPS_OF_A_SCALE = 4  # of a SinGAN, which has many scales
FOLDS = 2  # of the few scans
NNUNET_LENGTHS = {"max_epochs": 1000, "iterations_per_epoch": 250, "validation_iterations": 50}  # its own, where null

Use = TypeVar("Use", bound=BundleUse)


@dataclass(frozen=True)
class Part:
    """One of the trainings that a training consists of.

    Args:
        name: of the configuration or the member; empty where there is one.
        use: the bundle with the part's own settings.
        place: of its files, in the training's output.
    """

    name: str
    use: BundleUse
    place: str = "."

    @property
    def is_nnunet(self) -> bool:
        """Whether nnU-Net itself is trained."""
        return self.use.has("train", NNUNET)

    @property
    def configuration(self) -> str:
        """Of nnU-Net, the only one of the part."""
        (name,) = settings_of(self.use, "configurations")["configurations"]
        return str(name)


@dataclass(frozen=True)
class Length:
    """How long a training is: ``runs`` (folds) of ``epochs`` of ``steps``.

    Args:
        runs: trainings after one another, each of all epochs.
        epochs: of each.
        steps: of an epoch; 0 where the training's scans decide it.
        judged_share: of its labelled scans that a fold's network labels in the end.
    """

    runs: int
    epochs: int
    steps: int
    judged_share: float = 0.0


def settings_of(use: BundleUse, *names: str) -> dict[str, Any]:
    """Return settings of a training as its configuration resolves them; those that it does not have are left out."""
    parser = use.parser("train")
    known = parser.get()
    return {name: parser.get_parsed_content(name) for name in names if name in known}


def parts_of(use: BundleUse) -> list[Part]:
    """Return what a training consists of, in the order in which it is trained."""
    if use.has("train", APART):
        return [
            replace(part, name=" ".join(filter(None, (name, part.name))), place=f"members/{name}")
            for name, member in members_of(use).items()
            for part in parts_of(member)
        ]
    part = Part("", use)
    if not part.is_nnunet:
        return [part]
    configurations = settings_of(use, "configurations")["configurations"]
    alone = [replace(use, train={**use.train, "configurations": [name]}) for name in configurations]
    return [Part(name, one) for name, one in zip(configurations, alone, strict=True)]


def alternatives(use: BundleUse) -> dict[str, BundleUse]:
    """Return what is trained one after the other, by name: nnU-Net's configurations, of which any may be chosen."""
    return {"": use} if use.has("train", APART) else {part.name: part.use for part in parts_of(use)}


def members_of(use: BundleUse) -> dict[str, BundleUse]:
    """Return the trainings of a training with members."""
    training = use.parser("train").get_parsed_content(APART)
    return {
        member.name: BundleUse(use.root, train=training.settings_of(member), train_overlays=member.overlays)
        for member in training.members
    }


def length_of(part: Part) -> Length:
    """Return how long a part is."""
    names = ("max_epochs", "iterations_per_epoch", "iterations_per_scale", "epochs_per_scale")
    found = settings_of(part.use, *names, "validation_iterations", "folds", "train_folds")
    if part.is_nnunet:
        lengths = {name: found[name] or own for name, own in NNUNET_LENGTHS.items()}
        held_out = found["train_folds"] != ALL
        runs = len(found["train_folds"]) if held_out else 1
        steps = lengths["iterations_per_epoch"] + lengths["validation_iterations"]
        return Length(runs, lengths["max_epochs"], steps, runs / found["folds"] if held_out else 0.0)
    if "iterations_per_scale" in found:
        return Length(1, found["max_epochs"], found["iterations_per_scale"] // found["epochs_per_scale"])
    return Length(1, found["max_epochs"], found["iterations_per_epoch"] or 0)


def timed_steps(use: BundleUse) -> int:
    """Return the steps of an epoch of a training cut short: more where processes have made batches in store."""
    workers = settings_of(use, "num_workers").get("num_workers") or 0
    return max(STEPS, AHEAD * int(workers))


def shortened(use: Use, scans: int | None = None) -> Use:
    """Return a training cut short, whose predictions take as long as those of the whole one.

    Args:
        use: the training.
        scans: that the whole training learns from, which decides nnU-Net's batches; None leaves them to the few.
    """
    train, inference = _changes(use, scans)
    return replace(use, train={**use.train, **train}, inference={**use.inference, **inference})


def _changes(use: BundleUse, scans: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that cut a training short, and those with which it then predicts."""
    known = use.config("train")
    if APART in known:
        return {"members": _short_members(use, scans)}, {}
    if NNUNET in known:
        return _changes_of_nnunet(use, scans)
    if "iterations_per_scale" in known:
        return {"iterations_per_scale": STEPS_OF_A_SCALE, "epochs_per_scale": 1}, {}
    lengths = {"max_epochs": EPOCHS, "constant_epochs": 1, "iterations_per_epoch": timed_steps(use)}
    looks = {"validation_interval": 0, "patience": None, "keep_best": False}  # at slices, every so many epochs
    return {key: value for key, value in {**lengths, **looks}.items() if key in known}, {}


def _short_members(use: BundleUse, scans: int | None) -> dict[str, Any]:
    given: Mapping[str, Mapping[str, Any]] = settings_of(use, "members")["members"]
    members = {}
    for name, member in members_of(use).items():
        train, inference = _changes(member, scans)
        settings = {**given[name].get("settings", {}), **train}
        predicts = {**given[name].get("inference_settings", {}), **inference}
        members[name] = {**given[name], "settings": settings, "inference_settings": predicts}
    return members


def _changes_of_nnunet(use: BundleUse, scans: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one fold, with as many steps of validation to those of training; predict with it as often as there are."""
    found, steps = settings_of(use, "train_folds", *NNUNET_LENGTHS), timed_steps(use)
    lengths = {name: found[name] or own for name, own in NNUNET_LENGTHS.items()}
    judged = lengths["validation_iterations"] / lengths["iterations_per_epoch"]
    train: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "iterations_per_epoch": steps,
        "validation_iterations": max(1, round(steps * judged)),
        "folds": FOLDS,
        "keep_preprocessed": True,  # to time how a scan is preprocessed
        "predict_sections": [],
        "plan_for_cases": scans,
    }
    if found["train_folds"] == ALL:
        return train, {}
    return {**train, "train_folds": [0]}, {"use_folds": [0] * len(found["train_folds"])}


def paces_of(use: BundleUse, training: Path) -> dict[str, Pace]:
    """Return the pace of each part of a training that was cut short, by the part's name.

    Args:
        use: the training as it was cut short.
        training: its output folder.
    """
    return {part.name: _pace_of(part, training / part.place) for part in parts_of(use)}


def _pace_of(part: Part, place: Path) -> Pace:
    steps = length_of(part).steps
    if part.is_nnunet:
        return read_spent(place).pace(part.configuration, steps)
    return training_pace(place, steps, settings_of(part.use, "num_workers").get("num_workers") or 1)
