"""Base class of miners, and those that list all pairs or all triplets of a batch."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise import Identities, every_triplet
from siamese_verify.pairwise.blocks import BAND, without_autocast
from siamese_verify.pairwise.nearest import ComparedRows, check_compared
from siamese_verify.structures import Pairs, Triplets

LONGEST = 1 << 28  # pairs or triplets of a list, which then takes 4 to 6 GB
Tuples = TypeVar("Tuples", Pairs, Triplets)


class Miner(Generic[Tuples]):
    """Chooses pairs or triplets of a batch; a subclass defines `choose`."""

    gives: type[Tuples]
    numbers = BAND  # distances held at once, about

    def choose(self, compared: ComparedRows) -> Tuples:
        """Pairs or triplets of rows (anchors) and columns (the others)."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        own: slice | None = None,
    ) -> Tuples:
        """Choose anchors among the embeddings, and positives and negatives among the references, if any are given.

        Args:
            embeddings: (B, D) floating point; half and bfloat16 are compared in float32.
            labels: (B,) identities, of any integer type.
            references: (R, D); None chooses positives and negatives among the embeddings.
            reference_labels: (R,) identities of the references.
            own: rows of this rank where ranks share the batch. Of what would be chosen in a single process, this rank
                gets the triplets of its own anchors, or the pairs that its own rows are part of. Every rank must call.

        Raises:
            InputError: invalid embeddings or labels, see `siamese_verify.pairwise.check_batch`.
        """
        return self._choose(check_compared(embeddings, labels, references, reference_labels, own=own))

    @torch.no_grad()
    def together(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None,
        reference_labels: Tensor | None,
        own: slice | None = None,
    ) -> Tuples:
        """Choose anchors among the embeddings, and positives and negatives among embeddings and references.

        References, such as those of a cross-batch memory, are numbered from B on. Arguments and errors as when called.
        """
        return self._choose(check_compared(embeddings, labels, references, reference_labels, together=True, own=own))

    def _choose(self, compared: ComparedRows) -> Tuples:
        with without_autocast(compared.rows.device):
            return self.choose(compared)


def check_length(count: int, what: str) -> None:
    """Raise InputError for a list that would fill the memory."""
    if count > LONGEST:
        raise InputError(
            f"A list of all {count} {what} would take many gigabytes: leave out the miner, and a loss sums over all of "
            f"them without a list."
        )


def _grid(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    number = torch.arange(rows * columns, device=device)
    return number // max(columns, 1), number % max(columns, 1)


class AllPairs(Miner[Pairs]):
    """All pairs of two rows i < j, in the order (0, 1), (0, 2), ..., (1, 2), ...; then of a row and a reference.

    With references only, the order is (0, 0), (0, 1), ... The embeddings only have to fit the labels.

    Raises:
        InputError: when called, more than 2^28 pairs.
    """

    gives = Pairs

    def choose(self, compared: ComparedRows) -> Pairs:
        """See the class."""
        labels, column_labels, own = compared.labels, compared.column_labels, compared.anchors
        start, count = own.start, own.stop - own.start
        check_length(count * len(column_labels) - compared.itself * count * (count + 1) // 2, "pairs")
        if not compared.itself:
            anchor, other = _grid(count, len(column_labels), labels.device)
            anchor = anchor + start
        else:
            above = _grid(start, count, labels.device)  # of other ranks' rows before with own ones
            upper = torch.triu_indices(count, len(column_labels) - start, offset=1, device=labels.device)
            anchor, other = torch.cat([above[0], upper[0] + start]), torch.cat([above[1], upper[1]]) + start
        return Pairs(anchor, other, labels[anchor] == column_labels[other])


class AllTriplets(Miner[Triplets]):
    """All triplets of a genuine pair and a negative, ordered by anchor, positive, negative.

    The embeddings only have to fit the labels.

    Raises:
        InputError: when called, more than 2^28 triplets.
    """

    gives = Triplets

    def choose(self, compared: ComparedRows) -> Triplets:
        """See the class."""
        first, last = Identities(compared.column_labels).span(compared.labels[compared.anchors])
        size, columns = last - first, len(compared.column_labels)
        check_length(int(((size - int(compared.itself)) * (columns - size)).sum()), "triplets")
        return every_triplet(compared.labels, compared.column_labels, compared.itself, self.numbers, compared.anchors)
