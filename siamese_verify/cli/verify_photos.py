"""`siamese-verify verify`: two photos, or a table of many pairs."""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import TYPE_CHECKING

from siamese_verify.cli.options import (
    NO_DECISION,
    add_model_options,
    add_prior_option,
    add_threshold_options,
    load_verifier,
    print_undecided,
)
from siamese_verify.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from siamese_verify.faces import Photo
    from siamese_verify.verification import Verification, Verifier

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
LARGE = 2**20  # bytes
SAME, DIFFERENT = 0, 1  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    parser.description = "Decide whether two photos show the same person, or decide about every pair of a table."
    parser.epilog = (
        "Exit status: 0 same, 1 different, 2 user error, 3 no decision (inconclusive, no face, multiple faces, "
        "unreadable file), 70 a bug, 74 output that cannot be written. "
        "Presentation attacks are not detected: a printed photo matches the person it shows."
    )
    parser.set_defaults(complain=parser.error)
    parser.add_argument("photo", nargs="*", help="two photos with one face each; - reads one from standard input")
    add_model_options(parser)
    add_threshold_options(parser)
    add_prior_option(parser)
    parser.add_argument("--decide", action="store_true", help="decide where the result would be inconclusive")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--picture", metavar="PNG", help="draw faces, score and an explanation into this file")
    parser.add_argument(
        "--pairs", metavar="TABLE", help="a CSV or Parquet table with columns a and b, in place of photos"
    )
    parser.add_argument("--output", metavar="TABLE", help="with --pairs: table for the decisions, .csv or .parquet")
    parser.add_argument("--root", metavar="FOLDER", help="with --pairs: folder that the paths start from (its own)")


def run(options: argparse.Namespace) -> int:
    """Decide about two photos and print the decision, or about all pairs of a table."""
    if options.pairs:
        if options.photo or options.picture or options.json:
            options.complain("--pairs goes without photos, --picture and --json: the decisions go to --output")
        if not options.output:
            options.complain("--pairs needs --output: a .parquet or .csv file for the decisions")
        return verify_table(options)
    if options.output or options.root:
        options.complain("--output and --root go with --pairs")
    if len(options.photo) != 2:
        options.complain(f"two photos are compared, got {len(options.photo)}")
    if options.picture and not options.picture.lower().endswith(".png"):
        options.complain(f"the picture is a PNG: --picture {options.picture}.png")
    if options.photo == ["-", "-"]:
        options.complain("only one of both photos can come from standard input")
    return verify_photos(options, [read_standard_input() if photo == "-" else photo for photo in options.photo])


def read_standard_input() -> bytes:
    """Read a photo from standard input, and at most one byte more than photos may have."""
    from siamese_verify.faces.photo import MAX_BYTES

    if sys.stdin is None:
        raise InputError("Standard input is closed: give a file, or pipe a photo in.")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def verify_photos(options: argparse.Namespace, photos: list[Photo]) -> int:
    """Decide about two photos."""
    with short_process():
        return decide_about(options, photos)


def decide_about(options: argparse.Namespace, photos: list[Photo]) -> int:
    """Decide about two photos."""
    from siamese_verify.verification import NoDecision, Verification

    verifier = load_verifier(options, quick_start=not options.picture)  # a picture takes hundreds of faces
    try:
        result = verifier.verify(
            photos[0],
            photos[1],
            far=options.far,
            threshold=options.threshold,
            prior=options.prior,
            decide=options.decide,
        )
    except NoDecision as error:
        return print_undecided(error, options.json, (one.name for one in fields(Verification)))
    if options.json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        print(*map(printable, in_words(result)), sep="\n")
    if options.picture:
        save_picture(verifier, result, photos, options.picture)
        if not options.json:
            print(f"Picture: {printable(options.picture)}")
    return NO_DECISION if result.same is None else SAME if result.same else DIFFERENT


@contextmanager
def short_process() -> Iterator[None]:
    """Context manager of work that a process ends after: what pays in longer ones only is left out.

    All threads allocate from one heap, and large blocks go back to the system: glibc would give each thread a heap of
    its own, 40 MB in all, and keep the blocks that held a network while it was read. NumPy, if it is not loaded yet,
    starts no threads for its matrix products, and garbage is not collected.
    """
    import ctypes

    with suppress(OSError, AttributeError, TypeError):  # another C library, another system
        library = ctypes.CDLL(None)
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
    unasked, collects = BLAS_THREADS not in os.environ, gc.isenabled()
    os.environ.setdefault(BLAS_THREADS, "1")
    gc.disable()
    try:
        yield
    finally:
        if unasked:
            del os.environ[BLAS_THREADS]
        if collects:
            gc.enable()


def in_words(result: Verification) -> list[str]:
    """Return the decision in lines for people to read."""
    lines = [result.sentence(), *result.reasons]
    if result.same is None:
        decided = "the same person" if result.score >= result.threshold else "different people"
        lines.append(f"With --decide it would be {decided}.")
    if result.far is not None:
        doubt = " (fewer than ten decided it: a rough guess)" if result.insufficient else ""
        share = f"{result.far:.3%}" if result.far >= 1e-4 else f"{100 * result.far:.2g}%"
        lines.append(
            f"At this threshold {share} of {result.impostors:,} impostor pairs were accepted{doubt}; "
            f"measured on {result.measured_on}."
        )
    lines += filter(None, (result.likelihood, result.stated_probability(), result.impostor_tail))
    return [*lines, *(f"Note: {warning}" for warning in result.warnings)]


def save_picture(verifier: Verifier, result: Verification, photos: list[Photo], path: str) -> None:
    """Draw the decision with its explanation into a file."""
    from tqdm import tqdm

    from siamese_verify.atomic_write import atomic_write
    from siamese_verify.verification.explanation import explain
    from siamese_verify.verification.picture import draw_verification

    left, right = result.faces
    with tqdm(desc="Explaining the score", delay=2, leave=False, disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        explanation = explain(verifier.embed_crops, left, right, advance=advance)
    picture = draw_verification(result, (photos[0], photos[1]), verifier.metadata, explanation)
    file = io.BytesIO()
    picture.save(file, "PNG")
    try:
        atomic_write(path, file.getvalue(), private=True)
    except OSError as error:
        raise InputError(f"The picture cannot be written to {path} ({error.strerror}): give another path.") from None


def verify_table(options: argparse.Namespace) -> int:
    """Decide about all pairs of a table."""
    from siamese_verify.verification.pair_scoring import verify_pairs

    summary = verify_pairs(
        load_verifier(options),
        options.pairs,
        options.output,
        options.root,
        far=options.far,
        threshold=options.threshold,
        decide=options.decide,
        prior=options.prior,
    )
    for error in summary.errors:
        print(printable(error), file=sys.stderr)
    if summary.failed > len(summary.errors):
        print(f"... and {summary.failed - len(summary.errors):,} more, in the column error.", file=sys.stderr)
    print(printable(f"{summary.sentence()} Scores: {options.output}"))
    return NO_DECISION if summary.failed == summary.pairs > 0 else SAME
