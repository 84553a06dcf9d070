"""Label many scans at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.datastore import ReviewDatastore

Answer = dict[str, Any]

logger = logging.getLogger(__name__)
logging.getLogger(BatchInferTask.__module__).setLevel(logging.WARNING)  # it would tell the names of scans


class Batch(BatchInferTask):
    """Label the scans that can be used, one after another; a scan that fails does not stop the rest.

    MONAI Label's own needs GPUs unless ``multi_gpu`` is off, and lets several threads share one task, whose settings
    each request changes.
    """

    def get_images(self, request: Answer, datastore: ReviewDatastore) -> list[str]:
        """Return the ids of the scans that the request asks for, without those that cannot be read."""
        return [image for image in super().get_images(request, datastore) if datastore.quarantine(image) is None]

    def __call__(self, request: Answer, datastore: ReviewDatastore, infer: Callable[..., Answer]) -> Answer:
        """Return image id -> what ``infer`` answered, or ``{"error": reason}``."""

        def labelled(one: Answer, store: ReviewDatastore) -> Answer:
            try:
                return infer(one, store)
            except HTTPException as error:
                return {"error": str(error.detail)}

        several = bool(request.get("multi_gpu", True)) and torch.cuda.is_available()
        answers: Answer = super().__call__({**request, "multi_gpu": several, "max_workers": 1}, datastore, labelled)
        failed = sum("error" in answer for answer in answers.values())
        logger.info("%d scans labelled, %d failed", len(answers) - failed, failed)
        return answers
