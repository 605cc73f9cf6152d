from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_verify.errors import InputError
from siamese_verify.evaluation import ImpostorTail, Interval
from siamese_verify.evaluation.photo_sets import COMBINE
from siamese_verify.faces import Quality
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel
from siamese_verify.verification import Verifier

Faces = NDArray[np.float32]


class StandIn:
    """Stands in for a verifier: a photo is its own embedding."""

    def __init__(self, model: GalleryModel, **more: Any) -> None:
        values = {
            "weights_sha256": "cd",
            "score_calibration": SimpleNamespace(impostor_tail=model.impostor_tail),
            "quality": {},
        }
        self.metadata = SimpleNamespace(
            name=model.name, fingerprint=model.fingerprint, embedding_size=model.embedding_size, **{**values, **more}
        )

    def find(self, photo: Any, name: str | None = None, on_multiple_faces: Any = None) -> list[Any]:
        crop = np.zeros((8, 8, 3), np.uint8)
        crop[:] = int(photo.flat[0] * 100) % 256
        return [SimpleNamespace(name=name or "photo", quality=None, crop=crop, embedding=photo)] * (
            2 if on_multiple_faces else 1
        )

    def embed_faces(self, faces: Any) -> Faces:
        return np.stack([face.embedding for face in faces])


def stand_in(model: GalleryModel, **more: Any) -> Verifier:
    return cast(Verifier, StandIn(model, **more))


def names(gallery: Gallery) -> list[str]:
    return [person.name for person in gallery.people()]


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


def test_somebody_enrolled_is_found_and_a_stranger_is_not(gallery: Gallery, faces: Faces) -> None:
    for person in range(10):
        gallery.enroll_embeddings(f"P{person}", faces[person, :2])
    for person in range(10):
        found = gallery.identify_embedding(faces[person, 2])
        assert found.name == f"P{person}" == found.candidates[0].name
        assert found.score is not None
        assert found.score == found.candidates[0].score >= found.threshold
        assert (found.found, found.searched, found.people, found.far, found.model) == (True, 20, 10, 1e-3, "mine")
    for person in (10, 11):
        found = gallery.identify_embedding(faces[person, 2])
        assert (found.found, found.name, found.score, found.candidates) == (False, None, None, ())
        asked = gallery.identify_embedding(faces[person, 2], scores=True)
        assert (asked.found, asked.name, len(asked.candidates)) == (False, None, 5)
        assert asked.score == asked.candidates[0].score
        assert asked.score is not None
        assert asked.score < asked.threshold


def test_scores_of_people_who_were_not_found_are_told_on_request_alone(gallery: Gallery, faces: Faces) -> None:
    for person in range(6):
        gallery.enroll_embeddings(f"P{person}", faces[person])
    found = gallery.identify_embedding(faces[2, 0], threshold=0.9)
    assert [one.name for one in found.candidates] == ["P2"]
    assert len(gallery.identify_embedding(faces[2, 0], threshold=0.9, scores=True).candidates) == 5
    nobody = gallery.identify_embedding(faces[8, 0], threshold=0.9)
    told = f"{nobody.to_dict()} {nobody.sentence()}"
    assert "P" not in "".join(one["name"] for one in nobody.to_dict()["candidates"])
    assert (nobody.to_dict()["score"], "score" in nobody.sentence(), "best" in told) == (None, False, False)


@pytest.mark.parametrize("high", [0.6, float("inf")])
def test_a_score_within_the_interval_of_the_raised_threshold_is_inconclusive(
    high: float, path: Path, model: GalleryModel, key: GalleryKey, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def threshold(self: ImpostorTail, far: float) -> tuple[float, Interval]:
        asked.append(far)
        return 0.5, Interval(0.4, high)

    monkeypatch.setattr(ImpostorTail, "threshold", threshold)
    with Gallery.open(path, model, key=key) as gallery:
        gallery.enroll_embeddings("Ann", faces[0], compare=False)
        aside = faces[1, 0] - (faces[1, 0] @ faces[0, 0]) * faces[0, 0]

        def probe(cosine: float) -> Faces:
            return np.asarray(cosine * faces[0, 0] + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside))

        gallery.identify_embedding(probe(0.3))
        # At the usual rate, or at the loosest one where no rate is shown.
        assert asked[-1] == pytest.approx((1e-2 if high > 1 else 1e-3) / 3)
        for cosine, open_end in ((0.3, False), (0.42, None), (0.55, None), (0.7, None if high > 1 else True)):
            found = gallery.identify_embedding(probe(cosine))
            assert found.found is open_end, cosine
            assert (found.name is not None) == (found.found is True)
            assert bool(found.reasons) == (found.found is None)
            if found.found is None:
                assert (found.score, found.candidates, found.to_dict()["reason"]) == (None, (), "inconclusive")
                assert found.sentence().startswith("Inconclusive: threshold 0.500, 1 person searched")
                forced = gallery.identify_embedding(probe(cosine), decide=True)
                assert forced.found is (cosine >= 0.5)
                assert set(found.reasons) < set(forced.warnings) | {""}
        json.dumps(found.to_dict(), allow_nan=False)
    with Gallery.open(path, model, key=key) as gallery:
        matched = [entry for entry in gallery.log() if entry.event == "matched"]
    assert len(matched) == {0.6: 2}.get(high, 2), "what is inconclusive is logged as no match"


def test_a_face_unlike_the_measured_ones_is_inconclusive_as_in_verify(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    with Gallery.open(path, model._replace(quality={"light": (0.2, 0.8)}), key=key) as gallery:
        gallery.enroll_embeddings("Ann", faces[0])
        dark = SimpleNamespace(name="dark.jpg", quality=SimpleNamespace(light=0.1), to_dict=dict)
        found = gallery.identify_embedding(faces[0, 0], face=dark)  # type: ignore[arg-type]
        assert (found.found, found.name) == (None, None)
        assert "dark.jpg: the face is dark" in found.reasons[0]
        assert gallery.identify_embedding(faces[0, 0], face=dark, decide=True).name == "Ann"  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("far", "1e-3"), ("threshold", "0.5"), ("far", True)])
def test_what_is_no_number_is_refused(name: str, value: Any, gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    with pytest.raises(InputError, match="must be a number such as"):
        gallery.identify_embedding(faces[0, 0], **{name: value})


def test_candidates_are_ranked_by_their_best_template(gallery: Gallery, faces: Faces) -> None:
    for person in range(5):
        gallery.enroll_embeddings(f"P{person}", faces[person])
    probe = faces[3, 0] + 0.5 * faces[1, 0]
    cosines = (faces[:5] @ (probe / np.linalg.norm(probe))).max(axis=1)
    found = gallery.identify_embedding(probe, top=3, scores=True).candidates
    order = np.argsort(-cosines)[:3]
    assert [candidate.name for candidate in found] == [f"P{person}" for person in order]
    np.testing.assert_allclose([candidate.score for candidate in found], cosines[order], atol=1e-6)


def test_another_photo_of_somebody_becomes_one_more_template(gallery: Gallery, faces: Faces) -> None:
    first = gallery.enroll_embeddings("Ann", faces[0, :1])
    second = gallery.enroll_embeddings(" Ann ", faces[0, 1:])
    assert (first.added, first.templates, second.added, second.templates) == (1, 1, 2, 3)
    assert first.pseudonym == second.pseudonym
    assert [person.templates for person in gallery.people()] == [3]


def test_composed_and_decomposed_names_are_one_person(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Zoe\u0308", faces[0, :1])
    gallery.enroll_embeddings("Zo\u00eb", faces[0, 1:])
    assert names(gallery) == ["Zo\u00eb"]
    assert gallery.forget("Zoe\u0308") == 3


def test_a_gallery_is_what_it_was_after_it_was_closed(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    with Gallery.open(path, model, key=key) as gallery:
        for person in range(6):
            gallery.enroll_embeddings(f"P{person}", faces[person])
        gallery.forget("P2")
        before = gallery.people(), gallery.log(), gallery.identify_embedding(faces[10, 0]).candidates
    with Gallery.open(path, model, key=key) as gallery:
        assert (gallery.people(), gallery.log(), gallery.identify_embedding(faces[10, 0]).candidates) == before
        gallery.check()


def test_neither_names_nor_templates_nor_the_key_can_be_read_in_the_files(
    path: Path, gallery: Gallery, key: GalleryKey, faces: Faces
) -> None:
    enrolled = gallery.enroll_embeddings("Rumpelstiltskin", faces[0])
    gallery.identify_embedding(faces[0, 0])
    content = everything(path)
    for secret in (b"Rumpel", enrolled.pseudonym.encode(), b"enrolled", b"matched", key.content):
        assert secret not in content
    for row in faces[0]:
        for part in np.split(row, 4):  # of four numbers each
            assert part.astype("<f4").tobytes() not in content


def test_forgetting_rewrites_every_page_of_the_file(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    with Gallery.open(path, model, key=key) as gallery:
        for person in range(10):
            gallery.enroll_embeddings(f"P{person}", faces[person], crops=[crop] * 3)
        np.testing.assert_array_equal(gallery.photos("P3"), [crop] * 3)
        before = everything(path)
        assert gallery.forget("P3") == 3
        after = everything(path)
        np.testing.assert_array_equal(gallery.photos("P4"), [crop] * 3)
    blocks = {before[start : start + 16] for start in range(16, len(before), 16)}  # the first 16 bytes are the salt
    assert not any(after[start : start + 16] in blocks for start in range(16, len(after), 16))
    assert [file.name for file in path.parent.iterdir()] == ["gallery.db"]
    assert len(after) < len(before)


def test_photos_are_not_kept_unless_asked(path: Path, model: GalleryModel, key: GalleryKey, faces: Faces) -> None:
    with Gallery.open(path, stand_in(model), key=key) as gallery:
        gallery.enroll("Ann", [faces[0, 0]])
        gallery.enroll("Ben", [faces[1, 0]], keep_photos=True)
        assert gallery.photos("Ann") == []
        assert [photo.shape for photo in gallery.photos("Ben")] == [(8, 8, 3)]


def test_a_rewrite_that_was_killed_is_completed_at_the_next_opening(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_verify.gallery.store import Store

    vacuumed: list[Path] = []
    true_vacuum = Store.vacuum

    def die(store: Store) -> None:
        raise InputError("killed")

    def record(store: Store) -> None:
        vacuumed.append(store.path)
        true_vacuum(store)

    with Gallery.open(path, model, key=key) as gallery:
        gallery.enroll_embeddings("Ann", faces[0])
        monkeypatch.setattr(Store, "vacuum", die)
        with pytest.raises(InputError, match="Ann is forgotten, but the file is rewritten at the next opening"):
            gallery.forget("Ann")
    monkeypatch.setattr(Store, "vacuum", record)
    for _ in range(2):
        with Gallery.open(path, model, key=key) as gallery:
            assert names(gallery) == []
    assert vacuumed == [path]


def test_the_log_says_who_was_enrolled_matched_and_forgotten(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0, :2])
    gallery.enroll_embeddings("Ben", faces[1, :2])
    gallery.identify_embedding(faces[0, 2])
    gallery.identify_embedding(faces[5, 2])  # nobody: not logged
    gallery.forget("Ann")
    entries = gallery.log()
    assert [(entry.event, entry.name) for entry in entries] == [
        ("enrolled", None),
        ("enrolled", "Ben"),
        ("matched", None),
        ("forgotten", None),
    ]
    assert entries[0].pseudonym == entries[2].pseudonym == entries[3].pseudonym != entries[1].pseudonym
    assert {entry.model for entry in entries} == {"mine"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.at) for entry in entries)
    assert set(entries[2].details) == {"score", "threshold", "far"}
    assert "Ann" not in str(entries)


def test_somebody_who_comes_back_is_not_tied_to_what_was_forgotten(gallery: Gallery, faces: Faces) -> None:
    first = gallery.enroll_embeddings("Ann", faces[0])
    gallery.forget("Ann")
    second = gallery.enroll_embeddings("Ann", faces[0])
    assert first.pseudonym != second.pseudonym
    assert [entry.name for entry in gallery.log()] == [None, None, "Ann"]


def test_nobody_is_found_after_being_forgotten_by_another_process(
    path: Path, gallery: Gallery, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    with Gallery.open(path, model, key=key) as other:
        for person in range(4):
            gallery.enroll_embeddings(f"P{person}", faces[person, :2])
            assert other.identify_embedding(faces[person, 2]).name == f"P{person}"
        other.forget("P1")
        assert gallery.identify_embedding(faces[1, 2]).name is None
        assert names(gallery) == ["P0", "P2", "P3"]
        other.enroll_embeddings("P1", faces[7, :2])  # the name again, for somebody else
        assert gallery.identify_embedding(faces[1, 2]).name is None
        assert gallery.identify_embedding(faces[7, 2]).name == "P1"
        other.forget("P1")
        other.enroll_embeddings("P1", faces[8, :2])
        assert gallery.identify_embedding(faces[8, 2]).name == "P1", "forgotten and enrolled between two searches"


def test_a_match_with_somebody_forgotten_during_the_search_is_searched_again(
    path: Path, gallery: Gallery, model: GalleryModel, key: GalleryKey, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_verify.gallery.template_search import Hit, Templates

    gallery.enroll_embeddings("Ann", faces[0, :2])
    gallery.enroll_embeddings("Ben", faces[1, :2])
    true_best, searches = Templates.best, []

    def best(templates: Templates, probe: Faces, top: int) -> list[Hit]:
        hits = true_best(templates, probe, top)
        searches.append([hit.person for hit in hits])
        if len(searches) == 1:
            with Gallery.open(path, model, key=key) as other:
                other.forget("Ann")
        return hits

    monkeypatch.setattr(Templates, "best", best)
    found = gallery.identify_embedding(faces[0, 2], scores=True)
    assert found.name is None
    assert [candidate.name for candidate in found.candidates] == ["Ben"]
    assert (searches, found.people) == ([[1, 2], [2]], 1)
    assert "matched" not in [entry.event for entry in gallery.log()]


def test_another_model_is_refused(path: Path, gallery: Gallery, model: GalleryModel, key: GalleryKey) -> None:
    for other in (model._replace(fingerprint="ef" * 32), model._replace(embedding_size=17)):
        with pytest.raises(
            InputError,
            match=rf"cannot be compared with those of .*: use the model {model.name}, or one gallery for each",
        ):
            Gallery.open(path, other, key=key)


def test_a_model_without_saved_weights_is_refused(path: Path, model: GalleryModel, key: GalleryKey) -> None:
    with pytest.raises(InputError, match="never saved: export them"):
        Gallery.open(path, stand_in(model, weights_sha256=""), key=key)
    assert not path.exists()


def test_without_a_model_a_gallery_is_read_and_searched_with_a_threshold(
    path: Path, gallery: Gallery, key: GalleryKey, faces: Faces
) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    with Gallery.open(path, key=key) as other:
        assert other.model[:3] == gallery.model[:3]
        assert other.identify_embedding(faces[0, 0], threshold=0.5).name == "Ann"
        with pytest.raises(InputError, match="of mine were never measured: give a threshold"):
            other.identify_embedding(faces[0, 0])


def test_a_threshold_of_ones_own_has_no_rate(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0, :1])
    score = gallery.identify_embedding(faces[0, 1], threshold=0).score
    assert score is not None
    for threshold, name in ((score, "Ann"), (float(np.nextafter(score, 2)), None)):
        found = gallery.identify_embedding(faces[0, 1], threshold=threshold)
        assert (found.name, found.threshold, found.far, found.insufficient) == (name, threshold, None, False)


@pytest.mark.parametrize("threshold", [-1.1, 2.0, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float, gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    with pytest.raises(InputError, match="cosine between -1 and 1"):
        gallery.identify_embedding(faces[0, 0], threshold=threshold)
    with pytest.raises(InputError, match="not both"):
        gallery.identify_embedding(faces[0, 0], threshold=0.5, far=0.1)


def test_a_rate_that_was_not_measured_is_said(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    assert not gallery.identify_embedding(faces[0, 0], far=1e-3).insufficient
    found = gallery.identify_embedding(faces[0, 0], far=1e-6)
    assert found.insufficient
    assert "cannot show" in found.warnings[0]
    assert found.name == "Ann", "it has scored higher than any impostor"


def test_two_people_above_the_threshold_are_both_named(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0, :1])
    gallery.enroll_embeddings("Twin", faces[0, 1:2])
    found = gallery.identify_embedding(faces[0, 2])
    assert found.warnings == ("2 people reach the threshold: " + ", ".join(c.name for c in found.candidates) + ".",)


def test_an_answer_is_json(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    told = json.loads(json.dumps(gallery.identify_embedding(faces[0, 0]).to_dict(), allow_nan=False))
    assert (told["name"], told["face"], told["candidates"][0]["name"]) == ("Ann", None, "Ann")
    assert "Ann: score 1.000, threshold" in gallery.identify_embedding(faces[0, 0]).sentence()


def test_a_gallery_without_people_knows_nobody(gallery: Gallery, faces: Faces) -> None:
    for emptied in (False, True):
        found = gallery.identify_embedding(faces[0, 0])
        assert (found.found, found.name, found.searched, found.to_dict()["threshold"]) == (False, None, 0, None)
        assert found.sentence() == "Nobody who is enrolled: 0 people searched."
        assert "is empty: enroll a person" in found.warnings[0]
        with pytest.raises(InputError, match="got 7"):
            gallery.identify_embedding(faces[0, 0], far=7)
        if not emptied:
            gallery.enroll_embeddings("Ann", faces[0])
            gallery.forget("Ann")


def test_an_emptied_file_is_told_from_none(path: Path, gallery: Gallery, model: GalleryModel, key: GalleryKey) -> None:
    gallery.close()
    path.write_bytes(b"")
    for given in (None, model):  # and nobody is told that a gallery which lost everybody knows nobody
        with pytest.raises(InputError, match="is an empty file, not a gallery: restore it from a backup"):
            Gallery.open(path, given, key=key)


def test_an_unknown_name_is_said(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0])
    for call in (gallery.forget, gallery.photos):
        with pytest.raises(InputError, match=r"no 'Bob' in the gallery \(1 person\): `siamese-verify people`"):
            call("Bob")


def test_no_gallery_is_made_by_looking_into_it(path: Path, model: GalleryModel, key: GalleryKey) -> None:
    for arguments in ((None,), (model,)):
        with pytest.raises(InputError, match="There is no gallery"):
            Gallery.open(path, *arguments, key=key, create=False)
    assert not path.exists()


def test_the_file_is_closed_to_others(path: Path, gallery: Gallery) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_closed_gallery_says_so(gallery: Gallery, faces: Faces) -> None:
    gallery.close()
    gallery.close()
    with pytest.raises(InputError, match="is closed: open it again"):
        gallery.people()
    with pytest.raises(InputError, match="is closed"):
        gallery.enroll_embeddings("Ann", faces[0])


def test_photos_are_enrolled_and_identified_through_a_verifier(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    with Gallery.open(path, stand_in(model), key=key) as gallery:
        assert gallery.enroll("Ann", [faces[0, 0], faces[0, 1]]).added == 2
        found = gallery.identify(faces[0, 2])
        assert found.name == "Ann"
        assert found.face is not None
        assert set(found.milliseconds) == {"find", "embed", "search", "log"}
        with pytest.raises(InputError, match="shows 2 faces: crop it"):
            gallery.enroll("Ben", [faces[1, 0]], on_multiple_faces="any")
        with pytest.raises(InputError, match="no photo of Ben"):
            gallery.enroll("Ben", [])
    with Gallery.open(path, model, key=key) as gallery, pytest.raises(InputError, match="without a verifier"):
        gallery.identify(faces[0, 0])


def test_lists_of_another_length_are_refused(gallery: Gallery, faces: Faces) -> None:
    with pytest.raises(InputError, match="There are 3 embeddings of Ann"):
        gallery.enroll_embeddings("Ann", faces[0], sources=["one"])
    assert names(gallery) == []


def test_without_the_strangers_only_the_very_photo_is_noticed(
    path: Path, model: GalleryModel, key: GalleryKey, faces: Faces
) -> None:
    with Gallery.open(path, model._replace(impostor_tail=None), key=key) as gallery:
        gallery.enroll_embeddings("Ann", faces[0, :1])
        assert gallery.enroll_embeddings("Ben", faces[0, 1:2]).warnings == ()
        assert "already, as Ann" in gallery.enroll_embeddings("Cat", faces[0, :1]).warnings[0]


def test_the_same_face_under_another_name_is_said(gallery: Gallery, faces: Faces) -> None:
    assert gallery.enroll_embeddings("Ann", faces[0, :2]).warnings == ()
    result = gallery.enroll_embeddings("Ben", faces[0, 2:], sources=["ben.jpg"])
    assert len(result.warnings) == 1
    assert re.match(r"ben\.jpg: this face is enrolled already, as Ann \(score 0\.9\d+\)\.", result.warnings[0])
    assert names(gallery) == ["Ann", "Ben"]


def test_a_photo_that_is_there_already_is_said(gallery: Gallery, faces: Faces) -> None:
    gallery.enroll_embeddings("Ann", faces[0, :2])
    assert "this photo is enrolled already" in gallery.enroll_embeddings("Ann", faces[0, :1]).warnings[0]
    assert "this photo is enrolled already" in gallery.enroll_embeddings("Ben", faces[[1, 1], 0]).warnings[0]


def test_photos_that_do_not_fit_together_are_said(gallery: Gallery, faces: Faces) -> None:
    assert "face 2: this face is unlike" in gallery.enroll_embeddings("Ann", faces[:2, 0]).warnings[0]
    assert "face 1: this face is unlike" in gallery.enroll_embeddings("Ann", faces[4, :1]).warnings[0]


def test_a_gallery_of_another_process_is_not_used(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_verify.gallery.store.os.getpid", lambda: -1)
    with pytest.raises(InputError, match="open it in each"):
        gallery.people()


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "import sys, siamese_verify.gallery, siamese_verify.cli.gallery_commands;"
        "print(*{'torch', 'onnxruntime', 'PIL', 'scipy', 'faiss', 'sqlcipher3'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_the_tail_of_these_tests_is_one(impostor_tail: ImpostorTail) -> None:
    assert ImpostorTail.from_dict(impostor_tail.to_dict()) == impostor_tail


def test_a_search_of_means_needs_a_threshold_of_the_callers(gallery: Gallery, faces: NDArray[np.float32]) -> None:
    qualities = [Quality(sharpness, None, None, 0.5, 0.2) for sharpness in (10.0, 900.0)]
    for person in range(3):
        gallery.enroll_embeddings(f"p{person}", faces[person, :2], qualities, force=True)
    with pytest.raises(InputError, match="measured on single photos: with combine='mean' give a threshold"):
        gallery.identify_embedding(faces[1, 2], combine="mean")
    found = {
        combine: gallery.identify_embedding(faces[1, 2], combine=combine, threshold=0.5, scores=True)
        for combine in COMBINE
    }
    assert {one.name for one in found.values()} == {"p1"}
    mean = faces[1, :2].sum(axis=0)
    assert found["mean"].score == pytest.approx(float(mean @ faces[1, 2] / np.linalg.norm(mean)), abs=1e-6)
    assert len({one.score for one in found.values()}) == 3
    gallery.enroll_embeddings("unknown quality", faces[5, :1])
    with pytest.raises(InputError, match="quality of some photos is not known"):
        gallery.identify_embedding(faces[1, 2], combine="quality", threshold=0.5)
    with pytest.raises(InputError, match="combine must be one of mean, quality, best, got 'max'"):
        gallery.identify_embedding(faces[1, 2], combine="max")  # type: ignore[arg-type]
