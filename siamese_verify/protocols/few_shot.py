"""Protocol of N-way K-shot episodes, on the photos of any source."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.episodes import (
    CLASSIFIERS,
    FewShotReport,
    check_episodes,
    draw_episodes,
    few_shot_report,
)
from siamese_verify.protocols.held_out import HeldOutShare, made_of
from siamese_verify.protocols.protocol import EvaluationSettings, PhotoSubset, Protocol
from siamese_verify.structures import Photos


@dataclass(frozen=True)
class FewShotProtocol(Protocol):
    """Episodes in which a few people are to be named from a few photos of each; see `few_shot_report`.

    Attributes:
        name: for people.
        photos: N photos.
        way: people of an episode.
        shots: photos of each to learn from.
        queries: further photos of each to name.
        episodes: how many are drawn.
        classifier: `centroid` or `nearest`.
        seed: of the episodes.
    """

    way: int = 5
    shots: int = 1
    queries: int = 5
    episodes: int = 1000
    classifier: str = "centroid"
    seed: int = 0

    def digest(self) -> str:
        """SHA-256 of the names of the photos, their identities and the episodes; not of pixels."""
        return str(self._digest(self.way, self.shots, self.queries, self.episodes, self.seed).hexdigest())

    def evaluate(self, embeddings: np.ndarray, settings: EvaluationSettings) -> FewShotReport:
        """Draw the episodes and return their accuracy."""
        report = few_shot_report(
            embeddings,
            self.photos.identities,
            way=self.way,
            shots=self.shots,
            queries=self.queries,
            episodes=self.episodes,
            classifier=self.classifier,
            seed=self.seed,
        )
        return report if settings.resamples else replace(report, intervals={})


def few_shot(
    photos: Photos | None = None,
    people: Protocol | HeldOutShare | None = None,
    way: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 1000,
    classifier: str = "centroid",
    seed: int = 0,
) -> Protocol | HeldOutShare:
    """Protocol of N-way K-shot episodes.

    Args:
        photos: of people; None takes those of `people`.
        people: another protocol, whose photos are taken, or people to hold out from training.
        way: see `draw_episodes`, likewise `shots`, `queries`, `episodes` and `seed`.
        shots: likewise.
        queries: likewise.
        episodes: likewise.
        classifier: see `few_shot_report`.
        seed: likewise.

    Raises:
        InputError: see `draw_episodes`; photos of unknown people.
    """

    def make(source: Photos, name: str) -> FewShotProtocol:
        identities = np.asarray(source.identities)
        draw_episodes(identities, way, shots, queries, 2)  # what cannot be drawn shows now
        _, place, sizes = np.unique(identities, return_inverse=True, return_counts=True)
        rows = np.flatnonzero((sizes >= shots + queries)[place])  # photos of others are not embedded
        used = source if len(rows) == len(source) else PhotoSubset(source, rows)
        title = f"{name}: {way}-way {shots}-shot"
        return FewShotProtocol(title, used, way, shots, queries, episodes, classifier, seed, photos_name=name)

    check_episodes(way, shots, queries, episodes, seed)
    if classifier not in CLASSIFIERS:
        raise InputError(f"protocol.classifier is one of {', '.join(CLASSIFIERS)}, got {classifier!r}.")
    return made_of(photos, people, make)
