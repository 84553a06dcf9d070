"""Refuse keys of a configuration that nobody reads, and name the nearest right one, before anything runs.

MONAI merges files and overrides without asking whether a key means anything, so that a misspelt setting is silently
the default. Here the first file says which keys there are. Of each further file and of the overrides, a key is right
that

- an earlier file has;
- or something refers to (``@key``, ``%key``), as a whole, in part, or with all around it, be it that a later file
  replaces what refers to it;
- or is one of MONAI's own words (``imports``, ``initialize``, ``run``, ``finalize``, ``_meta_``);
- or a command reads for itself (``READ_BY_COMMANDS``);
- or, in a file, belongs to another workflow of the same bundle, because overlays such as a network's are used after
  ``train.yaml`` and after ``inference.yaml``.

Where that is asked for, as of a command's own settings, an override must also have an effect: what the sections that
run refer to, directly or through others, must touch it. (nnU-Net's training, say, reads few settings of the training
that it replaces.) And text is no substitute for True and False: MONAI's command line makes text of "false", and text is
true.

Keys inside a component are arguments of its ``_target_``; those that further files and overrides touch are held
against its signature. Mappings that are handed on as a whole, such as settings for another bundle, are not looked
into: whoever takes them checks them in the same way.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import pydoc
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fire
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle import run as monai_run
from monai.bundle.scripts import update_kwargs
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY, MACRO_KEY, MERGE_KEY, merge_kv

from crossmoda.errors import CrossmodaError, did_you_mean, nearest_name

MONAI_WORDS = ("imports", "initialize", "run", "finalize", ConfigParser.meta_key)
READ_BY_COMMANDS = ("phantom",)  # in a recipe, for `python -m crossmoda demo`; no bundle reads it
MAIN_FILES = ("train.yaml", "inference.yaml")
PLACES = ("bundle_root", "dataset_dir", "output_dir", "device")  # are right even where nothing reads them
TARGET = "_target_"
FLAG_WORDS = ("true", "false", "yes", "no", "on", "off")


def require_known_keys(
    files: Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    origin: str = "settings",
    also: Iterable[str] = (),
    idle: Iterable[str] | None = None,
) -> None:
    """Make sure that every key which files and overrides add to the first file is read by something.

    Args:
        files: configuration files, merged from left to right; the first one is taken as it is.
        overrides: of the merged files; ``::`` in a key goes one level further in.
        origin: of the overrides, for the message.
        also: further keys that are right, sections that run among them.
        idle: overrides that may be without effect, beside places; None: all may.

    Raises:
        CrossmodaError: a file is missing, a key is not known, a component has no such argument, an override is text in
            place of True or False, or has no effect.
    """
    changes = [
        _Change(str(file), key, value, index == 0)
        for index, file in enumerate(files)
        for key, value in _content_of(file).items()
    ]
    given = [_Change(origin, key, value) for key, value in (overrides or {}).items()]
    changes += given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI will warn when it merges them itself
        merged, added = _merge(changes, files)
    references = [found for change in changes for found in _references(change.value, change.path)]
    known = {*MONAI_WORDS, *READ_BY_COMMANDS, *also}
    for change, path in added:
        if path.split(ID_SEP_KEY)[0] not in known and not _is_read(path, merged, references):
            _require_of_another_workflow(change, path, merged, files)
    if idle is not None:
        _require_effect([change for change in given if change.path not in {*PLACES, *idle}], merged, known, origin)
    arguments = _Arguments()
    for change in changes:
        if not change.first:
            for place, component in _components_at(merged.get(), change.path):
                arguments.require(change.origin, place, component)


def require_known_keys_of_command() -> None:
    """Do so for the files and overrides of ``python -m monai.bundle run``, if that is the command that runs.

    Called in the ``initialize`` section of every bundle. A workflow that is made inside another one's command, or by a
    program, is checked where it is made (``crossmoda.self_training.bundles``).
    """
    program = Path(sys.argv[0]).parts[-3:]
    if program == ("monai", "bundle", "__main__.py") and sys.argv[1:2] == ["run"]:
        _require_known_keys_of(tuple(sys.argv[1:]), Path.cwd())


def require_arguments(origin: str, function: Callable[..., Any], given: Iterable[str]) -> None:
    """Make sure that a function takes arguments of these names.

    Raises:
        CrossmodaError: it takes none of such a name.
    """
    _Arguments.require_names(origin, function.__name__, _parameters(function), given)


@functools.cache  # the loop's other bundles come here again in the same process
def _require_known_keys_of(arguments: Sequence[str], folder: Path) -> None:
    given = _read_as_monai_does(arguments)
    files = given["config_file"]
    words = [given.get(name) for name in ("init_id", "run_id", "final_id")]
    not_keys = {*inspect.signature(monai_run).parameters, *inspect.signature(ConfigWorkflow).parameters}
    require_known_keys(
        [files] if isinstance(files, str) else files,
        {key: value for key, value in given.items() if key not in not_keys},
        origin="command line",
        also=[*filter(None, words), *_keys_of_tracking(given.get("tracking"))],
        idle=(),
    )


def _read_as_monai_does(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of ``monai.bundle run`` by name, overrides among them, with those of its ``args_file``."""
    signature = inspect.signature(monai_run)
    given: dict[str, Any] = {}

    @functools.wraps(monai_run)  # whose signature decides how fire reads arguments
    def take(*values: Any, **named: Any) -> None:
        taken = signature.bind(*values, **named).arguments
        given.update(taken.pop("override", {}), **taken)

    fire.Fire({"run": take}, command=list(arguments))
    return update_kwargs(given.pop("args_file", None), **given)


def _keys_of_tracking(tracking: Any) -> list[str]:
    """Return the keys that ``--tracking`` adds, some of which may be given on the command line."""
    if tracking is None:
        return []
    known: dict[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
    named = isinstance(tracking, str) and tracking in known
    return list((known[tracking] if named else ConfigParser.load_config_files(tracking))["configs"])


@dataclass(frozen=True)
class _Change:
    """What a file or an override says of one key."""

    origin: str
    key: str
    value: Any
    first: bool = False  # of the first file

    @property
    def path(self) -> str:
        """The key with MONAI's newer separator, without the mark of merging."""
        return str(ReferenceResolver.normalize_id(self.key)).removeprefix(MERGE_KEY)


def _content_of(file: str | Path) -> dict[str, Any]:
    if not Path(file).is_file():
        raise CrossmodaError(f"{file}: no such configuration file; mend its name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {str(key): value for key, value in (ConfigParser.load_config_file(file) or {}).items()}


def _merge(changes: Sequence[_Change], files: Sequence[str | Path]) -> tuple[ConfigParser, list[tuple[_Change, str]]]:
    """Merge as MONAI does, and return also the paths that no earlier file has, each with what adds it.

    Raises:
        CrossmodaError: what a key goes into is not there; MONAI would stop with a traceback.
    """
    merged = ConfigParser({})
    added: list[tuple[_Change, str]] = []
    for change in changes:
        parts = change.path.split(ID_SEP_KEY)
        for depth in range(1, len(parts)):
            above = ID_SEP_KEY.join(parts[:depth])
            if not _has(merged.get(), above):
                raise _no_such_key(change, above, merged, files)
        if not change.first:
            added += [(change, path) for path in _added(merged.get(), change.path, change.value)]
        _require_no_text(_at(merged.get(), change.path), change)
        mark = MERGE_KEY if change.key.startswith(MERGE_KEY) else ""
        try:
            merge_kv(merged, mark + change.path, copy.deepcopy(change.value))
        except (ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CrossmodaError(
                f"{change.origin}: '{change.key}' does not fit what it goes into ({reason})"
            ) from error
    return merged, added


def _require_no_text(before: Any, change: _Change) -> None:
    """Refuse text where there was a truth value or a number: YAML takes 1e-3 for text, and 1.0e-3 for a number."""
    if not isinstance(before, (bool, int, float)) or not isinstance(change.value, str):
        return
    told = f"{change.origin}: {change.path} is {change.value!r}"
    if isinstance(before, bool) and change.value.lower() in FLAG_WORDS:
        raise CrossmodaError(f"{told}; write True or False on the command line")
    if not isinstance(before, bool) and _is_number(change.value):
        raise CrossmodaError(f"{told}, which is text; write {float(change.value)!r}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _added(config: Any, path: str, value: Any) -> Iterator[str]:
    """Yield the paths of a value that a configuration lacks; what is below a component is left to its signature."""
    if not _has(config, path):
        yield path
    elif _is_plain_mapping(value) and _is_plain_mapping(_at(config, path)):
        for key, item in value.items():
            yield from _added(config, f"{path}{ID_SEP_KEY}{key}", item)


def _is_read(path: str, merged: ConfigParser, references: Iterable[tuple[str, str]]) -> bool:
    """Tell whether a reference from elsewhere touches a path, or it is an argument of a component."""
    parts = path.split(ID_SEP_KEY)
    above = [ID_SEP_KEY.join(parts[:depth]) for depth in range(1, len(parts))]
    if any(ConfigComponent.is_instantiable(_at(merged.get(), place)) for place in above):
        return True
    return any(
        (_is_within(path, name) or _is_within(name, path)) and not _is_within(place, path) for place, name in references
    )


def _require_effect(overrides: Sequence[_Change], merged: ConfigParser, begin: set[str], origin: str) -> None:
    """Raise where nothing that runs refers to an override."""
    left, reached = list(_references(merged.get(), "")), begin
    while True:
        followed = [name for place, name in left if any(_is_within(place, found) for found in reached)]
        left = [(place, name) for place, name in left if not any(_is_within(place, found) for found in reached)]
        if not set(followed) - reached:
            break
        reached = reached | set(followed)
    for change in overrides:
        if not any(_is_within(change.path, found) or _is_within(found, change.path) for found in reached):
            raise CrossmodaError(
                f"{origin}: '{change.key}' has no effect, as nothing of these files that runs reads it; leave it out"
            )


def _references(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield where a value at a place refers to what, as ``(path, path)``."""
    if isinstance(value, (Mapping, list)):
        for _, below, item in ReferenceResolver.iter_subconfigs(place, value):
            yield from _references(item, below)
    elif isinstance(value, str):
        text = ConfigParser.resolve_relative_ids(place, value)
        names = list(ReferenceResolver.match_refs_pattern(text))
        if text.startswith(MACRO_KEY):
            file, name = ConfigParser.split_path_id(text[len(MACRO_KEY) :])
            if file:  # what is fetched from there refers to keys here
                yield from _references(_at(_content_of(file), name), place)
            else:
                names.append(name)
        yield from ((place, name) for name in names)


def _require_of_another_workflow(change: _Change, path: str, merged: ConfigParser, files: Sequence[str | Path]) -> None:
    """Raise unless a key of a file is one that another workflow of the bundle has.

    Files of the bundle itself may also name keys of overlays that are not in use, as one overlay does that goes after
    several methods.
    """
    first = Path(files[0])
    files_there = sorted(first.parent.glob("*.yaml"), key=lambda file: (file.name not in MAIN_FILES, file.name))
    others = {other.name: other for other in files_there}
    has = [name for name, other in others.items() if other != Path(change.origin) and _names(_content_of(other), path)]
    allowed = others if Path(change.origin).parent == first.parent else MAIN_FILES
    if change.origin in map(str, files) and any(name in allowed for name in has):
        return
    raise _no_such_key(change, path, merged, files, has)


def _no_such_key(
    change: _Change, path: str, merged: ConfigParser, files: Sequence[str | Path], has: Sequence[str] = ()
) -> CrossmodaError:
    names = [str(file) for file in files]
    earlier = names[: names.index(change.origin)] if change.origin in names else names
    where = earlier[0] if len(earlier) == 1 else f"{earlier[0]} and the {len(earlier) - 1} after it"
    if has:
        remedy = f"{has[0]} of the bundle has one: give that file too, or leave the key out"
    else:
        remedy = _nearest_path(path, merged.get())
    return CrossmodaError(f"{change.origin}: no such key '{path}' in {where}; {remedy}")


def _nearest_path(path: str, config: Any) -> str:
    """Return "did you mean" with a key of the same mapping, or else with one of any mapping that is no component."""
    above, _, name = path.rpartition(ID_SEP_KEY)
    paths = [other for other in _paths(config) if not _is_within(other, path)]
    siblings = [other for other in paths if other.rpartition(ID_SEP_KEY)[0] == above]
    for candidates in (siblings, paths):
        names = {other.rpartition(ID_SEP_KEY)[2]: other for other in reversed(candidates)}
        nearest = nearest_name(name, names)
        if nearest is not None:
            return f"did you mean '{names[nearest]}'?"
    return did_you_mean(path, siblings)


def _paths(config: Mapping[str, Any], within: str = "") -> Iterator[str]:
    for _, path, value in ReferenceResolver.iter_subconfigs(within, config):
        yield path
        if _is_plain_mapping(value):
            yield from _paths(value, path)


def _names(content: Mapping[str, Any], path: str) -> bool:
    """Tell whether a file says anything of a path, by itself or in a mapping."""
    for key, value in content.items():
        named = _Change("", key, value).path
        if _is_within(named, path) or (_is_within(path, named) and _has(value, path[len(named + ID_SEP_KEY) :])):
            return True
    return False


def _components_at(config: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the components that hold a path, that at it and those below it, each with its own path."""
    parts = path.split(ID_SEP_KEY)
    for depth in range(1, len(parts)):
        above = ID_SEP_KEY.join(parts[:depth])
        if ConfigComponent.is_instantiable(_at(config, above)):
            yield above, _at(config, above)
    yield from _components(_at(config, path), path)


def _components(config: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if ConfigComponent.is_instantiable(config):
        yield place, config
    if isinstance(config, (Mapping, list)):
        for _, below, value in ReferenceResolver.iter_subconfigs(place, config):
            yield from _components(value, below)


class _Arguments:
    """Hold components' arguments against the signatures of their targets."""

    def __init__(self) -> None:
        self._locator = ComponentLocator()

    def require(self, origin: str, place: str, component: Mapping[str, Any]) -> None:
        """Raise if a component has an argument that its target does not take; targets not found are MONAI's to name."""
        target = component[TARGET]
        if not isinstance(target, str) or target.startswith("$"):
            return
        try:
            found = pydoc.locate(str(ConfigComponent(dict(component), locator=self._locator).resolve_module_name()))
        except pydoc.ErrorDuringImport:
            return
        given = [str(name) for name in component if name not in ConfigComponent.non_arg_keys]
        name = f"{target.rpartition('.')[2]} ({place})"
        self.require_names(origin, name, _parameters(found) if callable(found) else None, given)

    @staticmethod
    def require_names(origin: str, function: str, parameters: Sequence[str] | None, given: Iterable[str]) -> None:
        """Raise if a given name is not among the parameters; None takes any."""
        for name in given:
            if parameters is not None and name not in parameters:
                raise CrossmodaError(
                    f"{origin}: no such argument '{name}' of {function}; {did_you_mean(name, parameters)}"
                )


def _parameters(function: Callable[..., Any]) -> list[str] | None:
    """Return the names that a function or class takes arguments by; None if any, or if nobody can tell."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL]


def _at(config: Any, path: str) -> Any:
    """Return what is at a path; None where there is nothing."""
    for part in path.split(ID_SEP_KEY):
        if isinstance(config, Mapping):
            config = config.get(part)
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config


def _has(config: Any, path: str) -> bool:
    above, _, name = path.rpartition(ID_SEP_KEY)
    holder = _at(config, above) if above else config
    if isinstance(holder, list):
        return name.isdigit() and int(name) < len(holder)
    return isinstance(holder, Mapping) and name in holder


def _is_within(path: str, other: str) -> bool:
    return path == other or path.startswith(other + ID_SEP_KEY)


def _is_plain_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and TARGET not in value
