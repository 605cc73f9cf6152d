"""decide: what a score means, from numbers alone."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import Calibration, ImpostorTail, Interval, OperatingPoint, ScoreCalibration, calibrate
from siamese_verify.evaluation.calibration import bound_ratios
from siamese_verify.faces import Quality
from siamese_verify.models.metadata import DecisionThreshold, ModelMetadata
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification.decision import (
    UNLIKE,
    DetectedFace,
    LikelihoodRatio,
    decide,
    likelihood_ratio,
    quality_complaints,
)

GOOD = Quality(sharpness=40.0, size=90.0, turn=10.0, light=0.5, contrast=0.2)
RANGES = {"sharpness": (10.0, None), "size": (30.0, None), "turn": (None, 40.0), "light": (0.2, 0.8)}


@pytest.fixture(scope="module")
def score_calibration() -> ScoreCalibration:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 5)
    rows = rng.normal(size=(60, 16))[people] + 0.8 * rng.normal(size=(300, 16))
    return calibrate(rows, people, "drawn people")


@pytest.fixture(scope="module")
def metadata(score_calibration: ScoreCalibration) -> ModelMetadata:
    spec = InputSpec(4, crop=Crop("whole"))
    return ModelMetadata(
        "mine", {}, spec, 16, measured_on="drawn people", score_calibration=score_calibration, quality=dict(RANGES)
    )


def face(name: str = "a.jpg", quality: Quality = GOOD, faces: int = 1, rotated_by: float = 0) -> DetectedFace:
    return DetectedFace(
        name, np.zeros((4, 4, 3), np.uint8), quality, (1, 2, 31, 42), faces=faces, rotated_by=rotated_by
    )


@pytest.mark.parametrize("far", [0.3, 0.1, 0.01, 0.001])
def test_the_share_of_impostors_above_the_threshold_is_within_the_rate(far: float, metadata: ModelMetadata) -> None:
    result = decide(metadata, 0.9, far=far)
    assert metadata.score_calibration is not None
    accepted = metadata.score_calibration.impostor_tail.accepts(result.threshold)
    assert result.far == accepted / metadata.score_calibration.impostor_tail.impostors <= far
    assert result.insufficient == (far * metadata.score_calibration.impostor_tail.impostors < 10)


def test_a_score_inside_of_the_thresholds_interval_is_inconclusive(metadata: ModelMetadata) -> None:
    clear = decide(metadata, 1.0, far=0.01)
    assert clear.same is True
    assert clear.threshold_interval is not None
    low, high = clear.threshold_interval
    assert low <= clear.threshold <= high
    for score, same in ((low, None), (np.nextafter(low, -2), False), (np.nextafter(high, -2), None), (high, True)):
        result = decide(metadata, float(score), far=0.01)
        assert result.same is same
        assert (len(result.reasons) == 1) == (same is None)


def test_whoever_forces_a_decision_gets_one_and_the_doubts_as_warnings(metadata: ModelMetadata) -> None:
    doubtful = decide(metadata, decide(metadata, 0, far=0.01).threshold, far=0.01)
    forced = decide(metadata, doubtful.score, far=0.01, decide=True)
    assert (doubtful.same, forced.same, forced.reasons) == (None, True, ())
    assert forced.warnings[: len(doubtful.reasons)] == doubtful.reasons


def test_what_a_score_says_does_not_move_with_the_threshold(metadata: ModelMetadata) -> None:
    asked: list[dict[str, Any]] = [{"far": 0.3}, {"far": 0.01}, {"threshold": 0.75}, {"threshold": -0.5}]
    found = [decide(metadata, 0.4, decide=True, prior=0.5, **one) for one in asked]
    assert len({(one.log_likelihood_ratio, one.probability, one.likelihood) for one in found}) == 1
    assert found[0].log_likelihood_ratio is not None
    assert found[0].probability == pytest.approx(1 / (1 + math.exp(-found[0].log_likelihood_ratio)), rel=1e-12)


def test_there_is_a_probability_for_a_stated_prior_alone(metadata: ModelMetadata) -> None:
    plain = decide(metadata, 0.4)
    assert (plain.probability, plain.prior, plain.stated_probability()) == (None, None, "")
    assert plain.log_likelihood_ratio is not None
    rare = decide(metadata, 0.4, prior=0.01)
    assert rare.probability is not None
    odds = rare.probability / (1 - rare.probability)
    assert math.log(odds * 99) == pytest.approx(plain.log_likelihood_ratio)
    assert "for your prior of 0.01" in rare.stated_probability()
    assert (decide(metadata, 0.4, prior=0.5, comparisons=2).probability, rare.prior) == (None, 0.01)


@pytest.mark.parametrize("prior", [0, 1, -0.1, 1.5, math.nan, "0.5", True])
def test_a_prior_that_is_none_is_refused(prior: Any, metadata: ModelMetadata) -> None:
    with pytest.raises(InputError, match="prior"):
        decide(metadata, 0.4, prior=prior)


def test_a_prior_for_a_model_without_calibration_is_refused() -> None:
    with pytest.raises(InputError, match="never calibrated"):
        decide(ModelMetadata("mine", {}, InputSpec(4, crop=Crop("whole")), 16), 0.5, threshold=0.4, prior=0.5)


@pytest.mark.parametrize(("name", "value"), [("far", "1e-3"), ("threshold", "0.5"), ("far", True), ("far", [0.1])])
def test_what_is_no_number_is_refused_in_a_sentence(name: str, value: Any, metadata: ModelMetadata) -> None:
    with pytest.raises(InputError, match=rf"must be a number such as 0\.001, got .*\({type(value).__name__}\)"):
        decide(metadata, 0.5, **{name: value})
    assert decide(metadata, 0.9, far=np.float32(0.01)).same is True  # type: ignore[arg-type]


def test_the_likelihood_ratio_is_bounded_where_the_calibration_ends() -> None:
    line = bound_ratios(Calibration("logistic", (-1.0, 1.0), (-20.0, 20.0), 1000, 10**6), math.exp(-5), math.exp(-4))
    score_calibration = ScoreCalibration(line, ImpostorTail((0.0, 0.2, 0.3), (400_000, 10, 0), 10**6))
    assert likelihood_ratio(score_calibration, 0.1) == pytest.approx((2.0, False))
    assert likelihood_ratio(score_calibration, 1.0) == pytest.approx((4.0, True))
    assert likelihood_ratio(score_calibration, -1.0) == pytest.approx((-5.0, True))


@pytest.mark.parametrize(
    ("ratio", "bounded", "sentence"),
    [
        (7.88, False, "about 2,600 times as frequent among pairs of one person as among pairs of two people."),
        (7.88, True, "at least 2,600 times as frequent among pairs of one person as among pairs of two people: the"),
        (-2.0, False, "about 7.4 times as frequent among pairs of two people as among pairs of one person."),
        (0.02, False, "about as frequent among pairs of one person as among pairs of two people."),
        (math.log(9.99), False, "about 10 times as frequent"),
        (0.0, True, "Too few pairs were measured"),
    ],
)
def test_the_likelihood_ratio_is_said_in_words(ratio: float, bounded: bool, sentence: str) -> None:
    assert sentence in LikelihoodRatio(ratio, bounded).sentence()


def test_faces_unlike_the_measured_ones_are_said_beside_the_likelihood_ratio(metadata: ModelMetadata) -> None:
    dark = face("dark.jpg", GOOD._replace(light=0.1))
    for forced in (False, True):
        assert UNLIKE in decide(metadata, 0.4, (face(), dark), decide=forced).warnings
    assert UNLIKE not in decide(metadata, 0.4, (face(), face())).warnings


@pytest.mark.parametrize(
    ("low", "score", "same"), [(0.5, 0.9, None), (0.5, 0.5, None), (0.5, 0.49, False), (-math.inf, -0.5, None)]
)
def test_a_threshold_that_the_data_cannot_show_accepts_nobody(
    low: float, score: float, same: bool | None, metadata: ModelMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = DecisionThreshold(0.6, 1e-6, (low, math.inf), 1000, True)
    monkeypatch.setattr(ModelMetadata, "decision_threshold", lambda self, far=None, comparisons=1: limit)
    result = decide(metadata, score, far=1e-6)
    assert result.same is same
    assert ("too few impostors were measured" in " ".join(result.reasons)) == (same is None)
    assert decide(metadata, score, far=1e-6, decide=True).same == (score >= 0.6)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["threshold_interval"] == [None if math.isinf(low) else low, None]
    assert told["reason"] == ("inconclusive" if same is None else None)


def test_a_stranger_scores_as_high_once_in_so_many(metadata: ModelMetadata) -> None:
    assert metadata.score_calibration is not None
    impostor_tail = metadata.score_calibration.impostor_tail
    for score in (-1.0, 0.2, 0.5, 1.0):
        share = impostor_tail.at_most(score)
        assert share is not None
        assert share >= impostor_tail.rate(score)
        assert decide(metadata, score, decide=True).one_in == int(1 / share)


def test_the_best_of_several_pairs_has_to_reach_a_higher_threshold(metadata: ModelMetadata) -> None:
    one, six = (decide(metadata, 0.9, far=0.06, comparisons=number) for number in (1, 6))
    assert six.threshold == decide(metadata, 0.9, far=0.01).threshold > one.threshold
    assert six.far is not None
    assert six.far <= 0.06
    assert "best of 6" in six.warnings[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sharpness": 9.0}, "blurred"),
        ({"size": 29.0}, "small"),
        ({"turn": 41.0}, "turned away"),
        ({"light": 0.1}, "dark"),
        ({"light": 0.9}, "bright"),
    ],
)
def test_a_face_unlike_those_that_were_measured_is_inconclusive(
    change: dict[str, float], word: str, metadata: ModelMetadata
) -> None:
    worse = face("b.jpg", GOOD._replace(**change))
    result = decide(metadata, 1.0, (face(), worse))
    assert result.same is None
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith("b.jpg: the face is ")
    assert word in result.reasons[0]
    assert decide(metadata, 1.0, (face(), worse), decide=True).same is True


def test_a_face_at_the_limits_is_no_reason_to_doubt() -> None:
    assert quality_complaints(Quality(10.0, 30.0, 40.0, 0.2, 0.0), RANGES) == []
    assert quality_complaints(Quality(10.0, None, None, 0.8, 0.0), RANGES) == []


def test_several_faces_and_turned_photos_are_told_of(metadata: ModelMetadata) -> None:
    result = decide(metadata, 1.0, (face(faces=3), face("b.jpg", rotated_by=31.25)))
    assert result.same is True
    assert result.warnings == (
        "a.jpg shows 3 faces, that from 1, 2 to 31, 42 was compared.",
        "b.jpg was rotated by 31 degrees for its face.",
    )


@pytest.mark.parametrize("far", [0.0, -1.0, 1.0, math.nan, math.inf])
def test_what_is_no_rate_is_refused(far: float, metadata: ModelMetadata) -> None:
    with pytest.raises(InputError, match=r"above 0 and at most 0\.5"):
        decide(metadata, 0.5, far=far)


def test_a_score_that_is_nan_is_refused(metadata: ModelMetadata) -> None:
    with pytest.raises(InputError, match="NaN"):
        decide(metadata, math.nan)


def test_rounding_never_leads_beyond_one(metadata: ModelMetadata) -> None:
    assert decide(metadata, 1.0000001).score == 1.0
    assert decide(metadata, -1.0000001, decide=True).score == -1.0


def test_a_measured_rate_has_the_threshold_that_was_counted(score_calibration: ScoreCalibration) -> None:
    point = OperatingPoint(0.01, 0.0099, 0.9, 0.123, False, 1000, 9)
    metadata = ModelMetadata(
        "mine", {}, InputSpec(4, crop=Crop("whole")), 16, (point,), score_calibration=score_calibration
    )
    limit = metadata.decision_threshold(0.01)
    assert (limit.threshold, limit.far) == (0.123, 0.0099)
    assert metadata.decision_threshold(0.005).threshold == score_calibration.impostor_tail.threshold(0.005)[0]


def test_one_in_a_thousand_is_the_default_where_it_was_measured_well() -> None:
    def point(far: float, insufficient: bool = False) -> OperatingPoint:
        return OperatingPoint(far, far, 0.9, 1 - far, insufficient, 10**6, 100)

    spec = InputSpec(4, crop=Crop("whole"))
    known = (point(1e-5), point(1e-3), point(1e-1))
    assert ModelMetadata("mine", {}, spec, 16, known).decision_threshold().far == 1e-3
    assert (
        ModelMetadata("mine", {}, spec, 16, (point(1e-3, True), point(1e-2), point(1e-1))).decision_threshold().far
        == 1e-2
    )


def test_without_the_strangers_scores_only_measured_rates_can_be_shared_among_pairs() -> None:
    def point(far: float) -> OperatingPoint:
        return OperatingPoint(far, far, 0.9, 1 - far, False, 10**6, 100)

    metadata = ModelMetadata("mine", {}, InputSpec(4, crop=Crop("whole")), 16, (point(1e-3), point(1e-2)))
    assert metadata.decision_threshold(1e-2, comparisons=10).threshold == 1 - 1e-3
    with pytest.raises(InputError, match="was measured: use"):
        metadata.decision_threshold(1e-3, comparisons=10)
    with pytest.raises(InputError, match="one comparison or more"):
        metadata.decision_threshold(1e-3, comparisons=0)


def test_a_stricter_rate_never_has_a_lower_threshold(score_calibration: ScoreCalibration) -> None:
    impostor_tail = score_calibration.impostor_tail
    points = tuple(
        OperatingPoint(far, far, 0.9, impostor_tail.threshold(far)[0] - 0.001, False, 1000, 9)
        for far in (0.3, 0.1, 0.01)
    )
    metadata = ModelMetadata(
        "mine", {}, InputSpec(4, crop=Crop("whole")), 16, points, score_calibration=score_calibration
    )
    limits = [metadata.decision_threshold(float(far)).threshold for far in np.geomspace(0.5, 0.001, 400)]
    assert limits == sorted(limits)


def test_the_best_of_several_pairs_is_less_rare(metadata: ModelMetadata) -> None:
    one, nine = (decide(metadata, 0.5, comparisons=number, decide=True) for number in (1, 9))
    assert one.one_in is not None
    assert nine.one_in == max(1, one.one_in // 9) or nine.one_in == pytest.approx(one.one_in / 9, abs=1)
    assert f"At most 1 in {nine.one_in:,} pairs of photos of different people" in nine.impostor_tail
    assert "there is no likelihood ratio, which is known of single pairs only" in nine.warnings[0]
    own = decide(metadata, 0.5, threshold=0.4, comparisons=9, decide=True)
    assert own.threshold == 0.4
    assert "your threshold does not allow for that" in own.warnings[0]


def test_no_rate_above_one_per_cent_is_taken_unasked() -> None:
    points = (OperatingPoint(0.1, 0.1, 0.9, 0.2, False, 400, 40), OperatingPoint(0.01, 0.01, 0.5, 0.6, True, 400, 4))
    known = (None, Interval(0.05, 0.2), Interval(0, 0.06), Interval(0, 0.05))
    tail = ImpostorTail((0.1, 0.2, 0.6, 0.7), (200, 40, 4, 0), 400, known)
    score_calibration = ScoreCalibration(Calibration("logistic", (0.0, 1.0), (-3.0, 3.0), 40, 400), tail)
    metadata = ModelMetadata(
        "few", {}, InputSpec(4, crop=Crop("whole")), 16, points, score_calibration=score_calibration
    )
    assert metadata.operating_point().target == 0.01
    assert decide(metadata, 0.9).same is None
    assert decide(metadata, 0.9, far=0.1).same is True
