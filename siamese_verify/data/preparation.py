"""Photos -> aligned faces in a folder: found once, cut once, checked, counted, and read fast ever after."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from siamese_verify.data.contact_sheet import Cell, contact_sheet, in_rows, save_sheet
from siamese_verify.data.crops import spec_for
from siamese_verify.data.prepared import INDEX, RECORD, Preparation, read_preparation
from siamese_verify.errors import InputError
from siamese_verify.faces import Choice, FaceDetector, Subject, alignment_name, crop_face, find_subject, sharpness
from siamese_verify.files import write_whole
from siamese_verify.types import InputSpec, Photos

CHUNK = 256  # photos between two savings: what a kill can lose, for each process
WORK = ".unfinished"
PICTURES = 60  # on a contact sheet
ORIENTATION = 0x0112  # EXIF's tag
OUTCOMES = {
    "aligned": "aligned",
    "no face": "left out: no face was found",
    "unreadable": "left out: unreadable",
    "dropped": "left out: identity on the drop list",
}
SCHEMA = pa.schema(
    [
        pa.field("path", pa.large_string()),  # of the face, in the folder
        pa.field("identity", pa.large_string()),
        pa.field("split", pa.large_string()),
        pa.field("source", pa.large_string()),  # of the photo, where it came from
        pa.field("outcome", pa.large_string()),
        pa.field("reason", pa.large_string()),
        pa.field("box", pa.list_(pa.float32(), 4)),  # left, top, right, bottom in pixels of the upright photo
        pa.field("landmarks", pa.list_(pa.float32(), 10)),  # x and y of eyes, nose and corners of the mouth
        pa.field("probability", pa.float32()),  # of being a face
        pa.field("faces", pa.int32()),  # on the photo
        pa.field("turned", pa.int32()),  # degrees counter-clockwise
        pa.field("sharpness", pa.float32()),
        pa.field("width", pa.int32()),  # of the upright photo
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.large_string()),  # of the face's file
    ]
)


@dataclass(frozen=True)
class Alignment:
    """How faces are prepared.

    Attributes:
        spec: size and crop.
        choice: which of several faces is the subject, see `siamese_verify.faces.choose_face`.
        quality: of the JPEGs, 1 ... 100.
    """

    spec: InputSpec
    choice: Choice = "central"
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise InputError(f"The quality of JPEGs lies in 1 ... 100, got {self.quality}.")
        if self.choice not in ("central", "largest", "probable"):
            raise InputError(f"Of several faces the central, largest or probable one is taken, not {self.choice!r}.")


def prepare_faces(
    photos: Photos,
    source: str,
    output: Path,
    alignment: Alignment,
    versions: dict[str, str],
    drop: str | Path | None = None,
    processes: int | None = None,
) -> Preparation:
    """Align all photos of a data set, or go on where a killed run stopped.

    What comes out does not depend on the number of processes, nor on how often it was stopped: every photo is searched
    by itself. Nothing is written outside of `output`.

    Args:
        photos: of the data set.
        source: its name.
        output: folder for faces, index, account and contact sheets.
        alignment: how.
        versions: of the software, for the record.
        drop: list of identities to leave out, by name or number, one in a line; after a tab or comma the reason.
        processes: that share the work; None = one for each core, 0 = this one.

    Raises:
        InputError: the folder holds something else, a drop list that cannot be read or names nobody, a full disk, or
            not one face was found.
    """
    dropped = read_drop_list(drop, photos) if drop else {}
    settings = {
        "source": source,
        "photos": len(photos),
        "digest": digest_of(photos),
        "alignment": asdict(alignment),
        "name": alignment_name(alignment.spec.crop),
        "dropped": {str(code): reason for code, reason in dropped.items()},
    }
    if (output / RECORD).is_file():
        return finished(output, settings)
    begin(output, settings)
    try:
        align_all(photos, output, alignment, dropped, processes)
        counts, digest = merge(output, len(photos))
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}): make room, and run the command again to go on."
        ) from None
    if not counts["aligned"]:
        raise InputError(
            f"Not one of {len(photos):,} photos of {source} gave a face ({told(counts)}): look at "
            f"{output / 'left_out.csv'}."
        )
    identities, sizes = np.unique(photos.identities[np.isin(photos.identities, list(dropped))], return_counts=True)
    record = Preparation(
        source=source,
        aligned=alignment.spec,
        alignment=alignment_name(alignment.spec.crop),
        digest=digest,
        outcomes=dict(counts),
        dropped=[
            {"identity": identity_name(photos, code), "photos": int(size), "reason": dropped[int(code)]}
            for code, size in zip(identities.tolist(), sizes, strict=True)
        ],
        drop_list=Path(drop).name if drop else None,
        versions=versions,
    )
    draw_sheets(photos, output)
    (output / WORK / "settings.json").replace(output / "settings.json")
    write_whole(output / RECORD, json.dumps(asdict(record), indent=1).encode())
    shutil.rmtree(output / WORK, ignore_errors=True)
    return record


def told(counts: Counter[str]) -> str:
    """How often each outcome came, in words."""
    return ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES if counts[outcome])


def digest_of(photos: Photos) -> str:
    """What tells one data set from another."""
    given = getattr(photos, "digest", None)
    if given is not None:
        return str(given)
    names = "\n".join(photos.names).encode("utf-8", "surrogateescape")
    return hashlib.sha256(names + np.asarray(photos.identities, dtype=np.int64).tobytes()).hexdigest()


def identity_name(photos: Photos, code: int) -> str:
    """Name of an identity; its number where it has none."""
    people = getattr(photos, "people", None)
    return str(people[code]) if people is not None else str(code)


def read_drop_list(path: str | Path, photos: Photos) -> dict[int, str]:
    """Whom to leave out, by their numbers in `photos`, and why.

    Raises:
        InputError: no such file, not UTF-8, or nobody in it is in the data set.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The drop list {path} cannot be read: {error}.") from None
    reasons = {}
    for line in filter(None, lines):
        name, _, reason = line.partition("\t" if "\t" in line else ",")
        reasons[name.strip()] = reason.strip() or f"listed in {Path(path).name}"
    codes = np.unique(photos.identities).tolist()
    found = {code: reasons[name] for code in codes if (name := identity_name(photos, code)) in reasons}
    if not found:
        raise InputError(
            f"None of the {len(reasons):,} identities in {path} is in the data set, whose first is "
            f"{identity_name(photos, codes[0])!r}: list names or numbers as they are there."
        )
    return found


def finished(output: Path, settings: dict[str, Any]) -> Preparation:
    """What a run before this one has made, if it is the same."""
    found = read_preparation(output)
    if json.loads((output / "settings.json").read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
        raise InputError(f"{output} holds faces that were prepared from other photos or in another way: set output.")
    return found


def begin(output: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or see that what is in it is the beginning of the same."""
    state = output / WORK / "settings.json"
    told = json.dumps(settings, indent=1).encode()
    if state.is_file():
        if json.loads(state.read_text(encoding="utf-8")) != json.loads(told):
            raise InputError(
                f"{output} holds the beginning of another preparation: delete it, or set another folder by output."
            )
        return
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"The folder {output} is not empty: set another one by output.")
    state.parent.mkdir(parents=True, exist_ok=True)
    write_whole(state, told)


def part_of(output: Path, chunk: int) -> Path:
    """Where the index of a chunk lies until all are there."""
    return output / WORK / f"{chunk:06d}.parquet"


def align_all(
    photos: Photos, output: Path, alignment: Alignment, dropped: dict[int, str], processes: int | None
) -> None:
    """Align the chunks that are not there yet, under a progress bar."""
    chunks = range(-(-len(photos) // CHUNK))
    missing = [chunk for chunk in chunks if not part_of(output, chunk).is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    work = (photos, output, alignment, dropped)
    with Progress(*columns) as progress:
        bar = progress.add_task("Aligning faces", total=len(photos))
        progress.advance(bar, min(len(photos), (len(chunks) - len(missing)) * CHUNK))
        if processes == 0:
            aligner, threads = Aligner(*work), torch.get_num_threads()
            torch.set_num_threads(1)  # as in a process of its own: the last bits depend on it
            try:
                for chunk in missing:
                    progress.advance(bar, aligner(chunk))
            finally:
                torch.set_num_threads(threads)
            return
        count = processes or len(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(count, context, initializer=start_worker, initargs=work) as pool:
            try:
                for size in in_any_order(pool, missing, 2 * count):
                    progress.advance(bar, size)
            except BrokenProcessPool:
                raise InputError(
                    "A process that aligned faces was killed, perhaps for want of memory: run the command again to go "
                    "on, with fewer processes."
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def in_any_order(pool: Executor, chunks: Sequence[int], ahead: int) -> Iterator[int]:
    """Have chunks aligned, a few of them waiting at a time; sizes as they come."""
    waiting: set[Future[int]] = set()
    rest = iter(chunks)
    while True:
        for chunk in rest:
            waiting.add(pool.submit(run_worker, chunk))
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for one in done:
            yield one.result()


class Aligner:
    """Aligns a chunk of photos after another.

    Args:
        photos: of the data set.
        output: folder.
        alignment: how.
        dropped: identities to leave out, and why.
    """

    def __init__(self, photos: Photos, output: Path, alignment: Alignment, dropped: dict[int, str]) -> None:
        self.photos, self.output, self.alignment, self.dropped = photos, output, alignment, dropped
        self.spec = spec_for(photos, alignment.spec)
        self.detector = FaceDetector() if self.spec.crop.needs_face else None
        self.splits = getattr(photos, "splits", None)

    def __call__(self, chunk: int) -> int:
        """Align one chunk, write its faces and then its index; how many photos it has."""
        rows = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.photos)))
        table = pa.Table.from_pylist([self.align(row) for row in rows], schema=SCHEMA)
        content = io.BytesIO()
        parquet.write_table(table, content)
        write_whole(part_of(self.output, chunk), content.getvalue())
        return len(rows)

    def align(self, row: int) -> dict[str, Any]:
        """Align one photo: its line of the index."""
        photos, name = self.photos, self.photos.names[row]
        code = int(photos.identities[row])
        line: dict[str, Any] = {
            "identity": identity_name(photos, code),
            "split": self.splits[row] if self.splits is not None else None,
            "source": name,
        }
        if code in self.dropped:
            return {**line, "outcome": "dropped", "reason": self.dropped[code]}
        try:
            photo = photos[row]
        except InputError as error:
            return {**line, "outcome": "unreadable", "reason": str(error)}
        subject = Subject(None, 0, 0)
        if self.detector:
            subject = find_subject(self.detector, photo, self.alignment.choice)
            if subject.face is None:
                return {**line, "outcome": "no face", "reason": "no face was found, upright or on either side"}
        upright = subject.upright(photo)
        face = crop_face(upright, self.spec, subject.face)
        content = self.unchanged(row) or self.encoded(face)
        path = face_path(name, line["identity"])
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.output / path, content)
        line |= {"path": path, "outcome": "aligned", "faces": subject.faces, "turned": subject.turned}
        line |= {"sharpness": sharpness(face), "width": upright.width, "height": upright.height}
        if subject.face:
            line |= {"box": subject.face.box, "landmarks": np.ravel(subject.face.landmarks).tolist()}
            line |= {"probability": subject.face.probability}
        return {**line, "sha256": hashlib.sha256(content).hexdigest()}

    def encoded(self, face: Image.Image) -> bytes:
        """A face as a JPEG."""
        content = io.BytesIO()
        face.save(content, "JPEG", quality=self.alignment.quality, subsampling=0)
        return content.getvalue()

    def unchanged(self, row: int) -> bytes | None:
        """The photo's own file, where it is a JPEG that is the face already: to encode it again would cost quality."""
        if self.spec.crop.kind != "whole" or not hasattr(self.photos, "read"):
            return None
        content: bytes = self.photos.read(row)
        with Image.open(io.BytesIO(content)) as image:
            upright = image.getexif().get(ORIENTATION, 1) == 1
            same = image.format == "JPEG" and image.mode == "RGB" and image.size == (self.spec.size, self.spec.size)
        return content if same and upright else None


def face_path(name: str, identity: str) -> str:
    """Where a face goes: beside its like if the photo's name has folders, else under its identity."""
    source = PurePosixPath(name)
    if len(source.parts) < 2:
        source = PurePosixPath(
            hashlib.sha256(identity.encode()).hexdigest()[:16] if unsafe(identity) else identity, name
        )
    kept = source if source.suffix.lower() in (".jpg", ".jpeg") else source.with_name(source.name + ".jpg")
    return PurePosixPath("faces", *[part for part in kept.parts if part not in ("/", "..")]).as_posix()


def unsafe(identity: str) -> bool:
    """A name that would be more than one folder, or another than it says."""
    return identity in ("", ".", "..") or any(sign in identity for sign in "/\\:\0")


_ALIGNER: Aligner | None = None  # of a worker process


def start_worker(photos: Photos, output: Path, alignment: Alignment, dropped: dict[int, str]) -> None:
    """Make a process ready to align."""
    global _ALIGNER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that gives out the work
    threading.Thread(target=leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _ALIGNER = Aligner(photos, output, alignment, dropped)


def leave_with_parent() -> None:
    """End a worker whose parent was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_worker(chunk: int) -> int:
    """Align a chunk in a worker process."""
    assert _ALIGNER is not None
    return _ALIGNER(chunk)


def merge(output: Path, photos: int) -> tuple[Counter[str], str]:
    """Put the chunks' indices together: how often each outcome came, and the SHA-256 of the index."""
    counts: Counter[str] = Counter()
    unfinished = output / WORK / INDEX
    account = io.StringIO()
    left_out = csv.writer(account, lineterminator="\n")
    left_out.writerow(("photo", "identity", "outcome", "reason"))
    with parquet.ParquetWriter(unfinished, SCHEMA) as writer:
        for chunk in range(-(-photos // CHUNK)):
            table = parquet.read_table(part_of(output, chunk), schema=SCHEMA)
            counts.update(table["outcome"].to_pylist())
            kept = pa.compute.equal(table["outcome"], "aligned")
            writer.write_table(table.filter(kept))
            for line in table.filter(pa.compute.invert(kept)).to_pylist():
                left_out.writerow((line["source"], line["identity"], line["outcome"], line["reason"]))
    write_whole(output / "left_out.csv", account.getvalue().encode("utf-8", "surrogateescape"))
    with unfinished.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    unfinished.replace(output / INDEX)
    return counts, digest


def draw_sheets(photos: Photos, output: Path) -> None:
    """Draw a contact sheet of every outcome that can be looked at."""
    columns = ["path", "identity", "source", "faces", "turned", "sharpness"]
    table = parquet.read_table(output / INDEX, columns=columns)
    faces, turned, sharp = (table[name].to_numpy() for name in ("faces", "turned", "sharpness"))
    groups = {
        "aligned": ("Aligned faces, drawn at random", np.random.default_rng(0).permutation(len(table))),
        "several": ("The chosen one of several faces", np.flatnonzero(faces > 1)),
        "turned": ("Found on photos that lie on their side", np.flatnonzero(turned > 0)),
        "blurred": ("The least sharp faces", np.argsort(sharp, kind="stable")),
    }
    for name, (title, rows) in groups.items():
        cells = []
        for line in table.take(rows[:PICTURES]).to_pylist():
            with Image.open(output / line["path"]) as face:
                cells.append(Cell(face.convert("RGB"), line["identity"]))
        if cells:
            shown = f"{title}: {len(cells)} of {len(rows):,}" if name != "blurred" else title
            save_sheet(contact_sheet(in_rows(cells), shown), output / "sheets" / f"{name}.jpg")
    with (output / "left_out.csv").open(encoding="utf-8", newline="") as file:
        faceless = [line["photo"] for line in csv.DictReader(file) if line["outcome"] == "no face"]
    if faceless:
        wanted = set(faceless[:PICTURES])
        cells = [Cell(photos[row], name) for row, name in enumerate(photos.names) if name in wanted]
        title = f"No face was found: {len(cells)} of {len(faceless):,}"
        save_sheet(contact_sheet(in_rows(cells), title), output / "sheets" / "no_face.jpg")
