"""In what runs differ: the settings of their resolved configurations that are not alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_verify.run_record import RunRecord

SEED = "seed"
ABSENT = None  # value of a parameter that a run's configuration does not have
ELSEWHERE = {  # say where or how a run ran, not what it is, or follow from initialize_from
    *("hydra", "sweep", "resume", "name", "logger", "trust_code"),
    *("earlier_stages", "resamples", "remember_baseline", "keep_embeddings", "export_onnx"),
}
CACHE = "cache"  # likewise, in any part


def differing(records: Sequence[RunRecord], settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings in which resolved configurations differ, with the value of each run.

    A choice of a config group is one setting: `loss` with the names that the command line chose, or with those of the
    classes. Left out is what follows from another setting: copies of its value (by interpolation), what a choice alone
    decides, and paths in the run's own folder.

    Args:
        records: of N runs.
        settings: of these runs, by dotted name.

    Returns:
        (N,) values by name of the setting; those given on a command line first, the seed last.
    """
    flat = [dict(values) for values in settings]
    given = [dict(_assignments(record.overrides)) for record in records]
    unknown = [{name for name, value in values.items() if _unresolved(value)} for values in flat]
    for values, overrides, names_of in zip(flat, given, unknown, strict=True):
        if not values:  # it failed before it was composed: what its command line does not say is not known
            names_of.add("")
        values.update({name: _parsed(text) for name, text in overrides.items() if not values or name in names_of})
    names = list(dict.fromkeys(name for values in flat for name in values))
    chosen = {name.rpartition(".")[0] for name in names if name.endswith("._target_")}
    columns: dict[str, list[Any]] = {}
    for group in sorted(chosen & {name for overrides in given for name in overrides}):
        if all(group in overrides for overrides in given):
            columns[group] = [overrides[group] for overrides in given]
    for name in names:
        group = name.removesuffix("._target_")
        if name in chosen or group in columns:
            continue  # null instead of a choice, which the choice's own column shows
        column = [one.get(name) for one in flat]
        columns[group] = [_last(value) for value in column] if group != name else column
    varying = {}
    for name, column in columns.items():
        rows = zip(column, unknown, given, strict=True)
        known = {repr(value) for value, without, own in rows if name in own or not _below(name, without)}
        if len(known) > 1:
            varying[name] = column
    explicit = {name for overrides in given for name in overrides}
    order = sorted(varying, key=lambda name: (name not in explicit, name.count(".")))
    found: dict[str, list[Any]] = {}
    seen: set[str] = set()
    for name in order:
        column = varying[name]
        copy = repr(column) in seen
        seen |= {repr(column), repr([_last(one.get(f"{name}._target_")) for one in flat])}  # by name, or by class
        above = [choice for choice in chosen & set(varying) if name.startswith(f"{choice}.")]
        if name in explicit or not (copy or any(_decides(varying[choice], column) for choice in above)):
            found[name] = column
    return {name: found[name] for name in sorted(found, key=lambda name: name == SEED)}


def settings_of(record: RunRecord, folder: Path) -> dict[str, Any]:
    """Leaves of a run's configuration by dotted name; lists as text, paths in the run's own folder as `.`."""
    trainer = record.configuration.get("trainer")
    begun = trainer.get("default_root_dir") if isinstance(trainer, Mapping) else None  # before it was moved
    return _leaves(record.configuration, {folder.parts[-2:], Path(str(begun or folder)).parts[-2:]})


def _leaves(values: Mapping[str, Any], own: set[tuple[str, ...]], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name == CACHE or (not prefix and name in ELSEWHERE):
            continue
        if isinstance(value, Mapping):
            found |= _leaves(value, own, f"{prefix}{name}.")
        elif isinstance(value, str):
            found[f"{prefix}{name}"] = "." if _inside(value, own) else value
        else:
            found[f"{prefix}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found


def _unresolved(value: Any) -> bool:
    """Whether a value is an interpolation that was not resolved."""
    return isinstance(value, str) and "${" in value


def _below(name: str, places: set[str]) -> bool:
    """Whether a setting is one of the places, or below one; everything is below the empty place."""
    if not places:
        return False
    parts = name.split(".")
    return any(".".join(parts[:count]) in places for count in range(len(parts) + 1))


def _inside(text: str, own: set[tuple[str, ...]]) -> bool:
    """Whether a value is a path in one of a run's own folders, given by their last two parts."""
    parts = Path(text).parts
    return any(parts[at : at + 2] in own for at in range(len(parts) - 1))


def _assignments(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of overrides, without those of Hydra itself."""
    split = [one.lstrip("+~").partition("=") for one in overrides]
    pairs = [(name.partition("@")[0], value.strip("'\"")) for name, _, value in split]
    return [(name, value) for name, value in pairs if name.partition(".")[0].partition("/")[0] not in ELSEWHERE]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _last(target: Any) -> Any:
    """Name of a class or function without its module; `none` where a choice is null."""
    return "none" if target is None else str(target).rpartition(".")[2]


def _decides(choice: Sequence[Any], column: Sequence[Any]) -> bool:
    """Whether runs of the same choice have the same value."""
    pairs = {(repr(one), repr(value)) for one, value in zip(choice, column, strict=True)}
    return len(pairs) == len({one for one, _ in pairs})
