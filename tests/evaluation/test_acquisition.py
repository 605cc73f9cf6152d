"""Failures to acquire: rates over compared pairs, and generalized rates over all of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from siamese_verify.datasets import SyntheticFaces
from siamese_verify.evaluation import add_failures, verification_report
from siamese_verify.protocols import PairList, PairProtocol, all_pairs, keep_photos


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
    found = add_failures(report, len(photos), 3, *protocol.count_pairs())
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
    assert "FTA 12.50%" in found.sentence
    assert json.loads(json.dumps(found._asdict()))["rates"][0]


def test_a_protocol_without_failures_stays_as_it_is() -> None:
    protocol = all_pairs(SyntheticFaces(identities=3, images=2, size=16), "all")
    assert keep_photos(protocol, np.arange(6)) is protocol
