"""What every route does with a request: read its form, answer in time, stop when the client has gone."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import math
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starlette.requests import ClientDisconnect

from siamese_verify.faces.image_headers import declared_pixels
from siamese_verify.serving.admission import Admission, Held
from siamese_verify.serving.batching import CLIENT
from siamese_verify.serving.problems import Problem, gone, not_ready
from siamese_verify.serving.uploads import Form, malformed, read_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request

    from siamese_verify.serving.batching import FaceEngine
    from siamese_verify.serving.metrics import Metrics
    from siamese_verify.serving.people import People
    from siamese_verify.serving.settings import Settings
    from siamese_verify.verification import DetectedFace
    from siamese_verify.verification.verifier import OnMultipleFaces

T = TypeVar("T")


@dataclass
class Service:
    """What the routes share."""

    settings: Settings
    engine: FaceEngine
    admission: Admission
    metrics: Metrics
    gallery: People | None
    key_needed: bool
    liveness: bool

    async def answer(
        self,
        request: Request,
        photos: dict[str, int],
        fields: Collection[str],
        work: Callable[[Form, Held], Coroutine[Any, Any, T]],
    ) -> T:
        """Read a form and answer it.

        Args:
            request: with a form.
            photos: names of its photos, and how many of each there may be; each has to be there.
            fields: names of its fields.
            work: makes the answer; it may release the body once it is not needed.

        Raises:
            Problem: the form cannot be used, there are too many requests, or it took too long.
        """
        settings, client, held = self.settings, asking(request), None
        CLIENT.set(client)
        if self.engine.stuck:
            raise not_ready()
        try:
            with self.admission.upload(client) as held:
                form = await read_form(
                    request.stream(),
                    content_type=request.headers.get("content-type", ""),
                    content_length=request.headers.get("content-length"),
                    photos=photos,
                    fields=fields,
                    photo_bytes=settings.photo_bytes,
                    body_bytes=settings.request_bytes(sum(photos.values())),
                    seconds=settings.body_seconds,
                    stall_seconds=settings.stall_seconds,
                    rate=settings.body_rate,
                    count=held.add,
                )
            for name in photos:
                if name not in form.photos:
                    raise malformed(f"the photo {name} is missing")
            with self.admission.answer(client, self.weight(form)):
                return await self._in_time(request, work(form, held))
        except ClientDisconnect:
            raise gone() from None
        finally:
            if held is not None:
                held.release()

    def weight(self, form: Form) -> int:
        """Pixels of a form's photos, by their heads; what has too many is refused unseen, and weighs nothing."""
        most, total = self.settings.photo_pixels, 0
        for photo in itertools.chain(*form.photos.values()):
            pixels = declared_pixels(photo)
            total += most if pixels is None else pixels if pixels <= most else 0
        return total

    async def faces(self, form: Form, name: str, held: Held) -> tuple[list[DetectedFace], dict[str, float]]:
        """Find the one face of each photo of a form, and let go of the form's bytes.

        Args:
            form: with a field `on_multiple_faces`, perhaps.
            name: of its photos.
            held: is released.

        Returns:
            The faces in the order of the photos, and milliseconds by stage.

        Raises:
            Problem: a photo is unreadable or does not show one face, or there is no such policy.
        """
        on_multiple_faces = one_face(form)
        photos = [(str(row), content) for row, content in enumerate(form.photos.pop(name), 1)]
        seen = await self.engine.see(photos, on_multiple_faces)
        photos.clear()
        held.release()
        spent = {"read": max(one.read for one in seen), "detect": max(one.detect for one in seen)}
        return [one.faces[0] for one in seen], spent

    def measure(self) -> None:
        """Tell the gauges how much is in flight."""
        self.metrics.in_flight.set(self.admission.in_flight.held)
        self.metrics.uploads.set(self.admission.uploads.held)
        self.metrics.body_bytes.set(self.admission.bytes.held)
        self.metrics.pixels.set(self.admission.pixels.held)

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Await an answer; give up when it takes too long or nobody waits for it."""
        task = asyncio.ensure_future(work)
        left = asyncio.ensure_future(disconnected(request))
        try:
            async with asyncio.timeout(self.settings.answer_seconds):
                await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            detail = f"The answer took more than {self.settings.answer_seconds:g} s: try again later."
            raise Problem(503, "timeout", detail, retry=5) from None
        finally:
            left.cancel()
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled():
            raise gone()
        return task.result()


def asking(request: Request) -> str:
    """Whose share a request takes: that of a key or of an address, as `Guard` found it."""
    return str(request.scope["state"]["client"])


async def disconnected(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def number(form: Form, name: str) -> float | None:
    """Read a field that is a number, None where it is missing or empty.

    Raises:
        Problem: it is none.
    """
    text = form.fields.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or len(text) > 40:
        raise Problem(422, "invalid_field", f"The field {name} is no number: give one such as 0.001.")
    return value


def truth(form: Form, name: str) -> bool:
    """Read a field that is true or false, false where it is missing.

    Raises:
        Problem: it is neither.
    """
    text = form.fields.get(name, "").strip().lower()
    if text not in ("", "true", "false", "1", "0", "yes", "no", "on", "off"):
        raise Problem(422, "invalid_field", f"The field {name} is true or false.")
    return text in ("true", "1", "yes", "on")


def policy(form: Form) -> OnMultipleFaces | None:
    """Read what to do with several faces.

    Raises:
        Problem: nothing that is known.
    """
    from siamese_verify.verification.verifier import ON_MULTIPLE_FACES

    text = form.fields.get("on_multiple_faces", "").strip()
    if text and text not in ON_MULTIPLE_FACES:
        raise Problem(422, "invalid_field", f"The field on_multiple_faces is one of {', '.join(ON_MULTIPLE_FACES)}.")
    return cast("OnMultipleFaces | None", text or None)


def one_face(form: Form) -> OnMultipleFaces | None:
    """Read which of several faces.

    Raises:
        Problem: nothing that is known, or all of them.
    """
    on_multiple_faces = policy(form)
    if on_multiple_faces == "any":
        raise Problem(422, "invalid_field", "One face is needed: set on_multiple_faces to error, largest or central.")
    return on_multiple_faces


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Pack (H,W,3) RGB as a PNG into a data URI."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
