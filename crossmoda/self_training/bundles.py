"""Run another bundle's workflow as one step of the loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from crossmoda.engines.devices import device_here
from crossmoda.engines.workflows import PLACE_KEYS, in_one_line, make_workflow, run_workflow, unchecked_workflow
from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json
from crossmoda.segmentation.apart.members import APART, member_files
from crossmoda.segmentation.nnunet.spent import ROOT as NNUNET
from crossmoda.unknown_keys import require_known_keys

__all__ = ["PLACE_KEYS", "BundleUse", "in_one_line", "make_workflow", "require_known_settings", "run_workflow"]


# What the loop hands to every segmenter, be there a use for it or not: nnU-Net has none for a crop.
OF_ALL_SEGMENTERS = ("seed", "spacing", "crop_size", "structures")
INITIAL_WEIGHTS = "initial_weights"  # setting of a training: the file to begin with


@dataclass(frozen=True)
class BundleUse:
    """How the loop uses another bundle: where it lies, and what to set in its configurations.

    Args:
        root: the bundle's folder.
        train: overrides for ``configs/train.yaml``.
        inference: overrides for ``configs/inference.yaml``.
        train_overlays: files merged after ``train.yaml``: names in the bundle's ``configs`` or paths.
        inference_overlays: files merged after ``inference.yaml``.
        processes: of a training; above 1 it is started by torchrun with the bundle's ``multi_gpu_train.yaml``. What
            starts processes itself, apart.yaml's training and nnU-Net's, takes one.
        weights_of: name of another view whose translator this one uses, e.g. to render another site's style; it is then
            not trained.
        reads: settings of a translation that name a file of some view's training, e.g. ``{return_weights:
            cut_back/model.pt}`` for a round trip.
        renders: False for a view whose translator only others use.
    """

    root: str
    train: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)
    train_overlays: Sequence[str] = ()
    inference_overlays: Sequence[str] = ()
    processes: int = 1
    weights_of: str | None = None
    reads: Mapping[str, str] = field(default_factory=dict)
    renders: bool = True

    def files(self, kind: str) -> list[Path]:
        """Return the configuration files of the ``train`` or the ``inference`` workflow, in the order of merging."""
        configs = Path(self.root) / "configs"
        overlays = self.train_overlays if kind == "train" else self.inference_overlays
        found = [configs / name if (configs / name).is_file() else Path(name) for name in overlays]
        return [configs / self.main_file(kind), *found]

    def main_file(self, kind: str) -> str:
        """Return the name of the bundle's own file that the ``train`` or the ``inference`` workflow begins with."""
        return f"{kind}.yaml"

    def overrides(self, kind: str) -> dict[str, Any]:
        """Return the overrides of the ``train`` or the ``inference`` workflow."""
        return dict(self.train if kind == "train" else self.inference)

    def require_known_keys(self, kind: str, origin: str = "settings", idle: Sequence[str] | None = None) -> None:
        """Make sure that something reads each key of the overlays and overrides of a workflow.

        Args:
            kind: "train" or "inference".
            origin: of the overrides, for the message.
            idle: overrides that may be without effect; None: all may.

        Raises:
            CrossmodaError: a file is missing, or an overlay or an override names a key that nobody reads.
        """
        for file in self.files(kind):
            if not file.is_file():
                raise CrossmodaError(f"{file}: no such configuration file; mend the overlays of {self.root}")
        require_known_keys(self.files(kind), self.overrides(kind), origin, idle=idle)

    def config(self, kind: str) -> dict[str, Any]:
        """Return the merged configuration that decides what the workflow makes (no paths, no device).

        Raises:
            CrossmodaError: a file is missing, or an overlay or an override names a key that nobody reads.
        """
        self.require_known_keys(kind)
        config = {key: value for key, value in self.parser(kind).get().items() if key not in PLACE_KEYS}
        if kind == "train" and APART in config:  # what members' own files say decides the result, too
            config["member_files"] = member_files(self.root, config["members"])
        return config

    @property
    def launches(self) -> bool:
        """Tell whether the training launches trainings of its own: those of members apart, or nnU-Net's folds."""
        return self.has("train", APART) or self.has("train", NNUNET)

    @property
    def begins_with_weights(self) -> bool:
        """Tell whether the training can begin with the weights of another one; nnU-Net's begins with random ones."""
        return self.has("train", INITIAL_WEIGHTS) and not self.has("train", NNUNET)

    @property
    def torchrun_processes(self) -> int:
        """How many processes torchrun starts for the training, 1 of those that start processes themselves."""
        return 1 if self.processes > 1 and self.launches else self.processes

    def parser(self, kind: str, **places: Any) -> ConfigParser:
        """Return the configuration of a workflow, of which single components can be built without the others.

        Args:
            kind: "train" or "inference".
            places: settings beside the overrides.
        """
        parser = self._read(kind)
        parser.update({"bundle_root": str(Path(self.root).resolve()), **self.overrides(kind), **places})
        return parser

    def has(self, kind: str, key: str) -> bool:
        """Tell whether the configuration of the ``train`` or the ``inference`` workflow has a setting."""
        return key in self._read(kind).get()

    def _read(self, kind: str) -> ConfigParser:
        """Return the merged files of a workflow, without the overrides."""
        parser = ConfigParser()
        parser.read_config([str(file) for file in self.files(kind)])
        return parser

    def workflow(self, kind: str, **places: Any) -> ConfigWorkflow:
        """Return the ``train`` or the ``inference`` workflow, not yet initialised.

        Args:
            kind: "train" or "inference".
            places: settings that say where from and where to, beside the overrides; what has no use for one ignores it.

        Raises:
            CrossmodaError: a file is missing, or an overlay or an override names a key that nobody reads.
        """
        self.require_known_keys(kind)
        root = str(Path(self.root).resolve())
        return unchecked_workflow(self.files(kind), kind, {"bundle_root": root, **self.overrides(kind), **places})

    def check(self, kind: str, device: Any, components: Sequence[str] = (), **places: Any) -> None:
        """Build some components of a workflow, and let a training check itself as it does before it runs.

        Inference is not initialised, because that looks for the weights which a training is yet to write.

        Args:
            kind: "train" or "inference".
            device: that it would run on; by default the first GPU, if there is one.
            components: ids in its configuration, built first and named in errors.
            places: as ``workflow`` takes them.

        Raises:
            CrossmodaError: one line that says what is wrong.
        """
        workflow = self.workflow(kind, device=device_here(device), **places)
        for key in components:
            try:
                workflow.parser.get_parsed_content(key)
            except Exception as error:  # whatever a component's constructor raises
                raise in_one_line(error, f"{key} cannot be built") from error
        try:
            if kind == "train":
                workflow.initialize()
        except Exception as error:
            raise in_one_line(error, f"{self.root}: {self.main_file(kind)} cannot be run") from error

    def require_network(self, kind: str, origin: str, **places: Any) -> None:
        """Find what would stop a workflow's network from being built.

        Args:
            kind: "train" or "inference".
            origin: what uses the bundle, for the message.
            places: as ``workflow`` takes them.

        Raises:
            CrossmodaError: one line that says what is wrong.
        """
        try:
            self.parser(kind, **places).get_parsed_content("network_def")
        except Exception as error:  # whatever its constructor raises
            raise in_one_line(error, f"{origin}: its network cannot be built") from error

    def run(self, kind: str, device: Any, **places: Any) -> None:
        """Run a workflow from beginning to end, and free its memory.

        Args:
            kind: "train" or "inference".
            device: that it runs on; None is the first GPU that this process sees, or else the CPU.
            places: as ``workflow`` takes them.

        Raises:
            CrossmodaError: whatever the workflow found to be the user's to mend.
        """
        if kind == "train" and self.torchrun_processes > 1:
            self._run_with_torchrun(Path(places["output_dir"]).parent, places)
            return
        run_workflow(self.workflow(kind, device=device_here(device), **places))

    def _run_with_torchrun(self, place: Path, places: Mapping[str, Any]) -> None:
        """Train with one process per device; the settings travel as one more configuration file."""
        settings = place / "torchrun_settings.json"
        write_json(settings, {"bundle_root": str(Path(self.root).resolve()), **self.overrides("train"), **places})
        files = [*self.files("train"), Path(self.root) / "configs" / "multi_gpu_train.yaml", settings]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        command = [*torchrun, "-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files])]
        if subprocess.run(command, check=False).returncode:
            raise CrossmodaError(
                f"{self.root}: training with {self.processes} processes failed; its messages are above"
            )


def require_known_settings(
    views: Mapping[str, Any],
    segmenter: BundleUse,
    blending: BundleUse | None = None,
    target_view: BundleUse | None = None,
) -> None:
    """Make sure, before anything is done, that what the loop hands to other bundles names keys that these have.

    Args:
        views: view name -> its translator bundle; what is none has no settings.
        segmenter: the segmentation bundle.
        blending: how the translated scans are augmented, or None.
        target_view: the bundle that renders hrT2 scans for round 0, or None.

    Raises:
        CrossmodaError: an overlay is missing, or names a key that nobody reads, as may the settings.
    """
    uses = {**{f"view '{name}'": view for name, view in views.items()}, "segmenter": segmenter}
    uses |= {"blending": blending, "target_view": target_view}
    for name, use in uses.items():
        if not isinstance(use, BundleUse):
            continue
        for kind in ("train", "inference"):
            # Sizes of translators are those of all views, be one of them another network, and members have their own.
            own = use is segmenter and not use.has("train", APART)
            use.require_known_keys(kind, f"settings of the {name}", OF_ALL_SEGMENTERS if own else None)
