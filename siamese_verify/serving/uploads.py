"""Photos and fields of a request body: multipart forms and JSON in memory, with limits, and decoding of photos."""

from __future__ import annotations

import asyncio
import binascii
import json
import re
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from siamese_verify.errors import InputError
from siamese_verify.serving.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_OFFERED = {"TIFF", "PPM"}  # formats that cameras and browsers do not send
FIELD_BYTES = 2048
# Base64 contains none of these, so a body of photos and fields has few of them. A body with many takes far more memory
# once it is parsed: 20 MB of `[],[],...` would take a gigabyte.
JSON_MARKS = (b",", b"[", b"{")
MAX_JSON_MARKS = 1024
DATA_URI = re.compile(r"data:(?P<type>[^,;]{0,100})(;[^,;]{0,100}){0,4};base64,", re.IGNORECASE)
JSON_LOCK = threading.Lock()  # parsed JSON is in memory twice: one body at a time


def decode_photo(content: bytes, name: str, max_pixels: int) -> Image:
    """Decode a photo as upright RGB, see `siamese_verify.faces.open_photo`.

    Args:
        content: bytes of an image file.
        name: name of its part, for error messages.
        max_pixels: pixels that it may have.

    Raises:
        Problem: 413 for too many pixels, 400 if it cannot be decoded.
    """
    from siamese_verify.faces.photo import FORMATS, TooManyPixels, open_photo

    if not content:
        raise Problem(400, "unreadable_photo", f"The photo {name} is empty: choose a file.", photo=name)
    try:
        return open_photo(content, f"The photo {name}", max_pixels=max_pixels, formats=FORMATS - NOT_OFFERED)
    except TooManyPixels as error:
        raise Problem(413, "too_many_pixels", str(error), photo=name) from None
    except InputError as error:
        raise Problem(400, "unreadable_photo", str(error), photo=name) from None


@dataclass
class Form:
    """Parsed body.

    Attributes:
        photos: bytes of the photos by the name of their part, in the order sent. File names are dropped.
        fields: text by the name of the part.
    """

    photos: dict[str, list[bytes]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BodyLimits:
    """Parts that a body may have, and its limits.

    Attributes:
        photos: names of the photos, and how many of each there may be.
        fields: names of the fields.
        photo_bytes: bytes of a photo.
        body_bytes: bytes of the body.
        seconds: time for the body.
        stall_seconds: time that it may be behind `rate`.
        rate: bytes per second.
    """

    photos: dict[str, int]
    fields: Collection[str]
    photo_bytes: int
    body_bytes: int
    seconds: float
    stall_seconds: float
    rate: int

    def check_name(self, name: str) -> None:
        """Refuse an unknown part; its name is repeated if it is a word."""
        if name not in self.photos and name not in self.fields:
            called = f" {name}" if re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) else ""
            raise malformed(f"it has an unknown part{called}; the parts are {', '.join((*self.photos, *self.fields))}")

    def check_photo(self, name: str, size: int, declared: str | None) -> None:
        """Refuse a photo that is too large or declared as something else than an image."""
        if declared and not declared.lower().startswith(("image/", "application/octet-stream")):
            detail = f"The type of the photo {name} is not an image: send image/jpeg or another."
            raise Problem(415, "wrong_type", detail, photo=name)
        if size > self.photo_bytes:
            raise too_large(f"The photo {name}", self.photo_bytes, name)


async def read_form(
    headers: Headers, chunks: AsyncIterator[bytes], limits: BodyLimits, count: Callable[[int], None]
) -> Form:
    """Read a body as it arrives.

    Args:
        headers: headers of the request.
        chunks: chunks of the body.
        limits: what it may have.
        count: called with the size of each chunk before it is stored.

    Raises:
        Problem: if it is malformed, too large or too slow.
    """
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind not in (b"multipart/form-data", b"application/json"):
        raise Problem(415, "wrong_type", "The body must be multipart/form-data or application/json with the photos.")
    is_json = kind == b"application/json"
    max_bytes = limits.body_bytes * 3 // 2 if is_json else limits.body_bytes  # base64, possibly in lines
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise malformed("Content-Length is not a number")
    if int(length[:20]) > max_bytes:
        raise too_large("The body", max_bytes)
    if not is_json and not options.get(b"boundary"):
        raise malformed("Content-Type has no boundary")
    started, total = asyncio.get_running_loop().time(), 0

    async def arriving() -> AsyncGenerator[bytes, None]:
        nonlocal total
        async for chunk in chunks:
            total += len(chunk)
            timeout.reschedule(started + min(limits.seconds, limits.stall_seconds + total / limits.rate))
            if total > max_bytes:
                raise too_large("The body", max_bytes)
            count(len(chunk))
            yield chunk

    try:
        async with asyncio.timeout_at(started + min(limits.seconds, limits.stall_seconds)) as timeout:
            if not is_json:
                return await _read_multipart(headers, arriving(), limits)
            content = await _read_json(arriving())
    except TimeoutError:
        detail = f"The body did not arrive within {limits.seconds:g} s at {limits.rate / 1024:g} KB per second or more"
        raise Problem(408, "slow_upload", f"{detail}: send it faster, or smaller photos.") from None
    return await asyncio.to_thread(_parse_json, content, limits)


class MemoryParser(MultiPartParser):
    """Starlette's parser of multipart forms without its temporary files: photos are never written to disk."""

    spool_max_size = sys.maxsize
    complete = False

    def on_end(self) -> None:
        """Note that the last boundary arrived."""
        self.complete = True


async def _read_multipart(headers: Headers, chunks: AsyncGenerator[bytes, None], limits: BodyLimits) -> Form:
    most = sum(limits.photos.values())
    parser = MemoryParser(headers, chunks, max_files=most, max_fields=len(limits.fields), max_part_size=FIELD_BYTES)
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        raise malformed(error.message.rstrip(".")) from None
    form = Form()
    try:
        if not parser.complete:
            raise malformed("its last boundary is missing")
        for name, value in parts.multi_items():
            limits.check_name(name)
            if isinstance(value, str) == (name in limits.photos):
                raise malformed(f"{name} must be sent with{'' if name in limits.photos else 'out'} a file name")
            if isinstance(value, str):
                if name in form.fields:
                    raise malformed(f"{name} is given more than once")
                form.fields[name] = value
                continue
            photos = form.photos.setdefault(name, [])
            if len(photos) == limits.photos[name]:
                raise malformed(f"{name} is given more than {limits.photos[name]} times")
            limits.check_photo(name, value.size or 0, value.content_type)
            photos.append(await value.read())
            await value.close()  # one photo at a time is in memory twice
    finally:
        await parts.close()
    return form


async def _read_json(chunks: AsyncGenerator[bytes, None]) -> bytearray:
    content, marks = bytearray(), 0
    async for chunk in chunks:
        marks += sum(map(chunk.count, JSON_MARKS))
        if marks > MAX_JSON_MARKS:
            raise malformed(f"it has more than {MAX_JSON_MARKS} commas and brackets")
        content += chunk
    return content


def _parse_json(content: bytearray, limits: BodyLimits) -> Form:
    with JSON_LOCK:
        try:
            text = content.decode("utf-8")
            content.clear()
            members = json.loads(text, object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise malformed("it is not valid JSON") from None
        del text
        if not isinstance(members, dict):
            raise malformed("it is not a JSON object")
        form = Form()
        for name in [*members]:
            value = members.pop(name)
            limits.check_name(name)
            if name in limits.photos:
                form.photos[name] = _photos_of_json(name, value, limits)
            elif value is not None:
                form.fields[name] = _field_text(name, value)
        return form


def _photos_of_json(name: str, value: Any, limits: BodyLimits) -> list[bytes]:
    texts: list[Any] = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= limits.photos[name]:
        raise malformed(f"{name} must be given 1 to {limits.photos[name]} times")
    photos = []
    while texts:
        text, declared = texts.pop(0), None
        if not isinstance(text, str):
            raise malformed(f"{name} must be base64 text")
        if text[:5].lower() == "data:":
            start = DATA_URI.match(text[:1024])
            if start is None:
                raise malformed(f"{name} must be a data URI with ;base64")
            text, declared = text[start.end() :], start["type"]
        try:
            photo = binascii.a2b_base64("".join(text.split()), strict_mode=True)  # lines may be wrapped
        except ValueError:
            raise malformed(f"{name} is not valid base64") from None
        limits.check_photo(name, len(photo), declared)
        photos.append(photo)
    return photos


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is given more than once")
    return members


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def _field_text(name: str, value: Any) -> str:
    """A member as the text of a form field."""
    if not isinstance(value, str | bool | int | float):
        raise malformed(f"the field {name} must be text, a number, true or false")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) > FIELD_BYTES:
        raise too_large(f"The field {name}", FIELD_BYTES)
    return text


def malformed(problem: str) -> Problem:
    """A body that cannot be parsed."""
    return Problem(400, "malformed_request", f"The form cannot be read: {problem}.")


def too_large(what: str, limit: int, photo: str | None = None) -> Problem:
    """Something with too many bytes."""
    size = f"{limit / 2**20:.3g} MB" if limit >= 2**20 else f"{limit:,} bytes"
    return Problem(413, "too_large", f"{what} is larger than {size}: make it smaller.", photo=photo)
