"""Templates of several photos, against loops over them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import rankdata

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.evaluation import verification_report
from siamese_verify.evaluation.photo_sets import (
    best_pair_scores,
    combine_photos,
    draw_templates,
    quality_weights,
)
from siamese_verify.protocols import EvaluationSettings, TemplateProtocol, templates


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 8)), rng.permutation(np.repeat(np.arange(6), [1, 2, 9, 4, 8, 6]))


def test_templates_are_weighted_means_of_unit_embeddings() -> None:
    rows, sets = drawn()
    weights = np.random.default_rng(1).random(30) + 0.1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for given, used in ((None, np.ones(30)), (weights, weights)):
        found = combine_photos(rows, sets, given)
        for number in range(6):
            mean = (unit[sets == number] * used[sets == number, None]).sum(axis=0)
            np.testing.assert_allclose(found[number], mean / np.linalg.norm(mean))


def test_the_best_pair_of_two_templates_decides() -> None:
    rows, sets = drawn()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for block in (1, 5, 2048):
        found = best_pair_scores(rows, sets, block)
        for one in range(6):
            for other in range(6):
                assert found[one, other] == pytest.approx((unit[sets == one] @ unit[sets == other].T).max())


def test_a_large_template_is_compared_in_blocks() -> None:
    rows, sets = np.random.default_rng(0).normal(size=(3000, 4)), np.arange(3000) // 1500
    tracemalloc.start()
    best_pair_scores(rows, sets, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 100 * 3000 * 8, "a few blocks, not a template by all rows"


def test_weights_are_mean_ranks_of_what_is_known() -> None:
    first, second = np.array([3.0, 1.0, 2.0, np.nan]), np.array([10.0, 30.0, np.nan, 20.0])
    found = quality_weights({"first": first, "second": second})
    one, two = rankdata(first[:3]) / 3, rankdata(second[[0, 1, 3]]) / 3
    assert found == pytest.approx([(one[0] + two[0]) / 2, (one[1] + two[1]) / 2, one[2], two[2]])
    with pytest.raises(InputError, match="some photos is not known"):
        quality_weights({"first": first})


def test_drawn_templates_are_of_one_person_and_of_one_size() -> None:
    people = np.repeat(["a", "b", "c"], [7, 3, 2])
    found = draw_templates(people, 3)
    assert np.bincount(found[found >= 0]).tolist() == [3, 3, 3]
    for number in range(3):
        assert len(set(people[found == number])) == 1
    assert (found == -1).sum() == 3
    assert not np.array_equal(found, draw_templates(people, 3, seed=5))
    with pytest.raises(InputError, match="1 people have 4 photos"):
        draw_templates(people, 4)


@pytest.mark.parametrize("combine", ["mean", "quality", "best"])
def test_the_protocol_reports_all_pairs_of_templates(combine: str) -> None:
    photos = SyntheticFaces(identities=8, images=7, size=16)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 16))[photos.identities] + 2 * rng.normal(size=(56, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    quality = rng.random(56)
    protocol = templates(photos, size=3, combine=combine)
    assert isinstance(protocol, TemplateProtocol)
    found = protocol.evaluate(rows, EvaluationSettings(qualities={"mine": quality}))
    sets = draw_templates(photos.identities, 3)
    used = sets >= 0
    people = np.array([photos.identities[sets == number][0] for number in range(16)])
    left, right = np.triu_indices(16, 1)
    if combine == "best":
        scores = best_pair_scores(rows[used], sets[used])[left, right]
    else:
        weights = quality_weights({"mine": quality[used]}) if combine == "quality" else None
        made = combine_photos(rows[used], sets[used], weights)
        scores = (made @ made.T)[left, right]
    expected = verification_report(scores, people[left] == people[right])
    assert (found.genuine, found.impostors, found.eer, found.auc) == (8, 112, expected.eer, expected.auc)
    assert found.intervals["eer"].low <= found.eer <= found.intervals["eer"].high
    failed = protocol.count_failures(found, np.arange(50))
    assert (failed.failures, failed.genuine_failures) == (6, 0)
    lost = sets == sets[used & (photos.identities == 0)][0]  # all photos of one of the first person's templates
    lost |= np.arange(56) == np.flatnonzero((photos.identities == 1) & used)[0]
    left_over = np.flatnonzero(~lost)
    report = protocol.keep(left_over).evaluate(rows[left_over], EvaluationSettings(qualities={"a": quality[left_over]}))
    failed = protocol.count_failures(report, left_over)
    assert (report.genuine, failed.genuine, failed.genuine_failures) == (7, 8, 1)
    assert (report.impostors, failed.impostors, failed.impostor_failures) == (98, 112, 14)


def test_listed_templates_are_of_one_person(tmp_path) -> None:  # type: ignore[no-untyped-def]
    photos = SyntheticFaces(identities=3, images=4, size=16)
    file = tmp_path / "templates.csv"
    lines = [f"{name},t{number // 2}" for number, name in enumerate(photos.names[:10])]
    file.write_text("\n".join(["path,template", *lines]))
    protocol = templates(photos, path=file)
    assert isinstance(protocol, TemplateProtocol)
    found = protocol.evaluate(np.random.default_rng(0).normal(size=(12, 8)), EvaluationSettings(0))
    assert (found.genuine, found.impostors, found.intervals) == (2, 8, {})
    file.write_text("\n".join(["path,template", *[line.replace("t2", "t1") for line in lines]]))
    with pytest.raises(InputError, match="two people in the template 't1'"):
        templates(photos, path=file)
    for options, message in ((("size", 0), "1 or more, got 0"), (("combine", "max"), "best, got 'max'")):
        with pytest.raises(InputError, match=message):
            templates(photos, **dict([options]))  # type: ignore[arg-type]
