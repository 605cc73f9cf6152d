from __future__ import annotations

from typing import Any

import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.models import ModelMetadata, training_of
from siamese_verify.models.metadata import model_card, stages_in_words
from siamese_verify.structures import InputSpec


def point(far: float, threshold: float, insufficient: bool = False) -> OperatingPoint:
    return OperatingPoint(far, far / 2, 0.9, threshold, insufficient, 1000, round(500 * far))


def metadata_with(*points: OperatingPoint, name: str = "mine") -> ModelMetadata:
    return ModelMetadata(name, {}, InputSpec(16), 128, points)


def test_the_strictest_rate_with_enough_impostors_is_the_default() -> None:
    points = [point(1e-2, 0.5), point(1e-3, 0.7, insufficient=True), point(1e-1, 0.3)]
    assert metadata_with(*points).operating_point() == points[0]


@pytest.mark.parametrize("enough", [False, True])
def test_one_per_cent_is_the_default_where_no_stricter_rate_has_enough_impostors(enough: bool) -> None:
    points = [point(1e-2, 0.5, insufficient=True), point(1e-1, 0.3, insufficient=not enough)]
    assert metadata_with(*points).operating_point() == points[0]


def test_a_rate_is_found_whatever_its_rounding() -> None:
    points = [point(1e-1, 0.3), point(1e-2, 0.5)]
    assert metadata_with(*points).operating_point(1 / 100) == points[1]
    assert metadata_with(*points).operating_point(0.3 - 0.2) == points[0]


@pytest.mark.parametrize("far", [0.05, 0.0, -0.1, 2.0, float("nan")])
def test_a_rate_that_was_not_measured_is_an_error_that_lists_those_that_were(far: float) -> None:
    with pytest.raises(InputError, match=r"was measured: use 0\.01, 0\.1\."):
        metadata_with(point(1e-1, 0.3), point(1e-2, 0.5)).operating_point(far)


def test_a_model_without_thresholds_says_the_two_ways_out() -> None:
    with pytest.raises(InputError, match=r"No threshold of vggface2.*--threshold.*evaluate model=vggface2"):
        metadata_with(name="vggface2").operating_point()


HISTOGRAM = {"edges": [-0.5, 0.0, 0.5, 1.0], "genuine": [0, 5, 95], "impostors": [5000, 4900, 100]}


def histogram_in(**metrics: Any) -> Any:
    return ModelMetadata("mine", {}, InputSpec(16), 128, metrics=metrics).histogram


def test_the_histogram_is_shares_of_each_kind() -> None:
    found = histogram_in(histogram=HISTOGRAM)
    assert found.genuine.tolist() == [0, 0.05, 0.95]
    assert found.impostors.tolist() == [0.5, 0.49, 0.01]
    assert found.edges.tolist() == HISTOGRAM["edges"]


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [0, 1]},
        {"edges": [0, 1, 1, 2]},
        {"edges": 0},
        {"edges": [0, 1, 2, float("inf")]},
        {"edges": [0, 1, 2, float("nan")]},
        {"genuine": [0, 0, 0]},
        {"genuine": [[1], [2], [3]]},
        {"genuine": [1, -1, 5]},
        {"impostors": "many"},
        {"impostors": None},
    ],
)
def test_an_invalid_histogram_is_none(change: dict[str, Any]) -> None:
    assert histogram_in(histogram={**HISTOGRAM, **change}) is None


def test_a_model_without_a_histogram_has_none() -> None:
    assert histogram_in() is None


def test_the_stages_of_a_training_are_told_by_method_or_loss_and_data() -> None:
    first = {"method": "SimCLR", "loss": "NTXentLoss", "data": "web", "seconds": 90.0, "command": "train a='b|c'"}
    settings = {
        "data": {"name": "lfw"},
        "loss": {"_target_": "siamese_verify.losses.TripletLoss"},
        "method": None,
        "earlier_stages": [first],
    }
    training = training_of(settings)
    assert training["data"] == "lfw"
    assert training["stages"] == [first, {"method": "supervised", "loss": "TripletLoss", "data": "lfw"}]
    assert stages_in_words(training) == "SimCLR on web, then TripletLoss on lfw"
    method = {**settings, "method": {"_target_": "siamese_verify.methods.SimSiam"}, "loss": None, "earlier_stages": []}
    assert stages_in_words(training_of(method)) == "SimSiam on lfw"
    card = model_card(ModelMetadata("mine", {}, InputSpec(16), 128, training=training), {})
    assert "| stages of training | SimCLR on web, then TripletLoss on lfw |" in card
    assert "| web |  |  | 1.5 | `train a='b\\|c'` |" in card


@pytest.mark.parametrize("training", [{}, {"data": "lfw", "pretrained": None}, {"stages": "many"}, {"stages": [3]}])
def test_a_model_without_stages_has_none_in_its_card(training: dict[str, Any]) -> None:
    assert stages_in_words(training) == ""
    assert "stages" not in model_card(ModelMetadata("mine", {}, InputSpec(16), 128, training=training), {})
