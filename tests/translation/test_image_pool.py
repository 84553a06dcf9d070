"""The replay pool."""

from __future__ import annotations

import torch

from crossmoda.translation.image_pool import ImagePool


def numbered(start: int, count: int) -> torch.Tensor:
    return torch.arange(start, start + count).float().view(count, 1, 1, 1).expand(count, 1, 2, 3).clone()


def values(images: torch.Tensor) -> list[float]:
    return images[:, 0, 0, 0].tolist()


def test_the_pool_fills_first_and_returns_what_came() -> None:
    pool = ImagePool(size=5)
    assert values(pool.query(numbered(0, 3))) == [0, 1, 2]
    assert values(pool.query(numbered(3, 2))) == [3, 4]
    assert [image[0, 0, 0].item() for image in pool.images[0]] == [0, 1, 2, 3, 4]


def test_a_full_pool_exchanges_about_half_of_what_comes() -> None:
    pool = ImagePool(size=50, seed=1)
    pool.query(numbered(0, 50))
    returned = values(pool.query(numbered(1000, 2000)))
    old = [value for value, new in zip(returned, range(1000, 3000), strict=True) if value != new]
    assert 900 < len(old) < 1100  # binomial of 2000 and 0.5: deviation 22
    assert len(pool.images[0]) == 50


def test_what_is_returned_in_exchange_leaves_the_pool_and_the_newcomer_stays() -> None:
    pool = ImagePool(size=2, seed=0)
    pool.query(numbered(0, 2))
    before = {image[0, 0, 0].item() for image in pool.images[0]}
    for number in range(10, 30):
        returned = values(pool.query(numbered(number, 1)))[0]
        after = {image[0, 0, 0].item() for image in pool.images[0]}
        expected = before if returned == number else before - {returned} | {float(number)}
        assert after == expected
        before = after


def test_pool_of_size_zero_returns_everything_unchanged() -> None:
    assert values(ImagePool(size=0).query(numbered(7, 3))) == [7, 8, 9]


def test_returned_slices_are_cut_off_from_the_generator() -> None:
    images = numbered(0, 2).requires_grad_()
    assert not ImagePool().query(images * 2).requires_grad


def test_a_restored_pool_goes_on_exactly() -> None:
    pool = ImagePool(size=3, seed=4)
    pool.query(numbered(0, 9))
    twin = ImagePool(size=3, seed=99)
    twin.load_state_dict(pool.state_dict())
    assert values(twin.query(numbered(20, 9))) == values(pool.query(numbered(20, 9)))


def test_slices_of_different_sites_are_never_exchanged_for_one_another() -> None:
    pool = ImagePool(size=2, seed=0)
    site = torch.tensor([0, 1]).repeat(20)
    returned = values(pool.query(numbered(0, 40), site))
    assert [int(value) % 2 for value in returned] == site.tolist()  # even numbers went in as site 0, odd ones as 1
    assert returned != list(range(40))
    assert sorted(pool.images) == [0, 1]
