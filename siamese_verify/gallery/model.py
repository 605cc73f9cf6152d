"""What a gallery has to know of the model whose embeddings it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_verify.evaluation import Strangers

LARGEST = 65_536  # dimensions of an embedding


class GalleryModel(NamedTuple):
    """A model without its weights: enough to keep its embeddings apart from those of any other."""

    fingerprint: str  # hex SHA-256 that names weights and alignment
    dimension: int
    name: str = ""  # for people
    strangers: Strangers | None = None  # how impostors score; None where it was not measured
    quality: Mapping[
        str, tuple[float | None, float | None]
    ] = {}  # ranges that it was measured on, by `Quality`'s names


class FaceVerifier(Protocol):
    """What a gallery asks of a `Verifier`."""

    @property
    def record(self) -> Any:
        """Name, fingerprint, dimension, meaning and quality of the model."""

    def find(self, photo: Any, name: str | None = None, several: Any = None) -> Sequence[Any]:
        """Find the faces that are meant."""

    def embed_faces(self, faces: Sequence[Any]) -> NDArray[np.float32]:
        """Embed them, (N,D) of unit length."""


def gallery_model(model: FaceVerifier | GalleryModel) -> GalleryModel:
    """Read off a verifier what a gallery has to know.

    Raises:
        InputError: the model's weights have no digest yet, or its dimension is none.
    """
    if not isinstance(model, GalleryModel):
        record = model.record
        if not record.weights_sha256:  # all such would seem to be one model
            raise InputError(f"The weights of {record.name} were never saved: export them to a bundle first.")
        meaning = record.meaning
        model = GalleryModel(
            record.fingerprint, record.dimension, record.name, meaning and meaning.strangers, record.quality
        )
    if not model.fingerprint or not 0 < model.dimension <= LARGEST:
        raise InputError(
            f"A gallery's model has a fingerprint and 1 to {LARGEST:,} dimensions, got {model.fingerprint!r} and "
            f"{model.dimension}."
        )
    return model
