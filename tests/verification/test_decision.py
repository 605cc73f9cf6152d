"""decide: what a score means, from numbers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint, ScoreMeaning, calibrate
from siamese_verify.faces import Quality
from siamese_verify.types import Crop, InputSpec
from siamese_verify.verification.decision import complaints, decide, probability_of
from siamese_verify.verification.record import ModelRecord
from siamese_verify.verification.result import SeenFace

GOOD = Quality(sharpness=40.0, size=90.0, turn=10.0, light=0.5, contrast=0.2)
RANGES = {"sharpness": (10.0, None), "size": (30.0, None), "turn": (None, 40.0), "light": (0.2, 0.8)}


@pytest.fixture(scope="module")
def meaning() -> ScoreMeaning:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 5)
    rows = rng.normal(size=(60, 16))[people] + 0.8 * rng.normal(size=(300, 16))
    return calibrate(rows, people, "drawn people")


@pytest.fixture(scope="module")
def record(meaning: ScoreMeaning) -> ModelRecord:
    spec = InputSpec(4, crop=Crop("whole"))
    return ModelRecord("mine", {}, spec, 16, measured_on="drawn people", meaning=meaning, quality=dict(RANGES))


def face(name: str = "a.jpg", quality: Quality = GOOD, faces: int = 1, turned: int = 0) -> SeenFace:
    return SeenFace(name, np.zeros((4, 4, 3), np.uint8), quality, faces=faces, turned=turned)


@pytest.mark.parametrize("far", [0.3, 0.1, 0.01, 0.001])
def test_the_share_of_impostors_above_the_threshold_is_within_the_rate(far: float, record: ModelRecord) -> None:
    result = decide(record, 0.9, far=far)
    assert record.meaning is not None
    accepted = record.meaning.strangers.accepts(result.threshold)
    assert result.far == accepted / record.meaning.strangers.impostors <= far
    assert result.insufficient == (far * record.meaning.strangers.impostors < 10)


def test_a_score_inside_of_the_thresholds_interval_is_inconclusive(record: ModelRecord) -> None:
    clear = decide(record, 1.0, far=0.01)
    assert clear.same is True
    assert clear.threshold_interval is not None
    low, high = clear.threshold_interval
    assert low <= clear.threshold <= high
    for score, same in ((low, None), (np.nextafter(low, -2), False), (np.nextafter(high, -2), None), (high, True)):
        result = decide(record, float(score), far=0.01)
        assert result.same is same
        assert (len(result.reasons) == 1) == (same is None)


def test_whoever_forces_a_decision_gets_one_and_the_doubts_as_warnings(record: ModelRecord) -> None:
    doubtful = decide(record, decide(record, 0, far=0.01).threshold, far=0.01)
    forced = decide(record, doubtful.score, far=0.01, forced=True)
    assert (doubtful.same, forced.same, forced.reasons) == (None, True, ())
    assert forced.warnings[: len(doubtful.reasons)] == doubtful.reasons


@pytest.mark.parametrize("far", [0.3, 0.1, 0.01])
def test_a_probability_always_fits_the_threshold_that_was_asked_for(far: float, record: ModelRecord) -> None:
    limit = decide(record, 0, far=far).threshold
    for score in np.linspace(-1, 1, 201):
        result = decide(record, float(score), far=far, forced=True)
        assert result.probability is not None
        assert 0 <= result.probability <= 1
        assert result.probability >= 0.5 if result.same else result.probability <= 0.5
    assert decide(record, limit, far=far).probability == 0.5
    own = [decide(record, score, threshold=0.3, forced=True).probability or 0.0 for score in (0.2, 0.3, 0.4)]
    assert own[0] <= 0.5 == own[1] <= own[2]


def test_the_probability_is_that_of_the_evidence_less_the_evidence_at_the_threshold(meaning: ScoreMeaning) -> None:
    ratio = meaning.calibration.log_likelihood_ratio([0.5, 0.2])
    assert probability_of(meaning, 0.5, 0.2) == pytest.approx(1 / (1 + math.exp(ratio[1] - ratio[0])), rel=1e-12)
    assert decide_evidence(meaning, 0.5) == ratio[0]


def decide_evidence(meaning: ScoreMeaning, score: float) -> float | None:
    record = ModelRecord("mine", {}, InputSpec(4, crop=Crop("whole")), 16, meaning=meaning)
    return decide(record, score, threshold=0.0).evidence


def test_a_stranger_scores_as_high_once_in_so_many(record: ModelRecord) -> None:
    assert record.meaning is not None
    strangers = record.meaning.strangers
    for score in (-1.0, 0.2, 0.5, 1.0):
        accepted = strangers.accepts(score)
        assert decide(record, score, forced=True).one_in == strangers.impostors // max(accepted, 1)


def test_the_best_of_several_pairs_has_to_reach_a_higher_threshold(record: ModelRecord) -> None:
    one, six = (decide(record, 0.9, far=0.06, comparisons=number) for number in (1, 6))
    assert six.threshold == decide(record, 0.9, far=0.01).threshold > one.threshold
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
    change: dict[str, float], word: str, record: ModelRecord
) -> None:
    worse = face("b.jpg", GOOD._replace(**change))
    result = decide(record, 1.0, (face(), worse))
    assert result.same is None
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith("b.jpg: the face is ")
    assert word in result.reasons[0]
    assert decide(record, 1.0, (face(), worse), forced=True).same is True


def test_a_face_at_the_limits_is_no_reason_to_doubt() -> None:
    assert complaints(Quality(10.0, 30.0, 40.0, 0.2, 0.0), RANGES) == []
    assert complaints(Quality(10.0, None, None, 0.8, 0.0), RANGES) == []


def test_several_faces_and_turned_photos_are_told_of(record: ModelRecord) -> None:
    result = decide(record, 1.0, (face(faces=3), face("b.jpg", turned=90)))
    assert result.same is True
    assert result.warnings == (
        "a.jpg shows 3 faces, one of them was compared.",
        "b.jpg was turned by 90 degrees to find its face.",
    )


@pytest.mark.parametrize("far", [0.0, -1.0, 1.0, math.nan, math.inf])
def test_what_is_no_rate_is_refused(far: float, record: ModelRecord) -> None:
    with pytest.raises(InputError, match=r"above 0 and up to 0\.5"):
        decide(record, 0.5, far=far)


def test_a_score_that_is_nan_is_refused(record: ModelRecord) -> None:
    with pytest.raises(InputError, match="NaN"):
        decide(record, math.nan)


def test_rounding_never_leads_beyond_one(record: ModelRecord) -> None:
    assert decide(record, 1.0000001).score == 1.0
    assert decide(record, -1.0000001, forced=True).score == -1.0


def test_a_measured_rate_has_the_threshold_that_was_counted(meaning: ScoreMeaning) -> None:
    point = OperatingPoint(0.01, 0.0099, 0.9, 0.123, False, 1000, 9)
    record = ModelRecord("mine", {}, InputSpec(4, crop=Crop("whole")), 16, (point,), meaning=meaning)
    limit = record.limit(0.01)
    assert (limit.threshold, limit.far) == (0.123, 0.0099)
    assert record.limit(0.005).threshold == meaning.strangers.threshold(0.005)[0]


def test_one_in_a_thousand_is_the_default_where_it_was_measured_well() -> None:
    def point(far: float, insufficient: bool = False) -> OperatingPoint:
        return OperatingPoint(far, far, 0.9, 1 - far, insufficient, 10**6, 100)

    spec = InputSpec(4, crop=Crop("whole"))
    known = (point(1e-5), point(1e-3), point(1e-1))
    assert ModelRecord("mine", {}, spec, 16, known).limit().far == 1e-3
    assert ModelRecord("mine", {}, spec, 16, (point(1e-3, True), point(1e-2), point(1e-1))).limit().far == 1e-2


def test_without_the_strangers_scores_only_measured_rates_can_be_shared_among_pairs() -> None:
    def point(far: float) -> OperatingPoint:
        return OperatingPoint(far, far, 0.9, 1 - far, False, 10**6, 100)

    record = ModelRecord("mine", {}, InputSpec(4, crop=Crop("whole")), 16, (point(1e-3), point(1e-2)))
    assert record.limit(1e-2, comparisons=10).threshold == 1 - 1e-3
    with pytest.raises(InputError, match="was measured: use"):
        record.limit(1e-3, comparisons=10)
    with pytest.raises(InputError, match="one comparison or more"):
        record.limit(1e-3, comparisons=0)


def test_a_stricter_rate_never_has_a_lower_threshold(meaning: ScoreMeaning) -> None:
    strangers = meaning.strangers
    points = tuple(
        OperatingPoint(far, far, 0.9, strangers.threshold(far)[0] - 0.001, False, 1000, 9) for far in (0.3, 0.1, 0.01)
    )
    record = ModelRecord("mine", {}, InputSpec(4, crop=Crop("whole")), 16, points, meaning=meaning)
    limits = [record.limit(float(far)).threshold for far in np.geomspace(0.5, 0.001, 400)]
    assert limits == sorted(limits)


def test_the_best_of_several_pairs_is_less_rare(record: ModelRecord) -> None:
    one, nine = (decide(record, 0.5, comparisons=number, forced=True) for number in (1, 9))
    assert one.one_in is not None
    assert nine.one_in == max(1, one.one_in // 9) or nine.one_in == pytest.approx(one.one_in / 9, abs=1)
    own = decide(record, 0.5, threshold=0.4, comparisons=9, forced=True)
    assert own.threshold == 0.4
    assert "your threshold does not allow for that" in own.warnings[0]
