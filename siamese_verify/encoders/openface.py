"""nn4.small2 of OpenFace: an inception network of 3.7 million weights."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_verify.atomic_write import atomic_write, cache_folder
from siamese_verify.encoders.encoder import Encoder, check_crop
from siamese_verify.errors import InputError
from siamese_verify.structures import Crop, InputSpec

WEIGHTS = "nn4.small2.h5"
SHA256 = "c7a4d6f44ff14a901b4208ba382f03aa40db604ba5c7279b26dce3cff862037d"
BYTES = 15_297_584
LICENSE = "Apache-2.0, of OpenFace (Carnegie Mellon University), trained on FaceScrub and CASIA-WebFace"
SIZE = 96
SMALLEST_SQUARE = 1e-24  # below it a root has no slope


class L2Pool(nn.Module):
    """Root of the sum of squares over blocks of 3 x 3 (Torch's `SpatialLPPooling`)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H//3,W//3)."""
        return (9 * F.avg_pool2d(x.square(), 3)).clamp(min=SMALLEST_SQUARE).sqrt()


class BlockSizes(NamedTuple):
    """Channels of an inception block, each pair (reduced, output); None: the block has no such branch."""

    three: tuple[int, int]
    five: tuple[int, int] | None
    pool: int | None  # None: the pooled input itself
    one: int | None
    stride: int = 1
    l2: bool = False  # L2 instead of max pooling


BLOCKS = {  # of the definition nn4.small2.def.lua
    "3a": BlockSizes((96, 128), (16, 32), 32, 64),
    "3b": BlockSizes((96, 128), (32, 64), 64, 64, l2=True),
    "3c": BlockSizes((128, 256), (32, 64), None, None, stride=2),
    "4a": BlockSizes((96, 192), (32, 64), 128, 256, l2=True),
    "4e": BlockSizes((160, 256), (64, 128), None, None, stride=2),
    "5a": BlockSizes((96, 384), None, 96, 256, l2=True),
    "5b": BlockSizes((96, 384), None, 96, 256),
}


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, number: str = ""
) -> list[tuple[str, nn.Module]]:
    """Convolution with bias, batch norm and ReLU, by name."""
    return [
        (f"conv{number}", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)),
        (f"bn{number}", nn.BatchNorm2d(outputs)),
        (f"relu{number}", nn.ReLU()),
    ]


class Inception(nn.Module):
    """Inception block (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015) whose pooling shrinks its input.

    Maps that are smaller than the others are surrounded by zeros, as Torch's `DepthConcat` does it.
    """

    def __init__(self, inputs: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        self.outputs = 0
        for name, kernel, channels in (("3x3", 3, sizes.three), ("5x5", 5, sizes.five)):
            if channels:
                first = convolution(inputs, channels[0], number="1")
                second = convolution(*channels, kernel, sizes.stride, number="2")
                self.branches[name] = nn.Sequential(OrderedDict(first + second))
                self.outputs += channels[1]
        pool: list[tuple[str, nn.Module]] = [("pool", L2Pool() if sizes.l2 else nn.MaxPool2d(3, 2))]
        pool += convolution(inputs, sizes.pool) if sizes.pool else []
        self.branches["pool"] = nn.Sequential(OrderedDict(pool))
        self.outputs += sizes.pool or inputs
        if sizes.one:
            self.branches["1x1"] = nn.Sequential(OrderedDict(convolution(inputs, sizes.one)))
            self.outputs += sizes.one

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,S,S) -> (B,outputs,S/stride,S/stride)."""
        maps = [branch(x) for branch in self.branches.values()]
        side = maps[0].shape[3]
        missing = [side - one.shape[3] for one in maps]
        around = [(few // 2, few - few // 2) * 2 for few in missing]
        return torch.cat([F.pad(one, pad) if any(pad) else one for one, pad in zip(maps, around, strict=True)], dim=1)


class OpenFace(Encoder):
    """nn4.small2 of OpenFace: FaceNet's NN4 with fewer and smaller layers, 96 x 96 -> 128 dimensions.

    Amos, Ludwiczuk & Satyanarayanan, "OpenFace: A general-purpose face recognition library with mobile applications",
    CMU-CS-16-118, 2016; Schroff et al. 2015, table 2.

    Args:
        pretrained: `openface` for the weights of its authors, see `published_weights`; None for random weights.
        crop: how faces are cropped; the pretrained weights are for `eyes_and_nose`.
        normalize: give embeddings of unit length.

    Raises:
        InputError: unknown or unavailable weights, or weights for another crop.
    """

    def __init__(
        self, pretrained: str | None = None, crop: Crop = Crop("eyes_and_nose"), normalize: bool = True
    ) -> None:
        if pretrained not in (None, "openface"):
            raise InputError(f"pretrained must be openface or null, got {pretrained!r}.")
        if pretrained:
            check_crop(pretrained, crop, "eyes_and_nose")
        layers = [
            *(convolution(3, 64, 7, 2, "1")),
            ("pool1", nn.MaxPool2d(3, 2, 1)),
            ("norm1", nn.LocalResponseNorm(5)),
            *convolution(64, 64, number="2"),
            *convolution(64, 192, 3, number="3"),
            ("norm2", nn.LocalResponseNorm(5)),
            ("pool2", nn.MaxPool2d(3, 2, 1)),
        ]
        channels = 192
        for name, sizes in BLOCKS.items():
            block = Inception(channels, sizes)
            layers.append((f"inception_{name}", block))
            channels = block.outputs
        layers += [("pool3", nn.AvgPool2d(3)), ("flat", nn.Flatten()), ("dense", nn.Linear(channels, 128))]
        backbone = nn.Sequential(OrderedDict(layers))
        if pretrained:
            backbone.load_state_dict(convert_keras(published_weights(), backbone))
        spec = InputSpec(SIZE, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), crop=crop)
        super().__init__(backbone, 128, spec, normalize)


def published_weights(source: Path | None = None) -> bytes:
    """The weights of OpenFace's authors in Keras layout, an HDF5 file.

    Args:
        source: the file, or a folder that holds it; copied to the cache. Without one it is read there.

    Raises:
        InputError: it is not there, or another file.
    """
    cached = cache_folder() / "openface" / WEIGHTS
    path = source / WEIGHTS if source and source.is_dir() else source or cached
    try:
        content = path.read_bytes() if not path.exists() or (path.is_file() and path.stat().st_size == BYTES) else b""
    except OSError as error:
        raise InputError(
            f"The weights of openface cannot be read from {path} ({error.strerror}): give the file {WEIGHTS} (SHA-256 "
            f"{SHA256}) to `siamese-verify models pull openface --from PATH`."
        ) from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{path} is not {WEIGHTS} ({BYTES:,} bytes, SHA-256 {SHA256}): give that file by --from.")
    if source:
        with suppress(OSError):  # without a cache it has to be given again
            cached.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(cached, content)
    return content


def convert_keras(content: bytes, backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of a Keras file (channels last, by the names of layers) as the state of a backbone.

    Args:
        content: of the HDF5 file.
        backbone: of `OpenFace`.

    Raises:
        InputError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(
            "The weights of openface are an HDF5 file: install h5py by `pip install 'siamese-verify[openface]'`."
        ) from None
    ours = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    ours |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    state = backbone.state_dict()
    with h5py.File(io.BytesIO(content)) as file:
        for name, module in backbone.named_modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                layer = name.replace(".branches.", "_").replace(".", "_")
                for key, values in file[layer][layer].items():
                    tensor = torch.from_numpy(values[()])
                    tensor = (
                        tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T if tensor.ndim == 2 else tensor
                    )
                    state[f"{name}.{ours[key.partition(':')[0]]}"] = tensor
    return state
