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
        return {"id": image_id, "weight": self.weight(images[image_id])}

    @abstractmethod
    def choose(self, images: Infos) -> str:
        """Return one of the image ids."""

    def weight(self, info: dict[str, Any]) -> float | None:
        """Return what speaks for a case, given its info: here how uncertain the model is."""
        return info.get("uncertainty")


class Highest(Order):
    """Hand out the case first whose measure is highest; cases without a measure come last, by name.

    Args:
        measure: key of the scan's info, see ``crossmoda.self_training.review_order``.
        description: for people.
    """

    def __init__(self, measure: str, description: str) -> None:
        super().__init__(description)
        self.measure = measure

    def choose(self, images: Infos) -> str:
        """Return the id with the highest measure, the first by name among equals."""
        values = {image_id: info.get(self.measure) for image_id, info in images.items()}
        return min(images, key=lambda name: (values[name] is None, -float(values[name] or 0), name))

    def weight(self, info: dict[str, Any]) -> float | None:
        """Return the measure."""
        value = info.get(self.measure)
        return None if value is None else float(value)


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
