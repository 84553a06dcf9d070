import math
from collections import Counter

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Compose, RandomizableTransform
from torch.utils.data import DistributedSampler

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.dataset import CachedCases, CasesBeside, RandomDraws, one_thread
from crossmoda.segmentation.metrics import masks_of_channel, structure_assd, structure_dice
from crossmoda.segmentation.training import GradientClip, WeightAverage


def network_and_average(momentum):
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    return network, WeightAverage(network, momentum)


def run_one_step(network, average, value, earlier_steps):
    def resume(engine):
        engine.state.iteration = engine.state.epoch = earlier_steps

    engine = Engine(lambda engine, value: network.weight.data.fill_(value))
    engine.add_event_handler(Events.STARTED, resume)
    average.attach(engine)
    engine.run([value], max_epochs=earlier_steps + 1)


def test_average_begins_as_the_plain_weights_and_widens():
    network, average = network_and_average(momentum=0.01)
    run_one_step(network, average, 1.0, earlier_steps=0)
    assert float(average.ema_model.weight) == pytest.approx(0.9)  # 9 / 10 of the first, the rest the initial 0
    run_one_step(network, average, 2.0, earlier_steps=1)
    assert float(average.ema_model.weight) == pytest.approx(9 / 11 * 2.0 + 2 / 11 * 0.9)


def test_a_warm_average_uses_the_given_momentum_also_when_resumed():
    network, average = network_and_average(momentum=0.25)
    run_one_step(network, average, 4.0, earlier_steps=100)
    assert float(average.ema_model.weight) == pytest.approx(1.0)


def test_gradients_are_scaled_to_the_largest_norm():
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    GradientClip(network, 1.0)(Engine(lambda engine, batch: None))
    torch.testing.assert_close(network.weight.grad, torch.tensor([[0.6, 0.8]]))


def test_threads_are_given_back_after_an_error():
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="shape"), one_thread():
        torch.zeros(2, 3).reshape(5)
    assert torch.get_num_threads() == threads


class NoteThreads(RandomizableTransform):
    def __call__(self, value):
        return value, torch.get_num_threads()


def test_random_transforms_of_cached_cases_run_on_one_thread():
    torch.set_num_threads(2)
    data = CachedCases([1, 2], Compose([lambda value: value * 10, NoteThreads(prob=1.0)]), progress=False)
    assert [data[0], data[1]] == [(10, 1), (20, 1)]
    assert torch.get_num_threads() == 2


class Jitter(RandomizableTransform):
    def __call__(self, value):
        return value + self.R.uniform()


def draws(length=12):
    return RandomDraws(CachedCases([10, 20, 30], Compose([Jitter(), Jitter()]), progress=False), length)


def test_a_draw_depends_on_the_seed_and_its_position_alone():
    forwards, backwards = draws().set_random_state(4), draws().set_random_state(4)
    expected = [forwards[position] for position in range(12)]
    assert [backwards[position] for position in reversed(range(12))] == expected[::-1]
    assert len(set(expected)) == 12  # what is done to a case differs wherever it comes
    assert {value // 10 for value in expected} == {1, 2, 3}
    assert expected != [draws().set_random_state(5)[position] for position in range(12)]


def test_the_shares_of_two_processes_are_together_the_batches_of_one():
    whole = [draws()[position] for position in range(12)]
    shares = [
        [draws()[position] for position in DistributedSampler(draws(), 2, rank, shuffle=False)] for rank in (0, 1)
    ]
    for batch in range(3):  # of 2 in each process, of 4 in one
        parts = [share[2 * batch : 2 * batch + 2] for share in shares]
        assert sorted([*parts[0], *parts[1]]) == sorted(whole[4 * batch : 4 * batch + 4])


def cube(start, affine):
    mask = torch.zeros(3, 10, 8, 6)
    mask[0] = 1
    mask[:, start : start + 3, 2:5, 1:4] = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1)
    return MetaTensor(mask, affine=affine)


def test_surface_distance_is_in_millimetres_of_the_prediction_s_spacing():
    affine = np.diag([-0.5, 2.0, 3.0, 1.0])
    near, far = cube(2, affine), cube(2, affine)
    metrics = structure_assd(["vs", "cochlea"])
    metric = metrics["vs_assd_mm"]
    metric.update(masks_of_channel(1)([{"pred": near, "label": far}]))
    assert metric.compute() == 0
    metric.reset()
    metric.update(masks_of_channel(1)([{"pred": cube(5, affine), "label": cube(2, affine)}]))
    shifted = metric.compute()
    metric.reset()
    double = np.diag([1.0, 4.0, 6.0, 1.0])
    metric.update(masks_of_channel(1)([{"pred": cube(5, double), "label": cube(2, double)}]))
    assert metric.compute() == pytest.approx(2 * shifted)
    assert 0.5 <= shifted <= 1.5  # a shift by 3 voxels of 0.5 mm


def test_a_case_in_which_either_side_is_empty_has_no_distance_and_one_that_shows_nothing_no_dice():
    affine = np.diag([-0.5, 2.0, 3.0, 1.0])
    shown, empty = cube(2, affine), cube(2, affine)
    empty[1:] = 0
    pairs = {"found": (shown, shown), "missed": (empty, shown), "invented": (shown, empty), "neither": (empty, empty)}
    cases = {name: [{"pred": pred, "label": label}] for name, (pred, label) in pairs.items()}
    dice, assd = structure_dice(["vs"])["vs_dice"], structure_assd(["vs"])["vs_assd_mm"]
    for names, mean_dice, distance in (
        (["found", "missed", "invented", "neither"], 0.5, 0.0),  # Dice of the two that show it: 1 and 0
        (["missed"], 0.0, math.nan),
        (["invented", "neither"], math.nan, math.nan),
    ):
        for metric in (dice, assd):
            metric.reset()
            for name in names:
                metric.update(masks_of_channel(1)(cases[name]))
        assert dice.compute() == pytest.approx(mean_dice, nan_ok=True)
        assert assd.compute() == pytest.approx(distance, nan_ok=True)


def test_dice_of_each_structure_by_name():
    affine = np.eye(4)
    metrics = structure_dice(["vs", "cochlea"])
    metrics["vs_dice"].update(masks_of_channel(1)([{"pred": cube(3, affine), "label": cube(2, affine)}]))
    assert metrics["vs_dice"].compute() == pytest.approx(2 / 3)


class InList(RandomizableTransform):
    def __call__(self, value):
        return [value]


class AsItIs(RandomizableTransform):
    def __call__(self, value):
        return value


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_draws_from_two_sets_keep_the_share_and_take_every_case(share):
    first = CachedCases([1, 2, 3], Compose([InList()]), progress=False)
    second = CachedCases([10, 20], Compose([AsItIs()]), progress=False, cache_rate=0.0)
    draws = RandomDraws(CasesBeside(first, second, share), 3000)
    taken = [draws[position] for position in range(len(draws))]
    assert all(isinstance(value, list) and len(value) == 1 for value in taken)
    counts = Counter(value for (value,) in taken)
    beside = counts[10] + counts[20]
    assert beside / 3000 == pytest.approx(share, abs=0.03)
    assert counts[10] == pytest.approx(counts[20], rel=0.25)
    assert counts[1] == pytest.approx(counts[2], rel=0.35)
    assert counts[2] == pytest.approx(counts[3], rel=0.35)


def test_two_sets_draw_from_the_same_generator_and_repeat_with_the_seed():
    def made():
        sets = [CachedCases([value], Compose([Jitter()]), progress=False) for value in (10, 20)]
        return RandomDraws(CasesBeside(*sets, 0.5), 8)

    assert [made()[position] for position in range(8)] == [made()[position] for position in range(8)]


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_that_is_none_is_refused(share):
    cases = CachedCases([1], Compose([Jitter()]), progress=False)
    with pytest.raises(CrossmodaError, match="more than 0 and less than 1"):
        CasesBeside(cases, cases, share)
