"""Loss values derived by hand."""

from __future__ import annotations

import pytest
import torch

from crossmoda.translation.losses import CycleGANLoss, LeastSquaresGANLoss

SCORES = torch.tensor([[[[-1.0, 0.0], [0.5, 2.0]]]])


def test_generator_wants_its_slices_scored_as_real() -> None:
    # ((-2)^2 + (-1)^2 + (-0.5)^2 + 1^2) / 4
    assert LeastSquaresGANLoss().generator(SCORES).item() == pytest.approx(6.25 / 4)


def test_discriminator_loss_is_half_the_sum_of_both_squares() -> None:
    # real as above, fake (1 + 0 + 0.25 + 4) / 4
    loss = LeastSquaresGANLoss().discriminator(SCORES, SCORES)
    assert loss.item() == pytest.approx(0.5 * (6.25 / 4 + 5.25 / 4))


def test_terms_are_weighted_one_ten_five() -> None:
    loss = CycleGANLoss()
    ones, quarters = torch.ones(1, 1, 2, 3), torch.full((1, 1, 2, 3), 0.25)
    assert loss.adversarial(SCORES).item() == pytest.approx(6.25 / 4)
    assert loss.cycle(quarters, ones).item() == pytest.approx(10 * 0.75)
    assert loss.identity(quarters, -ones).item() == pytest.approx(5 * 1.25)


def test_losses_are_computed_in_float32() -> None:
    loss = CycleGANLoss()
    half = SCORES.to(torch.bfloat16)
    assert loss.adversarial(half).dtype == loss.cycle(half, half).dtype == torch.float32
