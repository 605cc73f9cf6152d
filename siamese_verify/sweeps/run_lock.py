"""Locks that show which runs of a sweep are alive: the system releases them when a process ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where no run counts as alive
    fcntl = None  # type: ignore[assignment]

LOCK = ".alive"


def hold_run(folder: Path) -> BinaryIO:
    """Mark a run as alive until the file returned is closed here and in every process that inherits it.

    Several processes hold the same run: the sweep that started it and the run itself. On a file system shared by
    machines this needs its locks to be shared too, as those of NFS 4 and Lustre are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("ab")
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def is_alive(folder: Path) -> bool:
    """Whether a process holds a run, on this machine or another."""
    if fcntl is None or not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Context manager that one process at a time enters, of those that name the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(path)
        yield
