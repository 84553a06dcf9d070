import math

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss
from monai.networks.nets import DynUNet
from monai.networks.nets.mednext import create_mednext

from crossmoda.segmentation.losses import (
    DiceAndWeightedCrossEntropy,
    SoftDice,
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


def with_trust(label, trust):
    """Return targets (B, 2, ...) of labels (B, 1, ...) with a trust in 255ths for each voxel."""
    return torch.cat([label, torch.tensor(trust, dtype=label.dtype).reshape(label.shape)], dim=1)


def random_volume(voxels=6, classes=3, cases=1):
    torch.manual_seed(0)
    label = torch.randint(0, classes, (cases, 1, 1, 1, voxels), dtype=torch.uint8)
    return torch.randn(cases, classes, 1, 1, voxels), label


def test_dice_of_all_classes_by_hand():
    # Three classes, probability 1/3 everywhere, in two cases that count as one volume: six voxels of background, two of
    # the first structure, none of the second. Dice 2 * 2 / (6 + 8/3), 2 * (2/3) / (2 + 8/3) and 0.
    label = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 0]], dtype=torch.uint8).reshape(2, 1, 1, 1, 4)
    loss = DiceAndWeightedCrossEntropy([1.0, 1.0, 1.0], 0.0, batch=True, include_background=True)
    expected = 1 - (4 / (26 / 3) + (4 / 3) / (14 / 3) + 0) / 3
    assert loss(torch.zeros(2, 3, 1, 1, 4), label).item() == pytest.approx(expected, abs=1e-4)
    assert loss(torch.zeros(2, 3, 1, 1, 4), with_trust(label, [255] * 8)).item() == pytest.approx(expected, abs=1e-4)


def test_the_background_s_dice_leads_away_from_calling_everything_a_rare_structure():
    label = torch.zeros(1, 1, 1, 1, 1000, dtype=torch.uint8)
    label[..., 0] = 2
    slopes = {}
    for include_background in (False, True):
        logits = torch.zeros(1, 3, 1, 1, 1000)
        logits[:, 2] = 4  # 96 % of the second structure everywhere
        logits.requires_grad_()
        DiceAndWeightedCrossEntropy([1.0] * 3, 0.0, include_background=include_background)(logits, label).backward()
        slopes[include_background] = float(logits.grad[0, 0, ..., 1:].sum())
    assert slopes[True] < 20 * slopes[False] < 0


@pytest.mark.parametrize("settings", [{}, {"batch": True}, {"cross_entropy_weight": 0.0}, {"include_background": True}])
def test_a_voxel_that_is_not_trusted_might_as_well_not_be_there(settings):
    logits, label = random_volume(6)
    loss = DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0], **settings)
    ignored = loss(logits, with_trust(label, [255, 255, 0, 255, 0, 255]))
    kept = [0, 1, 3, 5]
    assert ignored.item() == pytest.approx(loss(logits[..., kept], label[..., kept]).item(), abs=1e-6)


def test_full_trust_is_the_plain_loss():
    logits, label = random_volume(6, cases=2)
    for batch in (False, True):
        loss = DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0], batch=batch)
        assert loss(logits, with_trust(label, [255] * 12)).item() == pytest.approx(loss(logits, label).item(), abs=1e-6)


def test_a_voxel_trusted_by_a_third_counts_as_a_third_of_one():
    logits, label = random_volume(4)
    loss = DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0])
    thirds = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]  # voxels 0 to 2 three times, voxel 3 once
    graded = loss(logits, with_trust(label, [255, 255, 255, 85]))
    assert graded.item() == pytest.approx(loss(logits[..., thirds], label[..., thirds]).item(), abs=1e-4)


def test_no_gradient_reaches_a_voxel_that_is_not_trusted():
    logits, label = random_volume(4)
    logits.requires_grad_()
    DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0])(logits, with_trust(label, [255, 0, 255, 255])).backward()
    assert logits.grad[..., 1].abs().max() == 0
    assert logits.grad[..., 0].abs().max() > 0


def test_a_volume_of_which_no_voxel_is_trusted_costs_nothing():
    logits, label = random_volume(4)
    logits.requires_grad_()
    loss = DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0])(logits, with_trust(label, [0] * 4))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_trust_is_carried_to_coarser_heads():
    # The coarse voxel takes fine voxel 1 (nearest-exact), which is not trusted: only the fine head is charged.
    logits, label = random_volume(2)
    inner = DiceAndWeightedCrossEntropy([1.0, 1.0, 1.0])
    target = with_trust(label, [255, 0])
    deep = DeepSupervisionLoss(inner)([logits, torch.randn(1, 3, 1, 1, 1)], target)
    assert deep.item() == pytest.approx(inner(logits, target).item(), abs=1e-6)


def test_the_dice_loss_alone_is_monai_s():
    logits, label = random_volume(6, cases=2)
    for batch in (False, True):
        expected = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=batch)(logits, label)
        assert DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0], 0.0, batch=batch)(logits, label).item() == expected.item()


def test_card_c_s_cross_entropy_is_divided_by_the_number_of_voxels():
    # (1 * log 2 + 9 * log 4) / 2 = 9.5 log 2, 20 times; Dice as above.
    logits = logits_of([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    label = torch.tensor([0, 2]).reshape(1, 1, 1, 1, 2)
    loss = DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0], 20.0, per_voxel=True)(logits, label)
    assert loss.item() == pytest.approx((1 + 2 / 3) / 2 + 20 * 9.5 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("trust", [False, True])
def test_what_is_found_where_a_structure_is_absent_costs_in_proportion_to_the_smoothing(trust: bool) -> None:
    logits = torch.zeros(1, 2, 10, 10, 10)
    logits[:, 0] = 50.0
    logits[0, 1, :3, :, 0] = 100.0  # 30 voxels taken for the structure
    label = torch.zeros(1, 1, 10, 10, 10)
    if trust:
        label = torch.cat([label, torch.full_like(label, 255.0)], dim=1)
    assert SoftDice(smoothing=100.0)(logits, label).item() == pytest.approx(30 / 130, abs=1e-5)
    assert SoftDice()(logits, label).item() == pytest.approx(1, abs=1e-5)


def test_a_batch_s_dice_sums_over_its_cases():
    # Probability 1/2 everywhere, one voxel of foreground in four: 2 * 1/2 / (4/2 + 1) = 1/3, entropy log 2.
    target = target_of([[0, 1], [0, 0]], [1.0, 1.0])
    loss = WeightedCaseLoss(DiceAndWeightedCrossEntropy([1.0, 1.0], batch=True), batch_wise=True)
    assert loss(torch.zeros(2, 2, 1, 1, 2), target).item() == pytest.approx(2 / 3 + math.log(2), abs=1e-4)


def test_a_case_s_weight_scales_its_voxels_in_a_batch_s_dice():
    # Weights 1/2 and 1 have mean 3/4, so voxels weigh 2/3 and 4/3: Dice = 2 * (2/3)/2 / ((4/3 + 8/3)/2 + 2/3) = 1/4.
    # The entropy is log 2 whatever the weights; all is scaled by the mean, 3/4.
    target = target_of([[0, 1], [0, 0]], [0.5, 1.0])
    loss = WeightedCaseLoss(DiceAndWeightedCrossEntropy([1.0, 1.0], batch=True), batch_wise=True)
    expected = 0.75 * (3 / 4 + math.log(2))
    assert loss(torch.zeros(2, 2, 1, 1, 2), target).item() == pytest.approx(expected, abs=1e-4)


def test_a_light_batch_stays_light_and_one_of_weight_zero_is_silent():
    logits, label = random_volume(4, cases=2)
    loss = WeightedCaseLoss(DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0], batch=True, per_voxel=True), batch_wise=True)
    full, half, none = (loss(logits, WeightedTarget(label, torch.full((2,), w))).item() for w in (1.0, 0.5, 0.0))
    assert half == pytest.approx(full / 2)
    assert none == 0


def test_bfloat16_logits_cost_what_the_same_numbers_cost_in_float32():
    logits, label = random_volume(4096)
    label[..., 100:] = 0
    coarse = logits.bfloat16()
    for loss in (WeightedCaseLoss(dice_ce()), WeightedCaseLoss(DiceAndWeightedCrossEntropy([1.0, 3.0, 9.0], 0.0))):
        target = WeightedTarget(label, torch.ones(1), torch.tensor([[0, 1, 0]]))
        assert loss(coarse, target).item() == loss(coarse.float(), target).item()
