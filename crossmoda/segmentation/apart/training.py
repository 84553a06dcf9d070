"""From a datalist to one model of members trained apart, gone on with after any interruption."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from crossmoda.data.datalist import load_datalist, save_datalist, segmentation_items
from crossmoda.engines import load_weights, require_own_weights, save_weights
from crossmoda.engines.devices import device_here
from crossmoda.engines.weights import write_tensors
from crossmoda.engines.workflows import PLACE_KEYS, in_one_line, make_workflow, run_workflow
from crossmoda.errors import CrossmodaError
from crossmoda.files import hash_of, read_json, sha256_of, write_json
from crossmoda.launching import Course, Launcher, Piece, launcher_for
from crossmoda.segmentation.apart.history import merged_history
from crossmoda.segmentation.apart.members import Member, files_of, read_config, read_members
from crossmoda.segmentation.apart.model import DESCRIPTION, MemberNetworks, inference_config, member_network
from crossmoda.segmentation.cases import training_fingerprint
from crossmoda.segmentation.checks import check_network

AGREEING = ("spacing", "crop_size", "patch_size")  # a prediction has them as the training had
STEPS = ("to_probabilities", "decide", "postprocessing")  # of inference.yaml, which the merged prediction has alone

logger = logging.getLogger(__name__)


class ApartTraining:
    """Train members that each segment some of the structures, and make one model of them.

    Every member is trained by the bundle's own ``train.yaml`` with its overlays and settings, in
    ``output_dir/members/NAME``: one after the other in this process, or at the same time by a cluster's workers. What
    exists is gone on with: a member that is finished is kept unless its settings, its data or ``fingerprint`` have
    changed, an unfinished one resumes. At the end ``output_dir`` gets ``model.pt`` (all weights), ``model.json`` (how
    the members predict, so that no other file is needed) and ``history.json``.

    Args:
        bundle_root: the segmentation bundle's folder.
        dataset_dir: a dataset folder or a datalist JSON.
        output_dir: of the run.
        structures: of all members together, in the order of the merged numbers.
        members: name -> settings of ``Member``.
        shared: settings for every member whose files have the key and whose own settings do not; None is left out.
        device: that trains.
        resume: False trains every member anew.
        fingerprint: noted in ``model.json``, and part of what tells whether a member is finished.
        initial_weights: ``model.pt`` of such a training, whose members these begin with; nnU-Net's begin at random.
        scheduler: of a Dask cluster whose workers train the members, each on a device of its own: its address, or its
            ``--scheduler-file``; None trains here.

    Raises:
        CrossmodaError: a setting that cannot be, or a structure comes from two members or from none.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        output_dir: str | Path,
        structures: Sequence[str],
        members: Mapping[str, Mapping[str, Any]],
        shared: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        resume: bool = True,
        fingerprint: str = "",
        initial_weights: str | Path | None = None,
        scheduler: str | None = None,
    ) -> None:
        self.bundle_root = Path(bundle_root).resolve()
        self.dataset_dir = Path(dataset_dir).resolve()
        self.output_dir = Path(output_dir).resolve()
        self.structures = list(structures)
        self.members = read_members(members, structures)
        self.shared = {key: value for key, value in (shared or {}).items() if value is not None}
        self.device = None if scheduler else device
        self.resume = resume
        self.fingerprint = fingerprint
        self.initial_weights = initial_weights
        self.scheduler = scheduler

    def check(self) -> None:
        """Let every member's training check itself, and hold its prediction against it, before any is trained.

        Raises:
            CrossmodaError: whatever is wrong with a member, in one line.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise CrossmodaError("apart.yaml trains its members in one process; leave out torchrun, or processes: 1")
        require_own_weights(self.output_dir / "model.pt")
        with self._launcher() as launcher:
            launcher.call("checks", self.output_dir, self._check_members)

    def _check_members(self) -> None:
        for member in self.members:
            self._check_member(member)
            gc.collect()

    def run(self) -> None:
        """Do what is left to be done.

        Raises:
            CrossmodaError: a member has nothing to learn from, or its training failed.
        """
        keys = {member.name: self._prepare(member) for member in self.members}
        with self._launcher() as launcher:
            launcher.run([self._training(member, keys[member.name]) for member in self.members])
        self._export()

    def _launcher(self) -> Launcher:
        if self.scheduler:
            self.output_dir.mkdir(parents=True, exist_ok=True)
        return launcher_for(self.scheduler, self.output_dir)

    def _training(self, member: Member, key: str) -> Course[None]:
        place = self._place(member)
        if self.resume and self._is_done(member, key):
            logger.info("%s: trained already", place)
            return
        yield Piece(f"member {member.name}", place, partial(self._train, member, key))

    def _place(self, member: Member) -> Path:
        return self.output_dir / "members" / member.name

    def settings_of(self, member: Member) -> dict[str, Any]:
        """Return the settings that decide the result of a member's training: its own, and the shared ones."""
        return self._settings(member)[1]

    def _settings(self, member: Member) -> tuple[list[str], dict[str, Any]]:
        """Return the files of a member's training and the settings that decide its result."""
        files = files_of(self.bundle_root, "train.yaml", member.overlays)
        known = read_config(files, {}, "").get()
        shared = {key: value for key, value in self.shared.items() if key in known}
        settings = {**shared, **member.settings, "structures": list(member.structures)}
        read_config(files, settings, f"members::{member.name}::settings")
        return files, settings

    def _workflow(self, member: Member, **places: Any) -> ConfigWorkflow:
        files, settings = self._settings(member)
        own = {"bundle_root": str(self.bundle_root), "output_dir": str(self._place(member)), "resume": self.resume}
        return make_workflow(files, "train", **{"device": device_here(self.device), **settings, **own, **places})

    def _described(self, member: Member, workflow: ConfigWorkflow) -> dict[str, Any]:
        """Return what a prediction by the member must know, beside its weights."""
        agreeing = {key: workflow.parser.get_parsed_content(key) for key in AGREEING}
        overlays = [
            name if (self.bundle_root / "configs" / name).is_file() else str(Path(name).absolute())
            for name in member.inference_overlays
        ]
        return {
            "structures": list(member.structures),
            "inference_overlays": overlays,
            "inference_settings": {**agreeing, **member.inference_settings},
        }

    def _check_member(self, member: Member) -> None:
        workflow = self._workflow(member, dataset_dir=str(self.dataset_dir))
        try:
            workflow.initialize()
            self._check_prediction(member, workflow)
        except Exception as error:  # whatever a component's constructor raises
            raise in_one_line(error, f"members::{member.name} cannot be trained") from error

    def _check_prediction(self, member: Member, workflow: ConfigWorkflow) -> None:
        """Refuse a prediction that would not be that of what the training makes."""
        where, described = f"members::{member.name}", self._described(member, workflow)
        served = "inference_nnunet.yaml" in [Path(name).name for name in member.inference_overlays]
        if member.is_nnunet != served:
            raise CrossmodaError(f"{where}: nnunet.yaml and inference_nnunet.yaml go together; name both, or neither")
        parser = inference_config(self.bundle_root, member.name, described)
        plain = read_config(files_of(self.bundle_root, "inference.yaml", []), {}, where)
        changed = [key for key in STEPS if parser.get(key) != plain.get(key)]
        if changed:
            raise CrossmodaError(
                f"{where}: inference_overlays change {changed[0]}, which the merged prediction has alone; name such a "
                "file after inference_apart.yaml"
            )
        predicted = parser.get_parsed_content("agreed")
        trained = workflow.parser.get_parsed_content("nnunet" if served else "agreed")
        trained = trained.agreed if served else trained
        if trained != predicted:
            raise CrossmodaError(f"{where}: trained with {trained}, but predicts with {predicted}; give both alike")
        if not served:
            self._check_networks(member, workflow, described)

    def _check_networks(self, member: Member, workflow: ConfigWorkflow, described: Mapping[str, Any]) -> None:
        trained = workflow.parser.get_parsed_content("network_def")
        predicts = member_network(self.bundle_root, member.name, {**described, "model": {}})
        shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (trained, predicts)]
        if shapes[0] != shapes[1]:
            raise CrossmodaError(
                f"members::{member.name}: predicts with another network than it trains; give overlays and settings of "
                "the network to its inference, too"
            )
        check_network(predicts, described["inference_settings"]["patch_size"], member.structures)

    def _prepare(self, member: Member) -> str:
        """Write what a member learns from, and return what tells its training from others."""
        file = self._place(member) / "datalist.json"
        datalist = load_datalist(self.dataset_dir)
        learnt = [item for item in datalist["source"] if member.learns_from(item)]
        save_datalist(file, {**datalist, "source": learnt})
        items = segmentation_items(file)
        if not items:
            raise CrossmodaError(
                f"{self.dataset_dir}: no labelled item for members::{member.name} with items: {member.items}; augment "
                "the scans (blend: true), or give it other items"
            )
        files, settings = self._settings(member)
        config = read_config(files, settings, "").get()
        decides = {key: value for key, value in config.items() if key not in PLACE_KEYS}
        images = [sha256_of(item["image"]) for item in items]
        begin = sha256_of(self._begin(member)) if self.initial_weights else ""
        return hash_of([training_fingerprint(items, images, datalist["labels"]), decides, self.fingerprint, begin])

    def _begin(self, member: Member) -> Path:
        """Write the weights that a member begins with to a file of their own."""
        assert self.initial_weights is not None
        source, prefix = Path(self.initial_weights), f"members.{member.name}."
        if not source.is_file():
            raise CrossmodaError(f"{source}: no weights there; name another file with --initial_weights")
        state = torch.load(source, map_location="cpu", weights_only=True)
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if not own:
            raise CrossmodaError(f"{source}: has no member {member.name}; name weights of the same members")
        file = self._place(member) / "initial_weights.pt"
        write_tensors(file, own)
        return file

    def _is_done(self, member: Member, key: str) -> bool:
        weights = self._place(member) / "model.pt"
        sidecar = weights.with_suffix(".json")
        if not (weights.is_file() and sidecar.is_file()):
            return False
        made = read_json(sidecar)
        return made.get("config_hash") == key and made.get("sha256") == sha256_of(weights)

    def _train(self, member: Member, key: str) -> None:
        place = self._place(member)
        begins = {"initial_weights": str(place / "initial_weights.pt")} if self.initial_weights else {}
        run_workflow(self._workflow(member, dataset_dir=str(place / "datalist.json"), fingerprint=key, **begins))

    def _export(self) -> None:
        """Write the members' weights, what their predictions must know, and the course of their trainings."""
        networks, described, histories = {}, {}, {}
        for member in self.members:
            place = self._place(member)
            own = self._described(member, self._workflow(member, dataset_dir=str(place / "datalist.json")))
            described[member.name] = {**own, "model": read_json(place / "model.json"), "training": member.described()}
            networks[member.name] = load_weights(
                member_network(self.bundle_root, member.name, described[member.name]), place / "model.pt"
            )
            histories[member.name] = read_json(place / "history.json")
        write_json(self.output_dir / "history.json", merged_history(histories))
        info = {"structures": self.structures, "agreed": {"prepare": []}, "config_hash": self.fingerprint}
        save_weights(
            MemberNetworks(networks), self.output_dir / "model.pt", {**info, DESCRIPTION: {"members": described}}
        )
