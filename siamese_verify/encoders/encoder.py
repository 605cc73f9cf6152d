"""Base class of encoders, encoders of others with mirror images or a head, and raw pixels as a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

PIXELS_SIDE = 64  # at most: at 160 pixels, thousands of embeddings would take gigabytes and score no better
CONSTANT = 1e-5  # of one more coordinate, which gives an image of one color a direction


class Encoder(nn.Module):
    """A network from face images, or from arrays of any other kind, to embeddings.

    It standardizes the pixels itself, so that training and verification cannot do it differently.

    Args:
        backbone: (B,3,S,S) standardized floats -> (B,D); (B,*shape) of arrays.
        embedding_size: D.
        input_spec: of what `forward` takes; `S` is its size.
        normalize: give embeddings of unit length.
        mirror: outside of training, give the mean of the embeddings of a photo and of its mirror image, in twice the
            time.

    Raises:
        InputError: `mirror` of what is no photo.

    Attributes:
        always_normalizes: whether `forward` gives embeddings of unit length whatever `normalize` says.
        is_parallel: whether it is two networks side by side.
    """

    always_normalizes = False
    is_parallel = False
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        embedding_size: int,
        input_spec: InputSpec,
        normalize: bool = True,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        if mirror and not input_spec.is_photo:
            raise InputError("Only photos have a mirror image: leave out mirror=true of the encoder.")
        self.backbone = backbone
        self.embedding_size = embedding_size
        self.input_spec = input_spec
        self.normalize = normalize
        self.mirror = mirror
        by_channel = (1, -1, *[1] * (len(input_spec.shape) - 1))
        for name, values in (("mean", input_spec.mean), ("std", input_spec.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(by_channel), persistent=False)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dim() == 4:  # convolutions of images on a CPU are 1.5 times as fast with it
                tensor.data = tensor.data.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Embed faces.

        Args:
            images: (B,3,S,S) RGB, uint8 or float in 0 ... 255; (B,*shape) arrays.

        Returns:
            (B,D) embeddings, of unit length if `normalize`.

        Raises:
            InputError: images of another shape.
        """
        shape = self.input_spec.shape
        if images.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise InputError(f"This encoder takes images of shape (B, {wanted}), got {tuple(images.shape)}.")
        inputs = (images - self.mean) / self.std
        embeddings = self._embed(inputs)
        if self.mirror and not self.training:
            embeddings = (embeddings + self._embed(inputs.flip(3))) / 2
            return F.normalize(embeddings) if self.normalize else embeddings
        return embeddings

    def _embed(self, inputs: Tensor) -> Tensor:
        """(B,3,S,S) standardized inputs -> (B,D)."""
        embeddings: Tensor = self.backbone(inputs)
        return F.normalize(embeddings) if self.normalize else embeddings


class MirroredEncoder(Encoder):
    """Concatenated embeddings of a face and of its mirror image, minus the mean over other faces.

    It takes twice the time of the inner encoder. `center` starts at zero; `siamese-verify center` measures it on faces
    that no evaluation uses, and it is saved with the weights.

    Args:
        encoder: the inner encoder.
        mirror: embed the mirror image too.
    """

    always_normalizes = True
    center: Tensor

    def __init__(self, encoder: Encoder, mirror: bool = True) -> None:
        embedding_size = encoder.embedding_size * (1 + mirror)
        super().__init__(encoder, embedding_size, encoder.input_spec, mirror=mirror)
        self.register_buffer("center", torch.zeros(embedding_size))

    def forward(self, images: Tensor) -> Tensor:
        """Embed faces.

        Args:
            images: (B,3,S,S) RGB, uint8 or float in 0 ... 255.

        Returns:
            (B,D) embeddings of unit length.

        Raises:
            InputError: images of another shape.
        """
        embeddings = F.normalize(self.backbone(images))
        if self.mirror:
            embeddings = torch.cat([embeddings, F.normalize(self.backbone(images.flip(3)))], dim=1) / 2**0.5
        return F.normalize(embeddings - self.center)


class AdaptedEncoder(Encoder):
    """An encoder and a linear head behind its embeddings, as `siamese-verify adapt` trains it.

    Args:
        encoder: the inner encoder.
    """

    always_normalizes = True

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, encoder.embedding_size, encoder.input_spec)
        self.head = nn.Linear(encoder.embedding_size, encoder.embedding_size, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Embed faces.

        Args:
            images: see `Encoder`.

        Returns:
            (B,D) embeddings of unit length.

        Raises:
            InputError: images of another shape.
        """
        return F.normalize(self.head(F.normalize(self.backbone(images))))


class CenteredPixels(nn.Module):
    """Pixels minus the mean color of the image, so that the cosine is the correlation of two images.

    Arrays with one length or more behind the channels likewise; vectors as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,S,S) -> (B,3*S*S+1), of a larger image (B,3*64*64+1)."""
        if x.ndim > 2:
            small = shrunk(x.shape[2:])
            x = F.interpolate(x, size=small, mode="area") if small != tuple(x.shape[2:]) else x
            x = x - x.mean(dim=list(range(2, x.ndim)), keepdim=True)
        return F.pad(x.flatten(1), (0, 1), value=CONSTANT)


def shrunk(lengths: Sequence[int]) -> tuple[int, ...]:
    """Lengths that `CenteredPixels` keeps: 64 at most; of more than three all, which torch cannot interpolate."""
    return tuple(min(length, PIXELS_SIDE) for length in lengths) if len(lengths) <= 3 else tuple(lengths)


class Pixels(Encoder):
    """Raw pixels as embeddings, a baseline without training; larger images are scaled to 64 x 64 pixels.

    Args:
        size: side of the input in pixels.
        crop: how faces are cropped from photos.
    """

    def __init__(self, size: int = 64, crop: Crop = Crop()) -> None:
        super().__init__(CenteredPixels(), 3 * min(size, PIXELS_SIDE) ** 2 + 1, InputSpec(size, crop=crop))


def check_crop(pretrained: str, crop: Crop, kind: str) -> None:
    """Check that faces are cropped as published weights need it.

    Args:
        pretrained: name of the weights.
        crop: of the encoder; `whole` is accepted, as photos may be cropped already.
        kind: of crop that the weights were trained on.

    Raises:
        InputError: it is of another kind.
    """
    if crop.kind not in (kind, "whole"):
        raise InputError(
            f"The weights of {pretrained} are for faces cropped by {kind}, not by {crop.kind}: set data.crop={kind}, "
            "or data.crop=whole for photos that are cropped so."
        )


def raw_inputs(input_spec: InputSpec) -> Encoder:
    """The inputs of another encoder as embeddings, a baseline without training: `Pixels`, or the numbers of arrays."""
    if input_spec.is_photo:
        return Pixels(input_spec.size, input_spec.crop)
    channels, *lengths = input_spec.shape
    return Encoder(CenteredPixels(), channels * math.prod(shrunk(lengths)) + 1, input_spec)
