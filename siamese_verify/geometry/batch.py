"""A batch of embeddings with labels, checked once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from siamese_verify.errors import InputError


class Batch(NamedTuple):
    """Embeddings to compare, and references to compare them with.

    Without references `references` is empty, (0, D).
    """

    embeddings: Tensor  # (B, D) float32 or float64
    labels: Tensor  # (B,) int64
    references: Tensor  # (R, D) in the type and on the device of the embeddings
    reference_labels: Tensor  # (R,) int64

    @property
    def candidates(self) -> Tensor:
        """(B + R, D): the embeddings, then the references."""
        return torch.cat([self.embeddings, self.references]) if len(self.references) else self.embeddings

    @property
    def candidate_labels(self) -> Tensor:
        """(B + R,): the labels, then those of the references."""
        return torch.cat([self.labels, self.reference_labels])


def check_batch(
    embeddings: Tensor, labels: Tensor, references: Tensor | None = None, reference_labels: Tensor | None = None
) -> Batch:
    """Refuse what is not a batch, and bring it to the types to compute in.

    Args:
        embeddings: (B, D) floating point; half and bfloat16 become float32.
        labels: (B,) identities, of any integer type.
        references: (R, D) further embeddings, or None.
        reference_labels: (R,) their identities.

    Raises:
        InputError: other shapes or types, lengths that differ, references without labels; on a CPU also NaN or
            infinite embeddings (a GPU would have to be waited for).
    """
    check_rows(embeddings, labels, "embeddings", "labels")
    if references is None:
        references, reference_labels = embeddings[:0].detach(), labels[:0]
    elif reference_labels is None:
        raise InputError(f"{len(references)} references came without reference_labels: give one label for each.")
    else:
        check_rows(references, reference_labels, "references", "reference_labels")
    if references.shape[1] != embeddings.shape[1]:
        raise InputError(
            f"embeddings of {embeddings.shape[1]} dimensions can't be compared with references of "
            f"{references.shape[1]}: take both from one encoder."
        )
    precise = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    device = embeddings.device
    return Batch(
        embeddings.to(precise),
        labels.to(device, torch.int64),
        references.to(device, precise),
        reference_labels.to(device, torch.int64),
    )


def check_rows(embeddings: Tensor, labels: Tensor, name: str, name_of_labels: str) -> None:
    """Refuse what is not a matrix of embeddings with a label each; `check_batch` says how."""
    check_matrix(embeddings, name)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"{name_of_labels} must be one integer for each of the {name}, but have shape {tuple(labels.shape)} and "
            f"type {labels.dtype}."
        )
    if len(embeddings) != len(labels):
        raise InputError(f"{len(embeddings)} {name} came with {len(labels)} labels: give one label for each.")


def check_matrix(embeddings: Tensor, name: str) -> None:
    """Refuse what is not (N, D) floating point, and on a CPU what is not finite."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(
            f"{name} must be a floating-point matrix of shape (batch, dimensions), but have shape "
            f"{tuple(embeddings.shape)} and type {embeddings.dtype}."
        )
    if embeddings.device.type != "cpu" or math.isfinite(embeddings.detach().float().sum()):
        return
    broken = (~embeddings.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if broken:  # not a sum that is too large
        raise InputError(
            f"{len(broken)} of {len(embeddings)} {name} hold NaN or infinity, the first is row {broken[0]}: lower "
            f"the learning rate or look at that row's photo."
        )
