"""Log-sum-exp of each row's similarities to all others and its gradient, without the matrix of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import block_size, first_order, share_blocks, uncompiled
from siamese_verify.pairwise.ranks import add_ranks_

KEPT = 6 << 20  # numbers of blocks that wait for the backward pass: 25 MB; later blocks are computed again there
FLOAT32_RANGE = 80  # between the largest and the smallest logit: exp(-80) is a normal number in float32
SMALLEST_TEMPERATURE = 0.003  # exp(-2 / 0.003) is a normal number in float64


@uncompiled
def log_sum_exp_of_others(
    rows: Tensor,
    references: Tensor,
    temperature: float,
    size: int | None = None,
    kept: int = KEPT,
    own: slice | None = None,
) -> Tensor:
    """Log-sum-exp of the logits of each row with all other rows and all references.

    Logits are cosines over temperature, so their largest value is known: one exponential, shifted by it, serves both
    rows of a pair. Where float32 does not hold its range, at temperatures below 0.025, float64 does. Both passes
    together take 1.5 to 2 products of the whole (B, D) batch with itself, in O((B + R) D) memory. Nothing waits for a
    GPU. Ranks that share a batch compute their shares of the exponentials and add up B numbers in each pass.

    Args:
        rows: (B, D) of unit length, or zero.
        references: (R, D) likewise.
        temperature: at least `SMALLEST_TEMPERATURE`.
        size: rows of a block; None chooses by device.
        kept: numbers of blocks that are kept for the backward pass.
        own: rows of this rank, if ranks share the batch: its share of the gradient is that of all ranks' losses.

    Returns:
        (B,) log sum over k != i of exp(u_i . u_k / t); 0 for a row without others.
    """
    precise = rows.dtype if 2 / temperature <= FLOAT32_RANGE else torch.float64
    size = size or block_size(rows.device)
    result: Tensor = _LogSumExp.apply(rows.to(precise), references.to(precise), temperature, own, size, kept)
    return result.to(rows.dtype)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, references: Tensor, temperature: float, own: slice | None, size: int, kept: int
    ) -> Tensor:
        ctx.temperature, ctx.own, ctx.size, ctx.kept = temperature, own, size, []
        total = rows.new_zeros(len(rows))
        for i, j, itself in share_blocks(own or slice(0, len(rows)), len(rows), len(references), size):
            columns = rows if itself else references
            block = _exponentials(rows[i], columns[j], temperature, itself and i == j)
            total[i] += block.sum(dim=1)
            if itself and i != j:
                total[j] += block.sum(dim=0)
            kept -= block.numel()
            if kept >= 0:
                ctx.kept.append(block)
        if own is not None:
            add_ranks_(total)
        ctx.save_for_backward(rows, references, total)
        return torch.where(total > 0, total.log() + 1 / temperature, 0)

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, references, total = ctx.saved_tensors
        if ctx.own is not None:
            slope = add_ranks_(slope.clone())  # each rank's losses pull at the pairs of all
        weight = torch.where(total > 0, slope / total, 0).div_(ctx.temperature)  # (B,)
        to_rows = torch.zeros_like(rows)
        to_references = torch.zeros_like(references) if ctx.needs_input_grad[1] else None
        walk = share_blocks(ctx.own or slice(0, len(rows)), len(rows), len(references), ctx.size)
        for number, (i, j, itself) in enumerate(walk):
            columns = rows if itself else references
            kept = number < len(ctx.kept)
            block = ctx.kept[number] if kept else _exponentials(rows[i], columns[j], ctx.temperature, itself and i == j)
            # d (sum of slope * log-sum-exp) / d cosine: the pair stands in the sums of both its rows
            pull = block * (weight[i, None] + weight[j] if itself else weight[i, None])
            to_rows[i].addmm_(pull, columns[j])
            to_columns = to_rows if itself else to_references
            if to_columns is not None and not (itself and i == j):
                to_columns[j].addmm_(pull.T, rows[i])
        return to_rows, to_references, None, None, None, None


def _exponentials(left: Tensor, right: Tensor, temperature: float, diagonal: bool) -> Tensor:
    """(n, m) exp((cosine - 1) / temperature), 0 for a row with itself."""
    shift = left.new_full((1,), -1 / temperature)
    block = torch.addmm(shift, left, right.T, alpha=1 / temperature).exp_()
    return block.fill_diagonal_(0) if diagonal else block
