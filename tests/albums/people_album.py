"""An embedded album of synthetic faces whose people are known, and the bundle that embedded it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siamese_verify.albums.album_folder import (
    AlbumFace,
    AlbumFolder,
    AlbumMetadata,
    create_folder,
    write_metadata,
    write_names,
)
from siamese_verify.albums.album_source import AlbumSource
from siamese_verify.albums.face_table import FaceTable
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.evaluation import ScoreCalibration, calibrate
from siamese_verify.faces import Quality
from siamese_verify.models.bundle import write_bundle
from tests.albums.stub_verifier import METADATA

SIZE, SIDE, EDGE = 24, 112, 16  # of embeddings, of photos, and around a face
UNKNOWN = Quality(*[math.nan] * len(Quality._fields))


class PeopleAlbum(NamedTuple):
    """Where it is, and whose face is in each row."""

    folder: Path
    bundle: Path
    identities: np.ndarray
    calibration: ScoreCalibration

    @property
    def table(self) -> FaceTable:
        return FaceTable.read(self.folder)


def draw_rows(people: int, photos: int, seed: int, apart: float = 0.0) -> np.ndarray:
    """(people * photos, SIZE) embeddings; the later half of the photos of each person is moved by `apart`."""
    generator = np.random.default_rng(seed)
    rows = np.repeat(generator.normal(size=(people, SIZE)), photos, axis=0)
    moved = np.repeat(generator.normal(size=(people, SIZE)), photos, axis=0)
    rows += apart * moved * (np.arange(len(rows)) % photos >= (photos + 1) // 2)[:, None]
    rows += 0.35 * generator.normal(size=rows.shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def write_people(folder: Path, people: int = 8, photos: int = 6, seed: int = 0, apart: float = 2.0) -> PeopleAlbum:
    """Draw photos of people whose later photos are less like the earlier ones, and embed them by their identity."""
    faces = SyntheticFaces(people, photos, SIDE, seed)
    names = [f"{row // photos:02}/{row % photos}.png" for row in range(len(faces))]
    for row, name in enumerate(names):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        faces[row].save(folder / "photos" / name)
    calibration = calibrate(draw_rows(60, 4, 9, apart), np.repeat(np.arange(60), 4), intervals=False)
    metadata = replace(METADATA, embedding_size=SIZE, score_calibration=calibration)
    bundle = write_bundle(folder / "model", metadata, {}, {"weights_sha256": metadata.weights_sha256}, {})
    source, target = AlbumSource(folder / "photos"), create_folder(folder / "faces")
    known = bundle.metadata
    write_names(target, names)
    write_metadata(
        target,
        AlbumMetadata(
            model=known.name,
            bundle=str(folder / "model"),
            weights_sha256=known.weights_sha256,
            fingerprint=known.fingerprint,
            face_policy="",
            source=source.identity,
            place=source.place,
            root=source.root,
            embedding_size=SIZE,
            storage="float32",
            photos_per_part=len(names),
            lists=(len(names),),
            versions={},
        ),
    )
    album, box = AlbumFolder(target), (float(EDGE), float(EDGE), float(SIDE - EDGE), float(SIDE - EDGE))
    rows = draw_rows(people, photos, seed, apart)
    found = [AlbumFace(name, box, 1.0, UNKNOWN, row) for name, row in zip(names, rows, strict=True)]
    album.write_part(album.ranges()[0], found, [])
    return PeopleAlbum(target, folder / "model", np.repeat(np.arange(people), photos), calibration)
