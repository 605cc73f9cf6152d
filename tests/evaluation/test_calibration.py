from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    Calibration,
    ImpostorTail,
    RocCurve,
    calibrate,
    check_calibration,
    cllr,
    fit_isotonic,
    fit_logistic,
    min_cllr,
    roc_curve,
)
from siamese_verify.evaluation.calibration import choose_calibration

FITS = (fit_logistic, fit_isotonic)


def gaussian(count: int = 4000, share: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of equal variance: the log-likelihood ratio is 4 s - 2."""
    generator = np.random.default_rng(seed)
    same = generator.random(count) < share
    return generator.normal(size=count) / 2 + same, same


def test_logistic_calibration_agrees_with_scikit_learn_with_balanced_weights() -> None:
    scores, same = gaussian()
    found = fit_logistic(roc_curve(scores, same))
    theirs = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-10, max_iter=1000).fit(scores[:, None], same)
    points = np.quantile(scores, np.linspace(0.01, 0.99, 7))  # beyond, pairs are too few to support the line
    np.testing.assert_allclose(found.log_likelihood_ratio(points), theirs.decision_function(points[:, None]), atol=1e-3)


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("fit", FITS)
def test_the_ratio_of_normal_scores_is_found_whatever_the_share_of_genuine_pairs(share: float, fit: type) -> None:
    found: Calibration = fit(roc_curve(*gaussian(200_000, share)))
    points = np.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(found.log_likelihood_ratio(points), 4 * points - 2, atol=0.25)


def test_isotonic_calibration_agrees_with_scikit_learn() -> None:
    scores, same = gaussian()
    scores = np.round(scores, 2)
    found = fit_isotonic(roc_curve(scores, same))
    weights = np.where(same, 1 / same.sum(), 1 / (~same).sum())
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, same, sample_weight=weights)
    inside = scores[(theirs.predict(scores) > 0.05) & (theirs.predict(scores) < 0.95)]
    np.testing.assert_allclose(found.probability(inside, 0.5), theirs.predict(inside), atol=0.005)
    assert len(found.scores) < 500


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("seed", range(3))
def test_ratios_rise_with_the_score_and_are_finite(fit: type, seed: int) -> None:
    found: Calibration = fit(roc_curve(*gaussian(300, seed=seed)))
    ratios = found.log_likelihood_ratio(np.linspace(-10, 10, 1001))
    assert np.isfinite(ratios).all()
    assert (np.diff(ratios) >= 0).all()
    assert 0 < found.probability(-10, 0.5) < 0.5 < found.probability(10, 0.5) < 1


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("scores", "same"),
    [([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]), ([0.5, 0.5], [0, 1]), ([0.9, 0.1], [0, 1]), ([0.1, 0.9], [0, 1])],
)
def test_separated_equal_and_contrary_scores_are_calibrated_too(
    fit: type, scores: list[float], same: list[int]
) -> None:
    curve = roc_curve(scores, same)
    found: Calibration = fit(curve)
    assert np.isfinite(found.ratios).all()
    assert list(found.ratios) == sorted(found.ratios)
    assert cllr(found, curve) <= 1 + 1e-9
    if scores[0] >= scores[-1]:
        np.testing.assert_allclose(found.ratios, 0, atol=1e-6)


def test_a_curve_of_few_knots_stays_close_to_that_of_all() -> None:
    curve = roc_curve(*gaussian(20_000))
    few, every = fit_isotonic(curve), fit_isotonic(curve, tolerance=0)
    assert len(few.scores) < len(every.scores)
    points = np.linspace(-2, 3, 5001)
    np.testing.assert_allclose(few.log_likelihood_ratio(points), every.log_likelihood_ratio(points), atol=0.0101)


def test_a_prior_moves_the_odds() -> None:
    found = Calibration("logistic", (-1.0, 1.0), (-2.0, 2.0), 10, 10)
    assert found.probability(0.0, prior=0.2) == pytest.approx(0.2)
    assert found.probability([0.5], 0.5)[0] == pytest.approx(1 / (1 + math.exp(-1)))
    with pytest.raises(TypeError, match="prior"):
        found.probability(0.0)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="prior probability lies between 0 and 1, got 1"):
        found.probability(0.0, prior=1)


def naive_cllr(ratios: np.ndarray, same: np.ndarray) -> float:
    genuine = [math.log2(1 + math.exp(-ratio)) for ratio in ratios[same]]
    impostors = [math.log2(1 + math.exp(ratio)) for ratio in ratios[~same]]
    return (sum(genuine) / len(genuine) + sum(impostors) / len(impostors)) / 2


def test_cllr_agrees_with_a_naive_loop_and_is_one_bit_for_ratios_of_zero() -> None:
    scores, same = gaussian(500)
    curve = roc_curve(np.round(scores, 1), same)
    found = fit_logistic(roc_curve(*gaussian(500, seed=1)))
    assert cllr(found, curve) == pytest.approx(
        naive_cllr(found.log_likelihood_ratio(np.round(scores, 1)), same), rel=1e-12
    )
    assert cllr(Calibration("logistic", (0.0,), (0.0,), 1, 1), curve) == pytest.approx(1)


def test_no_monotone_calibration_costs_less_than_min_cllr() -> None:
    scores, same = gaussian(2000)
    curve = roc_curve(scores, same)
    least = min_cllr(curve)
    assert 0 < least < min(cllr(fit(curve), curve) for fit in FITS) < least + 0.02
    assert min_cllr(roc_curve(np.exp(scores), same)) == least
    assert min_cllr(roc_curve([0.1, 0.9], [False, True])) == 0
    assert min_cllr(roc_curve([0.5, 0.5], [False, True])) == 1


def test_a_check_counts_every_pair_and_finds_what_is_off() -> None:
    curve = roc_curve(*gaussian(20_000))
    good = check_calibration(fit_logistic(roc_curve(*gaussian(20_000, seed=1))), curve)
    assert sum(one.pairs for one in good.bins) == 20_000
    assert good.expected_error < 0.02
    assert good.min_cllr < good.cllr < good.min_cllr + 0.01
    for one in good.bins:
        assert one.observed == pytest.approx(one.predicted, abs=0.06)
    bold = check_calibration(Calibration("logistic", (-2.0, 3.0), (-30.0, 30.0), 1, 1), curve)
    assert bold.expected_error > 5 * good.expected_error
    assert bold.cllr > good.cllr


def test_the_kind_is_chosen_that_costs_less_on_other_people() -> None:
    def halves(bent: float) -> tuple[RocCurve, RocCurve, RocCurve]:
        found = []
        for seed in range(3):
            scores, same = gaussian(4000, seed=seed)
            found.append(roc_curve(np.sign(scores) * np.abs(scores) ** bent, same))
        return found[0], found[1], found[2]

    whole, *parts = halves(1)
    assert choose_calibration(whole, (parts[0], parts[1])).kind == "logistic"
    whole, *parts = halves(9)
    assert choose_calibration(whole, (parts[0], parts[1])).kind == "isotonic"


def test_embeddings_are_calibrated_by_all_their_pairs() -> None:
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 5)
    rows = generator.normal(size=(60, 16))[people] + generator.normal(size=(300, 16))
    score_calibration = calibrate(rows, people, "these")
    assert (score_calibration.calibration.genuine, score_calibration.calibration.impostors) == (
        600,
        300 * 299 // 2 - 600,
    )
    assert score_calibration.calibration.measured_on == "these"
    assert score_calibration.impostor_tail.impostors == score_calibration.calibration.impostors
    assert json.loads(json.dumps(score_calibration.to_dict(), allow_nan=False))["calibration"]["kind"] in (
        "logistic",
        "isotonic",
    )
    assert calibrate(rows[:8], people[:8]).calibration.kind == "logistic"  # two people: none to hold out


def test_a_calibration_is_read_as_it_was_written() -> None:
    for fit in FITS:
        found = fit(roc_curve(*gaussian(300)), "somewhere")
        assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("seed", [9, 544])
def test_equal_ratios_of_neighbors_do_not_descend_by_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=rng.integers(20, 400)) * 4) / 8
    same = rng.random(len(scores)) < 1 / (1 + np.exp(-2 * scores))
    found = fit_isotonic(roc_curve(scores, same), tolerance=0.0)
    assert (np.diff(found.ratios) >= 0).all()
    assert Calibration.from_dict(found.to_dict()) == found


def test_half_a_pair_does_not_reverse_the_order_of_neighbors() -> None:
    same = [0, 1, 0, 0, 0, 1, 1, 1, 0, 1]  # alone at either end; half a pair weighs more there than one in four
    found = fit_isotonic(roc_curve([0, 1, 1, 1, 1, 2, 2, 2, 2, 3], same))
    assert list(found.ratios) == sorted(found.ratios)


@pytest.mark.parametrize(("genuine", "impostors"), [(1, 1), (2, 20), (100, 1000)])
@pytest.mark.parametrize("fit", FITS)
def test_ratios_of_separated_pairs_are_bounded_by_their_number(fit: type, genuine: int, impostors: int) -> None:
    scores = np.append(np.linspace(2, 3, genuine), np.linspace(0, 1, impostors))
    found: Calibration = fit(roc_curve(scores, np.arange(len(scores)) < genuine))
    assert found.ratios[0] == pytest.approx(-math.log(2 * genuine))
    assert found.ratios[-1] == pytest.approx(math.log(2 * impostors))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "straight"},
        {"genuine": "many"},
        {"genuine": 0},
        {"impostors": True},
        {"measured_on": 7},
        {"scores": "01"},
        {"ratios": None},
    ],
)
def test_an_invalid_field_is_named(change: dict[str, object]) -> None:
    whole = Calibration("logistic", (0.0, 1.0), (-1.0, 1.0), 5, 5).to_dict()
    with pytest.raises(InputError, match=f"calibration is damaged .{next(iter(change))} is"):
        Calibration.from_dict(whole | change)


@pytest.mark.parametrize(
    "change", [{"scores": [0.0]}, {"ratios": None}, {"scores": [1.0, 0.0]}, {"ratios": [0.0, math.nan]}, {"more": 1}]
)
def test_a_damaged_calibration_raises(change: dict[str, object]) -> None:
    whole = Calibration("logistic", (0.0, 1.0), (-1.0, 1.0), 5, 5).to_dict()
    with pytest.raises(InputError, match="calibration is damaged"):
        Calibration.from_dict(whole | change)
    del whole["kind"]
    with pytest.raises(InputError, match="calibration is damaged"):
        Calibration.from_dict(whole)


@pytest.mark.parametrize("seed", range(3))
def test_the_impostor_tail_never_understates_the_share(seed: int) -> None:
    scores, same = gaussian(50_000, 0.1, seed)
    curve = roc_curve(np.round(scores, 3), same)
    tail = ImpostorTail.from_curve(curve)
    assert len(tail.scores) < 300
    impostors = np.round(scores, 3)[~same]
    for score in [*np.random.default_rng(seed).choice(np.round(scores, 3), 200).tolist(), -9.0, 9.0]:
        true = (impostors >= score).sum()
        assert tail.rate(score) * len(impostors) >= true - 1e-9
        if 0 < true < 0.45 * len(impostors):
            assert tail.rate(score) <= 1.07 * true / len(impostors) + 1e-12  # a fortieth of a decade
    assert tail.rate(float(impostors.max())) == pytest.approx(1 / len(impostors))
    assert tail.rate(9) == 0


def test_no_impostor_scores_above_the_highest() -> None:
    tail = ImpostorTail.from_curve(roc_curve([0.1, 0.2, 0.9], [True, False, False]))
    assert (tail.rate(0.9), tail.rate(np.nextafter(0.9, 1))) == (0.5, 0)


def test_the_impostor_tail_is_given_in_words() -> None:
    tail = ImpostorTail((0.1, 0.5, 0.9, 0.95), (5000, 80, 1, 0), 10_000)
    assert tail.sentence(0.0) == "Half of all pairs of different people or more may score this high."
    assert tail.sentence(0.5) == "1 in 125 pairs of different people would score this high."
    assert tail.sentence(0.9) == "1 in 10,000 pairs of different people would score this high."
    assert tail.sentence(0.99) == "None of 10,000 pairs of different people scored this high."
    assert (
        ImpostorTail((0.0,), (2800,), 10_000).sentence(0.1) == "1 in 3 pairs of different people would score this high."
    )
    best = "At most 1 in 31 pairs of photos of different people would score this high."  # the union bound
    assert tail.sentence(0.5, 4) == best
    with pytest.raises(InputError, match="score is NaN"):
        tail.sentence(math.nan)
    assert ImpostorTail.from_dict(json.loads(json.dumps(tail.to_dict()))) == tail
    for change in (
        {"scores": [0.1]},
        {"accepted": [1, 2, 3, 4]},
        {"impostors": "x"},
        {"impostors": 0},
        {"impostors": 9},
    ):
        with pytest.raises(InputError, match="impostor tail is damaged"):
            ImpostorTail.from_dict(tail.to_dict() | change)
