"""`siamese-verify search`: the faces of embedded photos that are most like the one on a photo, or any nearest rows."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_verify.cli.options import (
    add_page_option,
    add_selection_option,
    add_threshold_options,
    page_path,
    print_undecided,
)
from siamese_verify.cli.verify_photos import read_standard_input
from siamese_verify.errors import InputError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_verify.albums.album_folder import AlbumFolder
    from siamese_verify.albums.album_search import AlbumAnswer
    from siamese_verify.verification import DetectedFace, Verifier

FOUND, NOTHING = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `search`."""
    parser.description = (
        "Find the faces among embedded photos that are most like the one on a photo, and say what their scores mean; "
        "or the rows of any embeddings with the largest cosine."
    )
    parser.epilog = (
        "Exit status: 0 a face at the threshold or above, or rows, 1 none, 2 user error, 3 no decision (no face, "
        "multiple faces, unreadable file), 70 a bug, 74 output that cannot be written."
    )
    parser.add_argument(
        "photo",
        metavar="QUERY",
        help="a photo with one face, - reads it from standard input; or a .npy with one array. Among embeddings: "
        "a .npy of (Q,D) or (D,), or the number, from 0, of a row, or with --names its name",
    )
    parser.add_argument(
        "--in",
        dest="folder",
        metavar="FOLDER",
        required=True,
        help="that `embed` has written; or any embeddings, a .npy of (N,D) or a .parquet with a column of lists",
    )
    parser.add_argument("--column", help="of the embeddings in a .parquet (default: embedding)")
    parser.add_argument("--names", help="column of names in a .parquet, one of which is the QUERY then")
    parser.add_argument("--model", help="that it was embedded by, where it is elsewhere now")
    parser.add_argument("--top", type=int, default=20, help="faces, or rows, to show (default: %(default)s)")
    add_threshold_options(
        parser, "share of searches for somebody who is not there that may show a face (default: 1e-3, else 1e-2)"
    )
    parser.add_argument(
        "--prior", type=float, help="share of genuine pairs among those compared, such as 1e-4: adds the probability"
    )
    add_selection_option(parser, "the photo is searched for")
    parser.add_argument("--faiss", action="store_true", help="search a FOLDER by FAISS, which may miss some")
    parser.add_argument(
        "--device", default="cpu", help="cpu, or a GPU that compares, such as cuda (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_page_option(parser, "the faces, read from their photos")


def run(options: argparse.Namespace) -> int:
    """Search, and print what was found."""
    place = Path(options.folder)
    if place.is_file() or (place.suffix.lower() in (".npy", ".parquet") and not place.is_dir()):
        return _search_embeddings(options)
    if options.column is not None or options.names is not None:
        raise InputError(f"--column and --names go with a .parquet of embeddings, and {options.folder} is none.")
    from siamese_verify.albums.album_folder import AlbumFolder
    from siamese_verify.albums.album_search import search_album
    from siamese_verify.verification import NoDecision, Verifier

    page = page_path(options.page)
    album = AlbumFolder(options.folder)
    model = options.model or album.metadata.loaded_from
    verifier = Verifier.load(model, on_multiple_faces=options.on_multiple_faces)
    try:
        face, embedding = _query(options.photo, verifier)
    except NoDecision as error:
        return print_undecided(error, options.json)
    answer = search_album(
        album,
        verifier.metadata,
        embedding,
        top=options.top,
        far=options.far,
        threshold=options.threshold,
        prior=options.prior,
        approximate=options.faiss,
        device=options.device,
    )
    if options.json:
        print(json.dumps(answer.to_dict(), allow_nan=False))
    else:
        _print(answer, options.prior)
    if face is not None:
        from siamese_verify.verification.decision import quality_complaints

        for complaint in quality_complaints(face.quality, verifier.metadata.quality):
            print(printable(f"Warning: {face.name}: {complaint}"), file=sys.stderr)
    if page:
        _write_page(page, options.photo, face, album, answer)
    return FOUND if any(hit.accepted for hit in answer.hits) else NOTHING


def _search_embeddings(options: argparse.Namespace) -> int:
    """Search rows of any embeddings, and print the nearest."""
    import numpy as np

    from siamese_verify.albums.embedding_rows import EmbeddingsFile

    for name in ("model", "far", "threshold", "prior", "page", "faiss", "on_multiple_faces"):
        if getattr(options, name) not in (None, False, "error"):
            raise InputError(
                f"--{name.replace('_', '-')} goes with a folder that `embed` has written, not with {options.folder}: "
                "leave it out."
            )
    file = EmbeddingsFile(options.folder, options.column, options.names)
    found = file.search(file.queries(options.photo), options.top, device=options.device)
    names = file.names_of(np.concatenate([one.rows[0] for one in found]))
    answers = [
        [
            {"row": row, "name": names[row], "score": score}
            for row, score in zip(one.rows[0].tolist(), one.scores[0].tolist(), strict=True)
        ]
        for one in found
    ]
    if options.json:
        print(json.dumps({"searched": len(file.rows), "queries": answers}, allow_nan=False))
        return FOUND
    print(f"{len(file.rows):,} rows searched, by cosine: scores rank, and say no more.")
    for number, hits in enumerate(answers):
        if len(answers) > 1:
            print(f"Query {number}:")
        for hit in hits:
            print(printable(f"{hit['score']:8.4f}  {hit['name']}"))
    return FOUND


def _query(photo: str, verifier: Verifier) -> tuple[DetectedFace | None, NDArray[np.float32]]:
    """The face that is searched for, None for an array, and its embedding."""
    if not verifier.metadata.input_spec.is_photo:
        from siamese_verify.albums.album_source import map_array

        return None, verifier.embed_arrays(map_array(photo)[None])[0]
    (face,) = verifier.find(read_standard_input() if photo == "-" else photo)
    return face, verifier.embed_faces([face])[0]


def _print(answer: AlbumAnswer, prior: float | None) -> None:
    for sentence in sentences(answer):
        print(printable(sentence))
    probability = "  probability" if prior is not None else ""
    print(f"   score  {'chance, at most':>16}  {'likelihood ratio':>16}{probability}  photo")
    for hit in answer.hits:
        chance = "" if hit.one_in is None else "often" if hit.one_in == 1 else f"1 in {hit.one_in:,}"
        ratio = "" if hit.log_likelihood_ratio is None else f"{math.exp(hit.log_likelihood_ratio):,.3g}"
        certain = min(max(hit.probability or 0.0, 0.001), 0.999)
        bound = "" if hit.probability == certain else "under " if certain == 0.001 else "over "
        shown = "" if prior is None else f"  {f'{bound}{certain:.1%}':>11}"
        box = " ".join(f"{edge:.0f}" for edge in hit.box)
        mark = "*" if hit.accepted else " "
        print(printable(f"{mark} {hit.score:6.3f}  {chance:>16}  {ratio:>16}{shown}  {hit.photo} ({box})"))


def sentences(answer: AlbumAnswer) -> list[str]:
    """What was searched and what the threshold means, in words."""
    said = [f"{answer.searched:,} faces searched, the nearest {len(answer.hits):,} are shown."]
    if answer.threshold is None:
        said.append(f"The model {answer.model} was never calibrated: its scores rank, and say no more.")
    elif answer.far is None:
        said.append(f"Faces at your threshold of {answer.threshold:.3f} or above are marked.")
    elif answer.threshold > 1:
        said.append(f"No score is high enough: {answer.reason}")
    else:
        said.append(
            f"Faces at {answer.threshold:.3f} or above are marked: 1 in {1 / answer.far:,.0f} searches for somebody "
            "who is not there shows one."
        )
        said += [answer.reason] if answer.reason else []
    return said


def _write_page(path: Path, photo: str, face: DetectedFace | None, album: AlbumFolder, answer: AlbumAnswer) -> None:
    from PIL import Image

    from siamese_verify.albums.face_pictures import FacePicture, picture_of, write_faces

    faces = [FacePicture(Image.fromarray(face.crop).resize((112, 112)), "searched for")] if face is not None else []
    for hit in answer.hits:
        caption = f"{hit.score:.3f} {hit.photo}"
        faces.append(picture_of(album.source, hit.photo, hit.box, caption, bool(hit.accepted)))
    write_faces(path, f"Faces like that on {photo}", sentences(answer), faces)
    print(printable(f"Page: {path}"), file=sys.stderr)
