"""How many strangers would score as high."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from siamese_verify.evaluation.roc import RocCurve

PER_DECADE = 40  # points that are kept while the false accept rate grows tenfold


@dataclass(frozen=True)
class Strangers:
    """The upper tail of the impostors' scores, thinned to a few hundred points.

    Attributes:
        scores: (K,) ascending.
        accepted: (K,) impostors that score at least as high; what lies between two points is given the larger number.
        impostors: pairs it was counted on.
    """

    scores: tuple[float, ...]
    accepted: tuple[int, ...]
    impostors: int

    def accepts(self, score: float) -> int:
        """Return how many impostors at most score at least as high as `score`.

        Raises:
            InputError: the score is NaN, which would pass for the rarest of all.
        """
        if math.isnan(score):
            raise InputError("The score is NaN: look for an empty or diverged embedding.")
        place = int(np.searchsorted(self.scores, score, side="right")) - 1
        return self.accepted[place] if place >= 0 else self.impostors

    def rate(self, score: float) -> float:
        """Return a share of impostor pairs, in [0, 1], that no smaller one scores at least as high; see `accepts`."""
        return self.accepts(score) / self.impostors

    def sentence(self, score: float) -> str:
        """Say it in words; see `accepts`."""
        accepted = self.accepts(score)
        if accepted == 0:
            return f"Fewer than 1 in {self.impostors:,} strangers would score this high."
        if 2 * accepted > self.impostors:
            return "Most strangers would score this high."
        # Rounded down, in integers: a stranger is never said to be rarer than counted.
        return f"1 in {self.impostors // accepted:,} strangers would score this high."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Strangers:
        """Read what `to_dict` wrote.

        Raises:
            InputError: a field is missing, unknown or of another kind.
        """
        try:
            found = cls(
                scores=tuple(map(float, values["scores"])),
                accepted=tuple(map(int, values["accepted"])),
                impostors=int(values["impostors"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
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
        return found


def strangers_of(curve: RocCurve) -> Strangers:
    """Thin a curve to what `Strangers` needs, for false accept rates up to one half."""
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
    return Strangers(tuple(kept_scores.tolist()), tuple(kept_counts.tolist()), curve.impostors)
