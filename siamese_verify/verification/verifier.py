"""Two photos -> do they show the same person?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from siamese_verify.errors import InputError
from siamese_verify.faces import FaceDetector, Photo, crop_face, find_subject, open_photo
from siamese_verify.verification.loading import load_model
from siamese_verify.verification.model import FaceModel

CHUNK = 64  # photos embedded together
FACE_PROBABILITY = 0.9  # what the detector is less sure of does not count as a second face


class NoDecision(InputError):
    """The photos do not allow a decision: no face, several faces, or an unreadable file."""


@dataclass(frozen=True)
class Verification:
    """A decision about two photos.

    Attributes:
        same: the score reaches the threshold.
        score: cosine similarity of the two faces, in [-1, 1].
        threshold: accept at this score and above.
        far: share of impostor pairs that would reach the threshold; None for a threshold of the caller's own.
        impostors: number of impostor pairs that this share was measured on.
        insufficient: fewer than ten of them decided it: take `far` as a rough guess.
        measured_on: the data they came from.
        model: what the model was loaded by.
        probability: that it is one person, if one pair in two of those asked about is genuine; None where the model was
            not calibrated.
        strangers: how many strangers would score this high, in words; empty where it was not measured.
    """

    same: bool
    score: float
    threshold: float
    far: float | None
    impostors: int
    insufficient: bool
    measured_on: str
    model: str
    probability: float | None
    strangers: str


class Verifier:
    """Decides whether photos show the same person; keeps nothing of them.

    Args:
        model: an encoder with its thresholds, see `Verifier.load`.
    """

    def __init__(self, model: FaceModel) -> None:
        self.model = model
        self._detector: FaceDetector | None = None

    @classmethod
    def load(cls, model: str | Path, device: str = "cpu") -> Verifier:
        """Load a verifier.

        Args:
            model: a pretrained name (`casia-webface`, `vggface2`), a bundle folder, a run folder or a checkpoint.
            device: where the encoder runs.

        Raises:
            InputError: there is no such model, or it is damaged.
        """
        return cls(load_model(model, device))

    def verify(self, a: Photo, b: Photo, far: float | None = None, threshold: float | None = None) -> Verification:
        """Decide whether two photos show the same person.

        Args:
            a: a path, the bytes of an image file, an (H,W,3) uint8 array or a PIL image.
            b: likewise.
            far: false accept rate to work at, one of those measured for the model; by default the strictest that
                enough impostors stand behind.
            threshold: one of your own instead, in [-1, 1].

        Raises:
            NoDecision: a photo is unreadable, or has no face or several.
            InputError: no threshold was measured for the model, or not for this rate.
        """
        if threshold is not None and not -1 <= threshold <= 1:
            raise InputError(f"A threshold is a cosine between -1 and 1, got {threshold}.")
        if threshold is not None and far is not None:
            raise InputError(f"Give a threshold ({threshold}) or a false accept rate ({far}), not both.")
        point = self.model.operating_point(far) if threshold is None else None
        first, second = self.embed([a, b])
        score = float(np.clip(first @ second, -1, 1))
        meaning = self.model.meaning
        limit = point.threshold if point else float(threshold or 0)
        return Verification(
            same=score >= limit,
            score=score,
            threshold=limit,
            far=point.far if point else None,
            impostors=point.impostors if point else 0,
            insufficient=point.insufficient if point else False,
            measured_on=self.model.measured_on if point else "",
            model=self.model.name,
            probability=float(meaning.calibration.probability(score)) if meaning else None,
            strangers=meaning.strangers.sentence(score) if meaning else "",
        )

    def embed(self, photos: Sequence[Photo]) -> np.ndarray:
        """Embed the one face of each photo; models without a detector (`whole`, `center` crops) take it as given.

        Returns:
            (N,D) float32 of unit length.

        Raises:
            NoDecision: a photo is unreadable, or has no face or several.
        """
        if not len(photos):
            return np.empty((0, self.model.encoder.dimension), dtype=np.float32)
        encoder = self.model.encoder
        device = next(encoder.buffers()).device
        chunks: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(photos), CHUNK):
                faces = [self._face(photo, start + row + 1) for row, photo in enumerate(photos[start : start + CHUNK])]
                images = torch.from_numpy(np.stack([np.asarray(face) for face in faces])).permute(0, 3, 1, 2)
                chunks.append(F.normalize(encoder(images.to(device)).float()).cpu().numpy())
        return np.concatenate(chunks)

    def _face(self, photo: Photo, number: int) -> Image.Image:
        name = str(photo) if isinstance(photo, str | Path) else f"photo {number}"
        try:
            image = open_photo(photo, name)
        except InputError as error:
            raise NoDecision(str(error)) from None
        spec = self.model.encoder.input_spec
        if not spec.crop.needs_face:
            return crop_face(image, spec)
        self._detector = self._detector or FaceDetector()
        subject = find_subject(self._detector, image, least=FACE_PROBABILITY)
        if subject.face is None:
            raise NoDecision(f"No face was found on {name}: use a photo that shows one from the front.")
        if subject.faces > 1:
            raise NoDecision(f"{subject.faces} faces were found on {name}: crop it to the one that is meant.")
        return crop_face(subject.upright(image), spec, subject.face)
