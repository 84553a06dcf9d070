"""A bundle's inference with the settings and the weights of a run."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import SaveImaged, SqueezeDimd
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask

from crossmoda.engines import load_weights
from crossmoda.engines.allocation import give_back_freed_memory
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.work import BundleUse

# What a request may say. All else that clients send along would mix with what MONAI's transforms put into the same
# dictionary: ``pred``, ``result``, ``image_meta_dict`` ...
READ = (
    *("model", "image", "device", "description", "logging"),
    *("result_extension", "result_dtype", "result_compress"),
)


class _Weights(BundleConstants):
    """Let the bundle's network find the run's weights instead of ``models/model.pt``."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights

    def model_pytorch(self) -> str:
        """Return the absolute path, which joined to the bundle's folder remains what it is."""
        return str(self.weights)


class RunBundle(BundleInferTask):
    """Run a bundle's ``inference.yaml`` on one scan; the result comes back on the scan's own grid.

    Its format, number type and compression are what the request asks for (``result_extension``, ``result_dtype``,
    ``result_compress``).

    Args:
        use: the bundle with the run's settings.
        weights: of the run.
        origin: where the settings come from, for messages.
        kind: what MONAI Label's clients show it as.
        served: keys that an overlay may change; what it adds, such as settings of its own, is taken over as well.

    Raises:
        CrossmodaError: the weights are missing, or the settings name a key that the bundle does not have.
    """

    extension = ".nii.gz"
    dtype = "uint8"

    def __init__(self, use: BundleUse, weights: Path, origin: str, kind: InferType, served: Collection[str]) -> None:
        self.use, self.served = use, served
        self.use.require_known_keys("inference", origin)
        self.weights = weights.resolve()
        if not self.weights.is_file():
            raise CrossmodaError(f"{self.weights}: no weights there, but current.json names them; run the loop again")
        super().__init__(
            path=str(Path(self.use.root).resolve()),
            conf={},
            const=_Weights(self.weights),
            type=kind,
            post_filter=[SaveImaged],
            extend_load_image=False,
            add_post_restore=False,  # the bundle's own postprocessing brings the prediction back to the scan's grid
            load_strict=True,
        )
        self._config.pop("model_filename", None)  # a run serves one model

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        """Return the bundle's configuration with the run's settings, and what its overlays say of the prediction."""
        parser = super()._load_bundle_config(path, config)
        merged = ConfigParser()
        merged.read_config([str(file) for file in self.use.files("inference")])
        taken = {key: value for key, value in merged.get().items() if key in self.served or key not in parser}
        parser.update({**taken, **self.use.overrides("inference"), "weights": str(self.weights)})
        return parser

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[Any, dict[str, Any]]:
        """Predict the request's image; see ``BasicInferTask``. What is not in ``READ`` and no option is left out."""
        known = {key: value for key, value in request.items() if key in READ or key in self._config}
        answer: tuple[Any, dict[str, Any]] = super().__call__(known, callbacks)
        return answer

    def run_pre_transforms(self, data: dict[str, Any], transforms: Any) -> dict[str, Any]:
        """Run the bundle's preprocessing on the scan alone: MONAI takes the request's ``image_path`` for metadata."""
        give_back_freed_memory()  # of the request before
        scan = super().run_pre_transforms({self.input_key: data[self.input_key]}, transforms)
        return {**data, **scan}

    def run_post_transforms(self, data: dict[str, Any], transforms: Any) -> dict[str, Any]:
        """Run the bundle's postprocessing, whose whole volumes need the memory that the network's windows have left."""
        give_back_freed_memory()
        return dict(super().run_post_transforms(data, transforms))

    def post_transforms(self, data: dict[str, Any] | None = None) -> list[Any]:
        """Return the bundle's postprocessing without saving, and drop the channel axis: (X, Y, Z) is left."""
        return [*super().post_transforms(data), SqueezeDimd(keys=self.output_label_key, dim=0)]

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the result as the request asks."""
        data["result_extension"] = data.get("result_extension") or self.extension
        data["result_dtype"] = data.get("result_dtype") or self.dtype
        return super().writer(data, extension, dtype)

    def _get_network(self, device: str, data: dict[str, Any] | None) -> torch.nn.Module:
        """Return the network on a device, loaded once for each state of the weights' file."""
        stamp = self.weights.stat().st_mtime_ns if self.weights.is_file() else None
        if device not in self._networks or self._networks[device][1] != stamp:
            network = load_weights(copy.deepcopy(self.network), self.weights)
            self._networks[device] = (network.to(device).eval(), stamp)
        return self._networks[device][0]
