"""Prepare a data set: every photo is searched, aligned and stored once, and all that is left out is listed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pyarrow import parquet
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from siamese_verify.atomic_write import atomic_open, atomic_write
from siamese_verify.datasets.folder import refuse_within
from siamese_verify.datasets.listing import identity_name, read_drop_list
from siamese_verify.datasets.prepared import INDEX, RECORD, Preparation, read_preparation
from siamese_verify.errors import InputError
from siamese_verify.faces import alignment_name
from siamese_verify.preparation.align_photos import SCHEMA, Aligner, Alignment, files_for, run_worker, start_worker
from siamese_verify.preparation.contact_sheets import draw_sheets
from siamese_verify.structures import Photos
from siamese_verify.tables import csv_cell
from siamese_verify.worker_pool import GO_ON, run_in_processes, usable_cores

CHUNK = 256  # photos between two saves: what a kill can lose, for each process
WORK = ".unfinished"
OUTCOMES = {
    "aligned": "aligned",
    "no face": "left out: no face was found",
    "multiple faces": "left out: multiple faces, and it is unclear which one is meant",
    "unreadable": "left out: unreadable",
    "dropped": "left out: identity on the drop list",
}


def prepare_faces(
    photos: Photos,
    source: str,
    output: Path,
    alignment: Alignment,
    versions: dict[str, str],
    drop: str | Path | None = None,
    processes: int | None = None,
    chunk: int = CHUNK,
) -> Preparation:
    """Align all photos of a data set, or continue a run that was stopped.

    The result depends neither on the number of processes nor on how often it was stopped. Nothing is written outside of
    `output`.

    Args:
        photos: of the data set.
        source: its name.
        output: folder for faces, index, the list of what was left out, and contact sheets.
        alignment: how faces are selected, cut and stored.
        versions: of the software, to be recorded.
        drop: list of identities to leave out, by name or number, one per line; after a tab or comma the reason.
        processes: that share the work; None = one for each core, 0 = this one.
        chunk: photos between two saves; a stopped run continues with the same.

    Raises:
        InputError: the folder holds something else or lies among the photos, the drop list cannot be read or has no
            identity of the data set, the disk is full, or no photo has a face.
    """
    refuse_within(output, photos)
    dropped = read_drop_list(drop, photos) if drop else {}
    settings = {
        "source": source,
        "photos": len(photos),
        "digest": photos_digest(photos),
        "alignment": asdict(alignment),
        "name": alignment_name(alignment.spec.crop),
        "dropped": {str(code): reason for code, reason in dropped.items()},
        "chunk": chunk,
    }
    if (output / RECORD).is_file():
        return read_finished(output, settings)
    resumed = start_or_resume(output, settings)
    chunks = {
        output / WORK / f"{number:06d}.parquet": range(start, min(start + chunk, len(photos)))
        for number, start in enumerate(range(0, len(photos), chunk))
    }
    try:
        align_chunks(chunks, photos, output, alignment, dropped, processes)
        counts, digest = merge_chunks(chunks, output)
    except KeyboardInterrupt as stopped:
        stopped.add_note(GO_ON)
        raise
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}): make room, and run the command again to go on."
        ) from None
    if not counts["aligned"]:
        left_out = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES if counts[outcome])
        raise InputError(
            f"None of {len(photos):,} photos of {source} gave a face ({left_out}): see {output / 'left_out.csv'}."
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
    draw_sheets(photos, output, dropped)
    if resumed:
        for unfinished in output.rglob(".*.part"):  # of a kill in the middle of a file
            unfinished.unlink()
    atomic_write(output / "settings.json", (output / WORK / "settings.json").read_bytes())
    atomic_write(output / RECORD, json.dumps(asdict(record), indent=1).encode())
    shutil.rmtree(output / WORK, ignore_errors=True)
    return record


def photos_digest(photos: Photos) -> str:
    """SHA-256 that tells one data set from another."""
    given = getattr(photos, "digest", None)
    if given is not None:
        return str(given)
    names = "\n".join(photos.names).encode("utf-8", "surrogateescape")
    return hashlib.sha256(names + np.asarray(photos.identities, dtype=np.int64).tobytes()).hexdigest()


def read_finished(output: Path, settings: dict[str, Any]) -> Preparation:
    """Read the result of a finished run with the same settings."""
    shutil.rmtree(output / WORK, ignore_errors=True)  # of a run that was killed while it cleaned up
    found = read_preparation(output)
    if json.loads((output / "settings.json").read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
        raise InputError(f"{output} holds faces that were prepared from other photos or in another way: set output.")
    return found


def start_or_resume(output: Path, settings: dict[str, Any]) -> bool:
    """Make the folder, or check that it holds an unfinished run with the same settings: True then."""
    state = output / WORK / "settings.json"
    content = json.dumps(settings, indent=1).encode()
    if state.is_file():
        if json.loads(state.read_text(encoding="utf-8")) != json.loads(content):
            raise InputError(
                f"{output} holds the beginning of another preparation: delete it, or set another folder by output."
            )
        return True
    if output.is_dir() and any(path.name != WORK for path in output.iterdir()):  # WORK alone: killed before settings
        raise InputError(f"The folder {output} is not empty: set another one by output.")
    state.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(state, content)
    return False


def align_chunks(
    chunks: dict[Path, range],
    photos: Photos,
    output: Path,
    alignment: Alignment,
    dropped: dict[int, str],
    processes: int | None,
) -> None:
    """Align the chunks whose index is missing, under a progress bar."""
    missing = [(rows, index) for index, rows in chunks.items() if not index.is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    arguments = (photos, output, alignment, dropped, files_for(photos, alignment))
    with Progress(*columns) as progress:
        bar = progress.add_task("Aligning faces", total=len(photos))
        progress.advance(bar, len(photos) - sum(len(rows) for rows, _ in missing))
        if processes == 0:
            aligner = Aligner(*arguments)
            for rows, index in missing:
                progress.advance(bar, aligner(rows, index))
            return
        count = processes or usable_cores()
        try:
            for size in run_in_processes(count, run_worker, missing, start_worker, *arguments):
                progress.advance(bar, size)
        except BrokenProcessPool:
            raise InputError(
                "A process that aligned faces was killed, perhaps for want of memory: run the command again to go on, "
                "with fewer processes."
            ) from None


def merge_chunks(chunks: dict[Path, range], output: Path) -> tuple[Counter[str], str]:
    """Merge the indices of the chunks: number of photos by outcome, and the SHA-256 of the index."""
    counts: Counter[str] = Counter()
    unfinished = output / WORK / INDEX
    table = io.StringIO()
    left_out = csv.writer(table)  # ends lines by \r\n, since only then "\r" in a name is quoted
    left_out.writerow(("photo", "identity", "outcome", "reason"))
    with atomic_open(unfinished) as file, parquet.ParquetWriter(file, SCHEMA) as writer:
        for index in chunks:
            lines = parquet.read_table(index, schema=SCHEMA)
            counts.update(lines["outcome"].to_pylist())
            aligned = pc.equal(lines["outcome"], "aligned")
            writer.write_table(lines.filter(aligned))
            for line in lines.filter(pc.invert(aligned)).to_pylist():
                left_out.writerow([csv_cell(line[name] or "") for name in ("source", "identity", "outcome", "reason")])
    refuse_duplicates(parquet.read_table(unfinished, columns=["path"])["path"])
    atomic_write(output / "left_out.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    with unfinished.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    unfinished.replace(output / INDEX)
    return counts, digest


def refuse_duplicates(paths: Any) -> None:
    """Check that no face overwrote another.

    Raises:
        InputError: two photos have one path, such as `anna/1.jpg` of anybody and `1.jpg` of anna.
    """
    if pc.count_distinct(paths).as_py() == len(paths):
        return
    counts = pc.value_counts(paths)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
    raise InputError(f"Two photos would both be {twice}: rename one of them in the data set, and set another output.")
