from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel
from siamese_verify.gallery.template_search import ApproximateIndex, Templates, index_path, unit_templates

pytest.importorskip("faiss")

Rows = NDArray[np.float32]


def sign(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def people() -> tuple[Rows, Rows]:
    """Templates of 6,000 people and another photo of each."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(6000, 32))
    first, second = (unit_templates(centers + 0.4 * rng.normal(size=centers.shape), 32) for _ in range(2))
    return first, second


@pytest.fixture(scope="module")
def index(people: tuple[Rows, Rows]) -> ApproximateIndex:
    return ApproximateIndex.build(people[0], np.arange(10, 6010))


def test_nearly_everybody_who_is_there_is_proposed(index: ApproximateIndex, people: tuple[Rows, Rows]) -> None:
    proposed = [person + 10 in index.propose(people[1][person]) for person in range(0, 6000, 20)]
    assert np.mean(proposed) > 0.97


def test_scores_of_what_is_proposed_are_exact(index: ApproximateIndex, people: tuple[Rows, Rows]) -> None:
    rows = people[0]
    numbers = list(range(10, 6010))
    exact = Templates.empty(32).grown(rows, numbers, numbers)
    quick = Templates.of(exact.buffer, len(exact), index=index)
    alike = 0
    for probe in people[1][:200]:
        (best,), (proposed,) = exact.best(probe, 1), quick.best(probe, 1)
        alike += best == proposed
        assert proposed.score == pytest.approx(float(rows[proposed.person - 10] @ probe), abs=1e-6)
    assert alike > 195


def test_where_all_that_was_proposed_is_forgotten_everything_is_searched(people: tuple[Rows, Rows]) -> None:
    rows, numbers = people[0][:2000], list(range(1, 2001))
    index = ApproximateIndex.build(rows, np.array(numbers))
    last = int(np.argmin(rows @ rows[0])) + 1
    assert last not in index.propose(rows[0])
    everybody = Templates.empty(32).grown(rows, numbers, numbers)
    left = Templates.of(everybody.buffer, 2000, index=index).without(set(numbers) - {last})
    assert [hit.person for hit in left.best(rows[0], 5)] == [last]


def test_few_templates_are_one_list(people: tuple[Rows, Rows]) -> None:
    for count in (1, 2, 39, 80):
        index = ApproximateIndex.build(people[0][:count], np.arange(1, count + 1))
        assert set(index.propose(people[0][0], 1000)) <= set(range(1, count + 1))
        assert index.propose(people[0][count - 1])[0] == count


def test_no_templates_have_no_index() -> None:
    with pytest.raises(InputError, match="enroll a person first"):
        ApproximateIndex.build(np.empty((0, 8), np.float32), np.empty(0, np.int64))


def test_what_was_saved_is_mapped_and_proposes_the_same(
    index: ApproximateIndex, people: tuple[Rows, Rows], tmp_path: Path
) -> None:
    index.save(tmp_path / "i", sign)
    assert (tmp_path / "i").stat().st_mode & 0o777 == 0o600
    mapped = ApproximateIndex.load(tmp_path / "i", sign)
    assert mapped is not None
    assert (len(mapped), mapped.last) == (6000, 6009)
    for probe in people[1][:20]:
        np.testing.assert_array_equal(mapped.propose(probe), index.propose(probe))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["i", "i.json"]


def test_an_index_that_somebody_changed_is_not_read(index: ApproximateIndex, tmp_path: Path) -> None:
    path = tmp_path / "i"
    index.save(path, sign)
    content, about = path.read_bytes(), (tmp_path / "i.json").read_text()
    for changed in (content[:-1], content + b"x", b"", content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(changed)
        assert ApproximateIndex.load(path, sign) is None
    path.write_bytes(content)
    for text in (about.replace("6009", "6008"), "", "[]", '{"last": 1}', "null"):
        (tmp_path / "i.json").write_text(text)
        assert ApproximateIndex.load(path, sign) is None
    assert ApproximateIndex.load(tmp_path / "nowhere", sign) is None


@pytest.fixture
def crowd(path: Path, key: GalleryKey, model: GalleryModel, people: tuple[Rows, Rows]) -> Gallery:
    gallery = Gallery.open(path, model._replace(embedding_size=32, impostor_tail=None), key=key)
    for person in range(60):
        gallery.enroll_embeddings(f"P{person}", people[0][person], compare=False)
    return gallery


@pytest.mark.parametrize("keep", [False, True])
def test_who_is_enrolled_or_forgotten_later_is_found_or_not(
    keep: bool, crowd: Gallery, people: tuple[Rows, Rows], path: Path
) -> None:
    with crowd as gallery:
        gallery.use_index(keep=keep)
        assert index_path(path).exists() == keep
        gallery.enroll_embeddings("New", people[0][100], compare=False)
        for person, name in ((7, "P7"), (100, "New")):
            assert gallery.identify_embedding(people[1][person], threshold=0.6).name == name
        gallery.forget("P7")
        assert gallery.identify_embedding(people[1][7], threshold=0.6).name is None
        assert gallery.identify_embedding(people[1][8], threshold=0.6).name == "P8"
        assert not index_path(path).exists()
        assert [file.name for file in path.parent.iterdir()] == ["gallery.db"]


def test_a_kept_index_serves_the_next_opening(
    crowd: Gallery, people: tuple[Rows, Rows], path: Path, key: GalleryKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.use_index(keep=True)
    crowd.enroll_embeddings("New", people[0][100], compare=False)
    crowd.close()
    monkeypatch.setattr(ApproximateIndex, "build", None)
    with Gallery.open(path, key=key) as gallery:
        gallery.use_index(keep=True)
        for person, name in ((7, "P7"), (100, "New")):
            assert gallery.identify_embedding(people[1][person], threshold=0.6).name == name


def test_an_index_that_was_built_while_somebody_was_forgotten_is_not_kept(
    crowd: Gallery, people: tuple[Rows, Rows], path: Path, key: GalleryKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_build = ApproximateIndex.build

    def build(rows: Rows, numbers: NDArray[np.int64]) -> ApproximateIndex:
        made = true_build(rows, numbers)
        with Gallery.open(path, key=key) as other:
            other.forget("P7")
        return made

    monkeypatch.setattr(ApproximateIndex, "build", build)
    with crowd as gallery:
        gallery.forget("P3")
        gallery.use_index(keep=True)
        assert [file.name for file in path.parent.iterdir()] == ["gallery.db"]
        for person, name in ((3, None), (7, None), (8, "P8")):
            assert gallery.identify_embedding(people[1][person], threshold=0.6).name == name


def test_without_faiss_the_sentence_says_how_to_get_it(crowd: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with crowd, pytest.raises(InputError, match=r"pip install 'siamese-verify\[faiss\]'"):
        crowd.use_index()
