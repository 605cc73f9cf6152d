"""Types that several packages share; importing them loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


LARGEST_INPUT = 3 * 4096**2  # numbers
ARRAYS_FOR_PHOTOS = (
    "The encoder takes photos, but the data are arrays: set encoder=array_resnet or encoder=perceptron, with "
    "encoder.shape."
)


DEFAULT_MODEL = "sface"  # of commands that verify
DetectorName = Literal["mtcnn", "yunet"]


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

    images: Tensor  # (N,3,S,S) uint8, or (N,*shape) of an `InputSpec` for arrays
    labels: Tensor  # (N,) int64 identities, -1 of an image without
    tuples: Pairs | Triplets | None  # given by a pair or triplet sampler; None = a miner chooses
    rows: Tensor | None = None  # (N / views,) int64 rows of the data set: its images are in blocks, one for each view
    labeled: Tensor | None = None  # (N / views,) bool on the CPU: may a label be learned from, or only measured with


class Photos(Protocol):
    """Data set of N photos with identities. Photos are opened on access; damaged ones raise InputError.

    It may also have `people` (names by identity), `namespace` (where the numbers of identities are unique), `splits`
    and `cameras` (a name for each photo), `digest` (SHA-256 of its content), `aligned` (InputSpec of photos that are
    aligned faces) and `filtered` (what was left out, in words).
    """

    @property
    def identities(self) -> np.ndarray:
        """(N,) integers."""

    @property
    def names(self) -> Sequence[str]:
        """N unique names."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any:
        """Upright RGB photo of a row; for encoders of arrays, an array or tensor of the shape of their `InputSpec`."""


@dataclass(frozen=True)
class Crop:
    """How a face is cut from a photo.

    Attributes:
        kind: `whole`, the photo is a face already; `center`, its central square; `box`, the upright box of the face
            detector; `five_point`, rotated and scaled so that eyes, nose and mouth match ArcFace's template;
            `eyes_and_nose`, mapped so that eyes and nose match OpenFace's template; `none`, there is no photo, the data
            set gives arrays as the encoder takes them.
        margin: of a `box`: pixels added to its width and height together, in the final crop of `InputSpec.size` pixels
            (facenet-pytorch's convention).
        fraction: of a `center` crop: side of the square over the photo's shorter side, in (0, 1].
        square: of a `box`: extend its shorter side instead of stretching it.
        resample: Pillow's filter for scaling.
        detector: that finds the face of a `box` or `five_point` crop.
    """

    kind: Literal["whole", "center", "box", "five_point", "eyes_and_nose", "none"] = "box"
    margin: float = 0.0
    fraction: float = 1.0
    square: bool = False
    resample: Literal["bilinear", "bicubic", "box", "hamming", "lanczos"] = "bilinear"
    detector: DetectorName = "mtcnn"

    def __post_init__(self) -> None:
        if self.kind not in ("whole", "center", "box", "five_point", "eyes_and_nose", "none"):
            raise InputError(
                f"A crop must be whole, center, box, five_point, eyes_and_nose or none, got {self.kind!r}."
            )
        if self.resample not in ("bilinear", "bicubic", "box", "hamming", "lanczos"):
            raise InputError(
                f"A crop's filter must be bilinear, bicubic, box, hamming or lanczos, got {self.resample!r}."
            )
        if self.detector not in ("mtcnn", "yunet"):
            raise InputError(f"A crop's detector must be mtcnn or yunet, got {self.detector!r}.")
        if not self.margin >= 0 or not 0 < self.fraction <= 1:
            raise InputError(
                f"A crop's margin must be >= 0 and its fraction in (0, 1], got {self.margin} and {self.fraction}."
            )

    @property
    def needs_face(self) -> bool:
        """Whether a detector has to find the face first."""
        return self.kind in ("box", "five_point", "eyes_and_nose")


@dataclass(frozen=True)
class InputSpec:
    """Input that an encoder expects: square RGB photos, or arrays of any shape; saved with its weights.

    Attributes:
        size: side of the square photo in pixels; 0 for arrays.
        mean: subtracted from each channel; of photos in 0 ... 255. One number for all channels, or one for each.
        std: divides each channel afterwards, likewise.
        crop: how the face is cut from a photo; of the kind `none` for arrays.
        shape: of one input: (3,S,S) of photos, channels first; of arrays such as (1,28,28), or (D,) of vectors.
        dtype: of its numbers: `uint8` of photos, `uint8` or `float32` of arrays.

    Raises:
        InputError: a shape, mean or standard deviation that does not fit; a size without a crop or shape.
    """

    size: int
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (127.5, 127.5, 127.5)
    crop: Crop = Crop()
    shape: tuple[int, ...] = ()
    dtype: Literal["uint8", "float32"] = "uint8"

    def __post_init__(self) -> None:
        if self.is_photo:
            if not self.size > self.crop.margin:
                raise InputError(f"The margin of a crop of {self.size} pixels must be smaller, got {self.crop.margin}.")
            photo = (3, self.size, self.size)
            if self.shape not in ((), photo) or self.dtype != "uint8":
                raise InputError(f"Photos are uint8 of shape {photo}, got {self.dtype} of shape {self.shape}.")
            object.__setattr__(self, "shape", photo)
        elif self.size and not self.shape:  # an encoder of photos with the crop of a data set of arrays
            raise InputError(ARRAYS_FOR_PHOTOS)
        if not self.shape or not all(isinstance(length, int) and length > 0 for length in self.shape):
            raise InputError(f"The shape of an input is one or more positive numbers, got {self.shape}.")
        if math.prod(self.shape) > LARGEST_INPUT:
            raise InputError(f"An input has at most 3 x 4096 x 4096 numbers, got the shape {self.shape}.")
        if self.dtype not in ("uint8", "float32"):
            raise InputError(f"The numbers of an input are uint8 or float32, got {self.dtype!r}.")
        for values in (self.mean, self.std):
            if len(values) not in (1, self.shape[0]):
                raise InputError(f"An input of {self.shape[0]} channels cannot have {len(values)} means or deviations.")
        if not all(value > 0 for value in self.std):
            raise InputError(f"The standard deviation of an input must be above 0, got {self.std}.")

    @classmethod
    def of_arrays(
        cls,
        shape: Sequence[int],
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        dtype: Literal["uint8", "float32"] = "float32",
    ) -> InputSpec:
        """Input of arrays, which a data set gives in this shape; `mean` and `std` are of all channels, or of each."""
        means, stds = ((one,) if isinstance(one, int | float) else tuple(one) for one in (mean, std))
        return cls(0, means, stds, Crop("none"), tuple(shape), dtype)

    @property
    def is_photo(self) -> bool:
        """Whether it is a photo, which a face can be cut from."""
        return self.crop.kind != "none"

    @property
    def array_type(self) -> str | None:
        """Type of the numbers of arrays, None for photos."""
        return None if self.is_photo else self.dtype

    def channels_first(self, inputs: Any) -> Any:
        """(N,S,S,3) photos, an array or tensor, as the (N,3,S,S) that the encoder takes; arrays as they are."""
        if not self.is_photo:
            return inputs
        return inputs.permute(0, 3, 1, 2) if hasattr(inputs, "permute") else inputs.transpose(0, 3, 1, 2)

    def channels_last(self, inputs: Any) -> Any:
        """The inverse of `channels_first`."""
        if not self.is_photo:
            return inputs
        return inputs.permute(0, 2, 3, 1) if hasattr(inputs, "permute") else inputs.transpose(0, 2, 3, 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """From the result of `dataclasses.asdict`; earlier ones have no shape."""
        shape, dtype = tuple(values.get("shape", ())), values.get("dtype", "uint8")
        return cls(
            int(values["size"]), tuple(values["mean"]), tuple(values["std"]), Crop(**values["crop"]), shape, dtype
        )
