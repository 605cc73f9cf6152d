"""What entry points share: where the configs are, how to end on a user's mistake, what a run records of itself."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ParamSpec, TypeVar

from siamese_verify.errors import InputError, printable

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
            if isinstance(cause, ModuleNotFoundError) and cause.name:
                package = cause.name.partition(".")[0].replace("_", "-")
                sentence = f"The configuration asks for {package}, which is not installed: pip install {package}."
            print(f"siamese-verify: {printable(sentence)}", file=sys.stderr)
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
