"""What the objectives over explicit queries have in common: `loss(query, positive, negatives)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchObjective, Reduction, by_anchor, check_reduction, reduce_items
from siamese_verify.losses.softmax import check_temperature
from siamese_verify.pairwise import Batch, Identities, bands, first_order, row_product, unit
from siamese_verify.pairwise.batch import check_matrix
from siamese_verify.pairwise.blocks import Items
from siamese_verify.structures import Pairs, Triplets


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


def info_nce_loss(positive: Tensor, negatives: Tensor) -> Tensor:
    """Cross-entropy of the positive among itself and the negatives.

    Args:
        positive: (N,) finite logits.
        negatives: (N, K) logits; one of -inf is absent: it adds nothing and gets a gradient of 0. K may be 0.

    Returns:
        (N,) losses: -log(e^pos / (e^pos + sum_k e^neg_k)), >= 0; 0 without negatives. A loss far below 1 keeps its
        digits: it is never the difference of two logarithms.

    van den Oord, Li & Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, eq. 4.
    """
    return torch.logaddexp(log_sum_exp(negatives) - positive, torch.zeros_like(positive))


def log_sum_exp(logits: Tensor) -> Tensor:
    """Log-sum-exp of each row, with a gradient where torch has NaN: in a row of nothing but -inf.

    Args:
        logits: (N, K); -inf adds nothing and gets a gradient of 0. K may be 0.

    Returns:
        (N,); of a row without any finite logit a number so low that its exponential is 0, or -inf if K is 0.
    """
    return logits.clamp(min=torch.finfo(logits.dtype).min / 4).logsumexp(dim=1)


class InfoNCELoss(QueryObjective):
    """`info_nce_loss` of cosines over temperature, for queries with negatives of their own or a shared queue.

    The positives of other queries are no negatives unless they are given as such; on a labelled batch,
    `InBatchNegatives` gives them.

    Args:
        temperature: > 0; 0.07 is MoCo's.
        reduction: `mean`, `mean_active`, `sum` or `none`; an item is above zero, however small it rounds, if
            there is a negative.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.

    van den Oord et al. 2018, eq. 4; He et al., "Momentum Contrast for Unsupervised Visual Representation Learning",
    CVPR 2020, eq. 1.
    """

    def __init__(self, temperature: float = 0.07, reduction: Reduction = "mean") -> None:
        super().__init__(temperature, reduction)

    def score(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """Compute (N,) losses from logits; see `QueryObjective.score`."""
        return info_nce_loss(positive, negatives)

    def active(self, contested: Tensor) -> Tensor:
        """The loss of a query with a negative is above zero; see `QueryObjective.active`."""
        return contested


def nce_loss(positive: Tensor, negatives: Tensor) -> Tensor:
    """Logistic loss of the positive, plus that of every negative.

    Args:
        positive: (N,) finite logits.
        negatives: (N, K) logits; one of -inf is absent: it adds nothing and gets a gradient of 0. K may be 0.

    Returns:
        (N,) losses: -log sigma(pos) - sum_k log sigma(-neg_k), > 0 until it underflows.

    Gutmann & Hyvarinen, "Noise-contrastive estimation", AISTATS 2010, eq. 3, in the form without the noise's density
    of Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", NeurIPS 2013,
    eq. 4.
    """
    zero = positive.new_zeros(())
    # torch's softplus is cut to linear above 20
    return torch.logaddexp(-positive, zero) + torch.logaddexp(negatives, zero).sum(dim=1)


class NCELoss(QueryObjective):
    """`nce_loss` of cosines over temperature, for queries with negatives of their own or a shared queue.

    Negatives are not weighed against each other: a query with K of them is pushed K times.

    Args:
        temperature: > 0. The word vectors of skip-gram are of any length and do without (1). A cosine ends at 1, where
            a term still costs 0.31 at temperature 1; at 0.1 it costs 5e-5, and a solved pair stops pulling.
        reduction: `mean`, `mean_active`, `sum` or `none`; all items are above zero, however small they round.

    Raises:
        InputError: a temperature that is not above 0; an unknown reduction.

    Gutmann & Hyvarinen 2010, eq. 3; Mikolov et al. 2013, eq. 4.
    """

    def __init__(self, temperature: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(temperature, reduction)

    def score(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """Compute (N,) losses from logits; see `QueryObjective.score`."""
        return nce_loss(positive, negatives)

    def active(self, contested: Tensor) -> Tensor:
        """Every loss is above zero; see `QueryObjective.active`."""
        return torch.ones_like(contested)


Rivals = Callable[[Tensor], Tensor]  # (n,) int64 anchors -> (n, B + R) bool: who is a negative of theirs


class InBatchNegatives(BatchObjective):
    """A `QueryObjective` on labelled batches: each ordered genuine pair (i, p) is a query with its positive.

    Its negatives are all rows of other identities, references included; other positives of the anchor are left out,
    unlike in `NTXentLoss`. Of tuples triplets each is a query with one negative. Mined genuine pairs are queries in
    both directions (references are never anchors), against the impostors tuples for the same anchor, in either
    direction too; one that is named twice counts once. An anchor without negatives has none: nothing is made up.

    Items come ordered by i, then p, if nothing was tuples; else in the order of the triplets, or of the genuine pairs
    and then of their reverse. Memory is O((B + R) D) and a few numbers for each pair. On a GPU the lists of pairs wait
    for their lengths.

    Args:
        objective: `InfoNCELoss` or `NCELoss`; its reduction is the reduction.

    Raises:
        InputError: an objective of another kind.
    """

    needs_rivals = True

    def __init__(self, objective: QueryObjective) -> None:
        if not isinstance(objective, QueryObjective):
            raise InputError(
                f"objective is of type {type(objective).__name__}, but must take queries, such as InfoNCELoss: "
                f"objectives over batches need no in-batch negatives."
            )
        super().__init__(objective.reduction)
        self.objective = objective

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Compute the items of queries; see `BatchObjective.items`."""
        rows, columns = unit(batch.embeddings), unit(batch.candidates)
        if isinstance(tuples, Triplets):
            genuine = row_product(rows, columns, tuples.anchor, tuples.positive)
            impostor = row_product(rows, columns, tuples.anchor, tuples.negative)
            temperature = self.objective.temperature
            losses = self.objective.score(genuine / temperature, impostor[:, None] / temperature)
            return Items(losses, self.objective.active(torch.ones_like(losses, dtype=torch.bool)))
        queries = every_query(batch) if tuples is None else tuple_queries(batch, tuples)

        def score(anchor: Tensor, positive: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            owner, place = torch.unique(anchor, return_inverse=True)  # compared once for all its positives
            logits = rows[owner] @ columns.T / self.objective.temperature  # (n,B+R)
            negatives = logits.masked_fill(~queries.rivals(owner), -torch.inf)
            return self.objective.score(logits[place, positive], negatives[place])

        losses = in_bands(score, len(columns), (queries.anchor, queries.positive), (rows, columns))
        return Items(losses, self.objective.active(queries.contested))


class Queries(NamedTuple):
    """Ordered genuine pairs, and who the negatives of their anchors are."""

    anchor: Tensor  # (M,) int64
    positive: Tensor  # (M,) int64
    contested: Tensor  # (M,) bool, whether there are negatives
    rivals: Rivals


def every_query(batch: Batch) -> Queries:
    """All ordered genuine pairs against everybody of another identity."""
    labels = batch.candidate_labels
    identities = Identities(labels)
    anchor, positive = identities.pairs(batch.labels, itself=True)
    first, last = identities.span(batch.labels)
    contested = (last - first < len(labels))[anchor]
    return Queries(anchor, positive, contested, lambda owner: labels[owner, None] != labels)


def tuple_queries(batch: Batch, tuples: Pairs) -> Queries:
    """Mined genuine pairs against the impostors tuples for their anchor."""
    anchor, partner, same = by_anchor(batch, tuples)
    impostor = partner[~same]
    asking = Identities(anchor[~same])

    def rivals(owner: Tensor) -> Tensor:
        named = torch.zeros(len(owner), len(batch.candidate_labels), dtype=torch.bool, device=owner.device)
        pairs = asking.pairs(owner)
        named[pairs.row, impostor[pairs.column]] = True
        return named

    first, last = asking.span(anchor[same])
    return Queries(anchor[same], partner[same], last > first, rivals)
