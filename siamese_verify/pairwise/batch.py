"""Validated embeddings and labels of one batch, and its genuine pairs and triplets."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError
from siamese_verify.pairwise.blocks import BAND, bands, is_small
from siamese_verify.pairwise.ranks import shared_totals
from siamese_verify.pairwise.tiles import factor_type
from siamese_verify.structures import Pairs, Triplets


class Batch(NamedTuple):
    """Embeddings, and references that they are compared with too. Without references `references` is (0, D)."""

    embeddings: Tensor  # (B, D) float32 or float64
    labels: Tensor  # (B,) int64
    references: Tensor  # (R, D) in the type and on the device of the embeddings
    reference_labels: Tensor  # (R,) int64
    own: slice | None = None  # rows of this rank; None if no other process shares the batch
    factors: torch.dtype = torch.float32  # of products where kernels reduce them, see `pairwise.tiles`

    @property
    def anchors(self) -> slice:
        """Rows that are anchors here: this rank's, or all."""
        return slice(0, len(self.labels)) if self.own is None else self.own

    @property
    def small(self) -> bool:
        """Whether the plain formula, over the matrix of all pairs, is fastest."""
        return self.own is None and is_small(self.candidate_labels)

    @property
    def candidates(self) -> Tensor:
        """(B + R, D): the embeddings, then the references."""
        return torch.cat([self.embeddings, self.references]) if len(self.references) else self.embeddings

    @property
    def candidate_labels(self) -> Tensor:
        """(B + R,): the labels, then those of the references."""
        return torch.cat([self.labels, self.reference_labels]) if len(self.reference_labels) else self.labels


class Totals(NamedTuple):
    """Sum and numbers of the losses of pairs, triplets or rows, whether or not they were ever listed."""

    total: Tensor  # scalar
    items: Tensor | int  # how many there are
    nonzero: Tensor | int  # how many are above zero

    def over_ranks(self) -> Totals:
        """Sums over all ranks; the total passes on `world_size` times its gradient, see `shared_totals`."""
        return Totals(*shared_totals(self.total, self.items, self.nonzero))


def check_batch(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    own: slice | None = None,
) -> Batch:
    """Validate a batch and convert it to the types that losses and miners compute in.

    Args:
        embeddings: (B, D) floating point; half and bfloat16 become float32, whose products on a GPU may have factors
            of bfloat16 again, see `pairwise.tiles`.
        labels: (B,) identities, of any integer type.
        references: (R, D) further embeddings, or None.
        reference_labels: (R,) their identities.
        own: rows of this rank, if ranks share the batch.

    Raises:
        InputError: other shapes or types, lengths that differ, references without labels; on a CPU also NaN or
            infinite embeddings (on a GPU, looking for them would wait for it).
    """
    check_rows(embeddings, labels, "embeddings", "labels")
    device, precise = embeddings.device, torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    rows, labels = embeddings.to(precise), labels.to(device, torch.int64)
    if references is None:
        return Batch(rows, labels, rows.new_empty(0, rows.shape[1]), labels.new_empty(0), own, factor_type(embeddings))
    if reference_labels is None:
        raise InputError(f"{len(references)} references came without reference_labels: give one label for each.")
    check_rows(references, reference_labels, "references", "reference_labels")
    if references.shape[1] != embeddings.shape[1]:
        raise InputError(
            f"embeddings of {embeddings.shape[1]} dimensions can't be compared with references of "
            f"{references.shape[1]}: take both from one encoder."
        )
    references, reference_labels = references.to(device, precise), reference_labels.to(device, torch.int64)
    return Batch(rows, labels, references, reference_labels, own, factor_type(embeddings))


def check_rows(embeddings: Tensor, labels: Tensor, name: str, name_of_labels: str) -> None:
    """Check that embeddings are a matrix with a label for each row; see `check_batch`."""
    for value, its_name in ((embeddings, name), (labels, name_of_labels)):
        if not isinstance(value, Tensor):
            raise InputError(f"{its_name} must be a tensor, but are a {type(value).__name__}: give torch.tensor(...).")
    check_matrix(embeddings, name)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"{name_of_labels} must be one integer for each of the {name}, but have shape {tuple(labels.shape)} and "
            f"type {labels.dtype}."
        )
    if len(embeddings) != len(labels):
        raise InputError(f"{len(embeddings)} {name} came with {len(labels)} labels: give one label for each.")


def check_matrix(embeddings: Tensor, name: str) -> None:
    """Check that a matrix is (N, D) floating point and, on a CPU, finite."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(
            f"{name} must be a floating-point matrix of shape (batch, embedding size), but have shape "
            f"{tuple(embeddings.shape)} and type {embeddings.dtype}."
        )
    if embeddings.device.type != "cpu" or math.isfinite(embeddings.detach().float().sum()):
        return
    broken = (~embeddings.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if broken:  # else the sum was too large
        raise InputError(
            f"{len(broken)} of {len(embeddings)} {name} hold NaN or infinity, the first is row {broken[0]}: lower "
            f"the learning rate or look at that row's photo."
        )


class GenuinePairs(NamedTuple):
    """Pairs of a row and a column of one identity, ordered by row, then column."""

    row: Tensor  # (M,) int64
    column: Tensor  # (M,) int64


class Identities:
    """Columns grouped by identity.

    Args:
        labels: (C,) int64 of the columns.
    """

    def __init__(self, labels: Tensor) -> None:
        self.sorted, self.order = labels.sort(stable=True)  # columns of one identity ascend

    def span(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where the columns of given identities lie in `order`: (N,) first and (N,) one past the last.

        `first` numbers the identities of the columns in [0, C); without such a column both are equal. Nothing waits for
        a GPU.
        """
        first = torch.searchsorted(self.sorted, labels)
        return first, torch.searchsorted(self.sorted, labels, right=True)

    def pairs(self, labels: Tensor, start: int = 0, itself: bool = False) -> GenuinePairs:
        """Genuine pairs of rows with all columns; on a GPU this waits for their number.

        Args:
            labels: (N,) of the rows.
            start: number of the first row.
            itself: the rows are columns of the same number too; a row is not paired with itself.
        """
        first, last = self.span(labels)
        counts = last - first
        row = torch.repeat_interleave(counts)  # (M,) 0 0 0 1 1 1 ...
        shift = first - counts.cumsum(0) + counts  # (N,) from the place in this list to that in `order`
        place = torch.arange(len(row), device=row.device) + shift.index_select(0, row)
        column = self.order.index_select(0, place)
        if start:
            row = row + start
        if not itself:
            return GenuinePairs(row, column)
        others = (row != column).nonzero().flatten()
        return GenuinePairs(row.index_select(0, others), column.index_select(0, others))


def every_triplet(
    labels: Tensor, column_labels: Tensor, itself: bool, numbers: int = BAND, anchors: slice | None = None
) -> Triplets:
    """All triplets, ordered by anchor, positive, negative.

    Args:
        labels: (N,) int64 of the rows.
        column_labels: (C,) int64 of positives and negatives.
        itself: the rows are the first of the columns; an anchor is not its own positive.
        numbers: pairs of a positive and a column that are compared at once.
        anchors: rows whose triplets are listed; None lists those of all.
    """
    anchors = slice(0, len(labels)) if anchors is None else anchors
    anchor, positive = Identities(column_labels).pairs(labels[anchors], anchors.start, itself)
    pieces = [Triplets(anchor[:0], anchor[:0], anchor[:0])]
    for part in bands(len(anchor), len(column_labels), numbers):
        pair, negative = (labels[anchor[part], None] != column_labels).nonzero(as_tuple=True)
        pieces.append(Triplets(anchor[part][pair], positive[part][pair], negative))
    return Triplets(*(torch.cat(column) for column in zip(*pieces, strict=True)))


def both_directions(pairs: Pairs, anchors: int) -> Pairs:
    """Pairs in both directions, each once, ordered by anchor, then other.

    Args:
        pairs: of any order; one may be named several times, in either direction.
        anchors: B; an `other` from B on is a reference, which is never an anchor.
    """
    within = (pairs.other < anchors).nonzero().flatten()
    return without_duplicates(
        Pairs(
            torch.cat([pairs.anchor, pairs.other[within]]),
            torch.cat([pairs.other, pairs.anchor[within]]),
            torch.cat([pairs.same, pairs.same[within]]),
        )
    )


def without_duplicates(pairs: Pairs) -> Pairs:
    """Ordered pairs, each once, ordered by anchor, then other."""
    if not len(pairs.anchor):
        return pairs._replace(same=pairs.same.bool())
    columns = pairs.other.max() + 1
    number = ((pairs.anchor * columns + pairs.other) * 2 + pairs.same.bool()).unique()  # type: ignore[no-untyped-call]
    return Pairs(number // 2 // columns, number // 2 % columns, number % 2 == 1)
