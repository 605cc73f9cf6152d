"""Embeddings of photos, kept beside an output until that is finished."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.faces import Quality
from siamese_verify.files import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a decision needs to know of a face besides its embedding; NaN where it is not known.
FACE = np.dtype(
    [(name, np.float64) for name in (*Quality._fields, "probability", "turned")]
    + [("box", np.float64, 4), ("faces", np.int32)]
)


class Part(NamedTuple):
    """Some photos: each has an error, or one face or more."""

    keys: NDArray[np.str_]  # (P,) see `photo_key`
    errors: NDArray[np.str_]  # (P,) why there is none, empty otherwise
    counts: NDArray[np.int32]  # (P,) faces
    faces: NDArray[np.void]  # (F,) of `FACE`, photo after photo
    embeddings: NDArray[np.float32]  # (F,D) unit rows


def photo_key(path: Path) -> str:
    """Name the content of a photo without reading it: by path, size, and times of change; empty without a file.

    The time at which its permissions changed counts as well: a file that may be read by now is worth another try.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return ""
    told = (str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()


class KeptEmbeddings:
    """A folder of faces' embeddings, in parts that are there completely or not at all.

    These are personal data: nobody else may read the folder, and `remove` has to be called as soon as it has served.

    Args:
        folder: made if it is missing.
        origin: of the embeddings, such as a model's fingerprint; parts of another are removed.

    Raises:
        InputError: another process is using the folder, or it cannot be made.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder, self.origin = folder, origin
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = _locked(folder)
        except BlockingIOError:
            raise InputError(f"Another process is writing to {folder}: wait for it, or write elsewhere.") from None
        except OSError as error:
            raise InputError(f"The folder {folder} cannot be made: {error}.") from None
        self._next = 0

    def parts(self) -> Iterator[Part]:
        """Read what is there; what is damaged or of another origin is removed."""
        for path in sorted(self.folder.glob("*.npz")):
            self._next = max(self._next, int(path.stem) + 1 if path.stem.isdecimal() else 0)
            try:
                with np.load(path, allow_pickle=False) as content:
                    if str(content["origin"]) != self.origin:
                        raise ValueError(content["origin"])
                    part = Part(*(content[name] for name in Part._fields))
                    if part.faces.dtype != FACE or not len(part.faces) == len(part.embeddings) == part.counts.sum():
                        raise ValueError(part.faces.dtype)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)
            else:
                yield part

    def add(self, part: Part) -> None:
        """Keep some more, after `parts` was read."""
        content = io.BytesIO()
        np.savez(content, origin=np.array(self.origin), **part._asdict())
        write_whole(self.folder / f"{self._next:06d}.npz", content.getvalue())
        self._next += 1

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder)


def _locked(folder: Path) -> int | None:
    """Lock a folder against other processes, where the system can; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        raise
    return number
