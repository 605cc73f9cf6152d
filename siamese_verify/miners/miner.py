"""Base class of miners, which choose pairs or triplets of a batch."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

from siamese_verify.errors import InputError
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
