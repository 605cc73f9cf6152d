from __future__ import annotations

import json
import stat
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import all_pairs_intervals, all_pairs_report, compare_scores
from siamese_verify.evaluation.all_pairs_comparison import AllPairsErrors, EqualErrorComparison
from siamese_verify.evaluation.bootstrap import Difference
from siamese_verify.evaluation.embedding_file import FULL, MOST, read_embeddings, write_embeddings


def embedded(
    noise: float, people: int = 25, photos: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models' embeddings of the same photos, which see mostly the same; the second has further noise."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), rng.integers(2, photos + 1, people))
    seen = rng.normal(size=(people, 12))[who] + 0.8 * rng.normal(size=(len(who), 12))
    first = seen + 0.3 * rng.normal(size=seen.shape)
    return first, seen + noise * rng.normal(size=seen.shape), who


def compared(
    first: np.ndarray, second: np.ndarray, who: np.ndarray, names: tuple[str, str] = ("A", "B")
) -> EqualErrorComparison:
    found = AllPairsErrors(first, who).compare(AllPairsErrors(second, who), names)
    assert found is not None
    return found


def test_both_rates_and_intervals_are_those_of_the_report() -> None:
    first, second, who = embedded(0.8)
    found = compared(first, second, who)
    reports = [all_pairs_report(rows, who) for rows in (first, second)]
    assert found.eers == (reports[0].eer, reports[1].eer)
    assert found.pairs == reports[0].pairs
    assert found.eer.value == pytest.approx(reports[1].eer - reports[0].eer, abs=1e-15)
    for rows in (first, second):
        assert AllPairsErrors(rows, who).interval == all_pairs_intervals(rows, who)["eer"]


def test_the_covariance_is_the_sum_over_all_pairs_of_pairs_that_share_a_person() -> None:
    first, second, who = embedded(0.5, people=9, photos=3)
    one, other = AllPairsErrors(first, who), AllPairsErrors(second, who)
    pairs = list(combinations(range(len(who)), 2))
    same = np.array([who[left] == who[right] for left, right in pairs])

    def added(errors: AllPairsErrors) -> np.ndarray:
        """What each pair adds to the error of the EER."""
        unit = errors.rows / np.linalg.norm(errors.rows, axis=1, keepdims=True)
        scores = np.array([unit[left] @ unit[right] for left, right in pairs])
        ranked = np.sort(scores[~same])[::-1]
        threshold = ranked[round(errors.far * len(ranked)) - 1] - 1e-7
        wrong = np.where(same, scores < threshold, scores >= threshold).astype(float)
        rates = np.where(same, wrong[same].mean(), wrong[~same].mean())
        weights = np.where(same, (1 - errors.weight) / same.sum(), errors.weight / (~same).sum())
        return np.asarray(weights * (wrong - rates))

    parts = added(one), added(other)
    for left, right, found in (
        (parts[0], parts[1], one.covariance(other)),
        (parts[1], parts[0], other.covariance(one)),
        (parts[0], parts[0], one.covariance(one)),
    ):
        expected = sum(
            left[k] * right[m]
            for k, pair in enumerate(pairs)
            for m, another in enumerate(pairs)
            if {who[pair[0]], who[pair[1]]} & {who[another[0]], who[another[1]]}
        )
        assert found == pytest.approx(expected, rel=1e-9)


def test_the_difference_is_as_sure_as_by_resampling_the_people() -> None:
    first, second, who = embedded(0.7, people=40)
    found = compared(first, second, who).eer
    left, right = np.triu_indices(len(who), 1)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    scores = [(rows @ rows.T)[left, right] for rows in unit]
    same, both = who[left] == who[right], np.stack([who[left], who[right]], 1)
    listed = compare_scores(scores[0], scores[1], same, both, resamples=300)
    assert found.value == pytest.approx(listed.eer.value, abs=1e-6)
    assert found.high - found.low == pytest.approx(listed.eer.high - listed.eer.low, rel=0.15)


def test_models_that_see_the_same_are_compared_more_surely_than_their_intervals_tell() -> None:
    first, second, who = embedded(0.35, people=60)
    one, other = AllPairsErrors(first, who), AllPairsErrors(second, who)
    difference = one.difference(other)
    assert difference is not None
    assert one.interval is not None
    assert other.interval is not None
    apart = np.hypot(one.interval.high - one.interval.low, other.interval.high - other.interval.low)
    assert difference.high - difference.low < 0.75 * apart


def test_a_worse_model_is_said_to_be_worse_whichever_comes_first() -> None:
    first, second, who = embedded(3.0, people=60)
    found = compared(first, second, who, names=("sharp", "dull"))
    assert found.sentence.startswith("sharp is better: an EER ")
    turned = compared(second, first, who, names=("dull", "sharp"))
    assert turned.sentence == found.sentence
    value, low, high = (100 * number for number in found.eer)
    assert f"{value:.2f} percentage points lower (95 % CI {low:.2f} to {high:.2f})" in found.sentence
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["eer"]["value"] == found.eer.value


def test_equal_models_show_no_difference_and_the_same_one_none_at_all() -> None:
    first, second, who = embedded(0.3)
    assert compared(first, second, who).sentence.startswith("No difference shown: ")
    same = compared(first, first, who, names=("a", "b"))
    assert same.eer == (0.0, 0.0, 0.0)
    assert same.sentence == "No difference shown: a and b have the same EER."
    assert "-0.00" not in replace(same, eer=Difference(1e-6, -1e-6, 1e-6)).sentence


def test_models_without_errors_may_still_differ() -> None:
    who = np.repeat(np.arange(12), 2)
    rows = np.eye(12)[who] + 0.01 * np.random.default_rng(0).normal(size=(24, 12))
    found = compared(rows, rows + 0.001, who)
    assert found.eer.value == 0
    assert found.eer.low < -0.01 < 0.01 < found.eer.high


def test_embeddings_of_other_photos_raise() -> None:
    first, _, who = embedded(0.3)
    other, _, people = embedded(0.3, seed=1)
    with pytest.raises(InputError, match="photos of other people: compare the same photos"):
        AllPairsErrors(first, who).difference(AllPairsErrors(other, people))


def test_embeddings_are_kept_for_their_owner_only_and_without_pickle(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    names = ["é.png", "b.png", "c.png"]
    assert write_embeddings(tmp_path / "e.npz", rows, ["Ann", "Bo", "Bo"], names)
    assert stat.S_IMODE((tmp_path / "e.npz").stat().st_mode) == 0o600
    found = read_embeddings(tmp_path / "e.npz")
    assert found.embeddings.dtype == np.float32
    assert np.array_equal(found.embeddings, rows)
    assert (found.identities.tolist(), found.photos.tolist()) == (["Ann", "Bo", "Bo"], names)


def test_large_embeddings_are_halved_and_huge_ones_are_left_out(tmp_path: Path) -> None:
    large = np.broadcast_to(np.float32(0.5), (FULL // 4 // 512 + 1, 512))
    who = np.zeros(len(large), dtype=int)
    assert write_embeddings(tmp_path / "e.npz", large, who, who)
    assert read_embeddings(tmp_path / "e.npz").embeddings.dtype == np.float16
    huge = np.broadcast_to(np.float32(0.5), (MOST // 2 // 512 + 1, 512))
    assert not write_embeddings(tmp_path / "huge.npz", huge, who, who)
    assert not (tmp_path / "huge.npz").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"\x93NUMPY"])
def test_damaged_embeddings_raise(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(InputError, match="evaluate the model again"):
        read_embeddings(tmp_path / "e.npz")


def test_pickled_embeddings_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", embeddings=np.array([{"a": 1}], dtype=object), identities=["a"], photos=["b"])
    with pytest.raises(InputError, match="evaluate the model again"):
        read_embeddings(tmp_path / "e.npz")
