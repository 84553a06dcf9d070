"""A trained nnU-Net as one file of weights and one sidecar, and the network that they are loaded into.

MONAI's ``convert_nnunet_to_monai_bundle`` is not used: it takes one fold, needs both checkpoints of it, and leaves the
chosen post-processing behind; ``get_nnunet_monai_predictor`` asks for a GPU and takes spacing from the diagonal of the
affine, which is 0 where axes are swapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json
from crossmoda.segmentation.nnunet.settings import ALL, CHECKPOINTS, NnUNetFolders, NnUNetSettings, require_nnunet
from crossmoda.segmentation.sidecars import read_sidecar

DESCRIPTION = "nnunet"  # key of the sidecar
# Of history.json, and what nnU-Net calls it; its Dice is that of validation patches, with all cases in train_folds all.
SERIES = {"loss": "train_losses", "val_loss": "val_losses", "val_mean_dice": "mean_fg_dice"}
_DATASET_KEYS = ("channel_names", "labels", "file_ending")  # of dataset.json; prediction needs no more


class NnUNetEnsemble(nn.Module):
    """The networks of one or two nnU-Net configurations, with all their folds, and the plans to use them by.

    A plain forward call makes no sense, since configurations see images of other spacings: ``NnUNetInferer`` runs it.

    Args:
        description: ``{"plans", "dataset", "members": [{"configuration", "trainer", "folds", "mirror_axes"}],
            "postprocessing"}``, as ``export_model`` writes it.
    """

    predicted_by = "inference_nnunet.yaml"

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.description = dict(description)
        self.members = nn.ModuleList(
            nn.ModuleDict({str(fold): _build_network(description, member) for fold in member["folds"]})
            for member in description["members"]
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Refuse, naming what runs these networks."""
        raise CrossmodaError("nnU-Net's networks are run by NnUNetInferer; use inference_nnunet.yaml")


def _build_network(description: Mapping[str, Any], member: Mapping[str, Any]) -> nn.Module:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(description["plans"])
    configuration = plans.get_configuration(member["configuration"])
    dataset = description["dataset"]
    trainer = recursive_find_trainer_class_by_name(member["trainer"])
    network: nn.Module = trainer.build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    return network


def nnunet_network(weights: str | Path, structures: Sequence[str] | None = None) -> NnUNetEnsemble:
    """Return the networks that a file of weights belongs to, as its sidecar describes them; weights are not loaded.

    Args:
        weights: ``model.pt`` of a training of nnU-Net.
        structures: names of the output channels, which must be the model's.

    Raises:
        CrossmodaError: no such model, another kind of model, or one of other structures.
    """
    require_nnunet()
    made = read_sidecar(weights, DESCRIPTION)
    if structures is not None and list(structures) != made["structures"]:
        raise CrossmodaError(f"{weights}: segments {made['structures']}; give these as structures")
    return NnUNetEnsemble(made[DESCRIPTION])


def export_model(
    folders: NnUNetFolders, settings: NnUNetSettings, path: str | Path, info: Mapping[str, Any] | None = None
) -> None:
    """Write what was trained, and chosen by cross-validation, as ``path`` with a ``.json``, and ``history.json``.

    The weights are tensors alone (``torch.load(path, weights_only=True)``), about 120 MB a fold; the sidecar holds
    plans, members and post-processing, and no case's name or path.

    Args:
        folders: with the trained folds.
        settings: which folds, and ``checkpoint``.
        path: of the weights.
        info: further keys for the sidecar.

    Raises:
        CrossmodaError: a fold has not been trained, or its checkpoint is missing or damaged.
    """
    chosen = _choice(folders, settings)
    members, weights, logs = [], {}, []
    for index, (trainer, configuration) in enumerate(chosen["models"]):
        checkpoints = _read_checkpoints(folders.model(trainer, configuration), settings)
        axes = next(iter(checkpoints.values())).get("inference_allowed_mirroring_axes")
        member = {"configuration": configuration, "trainer": trainer, "folds": list(checkpoints)}
        members.append({**member, "mirror_axes": None if axes is None else [int(axis) for axis in axes]})
        for fold, checkpoint in checkpoints.items():
            own = checkpoint["network_weights"]
            logs.append(checkpoint["logging"])
            weights.update({f"members.{index}.{fold}.{name}": value for name, value in own.items()})
    place = folders.model(*chosen["models"][0])
    dataset = read_json(place / "dataset.json")
    description = {
        "plans": read_json(place / "plans.json"),
        "dataset": {key: dataset[key] for key in _DATASET_KEYS},
        "members": members,
        "postprocessing": chosen["postprocessing"],
        "cross_validation": chosen["cross_validation"],
        "checkpoint": settings.checkpoint,
    }
    ensemble = NnUNetEnsemble(description)
    ensemble.load_state_dict(weights)
    write_json(Path(path).with_name("history.json"), mean_history(logs))
    save_weights(ensemble, path, {**(info or {}), DESCRIPTION: description})


def mean_history(logs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Return what nnU-Net logged, the mean of its trainings, in the form of the bundle's own ``history.json``.

    Args:
        logs: of each training, what was logged, by epoch; the shortest ends the history.
    """
    epochs = min(len(log["train_losses"]) for log in logs)
    series = {
        name: [float(np.mean([log[key][epoch] for log in logs])) for epoch in range(epochs)]
        for name, key in SERIES.items()
    }
    return {"epoch": list(range(1, epochs + 1)), "series": series}


def _choice(folders: NnUNetFolders, settings: NnUNetSettings) -> dict[str, Any]:
    """Return the models chosen, the labels whose largest component is kept, in order, and the mean Dice of all."""
    if settings.fold_names == [ALL]:
        models = [(settings.trainer, settings.configurations[0])]
        return {"models": models, "postprocessing": [], "cross_validation": {}}
    information = read_json(folders.results / "inference_information.json")
    best = information["best_model_or_ensemble"]
    # nnU-Net pickles its post-processing and writes the same as JSON; a pickle could hold anything.
    steps = read_json(Path(best["postprocessing_file"]).with_suffix(".json"))["postprocessing_kwargs"]
    return {
        "models": [(model["trainer"], model["configuration"]) for model in best["selected_model_or_models"]],
        "postprocessing": [step["labels_or_regions"] for step in steps],
        "cross_validation": information["all_results"],
    }


def _read_checkpoints(model: Path, settings: NnUNetSettings) -> dict[str, dict[str, Any]]:
    """Return the checkpoint of each trained fold, by the fold's name."""
    file = CHECKPOINTS[settings.checkpoint]
    trained = [place.parent.name.removeprefix("fold_") for place in sorted(model.glob(f"fold_*/{file}"))]
    missing = [str(fold) for fold in settings.fold_names if str(fold) not in trained]
    if missing:
        raise CrossmodaError(
            f"{model}: fold {', '.join(missing)} has no {file} (folds that have: {', '.join(trained) or 'none'}); "
            "train it first, or name trained folds alone"
        )
    return {str(fold): _read_checkpoint(model / f"fold_{fold}" / file) for fold in settings.fold_names}


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        # nnU-Net's checkpoints hold numpy's numbers beside tensors, which torch loads only where it is told to trust.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
        return {key: state[key] for key in ("network_weights", "inference_allowed_mirroring_axes", "logging")}
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise CrossmodaError(f"{path}: damaged; delete its folder to train the fold anew") from error
