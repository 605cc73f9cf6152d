"""A verifier for many requests at a time."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.serving.declared_size import declared_pixels
from siamese_verify.serving.micro_batcher import Full, MicroBatcher
from siamese_verify.serving.problem import Problem, busy, gone
from siamese_verify.serving.sent_photo import decode_photo
from siamese_verify.serving.workers import Workers
from siamese_verify.verification.decision import best_pair
from siamese_verify.verification.result import NoDecision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.serving.metrics import Metrics
    from siamese_verify.serving.settings import Settings
    from siamese_verify.verification import SeenFace, Verification, Verifier
    from siamese_verify.verification.verifier import Several

T = TypeVar("T")
EXPLAINED = 8  # crops of an explanation that are embedded together: others do not wait long
LITTLE = 100_000  # pixels: what anything costs
# A verifier says why it cannot decide in a sentence only; a test holds these to its own.


class Waiting:
    """Embeds crops through a `MicroBatcher`, as an explanation wants them embedded."""

    def __init__(self, batcher: MicroBatcher) -> None:
        self.batcher = batcher

    def embed_crops(self, crops: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """(N,S,S,3) -> (N,D)."""
        return self.batcher.submit(crops).result()


class Seen(NamedTuple):
    """What was found on a photo, and the milliseconds it took."""

    faces: list[SeenFace]
    read: float
    detect: float


class FaceEngine:
    """Decodes and looks for faces in a few threads, and embeds the faces of all requests together in one.

    Args:
        verifier: of one model.
        settings: of the server.
        metrics: count what is done.
    """

    def __init__(self, verifier: Verifier, settings: Settings, metrics: Metrics) -> None:
        self.verifier, self.settings = verifier, settings
        self._threads = Workers(settings.workers, "looks-for-faces")
        self._explaining = Workers(1, "explains")  # seconds each: apart from those who look for faces
        self._batcher = MicroBatcher(
            verifier.embed_crops,
            settings.batch,
            settings.batch_milliseconds / 1000,
            settings.in_flight * 2,
            metrics.batch,
        )

    async def in_thread(self, work: Callable[[], T], pixels: int = LITTLE) -> T:
        """Do something in one of the threads; if the caller is cancelled before it began, it never begins.

        Args:
            work: likewise.
            pixels: that it looks at, as a measure of how long it takes.
        """
        return await asyncio.wrap_future(self._threads.submit(work, pixels))

    async def see(self, photos: Sequence[tuple[str, bytes]], several: Several | None) -> list[Seen]:
        """Find the faces of photos, each (name, bytes of a file); one face each unless `several` is `any`.

        Raises:
            Problem: one is unreadable, or does not allow a decision.
        """
        stop = threading.Event()
        work = [
            self.in_thread(partial(self._see, name, data, several, stop), LITTLE + (declared_pixels(data) or 0))
            for name, data in photos
        ]
        try:
            return await gathered(work)
        finally:
            stop.set()  # the client has gone, another photo failed, or it took too long

    def _see(self, name: str, content: bytes, several: Several | None, stop: threading.Event) -> Seen:
        began = time.perf_counter()
        photo = decode_photo(content, name, self.settings.photo_pixels)
        read = time.perf_counter()
        if stop.is_set():
            raise gone()
        try:
            faces = self.verifier.find(photo, f"photo {name}", several, opened=True)
        except NoDecision as error:
            raise Problem(422, error.reason, str(error), photo=name) from None
        return Seen(faces, 1000 * (read - began), 1000 * (time.perf_counter() - read))

    async def embed(self, faces: Sequence[SeenFace]) -> NDArray[np.float32]:
        """Embed faces, together with those of other requests.

        Returns:
            (N,D) float32 of unit length.

        Raises:
            Problem: 503, too many wait.
        """
        try:
            waiting = self._batcher.submit(np.stack([face.crop for face in faces]))
        except Full:
            raise busy() from None
        return await asyncio.wrap_future(waiting)

    async def verify(
        self,
        photos: Sequence[tuple[str, bytes]],
        *,
        far: float | None,
        threshold: float | None,
        prior: float | None,
        decide: bool,
        several: Several | None,
        decoded: Callable[[], None] = lambda: None,
    ) -> Verification:
        """Decide about two photos.

        Args:
            photos: two, each (name, bytes of a file).
            far: see `Verifier.verify`.
            threshold: likewise.
            prior: likewise.
            decide: likewise.
            several: likewise.
            decoded: is told once the bytes are not needed any more.

        Returns:
            The decision, with the face of either photo that it is about.

        Raises:
            Problem: a photo does not allow one, or a value cannot be used.
        """
        self._decide(
            0.0, (), far, threshold, prior, decide, 1, None
        )  # a wrong rate is said before any photo is decoded
        first, second = await self.see(photos, several)
        decoded()
        if len(first.faces) + len(second.faces) > self.settings.faces:
            shown, most = f"{len(first.faces)} and {len(second.faces)} faces", self.settings.faces
            detail = f"The photos show {shown}, more than {most} together: crop them, or choose largest or central."
            raise Problem(422, "several_faces", detail)
        began = time.perf_counter()
        rows = await self.embed([*first.faces, *second.faces])
        embedding = 1000 * (time.perf_counter() - began)
        a, b, score = best_pair(rows[: len(first.faces)], rows[len(first.faces) :])
        pair = (first.faces[a], second.faces[b])
        milliseconds = {
            "read": max(first.read, second.read),  # of both at a time
            "detect": max(first.detect, second.detect),
            "embed": embedding,  # with the wait for a batch
        }
        comparisons = len(first.faces) * len(second.faces)
        return self._decide(score, pair, far, threshold, prior, decide, comparisons, milliseconds)

    def _decide(
        self,
        score: float,
        faces: Sequence[SeenFace],
        far: float | None,
        threshold: float | None,
        prior: float | None,
        decide: bool,
        comparisons: int,
        milliseconds: dict[str, float] | None,
    ) -> Verification:
        try:
            return self.verifier.decide(
                score,
                faces,
                far=far,
                threshold=threshold,
                prior=prior,
                decide=decide,
                comparisons=comparisons,
                milliseconds=milliseconds,
            )
        except InputError as error:
            raise Problem(422, "invalid_field", str(error)) from None

    async def explain(self, left: SeenFace, right: SeenFace) -> list[NDArray[np.uint8]]:
        """Draw which parts of two faces carry their similarity.

        Hundreds of crops are embedded for it, some at a time among those of other requests.

        Returns:
            For either face, (S,S,3) uint8 RGB.

        Raises:
            Problem: 503, too many wait.
        """
        stop = threading.Event()
        try:
            return await asyncio.wrap_future(self._explaining.submit(partial(self._explain, left, right, stop)))
        finally:
            stop.set()  # the client has gone, or it took too long

    def _explain(self, left: SeenFace, right: SeenFace, stop: threading.Event) -> list[NDArray[np.uint8]]:
        from siamese_verify.verification.explanation import explain, heat

        def advance(done: int, total: int) -> None:
            if stop.is_set():
                raise gone()

        try:
            found = explain(Waiting(self._batcher), left, right, batch=EXPLAINED, advance=advance)
        except Full:
            raise busy() from None
        except InputError as error:  # the crop is too small for its cells
            raise Problem(422, "invalid_field", str(error)) from None
        return [heat(face.crop, values, found.range) for face, values in ((left, found.left), (right, found.right))]

    def warm(self) -> None:
        """Load what is loaded at first use, and find damage, before anybody waits.

        Raises:
            InputError: the model's weights are damaged.
        """
        spec = self.verifier.record.input_spec
        content = io.BytesIO()
        Image.new("RGB", (64, 64)).save(content, "PNG")
        picture = decode_photo(content.getvalue(), "1", self.settings.photo_pixels)
        if spec.crop.needs_face:
            with suppress(InputError):  # there is no face on it
                self.verifier.find(picture)
        self.verifier.embed_crops(np.zeros((1, spec.size, spec.size, 3), dtype=np.uint8))

    @property
    def stuck(self) -> bool:
        """Nothing can be answered: every worker, or the encoder, has been at one piece of work for too long."""
        seconds = self.settings.answer_seconds
        return self._threads.stuck(seconds) or self._batcher.stuck(seconds)

    def close(self, seconds: float = 1.0) -> bool:
        """Begin nothing more, and end the threads; may be called again.

        Args:
            seconds: to wait for what was begun.

        Returns:
            Whether they ended.
        """
        end = time.monotonic() + seconds
        pools = (self._explaining, self._threads)
        ended = [pool.close(end - time.monotonic()) for pool in pools]
        return all(ended) and self._batcher.close(max(0.0, end - time.monotonic()))


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all; if one fails or the caller is cancelled, cancel the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
