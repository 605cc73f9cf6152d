"""The web page and that of the API: a few files of the package, and nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import FastAPI, Response

if TYPE_CHECKING:
    from siamese_verify.models import ModelMetadata

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.css": ("docs.css", "text/css; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}


def add_page(app: FastAPI) -> None:
    """Serve the pages from memory."""
    folder = files("siamese_verify.serving") / "page"
    for route, (name, kind) in FILES.items():
        app.add_api_route(route, answer((folder / name).read_bytes(), kind), include_in_schema=False, methods=["GET"])


def answer(content: bytes, kind: str):  # type: ignore[no-untyped-def]
    """Make an endpoint that always answers the same."""

    async def endpoint() -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return endpoint


STANDARD = NormalDist()


class Hill(NamedTuple):
    """A bell curve."""

    centre: float
    spread: float


def score_scale(metadata: ModelMetadata) -> dict[str, Any] | None:
    """Sketch the scores of strangers and of one person; None where too little was measured.

    A bundle keeps rates at thresholds, not every score. A bell curve through rates is a straight line through their
    normal quantiles, so it is fitted there; the numbers beside the drawing never come from it.
    """
    tail = metadata.score_calibration.impostor_tail if metadata.score_calibration else None
    points = metadata.operating_points
    rates = (
        [(score, count / tail.impostors) for score, count in zip(tail.scores, tail.accepted, strict=True)]
        if tail
        else [(point.threshold, point.far) for point in points]
    )
    impostors = fitted_hill(rates)
    genuine = fitted_hill([(point.threshold, point.tar) for point in points])
    if impostors is None or genuine is None or genuine.centre <= impostors.centre:
        return None
    return {"impostors": impostors._asdict(), "genuine": genuine._asdict(), "sketch": True}


def fitted_hill(rates: Sequence[tuple[float, float]]) -> Hill | None:
    """Fit a bell curve to shares at or above scores by least squares of their quantiles.

    Args:
        rates: (score, share of all scores that are at least as high).
    """
    known = [(score, STANDARD.inv_cdf(1 - rate)) for score, rate in rates if 0 < rate < 1 and abs(score) <= 1]
    if len(known) < 2:
        return None
    scores, quantiles = zip(*known, strict=True)
    middle, centre = sum(quantiles) / len(known), sum(scores) / len(known)
    across = sum((quantile - middle) ** 2 for quantile in quantiles)
    along = sum((q - middle) * (s - centre) for s, q in known)
    spread = along / across if across else 0.0
    return Hill(centre - spread * middle, spread) if spread > 0 else None
