"""Files that are there completely or not at all, and the folders that are the user's."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write under another name, then rename: whoever is killed in between leaves the old file, or none."""
    # The process number keeps two writers apart; the plain open keeps the user's umask, which tempfile would not.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/siamese-verify`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "siamese-verify"


def data_folder() -> Path:
    """Where what is the user's is kept: `$XDG_DATA_HOME/siamese-verify`."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "siamese-verify"
