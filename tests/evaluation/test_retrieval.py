"""Retrieval against a naive loop, scikit-learn's average precision and pytorch-metric-learning."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import average_precision_score

from siamese_verify.errors import InputError
from siamese_verify.evaluation import RetrievalReport, retrieval_report
from siamese_verify.pairwise.nearest import check_compared
from siamese_verify.pairwise.nearest_ranks import genuine_ranks

NAMES = ("mean_average_precision", "r_precision", "map_at_r", "recall")


def clouds(people: int, photos: int, noise: float, kind: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(people)
    who = rng.permutation(np.repeat(np.arange(people), photos))
    rows = rng.normal(size=(people, 6))[who] + noise * rng.normal(size=(len(who), 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(kind), who


def naive(
    rows: np.ndarray,
    who: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_who: np.ndarray | None = None,
    cameras: np.ndarray | None = None,
    gallery_cameras: np.ndarray | None = None,
    ranks: tuple[int, ...] = (1, 5),
) -> dict[str, Any]:
    """One query after another: rank, leave out, count; of equals those of other people first."""
    itself = gallery is None
    others, people, shot = (rows, who, cameras) if itself else (gallery, gallery_who, gallery_cameras)
    assert others is not None
    assert people is not None
    found = []
    for query in range(len(rows)):
        squared = ((rows[query].astype(np.float64) - others.astype(np.float64)) ** 2).sum(axis=1).astype(rows.dtype)
        kept = np.ones(len(others), dtype=bool)
        if itself:
            kept[query] = False
        if cameras is not None and shot is not None:
            kept &= (people != who[query]) | (shot != cameras[query])
        order = sorted(np.flatnonzero(kept), key=lambda row: (squared[row], people[row] == who[query]))
        right = [people[row] == who[query] for row in order]
        total = sum(right)
        if total:
            precision = [sum(right[: place + 1]) / (place + 1) for place in range(len(right)) if right[place]]
            early = [sum(right[: place + 1]) / (place + 1) for place in range(total) if right[place]]
            found.append((sum(precision) / total, sum(right[:total]) / total, sum(early) / total, right.index(True)))
    values = np.array(found)
    recall = {rank: float(np.mean(values[:, 3] < rank)) for rank in ranks}
    return dict(zip(NAMES, (*values[:, :3].mean(axis=0), recall), strict=True)) | {"queries": len(found)}


def check(report: RetrievalReport, expected: dict[str, Any]) -> None:
    assert report.queries == expected["queries"]
    for name in NAMES:
        assert getattr(report, name) == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_each_photo_among_all_others_as_in_a_loop_and_as_peers_say(kind: type) -> None:
    rows, who = clouds(8, 7, 1.0, kind)
    report = retrieval_report(rows, who, ranks=(1, 5))
    check(report, naive(rows, who))
    assert 0.2 < report.mean_average_precision < 0.8
    assert (report.gallery, report.people, report.without_positives) == (55, 8, 0)
    precise = rows.astype(np.float64)
    scores = [
        average_precision_score(np.delete(who == who[row], row), np.delete(precise @ precise[row], row))
        for row in range(len(rows))
    ]
    assert report.mean_average_precision == pytest.approx(np.mean(scores))
    peer = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"), k="max_bin_count"
    ).get_accuracy(torch.from_numpy(precise), torch.from_numpy(who))
    assert report.recall[1] == pytest.approx(peer["precision_at_1"])
    assert report.r_precision == pytest.approx(peer["r_precision"])
    assert report.map_at_r == pytest.approx(peer["mean_average_precision_at_r"])


@pytest.mark.parametrize("cameras", [1, 3])
def test_queries_among_a_gallery_without_photos_of_the_same_person_and_camera(cameras: int) -> None:
    rows, who = clouds(9, 8, 1.2)
    shot = np.random.default_rng(1).integers(0, cameras, len(rows))
    first = np.arange(len(rows)) < 25
    given = (rows[first], who[first], rows[~first], who[~first])
    both = shot[first], shot[~first]
    if cameras == 1:
        with pytest.raises(InputError, match="None of the 25 queries has a photo to be found"):
            retrieval_report(*given, *both)
        check(retrieval_report(*given, ranks=(1, 5)), naive(*given))
        return
    report = retrieval_report(*given, *both, ranks=(1, 5))
    check(report, naive(*given, *both))
    assert report.mean_average_precision != retrieval_report(*given).mean_average_precision
    alone = retrieval_report(rows, who, cameras=shot, ranks=(1, 5))
    check(alone, naive(rows, who, cameras=shot))


def test_photos_of_unknown_cameras_are_not_taken_for_those_of_one() -> None:
    rows, who = clouds(9, 8, 1.2)
    known = np.random.default_rng(1).integers(0, 3, len(rows)).astype(str)
    blank = np.where(known == "0", " ", known)
    blank[:20] = ""
    apart = np.array([name if name.strip() else f"unknown {row}" for row, name in enumerate(blank)])
    check(retrieval_report(rows, who, cameras=blank, ranks=(1, 5)), naive(rows, who, cameras=apart))
    given = (rows[:30], who[:30], rows[30:], who[30:])
    check(retrieval_report(*given, blank[:30], blank[30:], ranks=(1, 5)), naive(*given, apart[:30], apart[30:]))


def test_queries_without_a_photo_to_be_found_are_left_out_and_counted() -> None:
    rows, who = clouds(5, 4, 0.5)
    names = np.where(np.arange(20) < 3, 100 + np.arange(20), who)
    report = retrieval_report(rows, names, ranks=(1, 5))
    check(report, naive(rows, names))
    assert report.without_positives == 3
    assert report.hint == "3 queries have no photo to be found in the gallery and are left out."


def test_ties_are_errors_and_do_not_depend_on_the_order() -> None:
    rows = np.repeat(np.eye(3), [4, 3, 2], axis=0)
    who = np.array([0, 0, 1, 1, 1, 2, 2, 0, 2])
    report = retrieval_report(rows, who, ranks=(1, 5))
    check(report, naive(rows, who))
    order = np.random.default_rng(0).permutation(9)
    again = retrieval_report(rows[order], who[order], ranks=(1, 5))
    assert [getattr(again, name) for name in NAMES] == [getattr(report, name) for name in NAMES]
    collapsed = retrieval_report(np.ones((40, 5), dtype=np.float32), np.arange(40) % 4)
    assert collapsed.recall == {1: 0, 5: 0, 10: 0, 20: 0}
    assert (collapsed.r_precision, collapsed.map_at_r) == (0, 0)
    assert collapsed.mean_average_precision < 0.25


def test_bands_do_not_change_ranks() -> None:
    rows, who = (torch.from_numpy(part) for part in clouds(10, 9, 1.5, np.float32))
    compared = check_compared(rows, who, None, None)
    whole, *none = genuine_ranks(compared)
    assert not none
    bands = list(genuine_ranks(compared, numbers=7 * len(rows)))
    assert len(bands) == 13
    for field in ("row", "rank", "order"):
        assert torch.equal(torch.cat([getattr(band, field) for band in bands]), getattr(whole, field))


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": ()},
        {"ranks": (0,)},
        {"gallery": np.eye(3)},
        {"gallery_identities": [0, 1, 2]},
        {"gallery": np.eye(3), "gallery_identities": [0, 1, 2], "cameras": [0, 1, 2]},
        {"embeddings": np.full((3, 3), np.nan)},
        {"identities": [0, 1, 2]},
        {"identities": [0, 0]},
    ],
)
def test_what_cannot_be_ranked_is_refused(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"embeddings": np.eye(3), "identities": [0, 0, 1], **change}
    with pytest.raises(InputError):
        retrieval_report(**given)


def test_the_page_and_the_files_show_the_metrics(tmp_path: Path) -> None:
    rows, who = clouds(6, 5, 0.8)
    report = retrieval_report(rows, who)
    page = report.save(tmp_path, title="Album <of> people", details={"seed": 0}).read_text(encoding="utf-8")
    assert "Album &lt;of&gt; people" in page
    assert f"{100 * report.mean_average_precision:.2f}" in page
    assert (tmp_path / "cmc.png").is_file()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["recall"]["1"] == report.recall[1]
    assert metrics["intervals"]["mean_average_precision"]["low"] < report.mean_average_precision
    assert report.record()["recall_at_5"] == report.recall[5]
    assert np.all(np.diff(report.cmc) >= 0)
    assert report.cmc[4] == report.recall[5]


def test_memory_does_not_grow_with_genuine_pairs() -> None:
    rows, who = clouds(2, 1500, 0.5, np.float32)  # 4.5 million genuine pairs
    tracemalloc.start()
    report = retrieval_report(rows, who, intervals=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.queries == 3000
    assert peak < 4.5e6 * 8  # not one float64 for each
