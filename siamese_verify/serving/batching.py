"""The verifier for many requests at a time: faces are detected in threads and embedded in batches across requests."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces.image_headers import declared_pixels
from siamese_verify.serving.fair_share import FairWorkers
from siamese_verify.serving.problems import Problem, busy, client_closed, input_errors_as_problems
from siamese_verify.serving.uploads import decode_photo
from siamese_verify.verification.decision import NoDecision

if TYPE_CHECKING:
    from siamese_verify.faces import OnMultipleFaces
    from siamese_verify.serving.service import Metrics
    from siamese_verify.serving.settings import Settings
    from siamese_verify.verification import DetectedFace, Verification, Verifier

T = TypeVar("T")
Embeddings = NDArray[np.float32]
Crops = NDArray[np.uint8]
BATCH = 32  # crops of many requests embedded together
EXPLANATION_BATCH = 8  # crops of an explanation embedded together, so that others do not wait long
MIN_PIXELS = 100_000  # cost of any work


class QueueFull(Exception):
    """Too many requests wait for their embeddings."""


class Job(NamedTuple):
    """Crops of one request."""

    crops: Crops  # (n,S,S,3)
    done: Future[Embeddings]  # (n,D)
    since: float


class MicroBatcher:
    """Embeds the crops of all waiting requests as one batch.

    The embeddings of a request do not depend on the others in its batch, up to rounding. If a batch fails, its requests
    are embedded one by one, so that only the one at fault fails.

    Args:
        embed: (N,S,S,3) uint8 crops to (N,D) float32 embeddings; called in one thread only.
        max_batch: crops of a batch; a request with more of them makes several.
        max_wait: seconds that the first request waits for others.
        max_jobs: requests that may wait.
        observe: called with the number of crops and the seconds of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Crops], Embeddings],
        max_batch: int = BATCH,
        max_wait: float = 0.002,
        max_jobs: int = 256,
        observe: Callable[[int, float], None] = lambda crops, seconds: None,
    ) -> None:
        self.embed, self.observe = embed, observe
        self.max_batch, self.max_wait, self.max_jobs = max_batch, max_wait, max_jobs
        self._jobs: deque[Job] = deque()
        self._crops = 0  # of all jobs that wait
        self._changed = threading.Condition()
        self._closed = False
        self._started: float | None = None  # start of the batch in progress
        self._thread = threading.Thread(target=self._run, name="embeds-faces", daemon=True)
        self._thread.start()

    def submit(self, crops: Crops) -> Future[Embeddings]:
        """Embed (n,S,S,3) crops; a future that is cancelled in time is never embedded.

        Raises:
            QueueFull: if `max_jobs` requests wait already.
        """
        job = Job(crops, Future(), time.monotonic())
        with self._changed:
            if self._closed:
                raise RuntimeError("This MicroBatcher is closed.")
            if len(self._jobs) >= self.max_jobs:
                raise QueueFull
            self._jobs.append(job)
            self._crops += len(crops)
            self._changed.notify()
        return job.done

    def stuck(self, seconds: float) -> bool:
        """Whether one batch has been in progress for longer than so many seconds."""
        started = self._started
        return started is not None and time.monotonic() - started > seconds

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits, wait for it (None: as long as it takes), and return whether it ended."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while jobs := self._next_batch():
            self._finish([job for job in jobs if job.done.set_running_or_notify_cancel()])
            del jobs

    def _next_batch(self) -> list[Job]:
        """Wait for jobs that fit into one batch; none once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return []
            remaining = self._jobs[0].since + self.max_wait - time.monotonic()
            self._changed.wait_for(lambda: self._crops >= self.max_batch or self._closed, max(0.0, remaining))
            jobs = [self._jobs.popleft()]
            size = len(jobs[0].crops)
            while self._jobs and size + len(self._jobs[0].crops) <= self.max_batch:
                jobs.append(self._jobs.popleft())
                size += len(jobs[-1].crops)
            self._crops -= size
            return jobs

    def _finish(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            embeddings = self._embed(np.concatenate([job.crops for job in jobs]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:
                self._finish([job])
            return
        start = 0
        for job in jobs:
            rows = embeddings[start : start + len(job.crops)]
            job.done.set_result(rows.copy())  # a view would keep the embeddings of other requests
            start += len(job.crops)

    def _embed(self, crops: Crops) -> Embeddings:
        parts = []
        for start in range(0, max(1, len(crops)), self.max_batch):
            self._started = started = time.monotonic()
            part = crops[start : start + self.max_batch]
            try:
                parts.append(self.embed(part))
            finally:
                self._started = None
            self.observe(len(part), time.monotonic() - started)
        return np.concatenate(parts)


class PhotoFaces(NamedTuple):
    """Faces detected on a photo, and the milliseconds of each stage."""

    faces: list[DetectedFace]
    milliseconds: dict[str, float]


class FaceEngine:
    """Runs a verifier for many requests at a time.

    Args:
        verifier: finds, embeds and decides.
        settings: of the server.
        metrics: count the batches.
    """

    def __init__(self, verifier: Verifier, settings: Settings, metrics: Metrics) -> None:
        self.verifier, self.settings = verifier, settings
        self._workers = FairWorkers(settings.workers, "detects-faces")
        self._explainer = FairWorkers(1, "explains")  # it takes seconds: detection does not wait for it
        self._batcher = MicroBatcher(
            verifier.embed_crops,
            settings.batch or max(BATCH, verifier.batch),
            settings.batch_milliseconds / 1000,
            settings.in_flight * 2,
            metrics.observe_batch,
        )

    async def in_thread(self, work: Callable[[], T], pixels: int = MIN_PIXELS) -> T:
        """Run work in a worker thread, never if the caller is cancelled before it starts.

        Args:
            work: what to run.
            pixels: that it processes, which predict how long it takes.
        """
        return await asyncio.wrap_future(self._workers.submit(work, pixels))

    async def find(
        self, photos: Sequence[tuple[str, bytes]], on_multiple_faces: OnMultipleFaces | None
    ) -> list[PhotoFaces]:
        """Detect the faces of photos, each (name, bytes of a file): one of each unless `on_multiple_faces` is `any`.

        Raises:
            Problem: if one is unreadable or allows no decision.
        """
        stop = threading.Event()
        work = [
            self.in_thread(
                partial(self._find, name, content, on_multiple_faces, stop),
                MIN_PIXELS + (declared_pixels(content) or 0),
            )
            for name, content in photos
        ]
        try:
            return await gather(work)
        finally:
            stop.set()  # the client has disconnected, another photo failed, or it took too long

    def _find(
        self, name: str, content: bytes, on_multiple_faces: OnMultipleFaces | None, stop: threading.Event
    ) -> PhotoFaces:
        start = time.perf_counter()
        photo = decode_photo(content, name, self.settings.photo_pixels)
        decoded = time.perf_counter()
        if stop.is_set():
            raise client_closed()
        try:
            faces = self.verifier.find(photo, f"photo {name}", on_multiple_faces, opened=True)
        except NoDecision as error:
            raise Problem(422, error.reason, str(error), photo=name) from None
        detected = time.perf_counter()
        return PhotoFaces(faces, {"read": 1000 * (decoded - start), "detect": 1000 * (detected - decoded)})

    async def embed(self, faces: Sequence[DetectedFace]) -> Embeddings:
        """Embed N faces together with those of other requests, as (N,D) unit vectors.

        Raises:
            Problem: 503 if too many wait.
        """
        try:
            waiting = self._batcher.submit(np.stack([face.crop for face in faces]))
        except QueueFull:
            raise busy() from None
        return await asyncio.wrap_future(waiting)

    async def verify(
        self, pairs: Sequence[tuple[PhotoFaces, PhotoFaces]], compare: Callable[..., Verification]
    ) -> list[Verification]:
        """Decide about pairs of photos whose faces are embedded together; the best pair of faces counts.

        Args:
            pairs: faces of both photos of each pair.
            compare: `Verifier.compare` with the threshold and prior of the request.

        Raises:
            Problem: if there are too many faces, or too many requests wait.
        """
        if not pairs:
            return []
        photos = {id(photo): photo for pair in pairs for photo in pair}
        counts = [len(photo.faces) for photo in photos.values()]
        if len(pairs) == 1 and sum(counts) > self.settings.faces:
            shown = f"The photos show {' and '.join(map(str, counts))} faces, more than {self.settings.faces} together"
            raise Problem(422, "multiple_faces", f"{shown}: crop them, or choose largest or central.")
        start = time.perf_counter()
        embeddings = await self.embed([face for photo in photos.values() for face in photo.faces])
        spent = {"embed": 1000 * (time.perf_counter() - start)}  # with the wait for a batch
        rows = dict(zip(photos, np.split(embeddings, np.cumsum(counts)[:-1]), strict=True))
        results = []
        for a, b in pairs:
            milliseconds = {stage: max(taken, b.milliseconds[stage]) for stage, taken in a.milliseconds.items()} | spent
            results.append(compare(a.faces, rows[id(a)], b.faces, rows[id(b)], milliseconds=milliseconds))
        return results

    async def explain(self, left: DetectedFace, right: DetectedFace) -> list[NDArray[np.uint8]]:
        """Pictures of where the similarity of two faces comes from, (S,S,3) uint8 for each.

        Hundreds of crops are embedded for them, a few at a time among those of other requests.

        Raises:
            Problem: 503 if too many wait.
        """
        stop = threading.Event()
        try:
            return await asyncio.wrap_future(self._explainer.submit(partial(self._explain, left, right, stop)))
        finally:
            stop.set()  # the client has disconnected, or it took too long

    def _explain(self, left: DetectedFace, right: DetectedFace, stop: threading.Event) -> list[NDArray[np.uint8]]:
        from siamese_verify.verification.explanation import explain, heat

        def embed(crops: Crops) -> Embeddings:
            return self._batcher.submit(crops).result()

        def advance(done: int, total: int) -> None:
            if stop.is_set():
                raise client_closed()

        try:
            with input_errors_as_problems():  # the crop is too small for its cells
                found = explain(embed, left, right, batch=EXPLANATION_BATCH, advance=advance)
        except QueueFull:
            raise busy() from None
        return [heat(face.crop, values, found.range) for face, values in ((left, found.left), (right, found.right))]

    def warm_up(self) -> None:
        """Load what is loaded at first use, so that the first request does not wait for it.

        Raises:
            InputError: if the model's files are damaged.
        """
        spec = self.verifier.metadata.input_spec
        content = io.BytesIO()
        Image.new("RGB", (64, 64)).save(content, "PNG")
        photo = decode_photo(content.getvalue(), "1", self.settings.photo_pixels)
        if spec.crop.needs_face:
            with suppress(InputError):  # no face is found on it
                self.verifier.find(photo)
        self.verifier.embed_crops(np.zeros((1, spec.size, spec.size, 3), dtype=np.uint8))

    @property
    def stuck(self) -> bool:
        """Whether nothing can be answered: all workers, or the encoder, have worked on one thing for too long."""
        seconds = self.settings.answer_seconds
        return self._workers.stuck(seconds) or self._batcher.stuck(seconds)

    def close(self, seconds: float = 1.0) -> bool:
        """End the threads, wait at most so many seconds for work in progress, and return whether it ended."""
        end = time.monotonic() + seconds
        ended = [pool.close(end - time.monotonic()) for pool in (self._explainer, self._workers)]
        return all(ended) and self._batcher.close(max(0.0, end - time.monotonic()))


async def gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all; if one fails or the caller is cancelled, cancel the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
