"""Few-shot evaluation: episodes, classifiers against scikit-learn, intervals that hold the truth as often as said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from siamese_verify.errors import InputError
from siamese_verify.evaluation import few_shot_report
from siamese_verify.evaluation.episodes import draw_episodes


def faces(people: int, photos: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of people who differ in how well they are recognized."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    own = noise * rng.uniform(0.3, 2, people)[who, None]
    rows = rng.normal(size=(people, 8))[who] + own * rng.normal(size=(len(who), 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), who


def test_episodes_have_different_people_and_photos_of_those_with_enough() -> None:
    who = np.repeat(np.arange(8), [9, 2, 6, 7, 5, 30, 6, 1])
    drawn = draw_episodes(who, way=4, shots=2, queries=4, episodes=300, seed=1)
    assert drawn.eligible == 5
    assert set(np.unique(drawn.people)) == {0, 2, 3, 5, 6}
    for people, photos in zip(drawn.people, drawn.photos, strict=True):
        assert len(set(people.tolist())) == 4
        assert len(set(photos.ravel().tolist())) == 4 * 6
        assert (who[photos] == people[:, None]).all()
    counts = np.unique(drawn.people, return_counts=True)[1]
    assert counts == pytest.approx(np.full(5, 240), abs=6 * (300 * 0.8 * 0.2) ** 0.5)
    again, other = (draw_episodes(who, 4, 2, 4, 300, seed) for seed in (1, 2))
    assert (again.photos == drawn.photos).all()
    assert (other.photos != drawn.photos).any()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of NearestCentroid, with one shot
@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("classifier", ["centroid", "nearest"])
def test_queries_are_named_as_by_scikit_learn(classifier: str, shots: int) -> None:
    rows, who = faces(9, 8, 0.8)
    drawn = draw_episodes(who, 5, shots, 3, 60, seed=3)
    right = []
    for photos in drawn.photos:
        support, queries = photos[:, :shots].ravel(), photos[:, shots:].ravel()
        peer = NearestCentroid() if classifier == "centroid" else KNeighborsClassifier(1)
        right.append(peer.fit(rows[support], who[support]).predict(rows[queries]) == who[queries])
    report = few_shot_report(rows, who, way=5, shots=shots, queries=3, episodes=60, classifier=classifier, seed=3)
    assert report.accuracy == pytest.approx(np.mean(right))
    assert 0.3 < report.accuracy < 1
    each = np.mean(right, axis=1)
    half = 1.96 * each.std(ddof=1) / 60**0.5
    assert report.over_episodes == pytest.approx((report.accuracy - half, report.accuracy + half), abs=1e-5)
    assert report.people == 9


def test_collapsed_embeddings_name_no_one_and_perfect_ones_everyone() -> None:
    who = np.repeat(np.arange(12), 6)
    collapsed = few_shot_report(np.ones((72, 4), dtype=np.float32), who, episodes=50)
    assert collapsed.accuracy == 0
    perfect = few_shot_report(np.eye(12)[who], who, episodes=50)
    assert (perfect.accuracy, perfect.over_episodes) == (1, None)
    assert perfect.intervals["accuracy"].low == pytest.approx(0.05 ** (1 / 12)), "as if 12 people were 12 trials"


def test_people_who_were_not_drawn_do_not_narrow_the_interval() -> None:
    many = np.repeat(np.arange(100), 6)
    report = few_shot_report(np.eye(100)[many], many, way=5, episodes=2)
    drawn = len(np.unique(draw_episodes(many, 5, 1, 5, 2).people))
    assert (report.people, report.accuracy) == (100, 1)
    assert report.intervals["accuracy"].low == pytest.approx(0.05 ** (1 / drawn)), "as if those drawn were the trials"


def test_the_interval_over_episodes_has_the_level_asked_for() -> None:
    rows, who = faces(12, 8, 0.8)
    usual, wide = (few_shot_report(rows, who, episodes=50, level=level).over_episodes for level in (0.95, 0.99))
    assert usual
    assert wide
    assert (wide.high - wide.low) / (usual.high - usual.low) == pytest.approx(2.575829 / 1.959964)


def test_an_interval_over_people_is_unknown_where_each_episode_has_all_of_them() -> None:
    rows, who = faces(5, 8, 0.5)
    assert few_shot_report(rows, who, way=5, episodes=50).intervals == {}
    assert few_shot_report(rows, who, way=4, episodes=50).intervals.keys() == {"accuracy"}


def test_intervals_over_people_hold_the_truth_and_those_over_episodes_do_not() -> None:
    settings = {"way": 5, "shots": 1, "queries": 3, "episodes": 150}
    sets = [few_shot_report(*faces(15, 6, 0.7, seed), **settings) for seed in range(120)]  # type: ignore[arg-type]
    truth = np.mean([few_shot_report(*faces(200, 6, 0.7, 1000 + seed), **settings).accuracy for seed in range(25)])  # type: ignore[arg-type]
    over_people = np.mean([one.intervals["accuracy"].low <= truth <= one.intervals["accuracy"].high for one in sets])
    over_episodes = np.mean(
        [one.over_episodes.low <= truth <= one.over_episodes.high for one in sets if one.over_episodes]
    )
    assert over_people >= 0.9
    assert over_episodes < 0.6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"way": 1}, "way is a whole number of 2 or more, got 1"),
        ({"shots": 0}, "shots is a whole number of 1 or more, got 0"),
        ({"queries": 1.5}, "queries is a whole number of 1 or more"),
        ({"episodes": 1}, "episodes is a whole number of 2 or more"),
        ({"way": 7}, "6 of 6 people have 6 photos or more, but 7-way episodes .* need 7: lower way"),
        ({"shots": 4}, "0 of 6 people have 9 photos or more"),
        ({"seed": -1}, "seed is a whole number of 0 or more, got -1"),
        ({"classifier": "tree"}, "classifier is one of centroid, nearest, got 'tree'"),
        ({"level": 1.0}, "confidence level"),
    ],
)
def test_impossible_episodes_are_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        few_shot_report(*faces(6, 6, 1.0), **change)  # type: ignore[arg-type]


def test_the_page_names_both_intervals(tmp_path: Path) -> None:
    report = few_shot_report(*faces(9, 8, 0.8), episodes=50)
    page = report.save(tmp_path, comparison=[report.row(), report.row()]).read_text(encoding="utf-8")
    for text in ("Accuracy, 5-way 1-shot", "over people", "over episodes", "In comparison", "One in 5 would be right"):
        assert text in page
    assert report.record() == {
        "accuracy": report.accuracy,
        "accuracy_interval": list(report.intervals["accuracy"]),
    }
