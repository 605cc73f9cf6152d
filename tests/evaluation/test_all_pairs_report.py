from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

from siamese_verify.errors import InputError
from siamese_verify.evaluation import VerificationReport, all_pairs_report, verification_report
from siamese_verify.evaluation.all_pairs import SAMPLE_FROM, bins_needed
from siamese_verify.evaluation.all_pairs_rows import all_pairs_intervals
from siamese_verify.pairwise import pair_scores
from siamese_verify.pairwise.pair_scores import PairScores, full_precision, parallel, torch_device

TARGETS = (0.3, 1e-2, 1e-3, 1e-4)
Set = tuple[np.ndarray, np.ndarray]


def signs(rows: int, people: int, dimensions: int = 256, kept: float = 0.6, seed: int = 0) -> Set:
    """Embeddings whose products are exact in any order of summation, with many ties."""
    generator = np.random.default_rng(seed)
    identities = generator.integers(0, people, rows)
    centers, noise = (generator.choice([-1, 1], (count, dimensions)) for count in (people, rows))
    kept_here = generator.random((rows, dimensions)) < kept
    return (np.where(kept_here, centers[identities], noise) / dimensions**0.5).astype(np.float32), identities


def indices(first: Set, second: Set | None) -> tuple[np.ndarray, np.ndarray]:
    if second is None:
        return np.triu_indices(len(first[0]), 1)
    left, right = np.indices((len(first[0]), len(second[0]))).reshape(2, -1)
    return left, right


def listed(first: Set, second: Set | None = None, **options: Any) -> VerificationReport:
    """Every pair written down."""
    (rows, people), (others, their_people) = first, second or first
    left, right = (
        np.triu_indices(len(rows), 1) if second is None else np.indices((len(rows), len(others))).reshape(2, -1)
    )
    return verification_report((rows @ others.T)[left, right], people[left] == their_people[right], **options)


def numbers(report: VerificationReport, first: Set, second: Set | None = None) -> list[tuple[int, float]]:
    """The hardest pairs of a listed report, numbered as all pairs are."""
    width = len((second or first)[0])
    left, right = indices(first, second)
    hardest = (*report.hardest.impostors, *report.hardest.genuine)
    return [(int(left[pair.row] * width + right[pair.row]), pair.score) for pair in hardest]


def assert_same(found: VerificationReport, expected: VerificationReport) -> None:
    assert found.d_prime == pytest.approx(expected.d_prime, rel=1e-9)
    parts = [report.to_dict() | {"d_prime": None} for report in (found, expected)]
    assert parts[0] == parts[1]


SAMPLES = pytest.mark.parametrize("sample_from", [0, SAMPLE_FROM], ids=["sample and pass", "two passes"])


def wolves() -> Set:
    """Random embeddings with a few that are like all others, which a sample may miss."""
    rows, identities = signs(900, 200)
    rows[::180] = (np.sign(rows.sum(axis=0) + 0.1) / 16).astype(np.float32)
    return rows, identities


@SAMPLES
@pytest.mark.parametrize(
    "given",
    [
        pytest.param(signs(700, 40), id="people"),
        pytest.param(signs(700, 2, kept=0.3), id="mostly genuine"),
        pytest.param(signs(900, 600, 1024), id="mostly alone"),
        pytest.param(signs(1200, 100, 64, kept=0.1), id="confused"),
        pytest.param(signs(700, 40, 16, kept=0.3), id="few scores"),
        pytest.param((signs(1, 1)[0][np.zeros(700, int)], signs(700, 40)[1]), id="one point"),
        pytest.param((signs(2, 2)[0][signs(700, 2)[1]], signs(700, 40, seed=1)[1]), id="two points"),
        pytest.param((signs(700, 1)[0], np.arange(700) // 699), id="one person and one more"),
        pytest.param((signs(3, 2, 16)[0], np.array([0, 1, 0])), id="three photos"),
        pytest.param(wolves(), id="a few wolves"),
    ],
)
def test_counts_and_thresholds_are_those_of_the_listed_pairs_bit_for_bit(given: Set, sample_from: int) -> None:
    found = all_pairs_report(*given, targets=TARGETS, threshold=0.125, sample_from=sample_from)
    expected = listed(given, targets=TARGETS, threshold=0.125)
    assert_same(found, expected)
    hardest = [(pair.row, pair.score) for pair in (*found.hardest.impostors, *found.hardest.genuine)]
    assert hardest == numbers(expected, given)


@SAMPLES
def test_probes_against_a_gallery_are_every_row_with_every_other(sample_from: int) -> None:
    rows, people = signs(900, 80)
    probes, gallery = (rows[:500], people[:500]), (rows[500:], people[500:])
    found = all_pairs_report(*probes, *gallery, targets=TARGETS, sample_from=sample_from)
    expected = listed(probes, gallery, targets=TARGETS)
    assert_same(found, expected)
    hardest = [(pair.row, pair.score) for pair in (*found.hardest.impostors, *found.hardest.genuine)]
    assert hardest == numbers(expected, probes, gallery)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_embeddings_of_any_length_and_type_agree_with_the_listed_pairs(kind: type, seed: int) -> None:
    generator = np.random.default_rng(seed)
    people = generator.integers(0, 60, 800)
    rows = generator.normal(size=(60, 64))[people] * 0.8 + generator.normal(size=(800, 64))
    rows = (rows * generator.uniform(0.5, 2, (800, 1))).astype(kind)
    found = all_pairs_report(rows, people, targets=TARGETS, sample_from=0)
    exact = rows.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    expected = listed((exact, people), targets=TARGETS)
    one = 2 / min(expected.genuine, expected.impostors)  # a pair or two may change places by rounding
    assert (found.genuine, found.impostors) == (expected.genuine, expected.impostors)
    assert found.eer == pytest.approx(expected.eer, abs=one)
    assert found.auc == pytest.approx(expected.auc, abs=1e-7)
    for mine, theirs in zip(found.operating_points, expected.operating_points, strict=True):
        assert mine.tar == pytest.approx(theirs.tar, abs=one)
        assert mine.threshold == pytest.approx(theirs.threshold, abs=1e-6)
        assert abs(mine.false_accepts - theirs.false_accepts) <= 1


def on_ranks(world_size: int, report: Callable[..., VerificationReport]) -> list[VerificationReport]:
    """Run a report on some ranks at once, which meet where a process group would."""
    meeting, tallies = Barrier(world_size), [None] * world_size

    def run(rank: int) -> VerificationReport:
        def gather(mine: Any) -> Sequence[Any]:
            tallies[rank] = mine
            meeting.wait()
            everyone = [deepcopy(one) for one in tallies]  # as if it came over a wire
            meeting.wait()
            return everyone

        return report(rank=rank, world_size=world_size, gather=gather)

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_any_number_of_ranks_has_the_report_of_one(world_size: int) -> None:
    given = signs(2500, 300)
    expected = all_pairs_report(*given, targets=TARGETS, sample_from=0)
    for found in on_ranks(
        world_size, lambda **place: all_pairs_report(*given, targets=TARGETS, sample_from=0, **place)
    ):
        assert found == expected
        assert found.hardest == expected.hardest
        np.testing.assert_array_equal(found.curve.false_accepts, expected.curve.false_accepts)


def test_more_ranks_than_blocks_do_no_harm() -> None:
    given = signs(20, 5)
    for found in on_ranks(3, lambda **place: all_pairs_report(*given, targets=(0.1,), **place)):
        assert_same(found, listed(given, targets=(0.1,)))


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_has_the_report_of_any_other_and_is_left_as_it_was(threads: int) -> None:
    given = signs(2500, 100)
    before, expected = torch.get_num_threads(), all_pairs_report(*given)
    torch.set_num_threads(threads)
    try:
        assert all_pairs_report(*given) == expected
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_parallel_work_that_fails_ends_all_threads_and_leaves_their_number() -> None:
    started: list[int] = []

    def interrupted(part: int) -> int:
        started.append(part)
        if part == 3:
            raise KeyboardInterrupt
        return part

    before = torch.get_num_threads()
    assert list(parallel(abs, range(-50, 0))) == list(range(50, 0, -1))
    with pytest.raises(KeyboardInterrupt):
        list(parallel(interrupted, range(100_000)))
    assert len(started) < 100_000
    assert torch.get_num_threads() == before


def test_the_curve_and_the_histogram_count_every_pair() -> None:
    given = signs(900, 50)
    found, expected = all_pairs_report(*given), listed(given)
    assert found.histogram.genuine.sum() == expected.genuine
    assert found.histogram.impostors.sum() == expected.impostors
    assert np.all(np.diff(found.histogram.edges) > 0)
    curve, full = found.curve, expected.curve
    assert np.all(np.diff(curve.thresholds) < 0)
    place = np.searchsorted(-full.thresholds, -curve.thresholds, side="right") - 1  # what each threshold accepts
    np.testing.assert_array_equal(curve.false_accepts, full.false_accepts[place])
    np.testing.assert_array_equal(curve.true_accepts, full.true_accepts[place])


def test_collapsed_embeddings_are_a_coin_toss() -> None:
    found = all_pairs_report(np.ones((200, 4)), np.arange(200) // 2, targets=(0.1,))
    assert (found.eer, found.auc, found.d_prime) == (0.5, 0.5, 0.0)
    assert found.operating_points[0].tar == 0.0
    assert [pair.row for pair in found.hardest.impostors] == [*range(2, 22)]  # of ties the first


def test_moments_of_near_collapse_are_those_of_the_listed_pairs() -> None:
    generator = np.random.default_rng(0)
    rows = 1 + 3e-3 * generator.standard_normal((300, 128))  # float64: products agree to the last digits
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    given = rows, np.arange(300) // 3
    assert all_pairs_report(*given).d_prime == pytest.approx(listed(given).d_prime, rel=1e-6)


COLLAPSE = """
import resource
import numpy as np
from siamese_verify.evaluation import all_pairs_intervals, all_pairs_report, calibrate

def size(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) * 1024

generator = np.random.default_rng(0)
people = np.repeat(np.arange(200), 8)
noise = generator.standard_normal((1600, 128), dtype=np.float32)
all_pairs_report(noise, people)  # loads what there is to load
resource.setrlimit(resource.RLIMIT_AS, (size("VmSize:") + 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for spread in (0, 1e-6, 1e-4, 3e-3):
    found = all_pairs_report((0.3 + spread * noise).astype(np.float32), people)
    assert abs(found.eer - 0.5) < 0.05
assert all_pairs_report(np.full((1600, 128), 0.3, np.float32), people).d_prime == 0
calibrate(np.ones((1600, 128), np.float32), people)
all_pairs_intervals(np.ones((1600, 128), np.float32), people)
pixels = generator.standard_normal((120, 3 * 112 * 112), dtype=np.float32)
all_pairs_report(pixels, np.arange(120) // 4)
all_pairs_report(pixels.repeat(2, axis=1), np.arange(120) // 4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its size from /proc")
def test_collapsed_embeddings_and_those_of_many_dimensions_cost_little_more_than_others() -> None:
    ended = subprocess.run([sys.executable, "-c", COLLAPSE], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr or ended.returncode


def test_tensors_names_and_short_fars_are_taken() -> None:
    found = all_pairs_report(torch.eye(3)[[0, 0, 1, 2]], ["a", "a", "b", "c"])
    assert (found.pairs, found.genuine, found.eer, found.auc) == (6, 1, 0.0, 1.0)
    assert [point.insufficient for point in found.operating_points] == [True] * 6


def test_bins_are_needed_where_an_operating_point_can_lie() -> None:
    genuine = np.array([0, 1, 0, 2, 3, 0])
    impostors = np.array([5, 3, 2, 0, 1, 0])
    # FAR <= 0.2 holds from bin 3 upwards, which has genuine scores only; bin 2 could hold the point too. The errors
    # cross in bin 2: FRR 1/6 <= FAR 3/11 there, and 1/6 > 1/11 in bin 3. The lowest genuine score is in bin 1.
    assert np.flatnonzero(bins_needed(genuine, impostors, (0.2,))).tolist() == [1, 2, 3]
    assert np.flatnonzero(bins_needed(genuine, impostors, (0.0,))).tolist() == [1, 2, 3, 4]
    doubtful = [bins_needed(genuine * 10**6, impostors * 10**6, (0.2,), slack) for slack in (0.05, 0.2, 0.3)]
    assert [np.flatnonzero(bins).tolist() for bins in doubtful] == [[1, 2, 3], [1, 2, 3], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), [0, 1, 2]), "None of the 3 pairs is genuine"),
        ((np.ones((3, 2)), [0, 0, 0]), "None of the 3 pairs is an impostor"),
        ((np.ones((0, 2)), []), "None of the 0 pairs is genuine"),
        ((np.ones((1, 2)), [0]), "None of the 0 pairs is genuine"),
        ((np.ones(3), [0, 1, 2]), "shape (3,)"),
        ((np.ones((3, 2)), [0, 1]), "3 embeddings and identities of shape (2,)"),
        ((np.array([[1.0, 0], [np.nan, 1], [0, 0]]), [0, 0, 1]), "2 of 3 embeddings are zero, NaN or infinite"),
        ((np.ones((2, 2)), [0, 1], np.ones((2, 3)), [0, 1]), "2 dimensions and the gallery's 3"),
        ((np.ones((2, 2)), [0, 1], np.ones((2, 2))), "2 embeddings and identities of shape (0,)"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(arguments: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        all_pairs_report(*arguments)
    assert message in str(caught.value)


def test_a_rate_is_a_rate_and_a_threshold_a_number() -> None:
    given = signs(20, 5)
    with pytest.raises(InputError, match=r"between 0 and 1, got 1\.5"):
        all_pairs_report(*given, targets=(1.5,))
    with pytest.raises(InputError, match="threshold is NaN"):
        all_pairs_report(*given, threshold=float("nan"))
    assert all_pairs_report(*given, threshold=7.0).at_threshold == listed(given, threshold=7.0).at_threshold
    assert all_pairs_report(*given, threshold=-7.0).at_threshold == listed(given, threshold=-7.0).at_threshold


# On a GPU


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, taken by the CPU and in small blocks."""
    make = PairScores.__init__

    def moved(self: PairScores, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        self.move()

    monkeypatch.setattr(PairScores, "__init__", moved)
    monkeypatch.setattr(pair_scores, "GPU_SIZE", 70)


@pytest.mark.parametrize("sample_from", [SAMPLE_FROM, 1000])
@pytest.mark.parametrize("second", [None, signs(60, 30, seed=1)])
@pytest.mark.parametrize("first", [signs(300, 30), signs(230, 60, kept=0.2, seed=2)])
def test_a_gpu_counts_as_all_listed_pairs_are_counted(
    first: Set, second: Set | None, sample_from: int, as_on_a_gpu: None
) -> None:
    found = all_pairs_report(*first, *(second or ()), targets=TARGETS, threshold=0.1, sample_from=sample_from)
    expected = listed(first, second, targets=TARGETS, threshold=0.1)
    assert_same(found, expected)
    hardest = (*found.hardest.impostors, *found.hardest.genuine)
    assert [(pair.row, pair.score) for pair in hardest] == numbers(expected, first, second)


def test_intervals_are_those_of_the_cpu(request: pytest.FixtureRequest) -> None:
    rows, people = signs(240, 40, kept=0.4)
    expected = all_pairs_intervals(rows, people, 0.1)
    request.getfixturevalue("as_on_a_gpu")
    assert all_pairs_intervals(rows, people, 0.1) == expected


def test_products_are_of_full_precision_whatever_was_set() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_device_is_found_by_its_name() -> None:
    assert torch_device("cpu").type == "cpu"
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match=r"^The device 'abacus' cannot be used \(.*\): give cpu or auto\.$"):
        torch_device("abacus")
