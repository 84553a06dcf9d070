"""Distances between two sets of feature vectors: of translated slices and of real ones.

Both first standardise the features with mean and standard deviation of the real ones alone: statistics that the
translations had a share in would hide how far they are away.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from crossmoda.errors import CrossmodaError

_DEGREE = 3  # of the polynomial kernel
_ROWS = 1024  # of the kernel's matrix at once, which bounds memory
_SMALLEST_DEVIATION = 1e-6

Cases = Sequence[Hashable] | None


def standardise(features: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return features (B, F) with the real ones' (N, F) mean taken off, in units of their standard deviation.

    Features that do not vary among the real ones are only shifted.
    """
    mean, deviation = real.mean(dim=0), real.std(dim=0)
    return (features - mean) / torch.where(deviation > _SMALLEST_DEVIATION, deviation, torch.ones_like(deviation))


def frechet_distance(features: torch.Tensor, real: torch.Tensor) -> float:
    """Return the Frechet distance between normal distributions fitted to two sets of features (Heusel et al. 2017).

    The same as MONAI's ``FIDMetric`` on standardised features. The trace of the root of the product of the covariances
    is taken from singular values: exact with fewer slices than features too, where a matrix root is not. The distance
    of few slices is too large, for n slices on both sides and independent features by about F (F + 5) / (2 n): take ten
    slices a feature, or compare only distances of equal numbers of slices. ``kernel_distance`` has no such bias.

    Args:
        features: (n, F) of translated slices.
        real: (m, F) of real ones.

    Returns:
        0 (best) upwards, without unit: squared standard deviations of the real features, summed over the features.

    Raises:
        CrossmodaError: fewer than two rows, unequal numbers of features, or a value that is not finite.
    """
    first, second = _checked(features, real)
    centred = [x - x.mean(dim=0) for x in (first, second)]
    roots = [torch.linalg.qr(x, mode="r").R / (len(x) - 1) ** 0.5 for x in centred]  # root' root is the covariance
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots) - 2 * overlap
    return max(float((first.mean(dim=0) - second.mean(dim=0)).square().sum() + spread), 0.0)


def kernel_distance(features: torch.Tensor, real: torch.Tensor, cases: Cases = None, real_cases: Cases = None) -> float:
    """Return the squared maximum mean discrepancy with a cubic kernel, unbiased (Binkowski et al., ICLR 2018).

    k(x, y) = (x . y / F + 1)^3. Without bias: 0 on average for two sets of one distribution, whatever their sizes, so a
    value may be slightly negative. Pairs of slices of one case are left out where cases are given: they are more
    alike than slices of two patients, and would make every distance too large.

    Args:
        features: (n, F) of translated slices.
        real: (m, F) of real ones.
        cases: whose each row of ``features`` is; by default each row is a case of its own.
        real_cases: the same for ``real``.

    Returns:
        The distance, without unit; 0 is best, there is no upper end.

    Raises:
        CrossmodaError: fewer than two cases on a side, unequal numbers of features, or a value that is not finite.
    """
    return kernel_distance_with_error(features, real, cases, real_cases)[0]


def kernel_distance_with_error(
    features: torch.Tensor, real: torch.Tensor, cases: Cases = None, real_cases: Cases = None
) -> tuple[float, float]:
    """Return ``kernel_distance`` and its standard error over cases.

    The standard error is the jackknife's, which leaves out one case at a time on either side; NaN where a side has two
    cases only. Binkowski et al. draw subsets of images instead, since they have no cases and a hundred times the
    images.
    """
    first, second = _checked(features, real)
    sides = [_indices(cases, len(first)), _indices(real_cases, len(second))]
    counts = [torch.bincount(side).double() for side in sides]
    if min(len(count) for count in counts) < 2:
        raise CrossmodaError("a kernel distance needs two cases or more on either side; evaluate more scans")
    pairs = [_pairs_between_cases(*side) for side in zip((first, second), sides, counts, strict=True)]
    across = _sums_across(first, second, *sides)
    means = [side.sum.sum() / side.number.sum() for side in pairs]
    value = means[0] + means[1] - 2 * across[0].sum() / (len(first) * len(second))
    replicates = [
        _without_each(pairs[0], counts[0], across[0], len(second)) + means[1],
        _without_each(pairs[1], counts[1], across[1], len(first)) + means[0],
    ]
    variance = sum((r - r.mean()).square().sum() * (len(r) - 1) / len(r) for r in replicates)
    return float(value), float(variance) ** 0.5


@dataclass(frozen=True)
class _Pairs:
    """Hold, for each case of a side (cases,), the kernel's sum over its pairs with other cases, and their number."""

    sum: torch.Tensor
    number: torch.Tensor


def _pairs_between_cases(x: torch.Tensor, cases: torch.Tensor, counts: torch.Tensor) -> _Pairs:
    sums = torch.zeros_like(counts)
    for part, kernel in _kernel_blocks(x, x):
        others = cases[part, None] != cases
        sums.index_add_(0, cases[part], (kernel * others).sum(dim=1))
    return _Pairs(sums, counts * (counts.sum() - counts))


def _sums_across(
    x: torch.Tensor, y: torch.Tensor, cases: torch.Tensor, others: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the kernel between the two sides, summed by case of either side: (cases,) and (others,)."""
    forth, back = (torch.zeros(int(numbers.max()) + 1, dtype=x.dtype) for numbers in (cases, others))
    for part, kernel in _kernel_blocks(x, y):
        forth.index_add_(0, cases[part], kernel.sum(dim=1))
        back.index_add_(0, others, kernel.sum(dim=0))
    return forth, back


def _without_each(pairs: _Pairs, counts: torch.Tensor, across: torch.Tensor, others: int) -> torch.Tensor:
    """Return this side's part of the distance without each case, (cases,): the mean pair less twice the mean across."""
    within = (pairs.sum.sum() - 2 * pairs.sum) / (pairs.number.sum() - 2 * pairs.number)
    return within - 2 * (across.sum() - across) / ((counts.sum() - counts) * others)


def _kernel_blocks(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield some rows of x at a time, and the kernel between them and all rows of y."""
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        yield part, (x[part] @ y.T / x.shape[1] + 1) ** _DEGREE


def _indices(cases: Cases, length: int) -> torch.Tensor:
    """Return the number (rows,) of each row's case."""
    if cases is None:
        return torch.arange(length)
    if len(cases) != length:
        raise CrossmodaError(f"{len(cases)} cases for {length} rows of features; name the case of every row")
    numbers = {case: number for number, case in enumerate(dict.fromkeys(cases))}
    return torch.tensor([numbers[case] for case in cases])


def _checked(features: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both sets standardised, in double precision on the CPU."""
    first, second = (x.detach().cpu().double() for x in (features, real))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise CrossmodaError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)}: give (rows, features)"
        )
    if min(len(first), len(second)) < 2:
        raise CrossmodaError("a distance needs two slices or more on either side; evaluate more scans")
    if not (first.isfinite().all() and second.isfinite().all()):
        raise CrossmodaError("features hold values that are not finite; the translator's output is broken")
    return standardise(first, second), standardise(second, second)
