"""Protocol of templates: sets of photos of a person compared with each other, as in IJB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation import (
    ALL_PAIRS_TARGETS,
    VerificationReport,
    add_failures,
    all_pairs_report,
    verification_report,
)
from siamese_verify.evaluation.all_pairs_rows import clustered_rows
from siamese_verify.evaluation.base_report import Report
from siamese_verify.evaluation.photo_sets import (
    best_pair_scores,
    check_combine,
    combine_photos,
    draw_templates,
    quality_weights,
)
from siamese_verify.evaluation.rate_intervals import clustered_intervals
from siamese_verify.evaluation.tail_extrapolation import extrapolate
from siamese_verify.protocols.held_out import HeldOutShare, made_of
from siamese_verify.protocols.protocol import EvaluationSettings, Protocol
from siamese_verify.structures import Photos
from siamese_verify.tables import read_table

MOST_SETS = 4000  # templates compared by their best pair of photos: eight million scores


@dataclass(frozen=True)
class TemplateProtocol(Protocol):
    """All pairs of templates of several photos.

    Attributes:
        name: for people.
        photos: N photos.
        size: photos of a template, where they are drawn.
        combine: `mean`, `quality` or `best`, see `templates`.
        seed: of the draw.
        listed: template of a photo by its name; None to draw them.
        numbers: (N,) template of each photo, -1 for none, of a protocol restricted to some photos; else None.
    """

    size: int = 3
    combine: str = "mean"
    seed: int = 0
    listed: dict[str, str] | None = None
    numbers: np.ndarray | None = None

    def template_numbers(self) -> np.ndarray:
        """(N,) template of each photo, -1 for none."""
        if self.numbers is not None:
            return self.numbers
        if self.listed is None:
            return draw_templates(self.photos.identities, self.size, self.seed)
        names = [self.listed.get(name, "") for name in self.photos.names]
        return np.unique(names, return_inverse=True)[1] - (1 if "" in names else 0)

    def keep(self, rows: np.ndarray) -> TemplateProtocol:
        """This protocol restricted to some photos: each template is made of those that are left of it."""
        return (
            self
            if len(rows) == len(self.photos)
            else replace(super().keep(rows), numbers=self.template_numbers()[rows])
        )

    def digest(self) -> str:
        """SHA-256 of the names of the photos, their identities and the templates; not of pixels."""
        known = sorted(self.listed.items()) if self.listed else ()
        return str(self._digest(self.size, self.seed, known).hexdigest())

    def evaluate(self, embeddings: np.ndarray, settings: EvaluationSettings) -> VerificationReport:
        """Combine the photos of each template, and return all metrics of all pairs of templates."""
        people, templates = np.asarray(self.photos.identities), self.template_numbers()
        used = np.flatnonzero(templates >= 0)
        templates, people, rows = templates[used], people[used], embeddings[used]
        of_template = people[np.unique(templates, return_index=True)[1]]
        targets = sorted({*settings.targets, *ALL_PAIRS_TARGETS}, reverse=True)
        if self.combine == "best":
            return self._best_pairs(rows, templates, of_template, targets, settings)
        weights = None
        if self.combine == "quality":
            weights = quality_weights({name: np.asarray(one)[used] for name, one in settings.qualities.items()})
        combined = combine_photos(rows, templates, weights)
        report = all_pairs_report(combined, of_template, targets=targets, progress=True, device=settings.device)
        if not settings.resamples:
            return report
        clustered = clustered_rows(combined, of_template, device=settings.device)
        return replace(
            report,
            intervals=clustered_intervals(clustered, targets, None),
            extrapolated=extrapolate(clustered, report.curve, targets),
        )

    def _best_pairs(
        self,
        rows: np.ndarray,
        templates: np.ndarray,
        people: np.ndarray,
        targets: list[float],
        settings: EvaluationSettings,
    ) -> VerificationReport:
        if len(people) > MOST_SETS:
            raise InputError(
                f"The best pairs of {len(people):,} templates are too many: {MOST_SETS:,} at most, or mean."
            )
        left, right = np.triu_indices(len(people), 1)
        sides = np.stack([people[left], people[right]], axis=1) if settings.resamples else None
        scores = best_pair_scores(rows, templates)[left, right]
        return verification_report(scores, people[left] == people[right], identities=sides, targets=targets)

    def count_failures(self, report: Report, rows: np.ndarray, embeddings: np.ndarray | None = None) -> Any:
        """Failures to acquire, and the rates that include pairs of a template of which no photo is left.

        These have no intervals.
        """
        assert isinstance(report, VerificationReport)
        templates = self.template_numbers()
        first = np.unique(templates[templates >= 0], return_index=True)[1]
        people = np.asarray(self.photos.identities)[templates >= 0][first]
        sizes = np.unique(people, return_counts=True)[1]
        genuine, count = int((sizes * (sizes - 1) // 2).sum()), len(people)
        impostors = count * (count - 1) // 2 - genuine
        return add_failures(report, self.photos.identities, self._failed(rows), genuine, impostors)


def templates(
    photos: Photos | None = None,
    people: Protocol | HeldOutShare | None = None,
    size: int = 3,
    combine: str = "mean",
    seed: int = 0,
    path: str | Path | None = None,
) -> Protocol | HeldOutShare:
    """Protocol of templates of several photos, each of one person, all compared with each other.

    Args:
        photos: of people; None takes those of `people`.
        people: another protocol, whose photos are taken, or people to hold out from training.
        size: photos of a template; those of each person are shuffled and divided, what is left over is not used.
        combine: `mean` of the photos' embeddings, weighted by `quality`, or the `best` pair of photos.
        seed: of the shuffle.
        path: of a CSV with the columns path and template, instead of drawing; photos that are not listed are not used.

    Raises:
        InputError: a size below 1, an unknown way to combine, a template of two people, or see `draw_templates`.
    """
    check_combine(combine)
    if size < 1:
        raise InputError(f"protocol.size is the number of photos of a template, 1 or more, got {size}.")
    listed = None
    if path is not None:
        table = read_table(path, ("path", "template"))
        listed = dict(zip(table["path"], table["template"], strict=True))

    def make(source: Photos, name: str) -> TemplateProtocol:
        identities = np.asarray(source.identities)
        if listed is None:
            draw_templates(identities, size, seed)  # what cannot be drawn shows now
        else:
            _refuse_mixed(source, listed, str(path))
        title = f"{name}: templates of {size if listed is None else 'listed'} photos, {combine}"
        return TemplateProtocol(title, source, size, combine, seed, listed, photos_name=name)

    return made_of(photos, people, make)


def _refuse_mixed(photos: Photos, listed: dict[str, str], path: str) -> None:
    """Raise InputError for a template of two people, or without two people and a genuine pair of templates."""
    owners: dict[str, Any] = {}
    for name, person in zip(photos.names, np.asarray(photos.identities).tolist(), strict=True):
        template = listed.get(name, "")
        if template and owners.setdefault(template, person) != person:
            raise InputError(f"{path} has photos of two people in the template {template!r}: give each person others.")
    people = [*owners.values()]
    if not 1 < len(set(people)) < len(people):
        raise InputError(f"{path} has {len(people)} templates of {len(set(people))} people here: list two of someone.")
