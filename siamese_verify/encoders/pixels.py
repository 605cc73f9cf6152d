"""Raw pixels as an embedding: what a trained encoder has to beat."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.encoders.encoder import Encoder
from siamese_verify.structures import Crop, InputSpec

BLANK = 1e-5  # of one more coordinate: too small to matter, but it gives an image of one colour a direction
SIDE = 64  # of the image at most: at 160 pixels, thousands of faces would take gigabytes and tell no more


class CenteredPixels(nn.Module):
    """Every pixel less the image's mean colour, so that the cosine is the correlation of two images."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,S,S) -> (B,3*S*S+1), of a larger image (B,3*64*64+1)."""
        if x.shape[-1] > SIDE:
            x = F.interpolate(x, size=(SIDE, SIDE), mode="area")
        return F.pad((x - x.mean(dim=(2, 3), keepdim=True)).flatten(1), (0, 1), value=BLANK)


class Pixels(Encoder):
    """The image itself, nothing learned; larger images are shrunk to 64 x 64 pixels.

    Args:
        size: side of the input in pixels.
        crop: how faces are cut from photos.
    """

    def __init__(self, size: int = 64, crop: Crop = Crop()) -> None:
        super().__init__(CenteredPixels(), 3 * min(size, SIDE) ** 2 + 1, InputSpec(size, crop=crop))
