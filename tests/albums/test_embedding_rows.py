"""Search among embeddings of any origin: against cosines in float64, from both files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from siamese_verify.albums.embedding_rows import EmbeddingsFile, UnitRows
from siamese_verify.cli.main import main
from siamese_verify.errors import InputError


def drawn(dtype: str, count: int = 300, size: int = 12) -> NDArray[Any]:
    """Rows of lengths that differ a thousandfold, if the type can hold them."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, size))
    return (rows * 10 ** rng.uniform(-1, 2, (count, 1)) if dtype[0] == "f" else 40 * rows).astype(dtype)


def cosines(queries: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """(Q,N) by the definition, in float64."""
    queries, rows = (one.astype(np.float64) for one in (queries, rows))
    return np.array([[q @ r / (np.linalg.norm(q) * np.linalg.norm(r)) for r in rows] for q in queries])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", ">f4"])
@pytest.mark.parametrize("scores", [60, 2**24])  # blocks of five rows, and of all
def test_the_nearest_rows_are_those_by_cosine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, scores: int
) -> None:
    monkeypatch.setattr("siamese_verify.albums.embedding_rows.SCORES", scores)
    rows = drawn(dtype.replace(">f4", "float32"))
    if rows.itemsize >= 4:
        rows[[0, 17]], rows[[1, 18]] = 1e-30 * rows[[0, 17]], 1e25 * rows[[1, 18]]
    np.save(tmp_path / "rows.npy", rows.astype(dtype))
    np.save(tmp_path / "queries.npy", 7 * rows[2:6].astype(np.float64) + 1)
    file = EmbeddingsFile(tmp_path / "rows.npy")
    assert isinstance(file.rows.stored, np.memmap)
    found = file.search(file.queries(str(tmp_path / "queries.npy")), 20)
    exact = cosines(np.load(tmp_path / "queries.npy"), rows)
    for one, expected in zip(found, exact, strict=True):
        assert np.allclose(one.scores[0], np.sort(expected)[::-1][:20], atol=1e-6, rtol=0)
        assert np.allclose(expected[one.rows[0]], one.scores[0], atol=1e-6, rtol=0) and len(set(one.rows[0])) == 20


def in_parquet(path: Path, rows: NDArray[Any], kind: pa.DataType, column: str = "embedding", **others: Any) -> Path:
    lists = pa.array([row.tolist() for row in rows], kind)
    parquet.write_table(pa.table({column: lists, **others}), path, row_group_size=70)
    return path


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.list_(pa.float32(), 12), pa.large_list(pa.float64()), pa.list_(pa.float16(), 12)],
)
@pytest.mark.parametrize("in_memory", [0, 2**31])
def test_a_parquet_gives_what_the_array_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, in_memory: int
) -> None:
    monkeypatch.setattr("siamese_verify.albums.embedding_rows.IN_MEMORY", in_memory)
    monkeypatch.setattr("siamese_verify.albums.embedding_rows.BATCH", 41)
    rows = drawn("float16")
    file = EmbeddingsFile(in_parquet(tmp_path / "a.parquet", rows, kind))
    assert isinstance(file.rows.stored, np.memmap) == (in_memory == 0)
    assert np.array_equal(file.rows[:], UnitRows(rows, "array")[:])
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_query_is_a_file_a_name_or_a_row(tmp_path: Path) -> None:
    rows = drawn("float32")
    names = [f"n{number}" for number in range(300)]
    names[7], names[8], names[9] = "twin", "twin", "12"
    path = in_parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float32()), "vector", title=names, photo=names)
    file = EmbeddingsFile(path, "vector", "title")
    for query, row in (("n250", 250), ("3", 3), ("12", 9), ("7", 7)):  # a name before a number
        assert np.array_equal(file.queries(query), file.rows[row : row + 1])
    assert file.names_of(np.array([250, 0, 250, 71])) == {0: "n0", 71: "n71", 250: "n250"}
    assert EmbeddingsFile(path, "vector").names == "photo"  # found by itself
    np.save(tmp_path / "one.npy", rows[5])
    assert np.array_equal(file.queries(str(tmp_path / "one.npy")), file.rows[5:6])
    with pytest.raises(InputError, match=r"Rows 7 and 8 of .* are 'twin': give the number of one"):
        file.queries("twin")
    for query in ("300", "-1", "nobody", str(tmp_path / "missing.npy")):
        with pytest.raises(InputError, match=r"is no \.npy of queries, and no name or row of .*300 rows are numbered"):
            file.queries(query)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, 1e300])
def test_a_row_without_a_direction_is_refused_with_its_number(tmp_path: Path, value: float) -> None:
    rows = drawn("float64")
    rows[123] = value
    np.save(tmp_path / "rows.npy", rows)
    file = EmbeddingsFile(tmp_path / "rows.npy")
    with pytest.raises(InputError, match=r"Row 123 of .*rows\.npy is NaN, infinite or zero"):
        file.search(file.queries("0"), 5)
    with pytest.raises(InputError, match="Row 123 of"):
        file.queries("123")
    file = EmbeddingsFile(in_parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float64())))
    with pytest.raises(InputError, match=r"Row 123 of .*a\.parquet is NaN"):
        file.search(file.queries("0"), 5)


def test_what_holds_no_embeddings_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "pickle.npy", np.array([Code()], dtype=object), allow_pickle=True)
    for query in (tmp_path / "pickle.npy", "0"):
        with pytest.raises(InputError, match=r"pickle\.npy"):
            EmbeddingsFile(tmp_path / "pickle.npy").queries(str(query))
    np.save(tmp_path / "rows.npy", drawn("float32"))
    with pytest.raises(InputError, match=r"pickle\.npy holds no array"):
        EmbeddingsFile(tmp_path / "rows.npy").queries(str(tmp_path / "pickle.npy"))
    assert not (tmp_path / "ran").exists()
    for name, content in (("flat", np.ones(3)), ("empty", np.ones((0, 3))), ("words", np.array([["a"]]))):
        np.save(tmp_path / f"{name}.npy", content)
        with pytest.raises(InputError, match="embeddings are"):
            EmbeddingsFile(tmp_path / f"{name}.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "rows.npy").read_bytes()[:200])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    for name in ("cut.npy", "torn.parquet"):
        with pytest.raises(InputError, match="cannot be read"):
            EmbeddingsFile(tmp_path / name)
    ragged = pa.array([[1.0, 2.0], [1.0, 2.0], [1.0], None])
    parquet.write_table(pa.table({"embedding": ragged, "word": ["a"] * 4}), tmp_path / "ragged.parquet")
    for column, sentence in (
        (None, "Row 2 of .* has 1 numbers, and row 0 has 2"),
        ("word", "The column word of .* holds string"),
        ("vector", r"has no column vector \(its columns: embedding, word\)"),
    ):
        with pytest.raises(InputError, match=sentence):
            EmbeddingsFile(tmp_path / "ragged.parquet", column)
    file = EmbeddingsFile(tmp_path / "rows.npy")
    with pytest.raises(InputError, match=r"of shape \(Q, 12\), got \(1, 5\)"):
        file.search(np.ones((1, 5), np.float32), 3)
    for queries, top in ((1, 0), (4000, 300)):
        with pytest.raises(InputError, match="A search gives from 1 to"):
            file.search(np.ones((queries, 12), np.float32), top)


def test_faiss_proposes_and_is_made_anew_for_another_file(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rows = drawn("float32")
    for turn in range(2):
        np.save(tmp_path / "rows.npy", rows[turn:])
        for _ in range(2):
            file = EmbeddingsFile(tmp_path / "rows.npy")
            (found,) = file.search(file.queries("11"), 5, approximate=True)
            (exact,) = file.search(file.queries("11"), 5)
            assert np.array_equal(found.rows, exact.rows) and np.array_equal(found.scores, exact.scores)
            kept = sorted(tmp_path.glob("rows.npy-*"))
            assert len(kept) == 2 and {path.stat().st_mode & 0o777 for path in kept} == {0o600}
        times = [path.stat().st_mtime_ns for path in kept]
        assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("rows.npy-*"))] == times


def test_the_command_searches_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = drawn("float32")
    np.save(tmp_path / "rows.npy", rows)
    names = pa.array([f"photo {number}" for number in range(300)]).dictionary_encode()
    path = in_parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float32()), photo=names)
    assert main(["search", "photo 4", "--in", str(path), "--top", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["searched"] == 300
    (hits,) = answer["queries"]
    assert hits[0] | {"score": 1} == {"row": 4, "name": "photo 4", "score": 1} and hits[0]["score"] > 1 - 1e-6
    assert hits[1]["row"] == np.argsort(-cosines(rows[4:5], rows)[0])[1]
    np.save(tmp_path / "queries.npy", rows[[9, 2]])
    assert main(["search", str(tmp_path / "queries.npy"), "--in", str(tmp_path / "rows.npy"), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split() for line in lines] == [
        ["Query", "0:"],
        ["1.0000", "row", "9"],
        ["Query", "1:"],
        ["1.0000", "row", "2"],
    ]
    (tmp_path / "list.txt").touch()
    for arguments, sentence in (
        (["--in", str(path), "--far", "1e-3"], "--far goes with a folder that `embed` has written"),
        (["--in", str(tmp_path), "--names", "photo"], r"--column and --names go with a .parquet of embeddings"),
        (["--in", str(tmp_path / "rows.npy"), "--column", "a"], "is a .npy and has no columns"),
        (["--in", str(tmp_path / "list.txt")], "holds no embeddings: give a folder of"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["search", "4", *arguments])
        assert ended.value.code == 2 and sentence in capsys.readouterr().err
