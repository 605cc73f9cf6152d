"""Headers of image files: size, orientation, and the parts that a decoder needs.

A small file can ask for minutes of work or gigabytes of memory: a JPEG with thousands of scans, a PNG with millions of
chunks, EXIF whose entries all point to the same 60 kB. Decoders are therefore given only the parts of a file that hold
the picture, after those were counted.
"""

from __future__ import annotations

import io
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_PARTS = 65_536  # chunks of a PNG, blocks of a GIF: 64 MB in parts of 1 KB
MAX_SEGMENTS = 4096  # of a JPEG, restart markers aside: 64 MB in segments of 16 KB
MARKER = re.compile(rb"\xff[^\x00\xff\x01\xd0-\xd7]")  # of a JPEG, without those inside of a scan
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG's size and coding
CODINGS = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive; not lossless, hierarchical or arithmetic
NEEDED = {0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, *CODINGS}  # end, scan, tables; JFIF and Adobe: colors
SEARCHED = 1 << 20  # bytes of a HEIC or AVIF file that are searched for its size
EXTENT = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)  # of ISO/IEC 23008-12: of the picture or of its tiles
PNG_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
BRANDS = {  # of ISO/IEC 23008-12; mif1 and msf1 hold either
    **dict.fromkeys([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"], "HEIF"),
    **dict.fromkeys([b"avif", b"avis"], "AVIF"),
}
ORIENTATION_TAG = 0x0112  # of EXIF


class Excerpt(NamedTuple):
    """The parts of a file that hold the picture, and what decoding them costs.

    Attributes:
        parts: bytes, in order.
        orientation: of EXIF, 1 to 8.
        samples: numbers that all scans of a JPEG together decode; 0 for other formats.
        kept: bytes that the decoder holds beside the finished pixels.
    """

    parts: list[memoryview]
    orientation: int = 1
    samples: int = 0
    kept: int = 0


class UnusualFile(ValueError):
    """The file is of a kind that cameras and photo software do not write."""


def format_of(content: bytes) -> str | None:
    """Pillow's name for the format of a file, by its first bytes; None if it is unknown."""
    for head, name in (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"P5", "PPM"),
        (b"P6", "PPM"),
    ):
        if content.startswith(head):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] != b"ftyp":
        return None
    brands = content[8 : min(int.from_bytes(content[:4]), 512)]
    named = [BRANDS[brand] for start in range(0, len(brands), 4) if (brand := brands[start : start + 4]) in BRANDS]
    return named[0] if named else "HEIF" if brands[:4] in (b"mif1", b"msf1") else None


def excerpt(content: bytes, kind: str) -> Excerpt:
    """Find the parts of a file that a decoder needs.

    Args:
        content: of the file.
        kind: its format, see `format_of`.

    Raises:
        UnusualFile: it is of a kind whose work is not bounded by its pixels, and that no camera writes.
    """
    find: dict[str, Callable[[memoryview], Excerpt]] = {
        "JPEG": _jpeg,
        "PNG": _png,
        "GIF": _gif,
        "WEBP": _webp,
        "BMP": _bmp,
        "PPM": _ppm,
    }
    try:
        return find[kind](memoryview(content))
    except (struct.error, IndexError):
        raise ValueError("the file ends within its header") from None


def _jpeg_segments(content: memoryview | bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of the segments of a JPEG as libjpeg reads them; that of a scan ends with its data."""
    start = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(content, start)
        if not found:
            return
        begin, kind = found.start(), content[found.start() + 1]
        end = begin + 2 if kind == 0xD9 else begin + 2 + struct.unpack_from(">H", content, begin + 2)[0]
        if kind == 0xDA:
            following = MARKER.search(content, end)
            end = following.start() if following else len(content)
        yield kind, begin, end
        start = end
    raise UnusualFile(f"it has more than {MAX_SEGMENTS:,} segments")


def _jpeg(content: memoryview) -> Excerpt:
    """Count the samples of all scans: they are decoded, however often they repeat one another."""
    parts, orientation = [content[:2]], 1
    frame: dict[int, int] = {}  # samples by component
    samples = scans = 0
    for kind, begin, end in _jpeg_segments(content):
        segment = content[begin + 4 : end]
        if kind in FRAMES:
            if kind not in CODINGS or frame:
                raise UnusualFile("it is a lossless, hierarchical or arithmetically coded JPEG")
            frame = _components(segment)
        elif kind == 0xDA:
            scans += 1
            samples += sum(frame.get(segment[1 + 2 * place], 0) for place in range(segment[0]))
        elif kind == 0xE1 and bytes(segment[:6]) == b"Exif\0\0" and orientation == 1:
            orientation = orientation_of(bytes(segment))
        if kind in NEEDED:
            parts.append(content[begin:end])
        if kind == 0xD9:
            break
    whole = sum(frame.values())
    # Of several scans all coefficients are held until the last, two bytes each.
    return Excerpt(parts, orientation, samples, 2 * whole if scans > 1 or samples < whole else 0)


def _components(frame: memoryview) -> dict[int, int]:
    """Samples of each component of a JPEG's frame."""
    _, height, width, count = struct.unpack_from(">BHHB", frame)
    rows = [(frame[6 + 3 * place], *divmod(frame[7 + 3 * place], 16)) for place in range(count)]
    if not height:
        raise UnusualFile("its height is at its end")
    across, down = (max(row[side] for row in rows) for side in (1, 2))
    if not (rows and all(0 < row[side] <= 4 for row in rows for side in (1, 2))):
        raise ValueError("its sampling factors are invalid")
    return {name: -(-width * h // across) * -(-height * v // down) for name, h, v in rows}


def _png(content: memoryview) -> Excerpt:
    parts, orientation, start = [content[:8]], 1, 8
    for _ in range(MAX_PARTS):
        if start + 8 > len(content):
            return Excerpt(parts, orientation)
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if kind in PNG_NEEDED:
            parts.append(content[start:end])
        if kind == b"eXIf":
            orientation = orientation_of(bytes(content[start + 8 : end - 4]))
        if kind == b"IEND":
            return Excerpt(parts, orientation)
        start = end
    raise UnusualFile(f"it has more than {MAX_PARTS:,} chunks")


def _gif(content: memoryview) -> Excerpt:
    """Up to the end, without comments and other extensions before the first picture."""
    flags = content[10]
    start = 13 + (3 << (flags % 8 + 1) if flags & 0x80 else 0)
    parts = [content[:start]]
    blocks = 0
    while content[start] == 0x21:
        end = start + 2
        while content[end]:
            end += content[end] + 1
            blocks += 1
            if blocks > MAX_PARTS:
                raise UnusualFile(f"it has more than {MAX_PARTS:,} blocks before its first picture")
        end += 1
        if content[start + 1] == 0xF9:  # transparency
            parts.append(content[start:end])
        start = end
    return Excerpt([*parts, content[start:]])


def _webp(content: memoryview) -> Excerpt:
    start = 12
    for _ in range(MAX_PARTS):
        if start + 8 > len(content):
            break
        kind, length = struct.unpack_from("<4sI", content, start)
        if kind == b"EXIF":
            return Excerpt([content], orientation_of(bytes(content[start + 8 : start + 8 + length])))
        start += 8 + length + length % 2
    else:
        raise UnusualFile(f"it has more than {MAX_PARTS:,} chunks")
    return Excerpt([content])


def _bmp(content: memoryview) -> Excerpt:
    if struct.unpack_from("<I", content, 14)[0] >= 40 and struct.unpack_from("<I", content, 30)[0] in (1, 2):
        raise UnusualFile("it is a run-length coded BMP")  # which Pillow decodes in Python
    return Excerpt([content])


def _ppm(content: memoryview) -> Excerpt:
    head = re.match(rb"P([56])\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+(\d+)\s", bytes(content[:4096]))
    if not head or head[2] not in ((b"255", b"65535") if head[1] == b"5" else (b"255",)):
        raise UnusualFile("it is a PGM or PPM of other than 255 or 65535 levels")  # which Pillow decodes in Python
    return Excerpt([content])


def webp_size(content: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP; (0, 0) if it is damaged."""
    kind, body = content[12:16], content[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
    return int.from_bytes(body[6:8], "little") % 2**14, int.from_bytes(body[8:10], "little") % 2**14


def orientation_of(exif: bytes) -> int:
    """Orientation in EXIF data, 1 if it is missing or damaged; nothing else is read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    first = struct.unpack_from(order + "I", exif, 4)[0]
    if first + 2 > len(exif):
        return 1
    count = struct.unpack_from(order + "H", exif, first)[0]
    for place in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, place)
        if tag == ORIENTATION_TAG:
            return value if kind == 3 and 1 <= value <= 8 else 1
    return 1


class Parts(io.RawIOBase):
    """File object over parts of a file."""

    def __init__(self, parts: list[memoryview]) -> None:
        self.parts, self.place, self.inside = parts, 0, 0
        self.ends = [0]
        for part in parts:
            self.ends.append(self.ends[-1] + len(part))

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer from one part; the number of bytes, 0 at the end."""
        while self.place < len(self.parts) and self.inside >= len(self.parts[self.place]):
            self.place, self.inside = self.place + 1, 0
        if self.place == len(self.parts):
            return 0
        piece = self.parts[self.place][self.inside : self.inside + len(buffer)]
        buffer[: len(piece)] = piece
        self.inside += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position and return it."""
        place = offset + (0 if whence == io.SEEK_SET else self.tell() if whence == io.SEEK_CUR else self.ends[-1])
        place = min(max(place, 0), self.ends[-1])
        self.place = min(bisect_right(self.ends, place) - 1, len(self.parts))
        self.inside = place - self.ends[self.place]
        return place

    def tell(self) -> int:
        """Return the position."""
        return self.ends[min(self.place, len(self.parts))] + self.inside


def declared_pixels(content: bytes) -> int | None:
    """Pixels that the header of a JPEG, PNG, GIF, BMP, WebP, AVIF or HEIC file declares; None if it cannot be read."""
    try:
        width, height = _declared_size(content, format_of(content))
    except (struct.error, ValueError, LookupError):
        return None
    return abs(width * height) or None


def _declared_size(content: bytes, kind: str | None) -> tuple[int, int]:
    if kind == "JPEG":
        begin = next((begin for marker, begin, _ in _jpeg_segments(content) if marker in FRAMES), len(content))
        height, width = struct.unpack_from(">HH", content, begin + 5)
        return width, height
    if kind == "WEBP":
        return webp_size(content)
    if kind in ("HEIF", "AVIF"):
        sizes = [struct.unpack(">II", b"".join(extent)) for extent in EXTENT.findall(content[:SEARCHED])]
        return max(sizes, key=lambda size: size[0] * size[1])
    places = {"PNG": (">II", 16), "GIF": ("<HH", 6), "BMP": ("<HH" if content[14] == 12 else "<ii", 18)}
    form, place = places[kind or ""]
    width, height = struct.unpack_from(form, content, place)
    return width, height
