from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.cli.main import main
from siamese_verify.encoders import Pixels
from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.models import FaceModel, open_bundle, save_bundle
from siamese_verify.structures import Crop
from siamese_verify.verification import Verifier
from siamese_verify.verification.recalibration import recalibrate
from tests.cli.conftest import save_faces

PEOPLE, PHOTOS, SHIPPED = 24, 3, 0.9


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of drawn people, a folder for each; a text file, and a copy of a photo."""
    folder = tmp_path_factory.mktemp("faces")
    save_faces(folder, PEOPLE, PHOTOS)
    (folder / "p00" / "none.png").write_text("no photo")
    shutil.copy(folder / "p01" / "0.png", folder / "p01" / "copy.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray levels as embeddings, with a threshold from elsewhere."""
    folder = tmp_path_factory.mktemp("bundle")
    encoder = Pixels(size=16, crop=Crop("whole")).eval()
    point = OperatingPoint(1e-3, 1e-3, 0.9, SHIPPED, False, 100_000, 100)
    configuration = {"_target_": "siamese_verify.encoders.Pixels", "size": 16}
    quality = {"light": (0.0, 0.01)}
    save_bundle(
        folder, FaceModel.create("", encoder, configuration, (point,), measured_on="others", quality=quality), {}
    )
    return folder


def test_rates_of_the_shipped_threshold_are_those_of_verify(bundle: Path, faces: Path) -> None:
    verifier = Verifier.load(bundle)
    found = recalibrate(verifier, faces, progress=False)
    paths = sorted(path for path in faces.rglob("*.png") if path.name not in ("none.png", "copy.png"))
    pairs = list(itertools.combinations(paths, 2))
    scores = np.array([verifier.verify(a, b, decide=True).score for a, b in pairs[:300]])
    rows = verifier.embed(paths)
    same = np.array([a.parent == b.parent for a, b in pairs])
    all_scores = np.array([rows[i] @ rows[j] for i, j in itertools.combinations(range(len(paths)), 2)])
    np.testing.assert_allclose(all_scores[:300], scores, atol=1e-5)
    rates = found.report.at_threshold
    assert rates is not None
    assert rates.far == pytest.approx((all_scores[~same] >= SHIPPED).mean())
    assert rates.frr == pytest.approx((all_scores[same] < SHIPPED).mean())
    assert found.left_out == {"unreadable_photo": 1, "copy of another file": 1}
    assert (found.photos, found.identities, found.unlike) == (PEOPLE * PHOTOS, PEOPLE, PEOPLE * PHOTOS)
    assert {"far", "frr"} <= set(found.report.intervals)
    told = list(found.sentences())
    assert told[0].startswith("The threshold 0.9000 that ")
    assert f"accepts {rates.far:.3%} of the impostor pairs of these photos (95 % over people: " in told[0]
    assert told[1] == "Measured on 72 photos of 24 people: 72 genuine and 2,484 impostor pairs."
    assert told[2] == "2 of 74 photos are left out: 1 copies of others, 1 unreadable."
    assert any("FAR 0.0001: too few people" in sentence for sentence in told)


def test_the_new_bundle_has_the_same_weights_and_thresholds_for_these_photos(
    bundle: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["recalibrate", str(bundle), "--faces", str(faces)]
    assert main(arguments) == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "mine")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("The threshold 0.9000 that ")
    old, new = open_bundle(bundle), open_bundle(tmp_path / "mine")
    assert new.metadata.fingerprint == old.metadata.fingerprint, "embeddings of both can be compared"
    assert {name: new.files[name] for name in old.files if name != "README.md"} == {
        name: digest for name, digest in old.files.items() if name != "README.md"
    }
    assert new.metadata.measured_on.startswith("all 2,556 pairs of 72 photos of 24 people in ")
    assert "2,556 pairs of 72 photos" in (tmp_path / "mine/README.md").read_text()
    assert new.metadata.score_calibration is not None
    strictest = new.metadata.operating_point(1e-2)
    assert strictest.far <= 1e-2
    assert new.metadata.decision_threshold(1e-2).threshold == pytest.approx(strictest.threshold, abs=0.02)
    again = recalibrate(Verifier.load(tmp_path / "mine"), faces, 1e-2, progress=False)
    assert again.report.at_threshold is not None
    assert again.report.at_threshold.far <= 1e-2
    assert again.unlike == 0, "and these photos are of the quality that was measured"


@pytest.mark.parametrize(("people", "photos"), [(19, 3), (24, 1)])
def test_too_few_photos_are_refused_with_their_numbers(
    people: int, photos: int, bundle: Path, faces: Path, tmp_path: Path
) -> None:
    for person, photo in itertools.product(range(people), range(photos)):
        (tmp_path / f"p{person:02}").mkdir(exist_ok=True)
        shutil.copy(faces / f"p{person:02}" / f"{photo}.png", tmp_path / f"p{person:02}")
    twice = people if photos > 1 else 0
    with pytest.raises(InputError, match=rf"shows {twice} people on two usable photos or more.*takes 20 people"):
        recalibrate(Verifier.load(bundle), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("nowhere", [], "There is no model nowhere"),
        ("run.ckpt", [], "run.ckpt is a checkpoint: `siamese-verify export"),
        ("BUNDLE", ["--output", "other"], "other exists and is not a bundle"),
        ("BUNDLE", ["--far", "0.2"], "was measured: use 0.001"),
    ],
)
def test_a_mistake_is_reported_before_any_photo_is_read(
    model: str,
    options: list[str],
    sentence: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.ckpt").write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/note.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["recalibrate", model.replace("BUNDLE", str(bundle)), "--faces", "no-photos", *options])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_one_face_of_each_photo_is_needed(bundle: Path, faces: Path) -> None:
    with pytest.raises(InputError, match="error, largest or central"):
        recalibrate(Verifier.load(bundle, on_multiple_faces="any"), faces)
