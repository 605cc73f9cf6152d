"""Binary noise contrast: tell the positive and every negative apart one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.losses.query_objective import QueryObjective
from siamese_verify.losses.reduction import Reduction


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
