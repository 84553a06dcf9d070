import pytest
import torch

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.unet2d5 import UNet2D5


def small(**settings):
    torch.manual_seed(0)
    return UNet2D5(1, 3, channels=(2, 3, 4, 5, 6), **settings).eval()


def test_output_has_the_input_size_and_one_channel_a_class():
    assert small()(torch.rand(2, 1, 32, 48, 8)).shape == (2, 3, 32, 48, 8)


def test_slices_are_halved_at_the_two_levels_that_are_three_dimensional():
    network, shapes = small(), []
    for pool in network.pools:
        pool.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[2:])))
    network(torch.rand(1, 1, 32, 48, 8))
    assert shapes == [(16, 24, 8), (8, 12, 8), (4, 6, 4), (2, 3, 2)]
    assert network.factors == (16, 16, 4)


def test_two_dimensional_levels_do_not_mix_slices():
    network = small(dimensions=(2, 2, 2, 2, 2))
    image = torch.rand(1, 1, 16, 16, 3)
    changed = image.clone()
    changed[..., 1] += 1
    difference = (network(changed) - network(image)).abs().amax(dim=(0, 1, 2, 3))
    assert difference[1] > 0
    assert difference[0] == difference[2] == 0


@pytest.mark.parametrize("shape", [(24, 32, 4), (16, 40, 4), (16, 16, 6)])
def test_a_size_that_cannot_be_halved_is_refused(shape):
    with pytest.raises(CrossmodaError, match=r"not divisible by \(16, 16, 4\)"):
        small()(torch.rand(1, 1, *shape))


def test_parameter_count_is_that_of_the_published_layers():
    # convolution in*out*k + out, batch norm 2*out, PReLU 1; k = 9 in levels 0 and 1, 27 below
    first = (1 * 32 * 9 + 32 + 64 + 1) + (32 * 32 * 9 + 32 + 64 + 1)
    second = (32 * 64 * 9 + 64 + 128 + 1) + (64 * 64 * 9 + 64 + 128 + 1)
    third = (64 * 128 * 27 + 128 + 256 + 1) + (128 * 128 * 27 + 128 + 256 + 1)
    fourth = (128 * 256 * 27 + 256 + 512 + 1) + (256 * 256 * 27 + 256 + 512 + 1)
    fifth = (256 * 512 * 27 + 512 + 1024 + 1) + (512 * 512 * 27 + 512 + 1024 + 1)
    encoder = first + second + third + fourth + fifth
    # decoder: transposed convolution (8 or 4 taps), then a block on twice the channels
    decoder = (512 * 256 * 8 + 256) + (512 * 256 * 27 + 769) + (256 * 256 * 27 + 769)
    decoder += (256 * 128 * 8 + 128) + (256 * 128 * 27 + 385) + (128 * 128 * 27 + 385)
    decoder += (128 * 64 * 4 + 64) + (128 * 64 * 9 + 193) + (64 * 64 * 9 + 193)
    decoder += (64 * 32 * 4 + 32) + (64 * 32 * 9 + 97) + (32 * 32 * 9 + 97)
    head = 32 * 3 * 9 + 3
    assert sum(parameter.numel() for parameter in UNet2D5(1, 3).parameters()) == encoder + decoder + head == 22_135_029


def test_dropout_follows_the_levels_in_encoder_and_decoder():
    network = UNet2D5(1, 2, channels=(2, 2, 2, 2, 2))

    def rates(blocks):
        return [module.p for block in blocks for module in block.modules() if isinstance(module, torch.nn.Dropout)]

    assert rates([*network.encoder, network.bottom]) == [0.0, 0.0, 0.3, 0.4, 0.5]
    assert rates(network.decoder) == [0.4, 0.3, 0.0, 0.0]  # coarse to fine; PyMIC hands a level's rate to both blocks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_gives_the_same_output():
    network, image = small(), torch.rand(1, 1, 32, 16, 4)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


def test_wrong_settings_are_refused():
    with pytest.raises(CrossmodaError, match="channels needs 5 values"):
        UNet2D5(1, 2, channels=(2, 4))
    with pytest.raises(CrossmodaError, match="dimensions must be 2 or 3"):
        small(dimensions=(1, 2, 3, 3, 3))
