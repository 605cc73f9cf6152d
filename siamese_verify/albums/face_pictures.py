"""Pictures of the faces of an album, read from its photos, and a page that shows some."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from siamese_verify.albums.album_source import AlbumSource
from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError, printable
from siamese_verify.faces import open_photo, reduced
from siamese_verify.faces.rotation import Box

SIDE = 112  # pixels of a picture
MARGIN = 0.25  # of a face's sides, added to each side
TRACK = re.compile(r"(?P<clip>.+)#t=-?\d+\.\d\d,-?\d+\.\d\d&at=(?P<at>-?\d+\.\d\d)", re.DOTALL)  # see `track_clip`
STYLE = """body { font: 15px system-ui, sans-serif; margin: 2rem; color: #1d2733; background: #fff }
ul { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }
li { width: 112px; font-size: 12px; overflow-wrap: anywhere } img { display: block; border-radius: 4px }
li.accepted img { outline: 3px solid #1769c2 }"""


class FacePicture(NamedTuple):
    """A face on a page."""

    picture: Image.Image | None  # None where the photo cannot be read any more
    caption: str
    accepted: bool = False


def read_face(source: AlbumSource, photo: str, box: Box, side: int = SIDE) -> Image.Image:
    """Picture of a face, a square of `side` pixels.

    Args:
        source: of the album.
        photo: name of the photo, or of a track in a clip.
        box: of the face, in pixels of the upright photo.
        side: in pixels.

    Raises:
        InputError: the photo cannot be read any more or was changed, object storage does not answer, or the album is of
            arrays.
    """
    if source.kind == "arrays":
        raise InputError(f"{photo} is an array, which has no picture.")
    track = TRACK.fullmatch(photo)
    if track and source.is_clip(track["clip"]):
        from siamese_verify.albums.face_tracks import frame_at

        image = frame_at(source.location(track["clip"]), float(track["at"]))
    else:
        try:
            content = source.read(photo)
        except ConnectionError as error:
            raise InputError(str(error)) from None
        image = open_photo(content, source.location(photo))
    scale = 1 / reduced(image)
    left, top, right, bottom = (scale * edge for edge in box)
    half = (0.5 + MARGIN) * max(right - left, bottom - top, 1.0)
    x, y = (left + right) / 2, (top + bottom) / 2
    edges = (
        round(max(0.0, x - half)),
        round(max(0.0, y - half)),
        round(min(float(image.width), x + half)),
        round(min(float(image.height), y + half)),
    )
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise InputError(f"The face is not on {photo} any more: it was changed.")
    crop = ImageOps.contain(image.crop(edges), (side, side))
    square = Image.new("RGB", (side, side), "#e6e8eb")
    square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    return square


def picture_of(source: AlbumSource, photo: str, box: Box, caption: str, accepted: bool = False) -> FacePicture:
    """A face for a page, without its picture where `read_face` raises."""
    try:
        picture = read_face(source, photo, box)
    except InputError:
        picture = None
    return FacePicture(picture, caption, accepted)


def write_faces(
    path: Path, title: str, sentences: Sequence[str], faces: Sequence[FacePicture], links: str = ""
) -> None:
    """Write an HTML page of faces for its owner only, which loads nothing from elsewhere.

    Args:
        path: of the page; its folder is made, also for its owner only.
        title: of the page.
        sentences: below the title.
        faces: below those.
        links: between both, as HTML.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    items = []
    for face in faces:
        picture = '<div style="height: 112px; background: #e6e8eb"></div>'
        if face.picture is not None:
            content = io.BytesIO()
            face.picture.save(content, "JPEG", quality=88)
            data = base64.b64encode(content.getvalue()).decode()
            picture = f'<img alt="" width="{SIDE}" height="{SIDE}" src="data:image/jpeg;base64,{data}">'
        items.append(f"<li{' class=accepted' if face.accepted else ''}>{picture}{escape(printable(face.caption))}</li>")
    said = "".join(f"<p>{escape(printable(one))}</p>" for one in sentences)
    heading = escape(printable(title))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
        f"<h1>{heading}</h1>{said}<p>{links}</p><ul>{''.join(items)}</ul></html>"
    )
    atomic_write(path, page.encode(), private=True)
