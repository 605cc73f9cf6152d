"""Types that several packages share; importing them loads no torch."""

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
    """M pairs of rows of a batch of embeddings."""

    anchor: Tensor  # (M,) int64
    other: Tensor  # (M,) int64
    same: Tensor  # (M,) bool: True = genuine

    def with_offset(self, offset: int) -> Pairs:
        """The same pairs where the others come after `offset` rows, such as references after the batch."""
        return Pairs(self.anchor, self.other + offset, self.same)


class Triplets(NamedTuple):
    """T triplets of rows of a batch of embeddings."""

    anchor: Tensor  # (T,) int64
    positive: Tensor  # (T,) int64, the anchor's identity
    negative: Tensor  # (T,) int64, another identity

    def with_offset(self, offset: int) -> Triplets:
        """The same triplets where positives and negatives come after `offset` rows, such as references."""
        return Triplets(self.anchor, self.positive + offset, self.negative + offset)


class FaceBatch(NamedTuple):
    """Batch of a training step."""

    images: Tensor  # (N,3,S,S) uint8
    labels: Tensor  # (N,) int64 identities
    tuples: Pairs | Triplets | None  # given by a pair or triplet sampler; None = a miner chooses


class Photos(Protocol):
    """Data set of N photos with identities. Photos are opened on access; damaged ones raise InputError.

    It may also have `people` (names by identity), `splits` (a name for each photo), `digest` (SHA-256 of its content),
    `aligned` (InputSpec of photos that are aligned faces) and `filtered` (what was left out, in words).
    """

    @property
    def identities(self) -> np.ndarray:
        """(N,) integers."""

    @property
    def names(self) -> Sequence[str]:
        """N unique names."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Image:
        """Upright RGB photo of a row."""


@dataclass(frozen=True)
class Crop:
    """How a face is cut from a photo.

    Attributes:
        kind: `whole`, the photo is a face already; `center`, its central square; `box`, the upright box of the face
            detector; `five_point`, rotated and scaled so that eyes, nose and mouth match ArcFace's template.
        margin: of a `box`: pixels added to its width and height together, in the final crop of `InputSpec.size` pixels
            (facenet-pytorch's convention).
        fraction: of a `center` crop: side of the square over the photo's shorter side, in (0, 1].
        square: of a `box`: extend its shorter side instead of stretching it.
        resample: Pillow's filter for scaling.
    """

    kind: Literal["whole", "center", "box", "five_point"] = "box"
    margin: float = 0.0
    fraction: float = 1.0
    square: bool = False
    resample: Literal["bilinear", "bicubic", "box", "hamming", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        if self.kind not in ("whole", "center", "box", "five_point"):
            raise InputError(f"A crop must be whole, center, box or five_point, got {self.kind!r}.")
        if self.resample not in ("bilinear", "bicubic", "box", "hamming", "lanczos"):
            raise InputError(
                f"A crop's filter must be bilinear, bicubic, box, hamming or lanczos, got {self.resample!r}."
            )
        if not self.margin >= 0 or not 0 < self.fraction <= 1:
            raise InputError(
                f"A crop's margin must be >= 0 and its fraction in (0, 1], got {self.margin} and {self.fraction}."
            )

    @property
    def needs_face(self) -> bool:
        """Whether a detector has to find the face first."""
        return self.kind in ("box", "five_point")


@dataclass(frozen=True)
class InputSpec:
    """Input that an encoder expects; saved with its weights.

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
            raise InputError(f"The margin of a crop of {self.size} pixels must be smaller, got {self.crop.margin}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """From the result of `dataclasses.asdict`."""
        crop = Crop(**values["crop"])
        return cls(int(values["size"]), tuple(values["mean"]), tuple(values["std"]), crop)
