"""Orders in which the cases that nobody has touched are handed out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.strategy import Strategy

from lib.datastore import ReviewDatastore

Infos = dict[str, dict[str, Any]]


class Order(Strategy):
    """Choose among the scans without a label or a verdict by a person."""

    def __call__(self, request: dict[str, Any], datastore: ReviewDatastore) -> dict[str, Any] | None:
        """Return ``{"id", "weight"}`` of the next case, or None when all are done."""
        images = datastore.open_images()
        if not images:
            return None
        image_id = self.choose(images)
        return {"id": image_id, "weight": images[image_id].get("uncertainty")}

    @abstractmethod
    def choose(self, images: Infos) -> str:
        """Return one of the image ids."""


class MostUncertain(Order):
    """Hand out the case first of which the model is least sure; cases without a measure come last."""

    def __init__(self) -> None:
        super().__init__("Most uncertain case first")

    def choose(self, images: Infos) -> str:
        """Return the id with the highest uncertainty, the first by name among equals."""
        scores = {image_id: info.get("uncertainty") for image_id, info in images.items()}
        return max(images, key=lambda image_id: -1.0 if scores[image_id] is None else float(scores[image_id] or 0))


class First(Order):
    """Hand out the cases in the order of their names."""

    def __init__(self) -> None:
        super().__init__("In the order of names")

    def choose(self, images: Infos) -> str:
        """Return the first id."""
        return min(images)


class RandomOrder(Order):
    """Hand out any case.

    Args:
        rng: source of the random numbers.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__("In random order")
        self.rng = rng

    def choose(self, images: Infos) -> str:
        """Return any id."""
        return sorted(images)[self.rng.integers(len(images))]
