"""Faces by their rows: held in memory, or read when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from siamese_verify.errors import InputError, printable
from siamese_verify.faces import crop_face
from siamese_verify.structures import InputSpec, Photos

log = logging.getLogger(__name__)

Rows = Sequence[int] | slice


class FacesInMemory:
    """Crops that were cut before.

    Args:
        images: (N,3,S,S) uint8.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Rows) -> Tensor:
        """(n,3,S,S) uint8."""
        return self.images[rows]


class FacesOnDisk:
    """Faces that need no detector, decoded when they are asked for.

    A damaged photo is replaced by the next one of the same person, in the order of the rows, and is told of once.

    Args:
        photos: where from.
        rows: (N,) which of them.
        spec: how they are cut and scaled: a crop without a detector.
        max_damaged: photos that each process may replace before it is an error.
    """

    def __init__(self, photos: Photos, rows: np.ndarray, spec: InputSpec, max_damaged: int = 0) -> None:
        self.photos, self.rows, self.spec, self.max_damaged = photos, rows, spec, max_damaged
        self.damaged: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> Tensor:
        """(n,3,S,S) uint8.

        Raises:
            InputError: more than `max_damaged` photos are damaged, or all of a person are.
        """
        size = self.spec.size
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        images = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
        for image, row in zip(images, chosen, strict=True):
            image[:] = self._read(row)
        return torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory

    def _read(self, row: int) -> np.ndarray:
        place = row
        while True:
            try:
                return np.asarray(crop_face(self.photos[int(self.rows[place])], self.spec))
            except InputError as error:
                self._account(place, str(error))
            place = self._next(place)
            if place == row:
                raise InputError(f"No photo of {self.photos.names[int(self.rows[row])]}'s identity can be read.")

    def _account(self, place: int, reason: str) -> None:
        if place in self.damaged:
            return
        self.damaged[place] = reason
        if len(self.damaged) > self.max_damaged:
            raise InputError(f"More than {self.max_damaged} photos cannot be read (max_damaged), the last: {reason}")
        log.warning("%s Another photo of the same identity takes its place.", printable(reason))

    def _next(self, place: int) -> int:
        identities = self.photos.identities
        own = np.flatnonzero(identities[self.rows] == identities[self.rows[place]])
        return int(own[(np.searchsorted(own, place) + 1) % len(own)])
