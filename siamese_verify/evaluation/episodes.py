"""N-way K-shot evaluation: whether few photos of each of a few people are enough to name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from siamese_verify.errors import InputError
from siamese_verify.evaluation.base_report import Failures, RateTable, Report, Tile
from siamese_verify.evaluation.bootstrap import Interval, check_level
from siamese_verify.evaluation.cases import Cases
from siamese_verify.evaluation.clustered_pairs import equal_people
from siamese_verify.evaluation.rate_intervals import clustered_rate_interval
from siamese_verify.evaluation.scores import numbered, unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CLASSIFIERS = ("centroid", "nearest")


class Episodes(NamedTuple):
    """Episodes drawn from a set of photos.

    Attributes:
        people: (E,N) numbers of the people of each.
        photos: (E,N,K+Q) rows: of each person K to learn from, then Q to name.
        eligible: number of people who were drawn from: those with K + Q photos or more.
    """

    people: NDArray[np.int64]
    photos: NDArray[np.int64]
    eligible: int


def check_episodes(way: int, shots: int, queries: int, episodes: int, seed: int) -> None:
    """Check the numbers of `draw_episodes`.

    Raises:
        InputError: one is no whole number or too small.
    """
    given = {
        "way": (way, 2),
        "shots": (shots, 1),
        "queries": (queries, 1),
        "episodes": (episodes, 2),
        "seed": (seed, 0),
    }
    for name, (number, least) in given.items():
        if not (isinstance(number, int) and number >= least):
            raise InputError(f"{name} is a whole number of {least} or more, got {number}.")


def draw_episodes(identities: ArrayLike, way: int, shots: int, queries: int, episodes: int, seed: int = 0) -> Episodes:
    """Draw episodes: N people with K + Q photos each, without repetition within an episode.

    Args:
        identities: (M,) one number or name per photo.
        way: N, people of an episode, >= 2.
        shots: K, photos of each to learn from, >= 1.
        queries: Q, further photos of each to name, >= 1.
        episodes: E, >= 2.
        seed: of the draw, >= 0.

    Raises:
        InputError: a number that is too small, or fewer than N people with K + Q photos.
    """
    check_episodes(way, shots, queries, episodes, seed)
    given = np.asarray(identities)
    people = numbered(given, len(given))
    sizes = np.bincount(people)
    enough = np.flatnonzero(sizes >= shots + queries)
    if len(enough) < way:
        raise InputError(
            f"{len(enough):,} of {len(sizes):,} people have {shots + queries} photos or more, but {way}-way episodes "
            f"of {shots} shots and {queries} queries need {way}: lower way, shots or queries, or add photos."
        )
    rows = np.split(np.argsort(people, kind="stable"), np.cumsum(sizes)[:-1])
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.choice(enough, way, replace=False) for _ in range(episodes)])
    photos = np.stack(
        [[rng.choice(rows[person], shots + queries, replace=False) for person in episode] for episode in chosen]
    )
    return Episodes(chosen, photos, len(enough))


@dataclass(frozen=True)
class FewShotReport(Report):
    """How often a query of an episode is given its own person.

    Attributes:
        accuracy: mean over episodes, in [0, 1].
        way: N.
        shots: K.
        queries: Q.
        episodes: E.
        classifier: `centroid` or `nearest`.
        people: who were drawn from.
        over_episodes: the usual interval, accuracy -+ 1.96 standard deviations / sqrt(E): 95 % of other draws of
            episodes from the same photos; not what other people would give. None if all episodes are equally good, as
            that says nothing of their spread.
        intervals: of the `accuracy`, 95 % over people; empty if each episode has all of them.
        acquisition: see `Failures`.
        cases: accuracy of each episode.
    """

    metric: ClassVar[str] = "accuracy"

    accuracy: float
    way: int
    shots: int
    queries: int
    episodes: int
    classifier: str
    people: int
    over_episodes: Interval | None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    acquisition: Failures | None = None
    cases: Cases | None = field(default=None, repr=False, compare=False)

    @property
    def task(self) -> str:
        """The task in words, such as `5-way 1-shot`."""
        return f"{self.way}-way {self.shots}-shot"

    def row(self) -> dict[str, Any]:
        """Return metrics for a table."""
        known = self.intervals.get("accuracy")
        row: dict[str, Any] = {"accuracy": {"rate": self.accuracy, **(known._asdict() if known else {})}}
        return row | ({"FTA": {"rate": self.acquisition.failure_rate}} if self.acquisition else {})

    def logged(self) -> dict[str, float]:
        """Return metrics for loggers, by name."""
        return {"accuracy": self.accuracy}

    def content(self) -> tuple[str, list[Tile], list[RateTable]]:
        """Return what the page shows."""
        nearest = "the mean of them" if self.classifier == "centroid" else "a single one of them"
        lead = (
            f"{self.episodes:,} times, {self.way} of {self.people:,} people were drawn, with photos of each to "
            f"learn from ({self.shots}) and to name ({self.queries}). Each of the latter was given the person to whose "
            f"photos ({nearest}) it is nearest. One in {self.way} would be right by chance."
        )
        text = "of the photos were given the right person; the interval is over people."
        tile = Tile(f"Accuracy, {self.task}", self.accuracy, self.intervals.get("accuracy"), text)
        rows = [("over people: other people of the same kind", self.intervals.get("accuracy"))]
        rows.append(("over episodes: other draws from the same photos", self.over_episodes))
        about = "An interval over episodes shrinks with their number, however few people they are drawn from."
        return lead, [tile], [RateTable("95 % intervals", about, ("of the accuracy", "from, to"), rows)]


def few_shot_report(
    embeddings: ArrayLike,
    identities: ArrayLike,
    *,
    way: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 1000,
    classifier: str = "centroid",
    seed: int = 0,
    level: float = 0.95,
) -> FewShotReport:
    """Return the accuracy of N-way K-shot episodes.

    A query is given the person whose centroid, the mean of K unit embeddings, is nearest by squared Euclidean distance,
    or with `nearest` the person of the nearest of all N K photos. If another person is as near as the right one, it is
    wrong, so that collapsed embeddings name no one.

    Args:
        embeddings: (M,D) of any non-zero length.
        identities: (M,) one number or name per row.
        way: see `draw_episodes`.
        shots: likewise.
        queries: likewise.
        episodes: likewise.
        classifier: `centroid` or `nearest`.
        seed: of the episodes.
        level: of the intervals, in (0, 1).

    Raises:
        InputError: see `unit_rows` and `draw_episodes`; another classifier; a level outside of (0, 1).

    Snell, Swersky & Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017, eq. 1 and 2 at test time.
    """
    from scipy.stats import norm
    from tqdm import tqdm

    check_level(level)
    if classifier not in CLASSIFIERS:
        raise InputError(f"classifier is one of {', '.join(CLASSIFIERS)}, got {classifier!r}.")
    rows = unit_rows(embeddings)
    numbered(identities, len(rows))
    drawn = draw_episodes(identities, way, shots, queries, episodes, seed)
    right = np.empty((episodes, way, queries), dtype=np.bool_)
    for number, photos in enumerate(tqdm(drawn.photos, "Episodes", delay=2, leave=False, disable=None)):
        right[number] = _name_queries(rows[photos].astype(np.float64), shots, classifier)
    each = right.mean(axis=(1, 2))
    accuracy = float(each.mean())
    reach = float(norm.ppf((1 + level) / 2) * each.std(ddof=1) / episodes**0.5)
    over_people = people_interval(drawn, right, level)
    return FewShotReport(
        accuracy=accuracy,
        way=way,
        shots=shots,
        queries=queries,
        episodes=episodes,
        classifier=classifier,
        people=drawn.eligible,
        over_episodes=Interval(max(accuracy - reach, 0.0), min(accuracy + reach, 1.0)) if np.ptp(each) else None,
        intervals={"accuracy": over_people} if over_people else {},
        cases=_cases(drawn, right),
    )


def _name_queries(faces: NDArray[np.float64], shots: int, classifier: str) -> NDArray[np.bool_]:
    """(N,Q) whether each query is nearest to its own person, from (N,K+Q,D) embeddings of an episode."""
    support, queries = faces[:, :shots], faces[:, shots:]
    learned = support.mean(axis=1, keepdims=True) if classifier == "centroid" else support  # (N,1 or K,D)
    distance = np.stack(  # (N,N,Q) of each person to each query; from differences, so that equals are equal
        [np.min([((queries - one) ** 2).sum(axis=2) for one in person], axis=0) for person in learned]
    )
    people = np.arange(len(faces))
    own = distance[people, people]
    distance[people, people] = np.inf
    return np.asarray(own < distance.min(axis=0))


def people_interval(drawn: Episodes, right: NDArray[np.bool_], level: float = 0.95) -> Interval | None:
    """Return the interval of the mean accuracy of episodes over people; None if each episode has all people.

    The variance is that of `Cases.covariance`, at least that of the draw of episodes: an episode is as good as its
    people.

    Args:
        drawn: the episodes.
        right: (E,N,Q) whether each query was given its own person.
        level: in (0, 1).
    """
    cases = _cases(drawn, right)
    if cases.eligible <= cases.people.shape[1]:
        return None
    accuracy = float(cases.values.mean())
    variance = max(cases.covariance(cases), float(cases.values.var()) / len(cases.values))
    wrong = min(
        float(equal_people(np.bincount(drawn.people.ravel(), one.sum(axis=2).ravel()).astype(np.float64)))
        for one in (right, ~right)
    )
    tested = np.ones(len(np.unique(drawn.people)))  # people who were drawn
    low, high = clustered_rate_interval(1 - accuracy, variance, wrong, tested, level)
    return Interval(1 - high, 1 - low)


def _cases(drawn: Episodes, right: NDArray[np.bool_]) -> Cases:
    return Cases(right.mean(axis=(1, 2)), drawn.people, drawn.eligible)
