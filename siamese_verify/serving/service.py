"""What all routes share: metrics, and reading and answering a request within limits."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import ClientDisconnect

from siamese_verify.faces.image_headers import declared_pixels
from siamese_verify.serving.fair_share import CLIENT, Admission, BodyBytes
from siamese_verify.serving.problems import Problem, client_closed, not_ready
from siamese_verify.serving.supervisor import METRICS_FOLDER
from siamese_verify.serving.uploads import BodyLimits, Form, malformed, read_form

if TYPE_CHECKING:
    from starlette.requests import Request

    from siamese_verify.faces import OnMultipleFaces
    from siamese_verify.gallery import Gallery
    from siamese_verify.serving.batching import FaceEngine, PhotoFaces
    from siamese_verify.serving.form_fields import EmbedFields, FormFields
    from siamese_verify.serving.settings import Settings

T = TypeVar("T")
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
FACES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Prometheus metrics of a server and its other processes: nothing of a photo, a name or an embedding."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, namespace="siamese_verify", registry=self.registry)
        histogram = partial(Histogram, namespace="siamese_verify", registry=self.registry)
        gauge = partial(Gauge, namespace="siamese_verify", registry=self.registry, multiprocess_mode="livesum")
        self.requests = counter("requests", "Requests by route and status", ["route", "status"])
        self.seconds = histogram("request_seconds", "Time of a request", ["route"], buckets=SECONDS)
        self.refusals = counter("refusals", "Error responses", ["reason"])
        self.decisions = counter("decisions", "Decisions about pairs", ["decision"])
        self.stages = histogram("stage_seconds", "Time of a stage of a verification", ["stage"], buckets=SECONDS)
        self.batches = histogram("batch_faces", "Faces embedded together", buckets=FACES)
        self.batch_seconds = histogram("batch_seconds", "Time to embed a batch", buckets=SECONDS)
        self.in_flight = gauge("in_flight", "Requests answered now")
        self.uploads = gauge("uploads", "Requests read now")
        self.body_bytes = gauge("body_bytes", "Bytes of bodies held now")
        self.pixels = gauge("pixels", "Pixels of photos answered now")

    def observe_batch(self, faces: int, seconds: float) -> None:
        """Count a batch that was embedded."""
        self.batches.observe(faces)
        self.batch_seconds.observe(seconds)

    def observe_decision(self, same: bool | None, milliseconds: dict[str, float]) -> None:
        """Count a decision and the time of its stages."""
        self.decisions.labels({True: "same", False: "different", None: "inconclusive"}[same]).inc()
        for stage, spent in milliseconds.items():
            self.stages.labels(stage).observe(spent / 1000)

    def text(self, admission: Admission) -> bytes:
        """Metrics in Prometheus' text format, with what is in progress now."""
        self.in_flight.set(admission.in_flight.held)
        self.uploads.set(admission.uploads.held)
        self.body_bytes.set(admission.bytes.held)
        self.pixels.set(admission.pixels.held)
        registry = self.registry
        if METRICS_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


@dataclass
class Service:
    """What all routes share."""

    settings: Settings
    engine: FaceEngine
    admission: Admission
    metrics: Metrics
    gallery: Gallery | None
    key_needed: bool
    liveness: bool

    async def answer(
        self,
        request: Request,
        photos: dict[str, int],
        fields: type[FormFields],
        work: Callable[[Form, Any, BodyBytes], Coroutine[Any, Any, T]],
    ) -> T:
        """Read a form and answer it.

        Args:
            request: request with the form.
            photos: names of its photos, all required, and how many of each there may be.
            fields: its fields.
            work: answers the form and its fields; may release the body when it is no longer needed.

        Raises:
            Problem: if the form is invalid, there are too many requests, or it took too long.
        """
        settings, client, held = self.settings, client_of(request), None
        CLIENT.set(client)
        if self.engine.stuck:
            raise not_ready()
        limits = BodyLimits(
            photos,
            fields.model_fields,
            settings.photo_bytes,
            settings.request_bytes(sum(photos.values())),
            settings.body_seconds,
            settings.stall_seconds,
            settings.body_rate,
        )
        for name in request.query_params:
            limits.check_name(name)
            raise malformed(f"{name} is in the query of the address; send it as a part of the form")
        try:
            with self.admission.upload(client) as held:
                form = await read_form(request.headers, request.stream(), limits, held.add)
            for name in photos:
                if name not in form.photos:
                    raise malformed(f"the photo {name} is missing")
            values = fields.parse(form.fields)
            with self.admission.answer(client, self._pixels(form)):
                return await self._in_time(request, work(form, values, held))
        except ClientDisconnect:
            raise client_closed() from None
        finally:
            if held is not None:
                held.release()

    def _pixels(self, form: Form) -> int:
        """Pixels of the photos by their headers; a photo with too many is refused undecoded and costs nothing."""
        most, total = self.settings.photo_pixels, 0
        for photo in itertools.chain(*form.photos.values()):
            pixels = declared_pixels(photo)
            total += most if pixels is None else pixels if pixels <= most else 0
        return total

    async def find_faces(self, form: Form, fields: EmbedFields, held: BodyBytes) -> list[PhotoFaces]:
        """Find the one face of each `photo` of a form, and release the body.

        Raises:
            Problem: if a photo is unreadable or allows no decision.
        """
        photos = [(str(row), content) for row, content in enumerate(form.photos.pop("photo"), 1)]
        found = await self.engine.find(photos, self.one_face(fields))
        photos.clear()
        held.release()
        return found

    def one_face(self, fields: EmbedFields) -> OnMultipleFaces:
        """Which face of a photo to use where there can only be one."""
        default = self.engine.verifier.on_multiple_faces
        return fields.on_multiple_faces or ("error" if default == "any" else default)

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Await an answer; cancel it when it takes too long or the client disconnects."""
        task = asyncio.ensure_future(work)
        left = asyncio.ensure_future(_disconnected(request))
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
            raise client_closed()
        return task.result()


def client_of(request: Request) -> str:
    """Whose limits a request counts against: a key or an address, as `Guard` found it."""
    return str(request.scope["state"]["client"])


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
