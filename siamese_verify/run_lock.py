"""Claims of files that a process holds until it ends, however it ends: of the runs of a sweep, of an album."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where nothing counts as claimed
    fcntl = None  # type: ignore[assignment]

ALIVE = ".alive"  # in the folder of a run, claimed by its process and by what started it
TRAINING = ".training"  # in the folder of a run, claimed by its first process
TAKEN = ".taken"  # in the folder of a trial, claimed by the search that waits for it
PATIENCE = 1.0  # seconds in which a claim is tried again: those who only look at a file hold it for a moment
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems without locks

log = logging.getLogger(__name__)


def claim(path: Path) -> BinaryIO | None:
    """Claim a file until what is returned is closed, here and in every process that inherits it; None if it is claimed.

    On a file system that machines share, claims hold for all of them if its locks do, as those of NFS 4 and Lustre;
    where there are no locks at all, a warning says so and the file counts as claimed by everybody who asks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    end = time.monotonic() + PATIENCE
    while not _lock(file, exclusive=True):
        if time.monotonic() > end:
            file.close()
            return None
        time.sleep(PATIENCE / 20)
    return file


def is_claimed(path: Path) -> bool:
    """Whether a process holds a claim of a file, on this machine or another."""
    try:
        with path.open("rb") as file:
            return not _lock(file, exclusive=False)
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, exclusive: bool, wait: bool = False) -> bool:
    """Lock a file until it is closed; return whether nobody else's lock forbids it."""
    if fcntl:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _warn_of_no_locks(str(error.strerror))
    return True


@cache
def _warn_of_no_locks(reason: str) -> None:
    log.warning("Files cannot be locked here (%s): let no two commands write to one folder at a time.", reason)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Context manager that one process at a time enters, of those that name the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        _lock(file, exclusive=True, wait=True)
        yield
