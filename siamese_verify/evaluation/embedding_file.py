"""Embeddings of the photos of an evaluation in a file, for paired comparisons over all their pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

import numpy as np

from siamese_verify.atomic_write import atomic_open
from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EMBEDDINGS = "embeddings.npz"
FULL = 2**27  # bytes up to which float32 is kept, float16 above
MOST = 2**28  # bytes of a file at most; more photos are not kept


class EmbeddingFile(NamedTuple):
    """Embedded photos."""

    embeddings: NDArray[np.floating]  # (N,D)
    identities: NDArray[np.str_]  # (N,)
    photos: NDArray[np.str_]  # (N,) names


def write_embeddings(path: Path, embeddings: NDArray[np.floating], identities: ArrayLike, photos: ArrayLike) -> bool:
    """Write embeddings, readable for their owner only: those of faces are personal data, as the photos are.

    Args:
        path: of the file.
        embeddings: (N,D).
        identities: (N,) number or name of each person.
        photos: (N,) names.

    Returns:
        Whether they were written: more than `MOST` bytes are not.
    """
    size = 4 * embeddings.size
    if size > 2 * MOST:
        return False
    kept = embeddings.astype(np.float32 if size <= FULL else np.float16)
    with atomic_open(path, private=True) as file:
        np.savez(file, embeddings=kept, identities=np.asarray(identities).astype(str), photos=np.asarray(photos, str))
    return True


def read_embeddings(path: Path) -> EmbeddingFile:
    """Read what `write_embeddings` has written; nothing in the file is executed.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            found = EmbeddingFile(content["embeddings"], content["identities"], content["photos"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): evaluate the model again.") from None
    rows = found.embeddings
    if rows.ndim != 2 or rows.dtype.kind != "f" or not len(rows) == len(found.identities) == len(found.photos):
        raise InputError(f"{path} holds no embeddings of photos: evaluate the model again.")
    return found
