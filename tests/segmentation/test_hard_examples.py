from math import log

import pytest
import torch
from monai.losses import DeepSupervisionLoss

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.hard_examples import HardExampleLoss
from crossmoda.segmentation.losses import DiceAndWeightedCrossEntropy, WeightedCaseLoss, WeightedTarget


def no_loss(prediction, target):
    return torch.zeros(())


def mining(structures=("vs", "cochlea"), loss=no_loss, **settings):
    return HardExampleLoss(loss, structures, **settings)


def cube(low=4, high=7, shape=(11, 12, 13)):
    """Return a label map (1, 1, X, Y, Z) with a VS of 3 voxels a side."""
    label = torch.zeros(1, 1, *shape, dtype=torch.uint8)
    label[..., low:high, low:high, low:high] = 1
    return label


def test_the_ring_is_the_dilated_tumour_without_the_tumour():
    weights = mining(negative_widths=[3]).voxel_weights(cube())
    expected = torch.zeros(11, 12, 13)
    expected[3:8, 3:8, 3:8] = 15.0
    expected[4:7, 4:7, 4:7] = 0.0
    assert torch.equal(weights[0, 0], expected)


def test_in_plane_the_ring_stays_in_the_tumour_s_slices():
    weights = mining(negative_widths=[3], in_plane=True).voxel_weights(cube())
    expected = torch.zeros(11, 12, 13)
    expected[3:8, 3:8, 4:7] = 15.0
    expected[4:7, 4:7, 4:7] = 0.0
    assert torch.equal(weights[0, 0], expected)


def test_the_rim_is_what_eroding_takes_from_the_tumour():
    weights = mining(negative_weight=0.0, positive_weight=2.0, positive_widths=[3]).voxel_weights(cube())
    expected = torch.zeros(11, 12, 13)
    expected[4:7, 4:7, 4:7] = 2.0
    expected[5, 5, 5] = 0.0
    assert torch.equal(weights[0, 0], expected)


def test_a_tumour_that_a_patch_cuts_is_not_eroded_there():
    weights = mining(negative_weight=0.0, positive_weight=1.0, positive_widths=[3]).voxel_weights(cube(low=0, high=3))
    assert weights[0, 0, 0, 0, 0] == 0
    assert weights[0, 0, 2, 0, 0] == 1


def test_the_parts_of_a_tumour_have_one_ring():
    label = cube()
    label[..., 5:, :, :] *= 2
    label[..., 0, 0, 0] = 3  # a cochlea has none
    parts = mining(["extra", "intra", "cochlea"], negative_widths=[5]).voxel_weights(label)
    assert torch.equal(parts, mining(negative_widths=[5]).voxel_weights(cube()))


def test_the_ring_costs_what_the_formula_says():
    # 27 tumour voxels in 11 * 12 * 13; a cube of 3 adds 125 - 27 = 98; without knowledge a voxel's entropy is log 3.
    loss = mining(negative_widths=[3])(torch.zeros(1, 3, 11, 12, 13), cube())
    assert loss.item() == pytest.approx(20 * 15 * log(3) * 98 / (11 * 12 * 13), rel=1e-5)


def test_the_width_is_one_of_the_list_and_follows_from_pytorch_s_seed():
    loss, label = mining(), cube(low=9, high=10, shape=(19, 19, 19))

    def volumes(seed):
        torch.manual_seed(seed)
        return [int((loss.voxel_weights(label) > 0).sum()) + 1 for _ in range(40)]

    assert set(volumes(0)) == {7**3, 9**3, 11**3, 13**3, 15**3}
    assert volumes(0) == volumes(0)
    assert volumes(0) != volumes(1)


def test_coarser_heads_have_no_ring():
    class Seen(torch.nn.Module):
        def forward(self, prediction, target):
            return prediction.sum() * 0 + 1

    heads = [torch.zeros(1, 3, 11, 12, 13), torch.zeros(1, 3, 5, 6, 6)]
    loss = mining(loss=DeepSupervisionLoss(Seen()), negative_widths=[3])(heads, cube())
    assert loss.item() == pytest.approx(1.5 + 20 * 15 * log(3) * 98 / (11 * 12 * 13), rel=1e-5)


def test_untrusted_voxels_are_no_hard_examples():
    target = torch.cat([cube(), torch.full_like(cube(), 255)], dim=1)
    target[:, 1, :4] = 0  # takes the ring's first layer, 25 voxels
    loss = mining(negative_widths=[3])(torch.zeros(1, 3, 11, 12, 13), target)
    assert loss.item() == pytest.approx(20 * 15 * log(3) * 73 / (11 * 12 * 13), rel=1e-5)


def card_c(structures=("extra", "intra", "cochlea"), weights=(1.0, 5.0, 15.0, 5.0)):
    inner = DiceAndWeightedCrossEntropy(weights, 20.0, batch=True, per_voxel=True)
    return WeightedCaseLoss(HardExampleLoss(DeepSupervisionLoss(inner), structures), batch_wise=True)


def test_card_c_s_loss_of_a_batch_without_tumour_is_finite_and_as_computed_by_hand():
    # No structure: each Dice is 1 - 1e-5 / (a quarter of the voxels + 1e-5), the entropy 20 * log 4; no ring.
    target = WeightedTarget(torch.zeros(2, 1, 8, 8, 4, dtype=torch.uint8), torch.ones(2))
    assert card_c()(torch.zeros(2, 4, 8, 8, 4), target).item() == pytest.approx(1 + 20 * log(4), rel=1e-5)


def test_card_c_s_loss_trains_an_undivided_tumour_through_several_heads():
    heads = [torch.randn(2, 4, 8, 8, 4, requires_grad=True), torch.randn(2, 4, 4, 4, 4, requires_grad=True)]
    label = torch.zeros(2, 1, 8, 8, 4, dtype=torch.uint8)
    label[:, :, 2:5, 2:5, 1:3] = 1
    groups = torch.tensor([[0, 1, 1, 3], [0, 1, 2, 3]])
    loss = card_c()(heads, WeightedTarget(label, torch.tensor([0.5, 1.0]), groups))
    loss.backward()
    assert loss.isfinite()
    assert all(head.grad.isfinite().all() and head.grad.abs().max() > 0 for head in heads)


def test_impossible_settings_are_refused():
    with pytest.raises(CrossmodaError, match="must be odd"):
        mining(negative_widths=[4])
    with pytest.raises(CrossmodaError, match="must be odd"):
        mining(positive_widths=[])
    with pytest.raises(CrossmodaError, match="must not be negative"):
        mining(positive_weight=-1.0)
    with pytest.raises(CrossmodaError, match="'vs' is not in the labels"):
        mining(["cochlea"])
