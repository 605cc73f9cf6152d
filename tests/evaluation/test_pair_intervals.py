from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import beta, norm
from scipy.stats import t as student

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    ImpostorTail,
    all_pairs_intervals,
    all_pairs_report,
    pair_intervals,
    roc_curve,
    verification_report,
)
from siamese_verify.evaluation.all_pairs_rows import clustered_rows
from siamese_verify.evaluation.clustered_pairs import (
    ClusteredPairs,
    cluster_pairs,
    dyadic_variance,
    one_way_variance,
    rate_interval,
    variance_over_people,
)
from siamese_verify.evaluation.rate_intervals import clustered_intervals, far_interval_at

TARGETS = (0.3, 0.1, 0.01, 1e-4)


def drawn(seed: int, people: int = 40, photos: int = 4, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    return rng.normal(size=(len(who), 16)) + spread * rng.normal(size=(people, 16))[who], who


def listed(rows: np.ndarray, who: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with the bits of the blocks, truth and people of all pairs i < j."""
    pairs = clustered_rows(rows, who)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(len(rows), 1)
    scores, same = np.einsum("nd,nd->n", unit[left], unit[right]), who[left] == who[right]
    for kind, exact in ((same, pairs.genuine), (~same, pairs.impostors)):
        order = np.flatnonzero(kind)[np.argsort(-scores[kind], kind="stable")]
        np.testing.assert_allclose(scores[order], exact, atol=1e-12)
        scores[order] = exact
    return scores, same, np.stack([who[left], who[right]], axis=1)


def separated(people: int, photos: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of people who could not be told apart more easily."""
    who = np.repeat(np.arange(people), photos)
    left, right = np.triu_indices(len(who), 1)
    same = who[left] == who[right]
    noise = np.random.default_rng(0).random(len(same))
    return np.where(same, 2 + noise, noise), same, np.stack([who[left], who[right]], axis=1)


def test_without_errors_the_interval_is_bounded_by_the_number_of_people() -> None:
    scores, same, people = separated(20)
    found = pair_intervals(scores, same, people, threshold=1.5)
    bound = 1 - 0.05 ** (1 / 20)  # no error among 20 independent people
    assert list(found["frr"]) == pytest.approx([0, bound])
    assert list(found["auc"]) == pytest.approx([1 - bound, 1])
    assert list(found["accuracy"]) == pytest.approx([1 - bound, 1])
    assert found["eer"].low == 0
    assert bound <= found["eer"].high < 0.3
    assert found["far"].low == 0 < 3 / len(same) < found["far"].high
    assert 0 < found["tar_at_far_0.1"].low < 1 == found["tar_at_far_0.1"].high


@pytest.mark.parametrize("people", [10, 60])
def test_more_people_without_errors_show_more(people: int) -> None:
    few, many = (pair_intervals(*separated(count), threshold=1.5) for count in (people, 2 * people))
    for name in ("eer", "far", "frr"):
        assert many[name].high < few[name].high


def test_a_rate_that_the_pairs_cannot_show_has_no_upper_threshold() -> None:
    rows, who = drawn(0, people=60, photos=5)
    found = all_pairs_intervals(rows, who, targets=(1e-1, 1e-2, 1e-5, 1e-6, 0.0))
    for target in ("0.1", "0.01"):
        assert np.isfinite(found[f"threshold_at_far_{target}"]).all()
        assert found[f"tar_at_far_{target}"].low > 0
    for target in ("1e-05", "1e-06", "0"):
        assert found[f"threshold_at_far_{target}"].high == np.inf
        assert found[f"tar_at_far_{target}"].low == 0


@pytest.mark.parametrize(("errors", "trials"), [(0, 20), (3, 50), (50, 50)])
def test_the_interval_of_independent_trials_is_that_of_clopper_and_pearson(errors: int, trials: int) -> None:
    low, high = rate_interval(errors / trials, trials)
    assert low == pytest.approx(beta.ppf(0.025, errors, trials - errors + 1) if errors else 0)
    assert high == pytest.approx(beta.ppf(0.975, errors + 1, trials - errors) if errors < trials else 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_adds_up_the_products_of_all_pairs_that_share_a_person(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = rng.integers(0, 6, (60, 2))
    same = people[:, 0] == people[:, 1]
    residuals = rng.normal(size=60)
    products, within = 0.0, 0.0
    for one, these in zip(residuals, map(set, people.tolist()), strict=True):
        for other, those in zip(residuals, map(set, people.tolist()), strict=True):
            products += one * other * bool(these & those)
            within += one * other * (these == those and len(these) == 2)
    assert dyadic_variance(residuals, same, people) == pytest.approx(max(products, within))


@pytest.mark.parametrize("dependent", [True, False])
def test_that_variance_is_enlarged_for_few_people_and_is_no_less_than_over_the_same_two(dependent: bool) -> None:
    rng = np.random.default_rng(0)
    people = rng.integers(0, 12, (80, 2))
    people = people[people[:, 0] != people[:, 1]]
    residuals = rng.normal(size=len(people)) if not dependent else rng.normal(size=12)[people].sum(axis=1)
    if not dependent:  # what is left by effects of people
        design = (people[:, :, None] == np.arange(12)).sum(axis=1).astype(np.float64)
        residuals -= design @ np.linalg.lstsq(design, residuals)[0]
    sums, dyads, totals = np.zeros(12), dict[tuple[int, int], float](), np.zeros(12)
    products = 0.0
    for one, (first, second) in zip(residuals.tolist(), np.sort(people, axis=1).tolist(), strict=True):
        sums[[first, second]] += one
        totals[[first, second]] += 1
        dyads[first, second] = dyads.get((first, second), 0.0) + one
        for other, pair in zip(residuals.tolist(), people.tolist(), strict=True):
            products += one * other * (first in pair or second in pair)
    within = sum(one**2 for one in dyads.values())
    equal = totals.sum() ** 2 / (totals**2).sum()
    correction = equal / (equal - 4) * (student.ppf(0.975, equal - 1) / norm.ppf(0.975)) ** 2
    assert (products * correction > within) == dependent
    found = variance_over_people(float((sums**2).sum()), within, totals)
    assert found == pytest.approx(max(products * correction, within))


@pytest.mark.parametrize(("people", "others"), [(2, 0), (3, 0), (2, 6)])
def test_of_fewer_than_four_people_all_impostors_are_one_trial(people: int, others: int) -> None:
    """Likewise where two people have nearly all pairs."""
    rng = np.random.default_rng(0)
    left, right = np.triu_indices(people, 1)
    impostors = np.tile(np.stack([left, right], axis=1), (3000 // len(left), 1))
    some = people + np.arange(others).repeat(2).reshape(-1, 2)
    some[:, 1] = 0
    own = np.arange(people + others).repeat(2).reshape(-1, 2)
    identities = np.concatenate([impostors, some, own])
    same = identities[:, 0] == identities[:, 1]
    scores = rng.permutation(len(same)) / len(same) + 2 * same
    for threshold in (0.5, 1.5):
        found = pair_intervals(scores, same, identities, threshold=threshold, targets=())["far"]
        assert found.high >= 0.95 - 1e-9
    tail = ImpostorTail.from_curve(roc_curve(scores, same)).with_intervals(cluster_pairs(scores, same, identities))
    assert tail.one_in(1.5) == 1


def test_the_far_has_that_variance_at_every_threshold() -> None:
    scores, same, people = listed(*drawn(1, people=35))
    pairs = cluster_pairs(scores, same, people)
    thresholds = np.quantile(scores[~same], [0.9, 0.7, 0.5])
    rates = pairs.rates(thresholds)
    accepted = scores[~same] >= thresholds[:, None]
    np.testing.assert_array_equal(rates.far, accepted.mean(axis=1))
    widened = []
    for far, effect, wrong in zip(rates.far, rates.effect, accepted, strict=True):
        variance = dyadic_variance((wrong - far) / len(wrong), np.zeros(len(wrong), dtype=bool), people[~same])
        widened.append(effect * far * (1 - far) / len(wrong) / variance)
    assert widened == pytest.approx([widened[0]] * 3)  # the same correction for few people
    assert 1 < widened[0] < 1.4


@pytest.mark.parametrize("seed", range(4))
def test_all_pairs_have_the_intervals_of_the_listed_pairs(seed: int) -> None:
    rows, who = drawn(seed, people=12 + 9 * seed)
    wanted = pair_intervals(*listed(rows, who), threshold=0.3, targets=TARGETS)
    found = all_pairs_intervals(rows, who, 0.3, TARGETS)
    assert {*wanted} - {*found} == {"auc", "accuracy"}
    for name, interval in found.items():
        assert interval == pytest.approx(wanted[name], rel=1e-9), name


def test_metrics_decided_by_unlisted_impostors_are_left_out_and_others_unchanged() -> None:
    rows, who = drawn(3)
    whole, some = clustered_rows(rows, who), clustered_rows(rows, who, kept=3000)
    assert len(some.impostors) < 3001 < len(whole.impostors)
    found = [clustered_intervals(pairs, TARGETS, 0.9, 0.95) for pairs in (whole, some)]
    assert "tar_at_far_0.3" not in found[1]
    assert "tar_at_far_0.01" in found[1]
    for name, interval in found[1].items():
        assert interval == pytest.approx(found[0][name], rel=0.05), name  # other thresholds are looked at


def test_the_interval_holds_the_value_and_a_level_widens_it() -> None:
    rows, who = drawn(5)
    report = all_pairs_report(rows, who, targets=TARGETS, threshold=0.3)
    found, wide = (all_pairs_intervals(rows, who, 0.3, TARGETS, level) for level in (0.95, 0.99))
    assert report.at_threshold is not None
    values = {"eer": report.eer, "far": report.at_threshold.far, "frr": report.at_threshold.frr}
    values |= {f"tar_at_far_{point.target:g}": point.tar for point in report.operating_points}
    values |= {f"threshold_at_far_{point.target:g}": point.threshold for point in report.operating_points}
    for name, value in values.items():
        assert wide[name].low <= found[name].low <= value <= found[name].high <= wide[name].high, name


def test_people_and_not_pairs_decide() -> None:
    """The same photos many times over are no more people."""
    scores, same, people = listed(*drawn(2))
    once = pair_intervals(scores, same, people, threshold=0.3)
    often = pair_intervals(np.tile(scores, 9), np.tile(same, 9), np.tile(people, (9, 1)), threshold=0.3)
    for name in ("eer", "auc", "far", "frr", "accuracy"):
        widths = [found[name].high - found[name].low for found in (once, often)]
        assert widths[1] > 0.9 * widths[0], name


def test_intervals_cover_the_true_value_at_their_level() -> None:
    """Where people fail in all of their pairs or in none; `benchmarks/coverage.py` draws other people as well."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        people, share = 40, 0.1
        fails = rng.random(people) < share
        genuine = np.repeat(np.arange(people), 5)
        impostors = np.stack([np.arange(200) % people, (np.arange(200) + 1 + np.arange(200) // people) % people], 1)
        identities = np.concatenate([np.stack([genuine, genuine], 1), impostors])
        same = identities[:, 0] == identities[:, 1]
        scores = np.where(same & ~fails[identities[:, 0]], 1.0, 0.0) + 1e-3 * rng.random(len(same))
        frr = pair_intervals(scores, same, identities, threshold=0.5, targets=())["frr"]
        covered.append(frr.low <= share <= frr.high)
    assert 0.92 <= np.mean(covered) <= 0.995


@pytest.mark.parametrize(
    ("heavy", "light", "photos", "shares"),
    [(5, 35, 12, (0.03, 0.03)), (5, 35, 12, (0.1, 0.1)), (20, 1000, 10, (0.25, 0.02))],
    ids=["by chance none of the few fails", "one in ten", "those with most pairs fail more often"],
)
def test_intervals_of_the_frr_cover_it_where_few_people_have_most_pairs(
    heavy: int, light: int, photos: int, shares: tuple[float, float]
) -> None:
    """40 % in the second case by the sum over residuals alone, 84 % in the third by the one-way variance alone."""
    rng, count = np.random.default_rng(0), heavy + light
    pairs = np.repeat([photos * (photos - 1) // 2, 1], [heavy, light])
    share = np.repeat(shares, [heavy, light])
    truth = pairs @ share / pairs.sum()
    impostors = np.stack([np.arange(count), (np.arange(count) + 1) % count], 1)
    identities = np.concatenate([np.repeat(np.arange(count), pairs).repeat(2).reshape(-1, 2), impostors])
    same, covered = identities[:, 0] == identities[:, 1], []
    for _ in range(300):
        fails = rng.random(count) < share
        scores = np.where(same & ~fails[identities[:, 0]], 1.0, 0.0)
        frr = pair_intervals(scores, same, identities, threshold=0.5, targets=())["frr"]
        covered.append(frr.low <= truth <= frr.high)
    assert np.mean(covered) >= 0.92


def test_the_variance_of_a_mean_over_people_is_that_of_the_one_way_model() -> None:
    """Of people with equal numbers of values that of their residuals; between that of independent values and Kish's."""
    rng = np.random.default_rng(0)
    errors = (rng.random((30, 6)) < rng.beta(0.5, 2, 30)[:, None]).astype(np.float64)
    residuals, people = (errors - errors.mean()).ravel() / errors.size, np.arange(30).repeat(12).reshape(-1, 2)
    equal = one_way_variance(errors.sum(axis=1), np.full(30, 6))
    assert equal == pytest.approx(dyadic_variance(residuals, np.ones(180, dtype=np.bool_), people))
    counts = np.array([66] * 5 + [1] * 35)
    spread = 3 / 365 * (1 - 3 / 365)
    light = np.array([0.0] * 37 + [1.0] * 3)  # none of the five is in error
    assert one_way_variance(light, counts) == pytest.approx(spread * (counts @ counts) / 365**2)
    halves = np.where(counts > 1, counts / 2, 0)  # people do not differ, and their pairs do
    assert one_way_variance(halves[:5], counts[:5]) == pytest.approx(0.25 / 330)
    many = rng.poisson(3, 2000) + 1
    failed = rng.binomial(many, rng.beta(1, 3, 2000)).astype(np.float64)  # two pairs of a person correlate by 0.2
    expected = 0.25 * 0.75 * (0.8 + 0.2 * (many @ many) / many.sum()) / many.sum()
    assert one_way_variance(failed, many) == pytest.approx(expected, rel=0.1)


def test_intervals_of_the_auc_cover_it_where_some_people_resemble_all() -> None:
    """Normal scores with an effect of each person; 92.5 % if the dependence of errors did not grow with their rate."""
    rng, people = np.random.default_rng(0), np.repeat(np.arange(30), 3)
    left, right = np.triu_indices(len(people), 1)
    identities = np.stack([people[left], people[right]], axis=1)
    same, covered = identities[:, 0] == identities[:, 1], []
    truth = ndtr(3 / np.sqrt(2 * 0.5**2 + 1 + 4 * 0.5**2 + 1))
    for _ in range(400):
        scores = 3 * same + 0.5 * rng.normal(size=30)[identities].sum(axis=1) + rng.normal(size=len(same))
        auc = pair_intervals(scores, same, identities, targets=())["auc"]
        covered.append(auc.low <= truth <= auc.high)
    assert 0.94 <= np.mean(covered) <= 0.98


def test_intervals_of_the_far_cover_it_where_no_person_is_like_more_others() -> None:
    """92.5 % if products of pairs that share one person could make the variance smaller."""
    rng, people = np.random.default_rng(0), np.repeat(np.arange(20), 2)
    left, right = np.triu_indices(len(people), 1)
    identities = np.stack([people[left], people[right]], axis=1)
    same, covered = identities[:, 0] == identities[:, 1], []
    for _ in range(400):
        between = rng.normal(size=(20, 20))
        scores = 3 * same + between[identities[:, 0], identities[:, 1]] + rng.normal(size=len(same))
        rates = cluster_pairs(scores, same, identities).rates(np.array([0.0]))
        far = far_interval_at(rates, 0)
        covered.append(far.low <= 0.5 <= far.high)
    assert 0.94 <= np.mean(covered) <= 0.99


def test_the_benchmark_claims_no_more_than_its_sets_can_tell() -> None:
    verdict = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))["verdict"]
    assert [verdict(held, 150) for held in (0.98, 0.95, 0.92, 0.90)] == ["as claimed"] + 3 * ["not told"]
    assert [verdict(held, 3000) for held in (0.95, 0.92, 0.90)] == ["as claimed", "not told", "not as claimed"]
    assert verdict(1.0, 10) == "not told"


def test_the_report_has_the_intervals_of_known_people() -> None:
    scores, same, people = separated(6)
    report = verification_report(scores, same, identities=people, targets=TARGETS)
    assert report.intervals == pair_intervals(scores, same, people, targets=TARGETS)
    assert report.to_dict()["intervals"]["threshold_at_far_0.0001"]["high"] is None  # JSON has no infinity
    assert verification_report(scores, same).intervals == {}


def test_identities_may_be_names_or_numbers() -> None:
    scores, same, people = separated(12)
    assert pair_intervals(scores, same, people) == pair_intervals(scores, same, np.char.zfill(people.astype(str), 2))


def test_collapsed_embeddings_have_no_interval_where_more_tie_than_are_kept() -> None:
    rows, who = np.ones((30, 4), dtype=np.float32), np.arange(30) // 2
    found = all_pairs_intervals(rows, who, targets=TARGETS)
    assert found["eer"].low < 0.5 < found["eer"].high
    assert found["threshold_at_far_0.1"].high == np.inf
    pairs = clustered_rows(rows, who, kept=100)
    assert len(pairs.impostors) == 0
    assert isinstance(pairs, ClusteredPairs)


@pytest.mark.parametrize(
    ("people", "level", "message"),
    [
        ([0, 0, 0], 0.95, "3 photos of 1 people"),
        ([0, 1, 2], 0.95, "3 photos of 3 people"),
        ([0, 0, 1], 1.0, "The confidence level is 1.0"),
    ],
)
def test_invalid_rows_raise(people: list[int], level: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        all_pairs_intervals(np.eye(3), people, level=level)


@pytest.mark.parametrize(
    ("identities", "options", "message"),
    [
        ([[0, 0], [0, 1]], {"level": 1}, "The confidence level is 1"),
        ([0, 1], {}, r"shape \(2,\): give two for each of 2 pairs"),
        ([[0, 1], [0, 1]], {}, r"1 pairs are genuine with two identities or impostors with one \(first row: 0\)"),
        ([[0, 0], [1, 1]], {}, r"first row: 1"),
    ],
)
def test_invalid_pairs_raise(identities: list[object], options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair_intervals([0.9, 0.1], [True, False], identities, **options)  # type: ignore[arg-type]


def test_two_people_and_one_pair_of_each_kind_show_nothing() -> None:
    found = pair_intervals([0.9, 0.1], [True, False], [[0, 0], [0, 1]], threshold=0.5)
    assert found["frr"].high >= 0.95
    assert found["far"].high >= 0.95
    assert found["threshold_at_far_0.1"] == (-np.inf, np.inf)
