"""How many strangers would score as high."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS, most_accepts
from siamese_verify.evaluation.pair_intervals import far_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from siamese_verify.evaluation.clustered_pairs import ClusteredPairs
    from siamese_verify.evaluation.roc import RocCurve

PER_DECADE = 40  # points that are kept while the false accept rate grows tenfold


@dataclass(frozen=True)
class ImpostorTail:
    """The upper tail of the impostors' scores, thinned to a few hundred points.

    Attributes:
        scores: (K,) ascending.
        accepted: (K,) impostors that score at least as high; what lies between two points is given the larger number.
        impostors: pairs it was counted on.
        intervals: (K,) 95 % confidence intervals of the share accepted, over people; where none is, from 0 to the
            one-sided bound. None where too many impostors decide, and empty where they were not asked for.
    """

    scores: tuple[float, ...]
    accepted: tuple[int, ...]
    impostors: int
    intervals: tuple[Interval | None, ...] = ()

    def accepts(self, score: float) -> int:
        """Return how many impostors at most score at least as high as `score`.

        Raises:
            InputError: the score is NaN, which would pass for the rarest of all.
        """
        place = self._place(score)
        return self.accepted[place] if place >= 0 else self.impostors

    def _place(self, score: float) -> int:
        if math.isnan(score):
            raise InputError("The score is NaN: look for an empty or diverged embedding.")
        return int(np.searchsorted(self.scores, score, side="right")) - 1

    def rate(self, score: float) -> float:
        """Return a share of impostor pairs, in [0, 1], that no smaller one scores at least as high; see `accepts`."""
        return self.accepts(score) / self.impostors

    def interval(self, score: float) -> Interval | None:
        """Return the 95 % confidence interval of `rate`, None where it is not known; see `accepts`."""
        place = self._place(score)
        return self.intervals[place] if self.intervals and place >= 0 else None

    def threshold(self, far: float) -> tuple[float, Interval | None]:
        """Return a threshold for any false accept rate, and its 95 % confidence interval.

        The threshold is the lowest point of this tail that accepts no larger share. Its interval is where those of the
        shares hold `far`: it has no upper end, +inf, where even the highest impostor may be too common.

        Args:
            far: in [0, 0.5].

        Raises:
            InputError: another rate; looser ones were not kept.
        """
        if not 0 <= far <= 0.5:
            raise InputError(f"The false accept rate asked for is {far}: give one between 0 and 0.5.")
        most = most_accepts(far, self.impostors)
        place = next(k for k, accepted in enumerate(self.accepted) if accepted <= most)
        higher = [k for k, one in enumerate(self.intervals) if one and one.low > far]
        if not higher:  # it may be lower still
            return self.scores[place], None
        low = self.scores[min(higher[-1], place)]
        strict = [k for k, one in enumerate(self.intervals) if one and one.high <= far]
        return self.scores[place], Interval(low, self.scores[max(strict[0], place)] if strict else math.inf)

    def shows(self, far: float, interval: Interval | None) -> bool:
        """Whether the data can show a false accept rate: ten impostors or more decide it, and people bound it.

        Args:
            far: the rate.
            interval: of its threshold, see `threshold`.
        """
        return self.decisive(far) and not (interval and interval.high == math.inf)

    def decisive(self, far: float) -> bool:
        """Whether ten impostors or more decide a false accept rate."""
        return far >= DECISIVE_IMPOSTORS / self.impostors  # as a product it could round

    def at_most(self, score: float) -> float | None:
        """Return what share of strangers scores as high at most: the upper end of `interval`.

        Without an interval it is `rate`; None where no impostor scored as high, which alone bounds nothing.
        """
        interval = self.interval(score)
        return interval.high if interval else self.rate(score) or None

    def sentence(self, score: float) -> str:
        """Say it in words; see `accepts`."""
        accepted, interval = self.accepts(score), self.interval(score)
        if accepted == 0 and interval is None:
            return f"None of {self.impostors:,} pairs of different people scored this high."
        if accepted == 0 and interval is not None:
            rarer = f"Fewer than 1 in {int(1 / interval.high):,} pairs of different people"
            return f"{rarer} would score this high (95 % confidence)."
        if 2 * accepted > self.impostors:
            return "Most pairs of different people would score this high."
        # Rounded down, in integers: a stranger is never said to be rarer than counted.
        said = f"1 in {self.impostors // accepted:,} pairs of different people would score this high"
        if interval is None:
            return f"{said}."
        rarest = f"1 in {int(1 / interval.low):,}" if interval.low else "none at all"
        return f"{said} (95 % interval: 1 in {int(1 / interval.high):,} to {rarest})."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImpostorTail:
        """Read what `to_dict` wrote.

        Raises:
            InputError: a field is missing, unknown or of another kind.
        """
        try:
            found = cls(
                scores=tuple(map(float, values["scores"])),
                accepted=tuple(map(int, values["accepted"])),
                impostors=int(values["impostors"]),
                intervals=tuple(one and Interval(float(one[0]), float(one[1])) for one in values["intervals"]),
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"The tail of strangers' scores is damaged ({error}): measure it again.") from None
        falls = bool(np.all(np.diff(found.scores) > 0) and np.all(np.diff(found.accepted) <= 0))
        sizes = len(found.scores) == len(found.accepted) > 0 < found.impostors
        if not (falls and sizes and np.isfinite(found.scores).all()):
            raise InputError("The tail of strangers' scores is damaged (it does not fall): measure it again.")
        if not 0 <= found.accepted[-1] <= found.accepted[0] <= found.impostors:
            raise InputError(
                f"The tail of strangers' scores is damaged (it counts {found.accepted[0]} of {found.impostors}): "
                "measure it again."
            )
        bounds = [one for one in found.intervals if one is not None]
        if len(found.intervals) not in (0, len(found.scores)) or any(not 0 <= low <= high <= 1 for low, high in bounds):
            raise InputError("The tail of strangers' scores is damaged (its intervals are none): measure it again.")
        if found.accepted[-1]:
            raise InputError("The tail of strangers' scores is damaged (it has no end): measure it again.")
        if bounds and bounds[-1].high == 0:
            raise InputError("The tail of strangers' scores claims that none scores higher: measure it again.")
        return found


def impostor_tail_of(curve: RocCurve) -> ImpostorTail:
    """Thin a curve to what `ImpostorTail` needs, for false accept rates up to one half."""
    counts, scores = curve.false_accepts[:0:-1], curve.thresholds[:0:-1]  # ascending scores
    # At each score where the count falls, the impostors from there on; above the highest of them, none.
    cell = np.floor(np.log10(np.maximum(counts, 1)) * PER_DECADE)
    keep = np.append(True, cell[1:] != cell[:-1]) & (2 * counts <= curve.impostors)
    keep[np.flatnonzero(counts == 0)[:1]] = True
    keep[np.flatnonzero(counts > 0)[-1]] = True
    kept_scores, kept_counts = scores[keep], counts[keep]
    if kept_counts[-1] > 0:  # no genuine score lies above the highest impostor
        kept_scores = np.append(kept_scores, np.nextafter(kept_scores[-1], np.inf))
        kept_counts = np.append(kept_counts, 0)
    return ImpostorTail(tuple(kept_scores.tolist()), tuple(kept_counts.tolist()), curve.impostors)


def with_intervals(tail: ImpostorTail, pairs: ClusteredPairs) -> ImpostorTail:
    """Add how far the shares may be from those of all people, see `ClusteredPairs`."""
    scores = np.array(tail.scores)
    known = scores >= pairs.lowest
    if not len(pairs.impostors):
        return tail
    thresholds = pairs.thresholds(scores[known].tolist())
    rates = pairs.rates(thresholds)
    bounds = rates.bounds()
    places = np.searchsorted(-thresholds, -scores)
    intervals = [
        Interval(float(bounds.far_low[place]), float(bounds.far_high[place])) if there else None
        for place, there in zip(places, known, strict=True)
    ]
    intervals[-1] = far_at(rates, int(places[-1]))  # nobody is above it: one-sided
    return replace(tail, intervals=tuple(intervals))
