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
from siamese_verify.protocols.pair_file import connected_identities
from siamese_verify.protocols.protocol import PairList, PairProtocol

MAX_BYTES = 4 * 2**30
FOLDS = 10


class EncodedPhotos:
    """Photos in memory as the content of image files, decoded on access.

    Args:
        contents: of N files.
        names: N names.
        identities: (N,) int64.
    """

    def __init__(self, contents: list[bytes], names: list[str], identities: np.ndarray) -> None:
        self.contents, self.names, self.identities = contents, names, identities

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, row: int) -> Image.Image:
        return open_photo(self.read(row), self.names[row])

    def read(self, row: int) -> bytes:
        """Content of a photo's file."""
        return self.contents[row]


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler of lists, bytes and booleans, Python's and numpy's; anything else is refused, and nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        """Stand-ins for what builds numpy's booleans and Python 2's bytes."""
        if (module, name) in {("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}:
            return _boolean
        if (module, name) == ("numpy", "dtype"):
            return _BooleanDtype
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        raise InputError(f"it calls {module}.{name}, which no set of photos needs")


class _BooleanDtype:
    """Stand-in for numpy's dtype that accepts bool alone."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind not in ("b1", b"b1", "bool", "?"):
            raise InputError(f"it holds numbers of the type {kind!r} where booleans should be")

    def __setstate__(self, _: Any) -> None:
        """A boolean has no byte order to set."""


def _boolean(kind: Any, content: Any) -> bool:
    if not isinstance(kind, _BooleanDtype) or not isinstance(content, bytes | str) or len(content) != 1:
        raise InputError("it holds numbers where booleans should be")
    return content not in (b"\0", "\0")


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise InputError("it holds text where photos should be")
    return text.encode("latin-1")


def insightface_bin(path: str | Path, name: str | None = None) -> PairProtocol:
    """Pairs of a pickle of encoded photos, two for each pair, and booleans, read without running anything in it.

    Args:
        path: of the `.bin` file.
        name: of the protocol; by default the file's.

    Returns:
        The pairs in the order of the file, ten or more in ten consecutive folds as in InsightFace's own evaluation.
        Repeated photos are stored once, and those joined by genuine pairs share an identity; if that contradicts an
        impostor pair, all photos are taken to be different.

    Raises:
        InputError: no such file, larger than 4 GiB, or not such a pickle.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"There is no file {path}: give one of InsightFace's sets, such as lfw.bin.")
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {file.stat().st_size / 2**30:.1f} GiB, the limit is {MAX_BYTES // 2**30} GiB.")
    try:
        content = RestrictedUnpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        photos, same = _check_content(content)
    except InputError as error:
        raise InputError(f"{path} is not one of InsightFace's sets: {error}.") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is not one of InsightFace's sets, or damaged ({type(error).__name__}).") from None
    places: dict[bytes, int] = {}
    rows = np.array([places.setdefault(photo, len(places)) for photo in photos])
    identities = connected_identities(len(places), rows[::2][same], rows[1::2][same])
    if ((identities[rows[::2]] == identities[rows[1::2]]) != same).any():
        rows = np.arange(len(photos))
        identities = connected_identities(len(photos), rows[::2][same], rows[1::2][same])
    _, first = np.unique(rows, return_index=True)
    names = [f"pair {row // 2 + 1} {'ab'[row % 2]}" for row in first]
    folds = np.repeat(np.arange(FOLDS), [len(part) for part in np.array_split(same, FOLDS)])
    listed = PairList(rows[::2], rows[1::2], same, folds if len(same) >= FOLDS else None)
    encoded = EncodedPhotos([photos[row] for row in first], names, identities)
    return PairProtocol(name or file.stem, encoded, listed, identities_known=False)


def _check_content(content: Any) -> tuple[list[bytes], np.ndarray]:
    if not isinstance(content, tuple | list) or len(content) != 2 or not all(isinstance(one, list) for one in content):
        raise InputError("it is not a list of photos and a list of booleans")
    photos, same = content
    wrong = [one for one in photos if not isinstance(one, bytes)] + [one for one in same if not isinstance(one, bool)]
    if wrong:
        raise InputError(f"it holds {wrong[0]!r:.80} where encoded photos and booleans should be")
    if len(photos) != 2 * len(same) or not same:
        raise InputError(f"it holds {len(photos)} photos for {len(same)} pairs")
    return photos, np.array(same, dtype=np.bool_)
