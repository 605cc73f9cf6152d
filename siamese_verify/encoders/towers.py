"""Two encoders, one for each of two kinds of arrays that belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.errors import InputError
from siamese_verify.structures import InputSpec


class Towers(Encoder):
    """Two encoders without shared weights (towers) into one space, such as of recordings and of their descriptions.

    A row is of one kind, and a batch may hold both: a row is a vector of 0 for the left or 1 for the right kind, the
    numbers of the array, and zeros up to the longer of both (`siamese_verify.datasets.pack_side`). A sampler with two
    samples of each identity gives both sides of each pair, and `InfoNCELoss` with in-batch negatives compares every
    query with the keys of all others (van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018; with two encoders Radford et al., "CLIP", ICML 2021; negatives here are of both kinds).

    Args:
        left: encoder of the first kind of arrays.
        right: encoder of the second kind, with embeddings of the same length.

    Raises:
        InputError: embeddings of different lengths, or an encoder of photos.
    """

    always_normalizes = True
    is_parallel = True

    def __init__(self, left: Encoder, right: Encoder) -> None:
        if left.embedding_size != right.embedding_size:
            raise InputError(
                f"Towers need embeddings of one length, got {left.embedding_size} and {right.embedding_size}."
            )
        if left.input_spec.is_photo or right.input_spec.is_photo:
            raise InputError("Towers take arrays, not photos: give their encoders a shape, such as [1,28,28].")
        length = max(math.prod(tower.input_spec.shape) for tower in (left, right))
        super().__init__(nn.ModuleList([left, right]), left.embedding_size, InputSpec.of_arrays((1 + length,)))

    def forward(self, images: Tensor) -> Tensor:
        """Embed (B,1+L) rows of either kind; (B,D) of unit length.

        Raises:
            InputError: rows of another length.
        """
        if images.shape[1:] != self.input_spec.shape:
            raise InputError(f"These towers take rows of {self.input_spec.shape[0]} numbers, got {images.shape[1:]}.")
        is_right = images[:, 0] > 0.5  # (B,)
        if torch.compiler.is_exporting():  # a network in a file takes each row through both
            left, right = (tower(rows) for tower, rows in self._inputs(images, images))
            return F.normalize(torch.where(is_right[:, None], right, left))
        order = torch.argsort(is_right.int(), stable=True)
        lefts = len(images) - int(is_right.sum())
        sides = self._inputs(images[order[:lefts]], images[order[lefts:]])
        embeddings = torch.cat([tower(rows) for tower, rows in sides if len(rows)])
        return F.normalize(embeddings[torch.argsort(order)])

    def _inputs(self, *sides: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
        """Each tower with its rows, as arrays of its shape."""
        for tower, rows in zip(self.backbone.children(), sides, strict=True):
            assert isinstance(tower, Encoder)
            shape = tower.input_spec.shape
            yield tower, rows[:, 1 : 1 + math.prod(shape)].reshape(-1, *shape)
