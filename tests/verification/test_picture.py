from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.evaluation.pages.rendering import LIGHT
from siamese_verify.faces import Quality
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification.decision import DetectedFace, Verification
from siamese_verify.verification.explanation import OPPOSES, SUPPORTS, Explanation, explain
from siamese_verify.verification.picture import draw_scores, draw_verification, shortened
from siamese_verify.verification.verifier import Verifier

GREEN, PINK = (10, 200, 40), (250, 120, 200)
HISTOGRAM = {"edges": [-0.5, 0.0, 0.5, 1.0], "genuine": [0, 5, 95], "impostors": [5000, 4900, 100]}


def model_with(metrics: dict[str, Any]) -> ModelMetadata:
    return ModelMetadata("mine", {}, InputSpec(32, crop=Crop("whole")), 8, metrics=metrics)


MODEL = model_with({"histogram": HISTOGRAM})


def seen(name: str = "photo 1", **settings: Any) -> DetectedFace:
    crop = np.full((32, 32, 3), PINK, dtype=np.uint8)
    return DetectedFace(name, crop, Quality(100.0, 50.0, 3.0, 0.5, 0.2), **settings)


def decision(same: bool | None = True, score: float = 0.7, **settings: Any) -> Verification:
    given: dict[str, Any] = {
        "same": same,
        "score": score,
        "threshold": 0.4,
        "threshold_interval": (0.38, 0.43),
        "far": 1e-3,
        "one_in": 5000,
        "log_likelihood_ratio": 4.0,
        "probability": 0.9,
        "prior": 0.5,
        "impostors": 10_000,
        "insufficient": False,
        "measured_on": "nobody",
        "model": "mine",
        "impostor_tail": "At most 1 in 5,000 pairs of different people would score this high (95 % confidence).",
        "faces": (seen(), seen("photo 2")),
    }
    return Verification(**{**given, **settings})


def green(width: int = 200, height: int = 200) -> Image.Image:
    return Image.new("RGB", (width, height), GREEN)


def where(image: Image.Image, color: tuple[int, ...] | str, slack: int = 0) -> np.ndarray:
    """(H,W) where a picture has a color."""
    wanted = np.array(ImageColor.getrgb(color) if isinstance(color, str) else color)
    return np.asarray((np.abs(np.asarray(image).astype(int) - wanted) <= slack).all(axis=2))


@pytest.mark.parametrize(("same", "color"), [(True, LIGHT.genuine), (False, LIGHT.impostor), (None, LIGHT.ink)])
def test_the_headline_has_the_color_of_the_decision(same: bool | None, color: str) -> None:
    drawn = draw_verification(decision(same), (green(), green()), MODEL)
    assert (drawn.mode, drawn.width) == ("RGB", 1650)
    headline = {kind: int(where(drawn, kind)[:85].sum()) for kind in (LIGHT.genuine, LIGHT.impostor, LIGHT.ink)}
    assert headline[color] > 500
    assert sum(headline.values()) == headline[color]


def test_both_photos_and_both_faces_are_there_and_as_large_as_they_may_be() -> None:
    drawn = draw_verification(decision(), (green(300, 200), green(200, 300)), MODEL)
    halves = np.split(where(drawn, GREEN), 2, axis=1)
    shapes = []
    for half in halves:
        rows, columns = np.flatnonzero(half.any(axis=1)), np.flatnonzero(half.any(axis=0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert half[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.98
        shapes.append((width, height))
    assert shapes[0][0] / shapes[0][1] == pytest.approx(1.5, abs=0.03)
    assert shapes[1][0] / shapes[1][1] == pytest.approx(2 / 3, abs=0.03)
    assert max(shapes[0]) == pytest.approx(max(shapes[1]), abs=4)
    for half in np.split(where(drawn, PINK), 2, axis=1):
        assert half.sum() == pytest.approx((2.2 * 150) ** 2, rel=0.03)


def test_the_box_lies_where_the_face_was_found() -> None:
    face = seen(box=(50.0, 100.0, 100.0, 180.0))
    drawn = draw_verification(decision(faces=(face, seen())), (green(), green()), MODEL)
    left = where(drawn, GREEN)[:, :825]
    rows, columns = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
    inside = ~left[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ys, xs = np.nonzero(inside[4:-4, 4:-4])
    scale = len(inside) / 200
    found = np.array([xs.min(), ys.min(), xs.max(), ys.max()]) + 4
    np.testing.assert_allclose(found / scale, [50, 100, 100, 180], atol=4)
    other = ~where(drawn, GREEN)[rows[0] + 4 : rows[-1] - 3, 825:]
    assert other[:, columns[0] + 30 : columns[-1] - 30].sum() < inside.sum()


def test_a_photo_is_turned_as_its_face_was_found() -> None:
    lying = np.zeros((100, 100, 3), dtype=np.uint8)
    lying[:, 50:] = GREEN  # its right half, which is its upper half once it is turned counter-clockwise
    drawn = draw_verification(decision(faces=(seen(rotated_by=90), seen())), (lying, green()), MODEL)
    there = where(drawn, GREEN)[:, :825]
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    assert (columns[-1] - columns[0]) == pytest.approx(2 * (rows[-1] - rows[0]), rel=0.05)
    below = np.asarray(drawn)[rows[-1] + 20, columns[0] + 20]
    assert below.tolist() == [0, 0, 0]


def test_an_explanation_adds_both_maps_on_one_scale() -> None:
    strong, weak = np.full((4, 4), 0.3), np.full((4, 4), -0.3)
    drawn = draw_verification(decision(), (green(), green()), MODEL, Explanation(strong, weak, 0.7))
    assert drawn.height > draw_verification(decision(), (green(), green()), MODEL).height
    side = int(1.72 * 150)
    for half, color in ((drawn.crop((0, 0, 825, 800)), SUPPORTS), (drawn.crop((825, 0, 1650, 800)), OPPOSES)):
        assert where(half, color, slack=75).sum() > 0.9 * side * side


def test_the_same_decision_gives_the_same_picture() -> None:
    one, other = (draw_verification(decision(), (green(), green()), MODEL) for _ in range(2))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("metrics", [{"histogram": HISTOGRAM}, {}], ids=["histogram", "bare axis"])
def test_the_score_and_the_threshold_are_on_whatever_scale_there_is(metrics: Any) -> None:
    metadata = model_with(metrics)
    drawn = draw_verification(decision(False, 0.1), (green(), green()), metadata)
    chart = where(drawn, LIGHT.impostor)[drawn.height - 330 :]
    columns = chart.sum(axis=0)
    assert columns.max() > 60  # the upright line at the score
    ink = where(drawn, LIGHT.ink)[drawn.height - 330 :].sum(axis=0)
    assert ink.max() > 30  # the dashed one at the threshold
    assert np.argmax(columns) < np.argmax(ink)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": float("inf"), "threshold_interval": None},
        {"threshold": -1.0, "threshold_interval": None, "score": -1.0},
        {"score": 1.0, "threshold": 1.0},
        {"threshold_interval": (0.38, float("inf"))},
        {"threshold_interval": (-0.9, 0.99)},
        {"probability": None, "log_likelihood_ratio": None, "one_in": None, "impostor_tail": "", "measured_on": ""},
        {"warnings": ("A warning that goes on and on. " * 20,), "reasons": ("One.", "Two.")},
        {"probability": 1e-9},
    ],
)
def test_extremes_are_drawn_without_a_warning(settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metadata in (MODEL, model_with({})):
            assert draw_verification(decision(**settings), (green(), green()), metadata).width == 1650


@pytest.mark.parametrize(
    "name", ["$x^2$ $", "写真 " * 40, "a\nb\tc", "\U0001f600.jpg", "\\alpha_{", "x" * 250, "e\u0301 Ж א", "%s {} %"]
)
def test_names_of_any_kind_are_drawn_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decision(faces=(seen(name), seen()), warnings=(name,), model=name)
        assert draw_verification(result, (green(), green()), MODEL).width == 1650


def test_a_long_name_stays_over_its_own_photo() -> None:
    for name in ("W" * 300, "真" * 300):
        short, long = (
            draw_verification(decision(faces=(seen(one), seen("photo 2"))), (green(), green()), MODEL)
            for one in ("photo 1", name)
        )
        np.testing.assert_array_equal(np.asarray(short)[:, 840:], np.asarray(long)[:, 840:])


def test_every_form_of_a_photo_is_drawn_alike(tmp_path: Path) -> None:
    path = tmp_path / "photo 1"
    green().save(path, "PNG")
    whole = draw_verification(decision(), (green(), green()), MODEL).tobytes()
    for photo in (path, str(path), path.read_bytes(), np.asarray(green())):
        assert draw_verification(decision(), (photo, green()), MODEL).tobytes() == whole


def test_a_photo_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="photo 1"):
        draw_verification(decision(), (tmp_path / "gone.jpg", green()), MODEL)


def test_a_large_photo_is_scaled_down() -> None:
    face = seen(box=(0.0, 0.0, 5000.0, 4000.0))
    result = dataclasses.replace(decision(), faces=(face, seen()))
    drawn = draw_verification(result, (green(5000, 4000), green()), MODEL)
    assert where(drawn, GREEN)[:, :825].sum() > 50_000


def test_a_real_verifier_explains_and_is_drawn() -> None:
    weights = np.random.default_rng(0).standard_normal((32 * 32 * 3, 8))

    def engine(crops: np.ndarray) -> np.ndarray:
        return np.asarray((crops.reshape(len(crops), -1) - 127.5) @ weights, dtype=np.float32)

    points = (OperatingPoint(0.001, 0.001, 0.5, 0.4, False, 10_000, 10),)
    metadata = ModelMetadata("mine", {}, InputSpec(32, crop=Crop("whole")), 8, points, metrics=MODEL.metrics)
    verifier = Verifier(metadata, engine)
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    result = verifier.verify(noise, green())
    explanation = explain(verifier.embed_crops, result.faces[0], result.faces[1])
    assert explanation.score == pytest.approx(result.score, abs=1e-6)
    drawn = draw_verification(result, (noise, green()), metadata, explanation)
    assert where(drawn, GREEN).sum() > 50_000


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
        draw_scores(axes, shown, model_with({"histogram": HISTOGRAM}))  # type: ignore[arg-type]
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(boxes) == 2
        assert not boxes[0].overlaps(boxes[1])
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("most", [1, 2, 5, 10, 11])
def test_a_shortened_name_keeps_both_ends_within_its_width(most: int) -> None:
    name = "abcdefghijklmnop.jpg"
    found = shortened(name, most)
    start, end = found.split("…")
    assert len(found) == most
    assert name.startswith(start)
    assert name.endswith(end)
    assert abs(len(start) - len(end)) <= 1
    assert shortened(name, len(name)) == name
