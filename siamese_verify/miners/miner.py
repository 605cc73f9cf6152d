"""Base class of miners, and those that list all pairs or all triplets of a batch."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise import Identities, every_triplet
from siamese_verify.pairwise.blocks import BAND
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
    ) -> Tuples:
        """Choose anchors among the embeddings, and positives and negatives among the references, if any are given.

        Args:
            embeddings: (B, D) floating point; half and bfloat16 are compared in float32.
            labels: (B,) identities, of any integer type.
            references: (R, D); None chooses positives and negatives among the embeddings.
            reference_labels: (R,) identities of the references.

        Raises:
            InputError: invalid embeddings or labels, see `siamese_verify.pairwise.check_batch`.
        """
        return self.choose(check_compared(embeddings, labels, references, reference_labels))

    @torch.no_grad()
    def together(self, embeddings: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tuples:
        """Choose anchors among the embeddings, and positives and negatives among embeddings and references.

        References, such as those of a cross-batch memory, are numbered from B on. Arguments and errors as when called.
        """
        return self.choose(check_compared(embeddings, labels, references, reference_labels, together=True))


def check_length(count: int, what: str) -> None:
    """Raise InputError for a list that would fill the memory."""
    if count > LONGEST:
        raise InputError(
            f"A list of all {count} {what} would take many gigabytes: leave out the miner, and a loss sums over all of "
            f"them without a list."
        )


class AllPairs(Miner[Pairs]):
    """All pairs of two rows i < j, in the order (0, 1), (0, 2), ..., (1, 2), ...; then of a row and a reference.

    With references only, the order is (0, 0), (0, 1), ... The embeddings only have to fit the labels.

    Raises:
        InputError: when called, more than 2^28 pairs.
    """

    gives = Pairs

    def choose(self, compared: ComparedRows) -> Pairs:
        """See the class."""
        labels, column_labels, count = compared.labels, compared.column_labels, len(compared.labels)
        check_length(count * len(column_labels) - compared.itself * count * (count + 1) // 2, "pairs")
        offset = 1 if compared.itself else 1 - count  # of the first diagonal that is listed
        anchor, other = torch.triu_indices(count, len(column_labels), offset=offset, device=labels.device)
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
        first, last = Identities(compared.column_labels).span(compared.labels)
        size, columns = last - first, len(compared.column_labels)
        check_length(int(((size - int(compared.itself)) * (columns - size)).sum()), "triplets")
        return every_triplet(compared.labels, compared.column_labels, compared.itself, self.numbers)
