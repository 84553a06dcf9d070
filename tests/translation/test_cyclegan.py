"""CycleGAN's step against a plain computation, and what happens around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crossmoda.engines import AutocastInferer, NonFiniteLossStop
from crossmoda.errors import CrossmodaError
from crossmoda.translation.cyclegan import CycleGANTrainer
from crossmoda.translation.losses import CycleGANLoss
from crossmoda.translation.plain import cyclegan_step
from crossmoda.translation.trainer import frozen, headline_losses

Factory = Callable[..., CycleGANTrainer]


def slices(seed: int) -> torch.Tensor:
    return torch.rand(2, 1, 32, 40, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pairs(count: int) -> list[dict[str, Any]]:
    cases = {"source": {"case": "ldn_1"}, "target": {"case": "etz_9"}}
    return [{"source": slices(i)[0], "target": slices(50 + i)[0], "cases": cases} for i in range(count)]


class CastsOfWeights(TorchDispatchMode):
    """Count the casts of a network's weight matrices to bfloat16; ``each`` is how many matrices it has."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.places = {weights.data_ptr() for weights in network.parameters() if weights.ndim == 4}
        self.each, self.count = len(self.places), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.places:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_step_equals_the_plain_computation(trainer_factory: Factory) -> None:
    ours, plain = trainer_factory(), trainer_factory()
    expected = cyclegan_step(plain, slices(1), slices(2))
    losses, _ = ours.update(slices(1), slices(2))
    total = losses.pop("loss")
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        total, torch.stack([expected[name] for name in list(expected)[:6]]).sum(), rtol=1e-4, atol=1e-5
    )


def test_gradients_equal_those_of_the_plain_computation(trainer_factory: Factory) -> None:
    ours, plain = trainer_factory(), trainer_factory()
    cyclegan_step(plain, slices(1), slices(2))
    ours.update(slices(1), slices(2))
    for name in ("network", "return_network", "target_discriminator", "source_discriminator"):
        wanted = dict(getattr(plain, name).named_parameters())
        for key, weights in getattr(ours, name).named_parameters():
            torch.testing.assert_close(weights.grad, wanted[key].grad, rtol=1e-3, atol=1e-4)


def test_every_network_learns_in_one_step(trainer_factory: Factory) -> None:
    trainer, fresh = trainer_factory(), trainer_factory()
    trainer.update(slices(1), slices(2))
    for name in ("network", "return_network", "target_discriminator", "source_discriminator"):
        before, after = getattr(fresh, name).state_dict(), getattr(trainer, name).state_dict()
        assert any(not torch.equal(before[key], after[key]) for key in before), name
        assert all(weights.requires_grad for weights in getattr(trainer, name).parameters())


def test_without_identity_weight_the_identity_is_not_computed(trainer_factory: Factory) -> None:
    trainer = trainer_factory(loss_function=CycleGANLoss(identity_weight=0.0))
    losses, _ = trainer.update(slices(1), slices(2))
    assert not any("identity" in name for name in losses)


def test_shared_casts_cast_each_weight_once_per_update_and_see_every_optimizer_step(trainer_factory: Factory) -> None:
    def learned(share_casts: bool) -> tuple[CastsOfWeights, list[dict[str, torch.Tensor]]]:
        trainer = trainer_factory(inferer=AutocastInferer(enabled=True), share_casts=share_casts)
        with CastsOfWeights(trainer.network) as casts:
            return casts, [trainer.learn(slices(1), slices(2))[0] for _ in range(3)]

    (apart, wanted), (shared, found) = learned(False), learned(True)
    assert apart.count == 3 * 2 * shared.each  # each generator translates slices, then slices that were translated
    assert shared.count == 3 * shared.each
    for exact, rough in zip(
        wanted, found, strict=True
    ):  # a cast kept for the next step would leave losses as they were
        for name, value in exact.items():
            torch.testing.assert_close(rough[name], value, rtol=0.02, atol=0.01)
    assert any(abs(float((found[2][name] - found[0][name]).detach())) > 0.05 for name in found[0])


def test_gradients_take_no_memory_between_updates(trainer_factory: Factory) -> None:
    trainer = trainer_factory()
    trainer.learn(slices(1), slices(2))
    networks = (trainer.network, trainer.return_network, trainer.target_discriminator, trainer.source_discriminator)
    assert all(weights.grad is None for network in networks for weights in network.parameters())


def test_autocast_gives_nearly_the_losses_of_float32(trainer_factory: Factory) -> None:
    exact, _ = trainer_factory().update(slices(1), slices(2))
    rough, translated = trainer_factory(inferer=AutocastInferer(enabled=True)).update(slices(1), slices(2))
    assert translated.dtype == torch.float32
    for name, value in exact.items():
        torch.testing.assert_close(rough[name], value, rtol=0.05, atol=0.02)


def fail_while_frozen(layer: torch.nn.Module) -> None:
    with frozen([layer]):
        raise RuntimeError("stop")


def test_freezing_lets_gradients_through_and_ends_even_after_an_error() -> None:
    layer = torch.nn.Linear(2, 1)
    value = torch.ones(1, 2, requires_grad=True)
    with frozen([layer]):
        layer(value).sum().backward()
    with pytest.raises(RuntimeError, match="stop"):
        fail_while_frozen(layer)
    assert value.grad is not None
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


def test_output_has_losses_as_numbers_and_slices_of_the_batch(trainer_factory: Factory) -> None:
    trainer = trainer_factory(pairs(2))
    trainer.run()
    output = trainer.state.output
    assert {name for name, value in output.items() if isinstance(value, float)} == {k for k in output if "loss" in k}
    assert output["pred"].shape == output["source"].shape == (2, 1, 32, 40)
    assert not output["pred"].requires_grad
    assert headline_losses(output)["generators"] == output["loss"]


def test_a_loss_that_is_not_a_number_stops_training_and_names_both_cases(trainer_factory: Factory) -> None:
    data = pairs(2)
    data[1]["target"] = torch.full_like(data[1]["target"], float("nan"))
    trainer = trainer_factory(data, train_handlers=[NonFiniteLossStop()])
    with pytest.raises(CrossmodaError, match=r"not finite at iteration 1, cases ldn_1, ldn_1, etz_9, etz_9"):
        trainer.run()


def test_constant_slices_give_finite_losses(trainer_factory: Factory) -> None:
    losses, _ = trainer_factory().update(torch.full((2, 1, 32, 40), -1.0), torch.full((2, 1, 32, 40), 0.3))
    assert all(torch.isfinite(value) for value in losses.values())


def test_training_brings_a_darkening_translator_to_darken(trainer_factory: Factory) -> None:
    # the target modality is the source's negative at -0.5; a few steps must move the translation towards that mean
    trainer = trainer_factory(loss_function=CycleGANLoss(cycle_weight=1.0, identity_weight=5.0))
    target = slices(3) * 0.2 - 0.5
    before = trainer.network(slices(1)).mean().item()
    for _ in range(40):
        trainer.update(slices(1) * 0.2 + 0.5, target)
    after = trainer.network(slices(1) * 0.2 + 0.5).mean().item()
    assert after < before - 0.1
