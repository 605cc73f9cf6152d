from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.faces import Photo
from siamese_verify.models import FaceModel, TorchEngine
from siamese_verify.serving.problems import REASONS
from siamese_verify.structures import Crop
from siamese_verify.verification import NoDecision, Verification, Verifier
from siamese_verify.verification.decision import DetectedFace, Reason

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FACE = SHARED / "data/lfw/lfw-deepfunneled/George_W_Bush/George_W_Bush_0001.jpg"
SAME_FACE = FACE.with_name("George_W_Bush_0002.jpg")
OTHER_FACE = FACE.parents[1] / "Colin_Powell/Colin_Powell_0001.jpg"
POINTS = (
    OperatingPoint(0.1, 0.09, 0.9, 0.2, False, 400, 36),
    OperatingPoint(0.03, 0.03, 0.8, 0.4, False, 400, 12),
    OperatingPoint(0.001, 0.0, 0.3, 0.9, True, 400, 0),
)


def verifier(crop: Crop = Crop("whole"), points: tuple[OperatingPoint, ...] = POINTS, name: str = "mine") -> Verifier:
    torch.manual_seed(0)
    encoder = SmallResNet(size=32, width=4, embedding_size=16, crop=crop).eval()
    model = FaceModel.create(name, encoder, {}, points, eer_threshold=0.35, measured_on="400 pairs of nobody")
    return Verifier(model.metadata, TorchEngine(encoder))


@pytest.fixture
def casia(monkeypatch: pytest.MonkeyPatch) -> Verifier:
    weights = SHARED / "weights"
    if not (weights / "checkpoints/20180408-102900-casia-webface.pt").is_file() or not FACE.is_file():
        pytest.skip("needs casia-webface's weights in ../shared/weights and LFW in ../shared/data/lfw")
    monkeypatch.setenv("TORCH_HOME", str(weights))
    return Verifier.load("casia-webface")


def test_the_score_is_the_cosine_of_the_two_embeddings(photos: list[Path]) -> None:
    judge = verifier()
    first, second = judge.embed(photos[:2]).astype(np.float64)
    result = judge.verify(photos[0], photos[1])
    assert result.score == pytest.approx(float(first @ second), abs=1e-6)
    assert -1 <= result.score <= 1


def test_a_decision_tells_its_threshold_and_what_stands_behind_it(photos: list[Path]) -> None:
    result = verifier().verify(photos[0], photos[2], far=0.001)
    assert (result.threshold, result.far, result.impostors) == (0.9, 0.0, 400)
    assert (result.insufficient, result.measured_on, result.model) == (True, "400 pairs of nobody", "mine")
    assert result.same == (result.score >= 0.9)


def test_the_default_rate_is_the_strictest_with_enough_impostors(photos: list[Path]) -> None:
    result = verifier().verify(photos[0], photos[2])
    assert (result.threshold, result.far, result.insufficient) == (0.4, 0.03, False)


def test_a_photo_is_itself(photos: list[Path]) -> None:
    result = verifier().verify(photos[0], photos[0])
    assert result.same
    assert result.score == pytest.approx(1, abs=1e-6)


def test_order_does_not_matter(photos: list[Path]) -> None:
    judge = verifier()
    assert judge.verify(photos[0], photos[3]).score == pytest.approx(judge.verify(photos[3], photos[0]).score, abs=1e-6)


def test_a_threshold_of_ones_own_has_no_rate(photos: list[Path]) -> None:
    judge = verifier(points=())
    score = judge.verify(photos[0], photos[2], threshold=0).score
    for threshold, same in ((score, True), (np.nextafter(score, 2), False), (-1.0, True)):
        result = judge.verify(photos[0], photos[2], threshold=float(threshold))
        assert (result.same, result.threshold) == (same, threshold)
        assert (result.far, result.impostors, result.insufficient, result.measured_on) == (None, 0, False, "")


@pytest.mark.parametrize("threshold", [-1.1, 2.0, math.nan, math.inf])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float, photos: list[Path]) -> None:
    with pytest.raises(InputError, match="cosine between -1 and 1"):
        verifier().verify(photos[0], photos[1], threshold=threshold)


def test_a_threshold_and_a_rate_are_one_too_many(photos: list[Path]) -> None:
    with pytest.raises(InputError, match="not both"):
        verifier().verify(photos[0], photos[1], far=0.1, threshold=0.5)


def test_a_rate_that_was_not_measured_is_refused_before_any_photo_is_opened() -> None:
    with pytest.raises(InputError, match=r"0\.05 was measured: use 0\.001, 0\.03, 0\.1") as error:
        verifier().verify("nowhere.jpg", "nowhere.jpg", far=0.05)
    assert not isinstance(error.value, NoDecision)


def test_a_model_without_thresholds_asks_for_one(photos: list[Path]) -> None:
    with pytest.raises(InputError, match=r"vggface2.*--threshold"):
        verifier(points=(), name="vggface2").verify(photos[0], photos[1])


def test_every_kind_of_photo_gives_the_same_embedding(photos: list[Path]) -> None:
    with Image.open(photos[0]) as picture:
        pixels = np.asarray(picture)
    kinds: list[Photo] = [photos[0], str(photos[0]), photos[0].read_bytes(), pixels, Image.fromarray(pixels)]
    embeddings = verifier().embed(kinds)
    np.testing.assert_allclose(embeddings, embeddings[[0] * 5], atol=1e-6)


def test_a_bad_photo_is_reported_and_the_others_are_embedded(photos: list[Path], tmp_path: Path) -> None:
    judge = verifier()
    (tmp_path / "text.jpg").write_text("no photo")
    given: list[Photo] = ["nowhere.jpg", photos[0], tmp_path / "text.jpg", *photos * 17, b"nothing", photos[1]]
    found = judge.embed(given, on_error="skip")
    assert sorted(found.errors) == [0, 2, len(given) - 2]
    assert found.rows.tolist() == [row for row in range(len(given)) if row not in found.errors]
    assert [error.reason for error in found.errors.values()] == ["unreadable_photo"] * 3
    assert "There is no file nowhere.jpg" in str(found.errors[0])
    np.testing.assert_allclose(found.embeddings, judge.embed([given[row] for row in found.rows]), atol=1e-6)
    nothing = judge.embed(["nowhere.jpg"], on_error="skip")
    assert (nothing.embeddings.shape, nothing.rows.tolist(), len(nothing.errors)) == ((0, 16), [], 1)
    with pytest.raises(NoDecision, match="no file nowhere"):
        judge.embed(given)
    with pytest.raises(InputError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        judge.embed(given, on_error="ignore")  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"a list of photos, got a generator: write list\(photos\)"):
        judge.embed(one for one in given)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="A model is a name or a path, got NoneType"):
        Verifier.load(None)  # type: ignore[arg-type]


def test_no_decision_has_a_word_that_the_server_knows() -> None:
    assert set(get_args(Reason)) <= set(REASONS)


def test_embeddings_are_float32_of_unit_length(photos: list[Path]) -> None:
    embeddings = verifier().embed(photos)
    assert embeddings.shape == (4, 16)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_no_photos_give_no_embeddings() -> None:
    embeddings = verifier().embed([])
    assert embeddings.shape == (0, 16)
    assert embeddings.dtype == np.float32


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_photo_of_one_color_gives_finite_numbers(level: int) -> None:
    result = verifier().verify(np.full((9, 50, 3), level, np.uint8), np.full((40, 40, 3), 255 - level, np.uint8))
    assert math.isfinite(result.score)


def test_a_verification_is_frozen_and_keeps_no_photo(photos: list[Path]) -> None:
    result = verifier().verify(photos[0], photos[1])
    assert not [face for face in result.to_dict()["faces"] if "crop" in face]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    field = "same"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, field, True)
    assert isinstance(result, Verification)


@pytest.mark.parametrize("content", [b"", b"not a picture\n", b"\xff\xd8\xff\xe0" + bytes(50)])
def test_an_unreadable_file_is_no_decision_and_named(content: bytes, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(content)
    with pytest.raises(NoDecision, match=r"text\.jpg"):
        verifier().verify(photos[0], tmp_path / "text.jpg")


def test_a_missing_file_is_no_decision_and_named(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NoDecision, match=r"There is no file .*nowhere\.jpg"):
        verifier().verify(photos[0], tmp_path / "nowhere.jpg")


def test_bytes_that_cannot_be_read_are_named_by_their_place(photos: list[Path]) -> None:
    with pytest.raises(NoDecision, match="photo 2"):
        verifier().verify(photos[0], b"nothing")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "photo 2 is None"),
        (torch.zeros(3, 9, 9), r"photo 2 is Tensor: give an \(H, W, 3\) uint8 array, by .numpy"),
        (np.zeros((9, 9, 3), np.float32), "An array must be"),
        (io.StringIO("text"), "file that gives text"),
    ],
)
def test_a_value_of_a_wrong_type_is_an_error_of_the_program(photos: list[Path], value: Any, said: str) -> None:
    for photo in (photos[0], "nowhere.jpg"):
        with pytest.raises(InputError, match=said) as error:
            verifier().verify(photo, value)
        assert not isinstance(error.value, NoDecision)
    with pytest.raises(InputError):
        verifier().embed([value], on_error="skip")


def test_both_photos_without_a_face_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(NoDecision, match=r"empty\.jpg is empty: .* There is no file nowhere\.jpg\."):
        verifier().verify(tmp_path / "empty.jpg", "nowhere.jpg")


@pytest.mark.parametrize("photo", [np.full((200, 200, 3), 90, np.uint8), np.zeros((5, 5, 3), np.uint8)])
def test_no_face_is_no_decision(photo: np.ndarray) -> None:
    with pytest.raises(NoDecision, match="No face was found on photo 1"):
        verifier(Crop("box")).verify(photo, photo)


def test_a_pretrained_model_tells_one_person_from_another(casia: Verifier) -> None:
    genuine = casia.verify(FACE, SAME_FACE, threshold=0.4)
    impostor = casia.verify(FACE, OTHER_FACE, threshold=0.4)
    assert (genuine.same, impostor.same) == (True, False)
    assert genuine.score > impostor.score + 0.2


def test_several_faces_are_no_decision(casia: Verifier) -> None:
    with Image.open(FACE) as left, Image.open(OTHER_FACE) as right:
        both = np.concatenate([np.asarray(left.convert("RGB")), np.asarray(right.convert("RGB"))], axis=1)
    with pytest.raises(NoDecision, match="2 faces were found on photo 2: crop it to the one that is meant"):
        casia.verify(FACE, both, threshold=0.4)


def test_no_face_is_no_decision_for_a_pretrained_model(casia: Verifier) -> None:
    with pytest.raises(NoDecision, match="No face"):
        casia.verify(FACE, np.zeros((250, 250, 3), np.uint8), threshold=0.4)


@pytest.mark.skipif(not FACE.is_file(), reason="needs LFW in ../shared/data/lfw")
def test_a_liveness_hook_gets_the_face_where_it_lies_in_the_photo_it_gets() -> None:
    large = Image.new("RGB", (6400, 4800))
    large.paste(Image.open(FACE).resize((4000, 4000)), (1200, 400))
    content = io.BytesIO()
    large.save(content, "JPEG")
    seen: list[tuple[Image.Image, DetectedFace]] = []
    judge = verifier(Crop("box"))
    judge.liveness = lambda photo, face: seen.append((photo, face))
    (found,) = judge.find(content.getvalue())
    ((photo, face),) = seen
    assert found.box is not None
    assert face.box is not None
    assert photo.size == (3200, 2400)
    assert np.array(face.box) == pytest.approx(np.array(found.box) / 2)
    assert 1200 / 2 < face.box[0] < face.box[2] < 5200 / 2
