"""Whether the values of a configuration are of the kinds that its classes take, before any of them is made."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from siamese_verify.errors import InputError

LEAST = {"seed": 0, "threads": 1, "resamples": 0, "robustness": 0, "processes": 0, "batches": 1}  # of whole numbers
MOST_SEED = 2**32 - 1
COMPOSED = ("datamodule", "baseline")  # of values that are set elsewhere, and told of by the names they have there
SWITCHES = ("allow_leakage", "mirror")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"}


def check_values(config: DictConfig) -> None:
    """Compare a configuration with what its classes are annotated to take.

    Raises:
        InputError: the first value of another kind, by the name that it is set by.
    """
    for name, least in LEAST.items():
        value = config.get(name)
        if value is None:
            continue
        most = MOST_SEED if name == "seed" else None
        if not _fits(value, int) or value < least or (most and value > most):
            limits = f"from {least} to {most}" if most else f"of {least} or more"
            raise InputError(f"{name} must be a whole number {limits}, got {value!r}.")
    for name in SWITCHES:
        if config.get(name) is not None and not _fits(config.get(name), bool):
            raise InputError(f"{name} must be true or false, got {config.get(name)!r}.")
    _check(config, "")


def _check(node: Any, path: str) -> None:
    if isinstance(node, ListConfig):
        for number in range(len(node)):
            _check(_value(node, number), f"{path}[{number}]")
        return
    if not isinstance(node, DictConfig):
        return
    hints = _hints(_value(node, "_target_"))
    for name in sorted(node, key=lambda name: name in COMPOSED):
        value = _value(node, name)
        place = f"{path}.{name}".lstrip(".")
        if isinstance(value, DictConfig | ListConfig):
            _check(value, place)
        hint = hints.get(str(name), Any)
        if value is not None and not _fits(value, hint):
            quotes = " (in quotes: \"'...'\")" if hint is not bool and isinstance(value, int | float) else ""
            wanted = _words(hint) or "something with a _target_"
            raise InputError(
                f"{_named(node, name, place)} must be {wanted}{quotes if wanted.startswith('text') else ''}, "
                f"got {value!r}."
            )


def _value(node: Any, name: Any) -> Any:
    """A value, None where it is missing or leads nowhere: who needs it will say so."""
    try:
        return node[name]
    except Exception:  # each kind of missing value has an error of its own
        return None


def _named(node: DictConfig, name: Any, place: str) -> str:
    """The name that a value is set by: where it is taken from another one, that one's."""
    raw = OmegaConf.to_container(node, resolve=False)
    text = str(raw.get(name)) if isinstance(raw, Mapping) else ""
    return text[2:-1] if text.startswith("${") and text.endswith("}") and text.count("$") == 1 else place


def _hints(target: Any) -> dict[str, Any]:
    """What the arguments of a class or function are annotated with; nothing where that cannot be known."""
    module, _, name = str(target or "").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        return get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # whoever makes it will say what is wrong
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated kind; True where that cannot be told."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str)
    if get_origin(hint) in (list, tuple, Sequence):
        return isinstance(value, ListConfig)
    if hint is types.NoneType or (inspect.isclass(hint) and hint not in (object, Any)):
        return not isinstance(value, str | int | float)
    return True


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_words(one) for one in get_args(hint)]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if hint is types.NoneType:
        return "null"
    return KINDS.get(hint, "a list" if get_origin(hint) in (list, tuple, Sequence) else "")
