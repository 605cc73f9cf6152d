"""The scale of cosine scores, cut into cells that whole numbers name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SCALE = 2.0**20  # of the scores that are counted: a power of two rounds nothing, and fine cells are whole numbers
FINE = 5  # log2 of the fine cells in a cell
MARGIN = 64  # fine cells beyond [-1, 1], for rounding
ZERO = int(SCALE) + MARGIN  # fine cell of the score 0; it is twice as wide, as whole numbers are cut towards zero
CELLS = (2 * ZERO) // 2**FINE + 1  # 65,541


def fine_cells(scaled: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the fine cell of (K,) scaled scores, int32; a higher score is never in a lower cell."""
    whole = scaled.to(torch.int32) if out is None else out.copy_(scaled)
    return whole.add_(ZERO)


def cells_of(scaled: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the cell of (K,) scaled scores, whole ones of `fine_cells`."""
    return (scaled.astype(np.int64) + ZERO) >> FINE


def floors_of(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for (K,) cells a score, not scaled, that parts their scores from those of lower cells."""
    first = ((cells << FINE) - ZERO).astype(np.float64)  # of the fine cells in a cell
    return np.where(first > 0, first, np.nextafter(first - 1, np.inf)) / SCALE
