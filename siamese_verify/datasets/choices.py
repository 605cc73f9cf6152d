"""Generated choices: users and items of a market, whose descriptions show hidden tastes, and who chose what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from siamese_verify.datasets.arrays import pack_side
from siamese_verify.datasets.generated import GeneratedSet

TASTES = 6  # hidden numbers of a user and of an item
USER, ITEM = (20,), (2, 16)  # shapes of their descriptions
LENGTH = 32  # numbers of the longer description
SHARPNESS = 2.0  # of a choice: by chance at 0


@dataclass(frozen=True)
class Market:
    """Items, and how users and items are described.

    Attributes:
        tastes: (I,TASTES) of the items.
        popularity: (I,) that is added to what a user thinks of an item.
        items: (I,*ITEM) float32 descriptions.
        user_map: (TASTES,USER) from a user's tastes to their description.
    """

    tastes: np.ndarray
    popularity: np.ndarray
    items: np.ndarray
    user_map: np.ndarray


@lru_cache(maxsize=8)
def draw_market(seed: int, items: int) -> Market:
    """The market of a seed."""
    rng = np.random.default_rng([seed, items])
    tastes, popularity = rng.normal(size=(items, TASTES)), rng.normal(0, 0.7, items)
    seen = np.tanh(tastes @ rng.normal(size=(TASTES, 32))) + rng.normal(0, 0.3, (items, 32))
    user_map = rng.normal(size=(TASTES, *USER))
    return Market(tastes, popularity, seen.reshape(items, *ITEM).astype(np.float32), user_map)


class ItemChoices(GeneratedSet):
    """Users beside an item that each chose: rows for `siamese_verify.encoders.Towers`, as `ArrayPairs` gives them.

    A user likes an item by the product of their tastes; the more popular of two is chosen more often. Users choose
    without repetition, and each choice is a pair of its own: rows 2i and 2i + 1 are the user and the item of choice i.

    Args:
        identities: users.
        samples: choices of each.
        items: of the market.
        seed: of the market and all draws.
        first: number of the first user.

    Attributes:
        chosen: (C,) int64 item of each choice, user by user.

    Raises:
        InputError: a number is too small, or fewer items than choices.
    """

    kind = "choices"
    nouns = ("choice", "side")

    def __init__(
        self, identities: int = 3000, samples: int = 4, items: int = 1000, seed: int = 0, first: int = 0
    ) -> None:
        self.check(samples=(samples, 1), items=(items, samples), first=(first, 0), identities=(identities, 1))
        super().__init__(identities * samples, 2, seed, first * samples)
        self.choices, self.market = samples, draw_market(seed, items)
        users = range(first, first + identities)
        self.chosen: np.ndarray = np.concatenate([self.choose(user)[1] for user in users])

    def choose(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """Description (*USER,) float32 of a user, and their `samples` choices."""
        rng, market = np.random.default_rng([self.seed, user + 1, 1]), self.market
        tastes = rng.normal(size=TASTES)
        seen = np.tanh(tastes @ market.user_map) + rng.normal(0, 0.3, USER)
        liked = SHARPNESS * market.tastes @ tastes + market.popularity
        best = np.argsort(liked + rng.gumbel(size=len(liked)))[::-1]  # a softmax, without replacement
        return seen.astype(np.float32), best[: self.choices]

    def draw(self, identity: int, number: int) -> np.ndarray:
        """Packed user or item of a choice: (1 + LENGTH,) float32."""
        user, choice = divmod(identity, self.choices)
        seen, chosen = self.choose(user)
        return pack_side(self.market.items[chosen[choice]] if number else seen, bool(number), LENGTH)


class ItemRanking(ItemChoices):
    """Users as queries, and all items of the market as the gallery in which their choice is to be found.

    Args:
        identities: users, with one choice each.
        items: of the market.
        seed: as of the `ItemChoices` trained on.
        first: number of the first user: one behind those trained on.

    Attributes:
        splits: (N,) `query` of users and `gallery` of items.

    Raises:
        InputError: a number is too small.
    """

    def __init__(self, identities: int = 500, items: int = 1000, seed: int = 0, first: int = 1_000_000) -> None:
        super().__init__(identities, 1, items, seed, first)
        self.splits = ["query"] * self.count + ["gallery"] * len(self.market.items)

    @property
    def namespace(self) -> str:
        """Items are known from training; users are not."""
        return f"ranked {super().namespace}"

    @property
    def identities(self) -> np.ndarray:
        """(N,) int64: the item that a user chose, or that it is."""
        return np.concatenate([self.chosen, np.arange(len(self.market.items))])

    @property
    def names(self) -> list[str]:
        """N names such as `user 1000012` and `item 0003`."""
        items = [f"item {item:04}" for item in range(len(self.market.items))]
        return [f"user {self.first + user}" for user in range(self.count)] + items

    def __len__(self) -> int:
        return len(self.splits)

    def __getitem__(self, row: int) -> np.ndarray:
        if row < self.count:
            return self.draw(self.first + row, 0)
        return pack_side(self.market.items[row - self.count], True, LENGTH)
