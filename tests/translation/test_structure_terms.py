"""What keeps structures where the label says."""

from __future__ import annotations

import pytest
import torch

from crossmoda.translation.structure_terms import LabelEdgeLoss, StructureTerms, gradients


def square(first: int, size: int = 12) -> torch.Tensor:
    label = torch.zeros(1, 1, 32, 40)
    label[:, :, first : first + size, first : first + size] = 1
    return label


def blurred(label: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(label, 3, stride=1, padding=1)


def test_gradients_of_a_ramp() -> None:
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    slopes = gradients((2 * x - 3 * y)[None, None])
    assert torch.equal(slopes[0, 0, 1:-1, 1:-1], torch.full((3, 4), 2.0))
    assert torch.equal(slopes[0, 1, 1:-1, 1:-1], torch.full((3, 4), -3.0))
    assert torch.equal(slopes[0, 0, 0], torch.full((6,), 1.0))  # replicated border: half the step


def test_an_edge_along_the_label_costs_next_to_nothing_whatever_its_sign() -> None:
    edges, label = LabelEdgeLoss(visible=0.001), square(8)
    bright, dark = (edges(sign * blurred(label), label, 1).item() for sign in (1.0, -1.0))
    assert bright == pytest.approx(dark)
    assert bright < 0.15


def test_without_an_edge_it_costs_1() -> None:
    assert LabelEdgeLoss()(torch.zeros(1, 1, 32, 40), square(8), 1).item() == pytest.approx(1.0, abs=1e-5)


def test_edges_across_the_border_do_not_count() -> None:
    """A ramp along x has its edges along two sides of a square and across the other two: half."""
    ramp = torch.arange(32.0)[None, None, :, None].expand(1, 1, 32, 40)
    assert LabelEdgeLoss(visible=1e-4)(ramp, square(8, 16), 1).item() == pytest.approx(0.5, abs=0.02)


def test_an_edge_of_visible_strength_counts_half() -> None:
    ramp = 0.1 * torch.arange(32.0)[None, None, :, None].expand(1, 1, 32, 40)
    label = torch.zeros(1, 1, 32, 40)
    label[:, :, 16:] = 1  # one border, across the whole slice
    assert LabelEdgeLoss(visible=0.1)(ramp, label, 1).item() == pytest.approx(0.5, abs=1e-3)


def test_an_edge_beside_its_place_costs_more_the_farther_it_is() -> None:
    edges = LabelEdgeLoss(visible=0.05)
    costs = [edges(blurred(square(8 + shift)), square(8), 1).item() for shift in (0, 1, 2, 4)]
    assert costs == sorted(costs)
    assert costs[0] + 0.2 < costs[2]


def test_every_structure_counts_alike_and_an_absent_one_as_0() -> None:
    edges, flat = LabelEdgeLoss(), torch.zeros(1, 1, 32, 40)
    assert edges(flat, 2 * square(8), 2).item() == pytest.approx(0.5, abs=1e-5)
    assert edges(flat, torch.zeros(1, 1, 32, 40), 2).item() == 0


def test_gradient_descent_draws_the_missing_edge() -> None:
    label, image = square(8), torch.zeros(1, 1, 32, 40)
    image = (image + 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    edges = LabelEdgeLoss()
    before = edges(image, label, 1).item()
    optimizer = torch.optim.Adam([image], lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        edges(image, label, 1).backward()
        optimizer.step()
    assert edges(image, label, 1).item() < 0.4 < before


def test_a_weight_of_0_leaves_a_term_out() -> None:
    features, slices, label = torch.randn(1, 4, 32, 40), torch.zeros(1, 1, 32, 40), square(8)
    assert set(StructureTerms(4, 1, segmentation_weight=0.0)(features, slices, label)) == {"loss_structure_edges"}
    assert set(StructureTerms(4, 1, edge_weight=0.0)(features, slices, label)) == {"loss_structure_segmentation"}


def test_a_head_that_is_right_costs_less_than_one_that_is_wrong() -> None:
    label = square(8)
    terms = StructureTerms(1, 1, segmentation_weight=2.0, edge_weight=0.0)
    terms.head.weight.data.zero_()
    terms.head.weight.data[1, 0, 1, 1] = 1.0
    terms.head.bias.data.zero_()
    logits = 20 * (2 * label - 1)
    right = terms(logits, label, label)["loss_structure_segmentation"].item()
    wrong = terms(-logits, label, label)["loss_structure_segmentation"].item()
    assert right < 0.01
    assert wrong > 2.0


def test_of_a_slab_the_middle_slice_is_looked_at() -> None:
    slab = torch.cat([torch.zeros(1, 1, 32, 40), blurred(square(8)), torch.zeros(1, 1, 32, 40)], dim=1)
    terms = StructureTerms(4, 1, segmentation_weight=0.0)
    found = terms(torch.zeros(1, 4, 32, 40), slab, square(8))["loss_structure_edges"]
    torch.testing.assert_close(found, terms.edges(slab[:, 1:2], square(8), 1))
