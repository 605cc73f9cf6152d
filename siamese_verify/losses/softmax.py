"""What the objectives with a softmax over all partners share: its logarithm, without the matrix of its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from siamese_verify.errors import InputError
from siamese_verify.geometry import Batch, Identities, row_product, steps, unit
from siamese_verify.losses.objective import BatchObjective
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
        rows, candidates = unit(batch.embeddings), unit(batch.candidates)
        if mined is None:
            pairs = Identities(batch.candidate_labels).pairs(batch.labels, itself=True)
            partition = log_partition(rows, unit(batch.references), self.temperature)
            cosine = row_product(rows, candidates, pairs.row, pairs.column)
            return PositiveTerms(pairs.row, (partition[pairs.row] - cosine / self.temperature).clamp(min=0))
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
        rows, references = unit(batch.embeddings), unit(batch.references)
        labels = batch.candidate_labels
        identities = Identities(labels)
        first, last = identities.span(labels)
        positives = (last - first - 1)[: len(rows)]
        partition = log_partition(rows, references, self.temperature)
        cosines = partner_sum(rows, references, first)
        loss = positives * partition - cosines / self.temperature
        return AnchorTerms(torch.where(positives > 0, loss, 0).clamp(min=0), positives)

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


@torch.compiler.disable
def log_partition(rows: Tensor, references: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp of u_i . u_k / t over all k != i, and over all references.

    Products of two rows are computed once, in tiles, and used for both; the backward pass computes them again: two
    products of the whole (B, D) batch with itself for both passes together, O(B D) memory. Each tile is shifted by its
    own largest logit, so that nothing underflows, however small the temperature.

    Args:
        rows: (B, D).
        references: (R, D).
        temperature: > 0.

    Returns:
        (B,); -inf for a row alone.
    """
    partition: Tensor = _LogPartition.apply(rows, references, temperature)
    return partition


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, references: Tensor, temperature: float) -> Tensor:
        partition = rows.new_full((len(rows),), -torch.inf)
        for left in steps(len(rows), rows.device):
            for right in steps(len(rows), rows.device, left.start):
                logits = logits_of(rows[left], rows[right], temperature, left == right)
                partition[left] = torch.logaddexp(partition[left], logits.logsumexp(dim=1))
                if left != right:
                    partition[right] = torch.logaddexp(partition[right], logits.logsumexp(dim=0))
            for right in steps(len(references), rows.device):
                logits = logits_of(rows[left], references[right], temperature)
                partition[left] = torch.logaddexp(partition[left], logits.logsumexp(dim=1))
        ctx.save_for_backward(rows, references, partition)
        ctx.temperature = temperature
        return partition

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, references, partition = ctx.saved_tensors
        slope = slope / ctx.temperature
        shift = torch.where(partition.isinf(), 0, partition)[:, None]  # (B,1)
        to_rows = torch.zeros_like(rows)
        to_references = torch.zeros_like(references) if ctx.needs_input_grad[1] else None
        for left in steps(len(rows), rows.device):
            for right in steps(len(rows), rows.device, left.start):
                logits = logits_of(rows[left], rows[right], ctx.temperature, left == right)
                weight = (logits - shift[left]).exp_().mul_(slope[left, None])
                weight += logits.sub_(shift[right].T).exp_().mul_(slope[right])
                to_rows[left].addmm_(weight, rows[right])
                if left != right:
                    to_rows[right].addmm_(weight.T, rows[left])
            for right in steps(len(references), rows.device):
                logits = logits_of(rows[left], references[right], ctx.temperature)
                weight = logits.sub_(shift[left]).exp_().mul_(slope[left, None])
                to_rows[left].addmm_(weight, references[right])
                if to_references is not None:
                    to_references[right].addmm_(weight.T, rows[left])
        return to_rows, to_references, None


def logits_of(left: Tensor, right: Tensor, temperature: float, diagonal: bool = False) -> Tensor:
    """(n, D) and (m, D) rows -> (n, m) logits, nobody's own among them."""
    logits = torch.mm(left, right.T).div_(temperature)
    return logits.fill_diagonal_(-torch.inf) if diagonal else logits


def partner_sum(rows: Tensor, references: Tensor, identity: Tensor) -> Tensor:
    """Sum u_i . u_p over all p of the same identity, p != i, references included: by way of the sum of their vectors.

    Args:
        rows: (B, D).
        references: (R, D).
        identity: (B + R,) int64, a number in [0, B + R) for each identity.

    Returns:
        (B,).
    """
    total: Tensor = _PartnerSum.apply(rows, references, identity)
    return total


class _PartnerSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, references: Tensor, identity: Tensor) -> Tensor:
        ctx.save_for_backward(rows, references, identity)
        return torch.linalg.vecdot(rows, partners_of(rows, references, identity))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, references, identity = ctx.saved_tensors
        own, others = identity[: len(rows)], identity[len(rows) :]
        asking = rows * slope[:, None]  # (B,D) what each anchor asks of its partners
        sums = rows.new_zeros(len(identity), rows.shape[1]).index_add_(0, own, asking)
        to_references = sums[others] if ctx.needs_input_grad[1] else None
        to_rows = sums[own].sub_(asking)
        del sums, asking
        return to_rows.addcmul_(partners_of(rows, references, identity), slope[:, None]), to_references, None


def partners_of(rows: Tensor, references: Tensor, identity: Tensor) -> Tensor:
    """(B, D) sums of the partners of each row; arguments as in `partner_sum`."""
    sums = rows.new_zeros(len(identity), rows.shape[1]).index_add_(0, identity[: len(rows)], rows)
    if len(references):
        sums.index_add_(0, identity[len(rows) :], references)
    return sums[identity[: len(rows)]].sub_(rows)
