from __future__ import annotations

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.evaluation import nearest_neighbour, nearest_neighbour_accuracy


def naive_accuracy(embeddings: np.ndarray, identities: np.ndarray) -> float:
    answers = []
    for probe, identity in enumerate(identities):
        if np.sum(identities == identity) < 2:
            continue
        others = [row for row in range(len(identities)) if row != probe]
        cosine = [
            embeddings[probe] @ embeddings[row] / np.linalg.norm(embeddings[probe]) / np.linalg.norm(embeddings[row])
            for row in others
        ]
        answers.append(identities[others[int(np.argmax(cosine))]] == identity)
    return float(np.mean(answers))


@pytest.mark.parametrize("block", [1, 200, 2**22])
@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_a_naive_loop_in_blocks_of_any_size(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest_neighbour, "BLOCK_ENTRIES", block)
    generator = np.random.default_rng(seed)
    identities = generator.integers(0, 30, 90)
    embeddings = generator.normal(size=(30, 6))[identities] + generator.normal(size=(90, 6))
    embeddings *= generator.uniform(0.1, 10, (90, 1))  # length must not matter
    found = nearest_neighbour_accuracy(embeddings, identities)
    assert 0.1 < found < 0.9
    assert found == pytest.approx(naive_accuracy(embeddings, identities), abs=1e-15)


def test_people_with_one_photo_are_strangers_but_no_probes() -> None:
    embeddings = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, 0.12]])
    assert nearest_neighbour_accuracy(embeddings, [7, 7, 8]) == 0.5  # row 1 is nearer to row 2 than to row 0


def test_collapsed_embeddings_score_nothing() -> None:
    assert nearest_neighbour_accuracy(np.ones((6, 4)), [0, 0, 1, 1, 2, 2]) == 0


def test_one_person_alone_is_always_right() -> None:
    assert nearest_neighbour_accuracy(np.eye(3), ["a", "a", "a"]) == 1


def test_tensors_of_half_precision_and_extreme_lengths_are_taken() -> None:
    directions = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    assert nearest_neighbour_accuracy(directions.half(), torch.tensor([0, 0, 1, 1])) == 1
    assert nearest_neighbour_accuracy(directions * 1e30, torch.tensor([0, 0, 1, 1])) == 1
    assert nearest_neighbour_accuracy(directions * 1e-30, torch.tensor([0, 0, 1, 1])) == 1


@pytest.mark.parametrize(
    ("embeddings", "identities", "message"),
    [
        (np.ones((3, 2)), [0, 1, 2], "None of 3 people has two photos"),
        (np.ones((3, 2)), [0, 1], r"3 embeddings and identities of shape \(2,\)"),
        (np.ones(3), [0, 1, 2], r"float64 of shape \(3,\)"),
        (np.array([[1.0, 0], [0, 0], [np.nan, 1]]), [0, 0, 0], r"2 of 3 embeddings .* \(first rows: 1, 2\)"),
        (np.ones((0, 2)), [], "None of 0 people"),
    ],
)
def test_unusable_embeddings_are_refused(embeddings: np.ndarray, identities: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nearest_neighbour_accuracy(embeddings, identities)
