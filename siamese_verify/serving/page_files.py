"""Files of the web pages: which there are, and the routes that serve them from memory."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath

from fastapi import FastAPI, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def _by_path(pages: Mapping[str, str], *names: str) -> dict[str, str]:
    """Names of files by the path that they are served at; all pages share a style and an icon."""
    return {**pages, **{f"/{name}": name for name in ("page.css", "icon.svg", *names)}}


VERIFY_PAGES = _by_path({"/": "page.html", "/docs": "docs.html"}, "page.js", "docs.css", "docs.js")
PEOPLE_PAGE = _by_path({"/": "people.html"}, "people.css", "people.js")


def add_page_files(app: FastAPI, names: Mapping[str, str]) -> None:
    """Serve files of web pages from memory.

    Args:
        app: the application.
        names: of the files, by path.
    """
    environment = Environment(
        loader=PackageLoader("siamese_verify.serving", "page"), autoescape=True, undefined=StrictUndefined
    )

    def add(path: str, content: bytes | str, media_type: str) -> None:
        headers = {"Content-Type": media_type, "Cache-Control": "no-cache"}

        @app.get(path, include_in_schema=False)
        async def page_file() -> Response:
            return Response(content, headers=headers)

    for path, name in names.items():
        kind = PurePath(name).suffix
        if kind == ".html":  # within frame.html
            content: bytes | str = environment.get_template(name).render()
        else:
            content = (files("siamese_verify.serving") / "page" / name).read_bytes()
        add(path, content, TYPES[kind])
