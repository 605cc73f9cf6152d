"""OpenFace: its network as the definition of its authors, in numpy from the published file; weights or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from siamese_verify.encoders import Encoder, OpenFace, SFace
from siamese_verify.encoders.openface import L2Pool, published_weights
from siamese_verify.errors import InputError
from siamese_verify.models.registry import pretrained_bundle
from siamese_verify.structures import Crop

WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared/weights/openface/nn4.small2.h5"
Maps = NDArray[np.float64]  # (H,W,C), as in the file


class Network:
    """nn4.small2.def.lua layer by layer in float64, from the arrays of the file."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def get(self, layer: str, name: str) -> Maps:
        return np.asarray(self.file[f"{layer}/{layer}/{name}:0"], dtype=np.float64)

    def convolution(self, x: Maps, conv: str, norm: str, stride: int = 1) -> Maps:
        kernel = self.get(conv, "kernel")
        side = kernel.shape[0]
        windows = np.lib.stride_tricks.sliding_window_view(pad(x, side // 2), (side, side), axis=(0, 1))
        x = np.einsum("hwcij,ijco->hwo", windows[::stride, ::stride], kernel, optimize=True) + self.get(conv, "bias")
        mean, variance = self.get(norm, "moving_mean"), self.get(norm, "moving_variance")
        x = (x - mean) / np.sqrt(variance + 1e-5) * self.get(norm, "gamma") + self.get(norm, "beta")
        return np.maximum(x, 0)

    def inception(self, x: Maps, name: str, strides: dict[str, int], l2: bool) -> Maps:
        def two(kind: str) -> Maps:
            inner = self.convolution(x, f"{name}_{kind}_conv1", f"{name}_{kind}_bn1")
            return self.convolution(inner, f"{name}_{kind}_conv2", f"{name}_{kind}_bn2", strides.get(kind, 1))

        maps = [two(kind) for kind in ("3x3", "5x5") if f"{name}_{kind}_conv1" in self.file]
        pooled = np.sqrt(pool(x**2, 3, 3, np.sum)) if l2 else pool(x, 3, 2, np.max)
        if f"{name}_pool_conv" in self.file:
            pooled = self.convolution(pooled, f"{name}_pool_conv", f"{name}_pool_bn")
        maps.append(pooled)
        if f"{name}_1x1_conv" in self.file:
            maps.append(self.convolution(x, f"{name}_1x1_conv", f"{name}_1x1_bn"))
        out = np.zeros((len(maps[0]), len(maps[0]), sum(one.shape[2] for one in maps)))
        done = 0
        for one in maps:  # in the middle; where that is between two pixels, nearer to the upper left
            start = (len(out) - len(one)) // 2
            out[start : start + len(one), start : start + len(one), done : done + one.shape[2]] = one
            done += one.shape[2]
        return out

    def embed(self, image: NDArray[np.uint8]) -> Maps:
        x = self.convolution(image / 255, "conv1", "bn1", 2)
        x = local_norm(pool(pad(x, 1), 3, 2, np.max))
        x = self.convolution(self.convolution(x, "conv2", "bn2"), "conv3", "bn3")
        x = pool(pad(local_norm(x), 1), 3, 2, np.max)
        for name in ("3a", "3b", "3c", "4a", "4e", "5a", "5b"):
            strides = {"3x3": 2, "5x5": 2} if name in ("3c", "4e") else {}
            x = self.inception(x, f"inception_{name}", strides, name in ("3b", "4a", "5a"))
        found = x.mean(axis=(0, 1)) @ self.get("dense", "kernel") + self.get("dense", "bias")
        return np.asarray(found / np.linalg.norm(found))


def pad(x: Maps, by: int) -> Maps:
    return np.pad(x, ((by, by), (by, by), (0, 0)))


def pool(x: Maps, side: int, stride: int, reduce: Any) -> Maps:
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1))[::stride, ::stride]
    return np.asarray(reduce(windows, axis=(3, 4)))


def local_norm(x: Maps) -> Maps:
    squares = np.pad(x**2, ((0, 0), (0, 0), (2, 2)))
    total = sum(squares[..., shift : shift + x.shape[2]] for shift in range(5))
    return np.asarray(x / (1 + 1e-4 / 5 * total) ** 0.75)


def test_embeddings_are_those_of_the_published_network(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    if not WEIGHTS.is_file():
        pytest.skip(f"the weights of openface are not at {WEIGHTS}")
    published_weights(WEIGHTS.parent)  # a folder; the cache holds them from now on
    encoder = OpenFace("openface").eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    images[1] = np.linspace(0, 255, 96, dtype=np.uint8)[:, None, None]
    with h5py.File(WEIGHTS) as file:
        expected = np.stack([Network(file).embed(image) for image in images])
    with torch.inference_mode():
        found = encoder(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sum(weight.numel() for weight in encoder.parameters()) == 3_733_968, "as its definition says"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("other.h5", b"another", r"other.h5 is not nn4.small2.h5 \([0-9,]+ bytes, SHA-256 c7a4d6f4"),
        ("nothing.h5", None, "cannot be read from .*nothing.h5 .*models pull openface --from PATH"),
    ],
)
def test_other_weights_are_refused(name: str, content: bytes | None, complaint: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        published_weights(tmp_path / name)
    with pytest.raises(InputError, match="pretrained must be openface or null, got 'facenet'"):
        OpenFace("facenet")


def test_neither_a_device_nor_a_second_path_is_read() -> None:
    with pytest.raises(InputError, match=r"/dev/zero is not nn4.small2.h5"):
        published_weights(Path("/dev/zero"))
    with pytest.raises(InputError, match=r"The weights of openface are one file, got 2 paths"):
        pretrained_bundle("openface", [WEIGHTS, WEIGHTS])


@pytest.mark.parametrize("encoder, kind", [(SFace, "five_point"), (OpenFace, "eyes_and_nose")])
def test_published_weights_for_another_crop_are_refused(encoder: type[Encoder], kind: str) -> None:
    name = encoder.__name__.lower()
    with pytest.raises(InputError, match=f"The weights of {name} .* not by box: set data.crop={kind}, or"):
        encoder(pretrained=name, crop=Crop("box"))  # type: ignore[call-arg]
    assert encoder(crop=Crop("box")).input_spec.crop.kind == "box", "random weights take any"  # type: ignore[call-arg]


def test_pools_of_nothing_have_a_gradient() -> None:
    maps = torch.zeros(1, 2, 7, 7)
    maps[0, 1, 0, 0], maps[0, 1, 1, 2] = 3, 4
    maps.requires_grad_()
    pooled = L2Pool()(maps)
    assert pooled[0, :, 0, 0].tolist() == pytest.approx([0, 5], abs=1e-6)
    pooled.sum().backward()
    assert maps.grad is not None
    assert maps.grad[0, 1, 0, 0].item() == pytest.approx(3 / 5)
    assert maps.grad.isfinite().all()
