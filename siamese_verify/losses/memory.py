"""Cross-batch memory: embeddings of past batches as additional positives and negatives."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchLoss, MeasuredLoss, Tuples, refuse_miner
from siamese_verify.pairwise.blocks import copied_ahead
from siamese_verify.structures import Pairs, Triplets

Result = TypeVar("Result", Tensor, MeasuredLoss)
Miner = Callable[..., Any]  # ours or pytorch-metric-learning's
MOST = 2**26  # rows of a memory
NOBODY = -1  # label of a row that is nobody's


class EmbeddingQueue(nn.Module):
    """The newest embeddings and labels, first in, first out; part of a checkpoint, never of a gradient.

    It is also the dictionary of MoCo: `loss(query, key, queue.embeddings)`, then `queue.enqueue(key, labels)`, with
    keys of the momentum encoder.

    Args:
        size: rows to keep, 1 to `MOST`.

    Raises:
        InputError: another size; when enqueueing, embeddings of another size than those before, or too little memory.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, section 3.2.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        try:
            self.size = 0 if isinstance(size, bool) else operator.index(size)
        except TypeError:
            self.size = 0
        if not 1 <= self.size <= MOST:
            raise InputError(f"size is {size!r}, but a memory keeps a whole number of rows, from 1 to {MOST:,}.")
        self._rows: Tensor | None = None  # (size, D), allocated with the first batch; a ring
        self._labels = torch.empty(0, dtype=torch.int64)  # (size,)
        self._next = 0
        self._filled = 0

    def __len__(self) -> int:
        """Number of rows in the queue."""
        return self._filled

    @property
    def embeddings(self) -> Tensor:
        """(R, D), R <= size; (0, 0) before the first batch. A copy, which stays as it is when rows are enqueued."""
        return torch.empty(0, 0) if self._rows is None else self._rows[: self._filled].clone()

    @property
    def labels(self) -> Tensor:
        """(R,) int64, a copy."""
        return self._labels[: self._filled].clone()

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Tensor) -> None:
        """Replace the oldest rows by (B, D) embeddings and (B,) labels; of more than `size` rows the last are kept.

        Under distributed training the rows of all ranks must be given, in the same order on each: what
        `siamese_verify.training.gather_batch` returns. Nothing waits for a GPU. Of rows that are not finite, as an
        overflow of mixed precision gives them, zeros of nobody are kept: they would spoil the loss of many batches.
        """
        if self._rows is None or len(self) == 0:
            try:
                self._rows = embeddings.new_empty(self.size, embeddings.shape[1])
                self._labels = torch.empty(self.size, dtype=torch.int64, device=embeddings.device)
            except RuntimeError:
                shape = f"{self.size:,} embeddings of {embeddings.shape[1]} numbers"
                raise InputError(f"A memory of {shape} does not fit here: choose a smaller size.") from None
        if embeddings.shape[1] != self._rows.shape[1]:
            raise InputError(
                f"The memory holds embeddings of {self._rows.shape[1]} dimensions, and was given some of "
                f"{embeddings.shape[1]}: use one memory for each encoder."
            )
        self._rows, self._labels = (copied_ahead(one, embeddings.device) for one in (self._rows, self._labels))
        newest = embeddings[-self.size :]
        finite = newest.isfinite().all(dim=1)
        place = (self._next + torch.arange(len(newest), device=embeddings.device)) % self.size
        self._rows[place] = newest.to(self._rows).where(finite[:, None], 0)
        self._labels[place] = labels[-self.size :].to(self._labels).where(finite, NOBODY)
        self._next = (self._next + len(newest)) % self.size
        self._filled = min(self._filled + len(newest), self.size)

    def get_extra_state(self) -> dict[str, Any]:
        """State for a checkpoint. Not buffers: distributed training would send them from rank to rank each step."""
        return {"rows": self.embeddings, "labels": self.labels, "size": self.size, "next": self._next}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint, with each row where it was, so that sums keep their order."""
        if state["size"] != self.size:
            raise InputError(f"The checkpoint's memory has a size of {state['size']}, not {self.size}: keep its size.")
        self._rows, self._filled, self._next = None, 0, 0
        if len(state["rows"]):
            self.enqueue(state["rows"], state["labels"])
            self._next = state["next"]

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"size={self.size}"


class CrossBatchMemory(nn.Module):
    """A loss over the batch and a memory of past batches, whose embeddings change slowly.

    Each step, the batch is compared with itself and with the memory, and then joins it. Rows of the memory are
    positives and negatives, never anchors, and get no gradient.

    Args:
        objective: compares everything, or what `miner` chooses.
        size: rows to keep, 1 to `MOST`; at most a few epochs' worth.
        miner: chooses among the batch and the memory together: the positives of an anchor may lie in one and its
            negatives in the other. None leaves everything to the loss.
        warm_up: batches during which the memory is only filled: embeddings change fast at first.

    Raises:
        InputError: a loss that takes no references, or not what the miner chooses; when called with tuples.

    Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020, algorithm 1.
    """

    takes: tuple[type[Pairs | Triplets], ...] = ()
    instead = "set miner=none, and the memory's own by miner@loss.miner"

    def __init__(self, objective: BatchLoss, size: int = 4096, miner: Miner | None = None, warm_up: int = 0) -> None:
        super().__init__()
        if not isinstance(objective, BatchLoss):
            raise InputError(
                f"CrossBatchMemory wraps a loss of siamese_verify.losses, got {type(objective).__name__}: "
                "pytorch-metric-learning has a CrossBatchMemory for its own."
            )
        if not objective.takes_references:
            raise InputError(f"{type(objective).__name__} compares rows of the batch only: use it without a memory.")
        refuse_miner(type(objective), miner)
        self.objective = objective
        self.miner = miner or None  # an empty config is no miner
        self.warm_up = warm_up
        self.queue = EmbeddingQueue(size)
        self._batches = 0

    @property
    def reduction(self) -> str:
        """Reduction of the loss."""
        return self.objective.reduction

    @property
    def collapsed_loss(self) -> float | None:
        """Value of the loss when all embeddings are equal, where it has one."""
        return getattr(self.objective, "collapsed_loss", None)

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: Tuples = None, own: slice | None = None) -> Tensor:
        """Loss of a batch, which joins the memory in training; arguments as in `BatchLoss.forward`.

        Ranks that share the batch compare their own rows with all and with the memory, and all enqueue the same.
        """
        return self._compare(self.objective.forward, embeddings, labels, tuples, own)

    def measure(
        self, embeddings: Tensor, labels: Tensor, tuples: Tuples = None, own: slice | None = None
    ) -> MeasuredLoss:
        """Loss and fraction of nonzero items of a batch, which joins the memory in training."""
        return self._compare(self.objective.measure, embeddings, labels, tuples, own)

    def _compare(
        self,
        compute: Callable[..., Result],
        embeddings: Tensor,
        labels: Tensor,
        tuples: Tuples,
        own: slice | None,
    ) -> Result:
        if tuples is not None:
            raise InputError(
                "CrossBatchMemory takes no tuples, its own miner chooses them: set miner=none, loss.miner and "
                "sampler=identity."
            )
        remembered: tuple[Tensor, ...] = ()
        if len(self.queue) and self._batches >= self.warm_up:
            remembered = self.queue.embeddings, self.queue.labels
        chosen = self._mine(embeddings.detach(), labels, remembered, own)
        result = compute(embeddings, labels, chosen, *(remembered or (None, None)), own)
        if self.training:
            self.queue.enqueue(embeddings.detach(), labels)
            self._batches += 1
        return result

    def _mine(self, embeddings: Tensor, labels: Tensor, remembered: tuple[Tensor, ...], own: slice | None) -> Tuples:
        if self.miner is None:
            return None
        if hasattr(self.miner, "together"):  # ours
            ours: Tuples = self.miner.together(embeddings, labels, *(remembered or (None, None)), own)
            return ours
        if not remembered:
            theirs: Tuples = self.miner(embeddings, labels)
            return theirs
        references, reference_labels = remembered
        candidates = torch.cat([embeddings, references.to(embeddings)])
        chosen = self.miner(embeddings, labels, candidates, torch.cat([labels, reference_labels.to(labels)]))
        others = chosen[0] != chosen[1]  # their miners take the anchor for one of the candidates: its own positive
        return tuple(field[others] if number < 2 or len(chosen) == 3 else field for number, field in enumerate(chosen))

    def get_extra_state(self) -> int:
        """Number of batches so far, for a checkpoint."""
        return self._batches

    def set_extra_state(self, state: int) -> None:
        """Restore a checkpoint."""
        self._batches = state

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"miner={type(self.miner).__name__ if self.miner else None}, warm_up={self.warm_up}"
