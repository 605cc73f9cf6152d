"""Searching an album on the disk: exact by blocks, int8 against float32 rows, and FAISS.

Rows of 512 numbers are drawn as people with ten photos each, as if faces differed mostly in 64 directions, and written
to files that are mapped. For each kind of row: bytes, median time of a search for one face and for 16 together, and how
many of the nearest 10 and 100 float32 rows it finds (recall), of queries that are further photos of people who are
there. The limit beside them is one product of float32 rows in memory with a vector, block by block, in the same run.
With `--faiss` an index over the float32 rows is built, too. Ten million rows need 26 GB of disk.
Run: `python benchmarks/album.py [--rows 200000] [--queries 16] [--faiss] [--folder /tmp]`.
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

from siamese_verify.albums.album_folder import StoredRows, quantize
from siamese_verify.albums.album_search import nearest_rows, proposed_rows
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


def seconds(work: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--faiss", action="store_true")
    parser.add_argument("--folder", default=None, help="with room for 2.6 KB a row")
    options = parser.parse_args()
    print(f"{options.rows:,} rows, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        exact = np.lib.format.open_memmap(Path(name) / "a.npy", "w+", np.float32, (options.rows, SIZE))
        small = np.lib.format.open_memmap(Path(name) / "b.npy", "w+", np.int8, (options.rows, SIZE + 4))
        for start in range(0, options.rows, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, options.rows))
            block = draw_photos(numbers // PHOTOS, start)
            rounded, scale = quantize(block)
            exact[numbers], small[numbers] = block, np.concatenate([rounded, scale[:, None].view(np.int8)], axis=1)
        people = np.random.default_rng(3).integers(0, options.rows // PHOTOS, options.queries)
        queries = draw_photos(people, -1 % 2**31)
        memory = np.array(exact[: min(len(exact), 500_000)])
        limit = seconds(lambda: [memory[at : at + BLOCK] @ queries[0] for at in range(0, len(memory), BLOCK)], 5)
        limit *= len(exact) / len(memory)
        print(f"limit: products with rows in memory {1000 * limit:,.0f} ms")
        kinds = {"float32": StoredRows(exact, SIZE), "int8": StoredRows(small, SIZE)}
        truth = nearest_rows(queries, kinds["float32"], 100)
        for kind, rows in kinds.items():
            found = nearest_rows(queries, rows, 100)
            error = np.abs(found.scores - truth.scores).max()
            one = seconds(lambda rows=rows: nearest_rows(queries[:1], rows, 10), options.repetitions)  # type: ignore[misc]
            many = seconds(lambda rows=rows: nearest_rows(queries, rows, 10), 1)  # type: ignore[misc]
            print(
                f"{kind}: {rows.stored.nbytes / 1e9:.2f} GB, one search {1000 * one:,.0f} ms ({one / limit:.1f} x the "
                f"limit), {len(queries)} together {1000 * many / len(queries):,.0f} ms each, recall of 10 "
                f"{recall(found.rows, truth.rows, 10):.4f}, of 100 {recall(found.rows, truth.rows, 100):.4f}, scores "
                f"differ by {error:.4f} at most"
            )
        if options.faiss:
            start_build = time.perf_counter()
            index = ApproximateIndex.build(exact, np.arange(len(exact), dtype=np.int64))
            built = time.perf_counter() - start_build
            rows = kinds["float32"]
            proposed = np.stack([proposed_rows(query, rows, 10, index).rows[0] for query in queries])
            one = seconds(lambda: proposed_rows(queries[0], rows, 10, index), 20)
            print(
                f"FAISS: built in {built:,.0f} s, one search {1000 * one:.1f} ms, recall of 10 "
                f"{recall(proposed, truth.rows, 10):.4f}"
            )


def recall(found: NDArray[np.int64], truth: NDArray[np.int64], count: int) -> float:
    """Share of the nearest `count` rows that are among those found."""
    return float(np.mean([np.isin(t[:count], f[:count]).mean() for f, t in zip(found, truth, strict=True)]))


if __name__ == "__main__":
    main()
