"""Embed all faces of an album: part by part, by several processes or on Ray, so that a kill loses little.

A part is the unit of work: whoever computes it writes it, and a start computes the parts that are not there. So each
photo is in one part exactly once, whatever was killed and however often, and parts do not depend on who computed them.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from siamese_verify.albums.album_folder import (
    LEFT_OUT,
    METADATA,
    AlbumFace,
    AlbumFolder,
    AlbumMetadata,
    LeftOutPhoto,
    PhotoRange,
    added_names,
    album_face,
    claimed,
    create_folder,
    default_part,
    read_names,
    remove_unfinished,
    write_metadata,
    write_names,
)
from siamese_verify.albums.album_source import AlbumSource
from siamese_verify.albums.face_tracks import track_clip
from siamese_verify.atomic_write import atomic_open
from siamese_verify.errors import InputError
from siamese_verify.faces import DETECTORS, Quality, open_photo, reduced
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.tables import csv_cell
from siamese_verify.verification import NoDecision, Verifier
from siamese_verify.worker_pool import GO_ON, run_in_processes, usable_cores

CHUNK = 64  # photos whose faces are embedded together
EVERY = 30.0  # seconds between two lines of progress where there is no terminal
SOFTWARE = ("siamese-verify", "onnxruntime", "numpy", "pillow", "pyarrow")
UNREAD = "unread_file"  # reason of photos whose file may be read by a later start
UNKNOWN = Quality(*[None] * len(Quality._fields))  # type: ignore[arg-type]
EmbeddingEngine = Literal["processes", "ray"]


@dataclass(frozen=True)
class EmbeddingJob:
    """What every process needs.

    Attributes:
        folder: of the album.
        load: gives the verifier; called once in each process.
        threads: of each process that find faces, where a GPU embeds them.
    """

    folder: str
    load: Callable[[], Verifier]
    threads: int = 1


class PartCount(NamedTuple):
    """What is in a part that was written."""

    photos: int
    faces: int


class AlbumSummary(NamedTuple):
    """What a start has done, and what the album has now."""

    photos: int  # of the album
    faces: int
    left_out: int
    embedded: int  # photos of this start
    seconds: float
    skipped: Counter[str]  # files of a folder that are no photos, by suffix


def embed_album(
    source: str | Path,
    folder: str | Path,
    metadata: ModelMetadata,
    load: Callable[[], Verifier],
    *,
    bundle: str = "",
    root: str | Path | None = None,
    processes: int | None = None,
    threads: int = 1,
    engine: EmbeddingEngine = "processes",
    int8: bool = False,
    photos_per_part: int | None = None,
) -> AlbumSummary:
    """Embed all faces of an album's photos; a start after a kill goes on where it was, and photos that came are added.

    Parts with photos whose files could not be read are made anew by a start that can read one of them.

    Args:
        source: see `AlbumSource`.
        folder: of the embeddings; made for its owner only.
        metadata: of the model.
        load: gives a verifier of the model, in every process; it can be pickled where there are several.
        bundle: that the model was loaded from, so that a search finds it again.
        root: see `AlbumSource`.
        processes: that embed; by default one for each core. With 1, this one does.
        threads: of each process that read photos and find their faces, on the processor everywhere, so that a photo has
            the same faces; more than one serve where a GPU embeds.
        engine: `processes` of this machine, or `ray`: an actor for each, on the cluster that Ray is connected to, whose
            machines have to share source and folder.
        int8: store embeddings as int8, a quarter of the bytes.
        photos_per_part: at most; by default by the number of photos.

    Raises:
        InputError: a source that cannot be read, or without a photo; a list none of whose photos can be read, when all
            were tried; a folder that another process writes to, or that was made of another source or by another model
            or policy; a process that was killed.
    """
    started = time.monotonic()
    if engine not in ("processes", "ray"):
        raise InputError(f"engine must be 'processes' or 'ray', got {engine!r}.")
    processes = usable_cores() if processes is None else processes
    if not 1 <= processes <= 1024:
        raise InputError(f"From 1 to 1024 processes can embed, got {processes}.")
    if photos_per_part is not None and not 1 <= photos_per_part <= 2**16:
        raise InputError(f"A part has from 1 to {2**16:,} photos, got {photos_per_part}.")
    origin = AlbumSource(source, root)
    if metadata.input_spec.is_photo == (origin.kind == "arrays"):
        wanted = "photos" if metadata.input_spec.is_photo else "arrays, in a .npy"
        raise InputError(f"The model {metadata.name} takes {wanted}, but {source} holds {origin.kind}.")
    path = create_folder(folder)
    with claimed(path):
        remove_unfinished(path)
        album = _begin(path, origin, metadata, bundle, int8, photos_per_part)
        finished = {photos for photos in album.finished() if not _can_read_more(album, origin, photos)}
        todo = [photos for photos in album.ranges() if photos not in finished]
        total = album.metadata.lists[-1]
        job = EmbeddingJob(str(path.absolute()), load, threads)
        done = _on_ray(job, todo, processes) if engine == "ray" else _here(job, todo, processes)
        try:
            with closing(done):  # its processes end now, though a traceback holds it
                embedded = _watch(done, total, total - sum(stop - start for start, stop in todo))
        except KeyboardInterrupt as stopped:
            stopped.add_note(GO_ON)
            raise
        left_out = _list_left_out(album)
        if origin.kind == "list" and left_out[UNREAD] == total:
            raise InputError(
                f"No photo of the list {source} can be read, such as {album.names[0]!r}, which was looked for in "
                f"{origin.root}: put them there, or delete {folder} and give the folder they start from as --root."
            )
        return AlbumSummary(
            total, sum(album.sizes()), left_out.total(), embedded, time.monotonic() - started, origin.skipped
        )


def _can_read_more(album: AlbumFolder, source: AlbumSource, photos: PhotoRange) -> bool:
    """Whether a photo of a finished part can be read now and could not when it was written, as its disk was away."""
    for one in album.left_out_of(album.part(photos)):
        if one.reason == UNREAD:
            with suppress(InputError):
                source.check(one.photo)
                return True
    return False


def _begin(
    folder: Path, source: AlbumSource, metadata: ModelMetadata, bundle: str, int8: bool, photos_per_part: int | None
) -> AlbumFolder:
    """The album, with all photos that its source has now."""
    crop = metadata.input_spec.crop
    policy = DETECTORS[crop.detector].identifier if crop.needs_face else ""
    storage = "int8" if int8 else "float32"
    if not (folder / METADATA).is_file():
        count = write_names(folder, source.names())
        if not count:
            raise InputError(f"{source.place} holds no photo: give a folder, a list, a .rec, a .npy or a clip.")
        made = AlbumMetadata(
            metadata.name, bundle, metadata.weights_sha256, metadata.fingerprint, policy, source.identity, source.place,
            source.root, metadata.embedding_size, storage, photos_per_part or default_part(count), (count,),
            {name: _version(name) for name in SOFTWARE},
        )  # fmt: skip
        write_metadata(folder, made)
        return AlbumFolder(folder)
    album = AlbumFolder(folder)
    known = album.metadata
    for what, before, now in (
        ("the source", known.source, source.identity),
        ("the model", f"{known.model} ({known.fingerprint[:8]})", f"{metadata.name} ({metadata.fingerprint[:8]})"),
        ("the face policy", known.face_policy, policy),
        ("storage as", known.storage, storage),
    ):
        same = known.fingerprint == metadata.fingerprint if what == "the model" else before == now
        if not same:
            raise InputError(f"{folder} was made with {what} {before}, not {now}: name another folder.")
    names = read_names(folder)
    more = added_names(names, source.names())
    if len(more):
        write_names(folder, more.to_pylist(), names)
    count = len(names) + len(more)
    if count != known.lists[-1]:  # also where a kill came between both files
        write_metadata(folder, replace(known, lists=(*known.lists, count)))
    return AlbumFolder(folder)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class _UnreadFileError(InputError):
    """A file cannot be read, whatever is in it."""


@contextmanager
def _reading() -> Iterator[None]:
    """Context that tells errors of reading a file from those of its content."""
    try:
        yield
    except InputError as error:
        raise _UnreadFileError(str(error)) from None


class PhotoEmbedder:
    """Embeds ranges of an album's photos, and writes their parts.

    Args:
        job: see `EmbeddingJob`.
    """

    def __init__(self, job: EmbeddingJob) -> None:
        self.album = AlbumFolder(job.folder)
        self.source = self.album.source
        self.verifier = job.load()
        self.threads = job.threads

    def write(self, photos: PhotoRange) -> PartCount:
        """Embed the photos of a range and write their part.

        Raises:
            InputError: see `AlbumFolder.write_part`.
            ConnectionError: see `AlbumSource.read`.
        """
        faces: list[AlbumFace] = []
        left_out: list[LeftOutPhoto] = []
        names = iter(self.album.names[photos.start : photos.stop])
        with ThreadPoolExecutor(self.threads) as pool:
            while chunk := list(islice(names, max(CHUNK, self.verifier.batch))):
                found: list[tuple[AlbumFace, Any]] = []  # faces without an embedding, and what the encoder takes
                for answer in pool.map(self._search, chunk):
                    if isinstance(answer, LeftOutPhoto):
                        left_out.append(answer)
                    else:
                        found += answer
                faces += self._embedded(found)
        self.album.write_part(photos, faces, left_out)
        return PartCount(photos.stop - photos.start, len(faces))

    def _search(self, name: str) -> list[tuple[AlbumFace, Any]] | LeftOutPhoto:
        """Faces of a photo, or why it has none."""
        try:
            return self._find(name)
        except NoDecision as error:
            return LeftOutPhoto(name, error.reason, str(error))
        except _UnreadFileError as error:
            return LeftOutPhoto(name, UNREAD, str(error))

    def _find(self, name: str) -> list[tuple[AlbumFace, Any]]:
        """Faces of a photo, or tracks of a clip, which have their embedding already."""
        location = self.source.location(name)
        if self.source.is_clip(name):
            try:
                return [(face, None) for face in track_clip(location, name, self.verifier)]
            except NoDecision:
                with _reading():
                    self.source.check(name)
                raise
        with _reading():
            content = self.source.read(name)
        if self.source.kind == "arrays":
            return [(AlbumFace(name, (0.0, 0.0, 0.0, 0.0), 1.0, UNKNOWN, np.empty(0, np.float32)), content)]
        try:
            image = open_photo(content, location)
        except InputError as error:
            raise NoDecision(str(error), "unreadable_photo") from None
        width, height = (side * reduced(image) for side in image.size)
        found = self.verifier.find(image, location, "any", opened=True)
        return [(album_face(name, face, (width, height)), face.crop) for face in found]

    def _embedded(self, found: list[tuple[AlbumFace, Any]]) -> Iterator[AlbumFace]:
        inputs = [crop for _, crop in found if crop is not None]
        embed = self.verifier.embed_arrays if self.source.kind == "arrays" else self.verifier.embed_crops
        embeddings = iter(embed(np.stack(inputs)) if inputs else ())
        for face, crop in found:
            yield face if crop is None else face._replace(embedding=next(embeddings))


_embedder: PhotoEmbedder | None = None  # of this process


def _start_process(job: EmbeddingJob) -> None:
    """Load what a process needs."""
    global _embedder
    _embedder = PhotoEmbedder(job)


def _write_in_process(photos: PhotoRange) -> PartCount:
    assert _embedder is not None
    return _embedder.write(photos)


def _here(job: EmbeddingJob, todo: list[PhotoRange], processes: int) -> Generator[PartCount]:
    """Write parts by processes of this machine."""
    processes = min(processes, len(todo))
    if processes <= 1:
        embedder = PhotoEmbedder(job) if todo else None
        yield from (embedder.write(photos) for photos in todo if embedder)
        return
    try:
        yield from run_in_processes(processes, _write_in_process, ((photos,) for photos in todo), _start_process, job)
    except BrokenProcessPool:
        raise InputError(
            "A process that embeds could not start, or was killed, perhaps for want of memory: start again with "
            f"fewer --processes than {processes}; finished parts are kept."
        ) from None


def _on_ray(job: EmbeddingJob, todo: list[PhotoRange], processes: int) -> Generator[PartCount]:
    """Write parts by Ray Data: the ranges are its rows, and each of its actors loads the model once."""
    try:
        import ray
        from ray.data import ActorPoolStrategy
    except ImportError:
        raise InputError("The engine ray needs Ray Data: pip install 'siamese-verify[ray]'.") from None
    if not todo:
        return
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:  # no cluster: one for this run
        ray.init(num_cpus=max(processes, usable_cores()), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours shows photos
    rows = ray.data.from_items([{"start": one.start, "stop": one.stop} for one in todo], override_num_blocks=len(todo))
    actors = ActorPoolStrategy(size=min(processes, len(todo)))
    embedder: Any = RayEmbedder  # whose instances are called
    done = rows.map(embedder, fn_constructor_args=(job,), compute=actors, num_cpus=1)
    yield from (PartCount(row["photos"], row["faces"]) for row in done.iter_rows())


class RayEmbedder:
    """Writes parts as an actor of Ray Data.

    Args:
        job: see `EmbeddingJob`.
    """

    def __init__(self, job: EmbeddingJob) -> None:
        self.embedder = PhotoEmbedder(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the part of the range `start` to `stop`; return its `PartCount`."""
        return self.embedder.write(PhotoRange(row["start"], row["stop"]))._asdict()


def _watch(done: Iterator[PartCount], total: int, before: int) -> int:
    """Show progress, throughput and what is left; return the number of photos embedded."""
    photos = faces = 0
    started = said = time.monotonic()
    with tqdm(total=total, initial=before, unit=" photos", desc="Embedding", delay=2, disable=None) as bar:
        for part in done:
            photos, faces = photos + part.photos, faces + part.faces
            bar.update(part.photos)
            bar.set_postfix(faces=faces)
            now = time.monotonic()
            if bar.disable and now - said > EVERY:
                said, rate = now, photos / (now - started)
                left = (total - before - photos) / rate / 60
                print(f"{before + photos:,} of {total:,} photos, {rate:.1f} a second, {left:,.0f} min left", flush=True)
    return photos


def _list_left_out(album: AlbumFolder) -> Counter[str]:
    """Write the table of photos without a face; return how many there are of each reason."""
    counts = Counter[str]()
    with atomic_open(album.path / LEFT_OUT, private=True) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text)
        writer.writerow(LeftOutPhoto._fields)
        for one in album.left_out():
            writer.writerow(map(csv_cell, one))
            counts[one.reason] += 1
        text.detach()  # the file is closed by who opened it
    return counts
