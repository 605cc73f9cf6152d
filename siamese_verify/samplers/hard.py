"""Batches that put people side by side whom the model still confuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise.neighbors import nearest_directions
from siamese_verify.samplers.deck import Deck, allotted
from siamese_verify.samplers.identity import Hands, IdentityBatchSampler, Turns

ROWS = 1 << 16  # embeddings added up at once


class HardMiningSampler(IdentityBatchSampler):
    """An `IdentityBatchSampler` whose batches grow around seed persons from those the model finds most alike.

    Every batch begins with the next person whose turn it is, the seed. Each further place goes, with probability
    `hardness`, to someone confusable: the seed's neighbours, nearest first, then their neighbours; else to the next in
    turn. Singles are chosen in the same way, among the single photos nearest to the people of the batch.

    Guaranteed is what `IdentityBatchSampler` guarantees of an epoch: how many turns everyone has, and that nobody is in
    a batch twice. The price is that neighbours who had their turns are no longer there: batches grown late in the epoch
    are less hard, and are shuffled among the others. Where the neighbours run out, a batch is filled up in turn.

    Before the first `update`, or with `hardness` 0, the batches are exactly those of `IdentityBatchSampler`.

    Args:
        identities: as in `IdentityBatchSampler`, like the arguments from `batches` on.
        people: people per batch.
        photos: rows of each of them, >= 2.
        hardness: share of places for confusable people, in [0, 1].
        neighbours: how many of the nearest people are remembered for each, >= 1. More keep late batches hard.
        batches: batches of an epoch, over all ranks.
        seed: >= 0.
        singles: people with exactly one photo added to each batch.
        rank: which of the processes this one is.
        world_size: number of processes. All must be given the same embeddings.
        turns: how often a person comes in an epoch.
        cap: with `turns="photos"`, photos of a person that count.

    Raises:
        InputError: `hardness` or `neighbours` out of range, and what `IdentityBatchSampler` raises.

    After Smirnov et al., "Doppelganger Mining for Face Representation Learning", ICCV Workshops 2017; there each person
    brings one look-alike, here a neighbourhood.
    """

    def __init__(
        self,
        identities: ArrayLike,
        people: int,
        photos: int,
        hardness: float = 0.5,
        neighbours: int = 32,
        batches: int | None = None,
        seed: int = 0,
        singles: int = 0,
        rank: int = 0,
        world_size: int = 1,
        turns: Turns = "once",
        cap: int | None = None,
    ) -> None:
        super().__init__(identities, people, photos, batches, seed, singles, rank, world_size, turns, cap)
        if not 0 <= hardness <= 1:
            raise InputError(f"hardness is {hardness}, but is a share and must be in 0 ... 1.")
        if neighbours < 1:
            raise InputError(f"neighbours is {neighbours}, but at least 1 confusable person must be remembered.")
        self.hardness, self.neighbours = hardness, neighbours
        self._alike: tuple[Tensor, Tensor] | None = None  # (E,k) among the pairable, (E,k') among the single; int32

    @torch.no_grad()
    def update(self, embeddings: Tensor) -> None:
        """Learn anew whom the model confuses; effective from the next batch on.

        After an update within an epoch its remaining batches are dealt anew: that epoch may show some people twice and
        leave others out.

        People are compared by the direction of the mean of their unit embeddings. Memory is that of a block of people
        against all, not of all against all.

        Args:
            embeddings: (N, D) floating point, one for each row of `identities`, in the same order, on any device.

        Raises:
            InputError: another shape or type; NaN or infinity.
        """
        photos, device = self._everyone.photos, embeddings.device
        if embeddings.ndim != 2 or len(embeddings) != photos or not embeddings.is_floating_point():
            raise InputError(
                f"hard mining needs one embedding for each of {photos} rows, but got shape {tuple(embeddings.shape)} "
                f"and type {embeddings.dtype}."
            )
        person = torch.from_numpy(self._everyone.person_of_row())
        sums = torch.zeros(len(self._everyone), embeddings.shape[1], device=device)
        for rows, people in zip(torch.split(embeddings, ROWS), torch.split(person, ROWS), strict=True):
            if not bool(rows.isfinite().all()):
                raise InputError("embeddings for hard mining hold NaN or infinity: lower the learning rate.")
            sums.index_add_(0, people.to(device), torch.nn.functional.normalize(rows.float()))
        directions = torch.nn.functional.normalize(sums)  # (people, D): the mean's length does not matter
        pairable = directions[torch.from_numpy(self._pairable).to(device)]  # (E,D)
        single = directions[torch.from_numpy(self._single).to(device)]  # (S,D)
        own = torch.arange(len(pairable), device=device)
        self._alike = (
            nearest_directions(pairable, pairable, self.neighbours, own).int().cpu(),
            nearest_directions(pairable, single, self.neighbours if self.singles else 0).int().cpu(),
        )

    def __iter__(self) -> Iterator[list[int]]:
        """Yield as in `IdentityBatchSampler`, from what the latest `update` found."""
        positions = self.positions()
        alike, drawn = self._alike, self._drawn(self._deal(), positions)
        for done in range(len(positions)):
            if self._alike is not alike:
                alike, drawn = self._alike, self._drawn(self._deal(), positions[done:])
            yield next(drawn)

    def state_dict(self) -> dict[str, Any]:
        """As in `IdentityBatchSampler`, with the neighbours found by the last `update` (None before it)."""
        alike, alike_singles = self._alike or (None, None)
        return {**super().state_dict(), "alike": alike, "alike_singles": alike_singles}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the sampler that wrote `state_dict`; as in `IdentityBatchSampler`."""
        super().load_state_dict(state)
        self._alike = None if state["alike"] is None else (state["alike"], state["alike_singles"])

    def _deal(self) -> Hands:
        if self._alike is None or self.hardness == 0:
            return super()._deal()
        alike, alike_singles = (table.numpy() for table in self._alike)
        generator, order = self.generator(3), self.generator(4).permutation(self.batches)
        copies = allotted(self._due(), self.batches, self.people, generator)
        people = Deck(copies, self.batches, self.people, self.generator(0))
        copies = np.ones(len(self._single), dtype=np.int64)
        if self.batches * self.singles > len(copies):
            copies = allotted(copies, self.batches, self.singles, generator)
        singles = Deck(copies, self.batches, self.singles, self.generator(1))
        hands = Hands(*(np.empty((self.batches, width), dtype=np.int32) for width in (self.people, self.singles)))
        for row, single_row in zip(*hands, strict=True):
            hand = people.begin() or people.deal(1)  # begins with the seed
            confusable = min(int(generator.binomial(self.people - 1, self.hardness)), self.people - len(hand))
            hand += people.deal(confusable, hand, grow(hand[0], alike))
            row[:] = hand + people.deal(self.people - len(hand), hand)
            near = singles.begin()
            confusable = min(int(generator.binomial(self.singles, self.hardness)), self.singles - len(near))
            # Best first means each one's nearest single, then each one's second nearest, ...
            near += singles.deal(confusable, near, alike_singles[row].T.ravel())
            single_row[:] = near + singles.deal(self.singles - len(near), near)
        return Hands(hands.people[order], hands.singles[order])


def grow(seed: int, alike: np.ndarray) -> np.ndarray:
    """Walk outwards from a person: his neighbours, nearest first, then theirs. The same person may come repeatedly."""
    return np.concatenate([alike[seed], alike[alike[seed]].ravel()])
