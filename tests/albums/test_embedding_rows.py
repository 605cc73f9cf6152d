"""Search among embeddings of any origin: against cosines in float64, from both files, and what is refused."""

from __future__ import annotations

import io
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
        rows[[0, 17]], rows[[1, 18]] = 1e-16 * rows[[0, 17]], 1e14 * rows[[1, 18]]
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
def test_a_parquet_gives_what_the_array_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    monkeypatch.setattr("siamese_verify.albums.embedding_rows.BATCH", 41)
    rows = drawn("float16")
    file = EmbeddingsFile(in_parquet(tmp_path / "a.parquet", rows, kind))
    assert np.array_equal(file.rows[:], UnitRows(rows, "array")[:])


def test_a_query_is_a_file_a_name_or_a_row(tmp_path: Path) -> None:
    rows = drawn("float32")
    names = [f"n{number}" for number in range(300)]
    names[7], names[8], names[9] = "twin", "twin", "12"
    path = in_parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float32()), "vector", title=names, photo=names)
    file = EmbeddingsFile(path, "vector", "title")
    for query, row in (("n250", 250), ("12", 9)):
        assert np.array_equal(file.queries(query), file.rows[row : row + 1])
    assert file.names_of(np.array([250, 0, 250, 71])) == {0: "n0", 71: "n71", 250: "n250"}
    with pytest.raises(InputError, match=r"rows 7 and 8 are named 'twin': without --names"):
        file.queries("twin")
    file = EmbeddingsFile(path, "vector")
    np.save(tmp_path / "one.npy", rows[5])
    for query, row in ((str(tmp_path / "one.npy"), 5), ("12", 12)):
        assert np.array_equal(file.queries(query), file.rows[row : row + 1])
    for query in ("300", "-1", "n1", "9" * 5000):
        with pytest.raises(InputError, match=r"is no \.npy of queries, and no row of .*300 rows are numbered"):
            file.queries(query)
    with pytest.raises(InputError, match=r"There is no file .*missing\.npy"):
        file.queries(str(tmp_path / "missing.npy"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, 1e300, 1e-50, 1e-20, 1e19])
def test_a_row_without_a_direction_is_refused_with_its_number(tmp_path: Path, value: float) -> None:
    rows = drawn("float64")
    rows[123] = value
    np.save(tmp_path / "rows.npy", rows)
    file = EmbeddingsFile(tmp_path / "rows.npy")
    with pytest.raises(
        InputError, match=r"Row 123 of .*rows\.npy has the length .* from 1e-18 to 1e\+18: leave it out"
    ):
        file.search(file.queries("0"), 5)
    with pytest.raises(InputError, match="Row 123 of"):
        file.queries("123")
    file = EmbeddingsFile(in_parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float64())))
    with pytest.raises(InputError, match=r"Row 123 of .*a\.parquet has the length"):
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
    for name, sentence in (
        ("cut.npy", "holds no array"),
        ("torn.parquet", "cannot be read"),
        ("no.npy", "There is no"),
    ):
        with pytest.raises(InputError, match=sentence):
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


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + bytes(60),
        header((2**40, 12)) + bytes(48),
        header((2**70, 12)) + bytes(48),
        header((2**32, 2**32)) + bytes(48),
        header((-1, 12)) + bytes(48),
        header((1, 12)),
        header((1, 12)).replace(b"True", b"((((").replace(b"False", b"(((((") + bytes(48),
        header((1, 12), "|O") + bytes(96),
    ],
    ids=["empty", "zip", "2**40 rows", "2**70 rows", "wrapped", "negative", "cut", "torn", "objects"],
)
def test_a_damaged_array_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npy").write_bytes(content)
    np.save(tmp_path / "rows.npy", drawn("float32"))
    with pytest.raises(InputError, match=r"bad\.npy holds no array .*: write one by numpy\.save"):
        EmbeddingsFile(tmp_path / "bad.npy")
    with pytest.raises(InputError, match=r"bad\.npy holds no array"):
        EmbeddingsFile(tmp_path / "rows.npy").queries(str(tmp_path / "bad.npy"))


@pytest.mark.parametrize(
    "names",
    [
        pa.array([b"\xff" * 16] * 3, pa.binary(16)),
        pa.array([{"a": 1}] * 3),
        pa.array([["a"]] * 3),
    ],
    ids=["uuid", "struct", "list"],
)
def test_columns_that_are_no_text_give_no_names(tmp_path: Path, names: pa.Array) -> None:
    path = in_parquet(tmp_path / "a.parquet", drawn("float32", 3), pa.list_(pa.float32()), id=names, name=names)
    assert EmbeddingsFile(path).queries("2").shape == (1, 12)  # unasked they do not matter
    with pytest.raises(InputError, match=r"The column id of .*a\.parquet gives no names"):
        EmbeddingsFile(path, names="id").queries("a")


def test_numbers_are_rows_and_names_are_names(tmp_path: Path) -> None:
    ids = pa.array([1, 2, None])
    path = in_parquet(tmp_path / "a.parquet", drawn("float32", 3), pa.list_(pa.float32()), id=ids)
    file, named = EmbeddingsFile(path), EmbeddingsFile(path, names="id")
    assert np.array_equal(file.queries("1"), file.rows[1:2])
    assert np.array_equal(named.queries("1"), file.rows[0:1])
    assert named.names_of(np.array([2, 0])) == {0: "1", 2: ""}
    with pytest.raises(InputError, match="no row is named '0'"):
        named.queries("0")


def test_a_parquet_too_large_for_memory_or_with_two_such_columns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_parquet(tmp_path / "a.parquet", drawn("float32", 3), pa.list_(pa.float32()))
    lists = pa.array([[1.0]] * 3)
    parquet.write_table(pa.table([lists, lists], names=["embedding", "embedding"]), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="has 2 columns embedding"):
        EmbeddingsFile(tmp_path / "two.parquet")
    monkeypatch.setattr("siamese_verify.albums.embedding_rows.IN_MEMORY", 143)
    with pytest.raises(InputError, match=r"has 3 x 12 numbers, more than .*: write it as a \.npy"):
        EmbeddingsFile(path)


def test_the_command_searches_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = drawn("float32")
    np.save(tmp_path / "rows.npy", rows)
    names = pa.array([f"photo {number}" for number in range(300)]).dictionary_encode()
    path = in_parquet(tmp_path / "a.parquet", rows, pa.list_(pa.float32()), photo=names)
    assert main(["search", "photo 4", "--in", str(path), "--names", "photo", "--top", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["searched"] == 300
    (hits,) = answer["queries"]
    assert hits[0] | {"score": 1} == {"row": 4, "name": "photo 4", "score": 1} and hits[0]["score"] > 1 - 1e-6
    assert hits[1]["row"] == np.argsort(-cosines(rows[4:5], rows)[0])[1]
    np.save(tmp_path / "queries.npy", rows[[9, 2]])
    query = str(tmp_path / "queries.npy")
    assert main(["search", query, "--in", str(path), "--names", "photo", "--top", "1", "--json"]) == 0
    assert [hits[0]["name"] for hits in json.loads(capsys.readouterr().out)["queries"]] == ["photo 9", "photo 2"]
    assert main(["search", query, "--in", str(tmp_path / "rows.npy"), "--top", "1"]) == 0
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
        (["--in", str(path), "--faiss"], "--faiss goes with a folder that `embed` has written"),
        (["--in", str(path), "--on-multiple-faces", "largest"], "--on-multiple-faces goes with a folder"),
        (["--in", str(tmp_path / "no.parquet"), "--column", "a"], "There is no file"),
        (["--in", str(tmp_path), "--names", "photo"], r"--column and --names go with a .parquet of embeddings"),
        (["--in", str(tmp_path / "rows.npy"), "--column", "a"], "is a .npy and has no columns"),
        (["--in", str(tmp_path / "list.txt")], "holds no embeddings: give a folder of"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["search", "4", *arguments])
        assert ended.value.code == 2 and sentence in capsys.readouterr().err
