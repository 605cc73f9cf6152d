from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siamese_verify.verification.picture import draw_scores, histogram_of

HISTOGRAM = {"edges": [-0.5, 0.0, 0.5, 1.0], "genuine": [0, 5, 95], "impostors": [5000, 4900, 100]}


def test_the_histogram_of_a_record_is_shares_of_each_kind() -> None:
    found = histogram_of(SimpleNamespace(score_calibration=None, metrics={"histogram": HISTOGRAM}))
    assert found is not None
    assert found.genuine.tolist() == [0, 0.05, 0.95]
    assert found.impostors.tolist() == [0.5, 0.49, 0.01]
    assert found.edges.tolist() == HISTOGRAM["edges"]


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [0, 1]},
        {"edges": [0, 1, 1, 2]},
        {"genuine": [0, 0, 0]},
        {"impostors": "many"},
        {"impostors": None},
        {"genuine": [[1], [2], [3]]},
        {"genuine": [1, -1, 5]},
        {"edges": [0, 1, 2, float("nan")]},
    ],
)
def test_an_unsound_histogram_is_not_drawn(change: dict[str, Any]) -> None:
    assert histogram_of(SimpleNamespace(score_calibration=None, metrics={"histogram": {**HISTOGRAM, **change}})) is None


def test_a_record_without_a_histogram_has_none() -> None:
    assert histogram_of(SimpleNamespace(score_calibration=None, metrics={})) is None


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.55, 0.8, 0.97])
def test_the_labels_of_score_and_threshold_never_overlap(threshold: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for score in np.linspace(-0.5, 1, 16):
        figure = Figure(figsize=(11, 2.5))
        axes = figure.add_axes((0.08, 0.25, 0.88, 0.5))
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        shown = SimpleNamespace(
            score=float(score), threshold=threshold, threshold_interval=(threshold - 0.01, threshold + 0.01), same=True
        )
        draw_scores(axes, shown, SimpleNamespace(score_calibration=None, metrics={"histogram": HISTOGRAM}))  # type: ignore[arg-type]
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(boxes) == 2
        assert not boxes[0].overlaps(boxes[1])
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
