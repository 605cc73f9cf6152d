"""Failures to acquire: rates over compared pairs, and generalized rates over all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.evaluation import add_failures, failure_interval, pair_intervals, verification_report
from siamese_verify.evaluation.base_report import LeftOut
from siamese_verify.protocols import EvaluationSettings, PairList, PairProtocol, all_pairs, keep_photos


@pytest.mark.parametrize("listed", [True, False])
def test_generalized_rates_count_pairs_with_a_failure_as_rejected(listed: bool) -> None:
    photos = SyntheticFaces(identities=6, images=4, size=16)
    rng = np.random.default_rng(0)
    left, right = np.triu_indices(len(photos), 1)
    scores = rng.normal(size=len(left)) + (photos.identities[left] == photos.identities[right])
    same = photos.identities[left] == photos.identities[right]
    protocol = PairProtocol("listed", photos, PairList(left, right, same)) if listed else all_pairs(photos, "all")
    rows = np.delete(np.arange(len(photos)), [2, 3, 17])
    kept = np.isin(left, rows) & np.isin(right, rows)

    compared = keep_photos(protocol, rows)
    assert list(compared.photos.names) == [photos.names[row] for row in rows]
    assert compared.count_pairs() == ((same & kept).sum(), (~same & kept).sum())
    if compared.pairs is not None:
        np.testing.assert_array_equal(rows[compared.pairs.left], left[kept])
        np.testing.assert_array_equal(rows[compared.pairs.right], right[kept])
        np.testing.assert_array_equal(compared.pairs.same, same[kept])

    report = verification_report(scores[kept], same[kept], threshold=0.4)
    found = add_failures(report, photos.identities, ~np.isin(np.arange(24), rows), *protocol.count_pairs())
    assert found.failure_rate == 3 / 24
    assert (found.genuine, found.genuine_failures) == (same.sum(), (same & ~kept).sum())
    assert (found.impostors, found.impostor_failures) == ((~same).sum(), (~same & ~kept).sum())
    assert [row.threshold for row in found.rates] == [0.4, *(point.threshold for point in report.operating_points)]
    for row in found.rates:
        accepted = kept & (scores >= row.threshold)
        assert row.fmr == pytest.approx((accepted & ~same).sum() / (~same & kept).sum())
        assert row.fnmr == pytest.approx(1 - (accepted & same).sum() / (same & kept).sum())
        assert row.generalized_far == pytest.approx((accepted & ~same).sum() / (~same).sum())
        assert row.generalized_frr == pytest.approx(1 - (accepted & same).sum() / same.sum())
    assert "FTA 12.50%, 95 % interval" in found.sentence
    assert found == protocol.count_failures(report, rows)
    assert json.loads(json.dumps(found._asdict()))["rates"][0]


def test_generalized_rates_have_the_intervals_of_pairs_whose_failures_score_lowest() -> None:
    rng = np.random.default_rng(0)
    photos = SyntheticFaces(identities=20, images=4, size=16)
    people, failed = np.asarray(photos.identities), rng.random(80) < 0.15
    failed[people == people[0]] = True  # nothing is left of one person
    rows = (rng.normal(size=(20, 16))[people] + 0.7 * rng.normal(size=(80, 16))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(80, 1)
    same, lost = people[left] == people[right], failed[left] | failed[right]
    scores = (rows[left].astype(np.float64) * rows[right]).sum(axis=1)
    threshold, kept = 0.4017, np.flatnonzero(~failed)
    report = verification_report(scores[~lost], same[~lost], threshold=threshold, targets=(1e-2,))
    sides = np.stack([people[left], people[right]], axis=1)
    wanted = pair_intervals(np.where(lost, -9, scores), same, sides, threshold=threshold)
    for protocol in (all_pairs(photos, "all"), PairProtocol("listed", photos, PairList(left, right, same))):
        at = protocol.count_failures(report, kept, rows[kept]).rates[0]
        assert at.generalized_frr_interval == pytest.approx(wanted["frr"], rel=1e-6)
        assert at.generalized_far_interval == pytest.approx(wanted["far"], rel=0.02)  # other thresholds are looked at
        assert at.generalized_frr_interval.low < at.generalized_frr < at.generalized_frr_interval.high
        assert protocol.count_failures(report, kept).rates[0].generalized_frr_interval is None


@pytest.mark.parametrize("groups", [2, 3])
def test_a_group_without_any_face_is_reported_and_the_others_are_compared(groups: int) -> None:
    photos = SyntheticFaces(identities=9, images=3, size=16)
    people = np.asarray(photos.identities)
    numbers = np.unique(people, return_inverse=True)[1]
    labels = np.array(["a", "b", "c"])[numbers % groups]
    kept = np.flatnonzero(labels != "a")
    rows = np.random.default_rng(0).normal(size=(len(kept), 8)).astype(np.float32)
    protocol = replace(all_pairs(photos, "all"), photo_groups=labels)
    report = protocol.keep(kept).evaluate(rows, EvaluationSettings(resamples=20))
    assert (report.differentials is None) == (groups == 2)
    if report.differentials:
        assert report.differentials.groups == ("b", "c")
    found = protocol.count_failures(report, kept)
    lost = int((labels == "a").sum())
    assert [(one.group, one.failures) for one in found.groups] == [("a", lost), *[(g, 0) for g in "bc"[: groups - 1]]]
    some = len(np.unique(numbers[labels == "a"]))
    assert found.groups[0].failure_interval == pytest.approx((0.05 ** (1 / some), 1))
    assert f"FTA by group: a 100.00% of {lost} photos" in found.sentence


def test_the_interval_of_failures_counts_people_and_not_photos() -> None:
    failed = np.random.default_rng(0).random(400) < 0.1
    low, high = failure_interval(np.arange(400), failed)  # everybody has one photo: the exact binomial interval
    exact = binomtest(int(failed.sum()), 400).proportion_ci()
    assert (low, high) == pytest.approx((exact.low, exact.high), rel=0.15)
    people = np.arange(400) // 20
    same = failure_interval(people, people < 2)  # two of twenty people fail in all of their photos
    assert same.low < 0.03
    assert same.high > 0.25
    assert failure_interval(people, np.zeros(400)) == pytest.approx((0, 1 - 0.05 ** (1 / 20)))  # one-sided


def test_photos_that_were_left_out_are_pictured(tmp_path: Path) -> None:
    def damaged() -> Image.Image:
        raise InputError("the photo is damaged")

    photos = SyntheticFaces(identities=6, images=4, size=16)
    left, right = np.triu_indices(len(photos), 1)
    same = photos.identities[left] == photos.identities[right]
    report = verification_report(np.random.default_rng(0).normal(size=len(left)), same)
    left_out = [LeftOut("dark <1>.jpg", "no face was found", lambda: Image.new("RGB", (40, 40)))]
    report.save(tmp_path, left_out=[*left_out, *[LeftOut(f"{n}.jpg", "multiple faces", damaged) for n in range(30)]])
    page = (tmp_path / "report.html").read_text()
    shown = page[page.index("Photos that were left out") :]
    assert "The first 24 of 31" in shown
    assert "dark &lt;1&gt;.jpg" in shown
    assert shown.count("no picture") == 23
    assert shown.count("<img") == 1


def test_a_protocol_without_failures_stays_as_it_is() -> None:
    protocol = all_pairs(SyntheticFaces(identities=3, images=2, size=16), "all")
    assert keep_photos(protocol, np.arange(6)) is protocol
