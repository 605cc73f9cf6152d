"""Photos of every format, damaged in every way: each is a face or a sentence, in time, and leaves no memory behind."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import Pixels
from siamese_verify.faces import Mtcnn
from siamese_verify.faces.finder import detect_rotated
from siamese_verify.faces.photo import NotAPhoto
from siamese_verify.models import FaceModel, TorchEngine
from siamese_verify.structures import Crop
from siamese_verify.verification import NoDecision, Verifier

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
CASES = 10_000
ISOLATED = ("TIFF", "AVIF", "HEIF")  # decoded in a process of their own: a tenth of a second each


def photos() -> dict[str, bytes]:
    import pillow_heif

    pillow_heif.register_heif_opener()
    face = SyntheticFaces(1, 1, 40)[0]
    found = {}
    for name in FORMATS:
        file = io.BytesIO()
        face.save(file, name)
        found[name] = file.getvalue()
    for mode in ("L", "P", "RGBA", "CMYK", "I;16", "1", "LA", "F"):
        picture = face.convert("L").convert(mode) if mode in ("I;16", "F") else face.convert(mode)
        file = io.BytesIO()
        picture.save(file, "TIFF")
        found[f"TIFF {mode}"] = file.getvalue()
    file = io.BytesIO()
    face.save(file, "GIF", save_all=True, append_images=[face.rotate(90)] * 3)
    found["animated GIF"] = file.getvalue()
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    face.save(file, "JPEG", exif=exif)
    found["JPEG on its side"] = file.getvalue()
    return found


def damaged(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Change some bytes, mostly near the front, cut, double, or join with another file."""
    way = rng.integers(5)
    changed = bytearray(content)
    if way == 0:
        for _ in range(rng.integers(1, 9)):
            changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
    elif way == 1:
        for _ in range(rng.integers(1, 5)):
            changed[int(rng.integers(min(64, len(changed))))] = int(
                rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
            )
    elif way == 2:
        del changed[int(rng.integers(len(changed))) :]
    elif way == 3:
        start, end = sorted(int(place) for place in rng.integers(len(changed), size=2))
        changed[start:start] = changed[start:end]
    else:
        other = others[int(rng.integers(len(others)))]
        place = int(rng.integers(len(changed)))
        changed[place:] = other[int(rng.integers(len(other))) :]
    return bytes(changed)


def resident() -> int:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.filterwarnings("ignore")  # of Pillow's, about damaged metadata
@pytest.mark.parametrize(("isolated", "cases"), [(False, CASES), (True, 55)])
def test_ten_thousand_damaged_photos_are_faces_or_sentences(isolated: bool, cases: int) -> None:
    encoder = Pixels(size=16, crop=Crop("whole"))
    verifier = Verifier(FaceModel.create("pixels", encoder, {}).metadata, TorchEngine(encoder))
    originals = [content for name, content in photos().items() if name.startswith(ISOLATED) == isolated]
    for content in originals:
        assert verifier.find(content)[0].crop.shape == (16, 16, 3)
    rng = np.random.default_rng(0)
    refused, before = 0, 0
    for case in range(cases):
        content = damaged(originals[case % len(originals)], originals, rng)
        try:
            verifier.find(content, "photo")
        except NoDecision as error:
            refused += 1
            assert error.reason == "unreadable_photo"
            assert "\n" not in str(error)
            assert str(error).startswith(("photo ", "There is no"))
        if case == cases // 5:
            before = resident()
    assert cases // 10 < refused < cases  # some damage does no harm
    assert resident() < before + 120


def test_noise_of_any_shape_is_searched_without_a_crash() -> None:
    detector, rng = Mtcnn(), np.random.default_rng(0)
    for case in range(60):
        width, height = (int(side) for side in rng.integers(1, 120, size=2))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if case % 3 == 0:
            pixels[:] = pixels[0, 0]
        faces, rotated_by = detect_rotated(detector, Image.fromarray(pixels))
        assert rotated_by in (0, 90, 180, 270)
        assert all(np.isfinite(face.box).all() and 0 <= face.probability <= 1.0001 for face in faces)


@pytest.mark.parametrize("kind", ["float32", "bool", "object", "4 channels", "4 dimensions", "empty"])
def test_arrays_that_are_no_photos_are_sentences(kind: str) -> None:
    arrays = {
        "float32": np.zeros((9, 9, 3), np.float32),
        "bool": np.zeros((9, 9), np.bool_),
        "object": np.full((9, 9, 3), None),
        "4 channels": np.zeros((9, 9, 4), np.uint8),
        "4 dimensions": np.zeros((1, 9, 9, 3), np.uint8),
        "empty": np.zeros((0, 9, 3), np.uint8),
    }
    encoder = Pixels(size=16, crop=Crop("whole"))
    verifier = Verifier(FaceModel.create("pixels", encoder, {}).metadata, TorchEngine(encoder))
    with torch.inference_mode(), pytest.raises(NoDecision if kind == "empty" else NotAPhoto) as error:
        verifier.verify(arrays[kind], arrays[kind], threshold=0)
    assert "\n" not in str(error.value)
