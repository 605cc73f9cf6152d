"""`siamese-verify enroll`, `identify`, `people` and `forget`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_verify.cli.options import (
    NO_DECISION,
    add_model_options,
    add_threshold_options,
    load_verifier,
    print_undecided,
)
from siamese_verify.cli.verify_photos import read_standard_input
from siamese_verify.errors import InputError, printable

if TYPE_CHECKING:
    from siamese_verify.gallery import Gallery

ENROLLED = ("name", "person", "added", "templates", "warnings", "reason", "detail")  # of JSON
FOUND, NOBODY = 0, 1
STATUS = (
    "Exit status: 0 an enrolled person, 1 nobody, 2 user error, 3 no decision (inconclusive, no face, multiple faces, "
    "unreadable file), 70 a bug, 74 output that cannot be written."
)


def enroll_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `enroll`."""
    parser.description = "Store encrypted templates of a person's face; photos are not stored unless you ask for it."
    parser.add_argument("name", help="name of the person; an enrolled person gets more templates")
    parser.add_argument("photo", nargs="+", help="photos of this person, one face on each")
    _add_place(parser)
    add_model_options(parser)
    parser.add_argument("--force", action="store_true", help="accept faces of too low a quality")
    parser.add_argument("--keep-photos", action="store_true", help="store the aligned faces as well, encrypted")
    parser.add_argument("--json", action="store_true", help="print JSON")


def enroll(options: argparse.Namespace) -> int:
    """Enroll a person."""
    from siamese_verify.gallery import person_name
    from siamese_verify.verification import NoDecision

    name = person_name(options.name)  # before a model is loaded
    try:
        with _opened(options, create=True) as gallery:
            result = gallery.enroll(name, options.photo, force=options.force, keep_photos=options.keep_photos)
    except NoDecision as error:
        return print_undecided(error, options.json, ENROLLED)
    if options.json:
        values = (result.name, result.pseudonym, result.added, result.templates, list(result.warnings), None, None)
        print(json.dumps(dict(zip(ENROLLED, values, strict=True))))
    else:
        print(printable(result.sentence()))
        _warn(result.warnings)
    return 0


def identify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `identify`."""
    parser.description = "Find the enrolled person that a photo shows, if any."
    parser.epilog = STATUS
    parser.add_argument("photo", help="a photo with one face; - reads it from standard input")
    _add_place(parser)
    add_model_options(parser)
    add_threshold_options(
        parser, "share of searches for people who are not enrolled that may find one (default: 1e-3, else 1e-2)"
    )
    parser.add_argument(
        "--combine",
        choices=("best", "mean", "quality"),
        default="best",
        help="compare with each person's best template, or the mean of them, plain or weighted by quality; means need "
        "--threshold (default: %(default)s)",
    )
    parser.add_argument("--top", type=int, default=5, help="people to show (default: %(default)s)")
    parser.add_argument("--scores", action="store_true", help="show the nearest people with their scores, found or not")
    parser.add_argument("--decide", action="store_true", help="decide where the result would be inconclusive")
    parser.add_argument("--json", action="store_true", help="print JSON")


def identify(options: argparse.Namespace) -> int:
    """Search for the person on a photo."""
    from siamese_verify.gallery import Identification
    from siamese_verify.verification import NoDecision

    if options.top < 1:
        raise InputError(f"--top {options.top} must be 1 or more.")
    try:
        with _opened(options, create=False) as gallery:
            result = gallery.identify(
                read_standard_input() if options.photo == "-" else options.photo,
                far=options.far,
                threshold=options.threshold,
                top=options.top,
                scores=options.scores,
                decide=options.decide,
                combine=options.combine,
            )
    except NoDecision as error:
        return print_undecided(error, options.json, [one.name for one in fields(Identification)])
    if options.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        print(*map(printable, (result.sentence(), *result.reasons)), sep="\n")
        for candidate in result.candidates:
            print(printable(f"  {candidate.score:6.3f}  {candidate.name}"))
        if result.far is not None and result.searched:
            doubt = ", which the measured impostors do not show" if result.insufficient else ""
            print(
                f"At most {100 * result.far:g} % of the searches for people who are not enrolled name somebody{doubt}."
            )
        _warn(result.warnings)
    return NO_DECISION if result.found is None else FOUND if result.found else NOBODY


def people_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `people`."""
    parser.description = "List the people or the log of a gallery, check its file, or create a key."
    _add_place(parser)
    parser.add_argument("--log", action="store_true", help="show who was enrolled, matched and forgotten, and when")
    parser.add_argument("--check", action="store_true", help="check that the file is undamaged")
    parser.add_argument(
        "--new-key",
        metavar="FILE",
        help="create a key file that only you can read; an existing one is never overwritten",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def people(options: argparse.Namespace) -> int:
    """List people or the log, or create a key."""
    from siamese_verify.gallery import Gallery, find_key, new_key
    from siamese_verify.gallery.identification import count_of

    if options.new_key is not None:
        path = Path(options.new_key).expanduser()
        new_key(path)
        print(
            f"The key is in {path}: keep a copy elsewhere, as nothing opens a gallery without its key.\n"
            f"Give it by --key {shlex.quote(str(path))}, or for all commands: "
            f"export SIAMESE_VERIFY_KEY_FILE={shlex.quote(str(path.absolute()))}"
        )
        return 0
    with Gallery.open(_place(options), key=find_key(options.key)) as gallery:
        if options.check:
            gallery.check()
        if options.log:
            entries = gallery.log()
            if options.json:
                print(json.dumps([entry._asdict() for entry in entries]))
            else:
                for entry in entries:
                    print(printable(entry.sentence()))
            return 0
        found = gallery.people()
    if options.json:
        print(json.dumps([person._asdict() for person in found]))
    else:
        for person in found:
            print(f"{printable(person.name)}  ({count_of(person.templates, 'template')}, since {person.enrolled})")
        print(f"{count_of(len(found), 'person')} enrolled{', no damage found' if options.check else ''}.")
    return 0


def forget_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `forget`."""
    parser.description = "Remove a person with all templates and photos, for good."
    parser.add_argument("name", help="name, as `siamese-verify people` shows it")
    _add_place(parser)


def forget(options: argparse.Namespace) -> int:
    """Forget a person."""
    from siamese_verify.gallery import Gallery, find_key, person_name
    from siamese_verify.gallery.identification import count_of

    name = person_name(options.name)
    with Gallery.open(_place(options), key=find_key(options.key)) as gallery:
        removed = gallery.forget(name)
    print(f"{printable(name)} is forgotten: {count_of(removed, 'template')} removed.")
    return 0


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gallery",
        metavar="FILE",
        help="its file (default: siamese-verify/gallery.db in $XDG_DATA_HOME or ~/.local/share)",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="file of its key (default: $SIAMESE_VERIFY_KEY_FILE, or the key itself in $SIAMESE_VERIFY_KEY)",
    )


def _place(options: argparse.Namespace) -> Path:
    from siamese_verify.gallery import default_gallery

    return Path(options.gallery).expanduser() if options.gallery else default_gallery()


def _opened(options: argparse.Namespace, create: bool) -> Gallery:
    from siamese_verify.gallery import Gallery, find_key

    key, place = find_key(options.key), _place(options)  # before a model is loaded
    if not create and not place.exists():
        raise InputError(f"There is no gallery {place}: enroll a person first.")
    return Gallery.open(place, load_verifier(options), key=key, create=create)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"Warning: {printable(warning)}", file=sys.stderr)
