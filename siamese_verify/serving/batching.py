"""Threads that clients share fairly, for work that may take too long: it cannot be ended, but it is known."""

from __future__ import annotations

import asyncio
import heapq
import io
import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.errors import InputError
from siamese_verify.faces.image_headers import declared_pixels
from siamese_verify.serving.problems import Problem, busy, gone
from siamese_verify.serving.uploads import decode_photo
from siamese_verify.verification.decision import NoDecision, best_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from siamese_verify.serving.metrics import Metrics
    from siamese_verify.serving.settings import Settings
    from siamese_verify.verification import DetectedFace, Verification, Verifier
    from siamese_verify.verification.verifier import OnMultipleFaces

T = TypeVar("T")
CLIENT: ContextVar[str] = ContextVar("CLIENT", default="")  # whose request is answered
MOST_CLIENTS = 1000  # remembered, unless more of them wait


class Workers:
    """A pool of threads whose next piece of work is that of the client that had least.

    Start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996): each piece of work is tagged with the work that its
    client was given before, and the smallest tag is next. Whoever asks rarely waits for what runs, not for what waits.

    Args:
        count: of threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []  # a heap: tag, order
        self._order = itertools.count()
        self._now = 0.0  # tag of what was begun last
        self._ends: dict[str, float] = {}  # client -> tag of what it asks for next
        self._began: dict[int, float] = {}  # thread -> when it began what it does
        self._closed = False
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, work: Callable[[], T], weight: float = 1.0) -> Future[T]:
        """Do something for `CLIENT` in one of the threads.

        Args:
            work: likewise; if its future is cancelled in time, it is never begun.
            weight: how long it takes, in any unit.

        Raises:
            RuntimeError: it is closed.
        """
        future: Future[T] = Future()
        client = CLIENT.get()
        with self._changed:
            if self._closed:
                raise RuntimeError("These Workers are closed.")
            if not self._waiting and not self._began:
                self._ends.clear()  # nobody is owed anything
            tag = max(self._now, self._ends.get(client, 0.0))
            if len(self._ends) > MOST_CLIENTS:
                self._ends = {known: end for known, end in self._ends.items() if end > self._now}
            self._ends[client] = tag + weight
            heapq.heappush(self._waiting, (tag, next(self._order), future, work))
            self._changed.notify()
        return future

    def stuck(self, seconds: float) -> bool:
        """Say whether every thread has been at one piece of work for longer."""
        with self._changed:
            return sum(time.monotonic() - began > seconds for began in self._began.values()) == self.count

    def close(self, seconds: float) -> bool:
        """Begin nothing more.

        Args:
            seconds: to wait for what was begun.

        Returns:
            Whether that ended.
        """
        with self._changed:
            self._closed = True
            for _, _, future, _ in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._began, max(0.0, seconds))

    def _run(self) -> None:
        thread = threading.get_ident()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._now, _, future, work = heapq.heappop(self._waiting)
                if not future.set_running_or_notify_cancel():
                    continue
                self._began[thread] = time.monotonic()
            try:
                result = work()
            except BaseException as error:
                release_locals(error)
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            finally:
                del future, work  # an idle thread keeps no photo
                with self._changed:
                    del self._began[thread]
                    self._changed.notify_all()


def release_locals(error: BaseException) -> None:
    """Clear the local variables of an exception's frames, which would keep photos until the garbage collector runs."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__context__


Rows = NDArray[np.float32]
Crops = NDArray[np.uint8]


class Full(Exception):
    """More faces wait than may."""


class Job(NamedTuple):
    """Faces of one request."""

    crops: Crops  # (n,S,S,3)
    done: Future[Rows]  # (n,D)
    since: float


class MicroBatcher:
    """Embeds the crops of all requests that wait, as one batch.

    A request's result does not depend on its neighbours, up to the rounding of sums in another order. If a batch fails,
    its requests are embedded one by one, so that only those fail that would have failed alone.

    Args:
        embed: (N,S,S,3) uint8 crops to (N,D) float32 rows; only one thread calls it.
        most: crops in a batch; a request with more of them makes several.
        seconds: that the first request waits for others.
        waiting: requests that may wait.
        observe: is told the number of crops and the seconds of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Crops], Rows],
        most: int = 32,
        seconds: float = 0.002,
        waiting: int = 256,
        observe: Callable[[int, float], None] = lambda crops, seconds: None,
    ) -> None:
        self.embed, self.most, self.seconds, self.observe = embed, most, seconds, observe
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._waiting = waiting
        self._closed = False
        self._began: float | None = None  # the batch that is embedded now
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="embeds-faces", daemon=True)
        self._thread.start()

    def submit(self, crops: Crops) -> Future[Rows]:
        """Embed crops soon.

        Args:
            crops: (n,S,S,3) uint8.

        Returns:
            A future of (n,D) float32; one that is cancelled in time is never embedded.

        Raises:
            Full: too many wait already.
            RuntimeError: it is closed.
        """
        job = Job(crops, Future(), time.monotonic())
        with self._lock:
            if self._closed:
                raise RuntimeError("This MicroBatcher is closed.")
            if self._queue.qsize() >= self._waiting:
                raise Full
            self._queue.put(job)
        return job.done

    def stuck(self, seconds: float) -> bool:
        """Say whether one batch has been embedded for longer."""
        began = self._began
        return began is not None and time.monotonic() - began > seconds

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits, then end the thread; may be called again.

        Args:
            seconds: to wait for the end; None for as long as it takes.

        Returns:
            Whether it ended.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ahead: Job | None = None  # taken from the queue, too large for the batch it was taken for
        while True:
            first = ahead or self._queue.get()
            if first is None:
                return
            jobs, size, ahead = [first], len(first.crops), None
            end = False
            while size < self.most:
                try:
                    job = self._queue.get(timeout=max(0.0, first.since + self.seconds - time.monotonic()))
                except queue.Empty:
                    break
                if job is None:
                    end = True
                    break
                if size + len(job.crops) > self.most:
                    ahead = job
                    break
                jobs.append(job)
                size += len(job.crops)
            self._answer([job for job in jobs if job.done.set_running_or_notify_cancel()])
            if end:
                return

    def _answer(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            rows = self._embedded(np.concatenate([job.crops for job in jobs]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        start = 0
        for job in jobs:
            job.done.set_result(rows[start : start + len(job.crops)].copy())  # none keeps its neighbours' faces alive
            start += len(job.crops)

    def _embedded(self, crops: Crops) -> Rows:
        parts: list[Any] = []
        for start in range(0, len(crops), self.most):
            self._began = began = time.monotonic()
            part = crops[start : start + self.most]
            try:
                parts.append(self.embed(part))
            finally:
                self._began = None
            self.observe(len(part), time.monotonic() - began)
        return np.concatenate(parts) if parts else self.embed(crops)


T_face_engine = TypeVar("T_face_engine")
EXPLAINED = 8  # crops of an explanation that are embedded together: others do not wait long
LITTLE = 100_000  # pixels: what anything costs
# A verifier says why it cannot decide in a sentence only; a test holds these to its own.


class Seen(NamedTuple):
    """What was found on a photo, and the milliseconds it took."""

    faces: list[DetectedFace]
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

    async def in_thread(self, work: Callable[[], T_face_engine], pixels: int = LITTLE) -> T_face_engine:
        """Do something in one of the threads; if the caller is cancelled before it began, it never begins.

        Args:
            work: likewise.
            pixels: that it looks at, as a measure of how long it takes.
        """
        return await asyncio.wrap_future(self._threads.submit(work, pixels))

    async def see(self, photos: Sequence[tuple[str, bytes]], on_multiple_faces: OnMultipleFaces | None) -> list[Seen]:
        """Find the faces of photos, each (name, bytes of a file); one face each unless `on_multiple_faces` is `any`.

        Raises:
            Problem: one is unreadable, or does not allow a decision.
        """
        stop = threading.Event()
        work = [
            self.in_thread(
                partial(self._see, name, data, on_multiple_faces, stop), LITTLE + (declared_pixels(data) or 0)
            )
            for name, data in photos
        ]
        try:
            return await gathered(work)
        finally:
            stop.set()  # the client has gone, another photo failed, or it took too long

    def _see(self, name: str, content: bytes, on_multiple_faces: OnMultipleFaces | None, stop: threading.Event) -> Seen:
        began = time.perf_counter()
        photo = decode_photo(content, name, self.settings.photo_pixels)
        read = time.perf_counter()
        if stop.is_set():
            raise gone()
        try:
            faces = self.verifier.find(photo, f"photo {name}", on_multiple_faces, opened=True)
        except NoDecision as error:
            raise Problem(422, error.reason, str(error), photo=name) from None
        return Seen(faces, 1000 * (read - began), 1000 * (time.perf_counter() - read))

    async def embed(self, faces: Sequence[DetectedFace]) -> NDArray[np.float32]:
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
        on_multiple_faces: OnMultipleFaces | None,
        decoded: Callable[[], None] = lambda: None,
    ) -> Verification:
        """Decide about two photos.

        Args:
            photos: two, each (name, bytes of a file).
            far: see `Verifier.verify`.
            threshold: likewise.
            prior: likewise.
            decide: likewise.
            on_multiple_faces: likewise.
            decoded: is told once the bytes are not needed any more.

        Returns:
            The decision, with the face of either photo that it is about.

        Raises:
            Problem: a photo does not allow one, or a value cannot be used.
        """
        self._decide(
            0.0, (), far, threshold, prior, decide, 1, None
        )  # a wrong rate is said before any photo is decoded
        first, second = await self.see(photos, on_multiple_faces)
        decoded()
        if len(first.faces) + len(second.faces) > self.settings.faces:
            shown, most = f"{len(first.faces)} and {len(second.faces)} faces", self.settings.faces
            detail = f"The photos show {shown}, more than {most} together: crop them, or choose largest or central."
            raise Problem(422, "multiple_faces", detail)
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
        faces: Sequence[DetectedFace],
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

    async def explain(self, left: DetectedFace, right: DetectedFace) -> list[NDArray[np.uint8]]:
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

    def _explain(self, left: DetectedFace, right: DetectedFace, stop: threading.Event) -> list[NDArray[np.uint8]]:
        from siamese_verify.verification.explanation import explain, heat

        def advance(done: int, total: int) -> None:
            if stop.is_set():
                raise gone()

        try:
            found = explain(
                lambda crops: self._batcher.submit(crops).result(), left, right, batch=EXPLAINED, advance=advance
            )
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
        spec = self.verifier.metadata.input_spec
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


async def gathered(work: Sequence[Coroutine[Any, Any, T_face_engine]]) -> list[T_face_engine]:
    """Await all; if one fails or the caller is cancelled, cancel the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
