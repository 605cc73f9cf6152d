"""Tiles of products of rows with columns, reduced where they lie: by PyTorch, or by kernels on a GPU.

The walks over all pairs (`log_softmax`, `pair_sum`, `nearest`) have one seam. For each tile they ask an epilogue:

- forward, what a product of n rows with m columns adds to each of its rows and columns: sums of exponentials, sums of
  losses, the nearest column. An epilogue writes one partial result for each strip of a tile, never with atomic
  operations, and torch adds these up: the same bits each time;
- backward, by which weight each pair pulls: (n, m) numbers that are multiplied with the columns, and their transpose
  with the rows. A pair of two rows of a batch is in one tile only, and serves both of them.

There are two implementations. PyTorch's are beside the walks, and are all there is on a CPU, in float64 and without
Triton. `kernels` holds Triton's; `fused` alone chooses, and they are off by default. Then tiles are products in the
precision that the user chose: of bfloat16 factors if the embeddings are, or under autocast to it, else of float32 as
`torch.get_float32_matmul_precision()` says; they are always summed in float32. `rounded` is what such a product takes
its factors for: a walk that needs squared lengths takes those of the rounded rows, and distances cancel exactly.
Genuine pairs are few: a kernel walks those of each row and computes them from differences, in float32.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.distances import matmul_precision

TILE = 8192  # rows of a tile: 256 MiB in float32
LONGEST_ROW = 8192  # dimensions of a row that a kernel holds at once

# Whether kernels are used. Off until they have run on a GPU: tests switch them on in Triton's interpreter, and
# benchmarks/gpu.py on a GPU.
enabled: bool = False


def fused(rows: Tensor) -> bool:
    """Whether kernels reduce the products of (N, D) rows."""
    return enabled and rows.dtype == torch.float32 and 0 < rows.shape[1] <= LONGEST_ROW and len(rows) > 0


@functools.cache
def has_kernels() -> bool:
    """Whether Triton is there, and a torch for CUDA that multiplies bfloat16 into float32."""
    found = importlib.util.find_spec("triton") is not None and hasattr(torch.ops.aten.mm, "dtype_out")
    return found and not torch.version.hip


def factor_type(embeddings: Tensor) -> torch.dtype:
    """Type of the factors of tiles: bfloat16 for such embeddings and under autocast to it, else float32."""
    kind = embeddings.device.type
    half = (  # `meta` has no autocast
        kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    )
    return torch.bfloat16 if embeddings.dtype == torch.bfloat16 or half else torch.float32


def rounded(rows: Tensor, factors: torch.dtype) -> Tensor:
    """(N, D) float32 rows as a product takes them: in bfloat16, or in float32 with no more digits than TF32 keeps."""
    if factors == torch.bfloat16:
        return rows.bfloat16()
    if matmul_precision() == "highest":
        return rows
    upper = rows * 8193  # Dekker's splitting: 11 bits are left, NaN stays
    return upper - (upper - rows)


def multiply(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """(n, m) float32 product of (n, D) and (D, m) factors of one type."""
    if left.dtype == torch.float32:
        return torch.mm(left, right, out=out)
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left.float(), right.float(), out=out)  # a CPU has no such product: the same factors and sums


def add_product_(target: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of (n, m) and (m, D) factors of one type to (n, D) numbers."""
    if left.dtype == target.dtype:
        target.addmm_(left, right)
    else:
        target += multiply(left, right)


class Tiles:
    """Products of rounded rows, each in the memory of the last one.

    Args:
        rows: (N, D) rounded.
        largest: rows, and columns, of the largest tile.
    """

    def __init__(self, rows: Tensor, largest: tuple[int, int]) -> None:
        self.memory = torch.empty(largest[0] * largest[1], dtype=torch.float32, device=rows.device)
        # Weights that need no more room than the product may overwrite it.
        self.weights = self.memory if rows.dtype == torch.float32 else self.memory.new_empty(0, dtype=rows.dtype)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """(n, m) of (n, D) and (m, D)."""
        shape = len(left), len(right)
        return multiply(left, right.T, self.memory[: shape[0] * shape[1]].view(shape))

    def weights_like(self, product: Tensor) -> Tensor:
        """(n, m) memory for weights, in the type of the rows; float32 ones are where the product is."""
        if self.weights.numel() < product.numel():
            self.weights = self.weights.new_empty(self.memory.numel())
        return self.weights[: product.numel()].view(product.shape)


def kernels() -> Any:
    """The module of the kernels, which imports Triton."""
    return importlib.import_module("siamese_verify.pairwise.kernels")
