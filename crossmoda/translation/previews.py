"""Pictures of what a translator does, while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer, SimpleInferer
from torch import nn
from torch.utils.data import Dataset

from crossmoda.files import atomic_path
from crossmoda.translation.trainer import SITE, SOURCE, TARGET


class TranslationPreview:
    """Write rows of source slice | its translation | a real target slice, to a PNG file and to TensorBoard.

    A slice is rendered in the style of the target slice beside it, where the translator knows several sites.
    The slices are drawn once, spread over the data set, so that the pictures of all epochs can be compared.

    Args:
        network: the translator.
        dataset: of ``{"source", "target"}`` slices (1, X, Y) in [-1, 1], both of one shape.
        folder: gets ``epoch_NNN.png``.
        every: epochs between two pictures; the last epoch always has one.
        rows: pairs in a picture.
        inferer: runs the network.
        summary_writer: of TensorBoard, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        folder: str | Path,
        every: int = 10,
        rows: int = 4,
        inferer: Inferer | None = None,
        summary_writer: Any = None,
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.folder = Path(folder)
        self.every = every
        self.rows = rows
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.summary_writer = summary_writer
        self._pairs: list[dict[str, torch.Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Listen to ``engine``'s start and to the ends of its epochs."""
        engine.add_event_handler(Events.STARTED, self._draw)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_when_due)
        engine.add_event_handler(Events.COMPLETED, self._write_the_last)

    def _draw(self, engine: Engine) -> None:
        length = len(self.dataset)  # type: ignore[arg-type]
        chosen = sorted({int(index) for index in np.linspace(0, length - 1, self.rows)})
        self._pairs = [self.dataset[index] for index in chosen]

    def _write_when_due(self, engine: Engine) -> None:
        if engine.state.epoch % self.every == 0:
            self._write(engine.state.epoch)

    def _write_the_last(self, engine: Engine) -> None:
        if engine.state.epoch % self.every:
            self._write(engine.state.epoch)

    def _write(self, epoch: int) -> None:
        picture = self.picture()
        with atomic_path(self.folder / f"epoch_{epoch:03d}.png") as partial:
            matplotlib.image.imsave(partial, picture, cmap="gray", vmin=0.0, vmax=1.0)
        if self.summary_writer is not None:
            self.summary_writer.add_image("source | translation | target", picture, epoch, dataformats="HW")

    def picture(self) -> np.ndarray:
        """Return the rows as one float picture (height, width) in [0, 1], in the radiological view."""
        source = torch.stack([torch.as_tensor(pair[SOURCE]) for pair in self._pairs])
        target = torch.stack([torch.as_tensor(pair[TARGET]) for pair in self._pairs])
        training, device = self.network.training, next(self.network.parameters()).device
        self.network.eval()
        with torch.no_grad():
            sites = [torch.tensor([pair[SITE] for pair in self._pairs]).to(device)] if SITE in self._pairs[0] else []
            translated = self.inferer(source.to(device), self.network, *sites).float().cpu()
        self.network.train(training)
        return mosaic([source, translated, target])


def mosaic(columns: Sequence[torch.Tensor]) -> np.ndarray:
    """Lay slices (B, C, X, Y) in [-1, 1] out, a row per item and a column per tensor; (height, width) in [0, 1].

    Of a slab the middle slice is shown.
    In RAS the slice is turned about both axes, so that anterior is up and the patient's right on the left.
    """
    slabs = torch.stack(list(columns), dim=1)  # (B, columns, C, X, Y)
    tiles = slabs[:, :, slabs.shape[2] // 2]
    upright = tiles.flip(2, 3).permute(0, 3, 1, 2)  # (B, Y, columns, X)
    picture = upright.flatten(0, 1).flatten(1, 2)
    return ((picture.clamp(-1, 1) + 1) / 2).numpy()
