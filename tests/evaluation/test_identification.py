from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.evaluation import IdentificationReport, identification_report
from siamese_verify.evaluation.base_report import to_json_types

RANKS = (1, 2, 3, 7, 50)
FARS = (0.0, 0.05, 0.2, 1 / 3, 1.0)
Set = tuple[np.ndarray, np.ndarray]


def people(rows: int, many: int, seed: int, first: int = 0, centers: int = 60) -> Set:
    """Embeddings of various lengths; some people have many photos, some one."""
    generator = np.random.default_rng(seed)
    identities = generator.integers(first, first + many, rows)
    center = np.random.default_rng(99).normal(size=(centers, 6))  # the same people in every set
    noise = generator.normal(size=(rows, 6))
    return (center[identities] + noise) * generator.uniform(0.1, 10, (rows, 1)), identities


def signs(rows: int, many: int, seed: int, first: int = 0) -> Set:
    """Embeddings whose cosines are exact multiples of 1/8, thus full of ties."""
    generator = np.random.default_rng(seed)
    return generator.choice([-1.0, 1.0], (rows, 16)), generator.integers(first, first + many, rows)


def naive_search(probes: Set, gallery: Set | None) -> list[tuple[float | None, float, int]]:
    """For each probe: the best score of the person or None, that of somebody else, and the person's rank."""
    found = []
    for row, (probe, person) in enumerate(zip(*probes, strict=True)):
        best: dict[Any, float] = {}
        for place, (photo, name) in enumerate(zip(*(gallery or probes), strict=True)):
            if gallery is not None or place != row:
                cosine = float(probe @ photo / (np.sqrt(probe @ probe) * np.sqrt(photo @ photo)))
                best[name] = max(cosine, best.get(name, -np.inf))
        own = best.pop(person, None)
        rank = 1 + sum(own is not None and score >= own for score in best.values())
        found.append((own, max(best.values(), default=-np.inf), rank))
    return found


def assert_as_counted(
    found: IdentificationReport, probes: Set, gallery: Set | None, fars: Sequence[float], precision: float
) -> None:
    searches = naive_search(probes, gallery)
    known = [(own, rank) for own, _, rank in searches if own is not None]
    unknown = [other for own, other, _ in searches if own is None]
    first = [own for own, rank in known if rank == 1]
    assert (found.known, found.unknown) == (len(known), len(unknown))
    assert found.cmc == {limit: sum(rank <= limit for _, rank in known) / len(known) for limit in found.cmc}
    assert [point.target for point in found.open_set] == list(fars)
    for point in found.open_set:
        thresholds = [*first, *unknown, np.inf]
        threshold = min(t for t in thresholds if sum(s >= t for s in unknown) / len(unknown) <= point.target)
        assert point.threshold == pytest.approx(threshold, abs=precision)
        assert point.far == sum(score >= threshold for score in unknown) / len(unknown)
        assert point.rate == sum(own >= threshold for own in first) / len(known)


@pytest.mark.parametrize("band", [1, 200, 2**22])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_photos_among_all_others_agree_with_a_naive_loop(seed: int, kind: type, band: int) -> None:
    rows, identities = people(90, 50, seed)
    rows = rows.astype(kind)
    found = identification_report(rows, identities, ranks=RANKS, fars=FARS, band=band)
    assert 0.1 < found.cmc[1] < found.cmc[7] < 1
    assert found.unknown > 5
    assert_as_counted(found, (rows.astype(np.float64), identities), None, FARS, 1e-6 if kind == np.float32 else 1e-14)


@pytest.mark.parametrize("band", [1, 150, 2**22])
@pytest.mark.parametrize("seed", range(3))
def test_probes_against_a_gallery_of_several_photos_each_agree_with_a_naive_loop(seed: int, band: int) -> None:
    probes, gallery = people(60, 40, seed), people(100, 30, seed + 10, first=10)
    found = identification_report(*probes, *gallery, ranks=RANKS, fars=FARS, band=band)
    assert 0.1 < found.cmc[1] < found.cmc[7] < 1
    assert found.unknown > 5
    assert_as_counted(found, probes, gallery, FARS, 1e-14)


@pytest.mark.parametrize("band", [1, 2**22])
@pytest.mark.parametrize("against_a_gallery", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ties_agree_with_a_naive_loop_exactly(seed: int, against_a_gallery: bool, band: int) -> None:
    probes = signs(80, 40, seed)
    gallery = signs(90, 30, seed + 10, first=8) if against_a_gallery else None
    photos, names = gallery or (None, None)
    found = identification_report(*probes, photos, names, ranks=range(1, 45), fars=FARS, band=band)
    assert_as_counted(found, probes, gallery, FARS, 0)


@pytest.mark.parametrize("seed", range(3))
def test_rank_one_is_how_often_the_nearest_other_photo_shows_the_person(seed: int) -> None:
    rows, identities = people(90, 50, seed)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T - 3 * np.eye(90)
    right = identities[cosine.argmax(axis=1)] == identities
    probes = np.bincount(identities)[identities] > 1
    assert identification_report(rows, identities).cmc[1] == np.count_nonzero(right & probes) / np.count_nonzero(probes)


def test_ranks_count_people_and_not_their_photos() -> None:
    probe, near, nearest = [1.0, 0.0], [0.8, 0.6], [0.96, 0.28]
    found = identification_report([probe], ["Ann"], [near, *[nearest] * 6], ["Ann", *["Bea"] * 6], ranks=(1, 2))
    assert found.cmc == {1: 0, 2: 1}


def test_a_person_is_as_near_as_their_nearest_photo() -> None:
    gallery = [[-1.0, 0.0], [0.96, 0.28], [0.8, 0.6], [0.0, 1.0]]
    found = identification_report([[1.0, 0.0]], ["Ann"], gallery, ["Ann", "Ann", "Bea", "Ann"], ranks=(1,))
    assert found.cmc == {1: 1}


def test_a_photo_does_not_find_itself_but_its_copy() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert identification_report(rows, [0, 0, 1]).cmc[1] == 0
    assert identification_report(rows[[0, 0, 1]], [0, 0, 1]).cmc[1] == 1
    assert identification_report(rows, [0, 0, 1], rows, [0, 0, 1]).cmc[1] == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("size", [3, 101, 501])
def test_collapsed_embeddings_find_nobody(size: int, kind: type[np.floating[Any]]) -> None:
    rows = np.ones((2 * size + 1, 64)).astype(kind)
    found = identification_report(rows, np.arange(2 * size + 1) // 2, ranks=(1, size, size + 1))
    assert found.cmc == {1: 0, size: 0, size + 1: 1}
    assert (found.unknown, {point.rate for point in found.open_set}) == (1, {0})


def test_an_unknown_person_who_scores_the_same_is_accepted_with_the_known_one() -> None:
    gallery, names = [[1.0, 0.0], [0.0, 1.0]], ["Ann", "Bea"]
    probes = [[0.8, 0.6], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]]
    strict, lenient = identification_report(
        probes, ["Ann", "Bea", "Cat", "Dee"], gallery, names, fars=(0.4, 0.5)
    ).open_set
    assert (strict.threshold, strict.far, strict.rate) == (np.inf, 0, 0)
    assert (lenient.threshold, lenient.far, lenient.rate) == (0.8, 0.5, 1)


def test_a_known_person_above_the_threshold_counts_only_if_found_first() -> None:
    gallery, names = [[1.0, 0.0], [0.96, 0.28]], ["Ann", "Bea"]
    found = identification_report(
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], ["Ann", "Bea", "Cat"], gallery, names, fars=(0.0, 1.0)
    )
    assert [point.rate for point in found.open_set] == [0.5, 0.5]
    assert [point.threshold for point in found.open_set] == [1.0, 0.28]


@pytest.mark.parametrize("unknown", [3_000, 7_000])
@pytest.mark.parametrize("passing", [1, 3, 7, 29])
def test_a_share_that_is_reached_exactly_is_not_missed_by_rounding(unknown: int, passing: int) -> None:
    cosine = np.append(0.5, np.arange(unknown) / unknown)
    probes = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    found = identification_report(probes, np.arange(unknown + 1), [[1.0, 0.0]], [0], fars=(passing / unknown,))
    assert found.open_set[0].far == passing / unknown
    assert found.open_set[0].threshold == pytest.approx(1 - passing / unknown, abs=1e-14)


@pytest.mark.parametrize(
    ("unknown", "far", "insufficient"), [(100, 0.1, False), (99, 0.1, True), (10, 1.0, False), (9, 1.0, True)]
)
def test_fewer_than_ten_deciding_unknown_are_insufficient(unknown: int, far: float, insufficient: bool) -> None:
    probes = np.tile([1.0, 0.0], (unknown + 1, 1))
    found = identification_report(probes, np.arange(unknown + 1), [[1.0, 0.0]], [0], fars=(far,))
    assert found.open_set[0].insufficient is insufficient


def test_without_unknown_there_is_no_open_set() -> None:
    found = identification_report(np.eye(4), [0, 0, 1, 1])
    assert (found.open_set, found.known, found.unknown) == ((), 4, 0)


def test_one_person_alone_is_always_found() -> None:
    assert set(identification_report(np.eye(3), ["a", "a", "a"]).cmc.values()) == {1}
    assert identification_report(np.eye(2)[:1], ["a"], np.eye(2)[1:], ["a"]).cmc[1] == 1


def test_names_numbers_and_tensors_mean_the_same() -> None:
    rows, identities = signs(60, 25, seed=0)
    names = [f"person {identity}" for identity in identities]
    expected = identification_report(rows, identities)
    assert 0 < expected.cmc[5] < 1
    assert identification_report(rows.tolist(), names) == expected
    assert identification_report(torch.tensor(rows, requires_grad=True), torch.tensor(identities)) == expected
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        assert identification_report(torch.tensor(rows, dtype=kind), names) == expected
        assert identification_report(rows, names, torch.tensor(rows, dtype=kind), names).known == 60


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_lengths_are_taken(scale: float) -> None:
    directions = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], dtype=np.float32)
    assert identification_report(directions * np.float32(scale), [0, 0, 1, 1]).cmc[1] == 1


def test_the_order_of_photos_does_not_matter() -> None:
    rows, identities = signs(80, 40, seed=1)
    order = np.random.default_rng(0).permutation(80)
    assert identification_report(rows[order], identities[order]) == identification_report(rows, identities)


def test_what_was_given_is_not_changed() -> None:
    rows, identities = signs(40, 20, seed=2)
    unit, kept = rows / 4, rows / 4  # unit rows are used as they are, so a careless search would write to them
    identification_report(unit, identities, unit, identities)
    assert (unit == kept).all()


def test_a_report_is_strict_json() -> None:
    found = identification_report([[1.0, 0.0]] * 3, [0, 0, 1], ranks=(1, 5), fars=(0.1,))
    assert json.loads(json.dumps(to_json_types(found), allow_nan=False)) == {
        "cmc": {"1": 0.0, "5": 1.0},
        "open_set": [{"target": 0.1, "far": 0.0, "rate": 0.0, "threshold": None, "insufficient": True}],
        "known": 2,
        "unknown": 1,
    }


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    rows, identities = signs(2_000, 500, seed=0)
    tracemalloc.start()
    try:
        identification_report(rows.astype(np.float32), identities, band=2**15)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000 * 2_000 * 4 / 8  # all similarities at once would take eight times as much


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.ones((3, 2)), [0, 1, 2]), "None of 3 probes shows a person of the gallery"),
        ((np.ones((1, 2)), [0]), "None of 1 probes"),
        ((np.ones((2, 2)), [0, 1], np.ones((2, 2)), [2, 3]), "None of 2 probes"),
        ((np.ones((0, 2)), []), "None of 0 probes"),
        ((np.ones((2, 2)), [0, 0], np.ones((0, 2)), []), "None of 2 probes"),
        ((np.ones((0, 2)), [], np.ones((2, 2)), [0, 0]), "None of 0 probes"),
        ((np.ones((3, 2)), [0, 1]), r"3 embeddings and identities of shape \(2,\)"),
        ((np.ones((2, 2)), [0, 1], np.ones((3, 2)), [0, 1]), r"3 embeddings and identities of shape \(2,\)"),
        ((np.ones((2, 2)), [[0, 1]]), r"2 embeddings and identities of shape \(1, 2\)"),
        ((np.ones(3), [0, 1, 2]), r"float64 of shape \(3,\)"),
        ((np.ones((2, 3)), [0, 0], np.ones((2, 4)), [0, 0]), "3 dimensions and the gallery's 4"),
        ((np.array([[1.0, 0], [0, 0], [np.nan, 1]]), [0, 0, 0]), r"2 of 3 embeddings .* \(first rows: 1, 2\)"),
        ((np.ones((2, 2)), [0, 0], np.array([[np.inf, 0]]), [0]), r"1 of 1 embeddings .* \(first rows: 0\)"),
        ((np.ones((2, 2)), [0, 0], np.ones((2, 2))), r"2 embeddings and identities of shape \(0,\)"),
        ((np.ones((2, 2)), [0, 0], None, [0, 0]), "without a gallery"),
    ],
)
def test_unusable_embeddings_are_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        identification_report(*given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": ()}, "ranks is empty"),
        ({"ranks": (1, 0)}, "ranks must be 1 or more, got 0"),
        ({"fars": (0.1, 1.1)}, "between 0 and 1, got 1.1"),
        ({"fars": (-0.1,)}, "between 0 and 1, got -0.1"),
        ({"fars": (float("nan"),)}, "between 0 and 1, got nan"),
    ],
)
def test_invalid_ranks_and_shares_are_refused_even_without_unknown_probes(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        identification_report(np.eye(2), [0, 0], **options)


@pytest.mark.parametrize("probes", [people(200, 60, 0), signs(200, 60, 0)])
@pytest.mark.parametrize("other", [True, False])
def test_a_gpu_finds_what_the_cpu_finds(probes: Set, other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_verify.evaluation import identification_rates
    from siamese_verify.pairwise import pair_scores

    given: Any = {"ranks": RANKS, "fars": FARS}
    if other:
        gallery = (people if probes[0].shape[1] == 6 else signs)(80, 50, 1)
        given |= {"gallery": gallery[0], "gallery_identities": gallery[1]}
    expected = identification_report(*probes, **given)
    monkeypatch.setattr(pair_scores, "torch_device", torch.device)
    there: Any = identification_rates._search_there
    monkeypatch.setattr(identification_rates, "_search_there", lambda *parts: there(*parts[:-1], torch.device("cpu")))
    found = identification_report(*probes, **given, band=5000, device="cuda")
    assert found.cmc == expected.cmc
    for one, two in zip(found.open_set, expected.open_set, strict=True):
        assert one == pytest.approx(two, rel=1e-12)
