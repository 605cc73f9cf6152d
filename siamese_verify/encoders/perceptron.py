"""A multilayer perceptron, for vectors and other small arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.structures import InputSpec


class Perceptron(Encoder):
    """Linear layers with batch norm and PReLU between them, over all numbers of an array.

    Args:
        shape: of an input, such as (D,) of vectors.
        widths: of the hidden layers.
        embedding_size: length of an embedding.
        dropout: of the last hidden layer, in [0, 1).
        mean: subtracted from the input, of all channels or each.
        std: divides it afterwards.
        dtype: of its numbers.
        normalize: give embeddings of unit length.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (256, 256),
        embedding_size: int = 64,
        dropout: float = 0.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        dtype: Literal["uint8", "float32"] = "float32",
        normalize: bool = True,
    ) -> None:
        spec = InputSpec.of_arrays(shape, mean, std, dtype)
        layers: list[nn.Module] = [nn.Flatten()]
        size = 1
        for length in shape:
            size *= length
        for width in widths:
            layers += [nn.Linear(size, width, bias=False), nn.BatchNorm1d(width), nn.PReLU(width)]
            size = width
        layers += [nn.Dropout(dropout), nn.Linear(size, embedding_size, bias=False), nn.BatchNorm1d(embedding_size)]
        super().__init__(nn.Sequential(*layers), embedding_size, spec, normalize)
