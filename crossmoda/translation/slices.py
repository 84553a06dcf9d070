"""Slices of two modalities from different patients, for training a translator."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, MapTransform, Randomizable
from monai.utils import convert_to_tensor

from crossmoda.data.sites import require_sites
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.translation.trainer import LABEL, SITE, SOURCE, TARGET

Item = dict[str, Any]

_FOREGROUND = -0.9  # a pixel above 5 % of the range [-1, 1] is not air


class SliceStackd(MapTransform):
    """Turn a volume (1, X, Y, Z) into a float16 stack of slices (Z, X, Y); of the other keys keep ``case`` alone.

    float16 resolves [-1, 1] in steps of 0.0005, half the memory of float32; a slice is then contiguous in memory.

    Args:
        keys: of the volumes.
        structures: how many structures a ``label`` (1, X, Y, Z), where there is one, tells apart: 1, 2, ...
        keep_label: keep the label too, as a uint8 stack.
    """

    def __init__(self, keys: KeysCollection, structures: int = 0, keep_label: bool = False) -> None:
        super().__init__(keys)
        self.structures = structures
        self.keep_label = keep_label

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Return ``{key: stack, "case": name, "shows": (structures, Z) bool}`` without metadata."""
        stacks = {key: _stack(data[key], torch.float16) for key in self.key_iterator(data)}
        slices = next(iter(stacks.values())).shape[0]
        shows = torch.zeros(self.structures, slices, dtype=torch.bool)
        if "label" in data:
            label = convert_to_tensor(data["label"], track_meta=False)[0].flatten(0, 1)
            for index in range(self.structures):
                shows[index] = (label == index + 1).any(dim=0)
        if self.keep_label:
            stacks[LABEL] = _stack(data["label"], torch.uint8)
        return {**stacks, "case": data["case"], "shows": shows}


def _stack(volume: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    plain = convert_to_tensor(volume, track_meta=False)
    return plain[0].permute(2, 0, 1).to(dtype).contiguous()


class SliceSource:
    """All slices of one modality's volumes that show more than air, prepared once and then kept in memory or on disk.

    Args:
        items: ``{"case", "image"}`` per volume.
        preprocessing: brings ``image`` to (1, X, Y, Z) in [-1, 1]; deterministic.
        section: name of the modality's section, for messages.
        minimum_foreground: least share of a slice's pixels above air, 0..1; other slices are skipped.
        memory_gib: the stacks are kept in memory if they need no more than this, otherwise in ``cache_dir``.
        cache_dir: folder for the stacks that do not fit into memory.
        structures: how many structures the items' labels, where they have any, tell apart.
        keep_labels: keep the labels for ``label``; every item must have one.

    Raises:
        CrossmodaError: there is no volume or no slice, or a volume cannot be used.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Callable[[Item], Item],
        section: str,
        minimum_foreground: float,
        memory_gib: float,
        cache_dir: str | Path | None,
        structures: int = 0,
        keep_labels: bool = False,
    ) -> None:
        if not items:
            raise CrossmodaError(f"section '{section}' has no images; a translator needs scans of both modalities")
        # Flat, because MONAI caches what precedes the first random transform and takes a nested Compose for one.
        transform = Compose([preprocessing, SliceStackd("image", structures, keep_labels)]).flatten()
        self.stacks = _prepare(items, transform, memory_gib, cache_dir)
        entries = [self._entries(index, minimum_foreground) for index in range(len(items))]
        self.volumes, self.positions, self.heights, self.shows = (
            np.concatenate(parts, axis=-1) for parts in zip(*entries, strict=True)
        )
        if len(self.volumes) == 0:
            raise CrossmodaError(
                f"section '{section}': no slice has {minimum_foreground:.0%} of its pixels above air; "
                "check the images or lower minimum_foreground"
            )

    def _entries(self, index: int, minimum_foreground: float) -> tuple[np.ndarray, ...]:
        item = _read(self.stacks, index)
        stack = item["image"]
        share = (stack > _FOREGROUND).float().mean(dim=(1, 2)).numpy()
        positions = np.flatnonzero(share >= minimum_foreground)
        shows = item["shows"].numpy()[:, positions]
        return np.full(len(positions), index), positions, (positions + 0.5) / len(stack), shows

    def __len__(self) -> int:
        """Return the number of usable slices."""
        return len(self.volumes)

    def slab(self, entry: int, context: int = 0) -> tuple[torch.Tensor, str]:
        """Return slice ``entry`` between ``context`` neighbours on either side, and its case.

        The slab is (2 * context + 1, X, Y) float32; beyond the volume's ends the last slice is repeated.
        """
        item = self.stacks[int(self.volumes[entry])]
        stack, centre = item["image"], int(self.positions[entry])
        wanted = torch.arange(centre - context, centre + context + 1).clamp(0, len(stack) - 1)
        return stack[wanted].float(), item["case"]

    def case(self, entry: int) -> str:
        """Return the case of slice ``entry``."""
        return str(self.stacks[int(self.volumes[entry])]["case"])

    def label(self, entry: int) -> torch.Tensor:
        """Return the label of slice ``entry``, (1, X, Y) uint8, where labels are kept."""
        return self.stacks[int(self.volumes[entry])][LABEL][int(self.positions[entry])][None]

    def near(self, height: float, jitter: float) -> np.ndarray:
        """Return the entries whose relative height differs by at most ``jitter``, or else the nearest ones."""
        distance = np.abs(self.heights - height)
        return np.flatnonzero(distance <= max(jitter, float(distance.min())))


class UnpairedSlices(Dataset, Randomizable):
    """Pair each source slice with a random target slice (recipe card 0.1: B drawn at random).

    One pass visits source slices in random order, each once before any comes again. All randomness of a pass is drawn
    when ``set_random_state`` is called, one seed per pair, so that the pairs do not depend on the number of worker
    processes.

    A structure as small as the cochlea shows on few slices (one in five of the demo's) and covers next to nothing of
    them (0.2 %): neither discriminator nor generator learns of it soon. ``focus`` draws a share of the source slices
    from those where the source's label shows a structure (as nnU-Net draws a third of its patches from the
    foreground). The target has no labels; a narrow ``position_jitter`` brings slices of the same height.

    An item is ``{"source": (C, X, Y), "target": (C, X, Y), "cases": {"source": {"case"}, "target": {"case"}}}``, with
    ``sites`` also the number of the target's ``site``, and with ``keep_labels`` the source's ``label`` (1, X, Y).

    Args:
        data: the source items and the target items, each ``{"case", "image"}``; with ``focus`` or ``keep_labels``,
            source items also have a ``label``, with ``sites`` target items a ``site``.
        preprocessing: brings ``image`` of either kind to (1, X, Y, Z) in [-1, 1], and a ``label`` onto the same grid
            with ``i + 1`` where the i-th of ``structures`` lies; deterministic.
        augmentation: random MONAI transforms of the keys ``source`` and ``target``, as a ``Compose``.
        length: pairs in one pass; by default as many as the modality with more slices has.
        position_jitter: largest difference of relative height (0 lowest slice, 1 highest) between the two slices of a
            pair; None draws from all heights, as the paper does. Small data sets profit from a narrow choice: the
            discriminator cannot then tell the slices apart by their anatomy.
        minimum_foreground: least share of a slice's pixels above air, 0..1.
        memory_gib: memory for the prepared volumes, half for each modality.
        cache_dir: folder for prepared volumes that do not fit.
        focus: structure -> share (0..1) of a pass's source slices drawn from those that show it; the rest are drawn
            from all.
        structures: what the labels tell apart; by default what is in focus.
        keep_labels: give each item its source's label.
        sites: names of the target's sites; a target slice's number is the position of its site in this list.
        context: neighbours on either side that a slice comes with, as further channels (C = 2 * context + 1).

    Raises:
        CrossmodaError: a modality is empty, a volume cannot be used, the shares are impossible, no slice shows a
            structure in focus, or a target's site is not among ``sites``.
    """

    def __init__(
        self,
        data: tuple[Sequence[Item], Sequence[Item]],
        preprocessing: Callable[[Item], Item],
        augmentation: Compose | None = None,
        length: int | None = None,
        position_jitter: float | None = None,
        minimum_foreground: float = 0.05,
        memory_gib: float = 4.0,
        cache_dir: str | Path | None = None,
        focus: Mapping[str, float] | None = None,
        structures: Sequence[str] | None = None,
        keep_labels: bool = False,
        sites: Sequence[str] = (),
        context: int = 0,
    ) -> None:
        super().__init__(data=[*data[0], *data[1]])
        self.focus = dict(focus or {})
        self.keep_labels = keep_labels
        self.context = context
        names = list(self.focus if structures is None else structures)
        _require_possible(self.focus, names)
        self.target_sites = site_numbers(data[1], sites)
        options = (minimum_foreground, memory_gib / 2, cache_dir)
        self.source = SliceSource(data[0], preprocessing, SOURCE, *options, len(names), keep_labels)
        self.shown = {structure: self.source.shows[names.index(structure)] for structure in self.focus}
        for structure, shown in self.shown.items():
            if not shown.any():
                raise CrossmodaError(f"focus: no source slice shows {structure}; label it, or leave it out of focus")
        self.target = SliceSource(data[1], preprocessing, TARGET, *options)
        self.augmentation = augmentation
        self.position_jitter = position_jitter
        self.length = max(len(self.source), len(self.target)) if length is None else length
        self.set_random_state(seed=0)

    def __len__(self) -> int:
        """Return the number of pairs in one pass."""
        return self.length

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> UnpairedSlices:
        """Seed the next pass and draw its order."""
        super().set_random_state(seed, state)
        self.randomize()
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw the order of the source slices and one seed per pair."""
        counts = [round(share * self.length) for share in self.focus.values()]
        self.order = self._in_turns(np.arange(len(self.source)), self.length - sum(counts))
        if self.focus:
            shown = self.shown.values()
            focused = [self._in_turns(np.flatnonzero(s), n) for s, n in zip(shown, counts, strict=True)]
            self.order = self.R.permutation(np.concatenate([self.order, *focused]))[: self.length]
        self.seeds = self.R.randint(2**31 - 1, size=self.length)

    def _in_turns(self, entries: np.ndarray, count: int) -> np.ndarray:
        """Return ``count`` entries in random order, each once before any comes again."""
        passes = max(-(-count // len(entries)), 1)
        return np.concatenate([self.R.permutation(entries) for _ in range(passes)])[: max(count, 0)]

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Return one augmented pair."""
        entry, seed = int(self.order[index]), int(self.seeds[index])
        other = self._draw_target(entry, np.random.default_rng(seed))
        source, source_case = self.source.slab(entry, self.context)
        target, target_case = self.target.slab(other, self.context)
        pair: Item = {SOURCE: source, TARGET: target}
        if self.keep_labels:
            pair[LABEL] = self.source.label(entry)
        if self.augmentation is not None:
            self.augmentation.set_random_state(seed=seed)
            pair = self.augmentation(pair)
        slices = {key: convert_to_tensor(value, track_meta=False) for key, value in pair.items()}
        site = {SITE: int(self.target_sites[self.target.volumes[other]])} if self.target_sites else {}
        return {**slices, **site, "cases": {SOURCE: {"case": source_case}, TARGET: {"case": target_case}}}

    def _draw_target(self, entry: int, generator: np.random.Generator) -> int:
        if self.position_jitter is None:
            return int(generator.integers(len(self.target)))
        return int(generator.choice(self.target.near(self.source.heights[entry], self.position_jitter)))


def _require_possible(focus: Mapping[str, float], structures: Sequence[str]) -> None:
    shares = focus.values()
    if any(share < 0 for share in shares) or sum(shares) > 1 + 1e-9:  # in floating point, 0.1 + 0.7 + 0.2 > 1
        raise CrossmodaError(f"focus {dict(focus)}: shares must be 0 or more and add up to 1 at most")
    for structure in focus:
        if structure not in structures:
            raise CrossmodaError(f"focus on {structure}, but structures are {', '.join(structures)}; add it there")


def site_numbers(items: Sequence[Item], sites: Sequence[str]) -> list[int]:
    """Return the position of each item's site in ``sites``; an empty list where no sites are told apart.

    Raises:
        CrossmodaError: an item has no site, or one that is not listed, or no item is of a listed site.
    """
    require_sites("sites", sites, items, "target (hrT2)")
    for item in items if sites else ():
        if item.get("site") not in sites:
            raise CrossmodaError(
                f"{item['case']}: site '{item.get('site')}' is not among sites {', '.join(sites)}; add it there"
            )
    return [list(sites).index(item["site"]) for item in items] if sites else []


def _prepare(
    items: Sequence[Item], transform: Compose, memory_gib: float, cache_dir: str | Path | None
) -> Sequence[Item] | Dataset:
    """Return the prepared stacks, in memory if the first one's size times their number fits, otherwise on disk."""
    needed = ("case", "image", "label", "labels")
    kept: list[Item] = [{key: item[key] for key in needed if key in item} for item in items]
    first = _read(Dataset(kept[:1], transform), 0)
    if sum(first[key].nbytes for key in ("image", LABEL) if key in first) * len(kept) <= memory_gib * 2**30:
        return _cached(kept, transform)
    if cache_dir is None:
        raise CrossmodaError(f"{len(kept)} volumes need over {memory_gib:g} GiB of memory; name a cache_dir for them")
    stamped = [{**item, "stamp": [_modified(item[key]) for key in ("image", "label") if key in item]} for item in kept]
    return PersistentDataset(stamped, transform, cache_dir, hash_transform=pickle_hashing)


def _modified(path: str | Path) -> int:
    return Path(path).stat().st_mtime_ns


def _cached(items: Sequence[Item], transform: Compose) -> Dataset:
    try:
        return CacheDataset(items, transform, copy_cache=False, num_workers=None, progress=len(items) > 20)
    except Exception as error:
        raise find_user_error(error) or error from error


def _read(stacks: Sequence[Item] | Dataset, index: int) -> Item:
    try:
        return stacks[index]
    except Exception as error:
        raise find_user_error(error) or error from error
