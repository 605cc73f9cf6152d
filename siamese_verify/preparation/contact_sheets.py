"""Contact sheets: many small pictures on one image, to inspect a data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from pyarrow import parquet

from siamese_verify.atomic_write import atomic_write
from siamese_verify.datasets.prepared import INDEX
from siamese_verify.errors import InputError
from siamese_verify.structures import Photos
from siamese_verify.tables import read_csv_cell

CELL = 112  # pixels of a picture's side
GAP = 8
LINE = 16  # height of a line of text
PICTURES = 60  # of a prepared data set on one sheet
INK, PAPER = "#1f2328", "#ffffff"


class Cell(NamedTuple):
    """A picture of a contact sheet."""

    image: Image.Image
    caption: str = ""
    frame: str | None = None  # color


def contact_sheet(rows: Sequence[Sequence[Cell]], title: str) -> Image.Image:
    """Draw pictures in rows, each scaled to a cell with its caption below, under a title."""
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
    """Split a list of pictures into rows."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG or JPEG by its suffix, readable by its owner only: it shows people."""
    content = io.BytesIO()
    sheet.save(content, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=90)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content.getvalue(), private=True)


def draw_sheets(photos: Photos, output: Path, dropped: dict[int, str]) -> None:
    """Draw a contact sheet of each outcome of a preparation into its folder `sheets`.

    Args:
        photos: of the data set.
        output: folder with the index and the list of what was left out.
        dropped: identities that were left out.
    """
    columns = ["path", "identity", "source", "faces", "rotated_by", "sharpness"]
    table = parquet.read_table(output / INDEX, columns=columns)
    faces, rotated_by, sharp = (table[name].to_numpy() for name in ("faces", "rotated_by", "sharpness"))
    groups = {
        "aligned": ("Aligned faces, drawn at random", np.random.default_rng(0).permutation(len(table))),
        "multiple_faces": ("The selected one of multiple faces", np.flatnonzero(faces > 1)),
        "rotated": ("Rotated: faces that were tilted or on their side", np.flatnonzero(rotated_by > 0)),
        "blurred": ("The least sharp faces", np.argsort(sharp, kind="stable")),
    }
    for name, (title, rows) in groups.items():
        cells = []
        for line in table.take(rows[:PICTURES]).to_pylist():
            with Image.open(output / line["path"]) as face:
                cells.append(Cell(face.convert("RGB"), line["identity"]))
        if cells:
            shown = f"{title}: {len(cells)} of {len(rows):,}" if name != "blurred" else title
            save_sheet(contact_sheet(in_rows(cells), shown), output / "sheets" / f"{name}.jpg")
    with (output / "left_out.csv").open(encoding="utf-8", newline="") as file:
        faceless = [read_csv_cell(line["photo"]) for line in csv.DictReader(file) if line["outcome"] == "no face"]
    wanted = set(faceless[:PICTURES])
    seen = [row for row, name in enumerate(photos.names) if name in wanted] if wanted else []
    draw_photos(photos, seen, len(faceless), "No face was found", output / "sheets" / "no_face.jpg")
    unwanted = np.flatnonzero(np.isin(photos.identities, list(dropped)))
    some = np.random.default_rng(0).permutation(unwanted)[:PICTURES].tolist()
    draw_photos(photos, some, len(unwanted), "Of identities on the drop list", output / "sheets" / "dropped.jpg")


def draw_photos(photos: Photos, rows: Sequence[int], total: int, title: str, path: Path) -> None:
    """Draw a contact sheet of whole photos, without those that cannot be read."""
    cells = []
    for row in rows:
        with suppress(InputError):
            cells.append(Cell(photos[row], photos.names[row]))
    if cells:
        save_sheet(contact_sheet(in_rows(cells), f"{title}: {len(cells)} of {total:,}"), path)
