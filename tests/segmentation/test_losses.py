import math

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.networks.nets import DynUNet
from monai.networks.nets.mednext import create_mednext

from crossmoda.segmentation.losses import (
    DiceAndWeightedCrossEntropy,
    WeightedCaseLoss,
    WeightedTarget,
    prepare_weighted_batch,
)


def dice_ce():
    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)


def target_of(labels, weights):
    label = torch.tensor(labels, dtype=torch.uint8)
    return WeightedTarget(label.reshape(len(weights), 1, 1, 1, -1), torch.tensor(weights))


def test_two_voxels_without_knowledge_cost_what_the_formulas_say():
    # Two classes, all logits 0: probability 1/2 everywhere. One voxel of two is foreground.
    # Dice = 2 * 1/2 / (1 + 1) = 1/2, cross-entropy = log 2.
    loss = WeightedCaseLoss(dice_ce())(torch.zeros(1, 2, 1, 1, 2), target_of([[0, 1]], [1.0]))
    assert loss.item() == pytest.approx(0.5 + math.log(2), abs=1e-4)


def test_each_case_counts_by_its_weight_over_the_number_of_cases():
    logits = torch.zeros(2, 2, 1, 1, 2)
    logits[1, 0], logits[1, 1] = torch.tensor([9.0, -9.0]), torch.tensor([-9.0, 9.0])  # case 1 is right: loss 0
    weighted = WeightedCaseLoss(dice_ce())(logits, target_of([[0, 1], [0, 1]], [0.3, 1.0]))
    assert weighted.item() == pytest.approx(0.3 * (0.5 + math.log(2)) / 2, abs=1e-4)


def test_a_light_case_alone_in_its_batch_stays_light():
    logits = torch.zeros(1, 2, 1, 1, 2)
    full = WeightedCaseLoss(dice_ce())(logits, target_of([[0, 1]], [1.0]))
    half = WeightedCaseLoss(dice_ce())(logits, target_of([[0, 1]], [0.5]))
    assert half.item() == pytest.approx(full.item() / 2)


def test_a_case_of_weight_zero_has_no_gradient():
    logits = torch.zeros(2, 2, 1, 1, 2, requires_grad=True)
    WeightedCaseLoss(dice_ce())(logits, target_of([[0, 1], [0, 1]], [0.0, 1.0])).backward()
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1].abs().max() > 0


def test_deeply_supervised_outputs_count_one_and_a_half():
    outputs = torch.zeros(1, 2, 2, 1, 1, 2)  # two levels with the same logits: weights 1 and 1/2
    loss = WeightedCaseLoss(DeepSupervisionLoss(dice_ce()))(outputs, target_of([[0, 1]], [1.0]))
    assert loss.item() == pytest.approx(1.5 * (0.5 + math.log(2)), abs=1e-4)


def test_dynunet_trains_through_it():
    network = DynUNet(
        3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 2, 2], deep_supervision=True, deep_supr_num=1
    ).train()
    label = torch.randint(0, 3, (2, 1, 8, 12, 16))
    loss = WeightedCaseLoss(DeepSupervisionLoss(dice_ce()))
    loss(network(torch.rand(2, 1, 8, 12, 16)), WeightedTarget(label, torch.ones(2))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_outputs_of_their_own_sizes_count_one_half_quarter_and_weigh_by_case():
    # Logits are 0 on every level: Dice loss 1/2 wherever half the voxels are foreground, cross-entropy log 2. Of each
    # pair, MONAI keeps the second voxel, so the levels of labels 1, 1, 0, 0 and of 0, 0, 1, 1 are half foreground, too.
    levels = (torch.zeros(2, 2, 1, 1, 4), torch.zeros(2, 2, 1, 1, 2))
    target = target_of([[1, 1, 0, 0], [0, 0, 1, 1]], [0.3, 1.0])
    for outputs in (levels, list(levels)):
        loss = WeightedCaseLoss(DeepSupervisionLoss(dice_ce()))(outputs, target)
        assert loss.item() == pytest.approx((0.3 + 1.0) / 2 * 1.5 * (0.5 + math.log(2)), abs=1e-4)


def test_a_sequence_of_outputs_costs_what_the_same_stack_does():
    torch.manual_seed(0)
    stack = torch.randn(2, 3, 3, 4, 5, 6)
    target = WeightedTarget(torch.randint(0, 3, (2, 1, 4, 5, 6)), torch.tensor([0.5, 1.0]))
    loss = WeightedCaseLoss(DeepSupervisionLoss(dice_ce()))
    assert torch.equal(loss(stack, target), loss(stack.unbind(dim=1), target))


def test_each_case_meets_its_own_label_on_every_level():
    # Case 1 is right on both levels and costs nothing; case 0 has weight 0.
    label = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.uint8)
    fine = 20.0 * torch.stack([1 - label, label], dim=1)[:, :, None, None]
    target = WeightedTarget(label.reshape(2, 1, 1, 1, 4), torch.tensor([0.0, 1.0]))
    loss = WeightedCaseLoss(DeepSupervisionLoss(dice_ce()))
    assert loss([fine, fine[..., 1::2]], target).item() == pytest.approx(0, abs=1e-4)
    assert loss([fine, fine[..., 1::2].flip(0)], target).item() > 0.5


def test_mednext_trains_through_it():
    network = create_mednext("S", out_channels=3, deep_supervision=True).train()
    label = torch.randint(0, 3, (1, 1, 32, 16, 16), dtype=torch.uint8)
    outputs = network(torch.rand(1, 1, 32, 16, 16))
    assert [tuple(output.shape[2:]) for output in outputs] == [(32 >> i, 16 >> i, 16 >> i) for i in range(5)]
    WeightedCaseLoss(DeepSupervisionLoss(dice_ce()))(outputs, WeightedTarget(label, torch.ones(1))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_batch_without_weights_counts_fully():
    batch = {"image": torch.rand(2, 1, 3, 4, 5), "label": torch.zeros(2, 1, 3, 4, 5)}
    image, target = prepare_weighted_batch(batch, "cpu")
    assert type(image) is torch.Tensor
    assert target.weight.tolist() == [1.0, 1.0]


def test_weights_come_from_the_batch():
    batch = {"image": torch.rand(2, 1, 3, 4, 5), "label": torch.zeros(2, 1, 3, 4, 5)}
    batch["weight"] = torch.tensor([0.25, 1.0])
    assert prepare_weighted_batch(batch, "cpu")[1].weight.tolist() == [0.25, 1.0]


def logits_of(probabilities):
    """Voxels' class probabilities as logits (1, C, 1, 1, voxels)."""
    return torch.tensor(probabilities).log().T[None, :, None, None]


def test_without_knowledge_dice_and_cross_entropy_cost_what_the_formulas_say():
    # Three classes at 1/3 each, one voxel of background and one of class 2. Dice of the absent class 1 is 0, that of
    # class 2 is 2 * 1/3 / (2/3 + 1) = 0.4; every voxel's entropy is log 3, however the classes weigh.
    label = torch.tensor([0, 2]).reshape(1, 1, 1, 1, 2)
    for weights in ([1.0, 1.0, 1.0], [1.0, 5.0, 15.0]):
        loss = DiceAndWeightedCrossEntropy(weights, cross_entropy_weight=0.5)(torch.zeros(1, 3, 1, 1, 2), label)
        assert loss.item() == pytest.approx((1 + 0.6) / 2 + 0.5 * math.log(3), abs=1e-4)


def test_rare_classes_weigh_more_in_the_cross_entropy():
    # (1 * log 2 + 9 * log 4) / (1 + 9) = 1.9 log 2; Dice of class 2: 2 * 1/4 / (1/4 + 1/4 + 1) = 1/3, of class 1: 0.
    logits = logits_of([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    label = torch.tensor([0, 2]).reshape(1, 1, 1, 1, 2)
    loss = DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0])(logits, label)
    assert loss.item() == pytest.approx((1 + 2 / 3) / 2 + 1.9 * math.log(2), abs=1e-4)


def test_a_tumour_found_where_there_is_none_is_charged():
    # The Dice loss is flat where a structure is absent, so what pulls a false tumour back is the cross-entropy.
    label = torch.zeros(1, 1, 1, 1, 2, dtype=torch.long)
    logits = logits_of([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]]).requires_grad_()
    DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0])(logits, label).backward()
    assert logits.grad[0, 1, 0, 0, 0].item() == pytest.approx(0.8 / 2, abs=1e-3)
