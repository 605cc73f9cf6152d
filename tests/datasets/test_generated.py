"""Generated data sets beyond faces: what each promises, and that raw inputs do not give the identities away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from siamese_verify.datasets import (
    GeneratedSet,
    ItemChoices,
    ItemRanking,
    Pedestrians,
    Products,
    Sentences,
    Signatures,
    Voices,
    hash_words,
)
from siamese_verify.datasets.voices import FRAME, HOP, RATE, draw_voice, log_mel, mel_bands, synthesize
from siamese_verify.errors import InputError
from siamese_verify.protocols import claimed_pairs
from siamese_verify.protocols.leakage import TrainingSubset, find_leak

MAKERS: dict[str, Callable[..., GeneratedSet]] = {
    "signatures": partial(Signatures, forgeries=1, size=32),
    "voices": partial(Voices, seconds=0.3, bands=12),
    "sentences": Sentences,
    "pedestrians": partial(Pedestrians, size=16),
    "products": partial(Products, size=16),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., GeneratedSet]:
    return MAKERS[request.param]


def content(sample: Any) -> bytes:
    return np.asarray(sample).tobytes()


def test_a_sample_depends_on_seed_identity_and_number_alone(make: Callable[..., GeneratedSet]) -> None:
    few, many = make(2, 2, first=1), make(3, 2)
    backwards = [content(few[row]) for row in reversed(range(len(few)))][::-1]
    assert backwards == [content(many[len(few) // 2 + row]) for row in range(len(few))]
    assert content(make(1, 2, seed=1)[0]) != content(many[0])
    assert len({content(many[row]) for row in range(len(many))}) == len(many)


def test_every_row_has_its_name_and_its_identity(make: Callable[..., GeneratedSet]) -> None:
    found = make(3, 2, first=7)
    assert len(found) == len(found.identities) == len(found.names) == len(set(found.names))
    assert found.identities.dtype == np.int64
    assert not set(found.identities) & set(make(7, 2).identities), "ranges that do not overlap"
    assert found.namespace == make(1, 1).namespace
    same_with_all_seeds = isinstance(found, Sentences)
    assert (found.namespace == make(1, 1, seed=1).namespace) == same_with_all_seeds
    with pytest.raises(IndexError, match=str(len(found))):
        found[len(found)]


@pytest.mark.parametrize("given", [{"identities": 0}, {"samples": 0}, {"seed": -1}, {"first": -2}])
def test_numbers_that_are_too_small_are_refused(make: Callable[..., GeneratedSet], given: dict[str, int]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(InputError, match=f"{name} of .* must be at least . got {value}".replace(". got", ".*got")):
        make(**{"identities": 2, "samples": 2, **given})


def test_forgeries_are_of_the_name_but_of_another_hand() -> None:
    found = Signatures(2, 3, forgeries=2, size=32, first=5)
    assert found.kinds[:7].tolist() == [*[""] * 3, *["unskilled"] * 2, *["skilled"] * 2]
    assert found.claimed.tolist() == [5] * 7 + [6] * 7
    hands = found.identities.reshape(2, 7)
    assert (hands[:, :3] == [[5], [6]]).all(), "genuine"
    assert [len(set(row)) for row in hands.tolist()] == [3, 3], "one forger of each kind"
    assert len(set(hands.ravel().tolist())) == 6
    assert found.names[5] == "writer 0005 skilled forgery 00"


def test_a_tracing_is_nearer_to_the_signature_than_another_hand_and_that_than_another_name() -> None:
    found = Signatures(30, 4, forgeries=2, size=48)
    ink = np.stack([255.0 - np.asarray(found[row], np.float64)[..., 0] for row in range(len(found))])
    ink = np.stack([plane - np.median(plane) for plane in ink]).reshape(-1, 12, 4, 12, 4).mean((2, 4)).reshape(-1, 144)
    ink /= np.linalg.norm(ink, axis=1, keepdims=True)
    means: list[float] = []
    for kind in ("skilled", "unskilled", "random"):
        pairs = claimed_pairs(found, kind).pairs
        assert pairs is not None
        scores = (ink[pairs.left] * ink[pairs.right]).sum(1)
        means += [] if means else [scores[pairs.same].mean()]
        means.append(scores[~pairs.same].mean())
    assert means == sorted(means, reverse=True), "genuine, skilled, unskilled, random"


def test_a_voice_keeps_its_pitch_over_phrases() -> None:
    for speaker in range(4):
        voice = draw_voice(0, speaker)
        for phrase in range(2):
            signal = synthesize(voice, np.random.default_rng(phrase), 0.5)
            assert signal.shape == (RATE // 2,)
            assert np.square(signal).mean() == pytest.approx(1)
            power = np.abs(np.fft.rfft(signal)) ** 2
            echo = np.fft.irfft(power)  # autocorrelation: its first high peak is at the period
            lags = np.arange(int(RATE / voice.pitch / 1.5), int(1.5 * RATE / voice.pitch))
            assert RATE / lags[echo[lags].argmax()] == pytest.approx(voice.pitch, rel=0.35)


def test_a_tone_is_in_the_band_of_its_frequency() -> None:
    bands = mel_bands(20)
    assert (bands >= 0).all() and (bands.max(axis=1) > 0.3).all()
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    for tone in (500, 1500, 3000):
        found = log_mel(np.sin(2 * np.pi * tone * np.arange(RATE) / RATE), 20)
        assert found.shape == (20, (RATE - FRAME) // HOP + 1)
        assert found.dtype == np.float32
        nearest = np.abs(hertz - tone).argmin()
        assert (found.argmax(axis=0) == bands[:, nearest].argmax()).all()


def test_hashed_words_are_the_same_for_the_same_word_and_end_in_zeros() -> None:
    found = hash_words("The dog and the cat", vocabulary=1000, length=7)
    assert found[0] == found[3] and found[5:].tolist() == [0, 0]
    assert len(set(found[:5].tolist())) == 4 and found[:5].min() >= 1 and found.max() < 1000
    assert hash_words("a b c", length=2).shape == (2,)


def test_a_meaning_is_the_same_with_every_seed_so_that_leakage_is_seen() -> None:
    first, second = (set(Sentences(2, 9000, seed=seed, first=6).texts) for seed in (0, 1))
    assert first == second, "all sentences of two meanings"
    assert set(Sentences(2, 9, first=6).texts) != set(Sentences(2, 9, seed=1, first=6).texts)
    leak = find_leak([TrainingSubset.from_photos(Sentences(20, 2), np.arange(40))], Sentences(20, 2, seed=1, first=10))
    assert len(leak.people) == 10


def test_paraphrases_share_a_meaning_and_no_two_meanings_a_sentence() -> None:
    found = Sentences(300, 3)
    owners: dict[str, set[int]] = {}
    for text, meaning in zip(found.texts, found.identities.tolist(), strict=True):
        owners.setdefault(text, set()).add(meaning)
    assert max(map(len, owners.values())) == 1
    np.testing.assert_array_equal(found[4], hash_words(found.texts[4]))
    assert len(found.texts[0].split()) <= found.length
    for who_and_whom in range(0, 300, 2):
        alike = Sentences(2, 60, first=who_and_whom)
        words = [{frozenset(text.split()) - {"whom"} for text in part} for part in (alike.texts[:60], alike.texts[60:])]
        assert words[0] & words[1], "who and whom change places"
    with pytest.raises(InputError, match="54,600 meanings, got first=54600"):
        Sentences(1, first=54600)


def test_a_camera_gives_all_people_its_colors() -> None:
    found = Pedestrians(20, 6, camera_count=3, size=32)
    means = np.stack([np.asarray(found[row], np.float64).mean((0, 1)) for row in range(len(found))])
    cameras = np.array(found.cameras)
    assert cameras[:4].tolist() == ["camera 0", "camera 1", "camera 2", "camera 0"]
    assert found.splits[:6] == ["query"] * 3 + ["gallery"] * 3
    by_camera = np.stack([means[cameras == camera].mean(0) for camera in sorted(set(found.cameras))])
    by_person = np.stack([means[found.identities == person].mean(0) for person in range(20)])
    assert by_camera.std(0).mean() > 2 * by_person.std(0).mean()


def test_choices_are_pairs_of_a_user_and_an_item_of_the_market() -> None:
    found = ItemChoices(5, 3, items=40, first=2)
    assert (len(found), len(set(found.identities.tolist())), found.chosen.shape) == (30, 15, (15,))
    assert all(len(set(row)) == 3 for row in found.chosen.reshape(5, 3).tolist()), "nobody chooses twice"
    for choice in range(15):
        user, item = found[2 * choice], found[2 * choice + 1]
        assert (user[0], item[0]) == (0, 1) and not user[21:].any()
        np.testing.assert_array_equal(item[1:], found.market.items[found.chosen[choice]].ravel())
        np.testing.assert_array_equal(user, found[2 * (choice // 3 * 3)])
    np.testing.assert_array_equal(ItemChoices(9, 3, items=40)[2 * 3 * 2], found[0])


def test_users_choose_by_taste_and_popularity() -> None:
    found = ItemChoices(400, 1, items=60)
    counts = np.bincount(found.chosen, minlength=60)
    assert np.corrcoef(counts, found.market.popularity)[0, 1] > 0.2
    users = np.stack([found[2 * row][1:21] for row in range(400)])
    items = found.market.tastes[found.chosen]
    weights, *_ = np.linalg.lstsq(users[:300], items[:300], rcond=None)  # what a description says of tastes
    guessed = users[300:] @ weights
    assert np.mean((guessed * items[300:]).sum(1)) > 2 * np.mean(guessed @ found.market.tastes.T) + 0.5


def test_a_ranking_has_users_as_queries_and_every_item_once() -> None:
    found, chosen = ItemRanking(6, 40, first=100), ItemChoices(6, 1, 40, first=100)
    assert len(found) == len(found.names) == len(set(found.names)) == 46
    assert found.splits == ["query"] * 6 + ["gallery"] * 40
    assert found.identities.tolist() == [*chosen.chosen.tolist(), *range(40)]
    np.testing.assert_array_equal(found[3], chosen[6])
    np.testing.assert_array_equal(found[6 + int(chosen.chosen[3])], chosen[7])
    assert found.namespace != chosen.namespace, "items are known from training"
