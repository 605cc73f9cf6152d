"""The web page and that of the API: a few files of the package, and nothing from anywhere else."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

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
