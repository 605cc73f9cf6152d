"""Memory bank: one embedding for each image of the data set, as it was when the image was seen last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.methods.method import check_momentum, unit_rows


class MemoryBank(nn.Module):
    """(N,D) vectors of unit length, random at first; part of a checkpoint, never of a gradient.

    Args:
        images: N, of the training set.
        size: D.
        momentum: share of a vector that is kept when its image is seen again, in [0, 1]; 0.5 in the papers.

    Raises:
        InputError: a number out of range; when restored, a checkpoint of another size.
    """

    def __init__(self, images: int, size: int, momentum: float = 0.5) -> None:
        super().__init__()
        check_momentum(momentum)
        if not (images >= 1 and size >= 1):
            raise InputError(f"A memory bank has 1 or more images and dimensions, got {images} and {size}.")
        self.momentum = momentum
        self._vectors = F.normalize(torch.randn(images, size))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._vectors)

    @property
    def vectors(self) -> Tensor:
        """(N,D), a copy, which stays as it is when the bank is updated."""
        return self._vectors.clone()

    def __getitem__(self, rows: Tensor) -> Tensor:
        """(n,D) vectors of (n,) images, a copy."""
        return self._vectors[rows]

    @torch.no_grad()
    def update(self, rows: Tensor, embeddings: Tensor) -> None:
        """Move the vectors of (n,) images to normalize(m * vector + (1 - m) * embedding), of (n,D) unit embeddings.

        Of an image that is given more than once the last embedding counts. Under distributed training the rows of all
        ranks must be given, in the same order on each.
        """
        moved = unit_rows(self.momentum * self[rows] + (1 - self.momentum) * embeddings)
        ordered, order = rows.sort(stable=True)
        last = order[torch.searchsorted(ordered, rows, right=True) - 1]  # (n,) where each row is given last
        self._vectors.index_copy_(0, rows, moved[last].to(self._vectors))

    def get_extra_state(self) -> dict[str, Any]:
        """State for a checkpoint. No buffer: distributed training would send it from rank to rank each step."""
        return {"vectors": self.vectors}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        if state["vectors"].shape != self._vectors.shape:
            raise InputError(
                f"The checkpoint's memory bank has the shape {tuple(state['vectors'].shape)}, not "
                f"{tuple(self._vectors.shape)}: keep its images and size."
            )
        self._vectors = state["vectors"].to(self._vectors, copy=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MemoryBank:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._vectors = fn(self._vectors)
        return self

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"images={len(self)}, size={self._vectors.shape[1]}, momentum={self.momentum}"
