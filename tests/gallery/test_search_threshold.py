from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ImpostorTail
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel, search_threshold

TAIL = ImpostorTail((0.1, 0.3, 0.5, 0.7, 0.9), (5000, 1000, 100, 10, 0), 10_000)


@pytest.mark.parametrize(
    ("far", "templates", "threshold", "insufficient"),
    [
        (0.1, 1, 0.3, False),
        (0.1, 10, 0.5, False),
        (0.1, 11, 0.7, False),
        (0.1, 100, 0.7, False),  # ten impostors decide
        (0.1, 101, 0.9, True),
        (0.01, 100, 0.9, True),
        (0.5, 1, 0.1, False),
    ],
)
def test_the_rate_of_a_search_is_shared_among_its_comparisons(
    far: float, templates: int, threshold: float, insufficient: bool
) -> None:
    found = search_threshold(TAIL, far, templates)
    assert (found.threshold, found.insufficient, found.far) == (threshold, insufficient, far)
    assert bool(found.reason) == insufficient


@pytest.mark.parametrize(
    ("templates", "far"), [(1, 1e-3), (2, 1e-2), (10, 1e-2), (11, 1e-2), (100, 1e-2), (10**6, 1e-2)]
)
def test_the_default_rate_is_the_strictest_that_was_measured_well(templates: int, far: float) -> None:
    assert search_threshold(TAIL, None, templates).far == far


def test_a_threshold_never_falls_as_a_gallery_grows() -> None:
    thresholds = [search_threshold(TAIL, 0.05, templates).threshold for templates in range(1, 2000)]
    assert thresholds == sorted(thresholds)


def test_what_was_not_measured_is_said_with_what_was() -> None:
    reason = search_threshold(TAIL, 0.01, 100).reason
    assert "0.0001 for each comparison, which 10,000 impostor pairs cannot show: nothing stricter than 0.1" in reason
    assert "no rate is for so many templates" in search_threshold(TAIL, 0.01, 100_000).reason


@pytest.mark.parametrize("far", [0, -1, 0.51, 1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(far: float) -> None:
    with pytest.raises(InputError, match=r"must lie in \(0, 0\.5\]"):
        search_threshold(TAIL, far, 10)


def test_no_templates_have_no_threshold() -> None:
    with pytest.raises(InputError, match="enroll a person"):
        search_threshold(TAIL, 0.1, 0)


def test_strangers_are_named_no_more_often_than_was_asked_for(path: Path, model: GalleryModel, key: GalleryKey) -> None:
    rng = np.random.default_rng(11)
    far, searches = 0.1, 3000
    with Gallery.open(path, model, key=key) as gallery:
        for person in range(40):  # three templates each that do not resemble one another: the most chances
            gallery.enroll_embeddings(f"P{person}", rng.normal(size=(3, model.embedding_size)), compare=False)
        limit = gallery.identify_embedding(rng.normal(size=model.embedding_size), far=far).threshold
        named = sum(
            gallery.identify_embedding(probe, threshold=limit).name is not None
            for probe in rng.normal(size=(searches, model.embedding_size))
        )
    spread = 3 * np.sqrt(far * (1 - far) / searches)
    assert named / searches <= far + spread
    assert named / searches >= 0.06, "and the threshold is not stricter than it has to be"
