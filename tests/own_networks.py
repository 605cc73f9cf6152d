"""Networks as a user might write them, which know nothing of this package."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from siamese_verify.encoders import Encoder
from siamese_verify.structures import Crop, InputSpec

CREATED: list[str] = []  # what was called, to see that nothing is unasked


class OwnNet(nn.Module):
    def __init__(self, width: int = 4, activation: nn.Module | None = None) -> None:
        super().__init__()
        CREATED.append("OwnNet")
        self.first = nn.Conv2d(3, width, 3, 2)
        self.activation = activation or nn.ReLU()
        self.last = nn.Linear(16 * width, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.activation(self.first(x)), 4)
        embeddings: Tensor = self.last(x.flatten(1))
        return embeddings


class OwnEncoder(Encoder):
    def __init__(self, size: int = 16) -> None:
        super().__init__(OwnNet(), 24, InputSpec(size, crop=Crop("whole")))


class FeatureMaps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Raising(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class OwnLoss(nn.Module):
    """A loss of embeddings and labels, which returns what `change` makes of the spread of each identity.

    Args:
        change: applied to the (P,) mean distances of rows from the mean row of their identity.
    """

    def __init__(self, change: Callable[[Tensor], object] = torch.Tensor.mean) -> None:
        super().__init__()
        self.change = change

    def forward(self, embeddings: Tensor, labels: Tensor) -> object:
        groups = [embeddings[labels == label] for label in {*labels.tolist()}]
        return self.change(torch.stack([(rows - rows.mean(0)).norm(dim=1).mean() for rows in groups]))


class WeightedLoss(nn.Module):
    """A loss that training cannot call."""

    def forward(self, embeddings: Tensor, labels: Tensor, tuples: object, weights: Tensor) -> Tensor:
        return (embeddings * weights).sum()


class Undecided(nn.Module):
    """Its steps depend on the values of its input, which no ONNX network can follow."""

    def forward(self, x: Tensor) -> Tensor:
        features = x.flatten(1)
        return features[:, :2] if float(x.mean()) > 0 else torch.flip(features[:, :2], [1])


def own_function(size: int, embedding_size: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, embedding_size))


def trap(**_: object) -> None:
    CREATED.append("trap")
