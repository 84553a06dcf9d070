"""The views of a run: how labelled source scans, and where a recipe asks for it target scans, are rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.datalists import Item

TRANSLATOR = "translator_"  # begins the name of the folder of a view's weights
WEIGHTS = "weights"


@dataclass(frozen=True)
class Untranslated:
    """A view that is the labelled source scans as they are (ceT1 beside its renderings in card A)."""


View = BundleUse | Untranslated


def translated(views: Mapping[str, View]) -> dict[str, BundleUse]:
    """Return the views that a translator renders."""
    return {name: view for name, view in views.items() if isinstance(view, BundleUse) and view.renders}


def trained(views: Mapping[str, View]) -> dict[str, BundleUse]:
    """Return the views that train a translator, for themselves or for others."""
    return {name: view for name, view in views.items() if isinstance(view, BundleUse) and view.weights_of is None}


def files_read(name: str, view: BundleUse) -> dict[str, PurePosixPath]:
    """Return the translators' files that a view's rendering reads, by the setting, relative to the round's folder."""
    read = {WEIGHTS: f"{view.weights_of or name}/model.pt", **view.reads}
    return {setting: PurePosixPath(f"{TRANSLATOR}{file}") for setting, file in read.items()}


def require_views(views: Mapping[str, View], target_view: BundleUse | None) -> None:
    """Make sure that what a view reads of others is made by them; without views a run begins with given weights.

    Raises:
        CrossmodaError: a view reads of one that trains nothing, or nothing is rendered at all.
    """
    owners = trained(views)
    renderings = translated(views)
    if views and not renderings and not any(isinstance(view, Untranslated) for view in views.values()):
        raise CrossmodaError("views: none renders the labelled scans; leave 'renders' of one at true")
    if target_view is not None:
        renderings = {**renderings, "target_view": target_view}
    for name, view in renderings.items():
        for file in files_read(name, view).values():
            owner, parts = file.parts[0].removeprefix(TRANSLATOR), len(file.parts)
            if owner not in owners:
                known = ", ".join(owners)
                raise CrossmodaError(
                    f"view '{name}' uses the translator of '{owner}', which trains none; name one of {known}"
                )
            if parts != 2:
                raise CrossmodaError(
                    f"view '{name}' reads '{file}'; give a view and a file of its training, as cyclegan/model.pt"
                )


def rendered_file(folder: Path, view: BundleUse, case: str) -> Path:
    """Return the file that a view's translation writes into a folder for a case."""
    return folder / f"{case}_{view.config('inference')['modality']}.nii.gz"


def source_images(views: Mapping[str, View], rendered: Path) -> dict[str, Callable[[Item], str]]:
    """Return what gives an item's image in each view that shows the source scans.

    Args:
        views: of the run.
        rendered: holds a folder of renderings for each view that is translated.
    """
    found: dict[str, Callable[[Item], str]] = {}
    for name, view in views.items():
        if isinstance(view, Untranslated):
            found[name] = _own_image
        elif view.renders:
            found[name] = partial(_rendering, rendered / name, view)
    return found


def _own_image(item: Item) -> str:
    return str(item["image"])


def _rendering(folder: Path, view: BundleUse, item: Item) -> str:
    return str(rendered_file(folder, view, item["case"]))
