"""A softmax of every row over all its partners and its gradient, without the matrix of its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Batch, Identities
from siamese_verify.pairwise.blocks import Piece, pieces
from siamese_verify.pairwise.distances import directions_of, first_order, through_directions_, uncompiled

KEPT = 7 << 20  # numbers of tiles that wait for the backward pass: 28 MiB; larger blocks get fresh pages each time
LEAST = 64  # nats below the whole of a softmax
MILD = 80  # between the largest and the smallest logit: exp(-80) is a normal number in every type


class Choice(NamedTuple):
    """What a softmax over all partners needs of each row."""

    partition: Tensor  # (B,) log-sum-exp of the logits of all partners; 0 for a row alone
    loss: Tensor  # (B,) >= 0, -log softmax summed over its positives; 0 without any
    positives: Tensor  # (B,) int64, how many


@uncompiled
def choose_among_all(batch: Batch, temperature: float) -> Choice:
    """Compare each row with all others and all references: logits are cosines divided by the temperature.

    Products of two rows are computed once, in tiles, and used for both. The backward pass finds the first tiles as the
    forward pass left them and computes the others again: one and a half to two products of the whole (B, D) batch with
    itself for both passes together, O((B + R) D) memory. Nothing underflows, however small the temperature. The logits
    of positives are summed by way of the sum of their vectors. Nothing waits for a GPU.
    """
    identity, last = Identities(batch.candidate_labels).span(batch.candidate_labels)
    positives = (last - identity - 1)[: len(batch.labels)]
    partition, loss = _ChooseAmongAll.apply(batch.embeddings, batch.references, identity, positives, temperature)
    return Choice(partition, loss, positives)


class _ChooseAmongAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, references: Tensor, identity: Tensor, positives: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        (rows, length), (others, length_of_others) = directions_of(embeddings), (references, references[:, :1])
        if len(references):
            others, length_of_others = directions_of(references)
        softmax = (MildSoftmax if 2 / temperature <= MILD else SharpSoftmax)(rows, temperature)
        room = rows.new_empty(min(KEPT, len(rows) * (len(rows) + len(others))))
        ctx.tiles = []
        for piece in pieces(len(rows), len(others), rows.device):
            left, right = rows[piece.left], (others if piece.remembered else rows)[piece.right]
            size = len(left) * len(right)
            fits = size <= len(room)
            tile = softmax.tile(left, right, piece.diagonal, room[:size].view(len(left), -1) if fits else None)
            room = room[size:]  # nothing once a tile did not fit: the first ones are kept
            softmax.look(tile, piece)
            if fits:
                ctx.tiles.append(tile)
        partners = partners_of(rows, others, identity)
        genuine = torch.linalg.vecdot(rows, partners).div_(temperature)  # (B,) logits of the positives, summed
        ctx.save_for_backward(rows, length, others, length_of_others, identity, positives, partners)
        ctx.softmax = softmax
        partition = softmax.partition()
        return partition, (positives * partition).sub_(genuine).clamp_(min=0)

    @staticmethod
    @first_order
    def backward(ctx: Any, partition_slope: Tensor, slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, length, others, length_of_others, identity, positives, partners = ctx.saved_tensors
        softmax = ctx.softmax
        pull = softmax.pull(positives * slope + partition_slope)
        genuine_slope = (slope / -softmax.temperature)[:, None]
        own = identity[: len(rows)]
        asking = rows * genuine_slope  # (B,D) what each anchor asks of its positives
        sums = rows.new_zeros(len(identity), rows.shape[1]).index_add_(0, own, asking)
        to_others = sums.index_select(0, identity[len(rows) :]) if ctx.needs_input_grad[1] else None
        to_rows = sums.index_select(0, own).sub_(asking)
        del sums, asking
        to_rows.addcmul_(partners, genuine_slope)
        for number, piece in enumerate(pieces(len(rows), len(others), rows.device)):
            left, right = rows[piece.left], (others if piece.remembered else rows)[piece.right]
            kept = number < len(ctx.tiles)
            tile = ctx.tiles[number] if kept else softmax.tile(left, right, piece.diagonal)
            weight = softmax.weight(tile, piece, pull)
            to_rows[piece.left].addmm_(weight, right)
            to_right = to_others if piece.remembered else to_rows
            if to_right is not None and not piece.diagonal:
                to_right[piece.right].addmm_(weight.T, left)
        through_directions_(to_rows, rows, length)
        if to_others is not None:
            through_directions_(to_others, others, length_of_others)
        return to_rows, to_others, None, None, None


class MildSoftmax:
    """Sums of exponentials, all shifted by the largest logit there can be: one exponential serves both rows of a pair.

    Args:
        rows: (B, D) of unit length.
        temperature: 2 / MILD or more.
    """

    def __init__(self, rows: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.shift = rows.new_full((1,), -1 / temperature)
        self.total = rows.new_zeros(len(rows))

    def tile(self, left: Tensor, right: Tensor, diagonal: bool, out: Tensor | None = None) -> Tensor:
        """(n, D) and (m, D) rows -> (n, m) exponentials, nobody's own among them."""
        tile = torch.addmm(self.shift, left, right.T, alpha=1 / self.temperature, out=out).exp_()
        return tile.fill_diagonal_(0) if diagonal else tile

    def look(self, tile: Tensor, piece: Piece) -> None:
        """Add a tile to the sums."""
        self.total[piece.left] += tile.sum(dim=1)
        if not piece.remembered and not piece.diagonal:
            self.total[piece.right] += tile.sum(dim=0)

    def partition(self) -> Tensor:
        """(B,) log-sum-exp of what was seen; 0 of nothing."""
        return torch.where(self.total > 0, self.total.log() - self.shift, 0)

    def pull(self, slope: Tensor) -> Tensor:
        """(B,) derivatives by the partition -> what `weight` multiplies with."""
        return torch.where(self.total > 0, slope / self.total, 0).div_(self.temperature)

    def weight(self, tile: Tensor, piece: Piece, pull: Tensor) -> Tensor:
        """(n, m) derivatives by the cosines of a tile, which stays as it is."""
        if piece.remembered:
            return tile * pull[piece.left, None]
        return (pull[piece.left, None] + pull[piece.right]).mul_(tile)


class SharpSoftmax:
    """Log-sum-exp, each row shifted by its own largest logit: exact at any temperature; otherwise as `MildSoftmax`."""

    def __init__(self, rows: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.total = rows.new_full((len(rows),), -torch.inf)

    def tile(self, left: Tensor, right: Tensor, diagonal: bool, out: Tensor | None = None) -> Tensor:
        """(n, D) and (m, D) rows -> (n, m) logits, nobody's own among them."""
        tile = torch.mm(left, right.T, out=out).div_(self.temperature)
        return tile.fill_diagonal_(-torch.inf) if diagonal else tile

    def look(self, tile: Tensor, piece: Piece) -> None:
        """Add a tile to the sums."""
        left, right = piece.left, piece.right
        self.total[left] = torch.logaddexp(self.total[left], tile.logsumexp(dim=1))
        if not piece.remembered and not piece.diagonal:
            self.total[right] = torch.logaddexp(self.total[right], tile.logsumexp(dim=0))

    def partition(self) -> Tensor:
        """(B,) log-sum-exp of what was seen; 0 of nothing."""
        return torch.where(self.total.isinf(), 0, self.total)

    def pull(self, slope: Tensor) -> Tensor:
        """(B,) derivatives by the partition -> what `weight` multiplies with."""
        return slope / self.temperature

    def weight(self, tile: Tensor, piece: Piece, pull: Tensor) -> Tensor:
        """(n, m) derivatives by the cosines of a tile, which stays as it is."""
        shift = self.partition()
        # Whatever is below exp(-LEAST) changes no digit of a sum, but would be slow as a denormal number.
        weight = (tile - shift[piece.left, None]).clamp_(min=-LEAST).exp_().mul_(pull[piece.left, None])
        if not piece.remembered:
            weight += (tile - shift[piece.right]).clamp_(min=-LEAST).exp_().mul_(pull[piece.right])
        return weight.fill_diagonal_(0) if piece.diagonal else weight


def partners_of(rows: Tensor, references: Tensor, identity: Tensor) -> Tensor:
    """Sum the partners of each row, references included: by way of the sum of their identity.

    Args:
        rows: (B, D).
        references: (R, D).
        identity: (B + R,) int64, a number in [0, B + R) for each identity.

    Returns:
        (B, D).
    """
    sums = rows.new_zeros(len(identity), rows.shape[1]).index_add_(0, identity[: len(rows)], rows)
    if len(references):
        sums.index_add_(0, identity[len(rows) :], references)
    return sums.index_select(0, identity[: len(rows)]).sub_(rows)
