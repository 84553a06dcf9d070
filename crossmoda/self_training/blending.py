"""Tumour blending augmentation as a part of the loop: a SinGAN on a target slice, then more of the translated scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmoda.data.datalist import load_datalist
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.labels import numbers_of
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.datalists import Item, content_hash
from crossmoda.translation.singan_slice import choose_target
from crossmoda.translation.singan_training import require_parts
from crossmoda.translation.tumour_blending import read_rules, require_rule_sites, require_scales

# What a SinGAN was trained with and is used with.
_AGREED = (
    "spacing",
    "crop_size",
    "filters",
    "maximum_filters",
    "kernel_size",
    "layers",
    "scale_factor",
    "min_size",
)


@dataclass(frozen=True)
class TumourBlending(BundleUse):
    """How the loop augments its translated scans with the translation bundle (recipe card B).

    ``train`` holds overrides of its ``singan_train.yaml``, ``inference`` those of its ``tumour_blending.yaml``.

    Args:
        shared: overrides of both, e.g. ``spacing``, ``crop_size`` and the shape of the pyramid.
        weight: of each augmented scan in the loss, times that of the scan that it was made of.

    Raises:
        CrossmodaError: a weight that is not a finite number from 0 up, or several processes.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not (isinstance(self.weight, (int, float)) and math.isfinite(self.weight) and self.weight >= 0):
            raise CrossmodaError(f"blending_weight is {self.weight}, but must be a number from 0 up")
        if self.processes != 1:
            raise CrossmodaError("a SinGAN learns from one slice in one process; leave processes of the blending at 1")

    def main_file(self, kind: str) -> str:
        """Return the name of the file that trains the SinGAN, or of the one that blends."""
        return {"train": "singan_train.yaml", "inference": "tumour_blending.yaml"}[kind]

    def overrides(self, kind: str) -> dict[str, Any]:
        """Return the overrides of either file, the shared ones first."""
        return {**self.shared, **super().overrides(kind)}

    @property
    def harmonises(self) -> bool:
        """Tell whether a SinGAN takes part; without one, intensities are multiplied and nothing else."""
        return bool(self.config("inference")["harmonise"])

    def require_fit(self, dataset: Path, labels: Mapping[str, int], learnt: bool = False) -> None:
        """Find, before anything is trained, what would stop the blending later.

        Args:
            dataset: its datalist as a file.
            labels: the dataset's ``name -> number``.
            learnt: whether a SinGAN has been trained already; then its slice is not looked for again.

        Raises:
            CrossmodaError: an impossible rule, a structure that the labels lack, a site that no case is of, settings of
                the SinGAN's training and use that differ or do not fit one another, a scale that its pyramid lacks, or
                no such slice.
        """
        train, inference = self.config("train"), self.config("inference")
        rules = read_rules(inference["rules"])
        for rule in rules:
            numbers_of(rule.structure, dict(labels))
        require_rule_sites(rules, [item for item in load_datalist(dataset)["source"] if item.get("label")])
        if not inference["harmonise"]:
            return
        for key in _AGREED:
            if train[key] != inference[key]:
                raise CrossmodaError(
                    f"{key} is {train[key]} for the SinGAN's training and {inference[key]} for blending; "
                    "give it once, in the settings that both share"
                )
        require_parts(train["iterations_per_scale"], train["epochs_per_scale"])
        require_scales(rules, self._built("network_def", dataset))
        if not learnt:
            self._built("train::slice", dataset)

    def _built(self, name: str, dataset: Path) -> Any:
        """Return a component of the SinGAN's training, built as its configuration says."""
        try:
            return self.parser("train", dataset_dir=str(dataset)).get_parsed_content(name)
        except Exception as error:
            raise find_user_error(error) or error from error

    def singan_config(self, source: Sequence[Item], target: Sequence[Item]) -> dict[str, Any]:
        """Return what the SinGAN depends on: its settings, the scan, and the labels where they choose the slice."""
        train = self.config("train")
        scan = choose_target(target, train["case"], train["site"])
        config = {"train": train, "data": content_hash([scan], keys=("image",))}
        if train["slice_index"] is None:
            config["labels"] = content_hash(source, keys=("label",))
        return config
