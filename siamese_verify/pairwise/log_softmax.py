"""Log-sum-exp of each row's similarities to all others and its gradient, without the matrix of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import block_size, first_order, share_blocks, uncompiled
from siamese_verify.pairwise.ranks import add_ranks_
from siamese_verify.pairwise.tiles import TILE, Tiles, add_product_, fused, kernels, rounded

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
    factors: torch.dtype = torch.float32,
) -> Tensor:
    """Log-sum-exp of the logits of each row with all other rows and all references.

    Logits are cosines over temperature, so their largest value is known: one exponential, shifted by it, serves both
    rows of a pair. Where float32 does not hold its range, at temperatures below 0.025, float64 does. Both passes
    together take 1.5 to 2 products of the whole (B, D) batch with itself, in O((B + R) D) memory. Nothing waits for a
    GPU. Ranks that share a batch compute their shares of the exponentials and add up B numbers in each pass.

    A logit is as exact as float32 has it (1e-7 / t). On a GPU it is off by at most what rounding both rows to their
    factors loses: 2^-7 / t for bfloat16, 2^-10 / t for TF32, and of random directions a twentieth of that at D = 512.

    Args:
        rows: (B, D) of unit length, or zero.
        references: (R, D) likewise.
        temperature: at least `SMALLEST_TEMPERATURE`.
        size: rows of a block; None chooses by device.
        kept: numbers of blocks that are kept for the backward pass.
        own: rows of this rank, if ranks share the batch: its share of the gradient is that of all ranks' losses.
        factors: type of the factors of products where kernels reduce them.

    Returns:
        (B,) log sum over k != i of exp(u_i . u_k / t); 0 for a row without others.
    """
    kind = rows.dtype
    precise = kind if 2 / temperature <= FLOAT32_RANGE else torch.float64
    epilogue: _Exponentials | _FusedExponentials
    if fused(rows):
        kept, size = 0, size or TILE
        epilogue = _FusedExponentials(rows, references, temperature, precise, size, factors)
    else:
        size = size or block_size(rows.device)
        epilogue = _Exponentials(temperature)
        rows, references = rows.to(precise), references.to(precise)
    result: Tensor = _LogSumExp.apply(rows, references, precise, epilogue, own, size, kept)
    return result.to(kind)


class _Exponentials:
    """Epilogue of PyTorch."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def factors(self, rows: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as they are multiplied."""
        return rows, references

    def block(self, left: Tensor, right: Tensor, diagonal: bool) -> Tensor:
        """(n, m) exp((cosine - 1) / temperature), 0 for a row with itself."""
        shift = left.new_full((1,), -1 / self.temperature)
        block = torch.addmm(shift, left, right.T, alpha=1 / self.temperature).exp_()
        return block.fill_diagonal_(0) if diagonal else block

    def sums(self, block: Tensor, diagonal: bool, mirrored: bool) -> tuple[Tensor, Tensor | None]:
        """(n,) sums over rows and, if mirrored, (m,) over columns."""
        return block.sum(dim=1), block.sum(dim=0) if mirrored else None

    def weights(self, block: Tensor, of_rows: Tensor, of_columns: Tensor | None, diagonal: bool) -> Tensor:
        """(n, m) exponentials times the sum of what weighs their row and column."""
        return block * (of_rows[:, None] if of_columns is None else of_rows[:, None] + of_columns)


class _FusedExponentials:
    """Epilogue of kernels: a block is the product, and the next one takes its place."""

    def __init__(
        self, rows: Tensor, references: Tensor, temperature: float, sums: torch.dtype, size: int, factors: torch.dtype
    ) -> None:
        self.kernels, self.type, self.temperature = kernels(), factors, temperature
        self.scale = torch.full((1,), 1 / temperature, dtype=sums, device=rows.device)
        self.tiles: Tiles | None = None
        self.largest = min(size, len(rows)), min(size, max(len(rows), len(references)))

    def factors(self, rows: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        self.tiles = None  # the memory of the other pass is free for this one
        factors, others = rounded(rows, self.type), rounded(references, self.type)
        self.tiles = Tiles(factors, self.largest)
        return factors, others

    def block(self, left: Tensor, right: Tensor, diagonal: bool) -> Tensor:
        assert self.tiles
        return self.tiles.product(left, right)

    def sums(self, block: Tensor, diagonal: bool, mirrored: bool) -> tuple[Tensor, Tensor | None]:
        found: tuple[Tensor, Tensor | None] = self.kernels.exponential_sums(block, self.scale, diagonal, mirrored)
        return found

    def weights(self, block: Tensor, of_rows: Tensor, of_columns: Tensor | None, diagonal: bool) -> Tensor:
        assert self.tiles
        memory = self.tiles.weights_like(block)
        weights: Tensor = self.kernels.exponential_weights(block, memory, self.scale, of_rows, of_columns, diagonal)
        return weights


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        references: Tensor,
        precise: torch.dtype,
        epilogue: _Exponentials | _FusedExponentials,
        own: slice | None,
        size: int,
        kept: int,
    ) -> Tensor:
        ctx.epilogue, ctx.own, ctx.size, ctx.kept = epilogue, own, size, []
        total = rows.new_zeros(len(rows), dtype=precise)
        factors, others = epilogue.factors(rows, references)
        for i, j, itself in share_blocks(own or slice(0, len(rows)), len(rows), len(references), size):
            columns, diagonal = factors if itself else others, itself and i == j
            block = epilogue.block(factors[i], columns[j], diagonal)
            by_row, by_column = epilogue.sums(block, diagonal, itself and not diagonal)
            total[i] += by_row
            if by_column is not None:
                total[j] += by_column
            kept -= block.numel()
            if kept >= 0:
                ctx.kept.append(block)
        if own is not None:
            add_ranks_(total)
        ctx.save_for_backward(rows, references, total)
        return torch.where(total == 0, 0, total.log() + 1 / epilogue.temperature)

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        rows, references, total = ctx.saved_tensors
        epilogue = ctx.epilogue
        if ctx.own is not None:
            slope = add_ranks_(slope.clone())  # each rank's losses pull at the pairs of all
        weight = torch.where(total == 0, 0, slope / total).div_(epilogue.temperature)  # (B,)
        to_rows = torch.zeros_like(rows)
        to_references = torch.zeros_like(references) if ctx.needs_input_grad[1] else None
        factors, others = epilogue.factors(rows, references)
        walk = share_blocks(ctx.own or slice(0, len(rows)), len(rows), len(references), ctx.size)
        for number, (i, j, itself) in enumerate(walk):
            columns, diagonal = factors if itself else others, itself and i == j
            kept = number < len(ctx.kept)
            block = ctx.kept[number] if kept else epilogue.block(factors[i], columns[j], diagonal)
            # d (sum of slope * log-sum-exp) / d cosine: the pair stands in the sums of both its rows
            pull = epilogue.weights(block, weight[i], weight[j] if itself else None, diagonal)
            add_product_(to_rows[i], pull, columns[j])
            to_columns = to_rows if itself else to_references
            if to_columns is not None and not diagonal:
                add_product_(to_columns[j], pull.T, factors[i])
        return to_rows, to_references, None, None, None, None, None
