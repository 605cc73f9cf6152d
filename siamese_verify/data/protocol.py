"""Which pairs of photos an evaluation scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.types import Photos


@dataclass(frozen=True)
class Protocol:
    """Pairs over a set of photos; each photo is embedded once, however many pairs it is in.

    Attributes:
        name: for people, as in "LFW View 2".
        photos: N photos.
        left: (M,) int64 rows of `photos`.
        right: (M,) int64, likewise.
        same: (M,) bool, True for a genuine pair.
        folds: (M,) int64 fold of each pair, or None where the protocol has none.
    """

    name: str
    photos: Photos
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None

    def describe(self, pair: int) -> str:
        """Names of a pair's two photos."""
        names = self.photos.names
        return f"{names[self.left[pair]]} and {names[self.right[pair]]}"


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
    left, right = np.triu_indices(len(identities), k=1)
    return Protocol(name, photos, left, right, identities[left] == identities[right])
