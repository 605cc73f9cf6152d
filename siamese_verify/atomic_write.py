"""Files written completely or not at all, and the user's cache and data folders."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has none, and asks for O_BINARY
DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def atomic_write(path: str | Path, content: bytes | memoryview, *, private: bool = False, sync: bool = True) -> None:
    """Write a file atomically, see `atomic_open`."""
    with atomic_open(path, private=private, sync=sync) as file:
        file.write(content)


@contextmanager
def atomic_open(path: str | Path, *, private: bool = False, sync: bool = True) -> Iterator[BinaryIO]:
    """Context manager of a file that replaces `path` when everything is written.

    A process that is killed, or a full disk, leaves the old file or none. The file is written in the same folder under
    a name that cannot be guessed, so that no link prepared there leads elsewhere, then renamed.

    Args:
        path: of the file; a link there is replaced, not followed.
        private: readable for its owner only, as pictures of people should be; else as the umask says.
        sync: wait until it is on the disk before it is renamed; False for many small files that can be made again.

    Raises:
        OSError: it cannot be written; `filename` is `path`, and a full disk is reported with its free space.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "it is a folder" if path.is_dir() else "it is not a regular file"
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, kind, str(path))
    unfinished = path.with_name(f".{os.urandom(8).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(unfinished, flags, 0o600 if private else 0o666)
    except OSError as error:
        raise _write_error(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)  # before the free space is measured
        if error.filename not in (None, str(unfinished), unfinished):
            raise  # of another file that was read meanwhile
        raise _write_error(path, error) from None
    finally:
        unfinished.unlink(missing_ok=True)


def atomic_append(path: str | Path, content: bytes) -> None:
    """Append to a file: everything, or nothing.

    Raises:
        OSError: see `atomic_open`; a link at `path`.
    """
    try:
        with open(path, "ab", opener=_open_without_links) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                file.write(content)
                file.flush()
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        raise _write_error(Path(path), error) from None


def _open_without_links(path: str, flags: int) -> int:
    """Opener for `open` that refuses links."""
    return os.open(path, flags | NO_LINKS | getattr(os, "O_CLOEXEC", 0), 0o666)


def _write_error(path: Path, error: OSError) -> OSError:
    """The error of a file that cannot be written, with its name and, on a full disk, the free space."""
    import shutil

    reason = error.strerror or str(error)
    if error.errno in (*DISK_FULL, None):  # NumPy gives no number
        with suppress(OSError):
            reason = f"{reason}, {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    return OSError(error.errno or errno.EIO, reason, str(path))


def cache_folder() -> Path:
    """Folder of what can be made again: `$XDG_CACHE_HOME/siamese-verify`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "siamese-verify"


def data_folder() -> Path:
    """Folder of the user's data: `$XDG_DATA_HOME/siamese-verify`."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "siamese-verify"
