"""A report as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.operating_points import equal_error_of
from siamese_verify.evaluation.roc import thinned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike
    from PIL.Image import Image

    from siamese_verify.evaluation.bootstrap import Difference
    from siamese_verify.evaluation.pages.figures import ReportFigure
    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve
    from siamese_verify.evaluation.score_file import PublishedCurve
    from siamese_verify.evaluation.score_statistics import HardPair

DIGITS = 7  # of the numbers that are drawn
THUMBNAIL = 176  # pixels, twice what is shown, for screens of high density


class MistakeCard(NamedTuple):
    """One of the worst pairs, ready to show."""

    pair: HardPair
    wrong: bool
    photos: list[str]  # two data URIs, or none
    caption: str


def percent(rate: float, digits: int = 2) -> str:
    """Write a rate in per cent, with more digits where it would otherwise read as zero."""
    while rate and digits < 6 and 100 * rate < 0.999 * 10**-digits:
        digits += 1
    return f"{100 * rate:.{digits}f}\u00a0%"  # a space that does not break the line


def number(value: Any) -> str:
    """Write a number for people; what is no float is shown as it is.

    A mapping with a `rate` is written in per cent, with its interval (`low`, `high`), its `standard_error`, or a star
    if it is `insufficient`.
    """
    if isinstance(value, Mapping) and "rate" in value:
        text = f"{value['rate']:.2%}" + ("*" if value.get("insufficient") else "")
        if value.get("standard_error") is not None:
            text += f" +- {value['standard_error']:.2%}"
        return text + (f" ({value['low']:.2%} to {value['high']:.2%})" if value.get("high") is not None else "")
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return "" if value is None else str(value)


def rate(value: float | None) -> str:
    """Write a rate that may not be known."""
    return "" if value is None else percent(value)


def interval(bounds: Interval | None) -> str:
    """Write an interval of rates."""
    return "" if bounds is None else f"{100 * bounds[0]:.2f} to {percent(bounds[1])}"


def span(bounds: Interval | None) -> str:
    """Write an interval of scores."""
    return "" if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"


def difference(value: tuple[float, Interval] | None) -> str:
    """Write a difference of rates with its interval, in percentage points."""
    if value is None:
        return ""
    shift, (low, high) = value
    return f"{100 * shift:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def shift(value: Difference) -> str:
    """Write a difference of rates with its interval, in percentage points."""
    return difference((value.value, Interval(value.low, value.high)))


def one_in(rate: float) -> str:
    """Say a rate as a chance: 0.001 as 1 in 1,000."""
    if rate <= 0:
        return "none"
    times = 1 / rate
    return f"1 in {round(times):,}" if math.isclose(times, round(times), rel_tol=1e-6) else percent(rate)


def data_uri(content: bytes, kind: str) -> str:
    """Pack a picture into the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(photo: Image) -> str:
    """Shrink a photo for the page, as a data URI."""
    small = photo.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return data_uri(content.getvalue(), "jpeg")


def _card(
    pair: HardPair,
    threshold: float,
    pictures: Callable[[int], tuple[Image, Image]] | None,
    captions: Callable[[int], str] | None,
) -> MistakeCard:
    photos: list[str] = []
    if pictures is not None:
        try:
            photos = [thumbnail(photo) for photo in pictures(pair.row)]
        except (InputError, OSError):
            photos = []  # a damaged photo should not cost the report
    caption = captions(pair.row) if captions is not None else f"pair {pair.row}"
    return MistakeCard(pair, pair.wrong(threshold), photos, caption)


def drawn(values: ArrayLike) -> list[float]:
    """Shorten numbers to what can be seen."""
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, dtype=np.float64)]


def curve_numbers(curve: RocCurve, name: str) -> dict[str, Any]:
    """Return what the page's script draws a curve from, as JSON types."""
    few = thinned(curve)
    return {
        "name": name,
        "genuine": curve.genuine,
        "impostors": curve.impostors,
        "eer": equal_error_of(curve).rate,
        "threshold": [float(f"{value:.9g}") for value in few.thresholds[1:]],
        "far": drawn(few.far[1:]),
        "frr": drawn(few.frr[1:]),
    }


def numbers_of(report: VerificationReport, name: str, published: Sequence[PublishedCurve]) -> dict[str, Any]:
    """Return what the page's script draws from, as JSON types."""
    low, high = float(report.curve.thresholds[-1]), float(report.curve.thresholds[1])
    return {
        "curves": [curve_numbers(report.curve, name)],
        "threshold": min(max(report.threshold, low), high),
        "slider": {"low": low, "high": high},
        "points": [
            {"target": point.target, "tar": point.tar, "insufficient": point.insufficient}
            for point in report.operating_points
        ],
        "histogram": {
            "edges": drawn(report.histogram.edges),
            "genuine": report.histogram.genuine.tolist(),
            "impostors": report.histogram.impostors.tolist(),
        },
        "published": [{"name": one.name, "far": drawn(one.far), "tar": drawn(one.tar)} for one in published],
        "folds": list(report.kfold.per_fold) if report.kfold else [],
        "reliability": [bin_._asdict() for bin_ in report.calibration.bins] if report.calibration else [],
        "robustness": [row._asdict() for row in report.robustness],
    }


def render_page(
    report: VerificationReport,
    figures: Sequence[ReportFigure],
    *,
    title: str,
    details: Mapping[str, Any],
    comparison: Sequence[Mapping[str, Any]],
    published: Sequence[PublishedCurve],
    pictures: Callable[[int], tuple[Image, Image]] | None,
    captions: Callable[[int], str] | None,
) -> str:
    """Return the page as HTML; `details` and `comparison` hold JSON types only, see `VerificationReport.save`."""
    kinds = [
        ("Impostors with the highest scores", "accepted", report.hardest.impostors),
        ("Genuine pairs with the lowest scores", "refused", report.hardest.genuine),
    ]
    return page_from(
        "report.html.j2",
        script="report.js",
        report=report,
        infinity=math.inf,
        title=title,
        plots=figures,
        numbers=numbers_of(report, title, published),
        pictures=pictures is not None,
        mistakes=[
            (heading, verdict, [_card(pair, report.threshold, pictures, captions) for pair in kind])
            for heading, verdict, kind in kinds
        ],
        details=details,
        columns=list(dict.fromkeys(column for row in comparison for column in row)),
        comparison=comparison,
    )


def page_from(template: str, *, script: str, **values: Any) -> str:
    """Fill a template of this package in; its script and the library that draws become part of the page."""
    environment = Environment(
        loader=PackageLoader("siamese_verify.evaluation.pages", package_path=""),
        autoescape=True,  # names of people and files may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, one_in, rate, interval, span, difference, shift, data_uri)
    environment.filters.update({one.__name__: one for one in filters})
    source, style = ((Path(__file__).parent / name).read_text(encoding="utf-8") for name in (script, "page.css"))
    return environment.get_template(template).render(plotly=get_plotlyjs(), script=source, style=style, **values)
