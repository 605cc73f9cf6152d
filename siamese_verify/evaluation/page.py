"""A report as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from siamese_verify.evaluation.figures import ReportFigure
    from siamese_verify.evaluation.hardest_pairs import HardPair
    from siamese_verify.evaluation.report import VerificationReport

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
    """Write a number for people; what is no float is shown as it is."""
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return "" if value is None else str(value)


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


def render_page(
    report: VerificationReport,
    figures: Sequence[ReportFigure],
    *,
    title: str,
    details: Mapping[str, Any],
    comparison: Sequence[Mapping[str, Any]],
    pictures: Callable[[int], tuple[Image, Image]] | None,
    captions: Callable[[int], str] | None,
) -> str:
    """Return the page as HTML; `details` and `comparison` hold JSON types only, see `VerificationReport.save`."""
    kinds = [
        ("Strangers that look most alike", "accepted", report.hardest.impostors),
        ("One person, least alike", "refused", report.hardest.genuine),
    ]
    environment = Environment(
        loader=PackageLoader("siamese_verify.evaluation", package_path=""),
        autoescape=True,  # names of people and files may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, one_in=one_in)
    return environment.get_template("report.html.j2").render(
        report=report,
        infinity=math.inf,
        title=title,
        figures=[
            {"figure": one, "light": data_uri(one.light, "png"), "dark": data_uri(one.dark, "png")} for one in figures
        ],
        mistakes=[
            (heading, verdict, [_card(pair, report.threshold, pictures, captions) for pair in kind])
            for heading, verdict, kind in kinds
        ],
        details=details,
        columns=list(dict.fromkeys(column for row in comparison for column in row)),
        comparison=comparison,
    )
