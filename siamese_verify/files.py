"""Files that are there completely or not at all."""

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
