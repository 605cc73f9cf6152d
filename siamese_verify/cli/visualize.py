"""`siamese-verify visualize`: a page of what a network has learned: maps, neighbors, scores over the epochs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from siamese_verify.atomic_write import atomic_write, cache_folder
from siamese_verify.cli.evaluate import first_protocol
from siamese_verify.cli.options import add_trust_option
from siamese_verify.data import FaceCropper
from siamese_verify.data.face_dataset import picture_of
from siamese_verify.datasets import FolderPhotos, identity_name
from siamese_verify.datasets.folder import refuse_within
from siamese_verify.encoders import Encoder
from siamese_verify.errors import InputError, printable
from siamese_verify.evaluation.embedding_map import choose_rows, neighbor_strips, pca_map, umap_map
from siamese_verify.evaluation.pages.embedding_page import history_figure, map_figure, render_embeddings, tile_of
from siamese_verify.evaluation.score_history import read_score_history
from siamese_verify.models import embed_photos, load_model
from siamese_verify.models.loading import read_origin
from siamese_verify.protocols.held_out import run_folder
from siamese_verify.structures import Photos

MOST = 5000  # photos on a page
SHOWN = 60  # photos whose neighbors are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `visualize`."""
    parser.description = (
        "Draw what a network has learned, as one page that needs no network: maps of the embeddings of people it has "
        "never seen, with their photos; the nearest neighbors of each photo, the worst first; and the scores over the "
        "epochs. The page holds photos and their names: treat it as you treat them."
    )
    parser.add_argument("model", metavar="RUN", help="a run; with --faces also a bundle, a checkpoint or sface")
    parser.add_argument(
        "--faces",
        metavar="FOLDER",
        help="photos in a folder for each person (default: those that the run was tested on)",
    )
    parser.add_argument("--output", metavar="FOLDER", help="for index.html (default: visualize in the run's folder)")
    parser.add_argument("--photos", type=int, default=2000, help="to show at most, drawn at random (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of UMAP (default: 0)")
    parser.add_argument("--no-pictures", action="store_true", help="leave the photos out of the page")
    parser.add_argument("--no-umap", action="store_true", help="draw the map by principal components only")
    add_trust_option(parser)


def run(options: argparse.Namespace) -> int:
    """Embed the photos, write the page and its figures, and print where they are."""
    if not 2 <= options.photos <= MOST:
        raise InputError(f"--photos must be from 2 to {MOST}, got {options.photos}.")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed must be from 0 to {2**32 - 1}, got {options.seed}.")
    folder = run_folder(options.model)
    output = Path(options.output) if options.output else (folder or Path("runs")) / "visualize"
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file: name a folder.")
    title, photos = photos_to_show(options)
    refuse_within(output, photos)
    model = load_model(options.model, "cpu", options.trust_code, or_onnx=True)
    history = read_score_history(folder) if folder else []
    chosen = choose_rows(photos.identities, options.photos, options.seed)
    embeddings, tiles, rows = embed_with_pictures(model.encoder, photos, chosen.tolist(), not options.no_pictures)
    people = [identity_name(photos, int(photos.identities[row])) for row in rows]
    names = photos.names
    maps = [pca_map(embeddings)]
    strips = neighbor_strips(embeddings, people)
    right = sum(not strip.wrong[0] for strip in strips)
    sentences = [
        f"{len(rows):,} photos of {len(set(people)):,} identities: {title}.",
        f"The nearest neighbor of {right:,} of them has the same identity.",
    ]
    if len(chosen) < len(photos):
        sentences.append(f"They were drawn at random from {len(photos):,} photos (seed {options.seed}).")
    if missing := len(chosen) - len(rows):
        sentences.append(f"{missing:,} more show no face that could be selected.")
    wanted = not options.no_umap and len(rows) > 3
    if wanted and find_spec("umap") is None:
        print("There is no map by UMAP: pip install 'siamese-verify[visualize]' adds it.")
    elif wanted:
        print(f"UMAP arranges {len(rows):,} photos: it compiles first, up to a minute in all ...", flush=True)
        maps.append(umap_map(embeddings, options.seed))
    drawn = [(one, map_figure(one, people)) for one in maps]
    over_time = history_figure(history) if history else None
    page = render_embeddings(
        printable(f"What {Path(options.model).resolve().name} has learned"),
        drawn,
        over_time,
        strips,
        [str(names[row]) for row in rows],
        people,
        tiles,
        SHOWN,
        sentences,
    )
    output.mkdir(parents=True, exist_ok=True)
    for figure in [figure for _, figure in drawn] + ([over_time] if over_time else []):
        atomic_write(output / f"{figure.name}.png", figure.png, private=True)  # legends name people
    atomic_write(output / "index.html", page.encode(), private=True)
    print(printable(f"Page: {output / 'index.html'}"))
    return 0


def photos_to_show(options: argparse.Namespace) -> tuple[str, Photos]:
    """What the photos are, in words, and the photos: those asked for, or those that the run was tested on.

    Raises:
        InputError: no run is known and no photos are given; it is unknown who is on the photos.
    """
    if options.faces:
        return printable(str(options.faces)), FolderPhotos(options.faces)
    if run_folder(options.model) is None:
        read_origin(options.model)  # which raises where there is no model
        raise InputError(f"{options.model} is no run that has tested people: give photos by --faces FOLDER.")
    settings = {"model": str(options.model), "trust_code": list(options.trust_code), "protocols": {}}
    protocol, *_ = first_protocol(OmegaConf.create(settings))
    if not protocol.identities_known:
        raise InputError(f"Who is on the photos of {protocol.name} is unknown: give other photos by --faces FOLDER.")
    return protocol.name, protocol.photos


def embed_with_pictures(
    encoder: Encoder, photos: Photos, rows: Sequence[int], pictures: bool
) -> tuple[np.ndarray, list[Image.Image] | None, list[int]]:
    """Embed photos, and keep small pictures of what the encoder sees.

    Args:
        encoder: in evaluation mode.
        photos: the data set.
        rows: of it.
        pictures: whether to keep them.

    Returns:
        (K,D) unit embeddings; K pictures or None; the K rows on which a face was found.

    Raises:
        InputError: fewer than two.
    """
    tiles: list[Image.Image] = []

    def keep(images: Tensor, first: int) -> Tensor:
        tiles.extend(tile_of(picture_of(image, encoder.input_spec)) for image in images)
        return images

    cropper = FaceCropper(encoder.input_spec, cache_folder())
    embeddings, found = embed_photos(encoder.eval(), photos, cropper, rows, keep if pictures else None)
    if len(found) < 2:
        raise InputError(f"Faces were found on {len(found)} of {len(rows)} photos: two or more are needed.")
    return embeddings, tiles if pictures else None, found.tolist()
