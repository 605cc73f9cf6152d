"""Options that commands share, and what is loaded by them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_verify.errors import InputError, printable
from siamese_verify.structures import DEFAULT_MODEL

if TYPE_CHECKING:
    from siamese_verify.albums.album_folder import AlbumFolder
    from siamese_verify.evaluation import ScoreCalibration
    from siamese_verify.models.bundle import Bundle
    from siamese_verify.verification import NoDecision, Verifier
    from siamese_verify.verification.verifier import Liveness

NO_DECISION = 3  # exit status; 2 is of user errors


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model, its engine and its face selection."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="sface, casia-webface, vggface2, openface, a bundle, a run or a checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "onnx", "torch"),
        default="auto",
        help="of the encoder (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="of the encoder: cpu, cuda, or auto for a GPU that the engine finds (default: %(default)s)",
    )
    add_trust_option(parser)
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime (default: one for each core)")
    parser.add_argument(
        "--on-multiple-faces",
        choices=("error", "largest", "central", "any"),
        default="error",
        help="which of multiple faces on a photo is used (default: %(default)s); any: the best pair counts",
    )


def add_selection_option(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the option that chooses a face of a photo with several, one of which is used; `help` says for what."""
    parser.add_argument(
        "--on-multiple-faces",
        choices=("error", "largest", "central"),
        default="error",
        help=f"which of multiple faces on {help} (default: %(default)s)",
    )


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that measure a model on one's own photos and may write a bundle."""
    parser.add_argument("--output", metavar="BUNDLE", help="folder for the bundle; without it nothing is written")
    add_selection_option(parser, "a photo is used, as you will with `verify`")
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime (default: one for each core)")


def load_measured(options: argparse.Namespace) -> tuple[Path | None, Bundle, Verifier]:
    """Folder for the new bundle, if one was asked for, the present one, and its verifier; checked before any photo.

    Raises:
        InputError: the folder holds something, or there is no such model.
    """
    from siamese_verify.models.bundle import check_target
    from siamese_verify.models.loading import find_bundle
    from siamese_verify.verification import Verifier

    output = Path(options.output) if options.output else None
    if output:
        check_target(output)
    bundle = find_bundle(options.model)
    selection = options.on_multiple_faces
    return (
        output,
        bundle,
        Verifier.load(options.model, engine="onnx", threads=options.threads, on_multiple_faces=selection),
    )


def open_album(options: argparse.Namespace) -> tuple[AlbumFolder, ScoreCalibration]:
    """The embedded album in `options.folder`, and the calibration of its scores: of `options.model`, or its own.

    Raises:
        InputError: there is none, or it was embedded by another model.
    """
    from siamese_verify.albums.album_folder import AlbumFolder
    from siamese_verify.models.loading import find_bundle

    album = AlbumFolder(options.folder)
    metadata = find_bundle(options.model or album.metadata.loaded_from).metadata
    if metadata.fingerprint != album.metadata.fingerprint:
        raise InputError(f"{options.folder} was embedded by {album.metadata.model}, not by {metadata.name}.")
    if metadata.score_calibration is None:
        raise InputError(
            f"The scores of {metadata.name} were never calibrated, which --rate needs: `siamese-verify recalibrate` "
            "does it."
        )
    return album, metadata.score_calibration


def add_page_option(parser: argparse.ArgumentParser, shown: str) -> None:
    """Add the option that asks for a page; `shown` says what it shows."""
    parser.add_argument("--page", metavar="FOLDER", help=f"write a page with {shown} here, as index.html")


def page_path(place: str | None, several: bool = False) -> Path | None:
    """Path of the page that `--page` asks for: `index.html` in a folder, which need not be there.

    Args:
        place: the folder, or a file that ends in .html; without it there is no page.
        several: the page leads to others beside it, which need a folder.

    Raises:
        InputError: there is another file in the place of the folder, or no folder for the file.
    """
    if not place:
        return None
    path = Path(place)
    if any(one.is_file() for one in (path, *path.parents)) and path.suffix.lower() != ".html":
        raise InputError(f"--page {place} is a file: name a folder, or a file for the page that ends in .html.")
    if path.suffix.lower() != ".html" or path.is_dir():
        return path / "index.html"
    if several:
        raise InputError(f"--page {place} names a file, but there is a page for each person: name a folder.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent} to write {place} to: create it first.")
    return path


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that permits to import the class of an encoder."""
    parser.add_argument(
        "--trust-code",
        metavar="CLASS",
        action="append",
        default=[],
        help="a class that the model's encoder on torch needs and you trust, such as my_package.MyNet",
    )


def add_threshold_options(
    parser: argparse.ArgumentParser, far: str = "false accept rate to operate at, such as 1e-3"
) -> None:
    """Add the options that choose the decision threshold; `far` says what it is a rate of."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--far", type=float, help=far)
    group.add_argument("--threshold", type=float, help="threshold to use instead of a measured one, in [-1, 1]")


def add_prior_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of the prior."""
    parser.add_argument(
        "--prior",
        type=float,
        help="share of genuine pairs among yours, such as 0.5: adds the probability of one person",
    )


def load_verifier(options: argparse.Namespace, liveness: Liveness | None = None, quick_start: bool = False) -> Verifier:
    """Load the verifier that the options ask for, see `Verifier.load`."""
    from siamese_verify.verification import Verifier

    return Verifier.load(
        options.model,
        engine=options.engine,
        device=options.device,
        threads=options.threads,
        trust_code=options.trust_code,
        on_multiple_faces=options.on_multiple_faces,
        liveness=liveness,
        quick_start=quick_start,
    )


def print_undecided(error: NoDecision, as_json: bool, keys: Iterable[str] = ()) -> int:
    """Print why photos allow no decision, also as JSON with the keys of an answer; return the exit status."""
    from siamese_verify.verification import undecided

    if as_json:
        print(json.dumps(undecided(error, keys)))
    way_out = " Or choose a face by --on-multiple-faces." if error.reason == "multiple_faces" else ""
    print(f"No decision: {printable(error)}{way_out}", file=sys.stderr)
    return NO_DECISION
