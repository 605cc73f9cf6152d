"""InsightFace's verification sets: `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces import open_photo
from siamese_verify.protocols.pair_file import joined
from siamese_verify.protocols.protocol import Listed, Protocol

MOST_BYTES = 4 * 2**30
FOLDS = 10


class EncodedPhotos:
    """Photos as bytes of image files, decoded when asked for.

    Args:
        contents: of N files.
        names: N names for people to read.
        identities: (N,) int64.
    """

    def __init__(self, contents: list[bytes], names: list[str], identities: np.ndarray) -> None:
        self.contents, self.names, self.identities = contents, names, identities

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.read(row), self.names[row])

    def read(self, row: int) -> bytes:
        """The file as it is."""
        return self.contents[row]


class Plain(pickle.Unpickler):
    """Reads lists, bytes and booleans, Python's and numpy's; whatever else a pickle asks for is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        """Give only what builds numpy's booleans and Python 2's bytes."""
        if (module, name) in {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}:
            return _boolean
        if (module, name) == ("numpy", "dtype"):
            return _BooleanType
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        raise InputError(f"it asks for {module}.{name}, which no set of photos needs")


class _BooleanType:
    """Stands for numpy's dtype, and takes no other than bool."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind not in ("b1", b"b1", "bool", "?"):
            raise InputError(f"it holds numbers of the type {kind!r} where booleans should be")

    def __setstate__(self, _: Any) -> None:
        """A boolean has no byte order to set."""


def _boolean(kind: Any, content: Any) -> bool:
    if not isinstance(kind, _BooleanType) or not isinstance(content, bytes | str) or len(content) != 1:
        raise InputError("it holds numbers where booleans should be")
    return content not in (b"\0", "\0")


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise InputError("it holds text where photos should be")
    return text.encode("latin-1")


def insightface_bin(path: str | Path, name: str | None = None) -> Protocol:
    """Read a pickle of encoded photos, two for each pair, and of who is the same, without running anything in it.

    Args:
        path: of the `.bin` file.
        name: of the protocol; by default the file's.

    Returns:
        The pairs in the order of the file, in ten folds of neighbours as InsightFace's own evaluation has them if there
        are ten pairs or more. A photo that comes again is read once. Photos that genuine pairs join, and only they,
        are taken to show one person; where the set contradicts that, each pair is taken for itself.

    Raises:
        InputError: no such file, larger than 4 GiB, or no such pickle; the message says what it asked for.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"There is no file {path}: give one of InsightFace's sets, such as lfw.bin.")
    if file.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} has {file.stat().st_size / 2**30:.1f} GiB, the limit is {MOST_BYTES // 2**30} GiB.")
    try:
        content = Plain(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        photos, same = _checked(content)
    except InputError as error:
        raise InputError(f"{path} is no set of InsightFace's: {error}.") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is no set of InsightFace's, or damaged ({type(error).__name__}).") from None
    places: dict[bytes, int] = {}
    rows = np.array([places.setdefault(photo, len(places)) for photo in photos])
    identities = joined(len(places), rows[::2][same], rows[1::2][same])
    if ((identities[rows[::2]] == identities[rows[1::2]]) != same).any():
        rows = np.arange(len(photos))
        identities = joined(len(photos), rows[::2][same], rows[1::2][same])
    _, first = np.unique(rows, return_index=True)
    names = [f"pair {row // 2 + 1} {'ab'[row % 2]}" for row in first]
    folds = np.repeat(np.arange(FOLDS), [len(part) for part in np.array_split(same, FOLDS)])
    listed = Listed(rows[::2], rows[1::2], same, folds if len(same) >= FOLDS else None)
    encoded = EncodedPhotos([photos[row] for row in first], names, identities)
    return Protocol(name or file.stem, encoded, listed, people_known=False)


def _checked(content: Any) -> tuple[list[bytes], np.ndarray]:
    if not (
        isinstance(content, tuple | list) and len(content) == 2 and all(isinstance(part, list) for part in content)
    ):
        raise InputError("it holds no list of photos and list of booleans")
    photos, same = content
    for row, photo in enumerate(photos):
        if not isinstance(photo, bytes):
            raise InputError(f"entry {row} of its photos is {type(photo).__name__}, not bytes")
    for row, one in enumerate(same):
        if not isinstance(one, bool):
            raise InputError(f"entry {row} of its booleans is {type(one).__name__}")
    if len(photos) != 2 * len(same) or not same:
        raise InputError(f"it holds {len(photos)} photos for {len(same)} pairs")
    return photos, np.array(same, dtype=np.bool_)
