"""Tests of teaching tissues beside structures: the loss, and what is left of the network for deployment."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet
from torch.nn import functional as F

from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.losses import WeightedTarget
from crossmoda.segmentation.tissue_teaching import (
    UNKNOWN_TISSUE,
    DeployedPart,
    LossWithTissues,
    TaughtNetwork,
    TaughtTarget,
    begin_taught_with,
    prepare_taught_batch,
)


def network(channels: int) -> DynUNet:
    """Return a small deeply supervised network."""
    torch.manual_seed(channels)
    return DynUNet(
        3, 1, channels, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 6, 8], deep_supervision=True, deep_supr_num=1
    )


def test_training_shows_all_channels_and_prediction_those_of_the_structures() -> None:
    taught = TaughtNetwork(network(9), 3)
    image = torch.randn(2, 1, 16, 16, 8)
    assert taught.train()(image).shape == (2, 2, 9, 16, 16, 8)
    with torch.no_grad():
        assert taught.eval()(image).shape == (2, 3, 16, 16, 8)


def test_the_deployed_part_predicts_what_the_taught_network_does(tmp_path: Path) -> None:
    taught, plain = TaughtNetwork(network(9), 3), network(3)
    save_weights(DeployedPart(taught, plain), tmp_path / "model.pt")
    bundle = network(3)
    bundle.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    image = torch.randn(1, 1, 16, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(bundle.eval()(image), taught.eval()(image))


def test_a_taught_network_begins_with_deployed_weights(tmp_path: Path) -> None:
    source = network(3)
    save_weights(source, tmp_path / "model.pt", {"structures": ["vs", "cochlea"]})
    taught = TaughtNetwork(network(9), 3)
    begin_taught_with(taught, network(3), tmp_path / "model.pt", ["vs", "cochlea"])
    image = torch.randn(1, 1, 16, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(taught.eval()(image), source.eval()(image))
    before = copy.deepcopy(taught.state_dict())
    begin_taught_with(taught, network(3), None, ["vs", "cochlea"])
    assert all(torch.equal(value, before[name]) for name, value in taught.state_dict().items())
    with pytest.raises(CrossmodaError, match="structures"):
        begin_taught_with(taught, network(3), tmp_path / "model.pt", ["cochlea", "vs"])


@pytest.mark.parametrize("heads", [None, 2])
def test_the_loss_is_that_of_the_structures_and_of_the_finest_tissues(heads: int | None) -> None:
    torch.manual_seed(0)
    shape = (2, 5, 4, 4, 2) if heads is None else (2, heads, 5, 4, 4, 2)
    prediction = torch.randn(shape)
    label, tissue = torch.randint(3, (2, 1, 4, 4, 2)), torch.randint(2, (2, 4, 4, 2))
    target = TaughtTarget(WeightedTarget(label, torch.ones(2)), tissue)
    seen = []

    def structures_loss(logits: torch.Tensor, wanted: WeightedTarget) -> torch.Tensor:
        seen.append((tuple(logits.shape), wanted))
        return logits.new_tensor(7.0)

    value = LossWithTissues(structures_loss, 3, 0.5)(prediction, target)
    finest = prediction if heads is None else prediction[:, 0]
    assert value == pytest.approx(7 + 0.5 * float(F.cross_entropy(finest[:, 3:], tissue)))
    assert seen == [((2, 3, 4, 4, 2) if heads is None else (2, 2, 3, 4, 4, 2), target.structures)]


def test_voxels_of_unknown_tissue_are_charged_nothing() -> None:
    torch.manual_seed(0)
    prediction = torch.randn(2, 5, 4, 4, 2, requires_grad=True)
    tissue = torch.randint(2, (2, 4, 4, 2))
    tissue[0] = UNKNOWN_TISSUE
    target = TaughtTarget(WeightedTarget(torch.zeros(2, 1, 4, 4, 2), torch.ones(2)), tissue)
    loss = LossWithTissues(lambda logits, _: 0 * logits.sum(), 3, 1.0)
    known = F.cross_entropy(prediction[1:, 3:], tissue[1:])  # the mean over the second case alone
    assert float(loss(prediction, target).detach()) == pytest.approx(float(known.detach()))
    tissue[1] = UNKNOWN_TISSUE
    nothing = loss(prediction, target)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_a_batch_becomes_image_and_targets() -> None:
    batch = {"image": torch.randn(2, 1, 4, 4, 2), "label": torch.zeros(2, 1, 4, 4, 2, dtype=torch.uint8),
             "tissue": torch.full((2, 1, 4, 4, 2), 5, dtype=torch.uint8)}  # fmt: skip
    image, target = prepare_taught_batch(batch)
    assert image.shape == (2, 1, 4, 4, 2)
    assert target.tissue.shape == (2, 4, 4, 2)
    assert target.tissue.dtype == torch.int64
    assert target.structures.label.shape == (2, 1, 4, 4, 2)
