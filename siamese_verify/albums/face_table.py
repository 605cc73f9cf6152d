"""The faces of an album: where each is, how well it can be compared, and its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FaceTable:
    """N faces of an album, those of a photo one after the other.

    Attributes:
        photos: (N,) name of each face's photo, within the album; a photo with several faces is there several times.
        embeddings: (N,D) float32 of unit length.
        boxes: (N,4) float32 left, top, right and bottom of the face in pixels of the upright photo; the whole photo
            where no detector was used.
        probability: (N,) float32 of being a face, in [0, 1].
        quality: by the names of `siamese_verify.faces.Quality`, (N,) float32; NaN where it is unknown.
        model: name of the model.
        weights_sha256: of its weights: embeddings of other weights cannot be compared.
        root: folder or address that the names of the photos start from.
    """

    photos: Sequence[str]
    embeddings: np.ndarray
    boxes: np.ndarray
    probability: np.ndarray
    quality: Mapping[str, np.ndarray] = field(default_factory=dict)
    model: str = ""
    weights_sha256: str = ""
    root: str = ""

    def __len__(self) -> int:
        return len(self.embeddings)
