"""Searching an album on the disk: exact by blocks, int8 against float32 rows, and FAISS.

Rows of 512 numbers are drawn as people with ten photos each, as if faces differed mostly in 64 directions, and written
to a file that is mapped, as int8 and with `--float32` as float32 too. For each kind of row: bytes, median time of a
search for one face, of one after the file was put out of memory, and of 16 together, and how many of the nearest 10 and
100 float32 rows it finds (recall), of queries that are further photos of people who are there. These nearest are found
exactly while the rows are drawn, so that float32 rows need no disk. The limits beside them, in the same run: one
product of float32 rows in memory with a vector, block by block, and reading the file from the disk. Times are those of
the processor, to which other work on the machine counts little, but for reading and the search beside it.
With `--faiss` an index over the int8 rows is built, too. Ten million int8 rows need 5.2 GB of disk, and 20 minutes.
Run: `python benchmarks/album.py [--rows 200000] [--queries 16] [--float32] [--faiss] [--folder /tmp]`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese_verify.albums.album_folder import StoredRows, quantize
from siamese_verify.albums.album_search import NearestRows, nearest_rows, proposed_rows
from siamese_verify.gallery.template_search import ApproximateIndex

SIZE, DIRECTIONS, PHOTOS = 512, 64, 10
BLOCK = 2**15


def draw_photos(people: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """(N,512) of unit length: a photo of each of the people, those of one with a cosine of about 0.6."""
    mixing = np.random.default_rng(0).normal(size=(DIRECTIONS, SIZE)).astype(np.float32) / SIZE**0.5
    faces = np.stack([np.random.default_rng([1, int(one)]).normal(size=DIRECTIONS) for one in np.unique(people)])
    chosen = faces[np.unique(people, return_inverse=True)[1]].astype(np.float32)
    rng = np.random.default_rng([2, seed])
    rows = (chosen + 0.5 * rng.standard_normal(chosen.shape, dtype=np.float32)) @ mixing
    rows += 0.03 * rng.standard_normal(rows.shape, dtype=np.float32)
    result: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def seconds(work: Callable[[], object], times: int, clock: Callable[[], float] = time.process_time) -> float:
    spent = []
    for _ in range(times):
        start = clock()
        work()
        spent.append(clock() - start)
    return statistics.median(spent)


def forget(path: Path) -> None:
    """Put a file out of memory, so that it is read from the disk again; systems without such a call keep it."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    buffer = bytearray(2**24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def product_seconds(rows: NDArray[np.float32], query: NDArray[np.float32], count: int) -> float:
    """Of products of `count` rows in memory with a vector, block by block; the rows are given ones, repeated."""
    memory = np.concatenate([rows] * -(-count // len(rows)))[:count]
    return seconds(lambda: [memory[at : at + BLOCK] @ query for at in range(0, count, BLOCK)], 5)


def nearer(found: NearestRows, more: NearestRows, count: int) -> NearestRows:
    """The nearest of both."""
    rows, scores = (np.concatenate(pair, axis=1) for pair in zip(found, more, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :count]
    return NearestRows(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="search float32 rows, too: 2 KB of disk a row")
    parser.add_argument("--faiss", action="store_true")
    parser.add_argument("--folder", default=None, help="with room for 0.5 KB a row")
    options = parser.parse_args()
    print(f"{options.rows:,} rows, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    people = np.random.default_rng(3).integers(0, options.rows // PHOTOS, options.queries)
    queries = draw_photos(people, -1 % 2**31)
    truth = NearestRows(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0)))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        files = {kind: Path(name) / f"{kind}.npy" for kind in ("int8", *(["float32"] if options.float32 else []))}
        kinds = {
            kind: StoredRows(
                np.lib.format.open_memmap(file, "w+", kind, (options.rows, SIZE + 4 * (kind == "int8"))), SIZE
            )
            for kind, file in files.items()
        }
        for start in tqdm(range(0, options.rows, BLOCK), "Drawing", unit=" blocks", delay=2, disable=None):
            numbers = np.arange(start, min(start + BLOCK, options.rows))
            block, part = draw_photos(numbers // PHOTOS, start), slice(start, start + len(numbers))
            found = nearest_rows(queries, StoredRows(block, SIZE), 100)
            truth = nearer(truth, found._replace(rows=start + found.rows), 100)
            rounded, scale = quantize(block)
            kinds["int8"].stored[part] = np.concatenate([rounded, scale[:, None].view(np.int8)], axis=1)
            if options.float32:
                kinds["float32"].stored[part] = block
        limit = product_seconds(block, queries[0], 200_000) * options.rows / 200_000
        print(f"limit: products with float32 rows in memory {limit:,.2f} s", flush=True)
        for kind, rows in kinds.items():
            rows.stored.flush()  # type: ignore[attr-defined]
            found = nearest_rows(queries, rows, 100)
            error = np.abs(found.scores - truth.scores).max()
            one = seconds(lambda rows=rows: nearest_rows(queries[:1], rows, 10), options.repetitions)  # type: ignore[misc]
            many = seconds(lambda rows=rows: nearest_rows(queries, rows, 10), 1)  # type: ignore[misc]
            rows = kinds[kind] = StoredRows(np.load(files[kind], mmap_mode="r"), SIZE)
            spent = []
            for work in (lambda: read(files[kind]), lambda: nearest_rows(queries[:1], rows, 10)):  # noqa: B023
                forget(files[kind])
                spent.append(seconds(work, 1, time.perf_counter))
            size = files[kind].stat().st_size
            print(
                f"{kind}: {size / 1e9:.2f} GB, recall of 10 {recall(found.rows, truth.rows, 10):.4f}, of 100 "
                f"{recall(found.rows, truth.rows, 100):.4f}, scores differ by {error:.4f} at most\n"
                f"  one search {one:,.2f} s ({one / limit:.1f} x the limit), {len(queries)} together "
                f"{many / len(queries):,.2f} s each ({many / len(queries) / limit:.1f} x)\n"
                f"  by the clock, out of memory: reading {spent[0]:,.2f} s ({size / spent[0] / 1e9:.2f} GB/s), one "
                f"search {spent[1]:,.2f} s ({spent[1] / spent[0]:.1f} x reading)",
                flush=True,
            )
        if options.faiss:
            rows = kinds["int8"]
            start_build = time.process_time()
            index = ApproximateIndex.build(rows, np.arange(len(rows), dtype=np.int64))  # type: ignore[arg-type]
            built = time.process_time() - start_build
            for count in (10, 100):
                proposed = np.stack([proposed_rows(query, rows, count, index).rows[0] for query in queries])
                one = seconds(lambda count=count: proposed_rows(queries[0], rows, count, index), 20)  # type: ignore[misc]
                print(
                    f"FAISS: built in {built:,.0f} s ({built / limit:,.0f} x the limit), one search for {count} "
                    f"{1000 * one:.1f} ms ({one / limit:.4f} x the limit), recall "
                    f"{recall(proposed, truth.rows, count):.4f}"
                )


def recall(found: NDArray[np.int64], truth: NDArray[np.int64], count: int) -> float:
    """Share of the nearest `count` rows that are among those found."""
    return float(np.mean([np.isin(t[:count], f[:count]).mean() for f, t in zip(found, truth, strict=True)]))


if __name__ == "__main__":
    main()
