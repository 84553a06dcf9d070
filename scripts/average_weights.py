"""Write the mean of the weights of a segmenter's trainings of which one went on from the other.

    python scripts/average_weights.py --weights runs/one/model.pt,runs/two/model.pt --output runs/mean/model.pt

Between the weights of a network and those of one that was trained on from it often lie better ones than either
(M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser
from torch.optim.swa_utils import AveragedModel

from crossmoda.command_line import run_command
from crossmoda.engines import load_weights, save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json

INFERENCE = "bundles/vs_cochlea_hrt2_segmentation/configs/inference.yaml"
LIKE = ("structures", "spacing", "crop_size", "patch_size", "agreed")  # settings that all must share, and the mean has


def main(weights: str | Sequence[str], output: str, config: str | Sequence[str] = INFERENCE) -> None:
    """Average, and write with a sidecar that tells of what.

    Args:
        weights: two files or more, each with its sidecar.
        output: the file to write.
        config: of the network, one file or several; the bundle's own network by default.

    Raises:
        CrossmodaError: fewer than two files, weights of another network, or of other settings than the first.
    """
    files = [Path(file) for file in _listed(weights)]
    if len(files) < 2:
        raise CrossmodaError("--weights: give two files or more, with commas between them")
    told = [read_json(file.with_suffix(".json")) for file in files]
    parser = ConfigParser()
    parser.read_config(_listed(config))
    network = parser.get_parsed_content("network_def")
    like = {key: told[0][key] for key in LIKE if key in told[0]}
    mean = AveragedModel(network, use_buffers=True)
    for file in files:
        mean.update_parameters(load_weights(network, file, like))
    parts = [{key: one.get(key) for key in ("sha256", "iterations", "config_hash")} for one in told]
    save_weights(mean.module, output, {**like, "mean_of": parts})
    print(f"written: {output}")


def _listed(value: str | Sequence[str]) -> list[str]:
    """Return the parts of a list that the command line gives as text or as a tuple."""
    return value.split(",") if isinstance(value, str) else [str(part) for part in value]


if __name__ == "__main__":
    run_command(main)
