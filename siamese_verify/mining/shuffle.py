"""Any place of a random permutation, without making the permutation."""

from __future__ import annotations

import numpy as np

ROUNDS = 32
STEP = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(1 << 63)


def shuffled(place: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Send places through permutations of 0 ... size - 1, one for each key and size.

    The swap-or-not shuffle of Hoang, Morris & Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012:
    each round pairs the places up at random and swaps each pair or not, by a bit that both compute alike. It serves to
    draw, not to encipher.

    Args:
        place: integers in [0, size).
        size: integers in [1, 2^31], of a shape that broadcasts with that of `place`.
        key: uint64, of the shape of `size`.

    Returns:
        int64 in [0, size), of the shape of `place`; different for different places of one permutation.
    """
    size, place = size.astype(np.uint64), place.astype(np.uint64)
    number = np.arange(1, 3 * ROUNDS + 1, dtype=np.uint64).reshape(-1, *[1] * key.ndim)
    salt = mixed(key + number * STEP)
    for pairing, factor, offset in zip(salt[::3] % size + size, salt[1::3], salt[2::3], strict=True):
        partner = pairing - place
        partner = np.minimum(partner, partner - size)  # of a partner below the size, the difference is huge
        swap = np.maximum(place, partner) * factor + offset >= HALF
        place = np.where(swap, partner, place)
    return place.astype(np.int64)


def mixed(value: np.ndarray) -> np.ndarray:
    """Scatter the bits of uint64 values, one to one (SplitMix64: Steele, Lea & Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixture: np.ndarray = value ^ (value >> np.uint64(31))
    return mixture
