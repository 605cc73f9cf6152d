"""The server with real models answers as their verifier does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet
from siamese_verify.models import FaceModel, save_bundle
from siamese_verify.structures import Crop
from siamese_verify.verification import DetectedFace, Verifier
from tests.serving.conftest import client_of, pair, photo

pytestmark = pytest.mark.anyio
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
LFW = SHARED / "data/lfw/lfw-deepfunneled"
BUSH = [LFW / f"George_W_Bush/George_W_Bush_000{number}.jpg" for number in (1, 2)]


def bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    crop = {"_target_": "siamese_verify.structures.Crop", "kind": "whole"}
    configuration = {"_target_": "siamese_verify.encoders.SmallResNet", "size": 32, "width": 4, "embedding_size": 16}
    encoder = SmallResNet(size=32, width=4, embedding_size=16, crop=Crop("whole"))
    save_bundle(folder, FaceModel.create("tiny", encoder, {**configuration, "crop": crop}), {})
    return folder


async def test_scores_of_a_bundle_are_those_of_its_verifier(tmp_path: Path) -> None:
    verifier = Verifier.load(bundle(tmp_path / "tiny"), threads=1)
    faces = SyntheticFaces(2, 2, 64)
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for row, path in enumerate(paths):
        faces[row].save(path)
    async with client_of(verifier) as client:
        for a, b in ((0, 1), (0, 2), (3, 3)):
            sent = pair(paths[a].read_bytes(), paths[b].read_bytes(), threshold="0.5")
            answer = (await client.post("/v1/verify", **sent)).json()
            expected = verifier.verify(paths[a], paths[b], threshold=0.5)
            assert answer["score"] == pytest.approx(expected.score, abs=1e-5)
            assert answer["same"] == expected.same


async def test_liveness_hook_refuses_before_anything_is_compared(tmp_path: Path) -> None:
    seen: list[DetectedFace] = []

    def hook(picture: Image.Image, face: DetectedFace) -> str | None:
        seen.append(face)
        return "it is a sheet of paper" if len(seen) > 1 else None

    verifier = Verifier.load(bundle(tmp_path / "tiny"), threads=1, liveness=hook)
    async with client_of(verifier, liveness=True) as client:
        assert (await client.get("/v1/model")).json()["liveness"] is True
        assert not seen  # starting the server shows it no photo
        response = await client.post("/v1/verify", **pair(threshold="0"))
    assert (response.status_code, response.json()["reason"]) == (422, "refused")
    assert "it is a sheet of paper" in response.json()["detail"]


@pytest.fixture
def casia(monkeypatch: pytest.MonkeyPatch) -> Verifier:
    weights = SHARED / "weights"
    if not (weights / "checkpoints/20180408-102900-casia-webface.pt").is_file() or not BUSH[0].is_file():
        pytest.skip("needs casia-webface's weights in ../shared/weights and LFW in ../shared/data/lfw")
    monkeypatch.setenv("TORCH_HOME", str(weights))
    return Verifier.load("casia-webface", threads=1)


async def test_real_faces_are_verified(casia: Verifier) -> None:
    first, second = (path.read_bytes() for path in BUSH)
    other = (LFW / "Colin_Powell/Colin_Powell_0001.jpg").read_bytes()
    both = Image.new("RGB", (500, 250))
    for row, path in enumerate(BUSH):
        with Image.open(path) as picture:
            both.paste(picture, (250 * row, 0))
    group = io.BytesIO()
    both.save(group, "PNG")
    async with client_of(casia) as client:
        genuine = (await client.post("/v1/verify", **pair(first, second))).json()
        assert (genuine["same"], genuine["one_in"] > 1000) == (True, True)
        assert (await client.post("/v1/verify", **pair(first, other))).json()["same"] is False
        reasons = [
            (await client.post("/v1/verify", **pair(first, wrong))).json()["reason"]
            for wrong in (photo(1, 200, 200), group.getvalue())
        ]
    assert reasons == ["no_face", "multiple_faces"]
