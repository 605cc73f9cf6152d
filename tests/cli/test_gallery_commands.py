from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from siamese_verify.cli.main import main
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import Pixels
from siamese_verify.evaluation import calibrate
from siamese_verify.gallery import new_key
from siamese_verify.models import FaceModel, TorchEngine, save_bundle
from siamese_verify.structures import Crop
from siamese_verify.verification import Verifier
from tests.cli.conftest import save_faces

ENCODER = {"_target_": "siamese_verify.encoders.Pixels", "size": 16}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Photos of six people, three each."""
    paths = save_faces(tmp_path_factory.mktemp("photos"), 6, 3, 64)
    return [[str(path) for path in paths[3 * person : 3 * person + 3]] for person in range(6)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The gray levels of a photo as its embedding, measured on other people."""
    folder = tmp_path_factory.mktemp("bundle")
    encoder = Pixels(size=16, crop=Crop("whole")).eval()
    unmeasured = FaceModel.create("pixels", encoder, ENCODER)
    faces = SyntheticFaces(60, 3, 64, seed=5)
    embeddings = Verifier(unmeasured.metadata, TorchEngine(encoder)).embed([faces[row] for row in range(180)])
    score_calibration = calibrate(embeddings, faces.identities, intervals=False)
    quality = {"sharpness": (60.0, None)}
    save_bundle(
        folder, FaceModel.create("pixels", encoder, ENCODER, score_calibration=score_calibration, quality=quality), {}
    )
    return str(folder)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a gallery, with a key."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("SIAMESE_VERIFY_KEY", raising=False)
    monkeypatch.setenv("SIAMESE_VERIFY_KEY_FILE", str(tmp_path / "key"))
    new_key(tmp_path / "key")
    return tmp_path / "data" / "siamese-verify" / "gallery.db"


def refused(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2


def test_a_person_is_enrolled_identified_listed_and_forgotten(
    bundle: str, photos: list[list[str]], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enroll", "Zoe\u0308 Ångström", *photos[0][:2], "--model", bundle]) == 0
    assert "Zoë Ångström is enrolled: 2 templates added, 2 in all." in capsys.readouterr().out
    assert place.is_file()
    assert main(["identify", photos[0][0], "--model", bundle, "--far", "0.3"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Zoë Ångström: score 1.000, threshold")
    assert "At most 30 % of the searches for people who are not enrolled name somebody" in told
    assert main(["people"]) == 0
    assert "Zoë Ångström  (2 templates, since 2" in capsys.readouterr().out
    assert main(["forget", "Zoë Ångström"]) == 0
    assert "Zoë Ångström is forgotten: 2 templates removed." in capsys.readouterr().out
    assert main(["people", "--log", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [(entry["event"], entry["name"]) for entry in entries] == [
        ("enrolled", None),
        ("matched", None),
        ("forgotten", None),
    ]


def test_answers_are_json(bundle: str, photos: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enroll", "Ann", *photos[0][:2], "--model", bundle, "--json"]) == 0
    assert {"name": "Ann", "added": 2, "templates": 2}.items() <= json.loads(capsys.readouterr().out).items()
    assert main(["identify", photos[0][0], "--model", bundle, "--json", "--threshold", "0.9", "--top", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["searched"], told["far"]) == ("Ann", 2, None)
    assert main(["people", "--json"]) == 0
    assert [person["name"] for person in json.loads(capsys.readouterr().out)] == ["Ann"]


def test_nobody_ends_with_1_and_a_sentence(
    bundle: str, photos: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["enroll", "Ann", *photos[0], "--model", bundle])
    capsys.readouterr()
    assert main(["identify", photos[1][0], "--model", bundle, "--threshold", "0.99999"]) == 1
    assert capsys.readouterr().out == "Nobody who is enrolled: threshold 1.000, 1 person searched.\n"
    assert main(["identify", photos[1][0], "--model", bundle, "--threshold", "0.99999", "--scores"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("Nobody who is enrolled: best score ")
    assert told.endswith("  Ann\n")


def test_a_photo_comes_from_standard_input(
    bundle: str, photos: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["enroll", "Ann", *photos[0], "--model", bundle])
    with Path(photos[0][1]).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Input", (), {"buffer": file}))
        assert main(["identify", "-", "--model", bundle, "--threshold", "0.999"]) == 0


def test_the_same_face_under_another_name_is_a_warning(
    bundle: str, photos: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["enroll", "Ann", photos[0][0], "--model", bundle])
    assert main(["enroll", "Ben", photos[0][0], "--model", bundle]) == 0
    assert "Warning: " in (told := capsys.readouterr().err)
    assert "this face is enrolled already, as Ann" in told


def test_a_blurred_face_is_refused_with_its_reason_unless_forced(
    bundle: str, photos: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photos[0][0]) as picture:
        picture.filter(ImageFilter.GaussianBlur(20)).save(tmp_path / "blurred.png")
    arguments = ["enroll", "Ann", photos[0][1], str(tmp_path / "blurred.png"), "--model", bundle]
    refused(*arguments)
    told = capsys.readouterr().err
    assert "Ann was not enrolled" in told
    assert "blurred.png: the face is blurred" in told
    assert main(["people"]) == 0
    assert "0 people enrolled" in capsys.readouterr().out
    assert main([*arguments, "--force"]) == 0
    assert "blurred.png: the face is blurred" in capsys.readouterr().err


def test_an_unreadable_photo_is_no_decision_and_enrols_nobody(
    bundle: str, photos: list[list[str]], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enroll", "Ann", photos[0][0], "nowhere.png", "--model", bundle]) == 3
    assert "No decision: There is no file nowhere.png" in capsys.readouterr().err
    main(["enroll", "Ann", photos[0][0], "--model", bundle])
    assert main(["identify", "nowhere.png", "--model", bundle, "--json"]) == 3
    missing = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (missing["name"], missing["reason"]) == (None, "unreadable_photo")
    assert missing["detail"] == "There is no file nowhere.png."
    main(["identify", photos[0][0], "--model", bundle, "--json"])
    assert set(json.loads(capsys.readouterr().out)) == set(missing)
    assert main(["enroll", "Ann", "nowhere.png", "--model", bundle, "--json"]) == 3
    missing = json.loads(capsys.readouterr().out)
    assert main(["enroll", "Ann", photos[0][0], "--model", bundle, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(missing)


def test_without_a_key_the_sentence_says_what_to_do(
    bundle: str,
    photos: list[list[str]],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SIAMESE_VERIFY_KEY_FILE")
    for command in (["enroll", "Ann", photos[0][0]], ["identify", photos[0][0]], ["people"], ["forget", "Ann"]):
        refused(*command)
        assert "`siamese-verify people --new-key FILE`, and give that file by --key" in capsys.readouterr().err
    assert not place.exists()


def test_a_key_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.key"
    assert main(["people", "--new-key", str(path)]) == 0
    content = path.read_bytes()
    told = capsys.readouterr().out
    assert f"export SIAMESE_VERIFY_KEY_FILE={path}" in told
    assert content.decode().strip() not in told
    refused("people", "--new-key", str(path))
    assert "never overwritten" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_another_key_and_another_model_are_refused(
    bundle: str,
    photos: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["enroll", "Ann", photos[0][0], "--model", bundle])
    encoder = Pixels(size=12, crop=Crop("whole")).eval()
    save_bundle(tmp_path / "other", FaceModel.create("other", encoder, {**ENCODER, "size": 12}), {})
    refused("enroll", "Ben", photos[1][0], "--model", str(tmp_path / "other"))
    assert "cannot be compared with" in capsys.readouterr().err
    monkeypatch.setenv("SIAMESE_VERIFY_KEY", base64.b64encode(bytes(32)).decode())
    refused("people")
    assert "it has another key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["identify", "PHOTO"], "There is no gallery"),
        (["people"], "There is no gallery"),
        (["forget", "Ann"], "There is no gallery"),
        (["enroll", "A\u202enn", "PHOTO"], "invisible character"),
        (["enroll", "", "PHOTO"], "is empty"),
        (["enroll", "x" * 201, "PHOTO"], "201 characters"),
        (["identify", "PHOTO", "--top", "0"], "must be 1 or more"),
        (["people", "--key", "nowhere"], "There is no key file nowhere"),
        (["people", "--gallery", "/dev/null"], "not a gallery"),
    ],
)
def test_a_mistake_is_reported_before_a_model_is_loaded(
    arguments: list[str], sentence: str, photos: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(*(photos[0][0] if argument == "PHOTO" else argument for argument in arguments))
    assert sentence in capsys.readouterr().err


def test_an_empty_gallery_and_an_unknown_name_are_reported(
    bundle: str, photos: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["enroll", "Ann", photos[0][0], "--model", bundle])
    refused("forget", "Ben")
    assert "There is no 'Ben' in the gallery (1 person)" in capsys.readouterr().err
    main(["forget", "Ann"])
    capsys.readouterr()
    assert main(["identify", photos[0][0], "--model", bundle]) == 1
    told = capsys.readouterr()
    assert told.out == "Nobody who is enrolled: 0 people searched.\n"
    assert "is empty: enroll a person" in told.err
    assert main(["people", "--check"]) == 0
    assert "0 people enrolled, no damage found." in capsys.readouterr().out
