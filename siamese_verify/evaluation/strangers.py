"""How many strangers would score as high."""

from __future__ import annotations

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

    def rate(self, score: float) -> float:
        """Return a share of impostor pairs, in [0, 1], that no smaller one scores at least as high as `score`."""
        place = int(np.searchsorted(self.scores, score, side="right")) - 1
        return self.accepted[place] / self.impostors if place >= 0 else 1.0

    def sentence(self, score: float) -> str:
        """Say it in words."""
        rate = self.rate(score)
        if rate <= 1 / self.impostors:
            return f"Fewer than 1 in {self.impostors:,} strangers would score this high."
        if rate > 0.5:
            return "Most strangers would score this high."
        return f"1 in {round(1 / rate):,} strangers would score this high."

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
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The tail of strangers' scores is damaged ({error}): measure it again.") from None
        falls = bool(np.all(np.diff(found.scores) > 0) and np.all(np.diff(found.accepted) <= 0))
        if not (falls and len(found.scores) == len(found.accepted) > 0 < found.impostors):
            raise InputError("The tail of strangers' scores is damaged (it does not fall): measure it again.")
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
