"""Averages over members and flips against MONAI's ensembles, which hold all predictions at once."""

import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import IterationEvents
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscrete, MeanEnsemble, VoteEnsemble

from crossmoda.engines import save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.inferers import EnsembleInferer, FlipAveragingInferer, KeepMutualInformation


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 3, 1)).eval()


@pytest.fixture
def members(tmp_path):
    """Weights of three networks, far enough apart to disagree."""
    paths = []
    for seed in range(3):
        member = network(seed)
        with torch.no_grad():
            member[2].weight *= 10
        paths.append(tmp_path / f"fold_{seed}.pt")
        save_weights(member, paths[-1])
    return paths


def each_by_itself(image, members, inferer=None):
    """The members' probabilities (B, C, X, Y, Z) in a list."""
    found = []
    for path in members:
        single = network()
        single.load_state_dict(torch.load(path, weights_only=True))
        with torch.no_grad():
            found.append(torch.softmax(single(image) if inferer is None else inferer(image, single), 1))
    return found


def run(inferer, image):
    with torch.no_grad():
        return torch.softmax(inferer(image, network(7)), 1)


@pytest.fixture
def image():
    return torch.rand(2, 1, 6, 5, 4, generator=torch.Generator().manual_seed(1))


def test_it_equals_monai_s_mean_of_all_members(image, members):
    expected = MeanEnsemble()(each_by_itself(image, members))
    torch.testing.assert_close(run(EnsembleInferer(members), image), expected, atol=1e-6, rtol=0)


def test_hard_votes_decide_as_monai_s_vote(image, members):
    alone = [AsDiscrete(argmax=True, to_onehot=3)(case) for case in (p[0] for p in each_by_itself(image, members))]
    shares = run(EnsembleInferer(members, hard=True), image)
    torch.testing.assert_close(shares[0], torch.stack(alone).mean(dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(shares[:1].gt(0.5).float()[0], VoteEnsemble()(alone), atol=0, rtol=0)


def test_the_order_of_the_members_does_not_matter(image, members):
    torch.testing.assert_close(
        run(EnsembleInferer(members), image), run(EnsembleInferer(members[::-1]), image), atol=1e-6, rtol=0
    )


def test_one_member_is_the_plain_prediction_of_its_weights(image, members):
    (expected,) = each_by_itself(image, members[1:2])
    torch.testing.assert_close(run(EnsembleInferer(members[1:2]), image), expected, atol=1e-6, rtol=0)


def test_members_that_predict_mirrored_copies_give_the_mean_of_all(image, members):
    flips = [[0], [1, 2]]
    everything = []
    for axes in ([], *flips):
        axes = [axis + 2 for axis in axes]
        everything += [p.flip(axes) for p in each_by_itself(image.flip(axes), members)]
    inferer = EnsembleInferer(members, FlipAveragingInferer(flips=flips))
    torch.testing.assert_close(run(inferer, image), MeanEnsemble()(everything), atol=1e-6, rtol=0)


def test_it_wraps_a_sliding_window_and_keeps_the_geometry(members):
    affine = torch.diag(torch.tensor([-0.5, 0.6, 1.5, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 1, 9, 5, 4), affine=affine)
    window = SlidingWindowInferer([4, 4, 4], overlap=0.5, mode="gaussian")
    result = run(EnsembleInferer(members, window, keep_mutual_information=True), image)
    torch.testing.assert_close(result.as_tensor(), sum(each_by_itself(image.as_tensor(), members, window)) / 3)
    torch.testing.assert_close(torch.as_tensor(result.affine).squeeze(), affine)


def test_weights_are_read_again_for_every_image(image, members):
    inferer, single = EnsembleInferer(members), network(7)
    with torch.no_grad():
        first, second = inferer(image, single), inferer(image, single)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_mutual_information_is_that_of_the_definition(image, members):
    probabilities = torch.stack(each_by_itself(image, members))

    def entropy(p):
        return -(p * p.log()).sum(dim=-4, keepdim=True) / math.log(3)

    expected = entropy(probabilities.mean(dim=0)) - entropy(probabilities).mean(dim=0)
    inferer = EnsembleInferer(members, keep_mutual_information=True)
    run(inferer, image)
    torch.testing.assert_close(inferer.mutual_information, expected, atol=1e-5, rtol=0)
    assert expected.max() > 0.1


def test_members_that_agree_have_no_mutual_information_however_unsure(image):
    unsure = lambda x: torch.cat([x * 0, x * 0], dim=1)  # noqa: E731
    inferer = FlipAveragingInferer(flips=[[0]], keep_mutual_information=True)
    inferer(image, unsure)
    assert inferer.mutual_information.abs().max() < 1e-6


def test_hard_votes_have_the_entropy_of_their_shares():
    left = lambda x: torch.cat([x[:, :, :1].expand_as(x), -x[:, :, :1].expand_as(x)], dim=1)  # noqa: E731
    image = torch.ones(1, 1, 2, 1, 1)
    image[:, :, 1] = -1  # mirrored copies decide otherwise
    inferer = FlipAveragingInferer(flips=[[0]], hard=True, keep_mutual_information=True)
    torch.testing.assert_close(torch.softmax(inferer(image, left), 1), torch.full((1, 2, 2, 1, 1), 0.5))
    torch.testing.assert_close(inferer.mutual_information, torch.ones(1, 1, 2, 1, 1))


def test_the_map_is_handed_to_the_evaluator_s_output_once(image, members):
    inferer = EnsembleInferer(members, keep_mutual_information=True)

    def step(engine, batch):
        engine.state.output = {"pred": run(inferer, batch)}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    KeepMutualInformation(inferer, "disagreement").attach(engine)
    assert engine.run([image]).output["disagreement"].shape == (2, 1, 6, 5, 4)
    assert inferer.mutual_information is None


def test_an_inferer_that_keeps_no_map_cannot_hand_one_on(members):
    with pytest.raises(CrossmodaError, match="keep_mutual_information: true"):
        KeepMutualInformation(EnsembleInferer(members))


def test_no_weights_are_refused():
    with pytest.raises(CrossmodaError, match="no weights are given"):
        EnsembleInferer([])
