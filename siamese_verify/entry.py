"""What entry points share: where the configs are, how to end on a user's mistake, what a run records of itself."""

from __future__ import annotations

import difflib
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ParamSpec, TypeVar

from siamese_verify.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = Path(__file__).resolve().parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in the wheel, in the repository
CONFIGURING = ("hydra", "omegaconf", "lightning_fabric", "pytorch_lightning")  # whose own errors are of the config
PACKAGES = ("siamese-verify", "torch", "torchvision", "pytorch-lightning", "facenet-pytorch", "numpy", "pillow")


def explained(main: Callable[P, R]) -> Callable[P, R]:
    """End on a user's mistake with its sentence and status 2, on Ctrl-C with status 130, both without a traceback."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit) as end:
            if isinstance(end, SystemExit) and not isinstance(end.__context__, KeyboardInterrupt):
                raise  # not Lightning's answer to Ctrl-C
            print("Interrupted.", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            configuring = type(error).__module__.partition(".")[0] in CONFIGURING
            cause: BaseException | None = error  # Hydra wraps what a constructor raises
            while cause is not None and not isinstance(cause, InputError | ModuleNotFoundError):
                cause = cause.__cause__
            if not configuring and not isinstance(cause, InputError):
                raise
            sentence = str(cause or " ".join(str(error).split()))
            if type(error).__name__ == "MissingMandatoryValue" and (key := getattr(error, "full_key", "")):
                key = named_as_set(key, args)
                sentence = f"{key} is needed and not set: add {key}=... to the command."
            unknown = re.search(r"got an unexpected keyword argument '(\w+)'.*full_key: ([\w.]+)", sentence)
            if unknown is not None:  # what was added with a +
                sentence = unknown_setting(f"{unknown[2]}.{unknown[1]}", as_dict(next(iter(args), None)))
            if isinstance(cause, ModuleNotFoundError) and cause.name:
                package = cause.name.partition(".")[0].replace("_", "-")
                sentence = f"The configuration asks for {package}, which is not installed: pip install {package}."
            print(f"siamese-verify: {sentence}", file=sys.stderr)
            raise SystemExit(2) from None

    return run


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


def composed(name: str) -> Callable[[Callable[[], R]], Callable[[], R]]:
    """Decorate `hydra.main`: end on a configuration that cannot be composed with one sentence and status 2.

    With HYDRA_FULL_ERROR=1 in the environment nothing is done.

    Args:
        name: of the configuration.
    """

    def decorate(main: Callable[[], R]) -> Callable[[], R]:
        @functools.wraps(main)
        def run() -> R:
            if "HYDRA_FULL_ERROR" in os.environ:
                return main()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints the error and ends by itself
            try:
                return main()
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in ("hydra", "omegaconf"):
                    raise
                overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
                print(f"siamese-verify: {override_mistake(error, name, overrides)}", file=sys.stderr)
                raise SystemExit(2) from None
            finally:
                del os.environ["HYDRA_FULL_ERROR"]

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
