"""Generated sentences: paraphrases of the same meaning, as arrays of hashed words."""

from __future__ import annotations

import zlib
from itertools import combinations
from typing import Any

import numpy as np

from siamese_verify.datasets.generated import GeneratedSet
from siamese_verify.errors import InputError


def words_of(text: str) -> list[list[str]]:
    """Meanings, which ; separates, and the words for each, which | separates."""
    return [words.split("|") for words in text.split("; ")]


WHO = words_of(
    "doctor|physician|medic; child|kid|youngster; lawyer|attorney|counsel; teacher|instructor|tutor; "
    "thief|burglar|robber; officer|policeman|constable; boss|manager|chief; writer|author|novelist; "
    "guest|visitor|caller; sailor|seaman|mariner; singer|vocalist|crooner; farmer|grower|peasant; "
    "soldier|trooper|fighter; woman|lady|dame"
)
DID = words_of(
    "helped|assisted|aided; hit|struck|punched; called|phoned|rang; noticed|spotted|observed; "
    "annoyed|irritated|bothered; praised|lauded|applauded; followed|tailed|shadowed; "
    "tricked|fooled|deceived; hired|employed|engaged; frightened|scared|terrified"
)
WHERE = words_of(
    "in the wood|in the forest; at home|in the house; on the road|in the street; at the shop|in the "
    "store; on the ship|aboard the boat; at school|in class"
)
WHEN = words_of(
    "at night|after dark; in the morning|at dawn; last year|a year ago; recently|not long ago; on the weekend|on Sunday"
)
TEMPLATES = (
    "the {who} {did} the {whom} {where} {when}",
    "{when} the {who} {did} the {whom} {where}",
    "the {whom} was {did} by the {who} {where} {when}",
    "{where} the {whom} was {did} {when} by the {who}",
    "it was the {who} who {did} the {whom} {when} {where}",
    "it was the {whom} whom the {who} {did} {where} {when}",
)
PEOPLE = tuple(combinations(WHO, 2))
TWINS = len(PEOPLE) * len(DID) * len(WHERE) * len(WHEN)  # pairs of meanings in which who and whom change places
STRIDE = 19_121  # a prime that divides no length: successive twins share little


def hash_words(text: str, vocabulary: int = 4096, length: int = 20) -> np.ndarray:
    """(length,) float32 numbers of the words of a text in 1 ... vocabulary - 1, then zeros; further words are left out.

    A word has the number CRC-32(word) mod (vocabulary - 1) + 1, so that no list of words is kept; two words may share
    one (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009).
    """
    numbers = [zlib.crc32(word.encode()) % (vocabulary - 1) + 1 for word in text.lower().split()][:length]
    return np.array(numbers + [0] * (length - len(numbers)), dtype=np.float32)


class Sentences(GeneratedSet):
    """Paraphrases: sentences of one meaning in other words and another order, as `hash_words` gives them.

    A meaning is who did what to whom, where and when. Meanings of different numbers differ in at least one of these.
    2i and 2i + 1 have the same words, but who and whom change places.

    Args:
        identities: meanings.
        samples: paraphrases of each.
        vocabulary: numbers of words.
        length: of an array.
        seed: of the paraphrases; a number has the same meaning with every seed.
        first: number of the first meaning.

    Attributes:
        claimed: (N,) int64, of 2i and 2i + 1 the former.
        kinds: (N,) "" of 2i and `exchanged` of 2i + 1.

    Raises:
        InputError: a number is too small, or a meaning behind the last of 54,600.
    """

    kind = "sentences"
    nouns = ("meaning", "sentence")

    def __init__(
        self,
        identities: int = 1000,
        samples: int = 4,
        vocabulary: int = 4096,
        length: int = 20,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self.check(vocabulary=(vocabulary, 2), length=(length, 1))
        super().__init__(identities, samples, seed, first)
        if first + identities > 2 * TWINS:
            raise InputError(f"There are {2 * TWINS:,} meanings, got first={first} and identities={identities}.")
        self.vocabulary, self.length = vocabulary, length

    @property
    def namespace(self) -> str:
        """Where the numbers of meanings are unique: in all seeds alike."""
        return self.kind

    @property
    def claimed(self) -> np.ndarray:
        """(N,) int64, of 2i and 2i + 1 the former."""
        return self.identities // 2 * 2

    @property
    def kinds(self) -> np.ndarray:
        """(N,) "" of 2i and `exchanged` of 2i + 1."""
        return np.where(self.identities % 2, "exchanged", "")

    def text(self, identity: int, number: int) -> str:
        """One sentence of a meaning."""
        place = identity // 2 * STRIDE % TWINS
        parts: list[Any] = []
        for words in (PEOPLE, DID, WHERE, WHEN):
            place, index = divmod(place, len(words))
            parts.append(words[index])
        people, did, where, when = parts
        who, whom = people[::-1] if identity % 2 else people
        rng = np.random.default_rng([self.seed, identity, number + 1])
        named = {"who": who, "whom": whom, "did": did, "where": where, "when": when}
        said = {name: words[rng.integers(len(words))] for name, words in named.items()}
        return TEMPLATES[rng.integers(len(TEMPLATES))].format(**said)

    @property
    def texts(self) -> list[str]:
        """N sentences, by row."""
        rows = (divmod(row, self.samples) for row in range(len(self)))
        return [self.text(self.first + place, number) for place, number in rows]

    def draw(self, identity: int, number: int) -> np.ndarray:
        """Words of a sentence: (length,) float32."""
        return hash_words(self.text(identity, number), self.vocabulary, self.length)
