"""Margin softmax losses whose margin depends on the length of an embedding: AdaFace and MagFace."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from siamese_verify.errors import InputError, check_numbers
from siamese_verify.losses.base import Reduction
from siamese_verify.losses.margin_softmax import MarginSoftmax, add_angle, arc_face_cosine
from siamese_verify.pairwise.ranks import add_ranks_


def ada_face_cosine(cosine: Tensor, quality: Tensor, margin: float = 0.4) -> Tensor:
    """cos(theta - margin * quality) - margin * (1 + quality) for cosines of angles theta.

    Args:
        cosine: of any shape; rounding may leave it just outside of [-1, 1].
        quality: in [-1, 1], of the same shape: high for sharp photos.
        margin: in [0, pi / 2).

    Returns:
        At quality -1 ArcFace's cosine, at 0 CosFace's, at 1 cos(theta - margin) - 2 * margin. Angles end at 0 and pi,
        without a gradient beyond.

    Kim, Jain & Liu, "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, section 3.3.
    """
    angle = -margin * quality
    moved = add_angle(cosine, angle)
    moved = torch.where((angle < 0) & (cosine > angle.cos()), 1, moved)
    moved = torch.where((angle > 0) & (cosine < -angle.cos()), -1, moved)
    return moved - margin * (1 + quality)


def mag_face_margin(
    norms: Tensor, norm_range: tuple[float, float] = (10, 110), margins: tuple[float, float] = (0.45, 0.8)
) -> Tensor:
    """Margins in radians that grow linearly with the length of embeddings, from one end of its range to the other.

    Meng, Zhao, Huang & Zhou, "MagFace: A Universal Representation for Face Recognition and Quality Assessment", CVPR
    2021, section 3.2 (m(a)).
    """
    low, high = norm_range
    return margins[0] + (margins[1] - margins[0]) / (high - low) * (norms.clamp(low, high) - low)


def mag_face_penalty(norms: Tensor, norm_range: tuple[float, float] = (10, 110)) -> Tensor:
    """a / high^2 + 1 / a for lengths a of embeddings within a range: falls up to its upper end.

    Meng et al., CVPR 2021, section 3.2 (g(a)).
    """
    low, high = norm_range
    within = norms.clamp(low, high)
    return within / high**2 + 1 / within


class AdaFaceLoss(MarginSoftmax):
    """Cross-entropy of scaled cosines with the weights of all identities, the own one by `ada_face_cosine`.

    The quality of a photo is the length of its embedding against a running mean and standard deviation of lengths:
    q = min(1, max(-1, concentration * (|z| - mean) / deviation)), without a gradient. In training they follow the
    batch, of all processes; the first batch sets them. Lengths that are not finite leave them as they are.

    Args:
        num_identities: identities of the training set, >= 1; labels number them from 0.
        scale: > 0; 64 is the paper's.
        margin: in [0, pi / 2); 0.4 is the paper's.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.
        concentration: > 0; the paper's h.
        momentum: weight of a batch in the running mean and deviation, in (0, 1].
        subcenters: see `MarginSoftmax`, as for all that follow.
        label_smoothing: share of the target for all identities, in [0, 1).
        sample_rate: share of the identities that are compared in training, in (0, 1].
        sharded: whether processes share the weights.

    Raises:
        InputError: see `MarginSoftmax`.

    Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, section 3.3.
    """

    needs_norms = True
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.4,
        embedding_size: int = 512,
        reduction: Reduction = "mean",
        concentration: float = 0.333,
        momentum: float = 0.01,
        subcenters: int = 1,
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sharded: bool = False,
    ) -> None:
        options = (subcenters, label_smoothing, sample_rate, sharded)
        super().__init__(num_identities, scale, margin, embedding_size, reduction, *options)
        check_numbers(concentration=concentration, momentum=momentum)
        if not margin < math.pi / 2:
            raise InputError(f"margin is {margin}, but is an angle in radians below pi / 2: 0.4 is usual.")
        if not concentration > 0:
            raise InputError(f"concentration is {concentration}, but must be above 0: 0.333 is usual.")
        if not 0 < momentum <= 1:
            raise InputError(f"momentum is {momentum}, but must be above 0 and at most 1: 0.01 is usual.")
        self.concentration, self.momentum = concentration, momentum
        for name in ("mean", "deviation"):
            self.register_buffer(name, torch.tensor(math.nan))  # until the first batch

    def with_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """See `ada_face_cosine`."""
        norms = norms.detach()
        batch = self._statistics(norms)
        running = torch.stack([self.mean, self.deviation]).to(norms.dtype)
        if self.training:  # an overflow of mixed precision, whose step is skipped, must leave them as they are
            moved = batch.where(running.isnan(), running.lerp(batch, self.momentum))
            running = moved.where(batch.isfinite().all(), running)
            self.mean.copy_(running[0])
            self.deviation.copy_(running[1])
        running = batch.where(running.isnan(), running)
        quality = (self.concentration * (norms - running[0]) / running[1].clamp(min=1e-3)).clamp(-1, 1)
        return ada_face_cosine(cosine, quality, self.margin)

    def _statistics(self, norms: Tensor) -> Tensor:
        """(2,) mean and standard deviation of lengths, of all processes; NaN without rows."""
        precise = norms.float() if norms.device.type == "mps" else norms.double()  # Apple's GPUs have no float64
        sums = torch.stack([torch.ones_like(precise), precise, precise**2]).sum(dim=1)
        count, total, squares = sums if self.sharded else add_ranks_(sums)
        mean = total / count
        return torch.stack([mean, (squares / count - mean**2).clamp(min=0).sqrt()]).to(norms.dtype)


class MagFaceLoss(MarginSoftmax):
    """ArcFace with `mag_face_margin` for each row, plus a weighted `mag_face_penalty`: longer rows, larger margins.

    Both have a gradient by the length of the embedding, which so becomes a measure of quality.

    Args:
        num_identities: identities of the training set, >= 1; labels number them from 0.
        scale: > 0; 64 is the paper's.
        norm_range: lengths of embeddings within which margin and penalty change, 0 < low < high.
        margins: radians at both ends, 0 <= low <= high < pi.
        penalty_weight: >= 0; the paper's lambda_g.
        embedding_size: >= 1.
        reduction: `mean`, `mean_nonzero`, `sum` or `none`.
        subcenters: see `MarginSoftmax`, as for all that follow.
        label_smoothing: share of the target for all identities, in [0, 1).
        sample_rate: share of the identities that are compared in training, in (0, 1].
        sharded: whether processes share the weights.

    Raises:
        InputError: see `MarginSoftmax`.

    Meng et al., "MagFace: A Universal Representation for Face Recognition and Quality Assessment", CVPR 2021, section
    3.2.
    """

    needs_norms = True

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        norm_range: Sequence[float] = (10.0, 110.0),
        margins: Sequence[float] = (0.45, 0.8),
        penalty_weight: float = 35.0,
        embedding_size: int = 512,
        reduction: Reduction = "mean",
        subcenters: int = 1,
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sharded: bool = False,
    ) -> None:
        for name, ends in (("norm_range", norm_range), ("margins", margins)):
            if not hasattr(ends, "__len__") or len(ends) != 2:
                raise InputError(f"{name} is {ends}, but must be two numbers, the lower one first.")
            for end in ends:
                check_numbers(finite=True, **{name: end})
        check_numbers(penalty_weight=penalty_weight)
        if not 0 < norm_range[0] < norm_range[1]:
            raise InputError(f"norm_range is {list(norm_range)}, but must rise from above 0: [10, 110] is usual.")
        if not 0 <= margins[0] <= margins[1] < math.pi:
            raise InputError(f"margins are {list(margins)}, but must rise within [0, pi): [0.45, 0.8] is usual.")
        if not penalty_weight >= 0:
            raise InputError(f"penalty_weight is {penalty_weight}, but must be 0 or more: 35 is usual.")
        options = (subcenters, label_smoothing, sample_rate, sharded)
        super().__init__(num_identities, scale, margins[1], embedding_size, reduction, *options)
        self.norm_range = (norm_range[0], norm_range[1])
        self.margins = (margins[0], margins[1])
        self.penalty_weight = penalty_weight

    def with_margin(self, cosine: Tensor, norms: Tensor) -> Tensor:
        """See `mag_face_margin`."""
        return arc_face_cosine(cosine, mag_face_margin(norms, self.norm_range, self.margins))

    def penalty(self, norms: Tensor) -> Tensor:
        """See `mag_face_penalty`."""
        return self.penalty_weight * mag_face_penalty(norms, self.norm_range)
