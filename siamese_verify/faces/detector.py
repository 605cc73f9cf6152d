"""Face detectors on ONNX Runtime: MTCNN with facenet-pytorch's weights, and YuNet of OpenCV's model zoo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_verify.atomic_write import atomic_write, cache_folder
from siamese_verify.faces import mtcnn, yunet
from siamese_verify.faces.mtcnn import Array, Network, Networks
from siamese_verify.faces.rotation import Box, Point
from siamese_verify.onnx_runtime import OPSET, export_onnx, open_session
from siamese_verify.structures import DetectorName

SINGLE_SEARCH = 320  # pixels: YuNet finds every face of such a photo at one size
FILES_VERSION = 2  # to be incremented with any change of what `convert_detector` writes
TRACED_SIDES = ((61, 64), (24, 24), (48, 48))  # of the pictures that the networks are traced with
CONVERSION_LOCK = Lock()  # torch's exporter is not thread-safe


class Face(NamedTuple):
    """A detected face, in pixels of the photo."""

    box: Box  # left, top, right, bottom
    probability: float  # of being a face, in [0, 1]
    landmarks: tuple[Point, ...]  # left eye, right eye, nose, left and right corner of the mouth

    @property
    def side(self) -> float:
        """Side of the square of the same area as the box."""
        left, top, right, bottom = self.box
        return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))

    @property
    def center(self) -> Point:
        """Center of the box, x and y."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    def scaled(self, scale: float, x: float = 0.0, y: float = 0.0) -> Face:
        """The face in pixels of another photo: scaled, then shifted by `x` and `y`."""
        left, top, right, bottom = self.box
        return Face(
            (left * scale + x, top * scale + y, right * scale + x, bottom * scale + y),
            self.probability,
            tuple((across * scale + x, down * scale + y) for across, down in self.landmarks),
        )


class FaceDetector:
    """Base class of face detectors; thread-safe.

    The faces of a photo depend neither on the photos beside it nor on the number of threads.

    Args:
        longest_side: larger photos are searched at this size, in pixels: the time of a search grows with the area.

    Attributes:
        identifier: names caches and alignments: to be incremented with any change of boxes or search.
        files: names of its ONNX files.
        min_probability: of a face: what the detector is less sure of does not count.
        sure: probability of an upright face that one upside down or on its side seldom reaches.
    """

    identifier: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    min_probability: ClassVar[float]
    sure: ClassVar[float]

    def __init__(self, longest_side: int) -> None:
        self.longest_side = longest_side

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        """Detect all faces of an RGB photo, the most probable first.

        Args:
            photo: RGB, of any size.
            finer: look for faces of half the size, too: about four times the work.
        """
        raise NotImplementedError

    def downscale(self, photo: Image.Image) -> tuple[Image.Image, float]:
        """The photo at the size at which it is searched, and the factor back to its own pixels."""
        shrink = min(1.0, self.longest_side / max(photo.size))
        if shrink == 1:
            return photo, 1.0
        width, height = photo.size
        return photo.resize((max(1, round(width * shrink)), max(1, round(height * shrink)))), 1 / shrink


class Mtcnn(FaceDetector):
    """MTCNN face detector.

    Args:
        networks: such as those of a model's bundle; by default those of this machine's cache, see `detector_files`.
        min_face_size: side of the smallest face to look for, in pixels.
        longest_side: see `FaceDetector`.
    """

    identifier = "mtcnn-4"
    files = ("propose.onnx", "refine.onnx", "output.onnx", "apart.onnx")
    min_probability, sure = 0.9, 0.99

    def __init__(self, networks: Networks | None = None, min_face_size: int = 20, longest_side: int = 1280) -> None:
        super().__init__(longest_side)
        self.networks = networks or load_networks(detector_files("mtcnn"))
        self.min_face_size = min_face_size

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        """See `FaceDetector`."""
        small, scale = self.downscale(photo)
        found = mtcnn.find_faces(np.asarray(small), self.networks, max(1, self.min_face_size // (2 if finer else 1)))
        return faces_of(found, scale)


class YuNet(FaceDetector):
    """YuNet face detector; photos of more than `SINGLE_SEARCH` pixels are searched at that size, too.

    Its network overlooks faces of more than about 300 pixels.

    Args:
        network: ONNX file, see `siamese_verify.opencv_zoo.folded`; by default that of this machine's cache.
        longest_side: see `FaceDetector`.
    """

    identifier = "yunet-1"
    files = ("yunet.onnx",)
    min_probability, sure = 0.7, 0.9

    def __init__(self, network: bytes | None = None, longest_side: int = 640) -> None:
        super().__init__(longest_side)
        (name,) = self.files
        self._session = open_session(network or detector_files("yunet")[name], name, threads=1)

    def detect(self, photo: Image.Image, finer: bool = False) -> list[Face]:
        """See `FaceDetector`; `finer` also looks at half the size, where noise is weaker, and enlarges small photos."""
        longest = max(photo.size)
        usual = min(longest, self.longest_side)
        sides = {usual, min(usual, SINGLE_SEARCH)}
        sides |= {2 * usual, max(2 * usual, SINGLE_SEARCH), max(1, usual // 2)} if finer else set()
        found = [face for side in sorted(sides, reverse=True) for face in self._detect(photo, side / longest)]
        found.sort(key=lambda face: -face.probability)
        boxes = np.array([face.box for face in found], dtype=np.float32).reshape(-1, 4)
        return [found[row] for row in yunet.suppress(boxes, yunet.MAX_OVERLAP)]

    def _detect(self, photo: Image.Image, zoom: float) -> list[Face]:
        """Detect the faces of a photo at another size."""
        width, height = photo.size
        resized = photo if zoom == 1 else photo.resize((max(1, round(width * zoom)), max(1, round(height * zoom))))
        return faces_of(yunet.find_faces(np.asarray(resized), self._run, self.min_probability), 1 / zoom)

    def _run(self, photo: NDArray[np.uint8]) -> list[Array]:
        found: list[Array] = self._session.run(yunet.OUTPUTS, {"photo": photo})
        return found


def faces_of(found: mtcnn.Detections, scale: float) -> list[Face]:
    """Detections as faces, in pixels of a photo that is `scale` times as large."""
    rows = zip(found.boxes.tolist(), found.probabilities.tolist(), found.landmarks.tolist(), strict=True)
    return [Face(tuple(box), likely, tuple((x, y) for x, y in points)).scaled(scale) for box, likely, points in rows]


DETECTORS: dict[DetectorName, type[FaceDetector]] = {"mtcnn": Mtcnn, "yunet": YuNet}


def load_detector(name: DetectorName, files: Mapping[str, bytes] | None = None) -> FaceDetector:
    """Load a face detector.

    Args:
        name: `mtcnn` or `yunet`.
        files: its ONNX files by name; by default those of this machine's cache, see `detector_files`.

    Raises:
        InputError: a file is missing, unavailable or not an ONNX model.
    """
    files = detector_files(name) if files is None else files
    return Mtcnn(load_networks(files)) if name == "mtcnn" else YuNet(files.get(YuNet.files[0], b""))


def detector_files(name: DetectorName) -> dict[str, bytes]:
    """ONNX files of a face detector by name, from this machine's cache.

    Those that are not there are made first: MTCNN's from facenet-pytorch's weights by torch, YuNet's is downloaded.
    """
    if name == "mtcnn":
        return mtcnn_files()
    from siamese_verify.opencv_zoo import YUNET, folded

    return {YuNet.files[0]: folded(YUNET)}


def load_networks(files: Mapping[str, bytes]) -> Networks:
    """Load MTCNN's networks; each runs in the calling thread, as a photo is too small to share.

    Args:
        files: ONNX models by their names in `Mtcnn.files`.

    Raises:
        InputError: one is missing or not an ONNX model.
    """
    propose, refine, output = (_network(files, name) for name in Mtcnn.files[:3])
    suppression = open_session(files.get(Mtcnn.files[3], b""), Mtcnn.files[3], threads=1)

    def apart(boxes: Array, probabilities: Array, max_overlap: float) -> NDArray[np.int64]:
        if not len(boxes):
            return np.empty(0, dtype=np.int64)
        inputs = {
            "boxes": boxes[None],
            "scores": probabilities[None, None],
            "count": np.array([len(boxes)]),
            "most": np.array([max_overlap], dtype=np.float32),
        }
        kept: NDArray[np.int64] = suppression.run(None, inputs)[0][:, 2]
        return kept

    return Networks(propose, refine, output, apart)


def _network(files: Mapping[str, bytes], name: str) -> Network:
    session = open_session(files.get(name, b""), name, threads=1)

    def run(pixels: Array) -> tuple[Array, ...]:
        return tuple(session.run(None, {"pixels": pixels}))

    return run


def mtcnn_files() -> dict[str, bytes]:
    """MTCNN's ONNX files by name: from this machine's cache, else converted from facenet-pytorch's weights by torch."""
    folder = cache_folder() / f"mtcnn-onnx-{FILES_VERSION}"
    with CONVERSION_LOCK:
        with suppress(OSError):
            return {name: (folder / name).read_bytes() for name in Mtcnn.files}
        files = convert_detector()
        with suppress(OSError):  # a cache that cannot be written costs time, not the answer
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                atomic_write(folder / name, content)
        return files


def convert_detector() -> dict[str, bytes]:
    """Convert the networks of facenet-pytorch's MTCNN to ONNX: the content of each of `Mtcnn.files`."""
    import torch
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

    files = {}
    for name, network, sides in zip(Mtcnn.files, (PNet(), RNet(), ONet()), TRACED_SIDES, strict=False):
        axes = (0, 2, 3) if name == Mtcnn.files[0] else (0,)
        dynamic = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
        files[name] = export_onnx(network, (torch.zeros(2, 3, *sides),), {"pixels": dynamic})
    files[Mtcnn.files[3]] = suppression_network()
    return files


def suppression_network() -> bytes:
    """ONNX model of non-maximum suppression alone, which ONNX Runtime does faster than numpy can."""
    from onnx import TensorProto, helper

    float32, int64 = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "count", "most"], ["kept"])],
        "apart",
        [
            helper.make_tensor_value_info("boxes", float32, [1, "n", 4]),
            helper.make_tensor_value_info("scores", float32, [1, 1, "n"]),
            helper.make_tensor_value_info("count", int64, [1]),
            helper.make_tensor_value_info("most", float32, [1]),
        ],
        [helper.make_tensor_value_info("kept", int64, ["m", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
