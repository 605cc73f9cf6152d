"""What every miner has in common: two sets to compare, or one that grows by what is remembered."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise.nearest import Sets, check_sets
from siamese_verify.structures import Pairs, Triplets

LISTED = 1 << 28  # pairs or triplets in a list, which then takes 4 to 6 GB
Mined = TypeVar("Mined", Pairs, Triplets)


class Miner(Generic[Mined]):
    """Chooses pairs or triplets; a subclass says which, and defines `choose`."""

    gives: type[Mined]

    def choose(self, sets: Sets) -> Mined:
        """Choose among rows and columns: anchors are numbers of rows, the others of columns."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Mined:
        """Choose anchors among embeddings, and what they are compared with among references, or the embeddings.

        Args:
            embeddings: (B, D) floating point.
            labels: (B,) identities, of any integer type.
            references: (R, D) among which to seek; None seeks among the embeddings.
            reference_labels: (R,) their identities.

        Raises:
            InputError: a batch that is none, see `siamese_verify.pairwise.check_batch`.
        """
        return self.choose(check_sets(embeddings, labels, references, reference_labels))

    @torch.no_grad()
    def together(self, embeddings: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Mined:
        """Choose anchors among embeddings, and what they are compared with among embeddings and references alike.

        References, such as a memory of past batches, are numbered from B on, as objectives number them. Arguments and
        errors as when called.
        """
        return self.choose(check_sets(embeddings, labels, references, reference_labels, together=True))


def check_length(count: int, what: str) -> None:
    """Refuse a list that would fill the machine's memory."""
    if count > LISTED:
        raise InputError(
            f"A list of all {count} {what} would take many gigabytes: leave out the miner, and a loss sums over all of "
            f"them without a list."
        )
