from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from siamese_verify.errors import InputError
from siamese_verify.evaluation import OperatingPoint
from siamese_verify.faces import OnMultipleFaces, Quality
from siamese_verify.models.metadata import ModelMetadata
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification.decision import DetectedFace, NoDecision, Verification
from siamese_verify.verification.pair_scoring import FACE, CachedEmbeddings, verify_pairs
from siamese_verify.verification.verifier import Verifier

DIMENSION, LIMIT = 16, 0.5
COLUMNS = [
    "score",
    "same",
    "log_likelihood_ratio",
    "probability",
    "prior",
    "one_in",
    "threshold",
    "reasons",
    "warnings",
    "error",
]


class Stand(Verifier):
    """Embeds the eight by eight pixels of a photo; a photo is as many faces as its name says `x`, or one."""

    def __init__(self, log: Path | None = None, delay: float = 0.0, fingerprint: str = "one") -> None:
        self.metadata = SimpleNamespace(embedding_size=DIMENSION, fingerprint=fingerprint)  # type: ignore[assignment]
        self.on_multiple_faces, self.liveness = "error", None
        self.log, self.delay = log, delay
        self.weights = np.random.default_rng(0).standard_normal((192, DIMENSION))
        self.seen: list[str] = []
        self.batches: list[int] = []
        self.asked: list[dict[str, Any]] = []

    def find(  # type: ignore[override]
        self, photo: Path, name: str | None = None, on_multiple_faces: Any = None, *, opened: bool = False
    ) -> list[DetectedFace]:
        self.seen.append(photo.name)
        time.sleep(self.delay)
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{photo.name}\n")
        try:
            with Image.open(photo) as image:
                crop = np.asarray(image.convert("RGB").resize((8, 8)))
        except (OSError, ValueError):
            raise NoDecision(f"{name} cannot be read.", "unreadable_photo") from None
        faces = max(1, photo.name.count("x"))
        if faces > 1 and on_multiple_faces != "any":
            raise NoDecision(f"{faces} faces were found on {name}: crop it to the one that is meant.", "multiple_faces")
        quality = Quality(float(crop.var()), None, None, float(crop.mean()) / 255, 0.1)
        return [
            DetectedFace(
                name or "", np.roll(crop, 3 * turn, axis=0), quality, probability=0.5, rotated_by=90, faces=faces
            )
            for turn in range(faces)
        ]

    def embed_faces(self, faces: Sequence[DetectedFace]) -> NDArray[np.float32]:
        self.batches.append(len(faces))
        rows = np.stack([face.crop.reshape(-1).astype(float) - 128 for face in faces]) @ self.weights
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def check(self, **options: Any) -> None:
        if options["far"] == 0.05:
            raise InputError("A rate of 0.05 was not measured.")

    def decide(
        self,
        score: float,
        faces: Sequence[DetectedFace] = (),
        *,
        far: float | None = None,
        threshold: float | None = None,
        prior: float | None = None,
        decide: bool = False,
        comparisons: int = 1,
        milliseconds: Any = None,
    ) -> Verification:
        self.asked.append({"far": far, "threshold": threshold, "decide": decide, "comparisons": comparisons})
        limit = LIMIT if threshold is None else threshold
        dark = tuple(f"{face.name} is dark." for face in faces if face.quality.light < 0.3)
        known = bool(dark) and not decide
        return Verification(
            same=None if known else score >= limit,
            score=score,
            threshold=limit,
            threshold_interval=None,
            far=far,
            one_in=12,
            log_likelihood_ratio=score,
            probability=(score + 1) / 2,
            prior=prior,
            faces=tuple(faces),
            warnings=tuple(f"{face.name} was turned." for face in faces if face.rotated_by),
            reasons=dark if known else (),
            measured_on="nothing",
            impostors=0,
            insufficient=False,
            model="stand",
            milliseconds={},
        )


def photo(path: Path, seed: int, level: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, level + 1, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        photo(tmp_path / f"{number}.png", number)
    return tmp_path


def listed(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def left_beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())])
def test_no_text_of_a_csv_is_a_formula_whatever_column_it_came_from(kind: pa.DataType, folder: Path) -> None:
    cells = ["=1+1", "-2.5", None, "@x", "fine"]
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    noted = pa.array([one and (one.encode() if value == pa.binary() else one) for one in cells], value)
    noted = noted.dictionary_encode().cast(kind) if kind != value else noted
    names = pa.array(["0.png"] * len(cells))
    parquet.write_table(pa.table({"a": names, "b": names, "note": noted}), folder / "pairs.parquet")
    verify_pairs(Stand(), folder / "pairs.parquet", folder / "out.csv")
    assert [row["note"] for row in rows_of(folder / "out.csv")] == ["'=1+1", "-2.5", "", "'@x", "fine"]


def test_scores_are_the_cosines_of_the_embeddings_in_the_order_of_the_table(folder: Path) -> None:
    stand = Stand()
    order = [(0, 1), (2, 2), (1, 0), (5, 3), (0, 4)]
    table = listed(folder, "a,b\n" + "".join(f"{a}.png,{b}.png\n" for a, b in order))
    summary = verify_pairs(stand, table, folder / "out.parquet")
    rows = rows_of(folder / "out.parquet")
    single = [stand.embed_faces(stand.find(folder / f"{n}.png"))[0].astype(np.float64) for n in range(6)]
    assert [row["score"] for row in rows] == pytest.approx([single[a] @ single[b] for a, b in order], abs=1e-6)
    assert [(row["a"], row["b"]) for row in rows] == [(f"{a}.png", f"{b}.png") for a, b in order]
    assert [row["same"] for row in rows] == [row["score"] >= LIMIT for row in rows]
    assert list(rows[0]) == ["a", "b", *COLUMNS]
    assert (summary.pairs, summary.photos, summary.failed, summary.errors) == (5, 6, 0, ())
    assert (summary.same, summary.decided) == (sum(row["same"] for row in rows), 5)
    assert rows[0]["warnings"] == "0.png was turned. 1.png was turned."


def test_csv_and_parquet_say_the_same(folder: Path) -> None:
    text = 'a,b,note\n0.png,1.png,"one, ""two""\nthree"\n0.png,nowhere.png,\n2.png,2.png,ü\n'
    table = listed(folder, text)
    verify_pairs(Stand(), table, folder / "out.parquet")
    verify_pairs(Stand(), table, folder / "out.csv")
    binary, text_rows = rows_of(folder / "out.parquet"), rows_of(folder / "out.csv")
    assert [row["note"] for row in binary] == [row["note"] for row in text_rows] == ['one, "two"\nthree', "", "ü"]
    for one, other in zip(binary, text_rows, strict=True):
        for name in COLUMNS:
            value = one[name]
            said = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            written = other[name]
            if isinstance(value, float):
                assert float(written) == value
            else:
                assert written == said
    # The scores of a table serve as one: from Parquet the same comes out as from CSV.
    parquet.write_table(
        pa.table({name: [row[name] for row in binary] for name in ("a", "b", "note")}), folder / "p.parquet"
    )
    verify_pairs(Stand(), folder / "p.parquet", folder / "again.parquet")
    assert rows_of(folder / "again.parquet") == binary


def test_every_photo_is_looked_at_once_however_it_is_written(folder: Path) -> None:
    stand = Stand()
    table = listed(folder, f"a,b\n0.png,./1.png\n1.png,0.png\n./0.png,{folder}/1.png\n0.png,0.png\n0.png,0.png\n")
    summary = verify_pairs(stand, table, folder / "out.csv")
    assert sorted(stand.seen) == ["0.png", "1.png"]
    assert (summary.pairs, summary.photos) == (5, 2)
    assert len({row["score"] for row in rows_of(folder / "out.csv")[:3]}) == 1


def test_what_else_stands_in_the_table_is_carried_along(folder: Path) -> None:
    table = listed(folder, "id,a,same,b,score\n7,0.png,1,1.png,x\n8,0.png,0,0.png,y\n")
    verify_pairs(Stand(), table, folder / "out.csv")
    rows = rows_of(folder / "out.csv")
    assert list(rows[0]) == ["id", "a", "same_given", "b", "score_given", *COLUMNS]
    assert [(row["id"], row["same_given"], row["score_given"]) for row in rows] == [("7", "1", "x"), ("8", "0", "y")]
    assert rows[1]["same"] == "true"


def test_columns_of_any_type_are_carried_from_parquet_to_parquet(folder: Path) -> None:
    given = pa.table(
        {
            "b": pa.array(["0.png", None, "1.png"]).dictionary_encode(),
            "n": pa.array([1, None, 3], pa.int8()),
            "l": pa.array([[1], [], None]),
            "a": ["0.png", "1.png", "2.png"],
        }
    )
    parquet.write_table(given, folder / "p.parquet")
    summary = verify_pairs(Stand(), folder / "p.parquet", folder / "out.parquet")
    assert summary.errors == ("Row 2: No photo is named in the column b.",)
    found = parquet.read_table(folder / "out.parquet")
    assert (found["n"].type, found["n"].to_pylist()) == (pa.int8(), [1, None, 3])
    assert found["l"].to_pylist() == [[1], [], None]
    assert found["error"].to_pylist() == [None, "No photo is named in the column b.", None]
    stand = Stand()
    with pytest.raises(InputError, match=r"A \.csv cannot hold every column of the pairs \(.*list"):
        verify_pairs(stand, folder / "p.parquet", folder / "out.csv")
    assert stand.seen == []


def test_bad_rows_are_kept_and_told(folder: Path) -> None:
    (folder / "text.jpg").write_text("no picture")
    photo(folder / "xx.png", 9)
    lines = ["0.png,1.png", "nowhere.png,1.png", "text.jpg,nowhere.png", ",1.png", "xx.png,xx.png", "a\0b.png,1.png"]
    table = listed(folder, "\n".join(["a,b", *lines, "2.png,2.png"]) + "\n")
    summary = verify_pairs(Stand(), table, folder / "out.parquet")
    rows = rows_of(folder / "out.parquet")
    assert [row["error"] for row in rows] == [
        None,
        "nowhere.png cannot be read.",
        "text.jpg cannot be read. nowhere.png cannot be read.",
        "No photo is named in the column a.",
        "2 faces were found on xx.png: crop it to the one that is meant.",
        "a\0b.png cannot be read.",
        None,
    ]
    assert all(row["score"] is None and row["same"] is None for row in rows[1:6])
    assert (summary.pairs, summary.failed, summary.decided) == (7, 5, 2)
    assert summary.errors[0] == "Line 3: nowhere.png cannot be read."
    assert "5 without a decision" in summary.sentence()


def test_inconclusive_pairs_say_why_and_can_be_forced(folder: Path) -> None:
    photo(folder / "dark.png", 5, level=60)
    table = listed(folder, "a,b\n0.png,dark.png\n0.png,0.png\n")
    summary = verify_pairs(Stand(), table, folder / "out.parquet")
    rows = rows_of(folder / "out.parquet")
    assert (rows[0]["same"], rows[0]["reasons"], rows[0]["error"]) == (None, "dark.png is dark.", None)
    assert (summary.inconclusive, summary.decided, summary.failed) == (1, 1, 0)
    assert verify_pairs(Stand(), table, folder / "out.parquet", decide=True).inconclusive == 0


def test_the_best_of_several_faces_counts_and_how_many_were_compared(folder: Path) -> None:
    photo(folder / "xxx.png", 0)  # its first face is that of 0.png
    photo(folder / "xx.png", 1)
    stand = Stand()
    table = listed(folder, "a,b\n" + "1.png,2.png\n" * 2 + "xxx.png,0.png\nxx.png,xxx.png\n")
    verify_pairs(stand, table, folder / "out.parquet", on_multiple_faces="any")
    rows = rows_of(folder / "out.parquet")
    assert rows[2]["score"] == pytest.approx(1, abs=1e-6)
    left, right = (
        stand.embed_faces(stand.find(folder / name, on_multiple_faces="any")) for name in ("xx.png", "xxx.png")
    )
    assert rows[3]["score"] == pytest.approx((left @ right.T).max(), abs=1e-6)
    assert [one["comparisons"] for one in stand.asked] == [1, 1, 3, 6]


def test_the_threshold_and_rate_are_those_asked_for(folder: Path) -> None:
    table = listed(folder, "a,b\n0.png,1.png\n")
    stand = Stand()
    verify_pairs(stand, table, folder / "out.parquet", threshold=-1.0)
    assert (rows_of(folder / "out.parquet")[0]["same"], stand.asked[-1]["threshold"]) == (True, -1.0)
    stand = Stand()
    with pytest.raises(InputError, match=r"0\.05 was not measured"):
        verify_pairs(stand, table, folder / "other.parquet", far=0.05)
    assert stand.seen == []
    assert not (folder / "other.parquet").exists()


def test_an_unknown_face_selection_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="on_multiple_faces must be one of"):
        verify_pairs(Stand(), listed(folder, "a,b\n0.png,1.png\n"), folder / "out.csv", on_multiple_faces="all")  # type: ignore[arg-type]


def test_photos_start_from_another_root(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    table = listed(elsewhere, "a,b\n0.png,0.png\n")
    assert verify_pairs(Stand(), table, elsewhere / "out.csv").failed == 1
    assert verify_pairs(Stand(), table, elsewhere / "out.csv", root=folder).failed == 0


@pytest.mark.parametrize(
    "name", ["ein Gesicht, zwei.png", 'mit "Zeichen".png', "写真.png", "e\u0301.png", "zwei\nZeilen.png"]
)
def test_names_of_any_kind_are_read_and_written(name: str, folder: Path) -> None:
    photo(folder / name, 0)
    quoted = '"' + name.replace('"', '""') + '"'
    table = listed(folder, f"\ufeffa,b\r\n{quoted},0.png\r\n\r\n0.png,{quoted}\r\n")
    for out in ("out.csv", "out.parquet"):
        assert verify_pairs(Stand(), table, folder / out).failed == 0
        assert [(row["a"], row["b"]) for row in rows_of(folder / out)] == [(name, "0.png"), ("0.png", name)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no column a, b"),
        ("a,b\n", "no line below its header"),
        ("a,c\n1,2\n", r"no column b \(its columns: a, c\)"),
        ("a,b,b\n1,2,3\n", "column b twice"),
        ("a,b,c,c\n1,2,3,4\n", "column c twice"),
        ("a,b\n1\n", "Line 2 of .* has 1 fields, not 2"),
        ('a,b\n"1,2\n', "cannot be read"),
        ("a,b,same,same_given\n1,2,3,4\n", "columns same and same_given"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_before_anything_is_written(
    text: str, complaint: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=complaint):
        verify_pairs(Stand(), listed(folder, text), folder / "out.csv")
    assert left_beside(folder) == []
    assert not (folder / "out.csv").exists()


def test_a_parquet_file_that_cannot_be_used_is_refused(folder: Path) -> None:
    path = folder / "p.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        verify_pairs(Stand(), path, folder / "out.csv")
    for columns, complaint in (
        ({"a": ["x"]}, r"no column b \(its columns: a\)"),
        ({"a": ["x"], "b": [3]}, "column b of .* is int64"),
        ({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())}, "no row"),
    ):
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(InputError, match=complaint):
            verify_pairs(Stand(), path, folder / "out.csv")


@pytest.mark.parametrize(
    ("out", "complaint"),
    [("out.txt", "neither .csv nor .parquet"), ("no/out.csv", "no folder"), ("pairs.csv", "itself")],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(out: str, complaint: str, folder: Path) -> None:
    table = listed(folder, "a,b\n0.png,1.png\n")
    stand = Stand()
    with pytest.raises(InputError, match=complaint):
        verify_pairs(stand, table, folder / out)
    assert stand.seen == []


def test_a_missing_table_and_a_missing_root_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        verify_pairs(Stand(), folder / "none.csv", folder / "out.csv")
    with pytest.raises(InputError, match="another root"):
        verify_pairs(Stand(), listed(folder, "a,b\n0.png,1.png\n"), folder / "out.csv", root=folder / "none")


def many(folder: Path, count: int = 40) -> Path:
    """Pairs of as many photos, some of which cannot be read."""
    for number in range(count):
        photo(folder / f"many/{number}.png", number)
    (folder / "many/3.png").write_text("damaged")
    (folder / "many/7.png").unlink()
    lines = [f"{number}.png,{(number * 7 + 1) % count}.png" for number in range(count)]
    return listed(folder / "many", "\n".join(["a,b", *lines]) + "\n")


SMALL: dict[str, Any] = {"chunk": 4, "block": 8}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("batches", [0, 1, 5])
def test_what_was_embedded_before_a_stop_is_not_embedded_again(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = many(tmp_path)
    verify_pairs(Stand(), table, tmp_path / "whole.parquet", **SMALL)
    first, second = Stand(), Stand()

    def stopping(faces: Sequence[DetectedFace], /) -> NDArray[np.float32]:
        if len(first.batches) == batches:
            raise Stopped
        return Stand.embed_faces(first, faces)

    monkeypatch.setattr(first, "embed_faces", stopping)
    with pytest.raises(Stopped):
        verify_pairs(first, table, tmp_path / "out.parquet", **SMALL)
    assert not (tmp_path / "out.parquet").exists()
    assert left_beside(tmp_path) == [".out.parquet.unfinished"]
    verify_pairs(second, table, tmp_path / "out.parquet", **SMALL)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert len(second.seen) == 40 - 4 * batches + (batches > 1)  # 7.png may have come by now
    assert left_beside(tmp_path) == []


def test_after_a_stop_a_photo_that_changed_is_looked_at_anew_and_the_list_may_be_another(tmp_path: Path) -> None:
    table = many(tmp_path)
    stopped_while_deciding(table, tmp_path / "out.csv")
    photo(tmp_path / "many/0.png", 1)  # now that of another
    photo(tmp_path / "many/new.png", 77)
    with table.open("a") as file:
        file.write("new.png,0.png\n")
    stand = Stand()
    verify_pairs(stand, table, tmp_path / "out.csv", **SMALL)
    assert sorted(stand.seen) == ["0.png", "7.png", "new.png"]
    rows = rows_of(tmp_path / "out.csv")
    verify_pairs(Stand(), table, tmp_path / "whole.csv", **SMALL)
    for one, other in zip(rows, rows_of(tmp_path / "whole.csv"), strict=True):
        assert one["error"] == other["error"]
        assert bool(one["score"]) == bool(other["score"])
        assert not one["score"] or float(one["score"]) == pytest.approx(float(other["score"]), abs=1e-6)
    assert float(rows[0]["score"]) == pytest.approx(1, abs=1e-6)  # 0.png and 1.png show the same now


def stopped_while_deciding(table: Path, out: Path) -> None:
    stand = Stand()

    def refusing(*args: Any, **kwargs: Any) -> Verification:
        if len(args) > 1:
            raise Stopped
        return Stand.decide(stand, *args, **kwargs)

    stand.decide = refusing  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        verify_pairs(stand, table, out, **SMALL)


def test_nothing_is_used_of_another_model_or_policy(tmp_path: Path) -> None:
    table = many(tmp_path)
    policies: list[tuple[str, OnMultipleFaces | None]] = [("two", None), ("one", "any")]
    for fingerprint, on_multiple_faces in policies:
        stand = Stand(fingerprint=fingerprint)
        stopped_while_deciding(table, tmp_path / "out.csv")
        verify_pairs(stand, table, tmp_path / "out.csv", on_multiple_faces=on_multiple_faces, **SMALL)
        assert len(stand.seen) == 40
    hooked = Stand()
    hooked.liveness = print
    stopped_while_deciding(table, tmp_path / "out.csv")
    verify_pairs(hooked, table, tmp_path / "out.csv", **SMALL)
    assert len(hooked.seen) == 40


def test_parts_that_are_damaged_are_made_again(tmp_path: Path) -> None:
    table = many(tmp_path)
    verify_pairs(Stand(), table, tmp_path / "whole.csv", **SMALL)
    stopped_while_deciding(table, tmp_path / "out.csv")
    parts = sorted((tmp_path / ".out.csv.unfinished").glob("*.npz"))
    assert len(parts) == 10
    parts[0].write_bytes(parts[0].read_bytes()[:-200])
    parts[4].write_bytes(b"")
    changed = bytearray(parts[9].read_bytes())
    changed[len(changed) // 2] ^= 0xFF
    parts[9].write_bytes(changed)
    stand = Stand()
    verify_pairs(stand, table, tmp_path / "out.csv", **SMALL)
    assert len(stand.seen) == 13  # twelve, and 7.png which may have come
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_two_processes_do_not_write_to_one_output(folder: Path) -> None:
    table = listed(folder, "a,b\n0.png,1.png\n")
    other = CachedEmbeddings(folder / ".out.csv.unfinished", "one")
    with pytest.raises(InputError, match="Another process"):
        verify_pairs(Stand(), table, folder / "out.csv")
    other.release()
    assert verify_pairs(Stand(), table, folder / "out.csv").pairs == 1


def test_nobody_else_may_read_what_is_kept_and_no_name_is_in_it(folder: Path) -> None:
    table = listed(folder, "a,b\n0.png,1.png\n")
    stopped_while_deciding(table, folder / "out.csv")
    kept = folder / ".out.csv.unfinished"
    assert kept.stat().st_mode & 0o077 == 0
    content = b"".join(path.read_bytes() for path in kept.iterdir())
    assert "0.png".encode("utf-32-le") not in content
    assert b"0.png" not in content


def test_what_a_decision_is_told_of_a_face_survives_being_kept(folder: Path) -> None:
    table = listed(folder, "a,b\n0.png,1.png\n")
    stopped_while_deciding(table, folder / "out.csv")
    stand = Stand()
    told: list[DetectedFace] = []

    def listening(*args: Any, **kwargs: Any) -> Verification:
        told.extend(args[1] if len(args) > 1 else ())
        return Stand.decide(stand, *args, **kwargs)

    stand.decide = listening  # type: ignore[method-assign]
    verify_pairs(stand, table, folder / "out.csv")
    assert stand.seen == []
    assert told == [stand.find(folder / name, name=name)[0] for name in ("0.png", "1.png")]
    assert set(FACE.names or ()) == {*Quality._fields, "probability", "rotated_by", "box", "faces"}
    assert {field.name for field in dataclasses.fields(DetectedFace)} - {
        "quality",
        "box",
        "landmarks",
        "crop",
        "name",
    } < set(FACE.names or ())


def test_faces_are_embedded_in_batches(folder: Path) -> None:
    stand = Stand()
    table = listed(folder, "a,b\n" + "".join(f"{n % 6}.png,{(n * 5) % 6}.png\n" for n in range(100)))
    verify_pairs(stand, table, folder / "out.csv")
    assert stand.batches == [6]


def test_a_real_verifier_says_of_each_pair_what_it_says_of_two_photos(folder: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((192, DIMENSION))

    def engine(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray((crops.reshape(len(crops), -1) - 127.5) @ weights, dtype=np.float32)

    points = (OperatingPoint(0.1, 0.09, 0.9, 0.2, False, 400, 36),)
    quality: dict[str, tuple[float | None, float | None]] = {"contrast": (0.19, None)}  # some of the photos have less
    verifier = Verifier(
        ModelMetadata("mine", {}, InputSpec(8, crop=Crop("whole")), DIMENSION, points, quality=quality), engine
    )
    order = [(a, b) for a in range(6) for b in range(6)]
    table = listed(folder, "a,b\n" + "".join(f"{a}.png,{b}.png\n" for a, b in order))
    summary = verify_pairs(verifier, table, folder / "out.parquet")
    for (a, b), row in zip(order, rows_of(folder / "out.parquet"), strict=True):
        result = verifier.verify(folder / f"{a}.png", folder / f"{b}.png")
        assert row["score"] == pytest.approx(result.score, abs=1e-6)
        assert (row["same"], row["threshold"], row["probability"]) == (result.same, result.threshold, None)
        assert (row["reasons"] or "") == " ".join(result.reasons).replace(f"{folder}/", "")
    assert 0 < summary.inconclusive < 36
    (folder / "0.png").unlink()
    assert verify_pairs(verifier, table, folder / "out.parquet").errors[0] == "Line 2: There is no file 0.png."


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_process_goes_on_and_its_output_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    table = many(tmp_path)
    verify_pairs_in_another_process(table, tmp_path / "whole.parquet", tmp_path / "whole.log").wait(120)
    out, log = tmp_path / "out.parquet", tmp_path / "log"
    kept = tmp_path / ".out.parquet.unfinished"
    for wanted in (1, 4, 9):
        process = verify_pairs_in_another_process(table, out, log)
        deadline = time.monotonic() + 120
        while len(list(kept.glob("*.npz"))) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    assert verify_pairs_in_another_process(table, out, log).wait(120) == 0
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert left_beside(tmp_path) == []
    times = Counter(log.read_text().split())
    assert set(times) == {f"{number}.png" for number in range(40)}
    assert sum(times.values()) <= 40 + 3 * 4 + 4  # a chunk is lost with each kill, and 7.png is not there


def verify_pairs_in_another_process(table: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, __file__, str(table), str(out), str(log)], env=environment)


if __name__ == "__main__":
    verify_pairs(Stand(Path(sys.argv[3]), delay=0.03), sys.argv[1], sys.argv[2], **SMALL)
