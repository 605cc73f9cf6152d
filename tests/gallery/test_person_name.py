from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_verify.errors import InputError
from siamese_verify.gallery import person_name


@pytest.mark.parametrize(
    "name",
    [
        "Ann",
        "Zoë Müller-Łuczak",
        "山田 太郎",
        "محمد",
        "ქარ\u200cთული",
        "O'Neil, Jr.",
        "../../etc/passwd",
        "😀",
        "x" * 200,
    ],
)
def test_names_of_all_the_world_are_kept_as_they_are(name: str) -> None:
    assert person_name(name) == unicodedata.normalize("NFC", name)


def test_composed_and_decomposed_letters_are_one_name() -> None:
    assert person_name("Zoe\u0308") == person_name("Zo\u00eb") == "Zo\u00eb"


def test_spaces_around_a_name_are_dropped() -> None:
    assert person_name("  Ann \n") == "Ann"


@pytest.mark.parametrize("name", ["", "   ", "\n", "\u200d", "\u200c\u200d"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is empty"):
        person_name(name)


def test_a_name_of_more_than_200_characters_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="201 characters") as error:
        person_name("x" * 201)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "character",
    ["\x00", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\ud800", "\U000e0041"],
)
def test_invisible_characters_are_refused(character: str) -> None:
    with pytest.raises(InputError, match="invisible character") as error:
        person_name(f"An{character}n")
    assert character not in str(error.value)


@given(st.text(st.characters(), max_size=220))
def test_any_text_gives_a_name_that_stays_or_a_sentence(text: str) -> None:
    try:
        name = person_name(text)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert person_name(name) == name
        assert 0 < len(name) <= 200
        assert name.encode().decode() == name
