"""The types that travel between packages; importing them loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


class Pairs(NamedTuple):
    """Rows of one batch of embeddings, two by two."""

    anchor: Tensor  # (M,) int64
    other: Tensor  # (M,) int64
    same: Tensor  # (M,) bool: True = genuine

    def numbered_from(self, first: int) -> Pairs:
        """Say where the others lie when they come after `first` other rows, as references do in an objective."""
        return Pairs(self.anchor, self.other + first, self.same)


class Triplets(NamedTuple):
    """Rows of one batch of embeddings, three by three."""

    anchor: Tensor  # (T,) int64
    positive: Tensor  # (T,) int64, the anchor's identity
    negative: Tensor  # (T,) int64, another identity

    def numbered_from(self, first: int) -> Triplets:
        """Say where positives and negatives lie when they come after `first` other rows; see `Pairs`."""
        return Triplets(self.anchor, self.positive + first, self.negative + first)


class FaceBatch(NamedTuple):
    """What a training step gets."""

    images: Tensor  # (N,3,S,S) uint8
    labels: Tensor  # (N,) int64 identities
    tuples: Pairs | Triplets | None  # given by pair or triplet feeding; None = a miner chooses


class Photos(Protocol):
    """Photos and who is on them. Opening one is lazy, and may raise InputError for a damaged file.

    A source may also have `people` (names by identity), `splits` (a name for each photo), `digest` (SHA-256 of what it
    holds), `aligned` (an InputSpec: its photos are faces that were cut so) and `filtered` (what was left out, in
    words).
    """

    @property
    def identities(self) -> np.ndarray:
        """(N,) integers, one number per person."""

    @property
    def names(self) -> Sequence[str]:
        """N names for people to read, unique."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Image:
        """The photo in RGB, upright."""


@dataclass(frozen=True)
class Crop:
    """How a face is cut from a photo.

    Attributes:
        kind: `whole`: the photo is the face already; `center`: its central square; `box`: the upright box of the face
            detector; `five_point`: turned and scaled so that eyes, nose and mouth lie as in ArcFace's template.
        margin: `box` only: pixels added to the box's width and height together, measured in the finished crop of
            `InputSpec.size` pixels (facenet-pytorch's convention).
        fraction: `center` only: side of the square over the photo's shorter side, in (0, 1].
        square: `box` only: the longer side of the box for both, instead of stretching it to a square.
        resample: filter that scales: `bilinear`, `bicubic`, `box`, `hamming` or `lanczos`, as Pillow has them.
    """

    kind: Literal["whole", "center", "box", "five_point"] = "box"
    margin: float = 0.0
    fraction: float = 1.0
    square: bool = False
    resample: Literal["bilinear", "bicubic", "box", "hamming", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        if self.kind not in ("whole", "center", "box", "five_point"):
            raise InputError(f"A crop is whole, center, box or five_point, not {self.kind!r}.")
        if self.resample not in ("bilinear", "bicubic", "box", "hamming", "lanczos"):
            raise InputError(
                f"A crop is scaled by a bilinear, bicubic, box, hamming or lanczos filter, not {self.resample!r}."
            )
        if not self.margin >= 0 or not 0 < self.fraction <= 1:
            raise InputError(
                f"A crop has a margin of 0 or more and a fraction above 0 and up to 1, got {self.margin} and "
                f"{self.fraction}."
            )

    @property
    def needs_face(self) -> bool:
        """A detector has to find the face first."""
        return self.kind in ("box", "five_point")


@dataclass(frozen=True)
class InputSpec:
    """What an encoder was made to see: it travels with the weights.

    Attributes:
        size: side of the square input in pixels.
        mean: subtracted from each RGB channel, in 0 ... 255.
        std: divides each RGB channel afterwards, in 0 ... 255.
        crop: how the face is cut from a photo.
    """

    size: int
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    crop: Crop = Crop()

    def __post_init__(self) -> None:
        if not self.size > self.crop.margin:
            raise InputError(f"A margin of {self.crop.margin} leaves nothing of a crop of {self.size} pixels.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Read what `dataclasses.asdict` wrote."""
        crop = Crop(**values["crop"])
        return cls(int(values["size"]), tuple(values["mean"]), tuple(values["std"]), crop)
