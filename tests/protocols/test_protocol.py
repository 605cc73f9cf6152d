"""All pairs of photos, and random ones."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_verify.datasets import Pedestrians, Signatures, SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.evaluation.scores import unit_rows
from siamese_verify.protocols import (
    PairList,
    PairProtocol,
    all_pairs,
    claimed_pairs,
    folder_pairs,
    keep_photos,
    lfw_pairs,
    sampled_pairs,
    with_doubtful,
)
from siamese_verify.protocols.lfw_pairs import SAME_PHOTO
from siamese_verify.protocols.protocol import EvaluationSettings, PhotoSubset, draw_pairs


def test_all_pairs_are_numbered() -> None:
    protocol = all_pairs(SyntheticFaces(2, 2, 16), "synthetic")
    assert (protocol.name, protocol.pairs) == ("synthetic", None)
    assert protocol.rows(1 * 4 + 3) == (1, 3)
    assert protocol.describe(0 * 4 + 1) == "person 0000 photo 00 and person 0000 photo 01"
    assert protocol.describe(2 * 4 + 3) == "person 0001 photo 00 and person 0001 photo 01"


def test_a_subset_lists_names_splits_and_cameras_of_its_photos_once(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Pedestrians(3, 4, camera_count=2)
    asked: list[str] = []
    rows = np.array([1, 6, 11])

    def listed(name: str, values: list[str], _: Pedestrians) -> list[str]:
        asked.append(name)
        return values

    expected = [(photos.names[row], photos.splits[row], photos.cameras[row]) for row in rows]
    for name in ("names", "splits", "cameras"):
        values = getattr(photos, name)
        monkeypatch.setattr(Pedestrians, name, property(partial(listed, name, values)))
    subset: Any = PhotoSubset(photos, rows)
    assert list(zip(subset.names, subset.splits, subset.cameras, strict=True)) == expected
    assert sorted(asked) == ["cameras", "names", "splits"]


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_drawn_without_repetition(seed: int) -> None:
    identities = np.random.default_rng(seed).integers(0, 8, 30)
    every = [(i, j) for i, j in combinations(range(30), 2)]
    there = {same: {(i, j) for i, j in every if (identities[i] == identities[j]) == same} for same in (True, False)}
    for each in (1, 5, 40, 1000):
        for same, found in zip((True, False), draw_pairs(identities, each, np.random.default_rng(seed)), strict=True):
            pairs = [(int(i), int(j)) for i, j in found]
            assert len(pairs) == len(set(pairs)) == min(each, len(there[same]))
            assert set(pairs) <= there[same]


def test_every_pair_is_drawn_equally_often() -> None:
    identities = np.array([0, 0, 0, 1, 1, 2])
    drawn = [draw_pairs(identities, 1, np.random.default_rng(seed)) for seed in range(3000)]
    for kind in (0, 1):
        _, counts = np.unique([tuple(draw[kind][0]) for draw in drawn], axis=0, return_counts=True)
        assert len(counts) == (4, 11)[kind]
        expected = 3000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 3 * len(counts)  # chi squared


def test_a_sample_of_listed_or_all_pairs_is_half_genuine_and_seeded() -> None:
    everything = all_pairs(SyntheticFaces(10, 4, 16), "synthetic")
    left, right = np.triu_indices(40, 1)
    identities = everything.photos.identities
    listed = PairProtocol("listed", everything.photos, PairList(left, right, identities[left] == identities[right]))
    for protocol in (everything, listed):
        sample, again = (sampled_pairs(protocol, 50, seed=1) for _ in range(2))
        assert (len(sample.same), sample.same.sum()) == (50, 25)
        np.testing.assert_array_equal(identities[sample.left] == identities[sample.right], sample.same)
        np.testing.assert_array_equal(sample.left, again.left)
        assert not np.array_equal(sample.left, sampled_pairs(protocol, 50, seed=2).left)
        assert len(sampled_pairs(protocol, 10**6).same) == 780  # all there are


def test_a_protocol_is_restricted_to_photos_and_their_pairs() -> None:
    everything = all_pairs(SyntheticFaces(4, 3, 16), "synthetic")
    identities = everything.photos.identities
    left, right = np.array([0, 3, 6, 0, 11]), np.array([1, 4, 8, 5, 2])
    pairs = PairList(left, right, identities[left] == identities[right], np.arange(5), np.array(list("abcde")))
    listed = PairProtocol("listed", everything.photos, pairs)
    rows = np.array([0, 1, 2, 5, 6, 8, 11])
    kept = keep_photos(listed, rows)
    assert kept.pairs is not None and kept.pairs.folds is not None and kept.pairs.groups is not None
    names = everything.photos.names
    expected = [f"{names[i]} and {names[j]}" for i, j in zip(left, right, strict=True) if i != 3]
    assert [kept.describe(pair) for pair in range(4)] == expected
    assert kept.pairs.folds.tolist() == [0, 2, 3, 4]
    assert kept.pairs.groups.tolist() == list("acde")
    assert keep_photos(everything, np.arange(12)) is everything
    for protocol in (everything, listed, kept, keep_photos(everything, rows)):
        kinds = [protocol.photos.identities[i] == protocol.photos.identities[j] for i, j in pairs_of(protocol)]
        assert protocol.count_pairs() == (sum(kinds), len(kinds) - sum(kinds))


def pairs_of(protocol: PairProtocol) -> list[tuple[int, int]]:
    if protocol.pairs is None:
        return list(combinations(range(len(protocol.photos)), 2))
    return list(zip(protocol.pairs.left.tolist(), protocol.pairs.right.tolist(), strict=True))


def test_one_person_alone_has_no_impostors() -> None:
    with pytest.raises(InputError, match="5 photos of 1 people hold no impostors"):
        all_pairs(SyntheticFaces(1, 5, 16), "synthetic")


def test_people_with_one_photo_each_have_no_genuine_pairs() -> None:
    with pytest.raises(InputError, match="5 photos of 5 people hold no genuine pairs"):
        all_pairs(SyntheticFaces(5, 1, 16), "synthetic")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Two things with three photos each and one with two: 7 genuine pairs and 21 impostors."""
    for name in (*(f"{thing}/{photo}.png" for thing in ("cup", "jar") for photo in "123"), "pen/1.png", "pen/2.png"):
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(tmp_path / "shop" / name)
    return tmp_path / "shop"


def test_all_pairs_of_a_folder_are_compared_by_default(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = folder_pairs(shop)
    assert (protocol.name, protocol.pairs, len(protocol.photos)) == ("shop, all pairs", None, 8)
    assert folder_pairs(shop, "mine").name == "mine"
    monkeypatch.chdir(shop)
    assert folder_pairs(".").name == "shop, all pairs"


@pytest.mark.parametrize("pairs", [2, 6, 14])
def test_half_of_the_drawn_pairs_are_genuine_and_none_is_repeated(shop: Path, pairs: int) -> None:
    protocol = folder_pairs(shop, pairs=pairs)
    identities = protocol.photos.identities
    assert protocol.pairs is not None
    drawn = [(int(i), int(j)) for i, j in zip(protocol.pairs.left, protocol.pairs.right, strict=True)]
    assert len(set(drawn)) == len(drawn) == pairs
    assert set(drawn) <= set(combinations(range(8), 2))
    assert [bool(identities[i] == identities[j]) for i, j in drawn] == protocol.pairs.same.tolist()
    assert protocol.pairs.same.sum() == pairs // 2


def test_drawn_pairs_depend_on_the_seed_alone(shop: Path) -> None:
    drawn = []
    for seed in (3, 3, 4):
        pairs = folder_pairs(shop, pairs=10, seed=seed).pairs
        assert pairs is not None
        drawn.append((pairs.left.tolist(), pairs.right.tolist()))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (-1, "-1 pairs hold no genuine and no impostor pair"),
        (1, "1 pairs hold no genuine and no impostor pair"),
        (5, "2 genuine and 2 impostor pairs, but 5 pairs need half of each"),
        (100, "7 genuine and 21 impostor pairs, but 100 pairs need half of each: set pairs to 14 at most"),
    ],
)
def test_impossible_numbers_of_pairs_are_refused(shop: Path, pairs: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        folder_pairs(shop, pairs=pairs)


@pytest.mark.parametrize(("impostors", "count"), [("skilled", 3 * 2), ("unskilled", 3 * 2), ("random", 3 * 3)])
def test_each_claim_is_compared_with_the_signatures_of_the_claimed_writer(impostors: str, count: int) -> None:
    source = Signatures(4, 3, forgeries=2, size=16, first=7)
    protocol = claimed_pairs(source, impostors)
    pairs = protocol.pairs
    assert pairs is not None and pairs.groups is not None
    left, right = pairs.left, pairs.right
    assert (source.kinds[left] == "").all()
    assert pairs.same.tolist() == (source.identities[left] == source.identities[right]).tolist()
    assert (source.kinds[right[~pairs.same]] == impostors.replace("random", "")).all()
    assert ((source.claimed[left] == source.claimed[right]) == (pairs.same | (impostors != "random"))).all()
    for writer in range(7, 11):
        own = pairs.groups == f"{writer:04}"
        assert (source.claimed[left[own]] == writer).all()
        assert [(pairs.same & own).sum(), (~pairs.same & own).sum()] == [3, count]
    both = np.sort(np.stack([left, right], axis=1)[pairs.same], axis=1)
    assert len(np.unique(both, axis=0)) == len(both)


def test_all_kinds_of_impostors_have_their_rates_at_the_threshold_of_other_writers() -> None:
    source = Signatures(4, 3, forgeries=2, size=16, first=7)
    protocol = claimed_pairs(source, "all")
    embeddings = unit_rows(np.random.default_rng(0).normal(size=(len(source), 3)))
    report = protocol.evaluate(embeddings, EvaluationSettings(threshold=0.25))
    rates = {group.name: group for group in report.groups}
    assert rates.keys() == {"genuine", "random", "skilled", "unskilled"}
    for kind, group in rates.items():
        pairs = claimed_pairs(source, "random" if kind == "genuine" else kind).pairs
        assert pairs is not None
        accepted = np.einsum("nd,nd->n", embeddings[pairs.left], embeddings[pairs.right]) >= 0.25
        genuine = kind == "genuine"
        assert (group.far is None, group.frr is None) == (genuine, not genuine)
        expected = (~accepted)[pairs.same].mean() if genuine else accepted[~pairs.same].mean()
        assert (group.frr if genuine else group.far) == pytest.approx(expected)
        errors = (~accepted)[pairs.same] if genuine else accepted[~pairs.same]
        assert group.insufficient == (errors.sum() < 10)  # the group has no pairs of the other class to err on
    assert {group.insufficient for group in rates.values()} == {False, True}


def test_photos_without_claims_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="SyntheticFaces does not say which identity each sample claims"):
        claimed_pairs(SyntheticFaces(2, 2, 16))
    with pytest.raises(InputError, match="impostors must be one of random, skilled, unskilled, all, got 'traced'"):
        claimed_pairs(Signatures(2, 2, forgeries=1, size=16), "traced")


@pytest.mark.parametrize("listed", [True, False])
def test_doubtful_photos_count_and_a_footnote_says_what_is_without_them(listed: bool, tmp_path: Path) -> None:
    photos = SyntheticFaces(identities=6, images=4, size=16)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 8))[photos.identities] + rng.normal(size=(24, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    left, right = np.triu_indices(24, 1)
    same = photos.identities[left] == photos.identities[right]
    folds = np.arange(len(left)) % 4
    plain = PairProtocol("pairs", photos, PairList(left, right, same, folds)) if listed else all_pairs(photos, "all")
    (tmp_path / "doubtful.csv").write_text(
        f"path,why\n{photos.names[3]},errata\n{photos.names[9]},errata\nother.png,\n"
    )
    doubted = with_doubtful(plain, tmp_path / "doubtful.csv")
    report = doubted.evaluate(rows, EvaluationSettings(0))
    assert (report.pairs, report.eer) == (276, plain.evaluate(rows, EvaluationSettings(0)).eer)
    kept = np.delete(np.arange(24), [3, 9])
    expected = plain.keep(kept).evaluate(rows[kept], EvaluationSettings(0))
    found = report.without_doubtful
    assert found is not None
    assert (found.photos, found.pairs, found.eer) == (2, 276 - expected.pairs, expected.eer)
    assert found.accuracy == (expected.kfold.mean if expected.kfold else None)
    report.save(tmp_path / "report")
    assert "Doubtful labels: 2 photos (doubtful.csv)" in (tmp_path / "report" / "report.html").read_text()
    assert doubted.keep(kept).evaluate(rows[kept], EvaluationSettings(0)).without_doubtful is None
    (tmp_path / "doubtful.csv").write_text("path\nother.png\n")
    with pytest.raises(InputError, match="lists none of the 24 photos"):
        with_doubtful(plain, tmp_path / "doubtful.csv")


LFW = Path(__file__).resolve().parents[2].parent / "shared/data/lfw"


@pytest.mark.skipif(not LFW.is_dir(), reason="LFW is missing: ../shared/data/lfw")
def test_photos_with_two_names_in_lfw_are_one_photo_and_marked() -> None:
    def pixels(name: str) -> np.ndarray:
        with Image.open(LFW / "lfw-deepfunneled" / name[:-5] / f"{name}.jpg") as photo:
            gray = photo.convert("L").crop((50, 50, 200, 200)).resize((24, 24), Image.Resampling.BOX)
        return np.asarray(gray, dtype=np.float64).ravel()

    for one, other in SAME_PHOTO:
        assert np.corrcoef(pixels(one), pixels(other))[0, 1] > 0.97
        assert one[:-5] != other[:-5]
    protocol = lfw_pairs(LFW, "pairs.txt", "LFW View 2")
    assert protocol.doubtful is not None
    assert protocol.pairs is not None
    touched = protocol.doubtful[protocol.pairs.left] | protocol.doubtful[protocol.pairs.right]
    assert (touched.sum(), len(touched), protocol.pairs.same[touched].sum()) == (8, 6000, 1)
