"""Many small pictures on one, to look at data."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from siamese_verify.files import write_whole

CELL = 112  # pixels of a picture's side
GAP = 8
LINE = 16  # height of a line of text
INK, PAPER = "#1f2328", "#ffffff"


class Cell(NamedTuple):
    """A picture of a sheet."""

    image: Image.Image
    caption: str = ""
    frame: str | None = None  # colour


def contact_sheet(rows: Sequence[Sequence[Cell]], title: str) -> Image.Image:
    """Lay pictures out in rows, each shrunk or grown to a cell, with a line of text below.

    Args:
        rows: of pictures.
        title: above them.
    """
    font = ImageFont.load_default(12)
    columns = max((len(row) for row in rows), default=0)
    across, down = CELL + GAP, CELL + LINE + GAP
    width = max(columns * across + GAP, round(font.getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (width, len(rows) * down + 2 * GAP + LINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, font)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            x, y = GAP + column * across, 2 * GAP + LINE + number * down
            picture = ImageOps.pad(cell.image.convert("RGB"), (CELL, CELL), color="#e6e8eb")
            sheet.paste(picture, (x, y))
            if cell.frame:
                draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), outline=cell.frame, width=3)
            caption = cell.caption
            while font.getlength(caption) > CELL:
                caption = caption[:-2].rstrip("…") + "…"
            draw.text((x, y + CELL + 1), caption, INK, font)
    return sheet


def in_rows(cells: Sequence[Cell], columns: int = 10) -> list[Sequence[Cell]]:
    """Break a list of pictures into rows."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG or JPEG, as its name says, for its owner only: it shows people."""
    content = io.BytesIO()
    sheet.save(content, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=90)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue(), private=True)
