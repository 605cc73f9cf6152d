"""Two photos -> do they show the same person?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces import (
    Face,
    FaceDetector,
    Photo,
    ambiguous,
    choose_face,
    crop_face,
    level,
    open_photo,
    quality_of,
    reduced,
    rotate_photo,
    rotated_size,
    search,
)
from siamese_verify.faces.mtcnn import Networks
from siamese_verify.models.engines import Engine, embed_crops
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.verification import decision
from siamese_verify.verification.decision import (
    DecisionOptions,
    DetectedFace,
    NoDecision,
    Verification,
    best_pair,
    check_options,
)

CHUNK = 64  # photos whose faces are held together
MOST_FACES = 64  # of a photo whose faces are all compared
OnMultipleFaces = Literal["error", "largest", "central", "any"]
ON_MULTIPLE_FACES = ("error", "largest", "central", "any")
Liveness = Callable[[Image.Image, DetectedFace], str | None]


class Embedded(NamedTuple):
    """Embeddings of those photos that have one."""

    embeddings: NDArray[np.float32]  # (K,D) of unit length
    rows: NDArray[np.int64]  # (K,) ascending, which of the photos
    errors: dict[int, NoDecision]  # by row, why the others have none


class Verifier:
    """Decides whether photos show the same person; keeps nothing of them. It may be used from several threads.

    That two photos match says nothing about whether a living person stood before the camera: a printed photo or a
    screen matches as well. Detectors of such attacks go in as `liveness`.

    Args:
        metadata: what is known about the model.
        engine: that runs its encoder.
        networks: of the face detector; by default those of this machine's cache.
        on_multiple_faces: of a photo: `error` where it is open which is meant, take the `largest` or `central` one, or
            compare `any` of them, where the best pair counts and the threshold is raised for the number of pairs.
        liveness: called with each upright photo and its face before anything is compared; a sentence that it returns
            refuses the photo.
        proof: done when the model's files were found to be in order; no embedding is given before.
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        engine: Engine,
        networks: Networks | None = None,
        *,
        on_multiple_faces: OnMultipleFaces = "error",
        liveness: Liveness | None = None,
        proof: Future[None] | None = None,
    ) -> None:
        self.metadata = metadata
        self.on_multiple_faces = checked_on_multiple_faces(on_multiple_faces)
        self.liveness = liveness
        self._engine = engine
        self._networks = networks
        self._detector: FaceDetector | None = None
        self._proof = proof

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        engine: Literal["auto", "onnx", "torch"] = "auto",
        device: str = "cpu",
        threads: int | None = None,
        on_multiple_faces: OnMultipleFaces = "error",
        liveness: Liveness | None = None,
    ) -> Verifier:
        """Load a verifier.

        Args:
            model: a pretrained name (`casia-webface`, `vggface2`), a bundle folder, a run folder or a checkpoint.
            engine: `onnx` imports no torch, `torch` runs on any device; `auto` is onnx for all but checkpoints.
            device: where torch's engine runs.
            threads: of ONNX Runtime; None for one per core.
            on_multiple_faces: see `Verifier`.
            liveness: see `Verifier`.

        Raises:
            InputError: there is no such model, or it is damaged.
        """
        from siamese_verify.models.loading import load_parts

        metadata, run, networks, proof = load_parts(model, engine, device, threads)
        return cls(metadata, run, networks, on_multiple_faces=on_multiple_faces, liveness=liveness, proof=proof)

    def verify(
        self,
        a: Photo,
        b: Photo,
        *,
        far: float | None = None,
        threshold: float | None = None,
        prior: float | None = None,
        decide: bool = False,
        on_multiple_faces: OnMultipleFaces | None = None,
    ) -> Verification:
        """Decide whether two photos show the same person.

        Args:
            a: a path, the bytes of an image file, an (H,W,3) uint8 array or a PIL image.
            b: likewise.
            far: false accept rate to operate at; by default the strictest that enough impostors were measured for.
            threshold: used instead of a measured one, in [-1, 1].
            prior: share of genuine pairs among those you ask about, in (0, 1); adds a probability to the answer.
            decide: answer yes or no where the result would be inconclusive.
            on_multiple_faces: overrides the verifier's own.

        Raises:
            NoDecision: a photo is unreadable, has no face, has several and `on_multiple_faces` is `error`, or was
                refused by the liveness hook.
            InputError: no threshold was measured for the model or for this rate, or a value is out of range.
        """
        options = DecisionOptions(far=far, threshold=threshold, prior=prior, decide=decide)
        self.check(**options)  # before any photo is opened
        selection = checked_on_multiple_faces(on_multiple_faces or self.on_multiple_faces)
        spent: tuple[dict[str, float], dict[str, float]] = ({}, {})
        with ThreadPoolExecutor(2) as pool:  # decoding and detection release the GIL for most of their time
            left, right = pool.map(self._look, (a, b), ("photo 1", "photo 2"), (selection, selection), spent)
        milliseconds = {stage: max(one.get(stage, 0.0) for one in spent) for stage in {**spent[0], **spent[1]}}
        with timed(milliseconds, "embed"):
            embeddings = self.embed_faces([*left, *right])
        return self.compare(
            left, embeddings[: len(left)], right, embeddings[len(left) :], milliseconds=milliseconds, **options
        )

    def check(self, **options: Unpack[DecisionOptions]) -> None:
        """Check that decisions can be made with these options, before any photo is opened.

        Raises:
            InputError: see `decide`.
        """
        check_options(self.metadata, **options)

    def compare(
        self,
        left: Sequence[DetectedFace],
        left_embeddings: NDArray[np.float32],
        right: Sequence[DetectedFace],
        right_embeddings: NDArray[np.float32],
        *,
        milliseconds: Mapping[str, float] | None = None,
        **options: Unpack[DecisionOptions],
    ) -> Verification:
        """Decide about the faces of two photos that were found and embedded before: their most similar pair counts.

        Args:
            left: A faces of the first photo, see `find`.
            left_embeddings: (A,D) of unit length, see `embed_faces`.
            right: B faces of the second photo.
            right_embeddings: (B,D) of unit length.
            milliseconds: spent so far, by stage.
            options: see `DecisionOptions`.

        Raises:
            InputError: see `decide`.
        """
        first, second, score = best_pair(left_embeddings, right_embeddings)
        faces = (left[first], right[second])
        return self.decide(score, faces, comparisons=len(left) * len(right), milliseconds=milliseconds, **options)

    def decide(
        self,
        score: float,
        faces: Sequence[DetectedFace] = (),
        *,
        comparisons: int = 1,
        milliseconds: Mapping[str, float] | None = None,
        **options: Unpack[DecisionOptions],
    ) -> Verification:
        """Decide by a score of this model.

        Args:
            score: cosine similarity of two embeddings.
            faces: that were compared; their quality may make the decision inconclusive.
            comparisons: number of face pairs of which this is the best score.
            milliseconds: spent so far, by stage.
            options: see `DecisionOptions`.

        Raises:
            InputError: see `siamese_verify.verification.decision.decide`.
        """
        return decision.decide(
            self.metadata, score, faces, comparisons=comparisons, milliseconds=milliseconds, **options
        )

    def find(
        self,
        photo: Photo,
        name: str | None = None,
        on_multiple_faces: OnMultipleFaces | None = None,
        *,
        opened: bool = False,
    ) -> list[DetectedFace]:
        """Find the face of a photo and cut it; models without a detector (`whole`, `center` crops) take it as given.

        Args:
            photo: see `verify`.
            name: what to call it; by default its path.
            on_multiple_faces: instead of the verifier's own.
            opened: the photo is what `open_photo` returned, and is not copied.

        Returns:
            One face, or all of them for `any`, the most probable first.

        Raises:
            NoDecision: see `verify`.
        """
        named = name is not None
        return self._look(
            photo,
            name or "the photo",
            checked_on_multiple_faces(on_multiple_faces or self.on_multiple_faces),
            {},
            named,
            opened,
        )

    @overload
    def embed(self, photos: Sequence[Photo], on_error: Literal["raise"] = "raise") -> NDArray[np.float32]: ...

    @overload
    def embed(self, photos: Sequence[Photo], on_error: Literal["skip"]) -> Embedded: ...

    def embed(
        self, photos: Sequence[Photo], on_error: Literal["raise", "skip"] = "raise"
    ) -> NDArray[np.float32] | Embedded:
        """Embed the one face of each photo.

        Args:
            photos: N, see `verify`.
            on_error: what to do about a photo without an embedding: `raise` its error, or `skip` it and go on.

        Returns:
            (N,D) float32 of unit length; with `skip` an `Embedded`, which says whose rows are there.

        Raises:
            NoDecision: see `verify`; `any` means `error` here. Never with `skip`.
            InputError: another way to deal with errors.
        """
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is 'raise' or 'skip', got {on_error!r}.")
        if isinstance(photos, str | bytes | Path):
            raise InputError(f"embed takes a list of photos, got one {type(photos).__name__}: write [photo].")
        on_multiple_faces: OnMultipleFaces = "error" if self.on_multiple_faces == "any" else self.on_multiple_faces
        parts = [np.empty((0, self.metadata.embedding_size), dtype=np.float32)]
        rows: list[int] = []
        errors: dict[int, NoDecision] = {}
        for start in range(0, len(photos), CHUNK):
            faces = []
            for row, photo in enumerate(photos[start : start + CHUNK], start):
                try:
                    faces += self._look(photo, f"photo {row + 1}", on_multiple_faces, {})
                    rows.append(row)
                except NoDecision as error:
                    if on_error == "raise":
                        raise
                    errors[row] = error
            parts.append(self.embed_faces(faces))
        embeddings = np.concatenate(parts)
        return embeddings if on_error == "raise" else Embedded(embeddings, np.array(rows, dtype=np.int64), errors)

    def embed_faces(self, faces: Sequence[DetectedFace]) -> NDArray[np.float32]:
        """Embed faces that `find` gave; (N,D) float32 of unit length."""
        size = self.metadata.input_spec.size
        crops = np.stack([face.crop for face in faces]) if faces else np.empty((0, size, size, 3), dtype=np.uint8)
        return self.embed_crops(crops)

    def embed_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed faces that were cut for this model.

        Args:
            crops: (N,S,S,3) uint8 RGB.

        Returns:
            (N,D) float32 of unit length.

        Raises:
            InputError: crops of another shape or type.
        """
        size = self.metadata.input_spec.size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise InputError(
                f"This model takes uint8 crops of shape (N, {size}, {size}, 3), got {crops.dtype} {crops.shape}."
            )
        embeddings = embed_crops(self._engine, crops, self.metadata.embedding_size)
        if self._proof:
            self._proof.result()
        return embeddings

    def _look(
        self,
        photo: Photo,
        fallback: str,
        on_multiple_faces: OnMultipleFaces,
        stages: dict[str, float],
        named: bool = False,
        opened: bool = False,
    ) -> list[DetectedFace]:
        name = str(photo) if isinstance(photo, str | Path) and not named else fallback
        try:
            with timed(stages, "read"):
                image = photo if opened and isinstance(photo, Image.Image) else open_photo(photo, name)
        except InputError as error:
            raise NoDecision(str(error), "unreadable_photo") from None
        spec = self.metadata.input_spec
        found: list[tuple[Face | None, float]] = [(None, 0)]
        number = 1
        if spec.crop.needs_face:
            with timed(stages, "detect"):
                chosen, number, side = self._choose(image, name, on_multiple_faces)
                found = [level(self._faces(), image, face, side) for face in chosen]
        with timed(stages, "align"):
            seen = [self._cut(image, face, name, degrees, number) for face, degrees in found]
        if self.liveness:
            with timed(stages, "liveness"):
                for face in seen:
                    refusal = self.liveness(rotate_photo(image, face.rotated_by), _as_shown(face, reduced(image)))
                    if refusal is not None and not (isinstance(refusal, str) and refusal):
                        raise InputError(
                            f"The liveness hook returned {refusal!r}: it returns None, or a sentence that refuses."
                        )
                    if refusal:
                        raise NoDecision(f"{name} was refused: {refusal}", "refused")
        return seen

    def _choose(self, image: Image.Image, name: str, on_multiple_faces: OnMultipleFaces) -> tuple[list[Face], int, int]:
        """The faces of a photo that are compared, how many it shows, and the degrees that it has to be turned by."""
        faces, degrees = search(self._faces(), image)
        if not faces:
            raise NoDecision(f"No face was found on {name}: use a photo that shows one from the front.", "no_face")
        if on_multiple_faces == "any":
            if len(faces) > MOST_FACES:
                sentence = f"{len(faces)} faces were found on {name}, at most {MOST_FACES} are compared: crop it."
                raise NoDecision(sentence, "multiple_faces")
            return faces, len(faces), degrees
        size = rotated_size(image.size, degrees)
        if on_multiple_faces == "error" and ambiguous(faces, *size):
            sentence = f"{len(faces)} faces were found on {name}, and which is meant is open: crop it to that one."
            raise NoDecision(sentence, "multiple_faces")
        return [choose_face(faces, *size, _choice(on_multiple_faces))], len(faces), degrees

    def _cut(self, image: Image.Image, face: Face | None, name: str, degrees: float, number: int) -> DetectedFace:
        crop = crop_face(image, self.metadata.input_spec, face, degrees)
        if face is None:
            return DetectedFace(name, np.asarray(crop), quality_of(crop), rotated_by=degrees, faces=number)
        face = face.placed(reduced(image))
        quality = quality_of(crop, face.box, face.landmarks)
        return DetectedFace(
            name, np.asarray(crop), quality, face.box, face.landmarks, face.probability, degrees, number
        )

    def _faces(self) -> FaceDetector:
        if self._detector is None:  # two threads may both make one, and one of them is kept
            self._detector = FaceDetector(self._networks)
        return self._detector


def _as_shown(face: DetectedFace, scale: int) -> DetectedFace:
    """The face with its places in a photo that was reduced by `scale`."""
    if face.box is None or face.landmarks is None or scale == 1:
        return face
    shown = Face(face.box, 1.0, face.landmarks).placed(1 / scale)
    return replace(face, box=shown.box, landmarks=shown.landmarks)


def _choice(on_multiple_faces: OnMultipleFaces) -> Literal["central", "largest"]:
    return "largest" if on_multiple_faces == "largest" else "central"


def checked_on_multiple_faces(on_multiple_faces: OnMultipleFaces) -> OnMultipleFaces:
    """Give back what to do with several faces.

    Raises:
        InputError: it is none of `ON_MULTIPLE_FACES`.
    """
    if on_multiple_faces not in ON_MULTIPLE_FACES:
        raise InputError(
            f"on_multiple_faces must be one of {', '.join(map(repr, ON_MULTIPLE_FACES))}, got {on_multiple_faces!r}."
        )
    return on_multiple_faces


@contextmanager
def timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    """Add the milliseconds that something takes to those of its stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] = stages.get(stage, 0.0) + (time.perf_counter() - start) * 1000
