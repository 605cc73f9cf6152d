"""Networks of OpenCV's model zoo: downloaded, or read from a file, and folded once for ONNX Runtime.

SFace: Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", TIP 2021; its authors do
not say which photos this network was trained on. YuNet: Wu, Peng & Yu, "YuNet: A Tiny Millisecond-level Face
Detector", Machine Intelligence Research 2023; trained on WIDER FACE. The files are those with weights in blocks of
int8, which compute in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from siamese_verify.atomic_write import atomic_write, cache_folder
from siamese_verify.errors import InputError
from siamese_verify.onnx_folding import Graph, fold_batch_norms, split_prelus
from siamese_verify.structures import Crop, InputSpec

SFACE_INPUT = InputSpec(112, std=(128.0, 128.0, 128.0), crop=Crop("five_point", detector="yunet"))
FOLDING = 1  # to be incremented with any change of what `folded` returns
FOLDING_LOCK = Lock()
GIT = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models"
HUB = "https://huggingface.co/opencv"


class PublishedFile(NamedTuple):
    """A file of the zoo.

    Attributes:
        name: of the file.
        folder: of its model.
        sha256: 64 hexadecimal digits.
        size: bytes.
        license: of its weights, in words.
    """

    name: str
    folder: str
    sha256: str
    size: int
    license: str

    @property
    def addresses(self) -> tuple[str, str]:
        """Where it is published."""
        return f"{HUB}/{self.folder}/resolve/main/{self.name}", f"{GIT}/{self.folder}/{self.name}"


SFACE = PublishedFile(
    "face_recognition_sface_2021dec_int8bq.onnx",
    "face_recognition_sface",
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
    10_667_852,
    "Apache-2.0, training data not disclosed by the authors",
)
YUNET = PublishedFile(
    "face_detection_yunet_2023mar_int8bq.onnx",
    "face_detection_yunet",
    "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    122_489,
    "MIT",
)


def published(file: PublishedFile, sources: Collection[Path] = ()) -> bytes:
    """The content of a file of the zoo.

    Args:
        file: of the zoo.
        sources: files, or folders that hold them, under any names; copied to the cache. Without any it is downloaded
            there, once.

    Raises:
        InputError: it is not there, or cannot be downloaded.
    """
    path = cache_folder() / "opencv_zoo" / file.name
    if not sources:
        from siamese_verify.download import download

        otherwise = (
            f"sface needs two files of OpenCV's model zoo, {SFACE.name} and {YUNET.name}; put them in a folder and run "
            "`siamese-verify models pull sface --from FOLDER`"
        )
        return download(file.addresses, path, file.sha256, otherwise=otherwise).read_bytes()
    content = _content_of(file, sources)
    with suppress(OSError):  # a cache that cannot be written costs a download
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    return content


def _content_of(file: PublishedFile, sources: Collection[Path]) -> bytes:
    """The content of a file of the zoo, found by its hash."""
    for source in sources:
        try:
            candidates = sorted(source.iterdir()) if source.is_dir() else [source]
            for path in candidates:
                if path.is_file() and path.stat().st_size == file.size:
                    content = path.read_bytes()
                    if hashlib.sha256(content).hexdigest() == file.sha256:
                        return content
        except OSError as error:
            raise InputError(f"{source} cannot be read ({error.strerror}): give a file or folder.") from None
    raise InputError(
        f"{' and '.join(map(str, sources))} holds no {file.name} (SHA-256 {file.sha256}): get it from "
        f"{file.addresses[0]}."
    )


def folded(file: PublishedFile, sources: Collection[Path] = ()) -> bytes:
    """The network of a file of the zoo, for ONNX Runtime: from the cache, else folded and written there.

    Args:
        file: `SFACE`: `images` (N,3,112,112) uint8 RGB -> `embeddings` (N,128). `YUNET`: `photo` (H,W,3) uint8 RGB, H
            and W multiples of 32 -> its outputs as published.
        sources: see `published`.

    Raises:
        InputError: see `published`.
    """
    folder, stem = cache_folder() / "opencv_zoo", f"{Path(file.name).stem}-folded-{FOLDING}"
    with FOLDING_LOCK:
        for path in folder.glob(f"{stem}-*.onnx"):  # named by its hash
            with suppress(OSError):
                content = path.read_bytes()
                if path.stem == f"{stem}-{hashlib.sha256(content).hexdigest()}":
                    return content
        content = {SFACE: fold_sface, YUNET: fold_yunet}[file](published(file, sources))
        with suppress(OSError):  # a cache that cannot be written costs time, not the answer
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / f"{stem}-{hashlib.sha256(content).hexdigest()}.onnx", content)
        return content


def fold_sface(content: bytes) -> bytes:
    """Fold SFace, see `folded`."""
    from onnx import TensorProto, helper, load_from_string

    graph = Graph(load_from_string(content))
    fold_batch_norms(graph)
    split_prelus(graph)
    (image,), (embedding,) = graph.inputs, graph.outputs
    graph.nodes.insert(0, helper.make_node("Cast", ["images"], [image.name], to=TensorProto.FLOAT))
    graph.inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, 112, 112])]
    graph.nodes.append(helper.make_node("Identity", [embedding.name], ["embeddings"]))
    graph.outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 128])]
    return graph.to_bytes("sface")


def fold_yunet(content: bytes) -> bytes:
    """Fold YuNet, see `folded`; it was trained on channels in the order blue, green, red."""
    from onnx import TensorProto, helper, load_from_string

    graph = Graph(load_from_string(content))
    (image,) = graph.inputs
    (first,) = graph.consumers(image.name)
    graph.constants[first.input[1]] = graph.constants[first.input[1]][:, ::-1]
    graph.constants["one"] = np.array([0])
    graph.nodes[:0] = [
        helper.make_node("Cast", ["photo"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["channels", "one"], [image.name]),
    ]
    graph.inputs = [helper.make_tensor_value_info("photo", TensorProto.UINT8, ["height", "width", 3])]
    graph.outputs = [
        helper.make_tensor_value_info(
            one.name, TensorProto.FLOAT, [1, None, one.type.tensor_type.shape.dim[2].dim_value]
        )
        for one in graph.outputs
    ]
    return graph.to_bytes("yunet")
