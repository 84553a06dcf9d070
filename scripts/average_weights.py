"""Write the mean of the weights of trainings that began alike: it often does what each of them does, without its bias.

    python scripts/average_weights.py --weights runs/one/model.pt,runs/two/model.pt --output runs/mean/model.pt

Weights lie between those of a network and of one that was trained on from it (M. Wortsman et al., CVPR 2022).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from crossmoda.command_line import run_command
from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json

AGREED = ("structures", "spacing", "crop_size", "patch_size", "agreed")


class Holder(nn.Module):
    """Hold tensors under the names of another network's."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = state

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """Return the tensors."""
        return self.state


def main(weights: tuple[str, ...], output: str) -> None:
    """Average, and write with a sidecar that tells of what.

    Args:
        weights: two files or more, of one network and the same settings.
        output: the file to write.

    Raises:
        CrossmodaError: fewer than two, or weights that do not go together.
    """
    files = [Path(file) for file in (weights.split(",") if isinstance(weights, str) else weights)]
    if len(files) < 2:
        raise CrossmodaError("--weights: give two files or more, with commas between them")
    told = [read_json(file.with_suffix(".json")) for file in files]
    states = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
    for file, other, state in zip(files[1:], told[1:], states[1:], strict=True):
        different = [key for key in AGREED if other.get(key) != told[0].get(key)]
        shapes = {name: value.shape for name, value in state.items()}
        if different or shapes != {name: value.shape for name, value in states[0].items()}:
            raise CrossmodaError(
                f"{file}: {', '.join(different) or 'network'} other than of {files[0]}; average like ones"
            )
    mean = {name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
            for name, value in states[0].items()}  # fmt: skip
    parts = [{key: one.get(key) for key in ("sha256", "iterations", "config_hash")} for one in told]
    save_weights(Holder(mean), output, {**{key: told[0][key] for key in AGREED if key in told[0]}, "mean_of": parts})
    print(f"written: {output}")


if __name__ == "__main__":
    run_command(main)
