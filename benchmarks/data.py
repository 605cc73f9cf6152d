"""Loading, indexing and aligning faces, beside the usual tools.

- loading: augmented images a second from aligned JPEGs in folders and from a `.rec`, beside torchvision's ImageFolder
  and DataLoader with the same transforms (flip, crop, color, occlusion), two workers each. Claim: 1.5 times.
- index: 17 million photos of 360,000 identities. Claims: opened in 2 s, 500 MB a process beyond the imports, a batch of
  32 x 4 drawn in 1 ms, 50 MB of its own for each worker.
- prepare: LFW's photos aligned by `prepare` in two processes, their start included, beside facenet-pytorch's MTCNN, one
  image at a time, with torch's default threads. Claim: 2 times.

Run: `python benchmarks/data.py [--only loading index prepare] [--lfw ../shared/data/lfw]`.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

SIZE, BATCH, WORKERS = 112, 128, 2
ROWS, PEOPLE = 17_000_000, 360_000
PARTS = ("loading", "index", "prepare")


def write_faces(folder: Path, people: int, photos: int) -> int:
    """Write a folder for each person and the same faces as a `.rec`; return their number."""
    from siamese_verify.datasets import SyntheticFaces

    faces = SyntheticFaces(people, photos, SIZE)
    place, lines = 0, []
    (folder / "rec").mkdir()
    with (folder / "rec" / "train.rec").open("wb") as rec:
        for row in range(len(faces)):
            content = io.BytesIO()
            faces[row].save(content, "JPEG", quality=95, subsampling=0)
            path = folder / "jpeg" / f"{faces.identities[row]:05}" / f"{row}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.getvalue())
            payload = struct.pack("<IfQQ", 0, float(faces.identities[row]), row, 0) + content.getvalue()
            record = struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
            lines.append(f"{row}\t{place}\n")
            place += rec.write(record)
    (folder / "rec" / "train.idx").write_text("".join(lines))
    return len(faces)


def peer_loader(folder: Path) -> Iterator[Any]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(SIZE, scale=(0.7, 1.0), ratio=(0.9, 1.1)),
            v2.ColorJitter(0.3, 0.3, 0.3),
            v2.PILToTensor(),
            v2.RandomErasing(0.5, scale=(0.05, 0.3)),
        ]
    )
    data = ImageFolder(str(folder / "jpeg"), transform)
    return iter(DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=WORKERS))


def our_loader(folder: Path, record: bool) -> Iterator[Any]:
    from siamese_verify.data import FaceAugmentation, FaceDataset, FacesOnDisk
    from siamese_verify.datasets import FolderPhotos, RecordPhotos
    from siamese_verify.samplers import ImageSampler
    from siamese_verify.structures import Crop, InputSpec

    photos = RecordPhotos(folder / "rec") if record else FolderPhotos(folder / "jpeg")
    faces = FacesOnDisk(photos, np.arange(len(photos)), InputSpec(SIZE, crop=Crop("whole")))
    data = FaceDataset(faces, torch.from_numpy(photos.identities.astype(np.int64)), FaceAugmentation())
    sampler = ImageSampler(photos.identities, BATCH, batches=len(photos) // BATCH)
    return iter(DataLoader(data, batch_size=None, sampler=sampler, num_workers=WORKERS))


def rate(make: Callable[[], Iterator[Any]]) -> float:
    """Images a second from the first batch on, without the start of the workers, which is the same for all."""
    loader = make()
    next(loader)
    start, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch[0])
    return count / (time.perf_counter() - start)


def loading(repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        count = write_faces(folder, 300, 30)
        print(f"loading: {count:,} aligned JPEGs of {SIZE} x {SIZE}, batches of {BATCH}, {WORKERS} workers")
        loaders: dict[str, Callable[[], Iterator[Any]]] = {
            "ImageFolder + DataLoader": lambda: peer_loader(folder),
            "ours, folders": lambda: our_loader(folder, record=False),
            "ours, .rec": lambda: our_loader(folder, record=True),
        }
        found: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(repetitions):
            for name, make in loaders.items():
                found[name].append(rate(make))
    peer = found["ImageFolder + DataLoader"]
    for name, rates in found.items():
        ratio = statistics.median(one / other for one, other in zip(rates, peer, strict=True))
        claim = verdict(ratio, 1.5) if rates is not peer else ""
        print(f"  {name:26} {statistics.median(rates):7.0f} images/s  {ratio:5.2f} x peer{claim}")


def memory(process: int | str = "self") -> tuple[float, float]:
    """Resident and private megabytes of a process; Linux only."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    told = {line.split(":")[0]: float(line.split()[1]) for line in text.splitlines() if line.endswith("kB")}
    return told["Rss"] / 1e3, (told["Private_Clean"] + told["Private_Dirty"]) / 1e3


class NameLengths(torch.utils.data.Dataset[int]):
    """Reads of an index what a worker reads: the names of a batch."""

    def __init__(self, photos: Any) -> None:
        self.photos = photos

    def __getitem__(self, rows: list[int]) -> int:
        return sum(len(self.photos.names[row]) for row in rows)


def write_index(folder: Path) -> Path:
    """Write the index of 17 million photos of identities of very different sizes."""
    import pyarrow as pa

    from siamese_verify.datasets.index import FaceIndex, save_index

    generator = np.random.default_rng(0)
    sizes = generator.zipf(1.7, PEOPLE).clip(max=2000).astype(float)
    counts = np.maximum(1, sizes * (ROWS / sizes.sum())).astype(np.int64)
    counts[0] += ROWS - counts.sum()
    identity = np.repeat(np.arange(PEOPLE, dtype=np.int32), counts)
    names = pa.array([f"id_{person:06}" for person in range(PEOPLE)], pa.large_string())
    paths = pa.chunked_array(
        [
            pa.array(
                [f"{person:06}/{row:08}.jpg" for row, person in enumerate(block.tolist(), start)], pa.large_string()
            )
            for start in range(0, ROWS, 1_000_000)
            for block in [identity[start : start + 1_000_000]]
        ]
    ).combine_chunks()
    table = pa.table({"path": paths, "identity": pa.DictionaryArray.from_arrays(pa.array(identity), names)})
    file = folder / "index.arrow"
    save_index(FaceIndex(table), file)
    return file


def measure_index(file: Path) -> None:
    """Open the index in this process, which has done nothing else, and sample from it."""
    from siamese_verify.datasets.folder import IndexedPhotos
    from siamese_verify.datasets.index import open_index
    from siamese_verify.samplers import IdentityBatchSampler

    before = memory()[0]
    start = time.perf_counter()
    photos = IndexedPhotos(file.parent, open_index(file))
    sampler = IdentityBatchSampler(photos.identities, identities_per_batch=32, samples_per_identity=4)
    opened = time.perf_counter() - start
    batches = iter(sampler)
    next(batches)  # draws the epoch
    times = []
    for _ in range(1000):
        start = time.perf_counter()
        rows = next(batches)
        times.append(time.perf_counter() - start)
    used = memory()[0] - before
    loader = DataLoader(NameLengths(photos), batch_size=None, sampler=sampler, num_workers=WORKERS)
    iterator: Any = iter(loader)
    for _ in range(200):
        next(iterator)
    workers = [memory(worker.pid)[1] for worker in iterator._workers]
    bare: Any = iter(DataLoader(NameLengths([]), batch_size=None, sampler=[[], []], num_workers=WORKERS))
    alone = statistics.mean(memory(worker.pid)[1] for worker in bare._workers)
    milliseconds = 1e3 * statistics.median(times)
    print(f"index: {len(photos):,} photos of {len(photos.people):,} identities, {file.stat().st_size / 1e6:,.0f} MB")
    print(f"  opened and grouped         {opened:7.2f} s{verdict(2.0, opened)}")
    print(f"  resident above the imports {used:7.0f} MB{verdict(500, used)}")
    print(f"  a batch of 32 x 4          {milliseconds:7.3f} ms{verdict(1.0, milliseconds)}  ({len(rows)} rows)")
    print(
        f"  of its own, each worker    {max(workers):7.0f} MB{verdict(50, max(workers))}  (an idle one: {alone:.0f} MB)"
    )


def index() -> None:
    with tempfile.TemporaryDirectory() as place:
        file = write_index(Path(place))
        subprocess.run([sys.executable, __file__, "--measure", str(file)], check=True)


def prepare(lfw: Path, repetitions: int, photos: int) -> None:
    from facenet_pytorch import MTCNN

    from siamese_verify.datasets import AllOfLFW, FilePhotos
    from siamese_verify.preparation import Alignment, prepare_faces
    from siamese_verify.structures import Crop, InputSpec

    everything = AllOfLFW(lfw)
    chosen = np.random.default_rng(0).permutation(len(everything))[:photos]
    names = [everything.names[row] for row in chosen]
    some = FilePhotos(everything.root, names, np.arange(photos))
    alignment = Alignment(InputSpec(160, crop=Crop("box", margin=32)))
    detector = MTCNN(image_size=160, margin=32, selection_method="center_weighted_size")
    seconds: dict[str, list[float]] = {"MTCNN, one at a time": [], "prepare, two processes": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as place:
            start = time.perf_counter()
            for row in range(photos):
                with Image.open(Path(everything.root) / names[row]) as photo:
                    detector(photo, save_path=f"{place}/{row}.jpg")
            seconds["MTCNN, one at a time"].append(time.perf_counter() - start)
            start = time.perf_counter()
            prepare_faces(some, "lfw", Path(place) / "out", alignment, {}, processes=2)
            seconds["prepare, two processes"].append(time.perf_counter() - start)
    print(f"prepare: {photos:,} photos of LFW, {torch.get_num_threads()} threads for the peer")
    peer = seconds["MTCNN, one at a time"]
    for name, times in seconds.items():
        ratio = statistics.median(other / one for one, other in zip(times, peer, strict=True))
        each = 1e3 * statistics.median(times) / photos
        print(
            f"  {name:26} {each:7.1f} ms/photo  {ratio:5.2f} x peer{verdict(ratio, 2.0) if times is not peer else ''}"
        )


def verdict(most: float, least: float) -> str:
    """Whether a claim is kept."""
    return " (kept)" if most >= least else " (NOT kept)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--lfw", type=Path, default=Path(__file__).resolve().parents[1].parent / "shared/data/lfw")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--photos", type=int, default=1500, help="of LFW to prepare (%(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_index(options.measure)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    if "loading" in options.only:
        loading(options.repetitions)
    if "index" in options.only:
        index()
    if "prepare" in options.only:
        if options.lfw.is_dir():
            prepare(options.lfw, options.repetitions, options.photos)
        else:
            print(f"prepare: left out, there is no LFW in {options.lfw} (--lfw)")


if __name__ == "__main__":
    main()
