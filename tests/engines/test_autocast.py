"""bfloat16 where it is wanted, float32 elsewhere."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import Inferer

from crossmoda.engines import AutocastInferer
from crossmoda.errors import CrossmodaError


class Product(Inferer):
    """Multiply matrices: 1 and 2^-10 add up to 1 in bfloat16, whose eight bits of precision cannot tell them apart."""

    def __call__(self, inputs: torch.Tensor, network: object) -> torch.Tensor:
        return inputs @ torch.ones(2, 1)


@pytest.mark.parametrize(("enabled", "expected"), [(True, 1.0), (False, 1 + 2**-10)])
def test_sums_have_the_precision_asked_for_and_come_back_in_float32(enabled: bool, expected: float) -> None:
    found = AutocastInferer(Product(), enabled)(torch.tensor([[1.0, 2**-10]]), None)
    assert found.dtype == torch.float32
    assert found.item() == expected


def test_text_is_refused_since_it_would_count_as_true() -> None:
    with pytest.raises(CrossmodaError, match="amp is 'false'; write True or False on the command line"):
        AutocastInferer(enabled="false")  # type: ignore[arg-type]
