"""`siamese-verify clean`: photos of a labelled set whose label is probably wrong, as a list to review."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from siamese_verify.cli.options import add_page_option, open_album, page_path
from siamese_verify.errors import InputError, printable

if TYPE_CHECKING:
    from siamese_verify.albums.album_source import AlbumSource
    from siamese_verify.albums.face_table import FaceTable

SHOWN = 200  # findings on the page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `clean`."""
    parser.description = (
        "Find photos of a labelled set embedded by `siamese-verify embed`, a folder for each identity or a list (CSV "
        "or Parquet) with the column identity, whose label is probably wrong: a list to review. Set its column drop to "
        "yes where you agree; data=folder and data=list take it as data.drop=review.csv. Of a photo with several faces "
        "the largest counts."
    )
    parser.add_argument("folder", help="with the embeddings")
    parser.add_argument(
        "--output", default="review.csv", metavar="CSV", help="the list to review (default: %(default)s)"
    )
    parser.add_argument("--model", help="bundle with the calibration (default: the one that embedded the photos)")
    parser.add_argument(
        "--rate",
        type=float,
        default=0.05,
        help="share of the findings that may be wrong, by the model (default: %(default)s; planted errors of LFW were "
        "0.72 to 0.93 of what was found at it)",
    )
    add_page_option(parser, "the photos, two for each finding")


def run(options: argparse.Namespace) -> int:
    """Find label errors, and print how many."""
    from siamese_verify.albums.cleaning import find_label_errors, write_findings
    from siamese_verify.albums.face_table import FaceTable

    if Path(options.output).exists():
        raise InputError(f"{options.output} exists and may have been reviewed: name another file by --output.")
    if not Path(options.output).parent.is_dir():
        raise InputError(f"There is no folder {Path(options.output).parent} to write the list to: create it first.")
    page = page_path(options.page)
    album, calibration = open_album(options)
    table = FaceTable.read(options.folder)
    rows = largest_faces(table)
    photos = [table.photos[row] for row in rows]
    names, listed = identities_of(album.source, photos)
    people = sorted(set(names))
    number = {name: place for place, name in enumerate(people)}
    identities = np.array([number[name] for name in names], dtype=np.int64)
    findings = find_label_errors(table.embeddings[rows], identities, calibration, rate=options.rate)
    write_findings(Path(options.output), findings, listed, people)
    counts = Counter(one.kind for one in findings)
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "nothing"
    print(printable(f"{len(rows):,} photos of {len(people):,} identities: {said}. To review: {options.output}"))
    if page:
        from siamese_verify.albums.face_pictures import picture_of, write_faces
        from siamese_verify.albums.people import face_of

        pictures = []
        for one in findings[:SHOWN]:
            for place in (one.rows[0], one.shown):
                face = face_of(table, int(rows[place]))
                caption = f"{one.kind}: {face.photo}"
                pictures.append(picture_of(album.source, face.photo, face.box, caption, place == one.rows[0]))
        sentences = [f"{len(findings):,} findings; each is framed, with a photo to compare it with beside it."]
        write_faces(page, "To review", sentences, pictures)
        print(printable(f"Page: {page}"))
    return 0


def identities_of(source: AlbumSource, photos: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the identities of photos, and of the photos as the source has them.

    Identities are the column `identity` of a list in CSV or Parquet, else the folders of the photos.

    Raises:
        InputError: such a list without this column or one of the photos, a photo in no folder, or absolute paths
            in a `.txt`.
    """
    from siamese_verify.albums.album_source import read_paths
    from siamese_verify.datasets.listing import read_list

    if source.kind == "list" and not source.place.lower().endswith(".txt"):
        index = read_list(source.place)
        rows = {source.storage.name_of(path): row for row, path in enumerate(index.names)}
        if gone := [photo for photo in photos if photo not in rows]:
            raise InputError(f"{gone[0]} is not in {source.place} any more: embed the list anew.")
        found = [rows[photo] for photo in photos]
        return [index.people[index.identities[row]] for row in found], [index.names[row] for row in found]
    if source.kind == "list" and any(source.storage.name_of(path) != path for path in read_paths(source.place)):
        raise InputError(
            f"{source.place} has absolute paths, which do not say whose folder is the identity: give a CSV with the "
            "columns path and identity."
        )
    if flat := [name for name in photos if "/" not in name]:
        raise InputError(f"{flat[0]} is in no identity's folder: embed a folder that has one for each identity.")
    return [name.partition("/")[0] for name in photos], [*photos]


def largest_faces(table: FaceTable) -> np.ndarray:
    """Row of the largest face of each photo, in the order of the photos."""
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    area, best = sides[:, 0] * sides[:, 1], dict[str, int]()
    for row, photo in enumerate(table.photos):
        if photo not in best or area[row] > area[best[photo]]:
            best[photo] = row
    return np.array(list(best.values()), dtype=np.int64)
