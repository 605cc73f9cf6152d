"""Which pairs of photos an evaluation scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_verify.datasets.folder import FolderPhotos
from siamese_verify.errors import InputError
from siamese_verify.structures import Photos


@dataclass(frozen=True)
class Listed:
    """Pairs written down one by one.

    Attributes:
        left: (M,) int64 rows of the photos.
        right: (M,) int64, likewise.
        same: (M,) bool, True for a genuine pair.
        folds: (M,) int64 fold of each pair, or None without folds.
        groups: (M,) label of each pair, "" for none, or None without groups.
    """

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Protocol:
    """Pairs over a set of photos; each photo is embedded once, however many pairs it is in.

    Attributes:
        name: for people, as in "LFW View 2".
        photos: N photos.
        pairs: which of them; None for every pair i < j, which nobody needs to write down.
        people_known: whether the photos' identities say who is on them. Where only pairs are known, two photos with
            different identities may still show one person.
    """

    name: str
    photos: Photos
    pairs: Listed | None = None
    people_known: bool = True

    def photos_of(self, pair: int) -> tuple[int, int]:
        """Rows of a pair's two photos; of all pairs, i < j has the number i * N + j."""
        if self.pairs is None:
            return divmod(pair, len(self.photos))
        return int(self.pairs.left[pair]), int(self.pairs.right[pair])

    def count_pairs(self) -> tuple[int, int]:
        """Number of genuine and of impostor pairs."""
        if self.pairs is not None:
            genuine = int(np.sum(self.pairs.same))
            return genuine, len(self.pairs.same) - genuine
        _, sizes = np.unique(self.photos.identities, return_counts=True)
        photos, genuine = len(self.photos), sum(size * (size - 1) // 2 for size in sizes.tolist())
        return genuine, photos * (photos - 1) // 2 - genuine

    def digest(self) -> str:
        """SHA-256 of what is compared: names of the photos, who is on them, and the pairs; not of their pixels."""
        digest = hashlib.sha256()
        _, people = np.unique(self.photos.identities, return_inverse=True)
        for name, person in zip(self.photos.names, people.tolist(), strict=True):
            digest.update(f"{name}\0{person}\0".encode(errors="surrogateescape"))
        if self.pairs is not None:
            for column in (self.pairs.left, self.pairs.right, self.pairs.same):
                digest.update(column.astype(np.int64).tobytes())
        return digest.hexdigest()

    def describe(self, pair: int) -> str:
        """Names of a pair's two photos."""
        left, right = self.photos_of(pair)
        return f"{self.photos.names[left]} and {self.photos.names[right]}"


def all_pairs(photos: Photos, name: str) -> Protocol:
    """Every pair i < j of the photos.

    Raises:
        InputError: nobody has two photos, or all photos are of one person.
    """
    identities = np.asarray(photos.identities)
    people = len(np.unique(identities))
    if people < 2 or people == len(identities):
        raise InputError(
            f"All pairs of {len(identities)} photos of {people} people hold "
            f"{'no impostors' if people < 2 else 'no genuine pairs'}: add people with two photos or more."
        )
    return Protocol(name, photos)


def sampled_pairs(protocol: Protocol, pairs: int, seed: int = 0) -> Listed:
    """Draw pairs of a protocol without repetition, half of them genuine, in an order of chance.

    Args:
        protocol: with listed pairs or all of them.
        pairs: how many; fewer of a kind where there are not so many.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    if protocol.pairs is not None:
        rows = [np.flatnonzero(protocol.pairs.same == same) for same in (True, False)]
        chosen = rng.permutation(np.concatenate([rng.permutation(kind)[: pairs // 2] for kind in rows]))
        return Listed(protocol.pairs.left[chosen], protocol.pairs.right[chosen], protocol.pairs.same[chosen])
    identities = np.asarray(protocol.photos.identities)
    genuine, impostors = draw_pairs(identities, pairs // 2, rng)
    chosen = rng.permutation(len(genuine) + len(impostors))
    left, right = np.concatenate([genuine, impostors])[chosen].T
    return Listed(left, right, identities[left] == identities[right])


def draw_pairs(identities: np.ndarray, each: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw genuine pairs and impostors uniformly, none twice.

    Args:
        identities: (N,) of the photos.
        each: how many of each kind; all of a kind that has not so many.
        rng: of the draw.

    Returns:
        (G,2) and (M,2) rows i < j.
    """
    order = np.argsort(identities, kind="stable")
    _, photos = np.unique(identities, return_counts=True)
    first = np.cumsum(photos) - photos
    ends = np.cumsum(photos * (photos - 1) // 2)  # genuine pairs are numbered person by person
    numbers = rng.choice(int(ends[-1]), min(each, int(ends[-1])), replace=False)
    person = np.searchsorted(ends, numbers, side="right")
    within = numbers - np.where(person > 0, ends[person - 1], 0)  # j (j - 1) / 2 + i with i < j
    second = ((1 + np.sqrt(1 + 8 * within)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > within  # the root may round up
    genuine = order[np.stack([first[person] + within - second * (second - 1) // 2, first[person] + second], axis=1)]
    count = len(identities)
    wanted = min(each, count * (count - 1) // 2 - int(ends[-1]))
    found = np.empty(0, dtype=np.int64)
    while len(found) < wanted:
        left, right = np.sort(rng.integers(0, count, (2, 2 * wanted + 10)), axis=0)
        drawn = (left * count + right)[identities[left] != identities[right]]
        _, fresh = np.unique(np.concatenate([found, drawn]), return_index=True)
        found = np.concatenate([found, drawn])[np.sort(fresh)]
    impostors = np.stack(np.divmod(found[:wanted], count), axis=1)
    return np.sort(genuine, axis=1), impostors


def folder_pairs(root: str | Path, name: str | None = None, pairs: int | None = None, seed: int = 0) -> Protocol:
    """Pairs of the photos in a folder for each identity.

    Args:
        root: see `FolderPhotos`.
        name: of the protocol; by default the folder's.
        pairs: how many to draw, half of them genuine; None compares all.
        seed: of the draw.

    Raises:
        InputError: see `FolderPhotos` and `all_pairs`; fewer than two pairs, an odd number, or more than there are.
    """
    protocol = all_pairs(
        FolderPhotos(root), name or f"{Path(root).resolve().name}, {'all' if pairs is None else pairs} pairs"
    )
    if pairs is None:
        return protocol
    if pairs < 2:
        raise InputError(f"{pairs} pairs hold no genuine and no impostor pair: draw two or more.")
    drawn = sampled_pairs(protocol, pairs, seed)
    if len(drawn.same) != pairs:
        genuine, impostors = int(drawn.same.sum()), int((~drawn.same).sum())
        raise InputError(
            f"{root} gives {genuine:,} genuine and {impostors:,} impostor pairs where half of {pairs:,} pairs was "
            f"asked for each: set pairs to {2 * min(genuine, impostors)} at most, and even."
        )
    return Protocol(protocol.name, protocol.photos, drawn)
