"""InfoNCE: pick the positive among the negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_verify.losses.query_objective import QueryObjective
from siamese_verify.losses.reduction import Reduction


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
