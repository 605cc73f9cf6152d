"""People who are kept out of a training, so that its result says something about strangers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.progress import track

from siamese_verify.atomic_write import write_whole
from siamese_verify.datasets.folder import FilePhotos
from siamese_verify.datasets.listing import identity_name
from siamese_verify.datasets.recordio import RecordPhotos
from siamese_verify.datasets.synthetic import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.protocols.insightface_bin import EncodedPhotos
from siamese_verify.protocols.protocol import Listed, Protocol, all_pairs
from siamese_verify.structures import Photos

MOST_READ = 200_000  # training photos that are compared byte by byte; beyond, names have to do
UNKNOWN = -1
PEOPLE = "people.json"


@dataclass(frozen=True)
class HeldOutShare:
    """How many people are held out for testing.

    Attributes:
        share: of the people, in (0, 1).
        people: at most.
        photos: of each, at most; >= 2.
        seed: of the choice, apart from the run's seed: runs with other seeds are tested on the same people.
    """

    share: float = 0.1
    people: int = 1000
    photos: int = 10
    seed: int = 0


def held_out(
    official: Protocol | None = None, share: float = 0.1, people: int = 1000, photos: int = 10, seed: int = 0
) -> Protocol | HeldOutShare:
    """Whom a training is tested on: the data set's own test people, or else a share of its people.

    Args:
        official: protocol of the data set's own, None if it has none.
        share: see `HeldOutShare`.
        people: likewise.
        photos: likewise.
        seed: likewise.
    """
    return official if official is not None else HeldOutShare(share, people, photos, seed)


class SomePhotos:
    """Some photos of a source.

    Args:
        photos: the source.
        rows: (N,) which.
    """

    def __init__(self, photos: Photos, rows: np.ndarray) -> None:
        self.source, self.rows = photos, rows
        self.identities: np.ndarray = np.asarray(photos.identities)[rows]
        self.names: Sequence[str] = [photos.names[int(row)] for row in rows]
        for name in ("people", "aligned"):  # a source without them is told by their absence
            if hasattr(photos, name):
                setattr(self, name, getattr(photos, name))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Image.Image:
        return self.source[int(self.rows[row])]


def keep_photos(protocol: Protocol, rows: np.ndarray) -> Protocol:
    """Restrict a protocol to some photos and the pairs of them, such as those in which a face was found.

    Args:
        protocol: with listed pairs or all of them.
        rows: (K,) of the photos to keep, ascending.
    """
    if len(rows) == len(protocol.photos):
        return protocol
    pairs = protocol.pairs
    if pairs is not None:
        place = np.full(len(protocol.photos), -1)
        place[rows] = np.arange(len(rows))
        kept = (place[pairs.left] >= 0) & (place[pairs.right] >= 0)
        folds, groups = (None if column is None else column[kept] for column in (pairs.folds, pairs.groups))
        pairs = Listed(place[pairs.left[kept]], place[pairs.right[kept]], pairs.same[kept], folds, groups)
    return replace(protocol, photos=SomePhotos(protocol.photos, rows), pairs=pairs)


@dataclass(frozen=True)
class Seen:
    """What a training has seen.

    Attributes:
        place: where its people have their names from, see `place_of`; "" where they have none.
        people: their names.
        photos: the source, None where it is gone.
        rows: (N,) of the photos.
    """

    place: str
    people: frozenset[str]
    photos: Photos | None = None
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, photos: Photos, rows: np.ndarray) -> Seen:
        """Some photos of a source."""
        return cls(place_of(photos), frozenset(people_of(photos, rows)), photos, rows)


class Leak(NamedTuple):
    """What of a tested set a training has seen.

    Attributes:
        people: names of the tested people who were trained on.
        rows: of the tested photos that were trained on.
        sentence: for people to read; empty if there is nothing.
    """

    people: list[str]
    rows: list[int]
    sentence: str


def find_leak(seen: Sequence[Seen], tested: Photos) -> Leak:
    """Look for tested people and photos among what a training has seen.

    People are the same if they have one name in one place, or in two places a name that is more than a number. Photos
    are the same if their files are, byte by byte. Files in object storage are not read for it, nor those of a training
    set with more than 200,000 candidates.

    Args:
        seen: parts of the training set, those for validation included.
        tested: photos of the protocol.
    """
    place, names = place_of(tested), people_of(tested, np.arange(len(tested)))
    same_person = {
        name for name in names for part in seen if name in part.people and (part.place == place or not name.isdecimal())
    }
    same_photo: set[int] = set()
    for part in seen:
        if part.photos is not None and part.rows is not None:
            same_photo.update(_same_files(part.photos, part.rows, tested))
    people, rows = sorted(same_person), sorted(same_photo)
    told = []
    if people:
        told.append(f"{len(people):,} of its {len(names):,} people are among those trained on, such as {people[0]!r}")
    if rows:
        told.append(f"{len(rows):,} of its {len(tested):,} photos are training photos, such as {tested.names[rows[0]]}")
    return Leak(people, rows, ", and ".join(told))


def refuse_leak(seen: Sequence[Seen], protocol: Protocol, allowed: bool) -> str:
    """See that a protocol is about strangers.

    Args:
        seen: see `find_leak`.
        protocol: to be measured.
        allowed: only say what is wrong.

    Returns:
        What of the protocol was trained on, in words; empty if there is nothing.

    Raises:
        InputError: anything was trained on, and that is not allowed.
    """
    told = find_leak(seen, protocol.photos).sentence
    if told and not allowed:
        raise InputError(
            f"The protocol {protocol.name} would measure what was learned by heart: {told}; choose another one, or "
            "set allow_leakage=true to have the result all the same, marked as such."
        )
    return told


@dataclass(frozen=True)
class PastRun:
    """What a finished training has written down of its people.

    Attributes:
        configuration: composed and resolved, with places as absolute paths.
        seen: see `Seen`; without the photos themselves.
        tested: names of the photos of its test people, where they were held out of the training set; else None.
        protocol: name of what it was tested on.
    """

    configuration: dict[str, Any]
    seen: list[Seen]
    tested: list[str] | None
    protocol: str

    def with_photos(self, photos: Photos) -> list[Seen]:
        """The same with the training photos, for `find_leak` to compare."""
        found = []
        for part in self.seen:
            codes = [int(code) for code in np.unique(photos.identities)] if part.place == place_of(photos) else []
            chosen = [code for code in codes if identity_name(photos, code) in part.people]
            found.append(Seen(part.place, part.people, photos, np.flatnonzero(np.isin(photos.identities, chosen))))
        return found

    def test_protocol(self, photos: Photos) -> Protocol:
        """The same pairs as after the training, of the photos that it held out.

        Args:
            photos: of the training set.

        Raises:
            InputError: some of them are gone.
        """
        assert self.tested is not None
        rows = {name: row for row, name in enumerate(photos.names)}
        missing = [name for name in self.tested if name not in rows]
        if missing:
            raise InputError(
                f"{len(missing):,} of the {len(self.tested):,} photos that the run was tested on are gone, such as "
                f"{missing[0]}: bring them back, or choose another protocol."
            )
        return all_pairs(SomePhotos(photos, np.array([rows[name] for name in self.tested])), self.protocol)


def save_people(folder: Path, seen: Sequence[Seen], protocol: Protocol) -> None:
    """Write down who was trained on and who is tested, for later evaluations of the run."""
    content = {
        "working folder": str(Path.cwd()),
        "seen": [{"place": part.place, "people": sorted(part.people)} for part in seen],
        "protocol": protocol.name,
        "tested photos": list(protocol.photos.names) if isinstance(protocol.photos, SomePhotos) else None,
    }
    write_whole(folder / PEOPLE, json.dumps(content, indent=1).encode(), private=True)


def read_past_run(model: str | Path) -> PastRun | None:
    """Read what the run of a model has written down; None for a model that lies in no run.

    Args:
        model: a run's folder, its bundle, or one of its checkpoints.

    Raises:
        InputError: it is damaged.
    """
    folder = next((one for one in (Path(model), *Path(model).parents[:2]) if (one / PEOPLE).is_file()), None)
    if folder is None:
        return None
    try:
        told = json.loads((folder / PEOPLE).read_bytes())
        configuration = json.loads((folder / "run.json").read_bytes())["configuration"]
        return PastRun(
            from_folder(configuration, Path(told["working folder"])),
            [Seen(part["place"], frozenset(part["people"])) for part in told["seen"]],
            told["tested photos"],
            told["protocol"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"The run {folder} is damaged ({error}): its {PEOPLE} or run.json cannot be read.") from None


def from_folder(configuration: Any, folder: Path) -> Any:
    """A configuration whose relative places start from a folder."""
    if isinstance(configuration, list):
        return [from_folder(value, folder) for value in configuration]
    if not isinstance(configuration, dict):
        return configuration
    return {
        name: str(folder / value)
        if name in ("root", "path") and isinstance(value, str) and "://" not in value
        else from_folder(value, folder)
        for name, value in configuration.items()
    }


def place_of(photos: Photos) -> str:
    """Where the people of a source have their names from; "" where they have none, but numbers within the source."""
    if isinstance(photos, SomePhotos):
        return place_of(photos.source)
    if isinstance(photos, SyntheticFaces):
        return f"synthetic faces, seed {photos.seed}"
    root = str(getattr(photos, "root", "") or type(photos).__name__)
    if isinstance(photos, RecordPhotos) or hasattr(photos, "people"):
        return root if "://" in root else str(Path(root).resolve())
    return ""


def people_of(photos: Photos, rows: np.ndarray) -> list[str]:
    """Names of the people on some photos, or numbers that mean them wherever the source is read; else none."""
    if not place_of(photos):
        return []
    return [identity_name(photos, int(code)) for code in np.unique(np.asarray(photos.identities)[rows])]


def _same_files(photos: Photos, rows: np.ndarray, tested: Photos) -> list[int]:
    """Rows of the tested photos whose files are among others, byte by byte."""
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
    candidates = list(islice(possible, MOST_READ + 1))  # of millions no more are looked at than it takes to give up
    if len(candidates) > MOST_READ:
        return []
    known: dict[bytes, list[int]] = {}
    for row in sizes:
        if content := _digest(tested, row):
            known.setdefault(content, []).append(row)
    bar = track(candidates, "Comparing photos", disable=len(candidates) < 10_000)
    return sorted({row for candidate in bar for row in known.get(_digest(photos, candidate), ())})


def _size(photos: Photos, row: int) -> int | None:
    """Bytes of a photo's file, `UNKNOWN` where that costs as much as reading it; None for what has none at hand."""
    source, row = _origin(photos, row)
    if isinstance(source, EncodedPhotos):
        return len(source.read(row))
    if not isinstance(source, FilePhotos | RecordPhotos) or source.storage.remote:
        return None
    if isinstance(source, RecordPhotos):
        return UNKNOWN
    try:
        return source.storage.size(source.names[row])
    except InputError:  # a missing one: others say so
        return None


def _digest(photos: Photos, row: int) -> bytes:
    source, row = _origin(photos, row)
    try:
        return hashlib.sha256(source.read(row)).digest()
    except InputError:
        return b""


def _origin(photos: Any, row: int) -> tuple[Any, int]:
    """The source of a photo that is no selection itself, and its row there."""
    while isinstance(photos, SomePhotos):
        photos, row = photos.source, int(photos.rows[row])
    return photos, row
