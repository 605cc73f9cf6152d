"""What the server counts, for Prometheus: numbers only, nothing of a photo, a name or an embedding."""

from __future__ import annotations

import os
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from siamese_verify.serving.supervisor import COUNTERS

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
FACES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of its own; those of its other processes are added to what is told."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        name = "siamese_verify"
        self.requests = Counter(
            f"{name}_requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{name}_request_seconds", "From head to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.refusals = Counter(f"{name}_refusals", "Requests without an answer", ["reason"], registry=self.registry)
        self.decisions = Counter(f"{name}_decisions", "Decisions about pairs", ["decision"], registry=self.registry)
        self.stages = Histogram(
            f"{name}_stage_seconds", "Of one verification", ["stage"], buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            f"{name}_batch_faces", "Faces embedded together", buckets=FACES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            f"{name}_batch_seconds", "To embed a batch", buckets=SECONDS, registry=self.registry
        )
        gauge = partial(Gauge, multiprocess_mode="livesum")
        self.in_flight = gauge(f"{name}_in_flight", "Requests that are answered now", registry=self.registry)
        self.uploads = gauge(f"{name}_uploads", "Requests that are read now", registry=self.registry)
        self.body_bytes = gauge(f"{name}_body_bytes", "Of the bodies that are held now", registry=self.registry)
        self.pixels = gauge(f"{name}_pixels", "Of the photos that are answered now", registry=self.registry)

    def batch(self, faces: int, seconds: float) -> None:
        """Count a batch that was embedded."""
        self.batches.observe(faces)
        self.batch_seconds.observe(seconds)

    def decision(self, same: bool | None, milliseconds: dict[str, float]) -> None:
        """Count a decision and the time of its stages."""
        self.decisions.labels({True: "same", False: "different", None: "inconclusive"}[same]).inc()
        for stage, spent in milliseconds.items():
            self.stages.labels(stage).observe(spent / 1000)

    def text(self) -> bytes:
        """Write them in Prometheus' format."""
        registry = self.registry
        if COUNTERS in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
