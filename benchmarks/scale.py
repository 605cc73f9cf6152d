"""What training, embedding and searching cost as they grow: formulas fitted to measurements at small sizes.

For each formula a least-squares fit of relative errors to small sizes is printed beside the measurements, and what it
predicts for larger ones that it was not fitted to, up to the share of one of 64 processes at the size that is asked
for: the tables of `docs/scale.md`. Memory is the most that tensors or numpy held at once, else the peak of resident
memory above the start (Linux). Bytes are those of files, or what a process receives in the collectives of
torch.distributed (gloo). Computing is counted in multiply-adds over those of one product of the same rows, and timed
over that product in the same process, in turn. One thread, less than 2 GB, a quarter of an hour.
Run: `python benchmarks/scale.py [--parts batch exchange identities neighbors album search group] [--photos FOLDER]`.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from album import draw_photos  # type: ignore[import-not-found]  # the benchmark beside this one
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

D = 512
PEOPLE = 10  # photos of a person in drawn albums
Coefficients = list[float]


class Point(NamedTuple):
    """A measurement, and what the coefficients of its formula multiply."""

    size: str
    terms: tuple[float, ...]
    measured: float
    held_out: bool = False


def fit(what: str, unit: float, names: tuple[str, ...], points: list[Point]) -> Coefficients:
    """Fit measured = sum of coefficients x terms, by relative errors, to the points not held out; print all of them."""
    fitted = [point for point in points if not point.held_out]
    scaled = np.array([np.array(point.terms) / point.measured for point in fitted])
    size = np.linalg.norm(scaled, axis=0)
    found = np.linalg.lstsq(scaled / size, np.ones(len(fitted)), rcond=None)[0] / size
    print(f"\n{what} = " + " + ".join(f"{value:.4g} {name}" for value, name in zip(found, names, strict=True)))
    print("\n| size | measured | formula | off by |\n| --- | --- | --- | --- |")
    for point in points:
        value = float(np.dot(found, point.terms))
        kept = "held out: " if point.held_out else ""
        print(
            f"| {kept}{point.size} | {point.measured / unit:,.4g} | {value / unit:,.4g} | "
            f"{value / point.measured - 1:+.1%} |",
            flush=True,
        )
    return [float(one) for one in found]


def peak(reset: bool = False) -> float:
    """The most bytes that were resident since the last reset."""
    if not Path("/proc/self/clear_refs").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts when it is taken again
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def memory_of(work: Callable[[], object]) -> float:
    """Peak above the start."""
    before = peak(reset=True)
    kept = work()
    found = peak() - before
    del kept
    return found


def allocated(work: Callable[[], object]) -> float:
    """Most bytes of tensors at once, those not counted that were there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
        kept = work()
    del kept
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    changes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
    return float(max(np.cumsum([0, *changes])))


def multiplications(work: Callable[[], object]) -> float:
    """Multiply-adds of matrix products."""
    in_place = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * math.prod(left) * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        work()
    return float(counter.get_total_flops()) / 2


def times_over(work: Callable[[], object], limit: Callable[[], object], times: int = 3) -> float:
    """Processor time of a function over that of another, measured in turn."""
    ratios = []
    for _ in range(times):
        spent = []
        for run in (work, limit):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
        ratios.append(spent[0] / spent[1])
    return statistics.median(ratios)


def product(left: Tensor, right: Tensor) -> None:
    """A product, a block of 512 rows at a time."""
    memory = torch.empty(512, len(right))
    for rows in torch.split(left, 512):
        torch.mm(rows, right.T, out=memory[: len(rows)])


def unit_rows(count: int, size: int = D) -> Tensor:
    return normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(0)))


def measure_batch() -> None:
    """One of w processes' share of a loss over B rows."""
    from siamese_verify.losses import ContrastiveLoss, NTXentLoss, TripletLoss
    from siamese_verify.miners import BatchHard

    pairs, triplet, miner = ContrastiveLoss(), TripletLoss(), BatchHard()
    losses: dict[str, Callable[..., Tensor]] = {
        "NT-Xent": lambda rows, labels, own: NTXentLoss()(rows, labels, own=own),
        "contrastive": lambda rows, labels, own: pairs(rows, labels, own=own),
        "triplet, batch-hard": lambda rows, labels, own: triplet(
            rows, labels, miner(rows.detach(), labels, own=own), own=own
        ),
    }
    sizes = [(8192, 4), (8192, 8), (16384, 8), (16384, 16), (32768, 32), (65536, 64)]  # more than blocks that are kept
    for name, loss in losses.items():
        work, memory = [], []
        for batch, ranks in sizes:
            rows, labels, own = unit_rows(batch).requires_grad_(), torch.arange(batch) // 2, slice(0, batch // ranks)

            def step(loss: Any = loss, rows: Tensor = rows, labels: Tensor = labels, own: slice = own) -> None:
                rows.grad = None
                loss(rows, labels, own).backward()

            held_out, size = batch >= 32768, f"B = {batch:,}, w = {ranks}"
            memory.append(Point(size, (batch * D * 4, 1), allocated(step), held_out))
            work.append(Point(size, (batch / ranks * batch * D, D), multiplications(step), held_out))
            if ranks in (4, 64):
                data = rows.detach()
                ratio = times_over(step, lambda d=data, o=own: product(d[o], d), 1 if held_out else 3)  # type: ignore[misc]
                print(f"{name}, {size}: time {ratio:.1f} x one product of a process's rows with all")
            rows.grad = None
        fit(f"{name}: multiply-adds of a process", 1e9, ("B² D / w", "D"), work)
        fit(f"{name}: memory of a process beside its embeddings, MB", 1e6, ("x B x D x 4 bytes", "bytes"), memory)


def receive(rank: int, ranks: int, batch: int, size: int, folder: str) -> None:
    """Count the bytes that one process receives in a step."""
    from siamese_verify.losses import ArcFaceLoss, NTXentLoss
    from siamese_verify.training.loss_over_ranks import loss_over_ranks

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    received = 0.0

    def counted(name: str, count: Callable[..., float]) -> None:
        original = getattr(dist, name)

        def call(*args: Any, **options: Any) -> Any:
            nonlocal received
            received += count(*args)
            return original(*args, **options)

        setattr(dist, name, call)

    counted("all_gather", lambda parts, own, *_: sum(part.nbytes for part in parts) - own.nbytes)
    counted("all_to_all_single", lambda out, *_: out.nbytes * (ranks - 1) / ranks)
    counted("all_reduce", lambda one, *_: 2 * one.nbytes * (ranks - 1) / ranks)  # of a ring, the least
    own = slice(batch * rank // ranks, batch * (rank + 1) // ranks)
    labels, found = (torch.arange(batch) // 2)[own], []
    margin = ArcFaceLoss(2 * batch, embedding_size=size, sample_rate=0.5, sharded=True)
    margin.shard()
    for loss in (NTXentLoss(), margin):
        rows, received = unit_rows(batch, size)[own].clone().requires_grad_(), 0.0
        loss_over_ranks(loss, None, rows, labels)[0].backward()  # type: ignore[no-untyped-call]
        found.append(received)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def measure_exchange() -> None:
    """Bytes that a process receives."""
    points: list[list[Point]] = [[], []]
    sizes = [(2, 512, 64), (2, 1024, 128), (3, 768, 64), (3, 1536, 128), (4, 512, 128), (4, 4096, 512)]
    for ranks, batch, size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            start = get_context("spawn").Process
            processes = [start(target=receive, args=(rank, ranks, batch, size, folder)) for rank in range(ranks)]
            for one in processes:
                one.start()
            for one in processes:
                one.join()
            found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(ranks)]
        others = batch - batch // ranks
        for kind, series in enumerate(points):
            most = max(each[kind] for each in found)
            series.append(
                Point(f"w = {ranks}, B = {batch:,}, D = {size}", (others * size * 4, others), most, batch == 4096)
            )
    for name, series in zip(("NT-Xent", "ArcFace, sampled and sharded"), points, strict=True):
        fit(f"{name}: bytes that a process receives in a step, MB", 1e6, ("(B - n) D x 4", "(B - n)"), series)


def measure_identities() -> None:
    """One process's share of a margin softmax: its identities, AdamW's moments, and a step."""
    from siamese_verify.losses import ArcFaceLoss
    from siamese_verify.training.partial_weights import RowSteps

    def make(identities: int, rate: float, batch: int = 64) -> Callable[[], None]:
        loss = ArcFaceLoss(identities, embedding_size=D, sample_rate=rate)
        optimizer, steps = torch.optim.AdamW(loss.parameters()), RowSteps()
        rows, labels = unit_rows(batch).requires_grad_(), torch.arange(batch) * 7

        def step() -> None:
            loss(rows, labels).backward()
            steps.narrow(optimizer)
            optimizer.step()
            steps.widen()

        return step

    def train(identities: int, rate: float) -> Callable[[], None]:
        step = make(identities, rate)
        for _ in range(2):
            step()
        return step

    memory, work = [], []
    train(1000, 0.5)  # loads what it needs
    for identities, rate in [(10_000, 0.1), (20_000, 0.1), (10_000, 0.3), (20_000, 0.3), (40_000, 0.2), (156_250, 0.1)]:
        sampled, size, held_out = round(rate * identities), f"C = {identities:,}, sampled {rate}", identities == 156_250
        spent = allocated(partial(train, identities, rate))
        memory.append(Point(size, (identities * D * 4, sampled * D * 4), spent, held_out))
        again = train(identities, rate)
        work.append(Point(size, (sampled * 64 * D,), multiplications(again), held_out))
    ratio = times_over(make(20_000, 0.3, 512), partial(product, unit_rows(6000), unit_rows(512)), 5)
    print(f"ArcFace, C = 20,000, sampled 0.3: time of a step {ratio:.1f} x one product of 512 rows with the sample")
    fit("ArcFace: memory of a process, MB", 1e6, ("x C D x 4 bytes", "x S D x 4 bytes"), memory)
    fit("ArcFace: multiply-adds of a process", 1e6, ("B S D",), work)


def measure_neighbors() -> None:
    """Nearest neighbors of each identity, as the hard sampler's update finds them."""
    from siamese_verify.pairwise.neighbors import nearest_neighbors

    count = 31
    memory, work = [], []
    for identities in (4096, 8192, 16384, 32768):
        rows, held_out = unit_rows(identities, 128), identities == 32768
        size = f"C = {identities:,}, D = 128"
        nearest_neighbors(rows[:512], None, count)

        def search(rows: Tensor = rows) -> Tensor:
            return nearest_neighbors(rows, None, count)

        memory.append(Point(size, (identities * count * 8, 1), allocated(search), held_out))
        work.append(Point(size, (identities**2 * 128, identities * 128), multiplications(search), held_out))
        ratio = times_over(search, lambda r=rows: product(r, r), 1)  # type: ignore[misc]
        print(f"Neighbors, {size}: time {ratio:.1f} x one product of all with all")
    fit("Neighbors: memory beside the means, MB", 1e6, ("x C x 31 x 8 bytes", "bytes"), memory)
    fit("Neighbors: multiply-adds", 1e9, ("C² D", "C D"), work)


def name_of(number: int) -> str:
    return f"2024/{number // 1000:07}/IMG_{number:010}.jpg"


def measure_album(photos: Path | None) -> None:
    """Bytes, memory and time of an album's names and parts."""
    import pyarrow as pa
    from pyarrow import parquet

    from siamese_verify.albums.album_folder import (
        AlbumFace,
        AlbumFolder,
        AlbumMetadata,
        LeftOutPhoto,
        added_names,
        create_folder,
        default_part,
        read_names,
        write_metadata,
        write_names,
    )
    from siamese_verify.albums.album_source import read_paths
    from siamese_verify.albums.embed_album import UNKNOWN

    disk, again, changed, listed, length = [], [], [], [], len(name_of(0))
    sizes = (200_000, 400_000, 800_000, 1_600_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def names(count: int, first: int = 0) -> Iterator[str]:
            return (name_of(number) for number in range(first, count))

        write_names(folder, names(100_000))
        for count in sizes:
            size, held_out = f"N = {count:,} names of {length}", count == sizes[-1]
            fresh = memory_of(lambda c=count: write_names(folder, names(c)))  # type: ignore[misc]
            disk.append(Point(size, (count,), (folder / "photos.arrow").stat().st_size, held_out))
            known = read_names(folder)
            same = memory_of(lambda k=known, c=count: added_names(k, names(c + 1000)))  # type: ignore[misc]
            again.append(f"{fresh / 1e6:.0f} and {same / 1e6 - known.nbytes / 1e6:.0f}")
            front = memory_of(lambda k=known, c=count: added_names(k, ["0.jpg", *names(c)]))  # type: ignore[misc]
            changed.append(Point(size, (count, 1), front, held_out))
            parquet.write_table(pa.table({"path": list(names(count))}), folder / "list.parquet")
            place = str(folder / "list.parquet")
            listed.append(Point(size, (count, 1), memory_of(lambda p=place: read_paths(p)), held_out))  # type: ignore[misc]
    print(f"\nNames of {sizes} photos, first and second listing: {', '.join(again)} MB beside the mapped file")
    fit("Names on the disk, MB", 1e6, ("bytes x N",), disk)
    fit("Names where one came first: memory, MB", 1e6, ("bytes x N", "bytes"), changed)
    fit("List of paths: memory, MB", 1e6, ("bytes x N", "bytes"), listed)
    rows = draw_photos(np.arange(4096), 0)
    for storage in ("float32", "int8"):
        points, opening = [], []
        for faces in (256, 512, 1024, 4096):
            with tempfile.TemporaryDirectory() as name:
                path = create_folder(Path(name) / "album")
                parts = 8
                write_names(path, map(name_of, range(parts * faces)))
                write_metadata(
                    path,
                    AlbumMetadata("m", "", "", "", "", "s", "/s", "/s", D, storage, faces, (parts * faces,), {}),
                )
                album = AlbumFolder(path)
                left_out = [
                    LeftOutPhoto(name_of(one), "no_face", "No face was found on it.") for one in range(faces // 8)
                ]
                for part in album.ranges():
                    found = [
                        AlbumFace(name_of(one), (0, 0, 1, 1), 1.0, UNKNOWN, row)
                        for one, row in zip(range(*part), rows, strict=False)
                    ]
                    album.write_part(part, found, left_out)
                size = f"{faces:,} faces a part, {storage}"
                stored = sum(album.part(part).stat().st_size for part in album.ranges()) / parts
                points.append(Point(size, (faces, 1), stored, faces == 4096))
                start = time.process_time()
                for _ in range(20):
                    album.sizes()
                opening.append((time.process_time() - start) / 20 / parts)
        fit(f"Part, {storage}, with 1/8 of the photos without a face, KB", 1e3, ("bytes a face", "bytes"), points)
        print(f"opening a part to count its faces: {1e6 * statistics.median(opening):.0f} us of processor time")
    print(f"10^9 photos: {-(-(10**9) // default_part(10**9)):,} parts of {default_part(10**9):,} photos")
    if photos is not None:
        measure_photos(photos)


def measure_photos(folder: Path) -> None:
    """Processor time for a photo, over a product of 1,024 x 1,024 x 1,024."""
    from siamese_verify.albums.embed_album import embed_album
    from siamese_verify.models.loading import find_bundle
    from siamese_verify.verification import Verifier

    bundle = find_bundle("sface")
    verifier = Verifier.load(str(bundle.folder), threads=1)
    files = sorted(folder.rglob("*.jpg"))
    points = []
    square = unit_rows(1024, 1024)
    for count in (40, 80, 160, 320):
        with tempfile.TemporaryDirectory() as name:
            listing, chosen = Path(name) / "list.txt", files[:: len(files) // count][:count]
            listing.write_text("\n".join(str(file.relative_to(folder)) for file in chosen))

            def embed(listing: Path = listing, name: str = name) -> None:
                place = Path(name) / str(time.monotonic_ns())
                embed_album(listing, place, bundle.metadata, lambda: verifier, root=folder, processes=1)

            ratio = times_over(embed, partial(product, square, square))
        points.append(Point(f"{count} photos", (count, 1), ratio, count == 320))
    fit("Photos of LFW, one face or more: time over a product of 1,024³", 1, ("a photo", "a start"), points)


def measure_search() -> None:
    """Exact and approximate search of rows on the disk."""
    from siamese_verify.albums.album_folder import StoredRows, quantize
    from siamese_verify.albums.album_search import nearest_rows
    from siamese_verify.gallery.template_search import ApproximateIndex

    sizes = (32_768, 65_536, 131_072, 393_216)
    points: dict[str, list[Point]] = {"float32": [], "int8": []}
    with tempfile.TemporaryDirectory() as name:
        for count in sizes:
            block = draw_photos(np.arange(32_768) // PEOPLE, 0)
            rounded, scale = quantize(block)
            packed = np.concatenate([rounded, scale[:, None].view(np.int8)], axis=1)
            query, limit = block[:1], torch.from_numpy(block)
            for kind, part in {"float32": block, "int8": packed}.items():
                file = Path(name) / f"{kind}.npy"
                stored = np.lib.format.open_memmap(file, "w+", part.dtype, (count, part.shape[1]))
                for start in range(0, count, len(part)):
                    stored[start : start + len(part)] = part
                stored.flush()
                rows = StoredRows(np.load(file, mmap_mode="r"), D)
                tracemalloc.start()
                nearest_rows(query, rows, 10)
                memory = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                ratio = times_over(
                    lambda rows=rows: nearest_rows(query, rows, 10),  # type: ignore[misc]  # noqa: B023
                    lambda: limit @ limit[0],  # noqa: B023
                    7,
                )
                points[kind].append(
                    Point(f"N = {count:,}, {memory / 1e6:.1f} MB", (count / 32_768,), ratio, count > 200_000)
                )
    for kind, series in points.items():
        fit(f"One search of {kind} rows: time over a product of 32,768 float32 rows", 1, ("x N / 32,768",), series)
    indexes = []
    with tempfile.TemporaryDirectory() as name:
        for count in (6000, 10_000, 20_000, 60_000):
            rows, file = draw_photos(np.arange(count) // PEOPLE, 0), Path(name) / "index"
            index = ApproximateIndex.build(rows, np.arange(count, dtype=np.int64))
            index.save(file, None)
            lists = index._index.nlist
            indexes.append(Point(f"N = {count:,}", (count, lists * D * 4), file.stat().st_size, count == 60_000))
    fit("FAISS index, MB", 1e6, ("bytes x N", "x lists D x 4 bytes"), indexes)


def measure_group() -> None:
    """Grouping of faces."""
    from siamese_verify.albums.grouping import group_faces
    from siamese_verify.evaluation import calibrate

    own = np.repeat(np.arange(500), 4)
    calibration = calibrate(draw_photos(own, 1), own, intervals=False)
    points: list[Point] = []
    for count in (2048, 4096, 8192, 16384):
        rows = draw_photos(np.arange(count) // PEOPLE, 0)
        if not points:
            group_faces(rows, calibration)  # loads what it needs
        spent = memory_of(lambda r=rows: group_faces(r, calibration))  # type: ignore[misc]
        data = torch.from_numpy(rows)
        ratio = times_over(lambda r=rows: group_faces(r, calibration), lambda d=data: product(d, d), 1)  # type: ignore[misc]
        print(f"Grouping N = {count:,}: time {ratio:.1f} x one product of all with all")
        points.append(Point(f"N = {count:,}", (count, 1), spent, count == 16384))
    fit("Grouping: memory beside the embeddings, MB", 1e6, ("bytes x N", "bytes"), points)


PARTS: dict[str, Callable[..., None]] = {
    "batch": measure_batch,
    "exchange": measure_exchange,
    "identities": measure_identities,
    "neighbors": measure_neighbors,
    "album": measure_album,
    "search": measure_search,
    "group": measure_group,
}


def run(part: str, photos: Path | None) -> None:
    torch.set_num_threads(1)
    PARTS[part](*([photos] if part == "album" else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--photos", type=Path, help="folder of photos to embed, such as LFW's; without one none are")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}"
    )
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler says nothing
    for part in options.parts:
        print(f"\n## {part}", flush=True)
        process = get_context("spawn").Process(target=run, args=(part, options.photos))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
