"""What a segmenter's members are, and the bundle's workflows that each is trained and predicts by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from crossmoda.data.datalist import AUGMENTED
from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.files import sha256_of
from crossmoda.labels import PARTS
from crossmoda.segmentation.merging import MergeStructures

Item = dict[str, Any]

APART = "apart"  # key of the trainings that have members
ALL, ONLY_AUGMENTED, ONLY_TRANSLATED = "all", "augmented", "translated"
ITEMS = (ALL, ONLY_AUGMENTED, ONLY_TRANSLATED)


@dataclass(frozen=True)
class Member:
    """One of the segmenters that are trained apart.

    Args:
        name: of its folder and of its weights' names.
        structures: that it segments, in the order of its output channels.
        overlays: files after ``train.yaml``: names in the bundle's ``configs``, or paths.
        settings: of its training.
        inference_overlays: files after ``inference.yaml``.
        inference_settings: of its predictions; spacing, crop and patch are those of its training.
        items: which renderings in the source section (items with a ``view``) it learns from: ``all``, the ``augmented``
            ones, or those that are ``translated`` and nothing else. Of the augmented ones, each of which alters one
            structure, only those that alter one of its own. Scans as they are, and the target's, it always learns from.
    """

    name: str
    structures: Sequence[str] = ()
    overlays: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    inference_overlays: Sequence[str] = ()
    inference_settings: Mapping[str, Any] = field(default_factory=dict)
    items: str = ALL

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.name.isidentifier():
            raise CrossmodaError(f"members: {self.name!r} is no name for a folder; use letters, digits and _")
        if not self.structures:
            raise CrossmodaError(f"members::{self.name}: structures are missing; name what it segments")
        if self.items not in ITEMS:
            raise CrossmodaError(f"members::{self.name}: items '{self.items}' is unknown; choose {', '.join(ITEMS)}")
        for key in ("settings", "inference_settings"):
            _require_plain(getattr(self, key), f"members::{self.name}::{key}")

    @property
    def is_nnunet(self) -> bool:
        """Whether nnU-Net itself is trained."""
        return "nnunet.yaml" in [Path(name).name for name in self.overlays]

    def learns_from(self, item: Item) -> bool:
        """Tell whether an item of the source section is one to learn from."""
        view = item.get("view", "")
        if not view:
            return True
        if AUGMENTED not in view:
            return self.items != ONLY_AUGMENTED
        return self.items != ONLY_TRANSLATED and self._segments(item.get("augmentation", {}).get("structure"))

    def _segments(self, altered: str | None) -> bool:
        """Tell whether an altered structure is one of the member's, or the tumour whose parts they are."""
        return altered is None or bool({altered, *PARTS.get(altered, ())} & {*self.structures})

    def described(self) -> dict[str, Any]:
        """Return all that was said of the member, by name of the setting."""
        return asdict(self)


def read_members(members: Mapping[str, Mapping[str, Any]], structures: Sequence[str]) -> list[Member]:
    """Return the members that a configuration names.

    Args:
        members: name -> settings of ``Member``.
        structures: of all members together, in the order of the merged numbers.

    Raises:
        CrossmodaError: there is no member, one has a setting that cannot be, or a structure comes from two members or
            from none.
    """
    if not members:
        raise CrossmodaError("members: none is given; name each with its structures, e.g. {vs: {structures: [vs]}}")
    known = [entry.name for entry in fields(Member) if entry.name != "name"]
    for name, settings in members.items():
        unknown = [key for key in settings if key not in known]
        if unknown:
            raise CrossmodaError(f"members::{name}: no such key '{unknown[0]}'; {did_you_mean(unknown[0], known)}")
    found = [Member(name, **settings) for name, settings in members.items()]
    MergeStructures([member.structures for member in found], structures)
    return found


def files_of(bundle_root: str | Path, main: str, overlays: Sequence[str]) -> list[str]:
    """Return a workflow's files in the order of merging; overlays are names in the bundle's ``configs``, or paths.

    Raises:
        CrossmodaError: a file is missing.
    """
    configs = Path(bundle_root) / "configs"
    found = [configs / name if (configs / name).is_file() else Path(name).absolute() for name in [main, *overlays]]
    for file in found:
        if not file.is_file():
            raise CrossmodaError(f"{file}: no such configuration file; mend the members' overlays")
    return [str(file) for file in found]


def member_files(bundle_root: str | Path, members: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 of every overlay that members name, by its name there.

    Raises:
        CrossmodaError: a file is missing.
    """
    keys = ("overlays", "inference_overlays")
    names = sorted({name for member in members.values() for key in keys for name in member.get(key, [])})
    return {name: sha256_of(files_of(bundle_root, name, [])[0]) for name in names}


def read_config(files: Sequence[str], settings: Mapping[str, Any], where: str) -> ConfigParser:
    """Return merged files with settings of a member.

    Raises:
        CrossmodaError: a setting that no file has.
    """
    parser = ConfigParser()
    parser.read_config(list(files))
    for key in settings:
        if key.split("::")[0] not in parser.get():
            raise CrossmodaError(
                f"{where}: {key} is no key of {Path(files[0]).name} and the overlays; {did_you_mean(key, parser.get())}"
            )
    parser.update(dict(settings))
    return parser


def _require_plain(settings: Mapping[str, Any], where: str) -> None:
    for key, value in settings.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise CrossmodaError(f"{where}: {key} holds a component; put it into an overlay file") from error
