"""Leakage: people and photos of a protocol that a training has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from siamese_verify.datasets.folder import FilePhotos
from siamese_verify.datasets.listing import identity_name
from siamese_verify.datasets.recordio import RecordPhotos
from siamese_verify.errors import InputError
from siamese_verify.protocols.insightface_bin import EncodedPhotos
from siamese_verify.protocols.protocol import PhotoSubset, Protocol
from siamese_verify.structures import Photos

MAX_COMPARED = 200_000  # training photos whose files are compared; of larger sets only names are
UNKNOWN = -1


@dataclass(frozen=True)
class TrainingSubset:
    """People and photos that a training or its validation has seen.

    Attributes:
        namespace: where the names are unique, see `namespace_of`; "" if identities have no names.
        people: their names.
        photos: the data set, None if it is not available.
        rows: (N,) of the photos.
    """

    namespace: str
    people: frozenset[str]
    photos: Photos | None = None
    rows: np.ndarray | None = None

    @classmethod
    def from_photos(cls, photos: Photos, rows: np.ndarray) -> TrainingSubset:
        """The people on some photos of a data set."""
        return cls(namespace_of(photos), frozenset(people_on(photos, rows)), photos, rows)


class Leak(NamedTuple):
    """What of a protocol a training has seen.

    Attributes:
        people: names of the people.
        rows: of the protocol's photos.
        sentence: both in words; empty if there is nothing.
    """

    people: list[str]
    rows: list[int]
    sentence: str


def find_leak(seen: Sequence[TrainingSubset], tested: Photos) -> Leak:
    """Find people and photos of a protocol that a training has seen.

    People are the same if they have the same name in one namespace, or in two namespaces a name that is not a mere
    number. Photos are the same if their files are. Files in object storage are not read, nor those of a training set
    with more than 200,000 candidates.

    Args:
        seen: subsets trained and validated on.
        tested: photos of the protocol.
    """
    namespace, names = namespace_of(tested), people_on(tested, np.arange(len(tested)))
    same_person: set[str] = set()
    same_photo: set[int] = set()
    for subset in seen:
        comparable = [name for name in names if subset.namespace == namespace or not name.isdecimal()]
        same_person.update(subset.people.intersection(comparable))
        if subset.photos is not None and subset.rows is not None:
            same_photo.update(_same_files(subset.photos, subset.rows, tested))
    people, rows = sorted(same_person), sorted(same_photo)
    found = []
    if people:
        found.append(f"{len(people):,} of its {len(names):,} people are among those trained on, such as {people[0]!r}")
    if rows:
        found.append(f"{len(rows):,} of its {len(tested):,} photos are trained on, such as {tested.names[rows[0]]}")
    return Leak(people, rows, ", and ".join(found))


def refuse_leak(seen: Sequence[TrainingSubset], protocol: Protocol, allowed: bool) -> str:
    """Check that a protocol has no people or photos that a training has seen.

    Args:
        seen: see `find_leak`.
        protocol: to be measured.
        allowed: do not refuse it.

    Returns:
        What the training has seen of it, in words; empty if nothing.

    Raises:
        InputError: the training has seen something, and that is not allowed.
    """
    leak = find_leak(seen, protocol.photos).sentence
    if leak and not allowed:
        raise InputError(
            f"The protocol {protocol.name} overlaps with the training set: {leak}; choose another one, or set "
            "allow_leakage=true for a result that is marked as such."
        )
    return leak


def namespace_of(photos: Photos) -> str:
    """Where names of identities are unique, such as a folder; "" if they are numbers without a meaning elsewhere."""
    if isinstance(photos, PhotoSubset):
        return namespace_of(photos.source)
    if named := getattr(photos, "namespace", ""):
        return str(named)
    if not isinstance(photos, RecordPhotos) and not hasattr(photos, "people"):
        return ""
    root = str(getattr(photos, "root", "") or type(photos).__name__)
    return root if "://" in root else str(Path(root).resolve())


def people_on(photos: Photos, rows: np.ndarray) -> list[str]:
    """Names of the people on some photos; none without a namespace."""
    if not namespace_of(photos):
        return []
    return [identity_name(photos, int(identity)) for identity in np.unique(np.asarray(photos.identities)[rows])]


def _same_files(photos: Photos, rows: np.ndarray, tested: Photos) -> list[int]:
    """Rows of the tested photos whose files are among other files; compared by size, then by SHA-256."""
    sizes = {row: size for row in range(len(tested)) if (size := _size(tested, row)) is not None}
    wanted = set(sizes.values())
    if not wanted:
        return []
    any_size = UNKNOWN in wanted
    possible = (
        int(row)
        for row in rows
        if (size := _size(photos, int(row))) is not None and (any_size or size == UNKNOWN or size in wanted)
    )
    candidates = list(islice(possible, MAX_COMPARED + 1))  # of millions, sizes are read only until there are too many
    if len(candidates) > MAX_COMPARED:
        return []
    known: dict[bytes, list[int]] = {}
    for row in sizes:
        if digest := _digest(tested, row):
            known.setdefault(digest, []).append(row)
    bar = tqdm(candidates, "Comparing photos", delay=2, leave=False, disable=None)
    return sorted({row for candidate in bar for row in known.get(_digest(photos, candidate), ())})


def _size(photos: Photos, row: int) -> int | None:
    """Bytes of a photo's file, `UNKNOWN` if that costs as much as reading it, None if it cannot be compared."""
    source, row = _source(photos, row)
    if isinstance(source, EncodedPhotos):
        return len(source.read(row))
    if not isinstance(source, FilePhotos | RecordPhotos) or source.storage.remote:
        return None
    if isinstance(source, RecordPhotos):
        return UNKNOWN
    try:
        return source.storage.size(source.names[row])
    except InputError:  # a missing file is reported where it is needed
        return None


def _digest(photos: Photos, row: int) -> bytes:
    source, row = _source(photos, row)
    try:
        return hashlib.sha256(source.read(row)).digest()
    except InputError:
        return b""


def _source(photos: Any, row: int) -> tuple[Any, int]:
    """The data set that a photo of a subset comes from, and its row there."""
    while isinstance(photos, PhotoSubset):
        photos, row = photos.source, int(photos.rows[row])
    return photos, row
