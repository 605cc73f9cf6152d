"""Hydra configurations: composing them, checking their values, and explaining mistakes in overrides."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import shlex
import types
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese_verify.cli.run_metadata import PACKAGE
from siamese_verify.errors import InputError, did_you_mean
from siamese_verify.models.metadata import code_of_others
from siamese_verify.run_record import has_plain_interpolations
from siamese_verify.sweeps.child_run import quoted

if TYPE_CHECKING:
    from siamese_verify.encoders import Encoder

R = TypeVar("R")

CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in the wheel, in the repository
MINIMUM = {"seed": 0, "threads": 1, "resamples": 0, "robustness": 0, "processes": 0, "batches": 1}
MAX_SEED = 2**32 - 1
CHOSEN = {"trainer.precision": "auto"}  # values that stand for one that the class takes, by the machine
COMPOSED = ("datamodule", "baseline")  # take their values from settings elsewhere, which errors name
SWITCHES = ("allow_leakage", "mirror")
OPTIONAL = ("augmentation", "loss", "method", "miner", "scheduler")  # groups that ~GROUP removes
GROUP_VALUE = "Config group override must be"  # of Hydra's ValueError
KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"}


def hydra_form(override: str) -> str:
    """An override as Hydra takes it: `none` for null where a group has that, and quotes around a value that needs them.

    What could be a list, a sweep, a function or an interpolation is left as it is.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    setting, _, value = override.partition("=")
    if value == "null" and (CONF / setting / "none.yaml").is_file():
        return f"{setting}=none"
    if not value or re.search(r"[][(){},'\"\\$]", value):
        return override
    for form in (override, f"{setting}={quoted(value)}"):
        with suppress(HydraException):
            OverridesParser.create().parse_override(form)
            return form
    return override


def choices_of(name: str) -> dict[str, list[str]]:
    """Choices of each group of the configuration `name`."""
    groups: dict[str, list[str]] = {}
    for default in cast("DictConfig", OmegaConf.load(CONF / f"{name}.yaml")).defaults:
        if isinstance(default, str):
            groups |= {} if default == "_self_" else choices_of(default)
        elif (CONF / (group := str(next(iter(default))))).is_dir():
            groups[group] = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return groups


def override_error(error: Exception, name: str, overrides: list[str], added: Sequence[str] = ()) -> str:
    """Sentence on what is wrong with an override, with the most similar settings or choices.

    Args:
        error: of Hydra or OmegaConf.
        name: of the configuration.
        overrides: of the command line.
        added: overrides that make folders of the user's own known.
    """
    text = " ".join(str(error).split())
    if file := getattr(error, "missing_cfg_file", None):
        group, _, choice = str(file).rpartition("/")
        return f"There is no {group}={choice}: {suggestion(choice, getattr(error, 'options', None) or [], group)}"
    if wrong := getattr(error, "override", None):
        setting, _, value = str(wrong).partition("=")
        text = quoted(value) if '"' in value else f'"{value}"'
        form = shlex.quote(f"{setting}={text}") if value else "KEY=VALUE, and quote special characters"
        return f"{wrong} is not a valid Hydra override: write {form}."
    if text.startswith(GROUP_VALUE):
        choices = choices_of(name)
        for one in overrides:
            group, _, value = one.partition("=")
            if group in choices and re.fullmatch(r"null|true|false|[-+.\d]+.*", value, re.IGNORECASE):
                none = f"; ~{group} removes it" if group in OPTIONAL else ""
                return f"There is no {one}: {group} has {', '.join(choices[group])}{none}."
    if existing := re.search(r"An item is already at '([^']+)'", text):
        return f"{existing[1]} exists already: leave out the + before it."
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]} has several values: add --multirun to run each, or write a list in brackets."
    if key := re.search(r"(?:Could not (?:override|delete(?: from config\.)?)|but config group) '([^'=]+)", text):
        composed = compose_without(key[1], name, overrides, added)
        parent, _, last = key[1].rpartition(".")
        target = OmegaConf.select(OmegaConf.create(composed), f"{parent}._target_")
        for one in overrides:
            if target and one.startswith(f"{key[1]}=") and last in parameters_of(str(target)):
                return f"{key[1]} is not in the configuration, but {target} takes it: write +{one}."
        return unknown_setting(key[1], composed)
    return text.rstrip(".") + "."


def compose_without(key: str, name: str, overrides: list[str], added: Sequence[str] = ()) -> dict[str, object]:
    """Configuration composed without the overrides of `key`; if that fails too, with choices of groups only or none."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    names = [re.split("[=@]", override.lstrip("+~"))[0] for override in overrides]
    others = [override for override, own in zip(overrides, names, strict=True) if own != key.partition("@")[0]]
    choices = [override for override, own in zip(overrides, names, strict=True) if (CONF / own).is_dir()]
    GlobalHydra.instance().clear()
    for kept in ([*others, *added], [*choices, *added], []):
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return as_dict(compose(name, kept, return_hydra_config=key.startswith("hydra.")))
        except Exception:  # a second mistake, reported once the first is corrected
            continue
    return {}


def unknown_setting(key: str, configuration: dict[str, object]) -> str:
    """Sentence that a setting does not exist, with the most similar ones."""
    parent, _, last = key.rpartition(".")
    siblings: object = configuration
    for part in parent.split(".") if parent else ():
        siblings = siblings.get(part) if isinstance(siblings, dict) else None
    if not isinstance(siblings, dict):
        return f"There is no setting {key}: {suggestion(key, all_settings(configuration))}"
    names = [name for name in siblings if not name.startswith("_") and name != last]
    return f"There is no setting {key}: {suggestion(last, names, parent, key.removesuffix(last))}"


def refused_setting(part: str, name: str, configuration: object) -> str:
    """Sentence that a class does not take a setting, which was misspelt or comes from another choice of the part.

    Args:
        part: of the configuration, such as loss.
        name: of the first setting that the class refuses.
        configuration: that is composed, if it is known.
    """
    settings = as_dict(OmegaConf.select(configuration, part) if isinstance(configuration, DictConfig) else None)
    if "_target_" not in settings:
        return unknown_setting(f"{part}.{name}", as_dict(configuration))
    target = str(settings["_target_"])
    taken = parameters_of(target) or [name]
    if difflib.get_close_matches(name, taken, cutoff=0.65):
        return unknown_setting(f"{part}.{name}", as_dict(configuration))
    refused = [one for one in settings if not one.startswith("_") and one not in taken]
    dropped = " ".join(f"~{part}.{one}" for one in refused)
    return f"{target} takes no {', '.join(refused)}: leave out what another choice of {part} has by {dropped}."


def parameters_of(target: str) -> list[str]:
    """Names of the parameters of a class or function; none where that is not known."""
    try:
        return [*inspect.signature(pkgutil.resolve_name(target)).parameters]
    except (ImportError, AttributeError, ValueError, TypeError):  # of C
        return []


def all_settings(configuration: dict[str, object], prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
    names: list[str] = []
    for name, value in configuration.items():
        names.append(f"{prefix}{name}")
        if isinstance(value, dict):
            names += all_settings(value, f"{prefix}{name}.")
    return names


def suggestion(name: str, names: list[str], parent: str = "", prefix: str = "") -> str:
    """The names most similar to `name`, as a question; else all names below `parent`."""
    if question := did_you_mean(name, names, prefix=prefix):
        return question
    available = sorted({one.partition(".")[0] for one in names})
    return f"{parent or 'the configuration'} has {', '.join(available) or 'none'}."


def setting_name(key: str, arguments: tuple[object, ...]) -> str:
    """Setting that a missing value comes from, as users write it: `data.root`, not `datamodule.photos.root`."""
    for config in arguments:
        if isinstance(config, DictConfig):
            try:
                missing = OmegaConf.missing_keys(config)
            except OmegaConfBaseException as error:  # an interpolation of a missing value, which the error names
                named = re.search(r"Missing mandatory value: (\S+)", str(error))
                return named[1] if named else key
            if key not in missing:
                end = key.rpartition(".")[2]
                return min((one for one in missing if one.rpartition(".")[2] == end), key=len, default=key)
    return key


def encoder_settings(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration of the encoder."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg.encoder, resolve=True, throw_on_missing=True))


def make_encoder(cfg: DictConfig) -> Encoder:
    """The encoder of a configuration; code of others that it names was asked for by the command.

    Raises:
        InputError: wrong settings.
    """
    from hydra.utils import instantiate

    from siamese_verify.encoders import create_encoder

    settings = encoder_settings(cfg)
    if (others := code_of_others(settings)) or cfg.get("initialize_from"):  # published weights are not needed
        return create_encoder(settings, others)
    return cast("Encoder", instantiate(cfg.encoder))


def trusted_code(cfg: DictConfig) -> list[str]:
    """Classes of others that the setting `trust_code` permits to import, such as my_package.MyNet."""
    asked = cfg.get("trust_code")
    return [str(one) for one in asked] if isinstance(asked, ListConfig) else [str(asked)] if asked else []


@cache
def targets_in(folder: Path = CONF) -> frozenset[str]:
    """Targets that the configs of a folder name; those of this package may be imported and called."""
    texts = (path.read_text(encoding="utf-8") for path in folder.rglob("*.yaml"))
    return frozenset(target for text in texts for target in re.findall(r"_target_: ?([\w.]+)", text))


def refuse_code(configuration: object, trusted: Collection[str], source: object) -> None:
    """Check that a configuration read from a file names no code of others, before it is instantiated.

    Args:
        configuration: any part of a configuration.
        trusted: targets of others that are permitted.
        source: what it was read from, for the message.

    Raises:
        InputError: it names a target that is neither of a config of this package nor trusted, or has interpolations
            that could make one.
    """
    if isinstance(configuration, Mapping):
        target = configuration.get("_target_")
        if target is not None and target not in targets_in() and target not in trusted:
            raise InputError(
                f"{source} names code of others, {target}, which is never imported unasked: if you trust it, add "
                f"trust_code={target} (or a list in brackets)."
            )
        configuration = list(configuration.values())
    if isinstance(configuration, list | tuple):
        for part in configuration:
            refuse_code(part, trusted, source)
    if isinstance(configuration, str) and not has_plain_interpolations(configuration):
        raise InputError(
            f"{source} computes a setting by {configuration}, which could hide code of others: write the value itself."
        )


def as_dict(configuration: object) -> dict[str, object]:
    """A composed configuration as plain dictionaries; empty for anything else."""
    if not isinstance(configuration, DictConfig):
        return {}
    return cast("dict[str, object]", OmegaConf.to_container(configuration, resolve=False))


def check_values(config: DictConfig) -> None:
    """Compare a configuration with the type annotations of the classes that it names.

    Raises:
        InputError: for the first value of another type, naming its setting.
    """
    for name, least in MINIMUM.items():
        value = config.get(name)
        if value is None:
            continue
        most = MAX_SEED if name == "seed" else None
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
    hints = _hints(str(_value(node, "_target_") or ""))
    for name in sorted(node, key=lambda name: name in COMPOSED):
        value = _value(node, name)
        place = f"{path}.{name}".lstrip(".")
        if isinstance(value, DictConfig | ListConfig):
            _check(value, place)
        hint = hints.get(str(name), Any)
        if value is not None and not _fits(value, hint) and CHOSEN.get(place) != value:
            quotes = " (in quotes: \"'...'\")" if hint is not bool and isinstance(value, int | float) else ""
            wanted = _type_name(hint) or "something with a _target_"
            raise InputError(
                f"{_named(node, name, place)} must be {wanted}{quotes if wanted.startswith('text') else ''}, "
                f"got {value!r}."
            )


def _value(node: Any, name: Any) -> Any:
    """A value; None where it is missing or its interpolation fails: the class that needs it reports that."""
    try:
        return node[name]
    except Exception:  # each kind of missing value has an error of its own
        return None


def _named(node: DictConfig, name: Any, place: str) -> str:
    """Name of the setting that a value comes from: that of an interpolation, or its own place."""
    raw = OmegaConf.to_container(node, resolve=False)
    text = str(raw.get(name)) if isinstance(raw, Mapping) else ""
    return text[2:-1] if text.startswith("${") and text.endswith("}") and text.count("$") == 1 else place


@cache
def _hints(target: str) -> dict[str, Any]:
    """Type annotations of a class's or function's arguments; empty where they cannot be resolved."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        return get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # instantiating it reports what is wrong
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type; True where that cannot be decided."""
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


def _type_name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_type_name(one) for one in get_args(hint)]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if hint is types.NoneType:
        return "null"
    return KIND_NAMES.get(hint, "a list" if get_origin(hint) in (list, tuple, Sequence) else "")
