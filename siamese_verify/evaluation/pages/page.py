"""Reports and comparisons as self-contained HTML pages: no network, no other file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.pages.definitions import definitions_for
from siamese_verify.evaluation.pages.figures import comparison_figures
from siamese_verify.evaluation.roc import downsample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from siamese_verify.evaluation.all_pairs_comparison import EqualErrorComparison
    from siamese_verify.evaluation.base_report import LeftOut, Report
    from siamese_verify.evaluation.bootstrap import Difference
    from siamese_verify.evaluation.cases import CaseComparison
    from siamese_verify.evaluation.comparison import ScoreComparison
    from siamese_verify.evaluation.differentials import GroupDifferentials
    from siamese_verify.evaluation.pages.rendering import ReportFigure
    from siamese_verify.evaluation.report import VerificationReport
    from siamese_verify.evaluation.roc import RocCurve
    from siamese_verify.evaluation.score_statistics import HardPair

LEFT_OUT = 24  # photos without a face that a page shows
THUMBNAIL = 176  # pixels, twice what is shown, for screens of high density


class PairCard(NamedTuple):
    """One of the hardest pairs, ready to show."""

    pair: HardPair
    wrong: bool
    photos: list[str]  # two data URIs, or none
    caption: str


def percent(rate: float, digits: int = 2) -> str:
    """Return a rate in percent, with more digits where it would otherwise read as zero."""
    while rate and digits < 6 and 100 * rate < 0.999 * 10**-digits:
        digits += 1
    return f"{100 * rate:.{digits}f}\u00a0%"  # a space that does not break the line


def number(value: Any) -> str:
    """Return a number as text; other values as they are.

    A mapping with a `rate` is given in percent, with its interval (`low`, `high`), its `standard_error`, and a star
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
    """Return a rate in percent, "" for None."""
    return "" if value is None else percent(value)


def interval(bounds: Interval | None) -> str:
    """Return an interval of rates in percent, "" for None."""
    return "" if bounds is None else f"{100 * bounds[0]:.2f} to {percent(bounds[1])}"


def span(bounds: Interval | None) -> str:
    """Return an interval of scores, "" for None."""
    return "" if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"


def difference(value: tuple[float, Interval] | None) -> str:
    """Return a difference of rates with its interval, in percentage points."""
    if value is None:
        return ""
    shift, (low, high) = value
    return f"{100 * shift:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def shift(value: Difference) -> str:
    """Return a `Difference` of rates as `difference` does."""
    return difference((value.value, Interval(value.low, value.high)))


def one_in(rate: float) -> str:
    """Return a rate as a chance: 0.001 as 1 in 1,000."""
    if rate <= 0:
        return "none"
    times = 1 / rate
    return f"1 in {round(times):,}" if math.isclose(times, round(times), rel_tol=1e-6) else percent(rate)


def data_uri(content: bytes, kind: str) -> str:
    """Return a picture as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(photo: Image) -> str:
    """Return a small copy of a photo as a data URI."""
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
) -> PairCard:
    photos: list[str] = []
    if pictures is not None:
        try:
            photos = [thumbnail(photo) for photo in pictures(pair.row)]
        except (InputError, OSError):
            photos = []  # a damaged photo should not cost the report
    caption = captions(pair.row) if captions is not None else f"pair {pair.row}"
    return PairCard(pair, pair.wrong(threshold), photos, caption)


def _left_out_cards(left_out: Sequence[LeftOut]) -> list[tuple[str, str, str]]:
    """Name, reason and picture of the first photos that were left out."""
    found = []
    for one in left_out[:LEFT_OUT]:
        try:
            photo = thumbnail(one.photo())
        except (InputError, OSError):
            photo = ""
        found.append((one.name, one.reason, photo))
    return found


def _heat(found: GroupDifferentials) -> list[tuple[str, list[tuple[float | None, int]]]]:
    """Rows of a heat map of false match rates: each rate, None without pairs, and its shade in percent."""
    rates = found.matrix()
    positive = rates[np.isfinite(rates) & (rates > 0)]
    lowest, highest = (math.log(positive.min()), math.log(positive.max())) if len(positive) else (0.0, 0.0)

    def shade(rate: float) -> int:
        if not rate > 0:
            return 0
        return round(10 + 60 * (math.log(rate) - lowest) / (highest - lowest)) if highest > lowest else 30

    return [
        (name, [(None if math.isnan(rate) else rate, shade(rate)) for rate in row])
        for name, row in zip(found.groups, rates.tolist(), strict=True)
    ]


def curve_numbers(curve: RocCurve, name: str) -> dict[str, Any]:
    """Return what the page's script reads off a curve, as JSON types."""
    few = downsample(curve)
    return {
        "name": name,
        "genuine": curve.genuine,
        "impostors": curve.impostors,
        "threshold": [float(f"{value:.7g}") for value in few.thresholds[1:]],
        "false_accepts": few.false_accepts[1:].tolist(),
        "true_accepts": few.true_accepts[1:].tolist(),
    }


def render_report(
    report: VerificationReport,
    figures: Sequence[ReportFigure],
    *,
    title: str,
    details: Mapping[str, Any],
    comparison: Sequence[Mapping[str, Any]],
    pictures: Callable[[int], tuple[Image, Image]] | None,
    captions: Callable[[int], str] | None,
    left_out: Sequence[LeftOut] = (),
) -> str:
    """Return the page of a report; `details` and `comparison` hold JSON types, see `VerificationReport.save`."""
    kinds = [
        ("Impostors with the highest scores", "accepted", report.hardest.impostors),
        ("Genuine pairs with the lowest scores", "rejected", report.hardest.genuine),
    ]
    low, high = float(report.curve.thresholds[-1]), float(report.curve.thresholds[1])
    return fill_template(
        "report.html.j2",
        report=report,
        infinity=math.inf,
        definitions=definitions_for(report),
        heat=_heat(report.differentials) if report.differentials else [],
        title=title,
        left_out=_left_out_cards(left_out),
        left_out_total=len(left_out),
        plots=figures,
        slider={"low": low, "high": high, "value": min(max(report.threshold, low), high)},
        numbers={"curves": [curve_numbers(report.curve, title)], "axes": {one.name: one.axes for one in figures}},
        pictures=pictures is not None,
        hardest=[
            (heading, verdict, [_card(pair, report.threshold, pictures, captions) for pair in kind])
            for heading, verdict, kind in kinds
        ],
        details=details,
        columns=list(dict.fromkeys(column for row in comparison for column in row)),
        comparison=comparison,
    )


def render_measures(
    report: Report,
    figures: Sequence[ReportFigure],
    *,
    title: str,
    details: Mapping[str, Any],
    comparison: Sequence[Mapping[str, Any]],
    left_out: Sequence[LeftOut] = (),
) -> str:
    """Return the page of a report of headline numbers and tables; `details` and `comparison` hold JSON types."""
    lead, tiles, tables = report.content()
    return fill_template(
        "measures.html.j2",
        report=report,
        title=title,
        left_out=_left_out_cards(left_out),
        left_out_total=len(left_out),
        lead=lead,
        tiles=tiles,
        tables=tables,
        plots=figures,
        details=details,
        columns=list(dict.fromkeys(column for row in comparison for column in row)),
        comparison=comparison,
    )


def render_comparison(
    figures: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, RocCurve],
    sentences: Sequence[str],
    tests: Sequence[ScoreComparison],
    targets: Sequence[float],
    all_pairs_tests: Sequence[EqualErrorComparison] = (),
    case_tests: Sequence[CaseComparison] = (),
) -> str:
    """Return the page that compares evaluations.

    Args:
        figures: metrics by name of the evaluation, see `Evaluation.figures`.
        curves: likewise.
        sentences: results in words.
        tests: paired tests.
        targets: false accept rates of the tests.
        all_pairs_tests: paired tests over all pairs.
        case_tests: paired tests of episodes or queries.
    """
    rows = [_metrics_row(one) for one in figures.values()]
    plots = comparison_figures(curves) if curves else []
    return fill_template(
        "compare.html.j2",
        title="Comparison",
        rows=rows,
        names=list(figures),
        metrics=[
            name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)
        ],
        plots=plots,
        sentences=sentences,
        tests=tests,
        targets=targets,
        all_pairs_tests=all_pairs_tests,
        case_tests=case_tests,
        numbers={
            "curves": [curve_numbers(curve, name) for name, curve in curves.items()],
            "axes": {one.name: one.axes for one in plots},
        },
    )


def _metrics_row(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return metrics as text."""

    def with_interval(value: float, bounds: Mapping[str, float | None] | None) -> str:
        low, high = (bounds["low"], bounds["high"]) if bounds else (None, None)
        return percent(value) if low is None or high is None else f"{percent(value)} ({interval(Interval(low, high))})"

    if "eer" not in metrics:
        return _other_row(metrics, with_interval)
    row = {
        "pairs": f"{metrics['pairs']:,}",
        "EER": with_interval(metrics["eer"], metrics["eer_interval"]),
        "AUC": f"{metrics['auc']:.5f}",
        "accuracy": rate(metrics["accuracy"]),
        "balanced accuracy": rate(metrics["balanced_accuracy"]),
    }
    for point in metrics["tar_at_far"]:
        few = "*" if point["insufficient"] else ""
        row[f"TAR@FAR={percent(point['far'], 0)}"] = with_interval(point["tar"], point["interval"]) + few
    return row


def _other_row(metrics: Mapping[str, Any], with_interval: Callable[[float, Any], str]) -> dict[str, str]:
    """Return metrics of a protocol that scores no pairs as text."""
    row: dict[str, str] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping) and not name.endswith("_interval"):
            row |= {f"{name}@{rank}": rate(share) for rank, share in value.items()}
        elif f"{name}_interval" in metrics:
            row[name.replace("_", " ")] = with_interval(value, metrics[f"{name}_interval"])
        elif isinstance(value, int):
            row[name] = f"{value:,}"
    return row


def fill_template(template: str, *, script_file: str = "report.js", **values: Any) -> str:
    """Fill in a template of this package; script and style sheet become part of the page."""
    environment = Environment(
        loader=PackageLoader("siamese_verify.evaluation.pages", package_path=""),
        autoescape=True,  # names of people and files may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, number, one_in, rate, interval, span, difference, shift)
    environment.filters.update({one.__name__: one for one in filters})
    script, style = ((Path(__file__).parent / name).read_text(encoding="utf-8") for name in (script_file, "page.css"))
    return environment.get_template(template).render(script=script, style=style, **values)
