"""RecordIO sets, written here by the published format."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from siamese_verify.datasets.recordio import RecordPhotos
from siamese_verify.errors import InputError
from siamese_verify.structures import Photos

MAGIC = struct.pack("<I", 0xCED7230A)
Records = Sequence[tuple[int, bytes]]  # key and content, in the order of the file


def jpeg(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (level, level, level)).save(file, "JPEG")
    return file.getvalue()


def content(labels: float | Sequence[float], photo: bytes = b"", key: int = 0) -> bytes:
    if isinstance(labels, int | float):
        return struct.pack("<IfQQ", 0, labels, key, 0) + photo
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + photo


def framed(payload: bytes) -> bytes:
    """A record: cut where its content has the magic number at a multiple of 4, each part with a head and padding."""
    parts, start = [], 0
    for place in range(0, len(payload) // 4 * 4, 4):
        if payload[place : place + 4] == MAGIC:
            parts.append(payload[start:place])
            start = place + 4
    parts.append(payload[start:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    heads = [MAGIC + struct.pack("<I", kind << 29 | len(part)) for kind, part in zip(kinds, parts, strict=True)]
    return b"".join(head + part + bytes(-len(part) % 4) for head, part in zip(heads, parts, strict=True))


def packed(records: Records) -> tuple[bytes, bytes]:
    """The `.rec` and the `.idx`."""
    rec, idx = b"", ""
    for key, payload in records:
        idx += f"{key}\t{len(rec)}\n"
        rec += framed(payload)
    return rec, idx.encode()


def write(folder: Path, records: Records, stem: str = "train") -> Path:
    rec, idx = packed(records)
    (folder / f"{stem}.rec").write_bytes(rec)
    (folder / f"{stem}.idx").write_bytes(idx)
    return folder


def plain(count: int = 7) -> Records:
    return [(key, content(float(key // 2), jpeg(key * 9), key)) for key in range(count)]


def insightface(sizes: Sequence[int] = (2, 3, 1), change: Callable[[list[Any]], None] | None = None) -> Records:
    """Photos of each person, their ranges of keys, and at the end the record with key 0; `change` alters the ranges."""
    first = 1 + sum(sizes)
    ends = np.cumsum([1, *sizes]).tolist()
    ranges: list[Any] = [[first, first + len(sizes)], *map(list, pairwise(ends))]
    if change:
        change(ranges)
    people = np.repeat(np.arange(len(sizes)), sizes)
    photos = [(key, content([float(who), 0.0], jpeg(key * 9), key)) for key, who in enumerate(people.tolist(), 1)]
    return [
        *photos,
        *((first + who, content(keys, key=first + who)) for who, keys in enumerate(ranges[1:])),
        (0, content(ranges[0])),
    ]


def level(photo: Image.Image) -> int:
    return int(np.asarray(photo).mean().round())


class Levels:
    """What a DataLoader reads."""

    def __init__(self, photos: RecordPhotos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, row: int) -> tuple[int, int]:
        return level(self.photos[row]), int(self.photos.identities[row])


def test_photos_are_in_the_order_of_their_keys(tmp_path: Path) -> None:
    records = plain()
    photos: Photos = RecordPhotos(write(tmp_path, [records[row] for row in (3, 0, 6, 1, 5, 2, 4)]))
    assert len(photos) == 7
    assert photos.identities.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert photos.identities.dtype == np.int64
    assert [level(photos[row]) for row in range(7)] == [row * 9 for row in range(7)]
    assert photos[0].mode == "RGB"


def test_names_are_made_from_keys(tmp_path: Path) -> None:
    photos = RecordPhotos(write(tmp_path, [(key * 10, payload) for key, payload in plain(4)]))
    names = photos.names
    assert list(names) == ["record 0", "record 10", "record 20", "record 30"]
    assert (names[-1], names[1], names[1:3]) == ("record 30", "record 10", ["record 10", "record 20"])
    assert len(names) == 4
    assert "record 20" in names
    with pytest.raises(IndexError):
        names[4]


def test_the_first_of_several_labels_is_the_identity(tmp_path: Path) -> None:
    labels = [[5.0], [9.0, 1.0], [5.0, 2.0, 3.0], [0.0] * 40]
    photos = RecordPhotos(write(tmp_path, [(key, content(label, jpeg(key))) for key, label in enumerate(labels)]))
    assert photos.identities.tolist() == [5, 9, 5, 0]
    assert [photos.read(row) for row in range(4)] == [jpeg(row) for row in range(4)]


def test_photos_of_insightface_are_read_without_the_records_of_identities(tmp_path: Path) -> None:
    (tmp_path / "property").write_bytes(b"3,112,112\n")
    photos = RecordPhotos(write(tmp_path, insightface()))
    assert photos.identities.tolist() == [0, 0, 1, 1, 1, 2]
    assert list(photos.names) == [f"record {key}" for key in range(1, 7)]
    assert [level(photos[row]) for row in range(6)] == [key * 9 for key in range(1, 7)]


def test_identities_are_numbered_by_their_records_whatever_their_ranges(tmp_path: Path) -> None:
    photos = RecordPhotos(write(tmp_path, insightface((2, 3, 1), lambda ranges: ranges.append(ranges.pop(1)))))
    assert photos.identities.tolist() == [2, 2, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ranges: ranges[2].__setitem__(0, 2),
            r"record 8 .* from 2 to before 6, but 3 is the next",
        ),
        (
            lambda ranges: ranges[2].__setitem__(0, 4),
            r"record 8 .* from 4 to before 6, but 3 is the next",
        ),
        (
            lambda ranges: ranges[1].__setitem__(0, 0),
            r"record 7 .* from 0 to before 3, but 1 is the next",
        ),
        (lambda ranges: ranges[3].__setitem__(1, 9), "ranges end at 9, photos at 7"),
        (lambda ranges: ranges[3].__setitem__(1, 6), "ranges end at 6, photos at 7"),
        (lambda ranges: ranges[3].__setitem__(1, float("nan")), r"ranges end at nan|record 9 .* before nan"),
        (lambda ranges: ranges[1].__setitem__(1, 2.5), r"record 8 .* but 2\.5 is the next"),
        (lambda ranges: ranges[0].__setitem__(1, 12), "identities are in records 7 to 11 of 10"),
        (lambda ranges: ranges[0].__setitem__(0, float("inf")), "identities are in records inf to 9 of 10"),
        (lambda ranges: ranges[0].__setitem__(0, 6), "record 6 holds no range of an identity"),
        (
            lambda ranges: ranges[0].__setitem__(0, 8),
            r"record 9 .*|ranges end|record 8 .* but 1 is the next",
        ),
    ],
)
def test_contradictory_ranges_of_identities_are_refused(
    tmp_path: Path, change: Callable[[list[Any]], None], message: str
) -> None:
    write(tmp_path, insightface((2, 3, 1), change))
    with pytest.raises(InputError, match=f"contradict its records: .*({message})"):
        RecordPhotos(tmp_path)


def test_missing_keys_of_insightface_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [one for one in insightface() if one[0] != 4])
    with pytest.raises(InputError, match=r"identities are in records 7 to 9 of 9"):
        RecordPhotos(tmp_path)


@pytest.mark.parametrize("place", [0, 3, 4, 5, 24, 301, 302, 303])
def test_photos_with_the_magic_number_are_joined_from_parts(tmp_path: Path, place: int) -> None:
    for photo in (
        bytes(place) + MAGIC + b"tail",
        bytes(place) + MAGIC * 3,
        bytes(place) + MAGIC + bytes(50_001) + MAGIC + b"x" * place,
    ):
        photos = RecordPhotos(write(tmp_path, [*plain(2), (2, content(8.0, photo)), (3, content(9.0, jpeg(3)))]))
        assert photos.read(2) == photo
        assert photos.read(3) == jpeg(3)
        assert photos.identities.tolist() == [0, 0, 8, 9]


@pytest.mark.parametrize("records", [plain(40), insightface([20, 20])])
def test_an_index_of_another_file_is_refused(tmp_path: Path, records: Records) -> None:
    write(tmp_path, records)
    idx = (tmp_path / "train.idx").read_bytes()
    for others in (
        [(key, payload + b"1234" * 9) for key, payload in records],
        [(key, payload[:60]) for key, payload in records],
        [(key, payload + b"more" * (key == 3)) for key, payload in records],
    ):
        (tmp_path / "train.rec").write_bytes(packed(others)[0])
        with pytest.raises(InputError, match=r"Record \d+ cannot begin at offset \d+ .*belongs to another file"):
            RecordPhotos(tmp_path)
    (tmp_path / "train.rec").write_bytes(packed(records)[0])
    (tmp_path / "train.idx").write_bytes(idx.replace(b"\n5\t", b"\n5\t1"))
    with pytest.raises(InputError, match=r"Record 5 cannot begin at offset 1\d+ "):
        RecordPhotos(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\t0\n\n1\t360\n", "is not a list of keys and offsets"),
        ("0\t0\n1\t360\nnonsense\n", "is not a list of keys and offsets .*nonsense"),
        ("0\t0\n1\tx\n", "is not a list of keys and offsets .*'x'"),
        ("0 0\n1 360\n", "is not a list of keys and offsets"),
        ("0\t0\n1\t-360\n", "Record 1 cannot begin at offset -360"),
        ("0\t0\n-1\t360\n", "has a negative key"),
        ("0\t0\n1\t99999999999999999999\n", "is not a list of keys and offsets .*9999"),
        ("0\t0\n1\t1.5\n", r"is not a list of keys and offsets .*1\.5"),
        ("0\t0\t0\n", "is not a list of keys and offsets"),
        ("0\t0\n2\t360\n2\t0\n", "has the key 2 twice"),
        ("", "is not a list of keys and offsets"),
        (None, r"There is no file .*train\.idx"),
    ],
)
def test_invalid_indices_are_refused(tmp_path: Path, lines: str | None, message: str) -> None:
    write(tmp_path, plain())
    (tmp_path / "train.idx").write_text(lines) if lines is not None else (tmp_path / "train.idx").unlink()
    with pytest.raises(InputError, match=message):
        RecordPhotos(tmp_path)


def test_lines_of_an_index_may_end_as_on_windows(tmp_path: Path) -> None:
    digest = RecordPhotos(write(tmp_path, plain())).digest
    idx = (tmp_path / "train.idx").read_bytes()
    (tmp_path / "train.idx").write_bytes(idx.replace(b"\n", b"\r\n"))
    assert RecordPhotos(tmp_path).digest == digest


@pytest.mark.parametrize("label", [0.5, float("nan"), float("inf"), -1.0, 2.0**24])
def test_labels_that_are_not_whole_numbers_are_refused(tmp_path: Path, label: float) -> None:
    for labels in (label, [label, 1.0]):
        write(tmp_path, [*plain(3), (17, content(labels, jpeg(1)))])
        with pytest.raises(InputError, match=r"label of record 17 of .*train\.rec is .*, not a whole number"):
            RecordPhotos(tmp_path)


@pytest.mark.parametrize("records", [plain(6), insightface()])
def test_another_number_of_classes_than_in_the_property_file_is_refused(tmp_path: Path, records: Records) -> None:
    write(tmp_path, records)
    (tmp_path / "property").write_bytes(b"3,112,112")
    assert len(RecordPhotos(tmp_path)) == 6
    (tmp_path / "property").write_bytes(b"4,112,112")
    with pytest.raises(InputError, match=r"property announces 4 identities, but .*train\.rec has 3"):
        RecordPhotos(tmp_path)
    (tmp_path / "property").write_bytes(b"many")
    with pytest.raises(InputError, match="should be classes,height,width, got 'many'"):
        RecordPhotos(tmp_path)


def test_the_root_may_be_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "property").write_bytes(b"99,112,112")  # of another set, train.rec
    write(tmp_path, plain(), "val % #ü")
    for root in (tmp_path / "val % #ü.rec", str(tmp_path / "val % #ü.rec")):
        assert RecordPhotos(root).read(2) == jpeg(18)
    monkeypatch.chdir(tmp_path)
    assert RecordPhotos("val % #ü.rec").read(2) == jpeg(18)
    with pytest.raises(InputError, match=r"There is no file .*train\.rec"):
        RecordPhotos(tmp_path)


@pytest.mark.parametrize("records", [plain(), insightface()])
def test_a_set_in_object_storage_is_read(records: Records) -> None:
    rec, idx = packed(records)
    root, files = f"memory://{uuid4()}", fsspec.filesystem("memory")
    files.pipe_file(f"{root}/train.rec", rec)
    files.pipe_file(f"{root}/train.idx", idx)
    for place in (root, f"{root}/train.rec"):
        photos = RecordPhotos(place)
        expected = [payload[-len(jpeg(0)) :] for key, payload in sorted(records) if len(payload) > 40]
        assert [photos.read(row) for row in range(len(photos))] == expected
        assert pickle.loads(pickle.dumps(photos)).read(1) == photos.read(1)


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_the_same(tmp_path: Path, context: str, workers: int) -> None:
    photos = RecordPhotos(write(tmp_path, insightface([20, 11, 9])))
    expected = [(level(photos[row]), int(photos.identities[row])) for row in range(len(photos))]
    loader: DataLoader[Any] = DataLoader(
        Levels(photos),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
    )
    assert [tuple(one) for one in loader] == expected


def test_rows_in_any_order_give_the_same(tmp_path: Path) -> None:
    photos = RecordPhotos(write(tmp_path, [(key, content(1.0, jpeg(key) * (1 + key % 7 * 20))) for key in range(60)]))
    order = np.random.default_rng(0).permutation(60)
    assert [photos.read(int(row)) for row in order] == [jpeg(row) * (1 + row % 7 * 20) for row in order.tolist()]
    assert photos.read(-1) == photos.read(59)
    with pytest.raises(IndexError):
        photos.read(60)


def test_the_digest_differs_between_sets(tmp_path: Path) -> None:
    digest = RecordPhotos(write(tmp_path, plain())).digest
    assert len(digest) == 64
    assert RecordPhotos(write(tmp_path, plain())).digest == digest
    others = [plain(6), [(key + 1, payload) for key, payload in plain()], [*plain(6), (6, content(9.0, jpeg(54), 6))]]
    assert len({digest, *(RecordPhotos(write(tmp_path, records)).digest for records in others)}) == 4


def test_identities_of_insightface_come_from_the_ranges_without_reading_the_photos(tmp_path: Path) -> None:
    other = [
        (key, content([9.0, 0.0], jpeg(1), key) if 0 < key < 900 else payload)
        for key, payload in insightface([500, 399, 1])
    ]
    photos = RecordPhotos(write(tmp_path, other))
    assert np.bincount(photos.identities).tolist() == [500, 399, 1]


def test_records_without_a_photo_are_left_out(tmp_path: Path) -> None:
    photos = RecordPhotos(write(tmp_path, [*plain(3), (17, content([1.0, 2.0]))]))
    assert list(photos.names) == ["record 0", "record 1", "record 2"]
    with pytest.raises(InputError, match="holds no photo"):
        RecordPhotos(write(tmp_path, [(17, content([1.0, 2.0]))]))


def test_a_record_that_is_too_short_for_its_labels_is_refused(tmp_path: Path) -> None:
    for short in (b"short", content([1.0, 2.0, 3.0])[:26]):
        write(tmp_path, [*plain(3), (17, short)])
        with pytest.raises(
            InputError, match=r"Record 17 at offset \d+ of .* is damaged: it is too short for its labels"
        ):
            RecordPhotos(tmp_path)


def test_damaged_records_are_reported_when_they_are_read(tmp_path: Path) -> None:
    records = insightface([9])
    records = [(key, b"x" * 30 if key == 2 else payload) for key, payload in records]
    records = [(key, content([0.0, 0.0], b"no photo") if key == 3 else payload) for key, payload in records]
    records = [(key, content([0.0, 0.0]) if key == 4 else payload) for key, payload in records]
    write(tmp_path, records)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    offsets = {int(key): int(start) for key, start in map(str.split, lines)}
    photos = RecordPhotos(tmp_path)
    rec = bytearray((tmp_path / "train.rec").read_bytes())
    rec[offsets[5]] ^= 1  # the magic number
    rec[offsets[6] + 7] |= 2 << 5  # a part from the middle
    rec[offsets[7] + 4 : offsets[7] + 8] = struct.pack("<I", 2**29 - 1)
    rec[offsets[8] + 4 : offsets[8] + 8] = struct.pack("<I", 1 << 29 | 40)
    (tmp_path / "train.rec").write_bytes(rec)
    expected = {
        2: "it holds no photo",
        4: "it holds no photo",
        5: f"no record begins at byte {offsets[5]:,}",
        6: f"its parts are out of order at byte {offsets[6]:,}",
        7: "it goes on to byte",
        8: f"no further part of it begins at byte {offsets[8] + 48:,}",
    }
    for key, reason in expected.items():
        with pytest.raises(InputError, match=f"^record {key} at offset {offsets[key]} of .* is damaged: {reason}"):
            photos.read(key - 1)
    with pytest.raises(InputError, match=rf"record 3 at offset {offsets[3]} of .*train\.rec is not an image"):
        photos[2]
    assert photos.read(8) == jpeg(81)


def test_a_record_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    write(tmp_path, plain(2))
    start = int((tmp_path / "train.idx").read_text().split()[-1])
    with (tmp_path / "train.rec").open("r+b") as file:
        file.seek(start + 4)
        file.write(struct.pack("<I", 65 * 2**20))
        file.truncate(70 * 2**20)
    photos = RecordPhotos(tmp_path)
    assert photos.read(0) == jpeg(0)
    with pytest.raises(InputError, match="it has more bytes than the limit of 67,108,864"):
        photos.read(1)


def test_a_cached_index_is_mapped_until_the_set_changes(tmp_path: Path) -> None:
    write(tmp_path, insightface([3, 2]))
    first = RecordPhotos(tmp_path, cache=tmp_path / "cache")
    again = RecordPhotos(tmp_path, cache=tmp_path / "cache")
    sent = pickle.loads(pickle.dumps(again))
    assert len(pickle.dumps(again)) < 500  # its path, not its content
    for photos in (again, sent):
        assert not photos.identities.flags.owndata
        assert list(photos.names) == list(first.names)
        assert photos.identities.tolist() == first.identities.tolist() == [0, 0, 0, 1, 1]
        assert photos.read(4) == first.read(4)
        assert photos.digest == first.digest == RecordPhotos(tmp_path).digest
    write(tmp_path, insightface([3, 4]))
    assert len(RecordPhotos(tmp_path, cache=tmp_path / "cache")) == 7
