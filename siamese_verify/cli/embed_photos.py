"""`siamese-verify embed`: every face of many photos, embedded into a folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from siamese_verify.errors import InputError, printable
from siamese_verify.structures import DEFAULT_MODEL
from siamese_verify.worker_pool import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `embed`."""
    parser.description = (
        "Find and embed every face of many photos. Stopped at any point and started again, it goes on where it was; "
        "photos that came since are added. Nothing leaves this machine, and the folder is readable for you only: "
        "embeddings of faces are personal data."
    )
    parser.add_argument(
        "source",
        help="a folder of photos; a list of paths (.csv or .parquet with the column path, .txt); a .rec; a .npy of "
        "arrays; a clip (.mp4 and such); folders, lists and .rec also in object storage",
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="for the embeddings")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="sface, casia-webface, vggface2, openface, a bundle or a run (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="that the paths of a list start from, also absolute ones that lie in it (default: the list's own)",
    )
    parser.add_argument(
        "--processes", type=int, help="that embed, each on one thread (default: one for each core; 1 with a GPU)"
    )
    parser.add_argument(
        "--on",
        "--engine",
        dest="engine",
        choices=("processes", "ray"),
        default="processes",
        help="processes of this machine, or actors of Ray (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto for a GPU that ONNX Runtime finds (default: %(default)s)"
    )
    parser.add_argument("--int8", action="store_true", help="store embeddings as int8: a quarter of the bytes")


def run(options: argparse.Namespace) -> int:
    """Embed the photos, and print what was found."""
    from siamese_verify.albums.embed_album import embed_album
    from siamese_verify.models.loading import find_bundle
    from siamese_verify.models.metadata import PRETRAINED
    from siamese_verify.verification import Verifier

    bundle = find_bundle(options.model)
    place = str(bundle.folder.absolute())
    load = partial(Verifier.load, place, device=options.device, threads=1)
    pretrained = options.model in PRETRAINED
    metadata = replace(bundle.metadata, name=options.model) if pretrained else bundle.metadata
    processes, threads = options.processes, 1
    if _on_gpu(options.device):
        processes = 1 if processes is None else processes  # each has a CUDA context and a model of its own
        threads = max(1, usable_cores() // max(1, processes))
    try:
        found = embed_album(
            options.source,
            options.output,
            metadata,
            load,
            bundle=options.model if pretrained else place,
            root=options.root,
            processes=processes,
            threads=threads,
            engine=options.engine,
            int8=options.int8,
        )
    except ConnectionError as error:  # parts that are finished stay
        raise InputError(str(error)) from None
    rate = f", {found.embedded / found.seconds:,.1f} photos a second" if found.embedded else ""
    print(printable(f"{found.photos:,} photos, {found.faces:,} faces in {options.output}{rate}."))
    if found.left_out:
        print(f"{found.left_out:,} photos have none: see {printable(Path(options.output) / 'left_out.csv')}.")
    for suffix, count in found.skipped.most_common(5):
        print(printable(f"Warning: {count:,} files are no photos ({suffix})."), file=sys.stderr)
    return 0


def _on_gpu(device: str) -> bool:
    """Whether a verifier embeds on a GPU, see `open_session`."""
    from siamese_verify.onnx_runtime import CUDA, import_onnxruntime

    return device != "cpu" if device != "auto" else CUDA in import_onnxruntime().get_available_providers()
