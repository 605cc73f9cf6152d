"""`siamese-verify group`: the faces of an album sorted by person, with names and decisions that are remembered."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_verify.cli.options import add_page_option, open_album, page_path
from siamese_verify.errors import InputError, printable

if TYPE_CHECKING:
    import socket

    from siamese_verify.albums.album_folder import AlbumFolder
    from siamese_verify.albums.people import AlbumFaces, AlbumPeople, Decisions, GroupedFace
    from siamese_verify.evaluation import ScoreCalibration
    from siamese_verify.serving.settings import Settings

PAGES, SHOWN, FACES = 100, 4, 120  # people with a page, pictures of each on the first page, and on its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `group`."""
    parser.description = (
        "Sort the faces of an album that was embedded by `siamese-verify embed` by person, without labels: groups.csv "
        "in its folder. Run again, new photos join known people, and what you decided holds. The files are readable "
        "for you only, and nothing leaves this machine."
    )
    parser.add_argument("folder", help="with the embeddings")
    parser.add_argument("--model", help="bundle with the calibration (default: the one that embedded the album)")
    parser.add_argument(
        "--rate",
        type=float,
        default=0.01,
        help="false-merge rate: share of the merges that may join two people, by the model; on test people of LFW, "
        "0.36 %% were measured at 0.01 (default: %(default)s)",
    )
    parser.add_argument("--again", action="store_true", help="leave out earlier groups; decisions hold")
    decisions = parser.add_argument_group("decisions, by the numbers of people in groups.csv")
    decisions.add_argument("--name", metavar="PERSON=NAME", action="append", default=[], help="name a person")
    decisions.add_argument("--merge", metavar="A,B", action="append", default=[], help="they are one person")
    decisions.add_argument("--apart", metavar="A,B", action="append", default=[], help="they are not")
    decisions.add_argument(
        "--split", metavar="PERSON=PHOTO", action="append", default=[], help="the face on this photo is somebody else's"
    )
    add_page_option(parser, "the people with the most faces, with a contact sheet of each")
    parser.add_argument("--serve", action="store_true", help="decide in a browser of this machine, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8765, help="of --serve, 0 for a free one (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Group the album, and print what was found."""
    from siamese_verify.albums.album_folder import claimed
    from siamese_verify.albums.face_table import FaceTable
    from siamese_verify.albums.people import AlbumFaces, Decisions, group_album, read_groups

    page = page_path(options.page, several=True)
    listener = listen_here(options.port) if options.serve else None
    album, calibration = open_album(options)
    table = FaceTable.read(options.folder)
    with claimed(album.path):  # else the decisions of two at once would be lost
        decisions, earlier = Decisions.read(album.path), read_groups(album.path)
        decide(decisions, earlier, options, AlbumFaces(table))
        people = group_album(
            table,
            calibration,
            decisions,
            () if options.again else earlier,
            rate=options.rate,
            progress=True,
        )
        decisions.write(album.path)  # only those that do not contradict each other
        people.write(album.path)
        report(album, people)
        if page:
            write_pages(page.parent, album, people)
        if listener is not None:
            serve_page(album, people, decisions, calibration, options, listener)
    return 0


def report(album: AlbumFolder, people: AlbumPeople) -> None:
    """Print what was found."""
    from siamese_verify.albums.people import GROUPS

    grouping = people.grouping
    count, groups = len(set(people.persons.tolist())), album.path / GROUPS
    print(printable(f"{len(people.table):,} faces of {count:,} people: {groups}."))
    if grouping.merges:
        print(
            f"{grouping.merges:,} merges from a likelihood ratio of e^{grouping.cut:.1f}; by the model, about "
            f"{grouping.expected_rate:.2%} of them join two people."
        )
    if people.lost:
        print(f"{people.lost:,} earlier faces are not in the album any more.", file=sys.stderr)


def page_settings(port: int) -> Settings:
    """Settings of the page: this machine only."""
    from siamese_verify.serving.settings import Settings

    return Settings(port=port, rate=0, connections=64, body_seconds=10.0, shutdown_seconds=2.0)


def listen_here(port: int) -> socket.socket:
    """Listen on this machine, before anything that takes long.

    Raises:
        InputError: the port is in use, or a package that serving needs is missing.
    """
    from siamese_verify.cli.serve import check_installed

    check_installed()
    from siamese_verify.serving.server import listen

    return listen(page_settings(port))


def serve_page(
    album: AlbumFolder,
    people: AlbumPeople,
    decisions: Decisions,
    calibration: ScoreCalibration,
    options: argparse.Namespace,
    listener: socket.socket,
) -> None:
    """Serve the page to decide in, until SIGTERM or Ctrl-C; everything is written then."""
    from siamese_verify.albums.people_review import PeopleReview
    from siamese_verify.serving.people_page import create_people_app
    from siamese_verify.serving.server import run as run_server

    review = PeopleReview(album, people, decisions, calibration, options.rate)
    token, settings = secrets.token_urlsafe(32), page_settings(options.port)

    def ready(url: str) -> None:
        print("Whoever has this address sees and names the people; Ctrl-C ends it.", file=sys.stderr)
        print(f"Open {url}#{token}", flush=True)

    ended = False
    try:
        run_server(create_people_app(review, token, settings), settings, listener, ready=ready)
    finally:
        ended = review.close()
    if not ended:  # Python cannot end safely while a thread is in a library
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def decide(decisions: Decisions, earlier: list[GroupedFace], options: argparse.Namespace, index: AlbumFaces) -> None:
    """Add the decisions of the command line.

    Raises:
        InputError: not of the form that is asked for, or no such person or photo.
    """
    from siamese_verify.albums.people import faces_by_person

    decisions.follow(index)  # as boxes are compared exactly from here on
    faces = faces_by_person(one._replace(face=index.follow(one.face)) for one in earlier)

    def person(text: str) -> int:
        if not text.isdecimal() or int(text) not in faces:
            raise InputError(f"There is no person {text!r} in groups.csv: give the number of one.")
        return int(text)

    def fields(text: str, mark: str) -> tuple[str, str]:
        left, found, right = text.partition(mark)
        if not (found and left.strip() and right.strip()):
            raise InputError(f"{text!r} should be two values with {mark!r} between them.")
        return left.strip(), right.strip()

    for text in options.name:
        number, name = fields(text, "=")
        decisions.name(faces[person(number)], name)
    for same, texts in ((True, options.merge), (False, options.apart)):
        for text in texts:
            a, b = (person(one) for one in fields(text, ","))
            if a == b:
                raise InputError(f"{text!r} names one person twice: give two.")
            if same:
                decisions.merge(faces[a], faces[b])
            else:
                decisions.decide(faces[a][0], faces[b][0], same=False)
    for text in options.split:
        number, photo = fields(text, "=")
        own_faces = faces[person(number)]
        there = [face for face in own_faces if face.photo == photo]
        rest = [face for face in own_faces if face.photo != photo]
        if not there or not rest:
            raise InputError(f"Person {number} has no face on {photo!r} beside others: see groups.csv.")
        decisions.split(index, there[:1], rest)


def write_pages(folder: Path, album: AlbumFolder, people: AlbumPeople) -> None:
    """Write a page with the contact sheet of each of the largest groups, and one that leads to them.

    Pages that an earlier call wrote of people who have none now are removed.
    """
    from siamese_verify.albums.face_pictures import FacePicture, picture_of, write_faces
    from siamese_verify.albums.people import face_of

    first: list[FacePicture] = []
    listed = people.largest()[:PAGES]
    for person in listed:
        rows = people.faces(person)
        name = people.names.get(person, "")
        pictures = []
        for row in rows[:FACES].tolist():
            face, score = face_of(people.table, row), people.grouping.scores[row]
            caption = f"{face.photo} {score:.2f}" if score == score else face.photo
            pictures.append(picture_of(album.source, face.photo, face.box, caption))
        title = f"Person {person}{': ' if name else ''}{name}"
        said = [f"{len(rows):,} faces; the number of each is its mean score with the others."]
        if len(rows) > FACES:
            said.append(f"The first {FACES:,} are shown.")
        write_faces(folder / f"person-{person}.html", title, said, pictures)
        first += [one._replace(caption=f"{person} {name} ({len(rows):,})") for one in pictures[:SHOWN]]
    links = " ".join(
        f'<a href="person-{person}.html">{person} {escape(printable(people.names.get(person, "")))}</a>'
        for person in listed
    )
    write_faces(folder / "index.html", "People", [f"The {len(listed):,} people with the most faces."], first, links)
    written = {f"person-{person}.html" for person in listed}
    for page_file in folder.glob("person-*.html"):
        if page_file.name not in written and page_file.stem.removeprefix("person-").isdecimal():
            page_file.unlink()
    print(printable(f"Page: {folder / 'index.html'}"))
