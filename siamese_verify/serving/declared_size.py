"""How large a photo says it is, by the head of its file: what a request weighs before anything is decoded."""

from __future__ import annotations

import re
import struct

from siamese_verify.faces.headers import webp_size

SEGMENTS = 1024  # of a JPEG before its frame
HEAD = 1 << 20  # bytes of a HEIC or AVIF file that are looked through
EXTENT = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)  # of ISO/IEC 23008-12: of the picture or of its tiles
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers that tell a size


def declared_pixels(content: bytes) -> int | None:
    """Pixels that the head of a JPEG, PNG, GIF, BMP, WebP, AVIF or HEIC file declares; None where it cannot be read."""
    try:
        width, height = _size(content)
    except (struct.error, ValueError, IndexError):
        return None
    return abs(width * height)


def _size(content: bytes) -> tuple[int, int]:
    if content[:2] == b"\xff\xd8":
        return _jpeg(content)
    if content[:4] == b"\x89PNG":
        return _unpacked(">II", content, 16)
    if content[:3] == b"GIF":
        return _unpacked("<HH", content, 6)
    if content[:2] == b"BM":
        return _unpacked("<HH" if content[14] == 12 else "<ii", content, 18)
    if content[8:12] == b"WEBP":
        size = webp_size(content)
        if not all(size):
            raise ValueError("a damaged head")
        return size
    if content[4:8] == b"ftyp":
        found = [_unpacked(">II", b"".join(extent), 0) for extent in EXTENT.findall(content[:HEAD])]
        return max(found, key=lambda size: size[0] * size[1])
    raise ValueError("another format")


def _unpacked(form: str, content: bytes, start: int) -> tuple[int, int]:
    width, height = struct.unpack_from(form, content, start)
    return width, height


def _jpeg(content: bytes) -> tuple[int, int]:
    place = 2
    for _ in range(SEGMENTS):
        while content[place + 1] == 0xFF:  # fill bytes
            place += 1
        if content[place] != 0xFF:
            break
        if content[place + 1] in FRAMES:
            height, width = _unpacked(">HH", content, place + 5)
            return width, height
        place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    raise ValueError("no frame")
