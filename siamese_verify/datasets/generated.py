"""Base class of generated data sets: nothing to download, each sample drawn when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from siamese_verify.errors import InputError

MOST = 10_000_000  # samples of a set


class GeneratedSet(ABC):
    """Samples of identities numbered from `first`: ranges that do not overlap hold different identities.

    A sample depends on seed, identity and number alone: it is the same in every process and order, and a larger set
    contains the smaller ones.

    Args:
        identities: how many.
        samples: of each.
        seed: of all draws.
        first: number of the first identity.

    Attributes:
        kind: of the data, for messages.
        nouns: for an identity and a sample, in names.

    Raises:
        InputError: a number is too small, or there are more than `MOST` samples.
    """

    kind: ClassVar[str]
    nouns: ClassVar[tuple[str, str]]

    def __init__(self, identities: int, samples: int, seed: int = 0, first: int = 0) -> None:
        self.check(identities=(identities, 1), samples=(samples, 1), seed=(seed, 0), first=(first, 0))
        self.check(identities=(identities, 1, MOST // samples))
        self.count, self.samples, self.seed, self.first = identities, samples, seed, first

    @classmethod
    def check(cls, **given: tuple[float, float] | tuple[float, float, float]) -> None:
        """Check numbers against the least, and perhaps the most, that each may be.

        Raises:
            InputError: one is too small or too large.
        """
        for name, (value, least, *most) in given.items():
            if value < least:
                raise InputError(f"{name} of {cls.kind} must be at least {least}, got {value}.")
            if most and value > most[0]:
                raise InputError(f"{name} of {cls.kind} must be at most {most[0]:,}, got {value}.")

    @property
    def namespace(self) -> str:
        """Where the numbers of identities are unique."""
        return f"{self.kind}, seed {self.seed}"

    @property
    def identities(self) -> np.ndarray:
        """(N,) int64 identities, `samples` rows each."""
        return np.repeat(np.arange(self.first, self.first + self.count, dtype=np.int64), self.samples)

    @property
    def names(self) -> list[str]:
        """N names such as `person 0012 photo 03`."""
        one, other = self.nouns
        rows = (divmod(row, self.samples) for row in range(len(self)))
        return [f"{one} {self.first + place:04} {other} {number:02}" for place, number in rows]

    def __len__(self) -> int:
        return self.count * self.samples

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not in 0 ... {len(self) - 1}")
        place, number = divmod(row, self.samples)
        return self.draw(self.first + place, number)

    @abstractmethod
    def draw(self, identity: int, number: int) -> Any:
        """One sample of an identity, drawn by generators seeded with `seed`, `identity` and `number`."""
