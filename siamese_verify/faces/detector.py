"""Photos -> the faces on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.faces.mtcnn import Array, Network, Networks, find_faces

LONGEST_SIDE = 1280  # larger photos are searched at this size: the time of the search grows with the area
Choice = Literal["central", "largest", "probable"]


class Face(NamedTuple):
    """A face as the detector saw it, in pixels of the photo."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    probability: float  # of being a face, in [0, 1]
    landmarks: tuple[tuple[float, float], ...]  # left eye, right eye, nose, left and right corner of the mouth


class FaceDetector:
    """MTCNN with the weights that come inside facenet-pytorch.

    What is found on a photo does not depend on the photos beside it.

    Args:
        smallest: side of the smallest face to look for, in pixels.
    """

    identifier = "mtcnn-2"  # names caches and alignments: to be counted up with any change of the boxes

    def __init__(self, smallest: int = 20) -> None:
        from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

        self.smallest = smallest
        self.networks = Networks(function(PNet()), function(RNet()), function(ONet()))

    def detect(self, photo: Image.Image) -> list[Face]:
        """Find all faces of a photo.

        Args:
            photo: RGB, of any size.

        Returns:
            The faces, the most probable first.
        """
        shrink = min(1.0, LONGEST_SIDE / max(photo.size))
        if shrink < 1:
            width, height = photo.size
            photo = photo.resize((max(1, round(width * shrink)), max(1, round(height * shrink))))
        found = find_faces(np.asarray(photo), self.networks, self.smallest)
        return [
            Face(tuple(box), probability, tuple((x, y) for x, y in points))
            for box, probability, points in zip(
                (found.boxes / shrink).tolist(),
                found.probabilities.tolist(),
                (found.landmarks / shrink).tolist(),
                strict=True,
            )
        ]


def function(network: nn.Module) -> Network:
    """A network of facenet-pytorch's on arrays, arranged as it is fastest on a CPU."""
    network.eval().requires_grad_(False)
    if hasattr(network, "conv4_1"):  # the first: one large picture, which torch pools slowly
        network.pool1 = HalvingMax()
    else:
        network.to(memory_format=torch.channels_last)

    def run(pixels: Array) -> tuple[Array, ...]:
        with torch.inference_mode():
            return tuple(part.numpy() for part in network(torch.from_numpy(pixels)))

    return run


class HalvingMax(nn.Module):
    """`MaxPool2d(2, ceil_mode=True)`, several times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,ceil(H/2),ceil(W/2))."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, width % 2, 0, height % 2), value=-torch.inf)
        x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
        return torch.maximum(x[..., ::2], x[..., 1::2])


def choose_face(faces: Sequence[Face], width: int, height: int, choice: Choice = "central") -> Face:
    """The subject of a photo with several faces.

    Args:
        faces: one or more.
        width: of the photo, in pixels.
        height: of the photo, in pixels.
        choice: `central`: the largest, but for twice its squared distance from the photo's centre, the weight of
            FaceNet's alignment script (LFW defines its subject as the person in the centre); `largest`; `probable`:
            the one the detector is surest of.

    Raises:
        InputError: another choice.
    """

    def merit(face: Face) -> float:
        left, top, right, bottom = face.box
        if choice == "probable":
            return face.probability
        off_centre = ((left + right - width) ** 2 + (top + bottom - height) ** 2) / 4
        return (right - left) * (bottom - top) - (2 * off_centre if choice == "central" else 0)

    if choice not in ("central", "largest", "probable"):
        raise InputError(f"Of several faces the central, largest or probable one can be chosen, not {choice!r}.")
    return max(faces, key=merit)
