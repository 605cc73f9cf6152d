"""The impostor tail: share of impostor pairs that score as high as a given score, with its interval."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.bootstrap import Interval
from siamese_verify.evaluation.operating_points import DECISIVE_IMPOSTORS, check_far, most_accepts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from siamese_verify.evaluation.clustered_pairs import ClusteredPairs
    from siamese_verify.evaluation.roc import RocCurve

PER_DECADE = 40  # points of the tail while the false accept rate grows tenfold


@dataclass(frozen=True)
class ImpostorTail:
    """The upper tail of the impostors' scores as a few hundred points.

    Attributes:
        scores: (K,) ascending.
        accepted: (K,) impostors that score at least as high; between two points the larger number holds.
        impostors: number of impostor pairs.
        intervals: (K,) 95 % confidence intervals over people of the share accepted; that of 0 is one-sided. None where
            the pairs that decide it were not listed, and empty where no intervals were asked for.
    """

    scores: tuple[float, ...]
    accepted: tuple[int, ...]
    impostors: int
    intervals: tuple[Interval | None, ...] = ()

    @classmethod
    def from_curve(cls, curve: RocCurve) -> ImpostorTail:
        """Return the impostor tail of a curve, for false accept rates up to one half."""
        counts, scores = curve.false_accepts[:0:-1], curve.thresholds[:0:-1]  # ascending scores
        # A point where the count falls to the next step of a decade, at the highest impostor, and just above it.
        step = np.floor(np.log10(np.maximum(counts, 1)) * PER_DECADE)
        kept = np.append(True, step[1:] != step[:-1]) & (2 * counts <= curve.impostors)
        kept[np.flatnonzero(counts == 0)[:1]] = True
        kept[np.flatnonzero(counts > 0)[-1]] = True
        kept_scores, kept_counts = scores[kept], counts[kept]
        if kept_counts[-1] > 0:  # no genuine score lies above the highest impostor
            kept_scores = np.append(kept_scores, np.nextafter(kept_scores[-1], np.inf))
            kept_counts = np.append(kept_counts, 0)
        return cls(tuple(kept_scores.tolist()), tuple(kept_counts.tolist()), curve.impostors)

    def with_intervals(self, pairs: ClusteredPairs) -> ImpostorTail:
        """Return the tail with confidence intervals over people."""
        from siamese_verify.evaluation.rate_intervals import far_interval_at

        if not len(pairs.impostors):
            return self
        scores = np.array(self.scores)
        listed = scores >= pairs.lowest
        thresholds = pairs.thresholds(scores[listed].tolist())
        rates = pairs.rates(thresholds)
        bounds = rates.bounds()
        places = np.searchsorted(-thresholds, -scores)
        intervals = [
            Interval(float(bounds.far_low[place]), float(bounds.far_high[place])) if there else None
            for place, there in zip(places, listed, strict=True)
        ]
        intervals[-1] = far_interval_at(rates, int(places[-1]))  # no impostor is above it: one-sided
        return replace(self, intervals=tuple(intervals))

    def accepts(self, score: float) -> int:
        """Return how many impostors at most score at least as high as `score`.

        Raises:
            InputError: the score is NaN.
        """
        place = self._place(score)
        return self.accepted[place] if place >= 0 else self.impostors

    def _place(self, score: float) -> int:
        if math.isnan(score):
            raise InputError("The score is NaN: look for an empty or diverged embedding.")
        return int(np.searchsorted(self.scores, score, side="right")) - 1

    def rate(self, score: float) -> float:
        """Return the share of impostors that score at least as high, or slightly more; see `accepts`."""
        return self.accepts(score) / self.impostors

    def interval(self, score: float) -> Interval | None:
        """Return the 95 % confidence interval of the share of impostors that score as high, None where it is unknown.

        Between two points of the tail it ends at the high end of the lower one, and at the low end of the other.
        """
        place = self._place(score)
        found = self.intervals[place] if self.intervals and place >= 0 else None
        if found is None or score == self.scores[place] or place + 1 == len(self.scores):
            return found
        above = self.intervals[place + 1]
        return above and Interval(min(above.low, found.low), found.high)

    def threshold(self, far: float) -> tuple[float, Interval | None]:
        """Return a threshold for any false accept rate, and its 95 % confidence interval.

        The threshold is the lowest point of the tail that accepts no larger share. Its interval is where the intervals
        of the shares include `far`; its high end is +inf where even the share above the highest impostor may be larger.

        Args:
            far: in [0, 0.5].

        Raises:
            InputError: another rate.
        """
        check_far(far, largest=0.5)
        most = most_accepts(far, self.impostors)
        place = next(k for k, accepted in enumerate(self.accepted) if accepted <= most)
        higher = [k for k, one in enumerate(self.intervals) if one and one.low > far]
        if not higher:  # the low end is below the tail
            return self.scores[place], None
        low = self.scores[min(higher[-1], place)]
        strict = [k for k, one in enumerate(self.intervals) if one and one.high <= far]
        return self.scores[place], Interval(low, self.scores[max(strict[0], place)] if strict else math.inf)

    def shows(self, far: float, interval: Interval | None) -> bool:
        """Whether the data can show a false accept rate: ten impostors or more decide it, and its threshold is bounded.

        Args:
            far: the rate.
            interval: of its threshold, see `threshold`.
        """
        return self.decisive(far) and not (interval and interval.high == math.inf)

    def decisive(self, far: float) -> bool:
        """Whether ten impostors or more decide a false accept rate."""
        return far >= DECISIVE_IMPOSTORS / self.impostors  # as a product it could round

    def at_most(self, score: float) -> float | None:
        """Return the high end of `interval`, which never rises with the score; None where no impostor scored as high.

        Without an interval it is `rate`, but no less than the high end of any interval, which are of higher scores.
        """
        interval = self.interval(score)
        if interval:
            return interval.high
        return max(self.rate(score), *(one.high for one in self.intervals if one), 0.0) or None

    def one_in(self, score: float, comparisons: int = 1) -> int | None:
        """Return the N of "at most one in N impostors scores as high", rounded down: `at_most` as a chance.

        Args:
            score: of a pair.
            comparisons: number of pairs that it is the best of.
        """
        share = self.at_most(score)
        return max(1, int(1 / (share * comparisons))) if share else None

    def sentence(self, score: float, comparisons: int = 1) -> str:
        """Return `one_in` in words; with multiple comparisons, that of two photos with multiple faces."""
        often, pairs = self.one_in(score, comparisons), f"pairs of {'photos of ' * (comparisons > 1)}different people"
        if often is None:
            return f"None of {self.impostors:,} pairs of different people scored this high."
        if often == 1:
            return f"Half of all {pairs} or more may score this high."
        if self.interval(score):
            return f"At most 1 in {often:,} {pairs} would score this high (95 % confidence)."
        return f"{'At most ' * (comparisons > 1)}1 in {often:,} {pairs} would score this high."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImpostorTail:
        """Return the impostor tail that `to_dict` wrote.

        Raises:
            InputError: a field is missing or invalid.
        """
        try:
            found = cls(
                scores=tuple(map(float, values["scores"])),
                accepted=tuple(map(int, values["accepted"])),
                impostors=int(values["impostors"]),
                intervals=tuple(one and Interval(float(one[0]), float(one[1])) for one in values["intervals"]),
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"The impostor tail is damaged ({error}): measure it again.") from None
        bounds = [one for one in found.intervals if one is not None]
        sizes = len(found.scores) == len(found.accepted) > 0 and len(found.intervals) in (0, len(found.scores))
        falls = (
            np.isfinite(found.scores).all()
            and (np.diff(found.scores) > 0).all()
            and (np.diff(found.accepted) <= 0).all()
        )
        if not (sizes and falls and found.accepted[-1] == 0 and found.accepted[0] <= found.impostors > 0):
            raise InputError("The impostor tail is damaged (its counts do not fall to 0): measure it again.")
        if any(not 0 <= low <= high <= 1 for low, high in bounds) or (bounds and bounds[-1].high == 0):
            raise InputError("The impostor tail is damaged (its intervals are invalid): measure it again.")
        return found
