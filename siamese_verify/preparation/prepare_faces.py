"""Photos -> aligned faces in a folder: found once, cut once, checked, counted, and read fast ever after."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pyarrow import parquet
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from siamese_verify.atomic_write import whole_file, write_whole
from siamese_verify.datasets.listing import identity_name, read_drop_list
from siamese_verify.datasets.prepared import INDEX, RECORD, Preparation, read_preparation
from siamese_verify.errors import InputError
from siamese_verify.faces import alignment_name
from siamese_verify.faces.alignment import Alignment
from siamese_verify.preparation.align_photos import SCHEMA, Aligner, networks_for, run_worker, start_worker
from siamese_verify.preparation.contact_sheets import draw_sheets
from siamese_verify.structures import Photos
from siamese_verify.tables import csv_cell

CHUNK = 256  # photos between two savings: what a kill can lose, for each process
WORK = ".unfinished"
OUTCOMES = {
    "aligned": "aligned",
    "no face": "left out: no face was found",
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
    resumed = begin(output, settings)
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
    draw_sheets(photos, output, dropped)
    if resumed:
        for left in output.rglob(".*.part"):  # by a kill in the middle of a file
            left.unlink()
    write_whole(output / "settings.json", (output / WORK / "settings.json").read_bytes())
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


def finished(output: Path, settings: dict[str, Any]) -> Preparation:
    """What a run before this one has made, if it is the same."""
    shutil.rmtree(output / WORK, ignore_errors=True)  # where that run was killed while it cleaned up
    found = read_preparation(output)
    if json.loads((output / "settings.json").read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
        raise InputError(f"{output} holds faces that were prepared from other photos or in another way: set output.")
    return found


def begin(output: Path, settings: dict[str, Any]) -> bool:
    """Make the folder, or see that what is in it is the beginning of the same; whether it is."""
    state = output / WORK / "settings.json"
    told = json.dumps(settings, indent=1).encode()
    if state.is_file():
        if json.loads(state.read_text(encoding="utf-8")) != json.loads(told):
            raise InputError(
                f"{output} holds the beginning of another preparation: delete it, or set another folder by output."
            )
        return True
    if output.is_dir() and any(path.name != WORK for path in output.iterdir()):  # killed before it told its settings
        raise InputError(f"The folder {output} is not empty: set another one by output.")
    state.parent.mkdir(parents=True, exist_ok=True)
    write_whole(state, told)
    return False


def rows_of(chunk: int, photos: int) -> range:
    """The photos of a chunk."""
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, photos))


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
    work = (photos, output, alignment, dropped, networks_for(photos, alignment))
    with Progress(*columns) as progress:
        bar = progress.add_task("Aligning faces", total=len(photos))
        progress.advance(bar, min(len(photos), (len(chunks) - len(missing)) * CHUNK))
        if processes == 0:
            aligner = Aligner(*work)
            for chunk in missing:
                progress.advance(bar, aligner(rows_of(chunk, len(photos)), part_of(output, chunk)))
            return
        count = processes or len(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")  # threads of a library do not survive a fork
        with ProcessPoolExecutor(count, context, initializer=start_worker, initargs=work) as pool:
            try:
                jobs = [(rows_of(chunk, len(photos)), part_of(output, chunk)) for chunk in missing]
                for size in in_any_order(pool, jobs, 2 * count):
                    progress.advance(bar, size)
            except BrokenProcessPool:
                raise InputError(
                    "A process that aligned faces was killed, perhaps for want of memory: run the command again to go "
                    "on, with fewer processes."
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def in_any_order(pool: Executor, jobs: Sequence[tuple[range, Path]], ahead: int) -> Iterator[int]:
    """Have photos aligned, a few jobs waiting at a time; sizes as they come."""
    waiting: set[Future[int]] = set()
    rest = iter(jobs)
    while True:
        for job in rest:
            waiting.add(pool.submit(run_worker, *job))
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for one in done:
            yield one.result()


def merge(output: Path, photos: int) -> tuple[Counter[str], str]:
    """Put the chunks' indices together: how often each outcome came, and the SHA-256 of the index."""
    counts: Counter[str] = Counter()
    unfinished = output / WORK / INDEX
    account = io.StringIO()
    left_out = csv.writer(account, lineterminator="\n")
    left_out.writerow(("photo", "identity", "outcome", "reason"))
    with whole_file(unfinished) as file, parquet.ParquetWriter(file, SCHEMA) as writer:
        for chunk in range(-(-photos // CHUNK)):
            table = parquet.read_table(part_of(output, chunk), schema=SCHEMA)
            counts.update(table["outcome"].to_pylist())
            kept = pc.equal(table["outcome"], "aligned")
            writer.write_table(table.filter(kept))
            for line in table.filter(pc.invert(kept)).to_pylist():
                left_out.writerow([csv_cell(line[name] or "") for name in ("source", "identity", "outcome", "reason")])
    check_places(parquet.read_table(unfinished, columns=["path"])["path"])
    write_whole(output / "left_out.csv", account.getvalue().encode("utf-8", "surrogateescape"))
    with unfinished.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    unfinished.replace(output / INDEX)
    return counts, digest


def check_places(paths: Any) -> None:
    """Refuse faces that were written over one another.

    Raises:
        InputError: two photos came to lie in one place, as `anna/1.jpg` of somebody and `1.jpg` of anna do.
    """
    if pc.count_distinct(paths).as_py() == len(paths):
        return
    counts = pc.value_counts(paths)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
    raise InputError(f"Two photos would both be {twice}: rename one of them in the data set, and set another output.")
