"""What entry points share: where the configs are, how to end on a user's mistake, what a run records of itself."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from siamese_verify.atomic_write import DISK_FULL
from siamese_verify.errors import InputError, printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in the wheel, in the repository
CONFIGURING = ("hydra", "omegaconf", "lightning_fabric", "pytorch_lightning", "wandb")  # their errors are of the config
PACKAGES = ("siamese-verify", "torch", "torchvision", "pytorch-lightning", "facenet-pytorch", "numpy", "pillow")


def explained(main: Callable[P, R]) -> Callable[P, R]:
    """End on a user's mistake with its sentence and status 2, on Ctrl-C with status 130, both without a traceback."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints what it raises, and ends with status 1
        logging.raiseExceptions = False  # a log on a full disk is not worth a traceback for each of its lines
        try:
            return main(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit) as end:
            if isinstance(end, SystemExit) and not isinstance(end.__context__, KeyboardInterrupt):
                raise  # not Lightning's answer to Ctrl-C
            print("Interrupted.", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            sentence = sentence_of(error, args)
            if sentence is None:
                raise
            print(f"siamese-verify: {printable(sentence)}", file=sys.stderr)
            raise SystemExit(2) from None

    return run


def sentence_of(error: Exception, arguments: tuple[object, ...]) -> str | None:
    """What a user is told of an error; None for a fault of ours.

    Args:
        error: that ended a command.
        arguments: that the command was called with.
    """
    causes: list[BaseException] = [error]  # Hydra wraps what a constructor raises
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, InputError):
            return str(cause)
        if isinstance(cause, ModuleNotFoundError) and cause.name and _library(error) in CONFIGURING:
            package = cause.name.partition(".")[0].replace("_", "-")
            return f"The configuration asks for {package}, which is not installed: pip install {package}."
        if isinstance(cause, OSError) and _library(cause) not in CONFIGURING and cause.filename:
            way_out = "make room there" if cause.errno in DISK_FULL else "see that it is there and may be used"
            return f"{cause.filename} cannot be read or written ({cause.strerror}): {way_out}, or name another place."
    if _library(error) not in CONFIGURING:
        return None
    told, kind = " ".join(str(error).split()), type(error).__name__
    if kind == "MissingMandatoryValue" and (key := getattr(error, "full_key", "")):
        key = named_as_set(key, arguments)
        return f"{key} is needed and not set: add {key}=... to the command."
    if missing := re.search(r"Missing mandatory value: (\S+)", told):
        return f"{missing[1]} is needed and not set: add {missing[1]}=... to the command."
    if unknown := re.search(r"got an unexpected keyword argument '(\w+)'.*full_key: ([\w.]+)", told):  # added with a +
        return unknown_setting(f"{unknown[2]}.{unknown[1]}", as_dict(next(iter(arguments), None)))
    if kind == "InstantiationException" and len(causes) > 1:
        place = told.rpartition("full_key: ")[2] if "full_key: " in told else "configuration"
        reason = " ".join(str(causes[-1]).split())
        return f"The {place} cannot be made as configured ({reason}): look at what was set of it."
    if _library(error) == "wandb":
        return f"W&B cannot be used ({told}): set WANDB_MODE=offline to keep its files on this machine."
    return told


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def named_as_set(key: str, arguments: tuple[object, ...]) -> str:
    """The setting that a missing value goes back to, as users know it: `data.root`, not `datamodule.photos.root`."""
    from omegaconf import DictConfig, OmegaConf

    for config in arguments:
        if isinstance(config, DictConfig):
            missing = OmegaConf.missing_keys(config)
            if key not in missing:
                end = key.rpartition(".")[2]
                return min((one for one in missing if one.rpartition(".")[2] == end), key=len, default=key)
    return key


@contextmanager
def making(part: str) -> Iterator[None]:
    """Say which part of a configuration it is that cannot be made.

    Raises:
        InputError: whatever was raised within, but what is the user's already.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"The {part} cannot be made as configured ({reason}): look at what was set of it.") from error


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads; None leaves it one for each core.

    Raises:
        InputError: fewer than one.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise InputError(f"torch needs one thread or more, got threads={threads}.")
    torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    """Versions of Python and the packages that decide results, and the git commit of the code."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["commit"] = git_commit()
    return found


def git_commit() -> str:
    """Commit of the checkout that this package lies in, with `+` for uncommitted changes; `none` outside of one."""
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(PACKAGE), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return commit + ("+" if status else "")


def configured(name: str) -> Callable[[Callable[[DictConfig], R]], Callable[[], R]]:
    """Decorate the work of a command: Hydra composes what it is given, and a user's mistake ends with one sentence.

    Args:
        name: of the configuration.
    """
    import hydra

    def decorate(main: Callable[[DictConfig], R]) -> Callable[[], R]:
        # Inside as well: there the configuration is known, and a missing setting is named as users set it.
        compose_and_run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(explained(main))

        @explained
        def run() -> R:
            try:
                result: R = compose_and_run()
            except Exception as error:
                if _library(error) not in ("hydra", "omegaconf"):
                    raise
                overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
                raise InputError(override_mistake(error, name, overrides)) from None
            return result

        return run

    return decorate


def override_mistake(error: Exception, name: str, overrides: list[str]) -> str:
    """Say in one sentence what is wrong with an override, and which settings or choices are most like it."""
    text = " ".join(str(error).split())
    if file := getattr(error, "missing_cfg_file", None):
        group, _, choice = str(file).rpartition("/")
        return f"There is no {group}={choice}: {most_like(choice, getattr(error, 'options', None) or [], group)}"
    if wrong := getattr(error, "override", None):
        return f"{wrong} is no override that Hydra can read: write KEY=VALUE, and put what is special in quotes."
    if there := re.search(r"An item is already at '([^']+)'", text):
        return f"{there[1]} is there already: leave out the + before it."
    if several := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{several[1]} has several values: add --multirun to run each, or write a list in brackets."
    if key := re.search(r"(?:Could not (?:override|delete(?: from config\.)?)|but config group) '([^'=]+)", text):
        return unknown_setting(key[1], composed_without(key[1], name, overrides))
    return text.rstrip(".") + "."


def composed_without(key: str, name: str, overrides: list[str]) -> dict[str, object]:
    """The configuration without the overrides of a key, or, if others fail as well, with the choices or with none."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    names = [re.split("[=@]", override.lstrip("+~"))[0] for override in overrides]
    others = [override for override, own in zip(overrides, names, strict=True) if own != key.partition("@")[0]]
    choices = [override for override, own in zip(overrides, names, strict=True) if (CONF / own).is_dir()]
    GlobalHydra.instance().clear()
    for kept in (others, choices, []):
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return as_dict(compose(name, kept, return_hydra_config=key.startswith("hydra.")))
        except Exception:  # the second mistake is told when the first is mended
            continue
    return {}


def unknown_setting(key: str, configuration: dict[str, object]) -> str:
    """Say that there is no such setting, and which are most like it."""
    parent, _, last = key.rpartition(".")
    beside: object = configuration
    for part in parent.split(".") if parent else ():
        beside = beside.get(part) if isinstance(beside, dict) else None
    if not isinstance(beside, dict):
        return f"There is no setting {key}: {most_like(key, every_key(configuration))}"
    names = [name for name in beside if not name.startswith("_") and name != last]
    return f"There is no setting {key}: {most_like(last, names, parent, key.removesuffix(last))}"


def every_key(configuration: dict[str, object], prefix: str = "") -> list[str]:
    """All settings, as they are written in an override."""
    keys: list[str] = []
    for name, value in configuration.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += every_key(value, f"{prefix}{name}.")
    return keys


def most_like(name: str, names: list[str], of: str = "", prefix: str = "") -> str:
    """Ask for the names that are most like one, or tell those that there are.

    Args:
        name: what was written.
        names: what there is.
        of: what they are names of.
        prefix: what stands before a name in an override.
    """
    if close := difflib.get_close_matches(name, names, n=3, cutoff=0.65):
        return f"did you mean {' or '.join(prefix + one for one in close)}?"
    there = sorted({one.partition(".")[0] for one in names})
    return f"{of or 'the configuration'} has {', '.join(there) or 'none'}."


def as_dict(configuration: object) -> dict[str, object]:
    """A composed configuration as plain dictionaries; nothing of anything else."""
    from omegaconf import DictConfig, OmegaConf

    if not isinstance(configuration, DictConfig):
        return {}
    found: dict[str, object] = OmegaConf.to_container(configuration, resolve=False)  # type: ignore[assignment]
    return found
