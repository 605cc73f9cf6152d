"""What the objectives with a softmax over all partners share: its logarithm, without the matrix of its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from siamese_verify.errors import InputError
from siamese_verify.geometry import Batch, Identities, directions_of, row_product, steps, through_directions_, unit
from siamese_verify.losses.objective import BatchObjective, uncompiled
from siamese_verify.losses.reduction import Reduction
from siamese_verify.types import Pairs, Triplets


class PositiveTerms(NamedTuple):
    """-log of the softmax at each positive."""

    anchor: Tensor  # (M,) int64, the row whose positive it is
    loss: Tensor  # (M,) >= 0


class AnchorTerms(NamedTuple):
    """-log of the softmax, summed over the positives of each anchor."""

    loss: Tensor  # (B,) >= 0; 0 where there is no positive
    positives: Tensor  # (B,) int64, how many


class SoftmaxObjective(BatchObjective):
    """Each anchor picks its positives among all its partners, by a softmax over cosines divided by a temperature.

    Mined pairs are everything an anchor is compared with, and count for both their rows: those of `AllPairs` give what
    None gives. Of mined triplets each is a choice between two. With one partner only there is nothing to choose: the
    item is 0.

    Args:
        temperature: > 0. The smaller, the more the hardest partners decide.
        reduction: `mean`, `mean_active`, `sum` or `none`.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.
    """

    def __init__(self, temperature: float, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        check_temperature(temperature)
        self.temperature = temperature

    def positive_terms(self, batch: Batch, mined: Pairs | Triplets | None) -> PositiveTerms:
        """List -log softmax of every ordered (anchor, positive): by anchor, then positive, if nothing was mined."""
        rows = unit(batch.embeddings)
        candidates = unit(batch.candidates) if len(batch.references) else rows
        if mined is None:
            anchor, positive = Identities(batch.candidate_labels).pairs(batch.labels, itself=True)
            logit = row_product(rows, candidates, anchor, positive) / self.temperature
            partition = choose_among_all(batch, self.temperature).partition
            return PositiveTerms(anchor, (partition[anchor] - logit).clamp(min=0))
        if isinstance(mined, Triplets):
            genuine = row_product(rows, candidates, mined.anchor, mined.positive)
            impostor = row_product(rows, candidates, mined.anchor, mined.negative)
            difference = (impostor - genuine) / self.temperature
            return PositiveTerms(mined.anchor, torch.logaddexp(difference, torch.zeros_like(difference)))
        within = mined.other < len(rows)  # references are no anchors
        anchor = torch.cat([mined.anchor, mined.other[within]])
        partner = torch.cat([mined.other, mined.anchor[within]])
        same = torch.cat([mined.same, mined.same[within]]).bool()
        logit = row_product(rows, candidates, anchor, partner) / self.temperature
        partition = log_sum_exp_by(logit, anchor, len(rows))
        return PositiveTerms(anchor[same], (partition[anchor] - logit)[same].clamp(min=0))

    def anchor_terms(self, batch: Batch) -> AnchorTerms:
        """Sum -log softmax over all positives of each anchor, without listing them."""
        first, last = Identities(batch.candidate_labels).span(batch.labels)
        positives = last - first - 1
        partition, genuine = choose_among_all(batch, self.temperature)
        return AnchorTerms(torch.where(positives > 0, positives * partition - genuine, 0).clamp(min=0), positives)

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that divides by nothing, or turns the softmax upside down."""
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}, but must be above 0: 0.05 to 0.5 are usual.")


def log_sum_exp_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Log-sum-exp within groups.

    Args:
        values: (M,).
        group: (M,) int64 in [0, groups).
        groups: how many there are.

    Returns:
        (groups,); -inf for one without values.
    """
    highest = values.new_full((groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    total = values.new_zeros(groups).index_add(0, group, (values - highest[group]).exp())
    return torch.where(total > 0, highest + total.log(), -torch.inf)


class Choice(NamedTuple):
    """What a softmax over all partners needs of each row."""

    partition: Tensor  # (B,) log-sum-exp of the logits of all partners; -inf for a row alone
    genuine: Tensor  # (B,) sum of the logits of its positives


@uncompiled
def choose_among_all(batch: Batch, temperature: float) -> Choice:
    """Compare each row with all others and all references: logits are cosines divided by the temperature.

    Products of two rows are computed once, in tiles, and used for both; the backward pass computes them again: two
    products of the whole (B, D) batch with itself for both passes together, O((B + R) D) memory. Each tile is shifted
    by its own largest logit, so that nothing underflows, however small the temperature. The logits of positives are
    summed by way of the sum of their vectors. Nothing waits for a GPU.
    """
    identity = Identities(batch.candidate_labels).span(batch.candidate_labels)[0]
    return Choice(*_ChooseAmongAll.apply(batch.embeddings, batch.references, identity, temperature))


class _ChooseAmongAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, references: Tensor, identity: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        (rows, length), (others, length_of_others) = directions_of(embeddings), directions_of(references)
        partition = rows.new_full((len(rows),), -torch.inf)
        ctx.logits = None
        for left in steps(len(rows), rows.device):
            for right in steps(len(rows), rows.device, left.start):
                logits = logits_of(rows[left], rows[right], temperature, left == right)
                partition[left] = torch.logaddexp(partition[left], logits.logsumexp(dim=1))
                if left != right:
                    partition[right] = torch.logaddexp(partition[right], logits.logsumexp(dim=0))
                elif len(logits) == len(rows):
                    ctx.logits = logits  # a single tile is kept
            for right in steps(len(others), rows.device):
                logits = logits_of(rows[left], others[right], temperature)
                partition[left] = torch.logaddexp(partition[left], logits.logsumexp(dim=1))
        genuine = torch.linalg.vecdot(rows, partners_of(rows, others, identity)).div_(temperature)
        ctx.save_for_backward(rows, length, others, length_of_others, identity, partition)
        ctx.temperature = temperature
        return partition, genuine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, genuine_slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, length, others, length_of_others, identity, partition = ctx.saved_tensors
        slope, genuine_slope = slope / ctx.temperature, (genuine_slope / ctx.temperature)[:, None]
        own = identity[: len(rows)]
        asking = rows * genuine_slope  # (B,D) what each anchor asks of its positives
        sums = rows.new_zeros(len(identity), rows.shape[1]).index_add_(0, own, asking)
        to_others = sums[identity[len(rows) :]] if ctx.needs_input_grad[1] else None
        to_rows = sums[own].sub_(asking)
        del sums, asking
        to_rows.addcmul_(partners_of(rows, others, identity), genuine_slope)
        shift = torch.where(partition.isinf(), 0, partition)
        for left in steps(len(rows), rows.device):
            for right in steps(len(rows), rows.device, left.start):
                logits = ctx.logits
                if logits is None:
                    logits = logits_of(rows[left], rows[right], ctx.temperature, left == right)
                weight = (logits - shift[left, None]).exp_().mul_(slope[left, None])
                if left == right:
                    to_rows[left].addmm_(weight + weight.T, rows[right])
                    continue
                weight += logits.sub_(shift[right]).exp_().mul_(slope[right])
                to_rows[left].addmm_(weight, rows[right])
                to_rows[right].addmm_(weight.T, rows[left])
            for right in steps(len(others), rows.device):
                logits = logits_of(rows[left], others[right], ctx.temperature)
                weight = logits.sub_(shift[left, None]).exp_().mul_(slope[left, None])
                to_rows[left].addmm_(weight, others[right])
                if to_others is not None:
                    to_others[right].addmm_(weight.T, rows[left])
        through_directions_(to_rows, rows, length)
        if to_others is not None:
            through_directions_(to_others, others, length_of_others)
        return to_rows, to_others, None, None


def logits_of(left: Tensor, right: Tensor, temperature: float, diagonal: bool = False) -> Tensor:
    """(n, D) and (m, D) rows -> (n, m) logits, nobody's own among them."""
    logits = torch.mm(left, right.T).div_(temperature)
    return logits.fill_diagonal_(-torch.inf) if diagonal else logits


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
    return sums[identity[: len(rows)]].sub_(rows)
