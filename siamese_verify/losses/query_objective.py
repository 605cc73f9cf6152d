"""What the objectives over explicit queries have in common: `loss(query, positive, negatives)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.geometry import bands, first_order, unit
from siamese_verify.geometry.batch import check_matrix
from siamese_verify.losses.reduction import Reduction, check_reduction, reduce_items
from siamese_verify.losses.softmax import check_temperature


class QueryObjective(nn.Module):
    """Each query knows its positive and its negatives, and is compared with them by cosine over temperature.

    A subclass defines `score` and `active`. The logits of all queries with all negatives are held a band at a time and
    computed again in the backward pass: memory beyond the arguments and their gradients is O((N + K) D) for shared
    negatives.

    Args:
        temperature: > 0, divides the cosines.
        reduction: `mean` over all queries, `mean_active` over those above zero, `sum`, or `none`.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.
    """

    def __init__(self, temperature: float, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        check_temperature(temperature)
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Compute the reduced loss.

        Args:
            query: (N, D) floating point, of any length; half and bfloat16 are computed in float32, also under autocast.
            positive: (N, D), row i the positive of query i.
            negatives: (K, D) shared by all queries, such as a queue, or (N, K, D): each query's own. An empty
                queue, (0, 0), has none.

        Returns:
            A scalar in the type of the queries, or (N,) losses for the reduction `none`. Without queries it is 0 with
            a gradient of 0; a row of zeros has cosine 0 with everything, and a finite gradient.

        Raises:
            InputError: embeddings of another shape or type, or with numbers or dimensions that differ; on a CPU also
                NaN or infinite embeddings (a GPU would have to be waited for).
        """
        items = self.items(query, positive, negatives)
        contested = torch.full_like(items, negatives.shape[-2] > 0, dtype=torch.bool)
        return reduce_items(items, self.reduction, self.active(contested)).to(query.dtype)

    def items(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Compute the loss of every query, unreduced; arguments and errors as in `forward`.

        Returns:
            (N,) losses, >= 0, in the type they were computed in: float32, or float64 for float64 queries.
        """
        if negatives.shape == (0, 0):
            negatives = query.new_empty(0, query.shape[-1])
        check_queries(query, positive, negatives)
        precise = torch.float64 if query.dtype == torch.float64 else torch.float32
        query, positive, negatives = (rows.to(query.device, precise) for rows in (query, positive, negatives))
        with torch.autocast(query.device.type, enabled=False):
            if negatives.ndim == 3:
                return in_bands(self._with_own, negatives.shape[1:].numel(), (query, positive, negatives))
            return in_bands(self._with_shared, len(negatives), (query, positive), (unit(negatives).T,))

    def _with_own(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        query = unit(query)
        own = unit(negatives.flatten(0, 1)).view(negatives.shape)  # (n,K,D)
        logits = torch.bmm(own, query[:, :, None]).squeeze(2)  # (n,K)
        return self.score(self._genuine(query, positive), logits / self.temperature)

    def _with_shared(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        query = unit(query)
        return self.score(self._genuine(query, positive), query @ negatives / self.temperature)  # negatives: (D,K)

    def _genuine(self, query: Tensor, positive: Tensor) -> Tensor:
        cosine: Tensor = torch.linalg.vecdot(query, unit(positive))
        return cosine / self.temperature

    def score(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """Compute losses from logits.

        Args:
            positive: (N,) logits, cosine over temperature.
            negatives: (N, K) logits; -inf is a negative that is absent.

        Returns:
            (N,) losses, >= 0.
        """
        raise NotImplementedError

    def active(self, contested: Tensor) -> Tensor:
        """Say which losses are above zero, also where they round to it.

        Args:
            contested: (N,) bool, whether a query has a negative.

        Returns:
            (N,) bool.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Name the parameters where the module is printed."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"


def in_bands(
    losses: Callable[..., Tensor], columns: int, rows: tuple[Tensor, ...], shared: tuple[Tensor, ...] = ()
) -> Tensor:
    """Compute losses of rows band by band, each again in the backward pass, so that one band is held at a time.

    Not by `torch.utils.checkpoint`: the little that it keeps of every band splits the memory that the band gave back,
    and the next one does not fit in there any more.

    Args:
        losses: m rows of each of `rows`, then all of `shared` -> (m,) losses, each of its own row. It has a gradient
            by these arguments only.
        columns: numbers held for each row.
        rows: tensors of one length M.
        shared: tensors that every band needs whole; the last tensor of all is of the type of the losses.

    Returns:
        (M,) losses. What fits one band is computed once.
    """
    pieces = tuple(bands(len(rows[0]), columns))
    if len(pieces) < 2:
        return losses(*rows, *shared)
    result: Tensor = _InBands.apply(losses, pieces, len(rows), *rows, *shared)
    return result


class _InBands(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, losses: Callable[..., Tensor], pieces: tuple[slice, ...], divided: int, *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.losses, ctx.pieces, ctx.divided = losses, pieces, divided
        result = tensors[-1].new_empty(len(tensors[0]))
        for piece in pieces:
            result[piece] = losses(*(tensor[piece] for tensor in tensors[:divided]), *tensors[divided:])
        return result

    @staticmethod
    @first_order
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        gradients = [torch.zeros_like(tensor) if need else None for tensor, need in zip(tensors, needed, strict=True)]
        for piece in ctx.pieces:
            places = [piece] * ctx.divided + [...] * (len(tensors) - ctx.divided)
            leaves = [tensor[place].detach() for tensor, place in zip(tensors, places, strict=True)]
            wanted = [leaf.requires_grad_() for leaf, need in zip(leaves, needed, strict=True) if need]
            with torch.enable_grad(), torch.autocast(slope.device.type, enabled=False):
                losses = ctx.losses(*leaves)
            found = iter(torch.autograd.grad(losses, wanted, slope[piece]))
            for gradient, place in zip(gradients, places, strict=True):
                if gradient is not None:
                    gradient[place] += next(found)
        return None, None, None, *gradients


def check_queries(query: Tensor, positive: Tensor, negatives: Tensor) -> None:
    """Refuse what can't be compared; see `QueryObjective.forward`."""
    check_matrix(query, "queries")
    check_matrix(positive, "positives")
    if negatives.ndim not in (2, 3):
        raise InputError(
            f"negatives must be of shape (negatives, dimensions), shared by all queries, or (queries, negatives, "
            f"dimensions), but have shape {tuple(negatives.shape)}."
        )
    check_matrix(negatives.flatten(0, -2), "negatives")
    if len(query) != len(positive):
        raise InputError(f"{len(query)} queries came with {len(positive)} positives: give one positive for each.")
    if negatives.ndim == 3 and len(negatives) != len(query):
        raise InputError(
            f"{len(query)} queries came with negatives of {len(negatives)}: give negatives to each query, or one "
            f"matrix of negatives that all share."
        )
    if not query.shape[1] == positive.shape[1] == negatives.shape[-1]:
        raise InputError(
            f"queries of {query.shape[1]} dimensions can't be compared with positives of {positive.shape[1]} and "
            f"negatives of {negatives.shape[-1]}: take all from one encoder."
        )
