"""Labels that know some structures alone, and structures that are trusted to different degrees."""

from math import log

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss

from crossmoda.segmentation.losses import (
    DiceAndWeightedCrossEntropy,
    WeightedCaseLoss,
    WeightedTarget,
    prepare_weighted_batch,
)
from crossmoda.segmentation.partial_labels import levels_of_trust, merge_channels, merge_labels

VS_ALONE = [0, 1, 0]  # of [vs, cochlea]
UNDIVIDED = [0, 2, 2, 3]  # of [intra, extra, cochlea]


def logits_of(*voxels):
    """Voxels' class probabilities as logits (1, C, 1, 1, voxels)."""
    return torch.tensor(voxels).log().T[None, :, None, None].contiguous()


def target_of(labels, groups, weights=None, case_weights=None):
    cases = len(labels)
    return WeightedTarget(
        torch.tensor(labels, dtype=torch.uint8).reshape(cases, 1, 1, 1, -1),
        torch.tensor(case_weights or [1.0] * cases),
        torch.tensor(groups),
        None if weights is None else torch.tensor(weights),
    )


def plain_loss(classes=3):
    return WeightedCaseLoss(DiceAndWeightedCrossEntropy([1.0] * classes))


def test_merged_logits_have_the_sum_of_the_probabilities():
    merged = merge_channels(logits_of([0.1, 0.2, 0.3, 0.4]), UNDIVIDED).softmax(dim=1).flatten()
    assert merged.tolist() == pytest.approx([0.1, 0.0, 0.5, 0.4], abs=1e-6)


def test_a_complete_annotation_leaves_logits_and_labels_as_they_are():
    logits, label = torch.rand(1, 3, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    assert merge_channels(logits, [0, 1, 2]) is logits
    assert merge_labels(label, [0, 1, 2]) is label


def test_labels_are_merged_and_trust_is_kept():
    label = torch.tensor([[0, 1, 2, 3], [255, 7, 0, 9]], dtype=torch.uint8).reshape(1, 2, 4, 1, 1)
    assert merge_labels(label, UNDIVIDED).reshape(2, 4).tolist() == [[0, 2, 2, 3], [255, 7, 0, 9]]


def test_an_unknown_cochlea_costs_what_the_formulas_say():
    # Background and cochlea together: .8 and .2 of voxel 0 (background), .4 and .6 of voxel 1 (VS).
    # Dice of VS: 2 * .6 / (.2 + .6 + 1) = 2/3; the cochlea's is free; the mean is over both structures.
    logits = logits_of([0.5, 0.2, 0.3], [0.1, 0.6, 0.3])
    loss = plain_loss()(logits, target_of([[0, 1]], [VS_ALONE]))
    assert loss.item() == pytest.approx((1 - 2 / 3) / 2 - (log(0.8) + log(0.6)) / 2, abs=1e-4)


def test_a_whole_tumour_trains_the_union_of_its_parts():
    # Parts together: .3 in voxel 0 (background), .7 in voxel 1 (VS, whose number is the extra-meatal part's, 2).
    # Dice: 2 * .7 / (.3 + .7 + 1) = .7, the intra-meatal channel is free, the absent cochlea costs 1.
    logits = logits_of([0.6, 0.1, 0.2, 0.1], [0.2, 0.4, 0.3, 0.1])
    loss = plain_loss(4)(logits, target_of([[0, 2]], [UNDIVIDED]))
    assert loss.item() == pytest.approx((0.3 + 1) / 3 - (log(0.6) + log(0.7)) / 2, abs=1e-4)


def test_finding_an_unknown_structure_in_the_background_is_free():
    target = target_of([[0, 1]], [VS_ALONE])
    losses = [
        plain_loss()(logits_of([0.79, 0.2, 0.01], [0.1, 0.6, 0.3]), target),
        plain_loss()(logits_of([0.01, 0.2, 0.79], [0.1, 0.6, 0.3]), target),
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)


def test_no_gradient_moves_probability_between_an_unknown_structure_and_the_background():
    # Adding e * p_background to the cochlea's logit and taking e * p_cochlea from the background's keeps their sum.
    logits = logits_of([0.5, 0.2, 0.3], [0.1, 0.6, 0.3]).requires_grad_()
    plain_loss()(logits, target_of([[0, 1]], [VS_ALONE])).backward()
    background, _, cochlea = logits.detach().softmax(dim=1)[0]
    gradient = logits.grad[0]
    assert (background * gradient[2] - cochlea * gradient[0]).abs().max() < 1e-7
    assert gradient[1].abs().min() > 0.1  # the tumour is learnt


def test_no_gradient_moves_probability_between_the_parts_of_an_undivided_tumour():
    logits = logits_of([0.6, 0.1, 0.2, 0.1], [0.2, 0.4, 0.3, 0.1]).requires_grad_()
    plain_loss(4)(logits, target_of([[0, 2]], [UNDIVIDED])).backward()
    intra, extra = logits.detach().softmax(dim=1)[0, 1:3]
    assert (intra * logits.grad[0, 2] - extra * logits.grad[0, 1]).abs().max() < 1e-7
    assert logits.grad[0, 1].abs().min() > 0.01


def test_where_the_cochlea_is_known_the_same_prediction_is_charged():
    logits = logits_of([0.01, 0.2, 0.79], [0.1, 0.6, 0.3])
    unknown, known = (plain_loss()(logits, target_of([[0, 1]], [groups])) for groups in (VS_ALONE, [0, 1, 2]))
    assert known.item() > unknown.item() + 1


@pytest.mark.parametrize("batch_wise", [False, True])
def test_each_case_of_a_mixed_batch_is_charged_for_what_it_knows(batch_wise):
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 3, 1, 1, 4), [[0, 1, 0, 1], [0, 1, 2, 2], [0, 2, 2, 0]]
    groups, weights = [VS_ALONE, [0, 1, 2], [0, 0, 2]], [1.0, 0.5, 0.25]
    loss = WeightedCaseLoss(DiceAndWeightedCrossEntropy([1.0, 2.0, 3.0]), batch_wise)
    together = loss(logits, target_of(labels, groups, case_weights=weights))
    alone = [
        loss(logits[i : i + 1], target_of(labels[i : i + 1], groups[i : i + 1], case_weights=weights[i : i + 1]))
        for i in range(3)
    ]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), abs=1e-6)


def test_any_softmax_loss_of_monai_can_be_used():
    loss = WeightedCaseLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True))
    logits = logits_of([0.5, 0.2, 0.3], [0.1, 0.6, 0.3])
    expected = (1 - 2 / 3) / 2 - (log(0.8) + log(0.6)) / 2
    assert loss(logits, target_of([[0, 1]], [VS_ALONE])).item() == pytest.approx(expected, abs=1e-4)


def test_deeply_supervised_heads_of_several_resolutions_are_merged_each():
    # The coarse head has one voxel for two; nearest-exact takes voxel 1 of two, which is VS. Its weight is 1/2.
    fine, coarse = logits_of([0.5, 0.2, 0.3], [0.1, 0.6, 0.3]), logits_of([0.1, 0.6, 0.3])
    loss = WeightedCaseLoss(DeepSupervisionLoss(DiceAndWeightedCrossEntropy([1.0, 1.0, 1.0])))
    of_fine = (1 - 2 / 3) / 2 - (log(0.8) + log(0.6)) / 2
    of_coarse = (1 - 2 * 0.6 / 1.6) / 2 - log(0.6)
    result = loss([fine, coarse], target_of([[0, 1]], [VS_ALONE]))
    assert result.item() == pytest.approx(of_fine + of_coarse / 2, abs=1e-4)


def test_levels_of_trust_add_up_to_the_largest_weight():
    assert [(pytest.approx(share), groups) for share, groups in levels_of_trust([0, 1, 2], [1.0, 0.3])] == [
        (0.3, [0, 1, 2]),
        (0.7, VS_ALONE),
    ]
    assert list(levels_of_trust([0, 1, 2], [0.5, 0.5])) == [(0.5, [0, 1, 2])]
    assert list(levels_of_trust(UNDIVIDED, [0.9, 1.0, 0.0])) == [(1.0, [0, 2, 2, 0])]
    assert list(levels_of_trust([0, 1, 2], [0.0, 0.0])) == []


def test_a_structure_trusted_by_less_mixes_the_losses_of_knowing_it_and_not():
    logits = logits_of([0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6])
    both, tumour = (plain_loss()(logits, target_of([[0, 1, 2]], [g])).item() for g in ([0, 1, 2], VS_ALONE))
    mixed = plain_loss()(logits, target_of([[0, 1, 2]], [[0, 1, 2]], [[1.0, 0.3]])).item()
    assert mixed == pytest.approx(0.3 * both + 0.7 * tumour, abs=1e-5)


def test_equal_weights_of_all_structures_scale_the_case():
    logits = logits_of([0.5, 0.2, 0.3], [0.1, 0.6, 0.3])
    full = plain_loss()(logits, target_of([[0, 1]], [[0, 1, 2]])).item()
    assert plain_loss()(logits, target_of([[0, 1]], [[0, 1, 2]], [[0.4, 0.4]])).item() == pytest.approx(0.4 * full)


def test_a_case_of_which_nothing_is_trusted_has_no_gradient():
    logits = torch.randn(1, 3, 1, 1, 2, requires_grad=True)
    loss = plain_loss()(logits, target_of([[0, 1]], [[0, 1, 2]], [[0.0, 0.0]]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_what_annotations_know_comes_from_the_batch():
    batch = {"image": torch.rand(2, 1, 3, 4, 5), "label": torch.zeros(2, 1, 3, 4, 5)}
    batch |= {"channel_group": torch.tensor([VS_ALONE, [0, 1, 2]]), "structure_weight": torch.ones(2, 2)}
    target = prepare_weighted_batch(batch, "cpu")[1]
    assert target.channel_group.tolist() == [VS_ALONE, [0, 1, 2]]
    assert target.structure_weight.shape == (2, 2)
