"""The members' networks as one file of weights and one sidecar, and what these are loaded into."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json
from crossmoda.segmentation.apart.members import files_of, read_config
from crossmoda.segmentation.sidecars import read_sidecar

DESCRIPTION = "apart"  # key of the sidecar


class MemberNetworks(nn.Module):
    """The networks of several members, by name.

    A plain forward call makes no sense, since members see a scan on grids of their own: ``ApartInferer`` runs them.

    Args:
        networks: name -> network.
    """

    predicted_by = "inference_apart.yaml"

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleDict(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Refuse, naming what runs these networks."""
        raise CrossmodaError("networks of members are run by ApartInferer; use inference_apart.yaml")


def inference_config(bundle_root: str | Path, name: str, described: Mapping[str, Any]) -> ConfigParser:
    """Return the configuration that a member predicts by.

    Args:
        bundle_root: the segmentation bundle's folder.
        name: of the member.
        described: ``{"structures", "inference_overlays", "inference_settings"}``, as the sidecar has it.

    Raises:
        CrossmodaError: a file or a key of it is not there.
    """
    files = files_of(bundle_root, "inference.yaml", described["inference_overlays"])
    settings = {**described["inference_settings"], "structures": list(described["structures"])}
    parser = read_config(files, settings, f"members::{name}::inference_settings")
    parser.update({"bundle_root": str(bundle_root)})
    return parser


def member_network(bundle_root: str | Path, name: str, described: Mapping[str, Any]) -> nn.Module:
    """Return a member's network, of which no weight is loaded.

    Args:
        bundle_root: the segmentation bundle's folder.
        name: of the member.
        described: as for ``inference_config``, and under ``model`` what was written beside the member's own weights.
    """
    parser = inference_config(bundle_root, name, described)
    with tempfile.TemporaryDirectory() as folder:  # networks that are described beside their weights look there
        write_json(Path(folder) / "model.json", described["model"])
        parser.update({"weights": str(Path(folder) / "model.pt")})
        network: nn.Module = parser.get_parsed_content("network_def")
    return network


def apart_network(
    bundle_root: str | Path, weights: str | Path, structures: Sequence[str] | None = None
) -> MemberNetworks:
    """Return the networks that a file of weights belongs to, as its sidecar describes them; weights are not loaded.

    Args:
        bundle_root: the segmentation bundle's folder.
        weights: ``model.pt`` of a training with ``apart.yaml``.
        structures: names of the merged channels, which must be the model's.

    Raises:
        CrossmodaError: no such model, another kind of model, or one of other structures.
    """
    made = read_sidecar(weights, DESCRIPTION)
    if structures is not None and list(structures) != made["structures"]:
        raise CrossmodaError(f"{weights}: segments {made['structures']}; give these as structures")
    members = made[DESCRIPTION]["members"]
    return MemberNetworks({name: member_network(bundle_root, name, member) for name, member in members.items()})
