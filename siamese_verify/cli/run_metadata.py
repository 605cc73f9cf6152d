"""Versions of the code and packages that a run records, and its threads."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from siamese_verify.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = ("siamese-verify", "torch", "torchvision", "pytorch-lightning", "facenet-pytorch", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, and the git commit of the code."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["commit"] = git_commit()
    return found


def git_commit() -> str:
    """Commit of the checkout that contains this package, with `+` for uncommitted changes; `none` outside of one."""
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


def set_threads(threads: int | None) -> None:
    """Limit torch's threads; None leaves one for each core.

    Raises:
        InputError: threads < 1.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise InputError(f"threads must be 1 or more, got {threads}.")
    torch.set_num_threads(threads)
