"""A form of photos and fields, read into memory within limits and never to disk.

Starlette's own parser spools files of more than a megabyte to a temporary file, so this one stands in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from siamese_verify.serving.problem import Problem

MOST_FIELDS = 16
FIELD_BYTES = 2048
HEADERS = 8  # of one part
HEADER_BYTES = 1024
BLOCK = 64 * 1024  # bytes parsed at a time


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
    if kind != b"multipart/form-data":
        raise Problem(415, "wrong_type", "The body must be multipart/form-data: send the photos as files of a form.")
    if not options.get(b"boundary"):
        raise malformed("its boundary is not named in Content-Type")
    if content_length is not None and (not content_length.isascii() or not content_length.isdigit()):
        raise malformed("Content-Length is no number")
    if content_length is not None and int(content_length[:20]) > body_bytes:
        raise too_large("The body", body_bytes)
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
    return reader.finished()
