"""Bytes from anywhere -> photo, with a server's limits."""

from __future__ import annotations

import asyncio
import binascii
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from siamese_verify.errors import InputError
from siamese_verify.serving.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_PROGRAMS = {"TIFF", "PPM"}  # that cameras and browsers do not send


def decode_photo(content: bytes, name: str, most_pixels: int) -> Image:
    """Decode a photo.

    Args:
        content: bytes of an image file.
        name: of the part it came in, for sentences.
        most_pixels: that it may have.

    Returns:
        Upright and RGB, see `siamese_verify.faces.open_photo`.

    Raises:
        Problem: 413 for too many pixels, 400 for what is no photo.
    """
    from siamese_verify.faces.photo import FORMATS, TooManyPixels, open_photo

    if not content:
        raise Problem(400, "unreadable_photo", f"The photo {name} is empty: choose a file.", photo=name)
    try:
        return open_photo(content, f"The photo {name}", max_pixels=most_pixels, formats=FORMATS - OWN_PROGRAMS)
    except TooManyPixels as error:
        raise Problem(413, "too_many_pixels", str(error), photo=name) from None
    except InputError as error:
        raise Problem(400, "unreadable_photo", str(error), photo=name) from None


MOST_FIELDS = 16
FIELD_BYTES = 2048
HEADERS = 8  # of one part
HEADER_BYTES = 1024
BLOCK = 64 * 1024  # bytes parsed at a time
JSON = b"application/json"
# Base64 holds none of these, so a body of photos and fields has few of them. What has more is made to be large once it
# is parsed: 20 MB of `[],[],...` would take a gigabyte.
MARKS = (b",", b"[", b"{")
MOST_MARKS = 1024
DATA_URI = re.compile(r"data:(?P<kind>[^,;]{0,100})(;[^,;]{0,100}){0,4};base64,", re.IGNORECASE)
PARSING = threading.Lock()  # of JSON, which is twice in memory meanwhile: one body at a time


@dataclass
class Form:
    """What a form held.

    Attributes:
        photos: their bytes by the name of the part, in the order sent. File names are not even read.
        fields: text by the name of the part.
    """

    photos: dict[str, list[bytes]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


class FormReader:
    """Takes the bytes of a form as they come.

    Args:
        boundary: between the parts.
        photos: names of the parts that are photos, and how many of each there may be.
        fields: names of the parts that are text.
        photo_bytes: most of one photo.
    """

    def __init__(self, boundary: bytes, photos: dict[str, int], fields: Collection[str], photo_bytes: int) -> None:
        self.form = Form()
        self.ended = False
        self._photos, self._fields, self._photo_bytes = photos, fields, photo_bytes
        self._header, self._headers = (bytearray(), bytearray()), {b"": b""}
        self._name, self._content = "", bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._keep_header,
                    "on_headers_finished": self._open,
                    "on_part_data": self._add,
                    "on_part_end": self._close,
                    "on_end": self._end,
                },
                max_header_count=HEADERS,
                max_header_size=HEADER_BYTES,
            )
        except FormParserError:
            raise malformed("its boundary is too long") from None

    def write(self, data: bytes) -> None:
        """Take some bytes.

        Raises:
            Problem: they break the rules of forms, or a limit.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise malformed("it breaks the rules of multipart/form-data") from None

    def finished(self) -> Form:
        """Return the form once all bytes were written.

        Raises:
            Problem: the end is missing.
        """
        if not self.ended:
            raise malformed("it ends before its last boundary")
        return self.form

    def _begin(self) -> None:
        self._headers = {}
        self._content = bytearray()

    def _keep_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._headers[name.lower()] = value
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or not name:
            raise malformed("a part has no name")
        if name in self._photos:
            held = self.form.photos.setdefault(name, [])
            if len(held) >= self._photos[name]:
                most = self._photos[name]
                raise malformed(f"{name} is given more than {'once' if most == 1 else f'{most} times'}")
            declared = self._headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if declared and declared != b"application/octet-stream" and not declared.startswith(b"image/"):
                detail = f"The part {name} is declared as something else than a picture: send image/jpeg or the like."
                raise Problem(415, "wrong_type", detail, photo=name)
        elif name not in self._fields:  # the name is a stranger's text: it is not said back
            known = ", ".join((*self._photos, *self._fields))
            raise malformed(f"it has a part that is unknown here; the parts are {known}")
        elif name in self.form.fields:
            raise malformed(f"{name} is given more than once")
        elif len(self.form.fields) >= MOST_FIELDS:
            raise malformed(f"it has more than {MOST_FIELDS} fields")
        self._name = name

    def _add(self, data: bytes, start: int, end: int) -> None:
        size, photo = len(self._content) + end - start, self._name in self._photos
        if photo and size > self._photo_bytes:
            raise too_large(f"The photo {self._name}", self._photo_bytes, self._name)
        if not photo and size > FIELD_BYTES:
            raise too_large(f"The field {self._name}", FIELD_BYTES)
        self._content += memoryview(data)[start:end]

    def _close(self) -> None:
        content, self._content = bytes(self._content), bytearray()
        if self._name in self._photos:
            self.form.photos[self._name].append(content)
            return
        try:
            self.form.fields[self._name] = content.decode("utf-8")
        except UnicodeDecodeError:
            raise malformed(f"the field {self._name} is not UTF-8") from None

    def _end(self) -> None:
        self.ended = True


class JsonReader:
    """Takes the bytes of a JSON object as they come.

    Args:
        photos: names of the members that are photos, and how many of each there may be: a string, or a list of them.
        fields: names of the members that are text, numbers, true or false.
        photo_bytes: most of one photo, decoded.
    """

    def __init__(self, photos: dict[str, int], fields: Collection[str], photo_bytes: int) -> None:
        self._photos, self._fields, self._photo_bytes = photos, fields, photo_bytes
        self._content = bytearray()
        self._marks = 0

    def write(self, data: bytes) -> None:
        """Take some bytes.

        Raises:
            Problem: they are more complicated than a form is.
        """
        self._marks += sum(map(data.count, MARKS))
        if self._marks > MOST_MARKS:
            raise malformed(f"it has more than {MOST_MARKS} commas and brackets")
        self._content += data

    def finished(self) -> Form:
        """Return the form once all bytes were written.

        Raises:
            Problem: they are no JSON, or not what is expected.
        """
        with PARSING:
            return self._parsed()

    def _parsed(self) -> Form:
        try:
            text = self._content.decode("utf-8")
            self._content.clear()
            members = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise malformed("it is no JSON that can be read") from None
        del text
        if not isinstance(members, dict):
            raise malformed("it is no JSON object")
        form = Form()
        for name in [*members]:
            value = members.pop(name)
            if name in self._photos:
                form.photos[name] = self._decoded(name, value)
            elif name not in self._fields:  # the name is a stranger's text: it is not said back
                known = ", ".join((*self._photos, *self._fields))
                raise malformed(f"it has a part that is unknown here; the parts are {known}")
            elif value is not None:
                form.fields[name] = _text(name, value)
        return form

    def _decoded(self, name: str, value: Any) -> list[bytes]:
        texts: list[Any] = value if isinstance(value, list) else [value]
        most = self._photos[name]
        if not 1 <= len(texts) <= most:
            raise malformed(f"{name} is given {'once' if most == 1 else f'1 to {most} times'}")
        photos = []
        while texts:
            text = texts.pop(0)
            if not isinstance(text, str):
                raise malformed(f"{name} is no text of base64")
            photos.append(self._photo(name, text))
        return photos

    def _photo(self, name: str, text: str) -> bytes:
        if text[:5].lower() == "data:":
            start = DATA_URI.match(text[:1024])
            if start is None:
                raise malformed(f"{name} is a data URI without ;base64")
            if start["kind"] and not start["kind"].lower().startswith(("image/", "application/octet-stream")):
                detail = f"The photo {name} is declared as something else than a picture: send data:image/jpeg."
                raise Problem(415, "wrong_type", detail, photo=name)
            text = text[start.end() :]
        try:
            photo = binascii.a2b_base64("".join(text.split()), strict_mode=True)  # lines may be wrapped
        except ValueError:
            raise malformed(f"{name} is no base64") from None
        if len(photo) > self._photo_bytes:
            raise too_large(f"The photo {name}", self._photo_bytes, name)
        return photo


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is given more than once")
    return members


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _text(name: str, value: Any) -> str:
    """Write a member as a form's field is written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        text = str(value)
        if len(text.encode("utf-8", "surrogatepass")) > FIELD_BYTES:
            raise too_large(f"The field {name}", FIELD_BYTES)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise malformed(f"the field {name} is not UTF-8") from None
        return text
    raise malformed(f"the field {name} is neither text nor a number, true or false")


def malformed(what: str) -> Problem:
    """Say why a body is no form."""
    return Problem(400, "malformed_request", f"The form cannot be used: {what}.")


def too_large(what: str, most: int, photo: str | None = None) -> Problem:
    """Say that something has too many bytes."""
    size = f"{most / 2**20:.3g} MB" if most >= 2**20 else f"{most:,} bytes"
    return Problem(413, "too_large", f"{what} has more than {size}: scale it down.", photo=photo)


async def read_form(
    chunks: AsyncIterator[bytes],
    *,
    content_type: str,
    content_length: str | None,
    photos: dict[str, int],
    fields: Collection[str],
    photo_bytes: int,
    body_bytes: int,
    seconds: float,
    stall_seconds: float,
    rate: int,
    count: Callable[[int], None],
) -> Form:
    """Read a form as it arrives.

    Args:
        chunks: of the body.
        content_type: of the request.
        content_length: of the request, if it was sent.
        photos: see `FormReader`.
        fields: likewise.
        photo_bytes: likewise.
        body_bytes: most of the whole body.
        seconds: for the whole body.
        stall_seconds: that it may fall behind its rate.
        rate: bytes a second that come on the average at least.
        count: is told how many bytes come, before they are kept.

    Raises:
        Problem: it is no form, too large, or too slow.
    """
    kind, options = parse_options_header(content_type)
    if kind not in (b"multipart/form-data", JSON):
        detail = "The body must be multipart/form-data or application/json, with the photos in it."
        raise Problem(415, "wrong_type", detail)
    if kind == JSON:
        body_bytes = body_bytes * 3 // 2  # base64, in lines perhaps
    elif not options.get(b"boundary"):
        raise malformed("its boundary is not named in Content-Type")
    if content_length is not None and (not content_length.isascii() or not content_length.isdigit()):
        raise malformed("Content-Length is no number")
    if content_length is not None and int(content_length[:20]) > body_bytes:
        raise too_large("The body", body_bytes)
    reader: JsonReader | FormReader
    if kind == JSON:
        reader = JsonReader(photos, fields, photo_bytes)
    else:
        reader = FormReader(options[b"boundary"], photos, fields, photo_bytes)
    total = 0
    try:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(began + min(seconds, stall_seconds)) as limit:
            async for chunk in chunks:
                total += len(chunk)
                limit.reschedule(began + min(seconds, stall_seconds + total / rate))
                if total > body_bytes:
                    raise too_large("The body", body_bytes)
                count(len(chunk))
                for start in range(0, len(chunk), BLOCK):
                    reader.write(chunk[start : start + BLOCK])
    except TimeoutError:
        detail = f"The body did not arrive within {seconds:g} s, or came at less than {rate / 1024:g} KB a second"
        raise Problem(408, "slow_upload", f"{detail}: send it faster, or smaller photos.") from None
    return await asyncio.to_thread(reader.finished) if kind == JSON else reader.finished()
