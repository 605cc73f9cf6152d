"""Contact sheets of what became of the photos of a data set."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from pyarrow import parquet

from siamese_verify.data.contact_sheet import Cell, contact_sheet, in_rows, save_sheet
from siamese_verify.data.prepared import INDEX
from siamese_verify.errors import InputError
from siamese_verify.tables import read_csv_cell
from siamese_verify.types import Photos

PICTURES = 60  # on a contact sheet


def draw_sheets(photos: Photos, output: Path, dropped: dict[int, str]) -> None:
    """Draw a contact sheet of every outcome that can be looked at.

    Args:
        photos: of the data set.
        output: folder with the index and the account of what was left out; the sheets come into `sheets` within.
        dropped: identities that were left out.
    """
    columns = ["path", "identity", "source", "faces", "turned", "sharpness"]
    table = parquet.read_table(output / INDEX, columns=columns)
    faces, turned, sharp = (table[name].to_numpy() for name in ("faces", "turned", "sharpness"))
    groups = {
        "aligned": ("Aligned faces, drawn at random", np.random.default_rng(0).permutation(len(table))),
        "several": ("The chosen one of several faces", np.flatnonzero(faces > 1)),
        "turned": ("Turned: faces that were tilted or lay on their side", np.flatnonzero(turned > 0)),
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
    """Draw a contact sheet of whole photos; those that cannot be read are left out."""
    cells = []
    for row in rows:
        with suppress(InputError):
            cells.append(Cell(photos[row], photos.names[row]))
    if cells:
        save_sheet(contact_sheet(in_rows(cells), f"{title}: {len(cells)} of {total:,}"), path)
