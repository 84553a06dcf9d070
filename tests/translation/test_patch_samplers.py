"""Which patches CUT and QS-Attn compare."""

from __future__ import annotations

import pytest
import torch

from crossmoda.errors import CrossmodaError
from crossmoda.translation.patch_samplers import (
    GlobalAttentionPatches,
    LocalAttentionPatches,
    LocalGlobalAttentionPatches,
    PatchChoice,
    PatchProjector,
    RandomPatches,
    attended,
    positions_of,
)

ATTENTIVE = [GlobalAttentionPatches, LocalAttentionPatches, LocalGlobalAttentionPatches]


def maps(seed: int = 0, sides: tuple[int, int] = (8, 10)) -> torch.Tensor:
    return torch.randn(2, 6, *sides, generator=torch.Generator().manual_seed(seed))


def test_random_patches_are_distinct_and_the_same_for_source_and_translation() -> None:
    numbers = torch.arange(80.0).view(1, 1, 8, 10).expand(2, 1, 8, 10)
    route = RandomPatches(20).route(numbers)
    chosen = route(positions_of(numbers))
    assert chosen.shape == (2, 20, 1)
    assert len(set(chosen[0, :, 0].tolist())) == 20
    torch.testing.assert_close(route(positions_of(numbers + 100)), chosen + 100)


@pytest.mark.parametrize("choice", [RandomPatches, *ATTENTIVE])
def test_more_patches_than_pixels_are_all_pixels(choice: type[PatchChoice]) -> None:
    assert choice(256).route(maps())(positions_of(maps(1))).shape == (2, 80, 6)


def test_global_attention_mixes_all_positions_by_the_sources_selected_rows() -> None:
    source, other = positions_of(maps()), positions_of(maps(1))
    attention = torch.bmm(source, source.transpose(1, 2)).softmax(dim=2)
    entropy = -(attention * attention.log()).sum(dim=2)
    for image in range(2):
        rows = attention[image, entropy[image].argsort()[:5]]
        found = GlobalAttentionPatches(5).route(maps())(other)[image]
        torch.testing.assert_close(found, rows @ other[image], rtol=1e-4, atol=1e-5)


def test_a_position_unlike_all_others_is_selected_first() -> None:
    """It attends to itself alone, so its entropy is lowest."""
    flat = torch.full((1, 6, 8, 10), 0.1)
    flat[0, :, 3, 4] = torch.tensor([9.0, -9, 9, -9, 9, -9])
    for choice in ATTENTIVE:
        first = choice(2).route(flat)(positions_of(flat))[0, 0]
        torch.testing.assert_close(first, flat[0, :, 3, 4], rtol=1e-3, atol=1e-3)


def test_local_attention_does_not_see_beyond_seven_positions() -> None:
    source, other = maps(), torch.zeros(2, 6, 8, 10)
    other[:, :, 7, 9] = 1.0
    mixed = LocalAttentionPatches(80).route(source)(positions_of(other))
    everywhere = GlobalAttentionPatches(80).route(source)(positions_of(other))
    assert (mixed.abs().sum(dim=2) > 0).sum(dim=1).tolist() == [4 * 4, 4 * 4]  # positions whose window holds the corner
    assert (everywhere.abs().sum(dim=2) > 0).all()


def test_local_global_takes_the_queries_of_one_and_the_routes_of_the_other() -> None:
    from crossmoda.translation import attention

    source = positions_of(maps())
    chosen = attention.local_entropy(source, (8, 10)).argsort(dim=1)[:, :7]
    expected = torch.bmm(attention.global_rows(source, chosen), source)
    torch.testing.assert_close(LocalGlobalAttentionPatches(7).route(maps())(source), expected)


def test_gradients_pass_through_the_attention_but_not_through_the_choice() -> None:
    source = maps().requires_grad_()
    GlobalAttentionPatches(4).route(source)(positions_of(maps(1))).sum().backward()
    assert source.grad is not None
    assert source.grad.abs().sum() > 0


def projector(choices: PatchChoice | list[PatchChoice]) -> PatchProjector:
    torch.manual_seed(0)
    return PatchProjector([6, 3], choices, width=16)


def test_projected_patches_are_unit_vectors_of_the_wanted_width() -> None:
    features = [maps(), torch.randn(2, 3, 4, 4)]
    network = projector(RandomPatches(10))
    first, second = network(features, network.routes(features))
    assert (first.shape, second.shape) == ((2, 10, 16), (2, 10, 16))
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(2, 10))


def test_weights_of_the_projections_are_counted_by_hand() -> None:
    network = PatchProjector([1, 128, 256, 256, 256], RandomPatches())
    second = 256 * 256 + 256
    expected = (1 * 256 + 256) + (128 * 256 + 256) + 3 * (256 * 256 + 256) + 5 * second
    assert expected == 559_872
    assert sum(weights.numel() for weights in network.parameters()) == expected


def test_as_many_rules_as_layers_are_needed() -> None:
    with pytest.raises(CrossmodaError, match="3 rules for patches, but 2 feature layers"):
        projector([RandomPatches()] * 3)
    with pytest.raises(CrossmodaError, match="patches is 1"):
        RandomPatches(1)


def test_attention_is_for_the_deeper_layers() -> None:
    rules = attended("global", 256, 5, 2)
    assert [type(rule).__name__ for rule in rules] == ["RandomPatches"] * 3 + ["GlobalAttentionPatches"] * 2
    with pytest.raises(CrossmodaError, match="qs_mode 'all' is unknown; choose global, local, local_global"):
        attended("all", 256, 5, 2)
    with pytest.raises(CrossmodaError, match="attention_layers is 6; give 1 to 5"):
        attended("local", 256, 5, 6)
