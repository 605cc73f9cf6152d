"""All pairs or all triplets of a batch, as lists."""

from __future__ import annotations

import torch

from siamese_verify.miners.miner import Miner, check_length
from siamese_verify.pairwise import Identities, every_triplet
from siamese_verify.pairwise.nearest import ComparedRows
from siamese_verify.structures import Pairs, Triplets


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
