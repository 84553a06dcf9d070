"""bfloat16 mixed precision on CPU and GPU alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from crossmoda.errors import require_flag


class AutocastInferer(Inferer):
    """Run another inferer under bfloat16 autocast and return its output in float32.

    MONAI's engines offer autocast on CUDA alone, with float16 and a loss scaler. bfloat16 has float32's exponent
    range, so it needs no scaler, and CPUs with AVX-512 BF16 or AMX gain from it as GPUs do.

    Args:
        inferer: what to run; a plain forward call by default.
        enabled: False leaves everything in float32.

    Raises:
        CrossmodaError: ``enabled`` is text, as MONAI's command line makes of "true".
    """

    def __init__(self, inferer: Inferer | None = None, enabled: bool = True) -> None:
        super().__init__()
        require_flag("amp", enabled)
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return ``inferer(inputs, network)``; tensors in lists, tuples and dictionaries are float32 as well."""
        kept = torch.is_grad_enabled()  # casts of weights; without gradients each is used once a call
        dtype = (
            torch.bfloat16 if self.enabled else None
        )  # a type that is named counts for contexts within, enabled or not
        with torch.autocast(inputs.device.type, dtype=dtype, enabled=self.enabled, cache_enabled=kept):
            return _to_float32(self.inferer(inputs, network, *args, **kwargs))


def _to_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, (list, tuple)):
        return type(value)(_to_float32(item) for item in value)
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    return value
