"""Adapting a model: kept where a known distortion can be undone, refused where nothing can be gained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.cli.main import main
from siamese_verify.encoders import MirroredEncoder, Pixels
from siamese_verify.errors import InputError
from siamese_verify.evaluation import compare_scores
from siamese_verify.models import FaceModel, load_model, open_bundle, save_bundle
from siamese_verify.structures import Crop
from siamese_verify.verification import Verifier
from siamese_verify.verification import adaptation as module
from siamese_verify.verification.adaptation import (
    Adaptation,
    adapt,
    apply_head,
    choose_rows,
    fit_head,
    hold_out,
    save_adapted,
)
from tests.cli.conftest import save_faces

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


def draw(seed: int, distorted: bool, people: int = 30, photos: int = 4, size: int = 16) -> tuple[Floats, Whole]:
    """Unit rows around people; distorted: a quarter of the coordinates is four times as large, and says little."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(people, size)), photos, axis=0)
    rows += (0.7 if distorted else 1.0) * rng.normal(size=rows.shape)
    if distorted:
        noisy = size // 4
        rows[:, :noisy] = 4 * (rows[:, :noisy] + 1.5 * rng.normal(size=(len(rows), noisy)))
        rows = rows @ np.linalg.qr(rng.normal(size=(size, size)))[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(people), photos)


def gains(rows: Floats, people: Whole, seed: int) -> bool:
    pairs = hold_out(rows, people, seed)
    both = np.stack([people[pairs.left], people[pairs.right]], axis=1)
    same = both[:, 0] == both[:, 1]
    found = compare_scores(pairs.plain, pairs.adapted, same, both, targets=(), resamples=100, seed=seed)
    return found.eer.high < 0


@pytest.mark.parametrize("seed", range(2))
def test_a_linear_distortion_is_undone_for_people_that_the_head_has_not_seen(seed: int) -> None:
    assert gains(*draw(seed, distorted=True), seed)


def test_where_nothing_can_be_gained_the_head_is_refused() -> None:
    assert sum(gains(*draw(seed, distorted=False), seed) for seed in range(20)) <= 1, "at most one of twenty"


def test_a_head_that_is_as_good_as_none_is_taken_in_one_of_twenty_cases_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the coordinates counts less, and with the head the other half: by symmetry neither is better."""
    weights = np.repeat([1.0, 0.4], 8)
    head = np.diag(weights[::-1] / weights).astype(np.float32)
    monkeypatch.setattr(module, "fit_head", lambda rows, people, seed: head)
    accepted = 0
    for seed in range(60):
        rows, people = draw(seed, distorted=False, people=20)
        rows = (rows * weights).astype(np.float32)
        accepted += gains(rows / np.linalg.norm(rows, axis=1, keepdims=True), people, seed)
    assert accepted <= 3


def test_pairs_are_of_people_whose_fold_the_head_was_trained_without(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, people = draw(3, distorted=True, people=20)
    trained: list[set[int]] = []

    def fit(embeddings: Floats, of: Whole, seed: int) -> Floats:
        trained.append(set(of.tolist()))
        return np.eye(embeddings.shape[1], dtype=np.float32) * len(trained)

    monkeypatch.setattr(module, "fit_head", fit)
    pairs = hold_out(rows, people)
    folds = [set(range(20)) - seen for seen in trained]
    assert sorted(person for fold in folds for person in fold) == list(range(20)), "each is held out once"
    expected = {(i, j) for i in range(80) for j in range(i) if any({people[i], people[j]} <= fold for fold in folds)}
    assert {(max(pair), min(pair)) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)} == expected
    np.testing.assert_allclose(pairs.plain, (rows[pairs.left] * rows[pairs.right]).sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(pairs.adapted, pairs.plain, atol=1e-6, err_msg="length does not matter")


def test_a_head_lowers_the_loss_that_it_is_trained_with_and_costs_its_distance_from_the_identity() -> None:
    rows, people = draw(5, distorted=True, people=12, size=8)

    def objective(head: Floats) -> float:  # SupCon (Khosla et al. 2020, eq. 2) row by row, and the penalty
        outputs = apply_head(rows, head).astype(np.float64)
        logits = outputs @ outputs.T / module.TEMPERATURE
        losses = []
        for row in range(len(rows)):
            others = np.arange(len(rows)) != row
            total = np.log(np.exp(logits[row, others]).sum())
            losses.append((total - logits[row, others & (people == people[row])]).mean())
        return float(np.mean(losses) + module.DECAY * ((head - np.eye(8)) ** 2).sum())

    head = fit_head(rows, people)
    assert objective(head) < objective(np.eye(8, dtype=np.float32)) - 0.05
    rng = np.random.default_rng(0)
    for _ in range(20):
        nearby = head + 0.02 * rng.normal(size=head.shape).astype(np.float32)
        assert objective(nearby) > objective(head) - 1e-4, "it is a minimum"


def test_where_there_are_too_many_photos_everybody_has_an_equal_number() -> None:
    people = np.repeat([0, 1, 2], [50, 5, 1])
    chosen = choose_rows(people, np.random.default_rng(0), most=16)
    assert np.bincount(people[chosen]).tolist() == [10, 5, 1]
    assert choose_rows(people, np.random.default_rng(0), most=100).tolist() == list(range(56))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray levels as embeddings."""
    folder = tmp_path_factory.mktemp("bundle") / "plain"
    configuration = {"_target_": "siamese_verify.encoders.Pixels", "size": 8, "crop": {"kind": "whole"}}
    model = FaceModel.create("", Pixels(size=8, crop=Crop("whole")).eval(), configuration, training={"data": "none"})
    save_bundle(folder, model, {})
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of drawn people, a folder for each."""
    folder = tmp_path_factory.mktemp("faces")
    save_faces(folder, 25, 4)
    return folder


def test_a_bundle_with_a_head_verifies_by_it_and_its_card_says_so(
    bundle: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Adaptation] = []
    original = module.adapt

    def adapted(*arguments: object, **options: object) -> Adaptation:
        found.append(original(*arguments, **options))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(module, "adapt", adapted)
    target = tmp_path / "mine"
    assert main(["adapt", str(bundle), "--faces", str(faces), "--output", str(target), "--threads", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    head, photo = found[0].head, sorted(faces.rglob("*.png"))[:3]
    assert head is not None, told
    assert told[0].startswith("EER of held-out people ")
    assert told[1].startswith("Measured on 100 photos of 25 people: 150 genuine and 800 impostor pairs.")
    assert told[-2:] == ["The head is kept, trained on all 25 people.", f"Bundle: {target}"]
    plain, mine = (Verifier.load(one, engine="onnx", threads=1).embed(photo) for one in (bundle, target))
    np.testing.assert_allclose(mine, apply_head(plain, head), atol=1e-5)
    metadata = open_bundle(target).metadata
    assert metadata.fingerprint != open_bundle(bundle).metadata.fingerprint, "galleries of the other cannot be used"
    assert metadata.measured_on.startswith("950 pairs of 25 people in ")
    assert metadata.score_calibration is not None
    assert metadata.decision_threshold(1e-2).threshold >= metadata.decision_threshold(1e-1).threshold
    assert "adapted: 100 photos of 25 people in " in (target / "README.md").read_text()
    on_torch = Verifier.load(target, engine="torch").embed(photo)
    np.testing.assert_allclose(on_torch, mine, atol=1e-5, err_msg="training can go on from its weights")
    again = adapt(Verifier.load(target, engine="onnx", threads=1), faces, progress=False)
    second = np.eye(len(head), dtype=np.float32) + 0.1 * np.roll(np.eye(len(head), dtype=np.float32), 1, axis=0)
    twice = tmp_path / "twice"
    save_adapted(twice, open_bundle(target), replace(again, head=second), {})
    for engine in ("onnx", "torch"):
        found_twice = Verifier.load(twice, engine=engine, threads=1).embed(photo)
        np.testing.assert_allclose(found_twice, apply_head(mine, second), atol=1e-5, err_msg="an adapted one too")


def test_a_centered_model_is_adapted_without_weights_for_torch(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = {"_target_": "siamese_verify.encoders.Pixels", "size": 8, "crop": {"kind": "whole"}}
    configuration = {"_target_": "siamese_verify.encoders.MirroredEncoder", "encoder": inner}
    encoder = MirroredEncoder(Pixels(size=8, crop=Crop("whole"))).eval()
    save_bundle(tmp_path / "centered", FaceModel.create("", encoder, configuration), {})
    head = np.eye(encoder.embedding_size, dtype=np.float32)
    found = replace(adapt(Verifier.load(tmp_path / "centered", engine="onnx", threads=1), faces), head=head)
    monkeypatch.setattr(module, "adapt", lambda *arguments, **options: found)
    target = tmp_path / "mine"
    arguments = ["adapt", str(tmp_path / "centered"), "--faces", str(faces), "--output", str(target), "--threads", "1"]
    assert main(arguments) == 0
    assert "It has no weights for torch, so `train` cannot go on from it: " in capsys.readouterr().out
    with pytest.raises(InputError, match="has no weights for torch: use the one that it was made from"):
        load_model(target)
    assert load_model(target, or_onnx=True).metadata.embedding_size == encoder.embedding_size


def test_too_few_people_are_refused_in_one_sentence(bundle: Path, tmp_path: Path) -> None:
    save_faces(tmp_path, 12, 4)
    with pytest.raises(InputError, match=r"shows 12 people on two usable photos or more.*takes 20 people"):
        adapt(Verifier.load(bundle, engine="onnx", threads=1), tmp_path, progress=False)


def test_without_a_gain_nothing_is_written(
    bundle: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fit_head", lambda rows, people, seed: np.eye(rows.shape[1], dtype=np.float32))
    target = tmp_path / "mine"
    assert main(["adapt", str(bundle), "--people", str(faces), "--output", str(target), "--threads", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [
        "No gain is shown on people whom a head has not seen: the model stays as it is.",
        "Nothing was written.",
    ]
    assert not target.exists()


def test_a_negative_seed_is_refused_before_any_photo(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["adapt", "sface", "--people", "nowhere", "--seed", "-1"])
    assert capsys.readouterr().err == "siamese-verify: --seed must be >= 0, got -1.\n"
