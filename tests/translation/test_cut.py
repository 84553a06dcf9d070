"""A step of CUT, FastCUT and QS-Attn against the plain computation, and what happens around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from crossmoda.engines import AutocastInferer, NonFiniteLossStop
from crossmoda.errors import CrossmodaError
from crossmoda.translation.cut import CUTTrainer
from crossmoda.translation.discriminators import PatchGAN
from crossmoda.translation.generators import ResNetGenerator
from crossmoda.translation.losses import CUTLoss, PatchNCELoss
from crossmoda.translation.patch_samplers import PatchChoice, PatchProjector, RandomPatches, attended
from crossmoda.translation.plain import cut_step
from crossmoda.translation.structure_terms import StructureTerms

LAYERS = [0, 4, 8, 12]


def slices(seed: int) -> torch.Tensor:
    return torch.rand(2, 1, 32, 40, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def make_trainer(
    data: list[Any] | None = None,
    choices: PatchChoice | list[PatchChoice] | None = None,
    sites: int = 0,
    **options: Any,
) -> CUTTrainer:
    """Return a trainer with freshly drawn weights of seed 0; by default every pixel is a patch, so none is drawn."""
    torch.manual_seed(0)
    generator = ResNetGenerator(ngf=4, n_blocks=1, antialias=True, initialisation="he", sites=sites)
    discriminator = PatchGAN(ndf=4, antialias=True, sites=sites)
    projector = PatchProjector(
        generator.feature_channels(LAYERS), choices or RandomPatches(10_000), width=64, initialisation="he"
    )
    # plain gradient descent: Adam's first step blows rounding errors up to its whole learning rate
    optimizers = [torch.optim.SGD(n.parameters(), lr=1e-3) for n in (generator, discriminator, projector)]
    loss = options.pop("loss_function", CUTLoss())
    loader = DataLoader(data or [0], batch_size=2)
    networks = (generator, discriminator, projector)
    training = {"device": "cpu", "max_epochs": 1, "train_data_loader": loader, **options}
    return CUTTrainer(*networks, *optimizers, loss, nce_layers=LAYERS, **training)


EVERY_PIXEL = RandomPatches(10_000)
ATTENTIVE = attended("global", 10_000, len(LAYERS), 2)


@pytest.mark.parametrize("choices", [EVERY_PIXEL, ATTENTIVE])
@pytest.mark.parametrize("identity", [True, False])
def test_a_step_equals_the_plain_computation(choices: Any, identity: bool) -> None:
    ours, plain = (make_trainer(choices=choices, loss_function=CUTLoss(identity=identity)) for _ in range(2))
    expected = cut_step(plain, slices(1), slices(2))
    losses, _ = ours.update(slices(1), slices(2))
    total = losses.pop("loss")
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    parts = [value for name, value in expected.items() if "discriminator" not in name]
    torch.testing.assert_close(total, torch.stack(parts).sum(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Gradients of unit vectors that are short before they are normalised are too rough in float32 to be compared."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
def test_gradients_equal_those_of_the_plain_computation() -> None:
    ours, plain = make_trainer(), make_trainer()
    cut_step(plain, slices(1).double(), slices(2).double())
    ours.update(slices(1).double(), slices(2).double())
    for name in ("network", "projector"):
        wanted = dict(getattr(plain, name).named_parameters())
        for key, weights in getattr(ours, name).named_parameters():
            torch.testing.assert_close(weights.grad, wanted[key].grad, rtol=1e-3, atol=1e-3)


def test_the_contrast_of_known_patches() -> None:
    """Two patches at right angles: the right logit 1 / T, the wrong one 0."""
    patches = torch.eye(2)[None]
    expected = torch.log1p(torch.exp(torch.tensor(-1 / 0.5)))
    torch.testing.assert_close(PatchNCELoss(temperature=0.5)(patches, patches), expected)
    mistaken = torch.log1p(torch.exp(torch.tensor(1 / 0.5)))
    torch.testing.assert_close(PatchNCELoss(temperature=0.5)(patches, patches.flip(1)), mistaken)


def test_keys_get_no_gradient() -> None:
    queries, keys = (torch.randn(1, 4, 3, requires_grad=True) for _ in range(2))
    PatchNCELoss()(queries, keys).backward()
    assert queries.grad is not None
    assert keys.grad is None


def test_every_network_learns_in_one_step() -> None:
    trainer, fresh = make_trainer(), make_trainer()
    trainer.update(slices(1), slices(2))
    for name in ("network", "discriminator", "projector"):
        before, after = getattr(fresh, name).state_dict(), getattr(trainer, name).state_dict()
        assert any(not torch.equal(before[key], after[key]) for key in before), name
        assert all(weights.requires_grad for weights in getattr(trainer, name).parameters())


def test_fastcut_leaves_out_the_identity_and_weighs_the_contrast_tenfold() -> None:
    fast = make_trainer(loss_function=CUTLoss(nce_weight=10.0, identity=False))
    losses, _ = fast.update(slices(1), slices(2))
    usual, _ = make_trainer().update(slices(1), slices(2))
    assert "loss_nce_target" not in losses
    torch.testing.assert_close(losses["loss_nce_source"], 20 * usual["loss_nce_source"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("identity", [True, False])
def test_a_mirrored_step_equals_the_plain_computation(identity: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"flip_equivariance": True, "loss_function": CUTLoss(identity=identity)}
    ours, plain, upright = (make_trainer(choices=EVERY_PIXEL, **options) for _ in range(3))
    source, target = slices(1), slices(2)
    expected = cut_step(plain, source, target, mirrored=True)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.1))
    losses, _ = ours.update(source, target)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.9))
    losses, _ = upright.update(source, target)
    assert (losses["loss_nce_source"] - expected["loss_nce_source"]).abs() > 1e-3  # mirroring is not without effect


def test_what_is_returned_of_a_mirrored_batch_is_mirrored_back(monkeypatch: pytest.MonkeyPatch) -> None:
    target = slices(2)[:1]
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.0))
    source = torch.full((1, 1, 32, 40), -1.0)
    source[:, :, :10] = 1.0  # the left side is bright
    trainer = make_trainer(flip_equivariance=True, loss_function=CUTLoss(identity=False))
    expected = trainer.network(source.flip(2)).flip(2)
    _, translated = trainer.update(source, target)
    torch.testing.assert_close(translated, expected)


@pytest.mark.parametrize("mode", ["global", "local", "local_global"])
def test_qs_attn_trains_in_every_mode(mode: str) -> None:
    trainer = make_trainer(choices=attended(mode, 16, len(LAYERS), 2))
    losses, _ = trainer.update(slices(1), slices(2))
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(weights.grad is not None for weights in trainer.projector.parameters())


def test_a_generator_of_sites_learns_the_style_of_the_targets_site_alone() -> None:
    trainer = make_trainer(sites=3)
    trainer.update(slices(1), slices(2), site=torch.tensor([2, 2]))
    styles = [module.styles.weight.grad for module in trainer.network.modules() if getattr(module, "styles", None)]
    assert styles
    assert all(not gradient[:2].any() and gradient[2].any() for gradient in styles)


def test_structure_terms_join_the_loss_and_train_their_head() -> None:
    terms = StructureTerms(feature_channels=4, structures=2)
    trainer = make_trainer(structure_terms=terms)
    label = torch.zeros(2, 1, 32, 40, dtype=torch.uint8)
    label[:, :, 8:20, 10:20] = 1
    losses, _ = trainer.update(slices(1), slices(2), label=label)
    names = {"loss_structure_segmentation", "loss_structure_edges"}
    assert names <= set(losses)
    assert terms.head.weight.grad is not None
    parts = [value for name, value in losses.items() if name not in ("loss", "loss_discriminator_target")]
    torch.testing.assert_close(losses["loss"], torch.stack(parts).sum())
    with pytest.raises(CrossmodaError, match="need labelled source slices"):
        trainer.update(slices(1), slices(2))


def test_autocast_gives_nearly_the_losses_of_float32() -> None:
    exact, _ = make_trainer().update(slices(1), slices(2))
    rough, translated = make_trainer(inferer=AutocastInferer(enabled=True)).update(slices(1), slices(2))
    assert translated.dtype == torch.float32
    for name, value in exact.items():
        torch.testing.assert_close(rough[name], value, rtol=0.05, atol=0.02)


def test_constant_slices_give_finite_losses() -> None:
    flat = torch.full((2, 1, 32, 40), -1.0), torch.full((2, 1, 32, 40), 0.3)
    for choices in (RandomPatches(), attended("global", 256, len(LAYERS), 2)):
        losses, _ = make_trainer(choices=choices).update(*flat)
        assert all(torch.isfinite(value) for value in losses.values())


def test_a_loss_that_is_not_a_number_stops_training_and_names_the_cases() -> None:
    cases = {"source": {"case": "ldn_1"}, "target": {"case": "etz_9"}}
    bad = torch.full((1, 32, 40), float("nan"))
    data = [{"source": slices(1)[0], "target": bad, "cases": cases}]
    with pytest.raises(CrossmodaError, match=r"not finite at iteration 1, cases ldn_1, etz_9"):
        make_trainer(data, train_handlers=[NonFiniteLossStop()]).run()


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(CrossmodaError, match="nce_temperature is 0; give a positive number"):
        CUTLoss(temperature=0)
