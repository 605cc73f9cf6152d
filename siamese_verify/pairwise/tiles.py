"""Tiles of products of rows with columns, reduced where they lie: by PyTorch, or by kernels on a GPU.

The walks over all pairs (`log_softmax`, `pair_sum`, `nearest`) have one seam. For each tile they ask an epilogue:

- forward, what a product of n rows with m columns adds to each of its rows and columns: sums of exponentials, sums of
  losses, the nearest column. An epilogue writes one partial result for each strip of a tile, never with atomic
  operations, and torch adds these up: the same bits each time;
- backward, by which weight each pair pulls: (n, m) numbers that are multiplied with the columns, and their transpose
  with the rows. A pair of two rows of a batch is in one tile only, and serves both of them.

There are two implementations. PyTorch's are beside the walks, and are all there is on a CPU, in float64, without Triton
and on other GPUs than NVIDIA's from compute capability 8.0 on. `kernels` holds Triton's; `fused` alone chooses. They
have not run on a GPU yet: they were tested in Triton's interpreter, and their use of memory and time is not measured on
a GPU. So PyTorch's are the default; the environment variable SIAMESE_VERIFY_KERNELS=1, or `enabled = True` here, uses
kernels on a GPU that computes with them what it must, which `has_kernels` finds out once.

Tiles are products in the precision that the user chose: of bfloat16 factors if the embeddings are, or under autocast to
it, else of float32 as `torch.get_float32_matmul_precision()` says; they are always summed in float32. `rounded` is what
such a product takes its factors for: a walk that needs squared lengths takes those of the rounded rows, and distances
cancel exactly; a softmax takes the logits of positives from rounded rows too, as those of negatives are, and its
gradient keeps its digits where it has nearly converged. Rounding takes at most a share u of each factor: 2^-8 in
bfloat16, 2^-11 in TF32 (`high`), nothing in float32 (`highest`). So, at most,

| | is off by |
| --- | --- |
| a cosine | 2 u + 2e-7 |
| a logit, a log-sum-exp, a softmax loss | (2 u + 4e-7) / temperature |
| a distance of impostors | u of the sum of both rows' distances from the center; 1e-3 of it where float32 cancels |
| a distance of a genuine pair | 1e-6 of itself, from differences in float32; 1 - cosine: 2e-7 |
| what a pair pulls with | 2 u of it, beyond what its distance or logit is off by |

but in an identity of more than `WALKED` rows, whose genuine pairs are taken from products as impostors are. Random rows
lose a twentieth of that at 512 dimensions. `tests/pairwise/kernel_cases.py` checks this against loops in float64.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import warnings
from typing import Any

import torch
from torch import Tensor

from siamese_verify.pairwise.blocks import autocasts
from siamese_verify.pairwise.distances import matmul_precision

TILE = 8192  # rows of a tile: 256 MiB in float32
ALIGNED = 16  # numbers: by multiples of it Triton knows that it may load four at once
LONGEST_ROW = 8192  # dimensions of a row that a kernel holds at once
WALKED = 512  # rows of an identity beyond which its genuine pairs are taken from products too: a walk is quadratic
QUERIES = 64  # searches of a row beyond which PyTorch's form takes less time, and memory

# Whether kernels are used on a GPU. Off until they have run on one: a wrong access to its memory would end the run.
enabled: bool = os.environ.get("SIAMESE_VERIFY_KERNELS") == "1"
interpreted: bool = False  # whether they are on a CPU too: tests in Triton's interpreter

_verdicts: dict[torch.device, bool] = {}
_lock = threading.RLock()


def fused(rows: Tensor) -> bool:
    """Whether kernels reduce the products of (N, D) rows."""
    possible = enabled and (rows.is_cuda or interpreted) and rows.dtype == torch.float32
    return possible and 0 < rows.shape[1] <= LONGEST_ROW and len(rows) > 0 and has_kernels(rows.device)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def has_kernels(device: torch.device) -> bool:
    """Whether kernels compute on a device what PyTorch does. It is tried once, which takes seconds; then remembered.

    Where they do not, one warning says why.
    """
    with _lock:  # which the trial itself takes again
        if device not in _verdicts:
            _verdicts[device] = True
            obstacle = _obstacle(device)
            _verdicts[device] = obstacle is None
            if obstacle:
                warnings.warn(
                    f"Losses and miners run without Triton kernels on {device}, which takes more time: {obstacle}. "
                    "Without SIAMESE_VERIFY_KERNELS=1 they do so without this warning.",
                    stacklevel=2,
                )
        return _verdicts[device]


def _obstacle(device: torch.device) -> str | None:
    """Why kernels can't be used; None if they can."""
    if torch.version.hip:
        return "they are for NVIDIA's GPUs"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has a compute capability below 8.0"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not hasattr(torch.ops.aten.mm, "dtype_out"):
        return f"torch {torch.__version__} does not multiply bfloat16 into float32"
    try:
        wrong: str | None = importlib.import_module("siamese_verify.pairwise.kernel_check").wrong_kernel(device)
    except Exception as error:  # whatever a driver, a compiler or a folder that can't be written raises
        lines = str(error).splitlines() or [""]
        if "C compiler" in lines[0]:
            return "there is no C compiler, which Triton needs: install gcc, or name one in CC"
        return f"{type(error).__name__}: {lines[0]}"
    return wrong and f"the {wrong} of a small batch is wrong"


def factor_type(embeddings: Tensor) -> torch.dtype:
    """Type of the factors of tiles: bfloat16 for such embeddings and under autocast to it, else float32."""
    device = embeddings.device
    half = autocasts(device) and torch.get_autocast_dtype(device.type) == torch.bfloat16
    return torch.bfloat16 if embeddings.dtype == torch.bfloat16 or half else torch.float32


def rounded(rows: Tensor, factors: torch.dtype) -> Tensor:
    """(N, D) float32 rows as a product takes them: in bfloat16, or in float32 with no more digits than TF32 keeps."""
    if factors == torch.bfloat16:
        return rows.bfloat16()
    if matmul_precision() == "highest":
        return rows
    upper = rows * 8193  # Dekker's splitting: 11 bits are left, NaN stays
    return upper - (upper - rows)


def as_multiplied(rows: Tensor, factors: torch.dtype) -> Tensor:
    """(N, D) rows as kernels' products take them, in their own type; the gradient is that of the rows themselves."""
    if not fused(rows):
        return rows
    exact = rows.detach()
    moved: Tensor = rows + (rounded(exact, factors).to(rows.dtype) - exact)
    return moved


def squared_lengths(rows: Tensor) -> Tensor:
    """(N,) squared lengths of rounded rows in float32."""
    rows = rows.float()
    squares: Tensor = torch.linalg.vecdot(rows, rows)
    return squares


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
        numbers = largest[0] * self._stride(largest[1])
        self.memory = torch.empty(numbers, dtype=torch.float32, device=rows.device)
        # Weights that need no more room than the product may overwrite it.
        self.weights = self.memory if rows.dtype == torch.float32 else self.memory.new_empty(0, dtype=rows.dtype)

    @staticmethod
    def _stride(columns: int) -> int:
        """Numbers from row to row: more than there are columns where several of them could not be loaded at once."""
        return -(-columns // ALIGNED) * ALIGNED

    def _part(self, memory: Tensor, rows: int, columns: int) -> Tensor:
        stride = self._stride(columns)
        return memory[: rows * stride].view(rows, stride)[:, :columns]

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """(n, m) of (n, D) and (m, D)."""
        return multiply(left, right.T, self._part(self.memory, len(left), len(right)))

    def weights_like(self, product: Tensor) -> Tensor:
        """(n, m) memory for weights, in the type of the rows; float32 ones are where the product is."""
        if not self.weights.numel():
            self.weights = self.weights.new_empty(self.memory.numel())
        return self._part(self.weights, *product.shape)


def kernels() -> Any:
    """The module of the kernels, which imports Triton."""
    return importlib.import_module("siamese_verify.pairwise.kernels")
