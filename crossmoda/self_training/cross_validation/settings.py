"""What a cross-validation compares: the file ``configs/cross_validation.yaml`` and its like, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.self_training.bundles import BundleUse

ENSEMBLE = "ensemble.yaml"  # predicts with every fold's weights; during cross-validation with one fold's
POSTPROCESSING_KEY = "keep_one_tumour"  # of inference.yaml: what is done to a decided label map before it is saved
UNTOUCHED = {"_target_": "Identityd", "keys": "pred"}
BEST = "best.yaml"  # what is written at the end
NONE = "none"  # the post-processing that the others are held against

DEFAULTS: dict[str, Any] = {
    "bundle": "bundles/vs_cochlea_hrt2_segmentation",
    "folds": 5,
    "seed": 0,
    "sections": ["source", "target"],
    "structures": ["vs", "cochlea"],
    "settings": {},
    "train": {},
    "inference": {},
    "configurations": None,
    "postprocessing": {},
}
KINDS = ("train", "inference")  # of a bundle's workflows
OF_A_CONFIGURATION = ("overlays", "train_overlays", "inference_overlays", "settings", "train", "inference")
# What the file says at its top, or what the cross-validation sets itself; no configuration may differ in it.
RESERVED = ("seed", "fold", "folds", "train_sections", "sections", "structures", "members", "weights")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class CrossValidationSettings:
    """What is compared, and on what.

    Args:
        folds: number of folds of patients.
        seed: of the folds and of every training.
        sections: of the datalist, whose labelled cases are learnt from and judged.
        structures: names of the networks' output channels 1, 2, ...
        configurations: name -> how the segmentation bundle is used, training and inference; simpler ones first.
        postprocessing: name -> MONAI transforms of the key ``pred``; simpler ones first, ``none`` at the beginning.
    """

    folds: int
    seed: int
    sections: tuple[str, ...]
    structures: tuple[str, ...]
    configurations: Mapping[str, BundleUse]
    postprocessing: Mapping[str, Sequence[Mapping[str, Any]]]


def read_settings(path: str | Path) -> CrossValidationSettings:
    """Read what is to be compared.

    What an overlay of a configuration sets counts more than the file's common ``settings``, ``train`` and
    ``inference``, and the configuration's own count most.

    Raises:
        CrossmodaError: the file is missing or no YAML, or holds something that is not known or cannot be.
    """
    content = {**DEFAULTS, **_read(path)}
    _require_known(content, DEFAULTS, f"{path}")
    if not isinstance(content["folds"], int) or content["folds"] < 2:
        raise CrossmodaError(f"{path}: folds is {content['folds']}; give 2 or more")
    for key in ("sections", "structures"):
        if not isinstance(content[key], list) or not content[key]:
            raise CrossmodaError(f"{path}: {key} is {content[key]!r}; give a list of names")
    root = Path(content["bundle"])
    if not (root / "configs" / ENSEMBLE).is_file():
        raise CrossmodaError(f"{root}: no segmentation bundle there; run from the project's root or mend 'bundle'")
    _require_mapping(content["configurations"], f"{path}: 'configurations' must name at least one network")
    return CrossValidationSettings(
        folds=content["folds"],
        seed=int(content["seed"]),
        sections=tuple(content["sections"]),
        structures=tuple(content["structures"]),
        configurations={
            _plain_name(name, path): _configuration(content, name, given or {}, path)
            for name, given in content["configurations"].items()
        },
        postprocessing=_candidates(content["postprocessing"] or {}, path),
    )


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CrossmodaError(f"{path}: no such file; run from the project's root or give --config FILE") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CrossmodaError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:160]})") from error
    _require_mapping(content, f"{path}: holds no settings; see configs/cross_validation.yaml")
    return dict(content)


def _configuration(content: Mapping[str, Any], name: str, given: Mapping[str, Any], path: str | Path) -> BundleUse:
    where = f"{path}: configuration '{name}'"
    _require_known(given, OF_A_CONFIGURATION, where)
    given = {key: value for key, value in given.items() if value}
    overlays = {kind: [*given.get("overlays", ()), *given.get(f"{kind}_overlays", ())] for kind in KINDS}
    files = BundleUse(content["bundle"], train_overlays=overlays["train"], inference_overlays=overlays["inference"])
    settings = {
        kind: {
            **_weaker_than_overlays({**(content["settings"] or {}), **(content[kind] or {})}, files.files(kind)[1:]),
            **given.get("settings", {}),
            **given.get(kind, {}),
        }
        for kind in KINDS
    }
    for key in {*settings["train"], *settings["inference"]} & {*RESERVED, POSTPROCESSING_KEY}:
        remedy = "use 'postprocessing'" if key == POSTPROCESSING_KEY else "all configurations share it"
        raise CrossmodaError(f"{where}: '{key}' cannot be one of the settings; {remedy}")
    structures = {"structures": list(content["structures"])}
    folds = {"folds": content["folds"], "seed": int(content["seed"]), "train_sections": list(content["sections"])}
    return BundleUse(
        root=content["bundle"],
        train={**settings["train"], **structures, **folds},
        inference={**settings["inference"], **structures},
        train_overlays=overlays["train"],
        inference_overlays=[ENSEMBLE, *overlays["inference"]],
    )


def _weaker_than_overlays(settings: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Return the settings that no overlay sets; a missing overlay is reported later, with its bundle."""
    overlays = [ConfigParser.load_config_file(str(file)) or {} for file in files if file.is_file()]
    set_there = {key.lstrip("+").split("::")[0] for overlay in overlays for key in overlay}
    return {key: value for key, value in settings.items() if key not in set_there}


def _candidates(given: Any, path: str | Path) -> dict[str, list[Mapping[str, Any]]]:
    _require_mapping(given or {NONE: []}, f"{path}: 'postprocessing' must map names to lists of transforms")
    for name, transforms in given.items():
        _plain_name(name, path)
        if not all(isinstance(t, Mapping) and "_target_" in t for t in transforms or ()):
            raise CrossmodaError(f"{path}: post-processing '{name}' must be a list of transforms, each with a _target_")
    if given.get(NONE):
        raise CrossmodaError(f"{path}: post-processing '{NONE}' must be an empty list; give its transforms a name")
    return {NONE: [], **{name: list(transforms or ()) for name, transforms in given.items()}}


def _plain_name(name: Any, path: str | Path) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CrossmodaError(f"{path}: the name {name!r} must be made of letters, digits, '_', '-' and '.'")
    return name


def _require_known(given: Any, known: Sequence[str] | Mapping[str, Any], where: str) -> None:
    _require_mapping(given or {"": None}, f"{where} must be a mapping")
    for key in given:
        if key not in known:
            raise CrossmodaError(f"{where}: no such key '{key}'; {did_you_mean(key, known)}")


def _require_mapping(value: Any, message: str) -> None:
    if not isinstance(value, Mapping) or not value:
        raise CrossmodaError(message)
