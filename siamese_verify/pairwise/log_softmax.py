"""Log-sum-exp of each row's similarities to all others and its gradient, without the matrix of logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from siamese_verify.pairwise.batch import Identities
from siamese_verify.pairwise.blocks import block_size, first_order, share_blocks, uncompiled
from siamese_verify.pairwise.ranks import add_ranks_
from siamese_verify.pairwise.tiles import TILE, Tiles, add_product_, fused, kernels, rounded

KEPT = 6 << 20  # numbers of blocks that wait for the backward pass: 25 MB; later blocks are computed again there
FLOAT32_RANGE = 80  # between the largest and the smallest logit: exp(-80) is a normal number in float32
SMALLEST_TEMPERATURE = 0.003  # exp(-2 / 0.003) is a normal number in float64

Labels = tuple[Tensor, Tensor]  # (B,) of rows and (R,) of references


@uncompiled
def log_sum_exp_of_others(
    rows: Tensor,
    references: Tensor,
    temperature: float,
    size: int | None = None,
    kept: int = KEPT,
    own: slice | None = None,
    factors: torch.dtype = torch.float32,
    labels: Labels | None = None,
) -> Tensor:
    """Log-sum-exp of the logits of each row with all other rows and all references, or with impostors only.

    Logits are cosines over temperature, so their largest value is known: one exponential, shifted by it, serves both
    rows of a pair. Where float32 does not hold its range, at temperatures below 0.025, float64 does. Both passes
    together take 1.5 to 2 products of the whole (B, D) batch with itself, in O((B + R) D) memory. Nothing waits for a
    GPU. Ranks that share a batch compute their shares of the exponentials and add up B numbers in each pass.

    A logit is as exact as float32 has it (1e-7 / t), or with kernels as `pairwise.tiles` says.

    Args:
        rows: (B, D) of unit length, or zero.
        references: (R, D) likewise.
        temperature: at least `SMALLEST_TEMPERATURE`.
        size: rows of a block; None chooses by device.
        kept: numbers of blocks that are kept for the backward pass.
        own: rows of this rank, if ranks share the batch: its share of the gradient is that of all ranks' losses.
        factors: type of the factors of products where kernels reduce them.
        labels: int64 of rows and references: a row is compared with those of other labels. None compares all.

    Returns:
        (B,) log sum over k != i of exp(u_i . u_k / t); 0 for a row without others.
    """
    kind = rows.dtype
    epilogue: _Exponentials
    if fused(rows):
        kept, size = 0, size or TILE
        epilogue = _FusedExponentials(temperature, labels, rows, references, factors, size)
    else:
        size = size or block_size(rows.device)
        epilogue = _Exponentials(temperature, labels)
        rows, references = (part.to(epilogue.sums_type(kind)) for part in (rows, references))
    result: Tensor = _LogSumExp.apply(rows, references, None, epilogue, own, size, kept)[0]
    return result.to(kind)


class Softmax(NamedTuple):
    """What a softmax over all others needs of each row."""

    log_sum: Tensor  # (B,) log-sum-exp of the logits of all others
    positive: Tensor  # (B,) sum of the logits of its positives
    positives: Tensor  # (B,) int64, how many positives it has


@uncompiled
def softmax_over_others(
    rows: Tensor,
    references: Tensor,
    labels: Labels,
    temperature: float,
    own: slice | None = None,
    factors: torch.dtype = torch.float32,
    size: int | None = None,
) -> Softmax:
    """Sums of the logits of others and of positives; arguments as in `log_sum_exp_of_others`.

    The logits of a row's positives are summed by way of the sum of their vectors, itself among them: its cosine with
    itself is constant. Where kernels reduce the products, the two pulls of a genuine pair are added before they are
    rounded: near convergence they nearly cancel.
    """
    everyone = torch.cat(labels)
    first, last = Identities(everyone).span(everyone)
    count = (last - first - 1)[: len(rows)]
    with_kernels = fused(rows)
    if with_kernels:
        left, right = (rounded(part.detach(), factors).to(part.dtype) for part in (rows, references))
    else:
        left, right = rows, references
    sums = left.new_zeros(len(everyone), left.shape[1]).index_add(0, first[: len(rows)], left)
    if len(references):
        sums = sums.index_add(0, first[len(rows) :], right)
    cosines = torch.linalg.vecdot(left, sums.index_select(0, first[: len(rows)]))
    positive = (cosines - torch.linalg.vecdot(left, left).detach()) / temperature
    if not with_kernels:
        log_sum = log_sum_exp_of_others(rows, references, temperature, size, own=own)
        return Softmax(log_sum, positive, count)
    size = size or TILE
    epilogue = _FusedExponentials(temperature, labels, rows, references, factors, size, pulling=True)
    log_sum, positive = _LogSumExp.apply(rows, references, positive, epilogue, own, size, 0)
    return Softmax(log_sum, positive, count)


class _Block(NamedTuple):
    """A block of pairs."""

    rows: slice
    columns: slice
    itself: bool  # the columns are rows of the batch

    @property
    def diagonal(self) -> bool:
        """Whether its rows are its columns: it holds each pair twice."""
        return self.itself and self.rows == self.columns

    def parts(self, numbers: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        """(n,) of its rows and (m,) of its columns."""
        return numbers and (numbers[0][self.rows], numbers[0 if self.itself else 1][self.columns])


class _Exponentials:
    """Epilogue of PyTorch.

    Args:
        temperature: divides the cosines.
        labels: pairs of one label are left out; None leaves out a row with itself.
    """

    def __init__(self, temperature: float, labels: Labels | None) -> None:
        self.temperature, self.labels = temperature, labels

    def sums_type(self, kind: torch.dtype) -> torch.dtype:
        """Type that holds the range of the exponentials."""
        return kind if 2 / self.temperature <= FLOAT32_RANGE else torch.float64

    def factors(self, rows: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as they are multiplied; begins a pass."""
        return rows, references

    def values(self, left: Tensor, right: Tensor, block: _Block) -> Tensor:
        """(n, m) exp((cosine - 1) / temperature), 0 where a pair is left out."""
        shift = left.new_full((1,), -1 / self.temperature)
        values = torch.addmm(shift, left, right.T, alpha=1 / self.temperature).exp_()
        labels = block.parts(self.labels)
        if labels is not None:
            return values.masked_fill_(labels[0][:, None] == labels[1], 0)
        return values.fill_diagonal_(0) if block.diagonal else values

    def sums(self, values: Tensor, block: _Block) -> tuple[Tensor, Tensor | None]:
        """(n,) sums over rows and, where columns are other rows, (m,) over columns."""
        return values.sum(dim=1), values.sum(dim=0) if block.itself and not block.diagonal else None

    def weights(self, values: Tensor, weight: Tensor, pull: Tensor | None, block: _Block) -> Tensor:
        """(n, m) exponentials times what weighs their row, and their column if that is a row."""
        of_rows = weight[block.rows, None]
        return values * (of_rows + weight[block.columns] if block.itself else of_rows)

    def release(self) -> None:
        """Free the memory of a pass."""


class _FusedExponentials(_Exponentials):
    """Epilogue of kernels: values are the product, and the next one takes its place.

    Args:
        temperature: divides the cosines.
        labels: pairs of one label are left out; None leaves out a row with itself.
        rows: the batch.
        references: see `log_sum_exp_of_others`.
        factors: type of the factors of products.
        size: rows of a tile.
        pulling: genuine pairs are not left out, but get a weight of their own.
    """

    def __init__(
        self,
        temperature: float,
        labels: Labels | None,
        rows: Tensor,
        references: Tensor,
        factors: torch.dtype,
        size: int,
        pulling: bool = False,
    ) -> None:
        super().__init__(temperature, labels)
        self.kernels, self.type, self.pulling = kernels(), factors, pulling
        self.scale = torch.full((1,), 1 / temperature, dtype=self.sums_type(rows.dtype), device=rows.device)
        self.largest = min(size, len(rows)), min(size, max(len(rows), len(references)))
        self.tiles: Tiles | None = None

    def factors(self, rows: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        factors, others = rounded(rows, self.type), rounded(references, self.type)
        self.tiles = Tiles(factors, self.largest)
        return factors, others

    def values(self, left: Tensor, right: Tensor, block: _Block) -> Tensor:
        assert self.tiles
        return self.tiles.product(left, right)

    def sums(self, values: Tensor, block: _Block) -> tuple[Tensor, Tensor | None]:
        labels = None if self.pulling else block.parts(self.labels)
        mirrored = block.itself and not block.diagonal
        found: tuple[Tensor, Tensor | None] = self.kernels.exponential_sums(
            values, self.scale, block.diagonal, mirrored, labels
        )
        return found

    def weights(self, values: Tensor, weight: Tensor, pull: Tensor | None, block: _Block) -> Tensor:
        assert self.tiles
        of_columns, pulls = weight[block.columns] if block.itself else None, None
        if pull is not None:
            pulls = pull[block.rows], pull[block.columns] if block.itself else None
        found: Tensor = self.kernels.exponential_weights(
            *(values, self.tiles.weights_like(values), self.scale, weight[block.rows], of_columns, block.diagonal),
            *(block.parts(self.labels), pulls),
        )
        return found

    def release(self) -> None:
        self.tiles = None


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exp of rows, and their sums of logits of positives as given, which only get their gradient here."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        references: Tensor,
        positive: Tensor | None,
        epilogue: _Exponentials,
        own: slice | None,
        size: int,
        kept: int,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.epilogue, ctx.own, ctx.size, ctx.kept = epilogue, own, size, []
        total = rows.new_zeros(len(rows), dtype=epilogue.sums_type(rows.dtype))
        factors, others = epilogue.factors(rows, references)
        for block in map(_Block._make, share_blocks(own or slice(0, len(rows)), len(rows), len(references), size)):
            i, j, itself = block
            values = epilogue.values(factors[i], (factors if itself else others)[j], block)
            by_row, by_column = epilogue.sums(values, block)
            total[i] += by_row
            if by_column is not None:
                total[j] += by_column
            kept -= values.numel()
            if kept >= 0:
                ctx.kept.append(values)
        epilogue.release()
        if own is not None:
            add_ranks_(total)
        ctx.save_for_backward(rows, references, total)
        log_sum = torch.where(total == 0, 0, total.log() + 1 / epilogue.temperature)
        return log_sum.to(rows.dtype), None if positive is None else positive.clone()

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor, pulling: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, references, total = ctx.saved_tensors
        epilogue = ctx.epilogue
        slopes = torch.stack([slope] if pulling is None else [slope, pulling])
        if ctx.own is not None:
            slopes = add_ranks_(slopes)  # each rank's losses pull at the pairs of all
        slopes = slopes.to(total.dtype).div_(epilogue.temperature)
        weight = torch.where(total == 0, 0, slopes[0] / total)  # (B,)
        to_rows = torch.zeros_like(rows)
        to_references = torch.zeros_like(references) if ctx.needs_input_grad[1] else None
        factors, others = epilogue.factors(rows, references)
        walk = share_blocks(ctx.own or slice(0, len(rows)), len(rows), len(references), ctx.size)
        for number, block in enumerate(map(_Block._make, walk)):
            i, j, itself = block
            columns = (factors if itself else others)[j]
            kept = number < len(ctx.kept)
            values = ctx.kept[number] if kept else epilogue.values(factors[i], columns, block)
            # d (sum of slope * log-sum-exp) / d cosine: the pair stands in the sums of both its rows
            weights = epilogue.weights(values, weight, None if pulling is None else slopes[1], block)
            add_product_(to_rows[i], weights, columns)
            to_columns = to_rows if itself else to_references
            if to_columns is not None and not block.diagonal:
                add_product_(to_columns[j], weights.T, factors[i])
        epilogue.release()
        return to_rows, to_references, None, None, None, None, None
