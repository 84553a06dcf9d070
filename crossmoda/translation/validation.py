"""How near a translator has come to the real scans while it trains, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric
from torch import nn
from torch.utils.data import Dataset

from crossmoda.errors import CrossmodaError
from crossmoda.translation.measures.distances import kernel_distance
from crossmoda.translation.measures.features import SliceFeatures
from crossmoda.translation.slices import SliceSource, UnpairedSlices

METRIC = "kernel_distance"


class SpreadSlices(Dataset):
    """Some slices of a modality, evenly spread over its volumes and heights, whole and as they are.

    An item is ``{"image": (C, X, Y), "case": name}``.

    Args:
        source: all slices of the modality.
        count: how many; all where there are fewer.
        context: neighbours on either side, as further channels.
        volumes: numbers of the volumes to take slices of; by default all.
    """

    def __init__(self, source: SliceSource, count: int, context: int = 0, volumes: Sequence[int] | None = None) -> None:
        self.source = source
        self.context = context
        entries = np.arange(len(source)) if volumes is None else np.flatnonzero(np.isin(source.volumes, volumes))
        positions = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
        self.entries = entries[positions]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.entries)

    @property
    def cases(self) -> list[str]:
        """Return each slice's case."""
        return [self.source.case(int(entry)) for entry in self.entries]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one slice and its case."""
        slab, case = self.source.slab(int(self.entries[index]), self.context)
        return {"image": slab, "case": case}


def source_slices(dataset: UnpairedSlices, count: int) -> SpreadSlices:
    """Return the source slices that are translated at every look."""
    return SpreadSlices(dataset.source, count, dataset.context)


class SliceKernelDistance(CumulativeIterationMetric):
    """The kernel distance (see ``measures``) of translated slices to real ones; 0 is best.

    Pairs of slices of one case are left out, unless a side has one case only.

    Args:
        cases: of the translated slices, in the order in which they will come.
        real: the slices to compare with.
    """

    def __init__(self, cases: Sequence[str], real: SpreadSlices) -> None:
        super().__init__()
        if min(len(cases), len(real)) < 2:
            raise CrossmodaError(
                f"validation compares {len(cases)} translated with {len(real)} real slices; "
                "raise validation_slices above 1, or set validation_interval to 0"
            )
        self.describe = SliceFeatures()
        self.cases, self.real_cases = list(cases), real.cases
        self.real = torch.cat([self.describe(real[index]["image"][None]) for index in range(len(real))])

    def _compute_tensor(self, y_pred: torch.Tensor, y: Any = None, **kwargs: Any) -> torch.Tensor:
        """Return the features (B, F) of the middle channel of slabs (B, C, X, Y)."""
        middle = y_pred.shape[1] // 2
        return self.describe.to(y_pred.device)(y_pred[:, middle : middle + 1]).cpu()

    def aggregate(self) -> torch.Tensor:
        """Return the distance of all slices so far, a scalar."""
        # Every process translates all slices with the same weights; MONAI puts what they found one after another.
        features = torch.as_tensor(self.get_buffer())[: len(self.cases)]
        several = min(len(set(self.cases)), len(set(self.real_cases))) > 1
        cases = (self.cases, self.real_cases) if several else (None, None)
        return torch.tensor(kernel_distance(features, self.real, *cases))


def distance_metric(
    translated: SpreadSlices, dataset: UnpairedSlices, count: int, site: int | None = None, interval: int = 1
) -> dict[str, IgniteMetricHandler] | None:
    """Return the evaluator's key metric, ``kernel_distance``.

    Args:
        translated: what the evaluator goes through, in order.
        dataset: whose target slices are the real ones.
        count: how many of these.
        site: number of the site whose style is rendered; where it is given, only its slices are compared with.
        interval: epochs between two looks; with 0 there is none, and None is returned.
    """
    if not interval:
        return None
    volumes = None if site is None else [v for v, other in enumerate(dataset.target_sites) if other == site]
    metric = SliceKernelDistance(translated.cases, SpreadSlices(dataset.target, count, volumes=volumes))
    return {METRIC: IgniteMetricHandler(metric_fn=metric, output_transform=_slabs)}


def _slabs(output: Sequence[dict[str, Any]]) -> tuple[list[torch.Tensor], None]:
    return [item["pred"] for item in output], None


class KeepBest:
    """Remember the weights of the best look at the validation slices, and stop when no look is better any more.

    Put the object among those of ``TrainingState``, so that a resumed training remembers them too.

    Args:
        networks: whose weights are kept: those to be deployed, by name.
        evaluator: looks, and has the metric.
        metric: smaller is better.
        patience: looks without a better value until the training stops; None never stops it.
        deploy: put the best weights into ``networks`` when the training ends.
        looks: how many looks there will be at most.

    Raises:
        CrossmodaError: patience or deployment is asked for, but there will be no look.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        evaluator: Engine,
        metric: str = METRIC,
        patience: int | None = None,
        deploy: bool = False,
        looks: int = 1,
    ) -> None:
        if looks < 1 and (deploy or patience is not None):
            raise CrossmodaError(
                "patience and keep_best need a look before the training ends; "
                "lower validation_interval (above 0) to max_epochs or less, or leave them out"
            )
        self.networks = dict(networks)
        self.evaluator = evaluator
        self.metric = metric
        self.patience = patience
        self.deploy = deploy
        self.best: float | None = None
        self.weights: dict[str, dict[str, torch.Tensor]] = {}
        self.without_gain = 0

    def attach(self, engine: Engine) -> None:
        """Listen to the evaluator's looks and to the trainer's end."""
        self.evaluator.add_event_handler(Events.COMPLETED, self._look)
        engine.add_event_handler(Events.EPOCH_STARTED, self._stop)  # at once where a resumed training had stopped
        engine.add_event_handler(Events.COMPLETED, self._deploy)

    def _look(self, evaluator: Engine) -> None:
        value = float(evaluator.state.metrics[self.metric])
        if self.best is None or value < self.best:
            self.best, self.without_gain = value, 0
            if self.deploy:
                self.weights = {name: _copied(network) for name, network in self.networks.items()}
        else:
            self.without_gain += 1

    def _stop(self, engine: Engine) -> None:
        if self.patience is not None and self.without_gain >= self.patience:
            engine.state.epoch -= 1  # this epoch does not take place
            engine.terminate()

    def _deploy(self, engine: Engine) -> None:
        if self.deploy:
            for name, weights in self.weights.items():
                self.networks[name].load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen so far."""
        return {"best": self.best, "weights": self.weights, "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what had been seen."""
        self.best, self.weights, self.without_gain = state["best"], dict(state["weights"]), state["without_gain"]


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weights.detach().cpu().clone() for name, weights in network.state_dict().items()}
