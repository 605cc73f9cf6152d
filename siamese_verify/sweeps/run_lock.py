"""Claims of files that a process holds until it ends, however it ends: they show which runs of a sweep are alive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where nothing counts as claimed
    fcntl = None  # type: ignore[assignment]

ALIVE = ".alive"  # in the folder of a run, claimed by its process and by what started it
TAKEN = ".taken"  # in the folder of a trial, claimed by the search that waits for it


def claim(path: Path) -> BinaryIO | None:
    """Claim a file until what is returned is closed, here and in every process that inherits it; None if it is claimed.

    On a file system that machines share, claims hold for all of them if its locks do, as those of NFS 4 and Lustre.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_claimed(path: Path) -> bool:
    """Whether a process holds a claim of a file, on this machine or another."""
    if not path.exists():
        return False
    if file := claim(path):
        file.close()
    return file is None


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Context manager that one process at a time enters, of those that name the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
