"""Verifier: do two photos show the same person? Find, align, embed, compare, decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces import (
    Face,
    FaceDetector,
    FaceFinder,
    FaceSearch,
    NotAPhoto,
    OnMultipleFaces,
    Photo,
    SelectedFace,
    align_face,
    check_on_multiple_faces,
    open_photo,
    reduced,
    rotate_photo,
)
from siamese_verify.models.engines import BATCH, Engine, embed_crops
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

if TYPE_CHECKING:
    from siamese_verify.encoders import Encoder

CHUNK = 64  # photos whose faces are held together
Liveness = Callable[[Image.Image, DetectedFace], str | None]


class Embedded(NamedTuple):
    """Embeddings of the photos that have one."""

    embeddings: NDArray[np.float32]  # (K,D) of unit length
    rows: NDArray[np.int64]  # (K,) ascending rows of the photos
    errors: dict[int, NoDecision]  # why the other rows have none


class Verifier:
    """Decides whether photos show the same person; thread-safe, and stores nothing of them.

    `verify` is `check`, `find`, `embed_faces` and `compare` in this order. Callers that embed many faces together, or
    each photo once, call these themselves.

    A match does not show that a living person was in front of the camera: a printed photo or a screen matches as well.
    Detectors of such attacks are plugged in as `liveness`.

    Args:
        metadata: of the model.
        engine: runs its encoder.
        detector: of faces; by default that of the model's crop, from this machine's cache.
        on_multiple_faces: with multiple faces on a photo, raise an `error` if it is unclear which is meant, take the
            `largest` or most `central` one, or compare `any` of them: then the best pair counts and the threshold is
            raised for the number of pairs.
        liveness: called with each upright photo and its face before anything is compared; a sentence that it returns
            refuses the photo.
        integrity: finished when the integrity check of the model's files has succeeded; no embedding is returned
            before.
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        engine: Engine,
        detector: FaceDetector | None = None,
        *,
        on_multiple_faces: OnMultipleFaces = "error",
        liveness: Liveness | None = None,
        integrity: Future[None] | None = None,
    ) -> None:
        self.metadata = metadata
        self.on_multiple_faces = check_on_multiple_faces(on_multiple_faces)
        self.liveness = liveness
        self._engine = engine
        make = None if detector is None else (lambda: detector)
        self._finder = FaceFinder(make, name=metadata.input_spec.crop.detector)
        self._integrity = integrity

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        engine: Literal["auto", "onnx", "torch"] = "auto",
        device: str = "auto",
        threads: int | None = None,
        on_multiple_faces: OnMultipleFaces = "error",
        liveness: Liveness | None = None,
        trust_code: str | Collection[str] = (),
        encoder: Encoder | None = None,
        quick_start: bool = False,
    ) -> Verifier:
        """Load a verifier.

        Args:
            model: a pretrained name (`sface`, `casia-webface`, `vggface2`, `openface`), a bundle folder, a run folder
                or a checkpoint.
            engine: `onnx` imports no torch; `auto` is onnx for all but checkpoints, torch where an encoder is given.
            device: `cpu`, `cuda` or such as `cuda:1`, on which `auto` takes the engine torch; or `auto`: a GPU if the
                engine finds one, which onnx does by the package onnxruntime-gpu.
            threads: of ONNX Runtime; None for one per core.
            on_multiple_faces: see `Verifier`.
            liveness: see `Verifier`.
            trust_code: classes of others, such as `my_package.MyNet`, that the engine torch may import for the encoder
                of this model; onnx needs none.
            encoder: takes the weights, as a copy, on the engine torch, instead of one that is created.
            quick_start: of the engine onnx on the CPU, for a process that embeds a few faces: take the network as
                optimized for this machine, which the first start puts into the user's cache. Starts sooner, and is up
                to a tenth slower for a face.

        Raises:
            InputError: there is no such model, it is damaged, or its encoder on torch needs code that is not trusted.
        """
        from siamese_verify.models.verifier_parts import load_parts

        parts = load_parts(model, engine, device, threads, trust_code, encoder, quick_start)
        return cls(
            parts.metadata,
            parts.engine,
            parts.detector,
            on_multiple_faces=on_multiple_faces,
            liveness=liveness,
            integrity=parts.integrity,
        )

    @property
    def batch(self) -> int:
        """Faces that are best embedded together: more on a GPU."""
        return int(getattr(self._engine, "batch", BATCH))

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
            a: a path, the bytes of an image file, an (H,W,3) uint8 RGB array or a PIL image. OpenCV's arrays are BGR,
                which is not noticed: give `array[:, :, ::-1]`.
            b: likewise.
            far: false accept rate to operate at; by default the strictest that enough impostors were measured for.
            threshold: used instead of a measured one, in [-1, 1].
            prior: share of genuine pairs among those you ask about, in (0, 1); adds a probability to the answer.
            decide: answer yes or no where the result would be inconclusive.
            on_multiple_faces: overrides the verifier's own.

        Raises:
            NoDecision: a photo is unreadable, has no face, has multiple faces and `on_multiple_faces` is `error`, or
                was refused by the liveness hook.
            InputError: no threshold was measured for the model or for this rate, or a value is out of range or of a
                wrong type.
        """
        options = DecisionOptions(far=far, threshold=threshold, prior=prior, decide=decide)
        self.check(**options)  # before any photo is opened
        selection = check_on_multiple_faces(on_multiple_faces or self.on_multiple_faces)
        spent: tuple[dict[str, float], dict[str, float]] = ({}, {})

        def embedded(
            photo: Photo, name: str, milliseconds: dict[str, float]
        ) -> tuple[list[DetectedFace], NDArray[np.float32]]:
            faces = self._find(photo, name, selection, milliseconds)
            with timed(milliseconds, "embed"):
                return faces, self.embed_faces(faces)

        with ThreadPoolExecutor(2) as pool:  # decoding, detection and embedding release the GIL for most of their time
            names = (_photo_name(a, "photo 1"), _photo_name(b, "photo 2"))
            both = [pool.submit(embedded, *one) for one in zip((a, b), names, spent, strict=True)]
        for one in both:
            if (wrong := one.exception()) and not isinstance(wrong, NoDecision):
                raise wrong
        errors = [error for one in both if isinstance(error := one.exception(), NoDecision)]
        if len(errors) > 1:
            raise NoDecision(" ".join(dict.fromkeys(map(str, errors))), errors[0].reason)
        (left, left_rows), (right, right_rows) = (one.result() for one in both)
        milliseconds = {stage: max(one.get(stage, 0.0) for one in spent) for stage in {**spent[0], **spent[1]}}
        return self.compare(left, left_rows, right, right_rows, milliseconds=milliseconds, **options)

    def check(self, **options: Unpack[DecisionOptions]) -> None:
        """Check that decisions can be made with these options, before any photo is opened.

        Raises:
            InputError: see `siamese_verify.verification.decision.decide`.
        """
        check_options(self.metadata, **options)

    def find(
        self,
        photo: Photo,
        name: str | None = None,
        on_multiple_faces: OnMultipleFaces | None = None,
        *,
        opened: bool = False,
    ) -> list[DetectedFace]:
        """Find and align the face of a photo; models without a detector (`whole`, `center` crops) use the photo itself.

        Args:
            photo: see `verify`.
            name: of the photo; by default its path.
            on_multiple_faces: overrides the verifier's own.
            opened: the photo is a result of `open_photo`, and is not copied.

        Returns:
            One face, or all of them for `any`, the most probable first.

        Raises:
            NoDecision: see `verify`.
        """
        selection = check_on_multiple_faces(on_multiple_faces or self.on_multiple_faces)
        return self._find(photo, name or _photo_name(photo, "the photo"), selection, {}, opened)

    def _find(
        self,
        photo: Photo,
        name: str,
        on_multiple_faces: OnMultipleFaces,
        milliseconds: dict[str, float],
        opened: bool = False,
    ) -> list[DetectedFace]:
        self._refuse_photos()
        try:
            with timed(milliseconds, "read"):
                image = photo if opened and isinstance(photo, Image.Image) else open_photo(photo, name)
        except NotAPhoto:
            raise
        except InputError as error:
            raise NoDecision(str(error), "unreadable_photo") from None
        selected: Sequence[SelectedFace | None] = [None]
        detected = 1
        if self.metadata.input_spec.crop.needs_face:
            with timed(milliseconds, "detect"):
                found = self._finder.find(image, on_multiple_faces)
            raise_failure(found, name)
            selected, detected = found
        with timed(milliseconds, "align"):
            faces = [self._align(image, name, one, detected) for one in selected]
        if self.liveness:
            with timed(milliseconds, "liveness"):
                for aligned in faces:
                    self._check_liveness(self.liveness, image, aligned)
        return faces

    def _align(self, image: Image.Image, name: str, selected: SelectedFace | None, detected: int) -> DetectedFace:
        aligned = align_face(image, self.metadata.input_spec, selected)
        box, probability, landmarks = aligned.face or (None, None, None)
        crop, quality = np.asarray(aligned.crop), aligned.quality
        return DetectedFace(name, crop, quality, box, landmarks, probability, aligned.rotated_by, detected)

    def _check_liveness(self, liveness: Liveness, image: Image.Image, face: DetectedFace) -> None:
        """Call the liveness hook with an upright photo and its face, in pixels of that photo."""
        shown, scale = face, reduced(image)
        if face.box and face.landmarks and scale != 1:
            placed = Face(face.box, 1.0, face.landmarks).scaled(1 / scale)
            shown = replace(face, box=placed.box, landmarks=placed.landmarks)
        refusal = liveness(rotate_photo(image, face.rotated_by), shown)
        if refusal is not None and not (isinstance(refusal, str) and refusal):
            raise InputError(f"The liveness hook must return None or a sentence that refuses, got {refusal!r}.")
        if refusal:
            raise NoDecision(f"{face.name} was refused: {refusal}", "refused")

    def embed_faces(self, faces: Sequence[DetectedFace]) -> NDArray[np.float32]:
        """Embed faces that `find` returned; (N,D) float32 of unit length."""
        size = self.metadata.input_spec.size
        crops = np.stack([face.crop for face in faces]) if faces else np.empty((0, size, size, 3), dtype=np.uint8)
        return self.embed_crops(crops)

    def embed_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed faces that were aligned for this model.

        Args:
            crops: (N,S,S,3) uint8 RGB.

        Returns:
            (N,D) float32 of unit length.

        Raises:
            InputError: crops of another shape or type.
        """
        size = self.metadata.input_spec.size
        self._refuse_photos()
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
            raise InputError(
                f"This model takes uint8 crops of shape (N, {size}, {size}, 3), got {crops.dtype} {crops.shape}."
            )
        return self._embed(crops)

    def embed_arrays(self, arrays: NDArray[Any]) -> NDArray[np.float32]:
        """Embed what is no photo, by a model that was trained on arrays.

        Args:
            arrays: (N,*shape) of `metadata.input_spec`, of its dtype or one that converts to it without loss of kind.

        Returns:
            (N,D) float32 of unit length. The cosine of two is a score for `decide`.

        Raises:
            InputError: a model of photos, or arrays of another shape or kind.
        """
        spec = self.metadata.input_spec
        if spec.is_photo:
            raise InputError("This model takes photos: use embed, or embed_crops for aligned faces.")
        if arrays.shape[1:] != spec.shape or not np.can_cast(arrays.dtype, spec.dtype, "same_kind"):
            raise InputError(
                f"This model takes arrays of {spec.dtype} and shape (N, {', '.join(map(str, spec.shape))}), got "
                f"{arrays.dtype} {arrays.shape}."
            )
        return self._embed(arrays)

    def _embed(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        embeddings = embed_crops(self._engine, inputs, self.metadata.embedding_size)
        if self._integrity:
            self._integrity.result()
        return embeddings

    def _refuse_photos(self) -> None:
        """Raise InputError if the model takes arrays."""
        if not (spec := self.metadata.input_spec).is_photo:
            raise InputError(f"This model takes arrays of shape {spec.shape}, not photos: use embed_arrays.")

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
            on_error: `raise` the error of a photo without an embedding, or `skip` the photo.

        Returns:
            (N,D) float32 of unit length; with `skip` an `Embedded`.

        Raises:
            NoDecision: see `verify`; `any` means `error` here. Never with `skip`.
            InputError: an invalid `on_error`.
        """
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        if isinstance(photos, str | bytes | Path):
            raise InputError(f"embed takes a list of photos, got one {type(photos).__name__}: write [photo].")
        if not hasattr(photos, "__getitem__"):
            raise InputError(f"embed takes a list of photos, got a {type(photos).__name__}: write list(photos).")
        selection: OnMultipleFaces = "error" if self.on_multiple_faces == "any" else self.on_multiple_faces
        parts = [self.embed_faces([])]
        rows: list[int] = []
        errors: dict[int, NoDecision] = {}
        for start in range(0, len(photos), CHUNK):
            faces = []
            for row, photo in enumerate(photos[start : start + CHUNK], start):
                try:
                    faces += self._find(photo, _photo_name(photo, f"photo {row + 1}"), selection, {})
                    rows.append(row)
                except NoDecision as error:
                    if on_error == "raise":
                        raise
                    errors[row] = error
            parts.append(self.embed_faces(faces))
        embeddings = np.concatenate(parts)
        return embeddings if on_error == "raise" else Embedded(embeddings, np.array(rows, dtype=np.int64), errors)

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
        """Decide by a score of this model, see `siamese_verify.verification.decision.decide`."""
        return decision.decide(
            self.metadata, score, faces, comparisons=comparisons, milliseconds=milliseconds, **options
        )


def _photo_name(photo: Photo, fallback: str) -> str:
    """Path of a photo, or a name for one without."""
    return str(photo) if isinstance(photo, str | Path) else fallback


def raise_failure(found: FaceSearch, name: str) -> None:
    """Raise the failure to acquire of a photo, if there is one.

    Raises:
        NoDecision: no face was selected.
    """
    if found.failure == "no_face":
        raise NoDecision(f"No face was found on {name}: use a photo that shows one from the front.", "no_face")
    if found.failure:
        sentence = f"{found.detected} faces were found on {name}: crop it to the one that is meant."
        raise NoDecision(sentence, "multiple_faces")


@contextmanager
def timed(milliseconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of a block to its stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        milliseconds[stage] = milliseconds.get(stage, 0.0) + (time.perf_counter() - start) * 1000
