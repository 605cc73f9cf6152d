"""What reports of every protocol have in common: a headline, intervals, rows of tables, files and a page."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.evaluation.cases import CASES, Cases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from siamese_verify.evaluation.acquisition import Acquisition
    from siamese_verify.evaluation.bootstrap import Interval
    from siamese_verify.evaluation.pages.rendering import ReportFigure
    from siamese_verify.evaluation.score_file import PublishedCurve


def to_json_types(value: Any) -> Any:
    """Convert to what strict JSON can hold: NaN and infinity become None, unknown types strings."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        value = value.tolist()
    if hasattr(value, "items"):
        return {str(key): to_json_types(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_types(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


class Failures(NamedTuple):
    """Photos that could not be used, where photos were searched for faces.

    Attributes:
        photos: of the protocol.
        failures: photos without a face, or with multiple faces where it is unclear which one is meant.
        failure_rate: failure-to-acquire rate (FTA), in [0, 1].
        failure_interval: 95 % confidence interval of the FTA over people, one-sided without a failure.
    """

    photos: int
    failures: int
    failure_rate: float
    failure_interval: Interval

    @property
    def sentence(self) -> str:
        """The failures in words."""
        low, high = self.failure_interval
        return (
            f"No face could be selected in {self.failures:,} of {self.photos:,} photos (FTA {self.failure_rate:.2%}, "
            f"95 % interval {low:.2%} to {high:.2%}), which are left out."
        )


class LeftOut(NamedTuple):
    """A photo that was left out, for a page."""

    name: str
    reason: str
    photo: Callable[[], Image]  # opens it; InputError or OSError leaves a gap in the page


class Tile(NamedTuple):
    """A headline number of a page."""

    heading: str
    value: float  # a rate
    interval: Interval | None
    text: str


class RateTable(NamedTuple):
    """A table of a page: the first column has words, the others figures."""

    heading: str
    text: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Report(ABC):
    """Metrics of an encoder on one protocol: a frozen dataclass whose fields are all in metrics.json, if compared.

    Attributes:
        metric: name of the field that stands for all, such as `eer`.
        recorded: names of further fields for the record of a run.
        intervals: 95 % confidence intervals over people, by name of the metric, where they are known.
        acquisition: failures to acquire, where photos were searched for faces.
        cases: of which the metric is the mean, for paired comparisons; None where it is no mean.
    """

    metric: ClassVar[str]
    recorded: ClassVar[tuple[str, ...]] = ()
    intervals: Mapping[str, Interval]
    acquisition: Failures | Acquisition | None
    cases: Cases | None = None

    @property
    def value(self) -> float:
        """The metric that stands for all."""
        return float(getattr(self, self.metric))

    @property
    def hint(self) -> str | None:
        """A sentence if something looks wrong, else None."""
        return None

    @abstractmethod
    def row(self) -> dict[str, Any]:
        """Return metrics for a table: numbers, and rates as `{"rate": ...}` with their uncertainty where known."""

    @abstractmethod
    def logged(self) -> dict[str, float]:
        """Return metrics for loggers, by name."""

    def record(self) -> dict[str, Any]:
        """Return the headline, its interval and `recorded`, for the record of a run."""
        interval = self.intervals.get(self.metric)
        found = {self.metric: self.value, f"{self.metric}_interval": [*interval] if interval else None}
        return found | {name: getattr(self, name) for name in self.recorded}

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON types, None for what is infinite or absent."""
        shown: Any = self
        return {field.name: to_json_types(getattr(self, field.name)) for field in fields(shown) if field.compare}

    def to_json(self) -> str:
        """Return the metrics as strict JSON: no NaN, no Infinity, null instead."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def figures(self) -> list[ReportFigure]:
        """Draw the figures of the page."""
        return []

    def content(self) -> tuple[str, list[Tile], list[RateTable]]:
        """Return what the page shows: a sentence that says what was measured, headline numbers and tables."""
        raise NotImplementedError(f"{type(self).__name__} has no content: define it, or save.")

    def save(
        self,
        folder: str | Path,
        *,
        title: str = "Evaluation",
        details: Mapping[str, Any] | None = None,
        pictures: Callable[[int], tuple[Image, Image]] | None = None,
        captions: Callable[[int], str] | None = None,
        comparison: Sequence[Mapping[str, Any]] | None = None,
        published: Sequence[PublishedCurve] = (),
        left_out: Sequence[LeftOut] = (),
    ) -> Path:
        """Write metrics.json, cases.npz, a PNG of each figure and report.html, each whole or not at all.

        Args:
            folder: made if it is missing; files of an earlier report are replaced.
            title: heading of the page.
            details: configuration, hash of the data, versions, provenance, claims; nested mappings become sections.
            pictures: returns the two photos of a pair by its row; InputError or OSError leaves a gap in the page. As
                `captions` and `published`, for reports of scored pairs: others do not show it.
            captions: returns a caption of a pair by its row.
            comparison: rows of a table, such as this encoder and raw pixels.
            published: curves of other authors, drawn beside this one.
            left_out: photos with a failure to acquire; the page shows the first of them.

        Returns:
            The path of report.html.

        Raises:
            InputError: `folder` is a file.
        """
        from siamese_verify.evaluation.pages.page import render_measures

        given = given_details(title, details, comparison)
        figures = self.figures()
        page = render_measures(self, figures, left_out=left_out, **given)
        files = {CASES: self.cases.to_bytes()} if self.cases else {}
        return write_report(folder, self, given, figures, page, files)


def given_details(
    title: str, details: Mapping[str, Any] | None, comparison: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Return what a page and metrics.json show beside the metrics, as JSON types."""
    return {
        "title": title,
        "details": to_json_types(details or {}),
        "comparison": to_json_types(list(comparison or [])),
    }


def write_report(
    folder: str | Path,
    report: Report,
    given: Mapping[str, Any],
    figures: Sequence[ReportFigure],
    page: str,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write metrics.json, figures, further files and last report.html; return its path.

    Raises:
        InputError: `folder` is a file, or no path.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"The report needs a folder, got {type(folder).__name__}: give its path.")
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"The report needs a folder, and {target} is a file: name another place.")
    target.mkdir(parents=True, exist_ok=True)
    metrics = json.dumps({**report.to_dict(), **given, "metric": report.metric}, indent=1, allow_nan=False)
    for figure in figures:
        atomic_write(target / f"{figure.name}.png", figure.png)
    for name, content in (files or {}).items():
        atomic_write(target / name, content)
    atomic_write(target / "metrics.json", metrics.encode())
    atomic_write(target / "report.html", page.encode(), private=True)  # last: if it exists, so do the others
    return target / "report.html"
