import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from crossmoda.segmentation.inferers import FlipAveragingInferer


def asymmetric_network(image):
    """Logits that depend on which side a voxel lies on, so that flips matter."""
    ramp = torch.linspace(-1, 1, image.shape[2]).reshape(1, 1, -1, 1, 1)
    return torch.cat([image * ramp, image + ramp], dim=1)


def test_it_equals_the_hand_made_average():
    image = torch.rand(1, 1, 6, 5, 4)
    plain = torch.softmax(asymmetric_network(image), 1)
    mirrored = torch.softmax(asymmetric_network(image.flip(2)), 1).flip(2)
    result = torch.softmax(FlipAveragingInferer()(image, asymmetric_network), 1)
    torch.testing.assert_close(result, (plain + mirrored) / 2)
    assert not torch.allclose(plain, mirrored)


def test_a_voxelwise_network_gives_each_voxel_its_own_value_back():
    image = torch.zeros(1, 1, 6, 5, 4)
    image[0, 0, 1, 2, 3] = 5
    network = lambda x: torch.cat([-x, x], dim=1)  # noqa: E731
    result = FlipAveragingInferer(flips=[[0], [1], [0, 1, 2]])(image, network)
    torch.testing.assert_close(torch.softmax(result, 1), torch.softmax(network(image), 1), atol=1e-6, rtol=0)


def test_no_flips_is_the_plain_prediction():
    image = torch.rand(1, 1, 6, 5, 4)
    result = FlipAveragingInferer(flips=[])(image, asymmetric_network)
    torch.testing.assert_close(torch.softmax(result, 1), torch.softmax(asymmetric_network(image), 1))


def test_it_wraps_a_sliding_window_and_keeps_the_geometry():
    affine = torch.diag(torch.tensor([0.5, 0.6, 1.5, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 1, 9, 5, 4), affine=affine)
    inferer = FlipAveragingInferer(SlidingWindowInferer([4, 4, 4], overlap=0.5, mode="gaussian"))
    result = inferer(image, lambda x: torch.cat([x, -x], dim=1))
    assert result.shape == (1, 2, 9, 5, 4)
    torch.testing.assert_close(torch.as_tensor(result.affine).squeeze(), affine)
