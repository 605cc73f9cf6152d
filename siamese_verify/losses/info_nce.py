"""Losses of queries with a positive and negatives: InfoNCE, NCE, and both with in-batch negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_verify.errors import InputError
from siamese_verify.losses.base import BatchLoss, Items, Reduction, check_reduction, reduce_items
from siamese_verify.losses.softmax import LOWEST, check_temperature
from siamese_verify.pairwise import Batch, Identities, in_bands, row_product, unit
from siamese_verify.pairwise.batch import check_matrix
from siamese_verify.pairwise.blocks import without_autocast
from siamese_verify.pairwise.distances import places
from siamese_verify.pairwise.log_softmax import log_sum_exp_of_others
from siamese_verify.structures import Pairs, Triplets


def info_nce_loss(positive: Tensor, negatives: Tensor) -> Tensor:
    """Cross-entropy of the positive among itself and the negatives.

    Args:
        positive: (N,) finite logits.
        negatives: (N, K) logits; -inf is an absent negative: it adds nothing and gets a gradient of 0. K may be 0.

    Returns:
        (N,) losses: -log(e^pos / (e^pos + sum_k e^neg_k)), >= 0; 0 without negatives. A loss far below 1 keeps its
        digits.

    van den Oord, Li & Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, eq. 4.
    """
    return InfoNCELoss().score(positive, negatives)


def nce_loss(positive: Tensor, negatives: Tensor) -> Tensor:
    """Logistic loss of the positive, plus that of every negative.

    Args:
        positive: (N,) finite logits.
        negatives: (N, K) logits; -inf is an absent negative: it adds nothing and gets a gradient of 0. K may be 0.

    Returns:
        (N,) losses: -log sigma(pos) - sum_k log sigma(-neg_k), >= 0.

    Gutmann & Hyvarinen, "Noise-contrastive estimation", AISTATS 2010, eq. 3, in the form without the noise's density
    of Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", NeurIPS 2013,
    eq. 4.
    """
    return NCELoss().score(positive, negatives)


class QueryLoss(nn.Module):
    """Base class of losses of queries that know their positive and negatives, of cosines over temperature.

    A subclass defines `gather` and `compare`. The logits of queries with shared negatives are held a band at a time and
    computed again in the backward pass: O((N + K) D) memory.

    Args:
        temperature: at least 0.003, divides the cosines.
        reduction: `mean` over all queries, `mean_nonzero` over those above zero, `sum`, or `none`.

    Attributes:
        zero_without_negatives: whether a query without negatives has a loss of 0; every other loss is above zero,
            however small it rounds.

    Raises:
        InputError: a temperature that is too small; an unknown reduction.
    """

    zero_without_negatives = False

    def __init__(self, temperature: float, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        check_temperature(temperature)
        self.temperature = temperature
        self.reduction = reduction

    def gather(self, negatives: Tensor) -> Tensor:
        """(N,) what counts of (N, K) logits of negatives, of which an absent one is `LOWEST`."""
        raise NotImplementedError

    def compare(self, positive: Tensor, gathered: Tensor) -> Tensor:
        """(N,) losses of logits of positives, and of what was gathered of their negatives."""
        raise NotImplementedError

    def score(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """(N,) losses of (N,) logits of positives and (N, K) logits of negatives; -inf is an absent negative."""
        return self.compare(positive, self.gather(negatives.clamp(min=LOWEST)))

    def forward(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Reduced loss of queries.

        Args:
            query: (N, D) floating point, of any length; half and bfloat16 are computed in float32, also under autocast.
            positive: (N, D), row i the positive of query i.
            negatives: (K, D) shared by all queries, such as a queue, or (N, K, D): each query's own. An empty
                queue, (0, 0), has none.

        Returns:
            A scalar in the type of the queries, or (N,) losses for the reduction `none`. Without queries it is 0 with
            a gradient of 0; a row of zeros has cosine 0 with everything, and a finite gradient.

        Raises:
            InputError: other shapes or types, or numbers that differ; on a CPU also NaN or infinite embeddings.
        """
        items = self.items(query, positive, negatives)
        nonzero = negatives.shape[-2] > 0 or not self.zero_without_negatives
        return reduce_items(items, self.reduction, torch.full_like(items, nonzero, dtype=torch.bool)).to(query.dtype)

    def items(self, query: Tensor, positive: Tensor, negatives: Tensor, absent: Tensor | None = None) -> Tensor:
        """(N,) losses of all queries, float32 or float64; arguments and errors as in `forward`.

        Of shared negatives (K,) may be absent: they count for none of the queries.
        """
        if not isinstance(negatives, Tensor):
            raise InputError(f"negatives must be a tensor, got {negatives!r}: without any give torch.empty(0, 0).")
        if negatives.shape == (0, 0):
            negatives = query.new_empty(0, query.shape[-1])
        check_queries(query, positive, negatives)
        precise = torch.float64 if query.dtype == torch.float64 else torch.float32
        query, positive, negatives = (rows.to(query.device, precise) for rows in (query, positive, negatives))
        with without_autocast(query.device):
            if negatives.ndim == 3:
                return in_bands(self._score_own, negatives.shape[1:].numel(), (query, positive, negatives))
            shared = (unit(negatives).T,) if absent is None else (unit(negatives).T, absent)
            return in_bands(self._score_shared, len(negatives), (query, positive), shared)

    def _score_own(self, query: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        query = unit(query)
        own = unit(negatives.flatten(0, 1)).view(negatives.shape)  # (n,K,D)
        logits = torch.bmm(own, query[:, :, None]).squeeze(2) / self.temperature  # (n,K)
        return self.score(torch.linalg.vecdot(query, unit(positive)) / self.temperature, logits)

    def _score_shared(self, query: Tensor, positive: Tensor, negatives: Tensor, absent: Tensor | None = None) -> Tensor:
        query = unit(query)
        logits = query @ negatives / self.temperature  # (n,D) @ (D,K)
        logits = logits if absent is None else logits.masked_fill(absent, -torch.inf)
        return self.score(torch.linalg.vecdot(query, unit(positive)) / self.temperature, logits)

    def extra_repr(self) -> str:
        """Parameters for `print(module)`."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"


class InfoNCELoss(QueryLoss):
    """`info_nce_loss` of cosines over temperature, for queries with negatives of their own or a shared queue.

    The positives of other queries are no negatives unless they are given as such; on a labeled batch,
    `InBatchNegatives` gives them.

    Args:
        temperature: at least 0.003; 0.07 is MoCo's.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.

    Raises:
        InputError: a temperature that is too small; an unknown reduction.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, eq. 1.
    """

    zero_without_negatives = True

    def __init__(self, temperature: float = 0.07, reduction: Reduction = "mean") -> None:
        super().__init__(temperature, reduction)

    def gather(self, negatives: Tensor) -> Tensor:
        """(N,) log-sum-exp."""
        return negatives.logsumexp(dim=1)

    def compare(self, positive: Tensor, gathered: Tensor) -> Tensor:
        """See `info_nce_loss`."""
        return torch.logaddexp(gathered - positive, torch.zeros_like(positive))


class NCELoss(QueryLoss):
    """`nce_loss` of cosines over temperature, for queries with negatives of their own or a shared queue.

    Negatives do not compete with each other: a query with K of them is pushed K times.

    Args:
        temperature: at least 0.003. The word vectors of skip-gram are of any length and do without (1). A cosine ends
            at 1, where a term still costs 0.31 at temperature 1; at 0.1 it costs 5e-5, and a solved pair stops pulling.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`; all items are above zero, however small they round.

    Raises:
        InputError: a temperature that is too small; an unknown reduction.
    """

    def __init__(self, temperature: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(temperature, reduction)

    def gather(self, negatives: Tensor) -> Tensor:
        """(N,) sum of the logistic losses of the negatives."""
        return torch.logaddexp(negatives, negatives.new_zeros(())).sum(dim=1)  # torch's softplus is linear above 20

    def compare(self, positive: Tensor, gathered: Tensor) -> Tensor:
        """See `nce_loss`."""
        return torch.logaddexp(-positive, positive.new_zeros(())) + gathered


class InBatchNegatives(BatchLoss):
    """A loss of queries on labeled batches: each ordered genuine pair (i, p) is a query with its positive.

    Its negatives are all rows of other identities, references included; other positives of the anchor are left out,
    unlike in `NTXentLoss`. Given pairs count in both directions (references are never anchors), each once: the genuine
    ones are queries, the impostors of the same anchor their negatives. A given triplet is a query with one negative.

    Items are ordered by i, then p, or as triplets are given. Memory is O((B + R) D) and a few numbers for each pair. In
    `InfoNCELoss` the negatives are summed as in `NTXentLoss`, on a GPU by the same kernels; the list of pairs waits
    there for its length.

    Args:
        objective: `InfoNCELoss` or `NCELoss`; its reduction is the reduction.

    Raises:
        InputError: an objective of another kind.
    """

    needs_negatives = True

    def __init__(self, objective: QueryLoss) -> None:
        if not isinstance(objective, QueryLoss):
            raise InputError(
                f"objective is of type {type(objective).__name__}, but must take queries, such as InfoNCELoss: losses "
                f"over batches need no in-batch negatives."
            )
        super().__init__(objective.reduction)
        self.objective = objective

    def list_items(self, batch: Batch, tuples: Pairs | Triplets | None) -> Items:
        """Losses of queries; see `BatchLoss.items`."""
        columns = unit(batch.candidates)
        rows = columns[: len(batch.labels)]
        temperature = self.objective.temperature
        if isinstance(tuples, Triplets):
            genuine, impostor = (row_product(rows, columns, tuples.anchor, end) / temperature for end in tuples[1:])
            losses = self.objective.score(genuine, impostor[:, None])
            return Items(losses, torch.ones_like(losses, dtype=torch.bool))
        if tuples is None and batch.small:
            logits = (rows / temperature) @ columns.T  # (B,B+R)
            same = batch.labels[:, None] == batch.candidate_labels
            gathered = self.objective.gather(logits.masked_fill(same, LOWEST))
            negatives = len(columns) - same.sum(dim=1)  # (B,) how many an anchor has
            place = places(same.clone().fill_diagonal_(False))
            return self._items(logits.flatten()[place], gathered, negatives, place // len(columns))
        labels, own = batch.candidate_labels, batch.anchors
        number = torch.arange(own.start, own.stop, device=labels.device)
        if tuples is None:
            identities = Identities(labels)
            anchor, positive = identities.pairs(batch.labels[own], own.start, itself=True)
            first, last = identities.span(batch.labels[own])
            negatives = len(labels) - (last - first)
        else:
            anchor, positive = tuples.anchor[tuples.same], tuples.other[tuples.same]
            impostors, negative = Identities(tuples.anchor[~tuples.same]), tuples.other[~tuples.same]
            first, last = impostors.span(number)
            negatives = last - first

        def gather(number: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            logits = rows @ columns.T / temperature  # (n,B+R)
            if tuples is None:
                absent = labels[number, None] == labels
            else:
                absent = torch.ones_like(logits, dtype=torch.bool)
                row, place = impostors.pairs(number)
                absent[row, negative[place]] = False
            return self.objective.gather(logits.masked_fill(absent, LOWEST))

        if tuples is None and isinstance(self.objective, InfoNCELoss):
            groups = batch.labels, batch.reference_labels
            gathered = log_sum_exp_of_others(
                rows, columns[len(rows) :], temperature, own=batch.own, factors=batch.factors, labels=groups
            )[own].masked_fill(negatives == 0, LOWEST)
        else:
            gathered = in_bands(gather, len(columns), (number, rows[own]), (columns,))
        positives = row_product(rows, columns, anchor, positive) / temperature
        return self._items(positives, gathered, negatives, anchor - own.start)

    def _items(self, positives: Tensor, gathered: Tensor, negatives: Tensor, place: Tensor) -> Items:
        """Losses of (M,) logits of positives, whose anchors have (n,) gathered negatives, so many, at a place."""
        losses = self.objective.compare(positives, gathered.index_select(0, place))
        if not self.objective.zero_without_negatives:
            return Items(losses, torch.ones_like(losses, dtype=torch.bool))
        return Items(losses, negatives.index_select(0, place) > 0)


def log_sum_exp(logits: Tensor) -> Tensor:
    """Log-sum-exp of each row, with a gradient of 0 where torch has NaN: in a row of nothing but -inf.

    Args:
        logits: (N, K); -inf adds nothing and gets a gradient of 0. K may be 0.

    Returns:
        (N,); of a row without any finite logit a number so low that its exponential is 0, or -inf if K is 0.
    """
    return logits.clamp(min=LOWEST).logsumexp(dim=1)


def check_queries(query: Tensor, positive: Tensor, negatives: Tensor) -> None:
    """Raise InputError for embeddings that can't be compared; see `QueryLoss.forward`."""
    check_matrix(query, "queries")
    check_matrix(positive, "positives")
    if negatives.ndim not in (2, 3):
        raise InputError(
            f"negatives must be of shape (negatives, embedding size), shared by all queries, or (queries, negatives, "
            f"embedding size), but have shape {tuple(negatives.shape)}."
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
