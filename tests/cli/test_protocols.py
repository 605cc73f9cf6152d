"""Protocols of other results than pairs, from the command line: trained, evaluated, recorded, logged, refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from siamese_verify.cli.evaluate import evaluate
from siamese_verify.data import FaceCropper
from siamese_verify.datasets import FolderPhotos, ListedPhotos
from siamese_verify.errors import InputError
from siamese_verify.evaluation import compare_runs, few_shot_report, retrieval_report
from siamese_verify.models import embed_photos, load_model
from siamese_verify.protocols import Protocol, few_shot, lfw_pairs, pair_file, retrieval, retrieval_list
from siamese_verify.run_record import RunRecord
from tests.cli.conftest import Command, save_faces
from tests.conftest import SMALL_BATCHES
from tests.datasets.test_lfw import LFW, needs_lfw

Configured = Callable[..., DictConfig]
Trained = Callable[..., Path]
NETWORK = ("threads=1", "encoder.width=8", "encoder.size=32", "trainer.max_epochs=1", *SMALL_BATCHES)
EPISODES = ("way=3", "shots=1", "queries=2", "episodes=30")
FEW = tuple(f"protocol.{one}" for one in EPISODES)
FURTHER = ("+protocol@protocols.few=few_shot", *(f"protocols.few.{one}" for one in EPISODES))


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def test_a_run_is_tested_by_episodes_of_people_held_out_and_evaluated_on_the_same_again(
    trained: Trained, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_faces(tmp_path / "album", 14, 4)
    album = ("data=folder", f"data.root='{tmp_path / 'album'}'", "data.crop=whole", *NETWORK)
    further = ("+protocol@protocols.found=retrieval", "protocols.found.ranks=[1,3]")
    run = trained(tmp_path / "run", *album, "protocol=few_shot", *FEW, "protocol.people.share=0.4", *further)
    report, found = metrics(run / "report"), metrics(run / "report" / "found")
    name = "folder, 6 people held out for testing"
    assert report["details"]["protocol"] == f"{name}: 3-way 1-shot"
    assert report["details"]["tested people"] == found["details"]["tested people"] == "held out from training"
    assert found["details"]["protocol"] == f"{name}: retrieval"
    assert (report["people"], report["episodes"]) == (6, 30)
    people = json.loads((run / "people.json").read_text())
    tested = {photo.partition("/")[0] for photo in people["tested photos"]}
    assert len(tested) == 6
    assert tested.isdisjoint(set(people["seen"][0]["people"]) | set(people["seen"][1]["people"]))
    record = RunRecord.read(run)
    assert record.test[f"{name}: 3-way 1-shot"]["accuracy"] == report["accuracy"]
    assert record.test["found"]["mean_average_precision"] == found["mean_average_precision"]
    with (run / "metrics" / "metrics.csv").open() as file:
        logged = {key: value for row in csv.DictReader(file) for key, value in row.items() if value}
    assert float(logged["test/accuracy"]) == report["accuracy"]
    assert float(logged["test/found/recall_at_3"]) == found["recall"]["3"]
    told = capsys.readouterr().out
    assert told.count("\n┡") == 2, "one table of each kind"
    assert "1-shot" in told
    assert "recall@3" in told
    assert (run / "report" / "report.html").is_file()

    sentences, page = compare_runs([run, run], tmp_path / "compare", ["one", "other"])
    assert sentences[0] == "one and other have the same accuracy in each case."
    assert "recall@3" in compare_runs([run / "report" / "found"] * 2, tmp_path / "compare")[1].read_text()
    different = compare_runs([run, run / "report" / "found"], tmp_path / "compare")[0]
    assert different[0].endswith("were measured by different protocols, so nothing compares.")
    assert page.is_file()
    for number, more in enumerate(((), ("protocol=few_shot", *FEW))):
        again = tmp_path / f"again{number}"
        value = evaluate(configured("evaluate", again, f"model='{run}'", "threads=1", *more), again)
        assert value == pytest.approx(report["accuracy"])
        assert metrics(again / "report")["details"]["protocol"] == f"{name}: 3-way 1-shot"
    pairs = ("protocol=held_out", *FURTHER)
    evaluate(configured("evaluate", tmp_path / "pairs", f"model='{run}'", "threads=1", *pairs), tmp_path / "pairs")
    assert metrics(tmp_path / "pairs" / "report")["genuine"] == 6 * 6
    assert metrics(tmp_path / "pairs" / "report" / "few")["accuracy"] == pytest.approx(report["accuracy"])


def test_official_people_of_a_data_set_are_those_of_the_episodes_too(
    trained: Trained, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = ("data.photos.identities=10", "data.photos.images=4", "data.test.photos.identities=7")
    run = trained(tmp_path / "run", *NETWORK, *drawn, "data.test.photos.images=3", *FURTHER)
    found, pairs = metrics(run / "report" / "few"), metrics(run / "report")
    assert found["details"]["protocol"] == "synthetic faces, all pairs of unseen people: 3-way 1-shot"
    assert found["people"] == 7
    asked = ("protocol=few_shot", *FEW, "+protocol@protocols.found=retrieval")
    cfg = configured("evaluate", tmp_path / "again", f"model='{run}'", "threads=1", *asked)
    embed = Mock(side_effect=embed_photos)
    monkeypatch.setattr("siamese_verify.cli.measure.embed_photos", embed)
    assert evaluate(cfg, tmp_path / "again") == pytest.approx(found["accuracy"]), "the run's people, not those of LFW"
    assert embed.call_count == 1, "both are of the same photos"
    embeddings = np.load(run / "report" / "embeddings.npz")
    ranked = retrieval_report(embeddings["embeddings"], embeddings["identities"])
    assert metrics(tmp_path / "again" / "report" / "found")["mean_average_precision"] == pytest.approx(
        ranked.mean_average_precision
    )
    report = few_shot_report(embeddings["embeddings"], embeddings["identities"], way=3, shots=1, queries=2, episodes=30)
    assert report.accuracy == pytest.approx(found["accuracy"])
    assert pairs["representation"]["photos"] == 21
    assert pairs["representation"]["knn_interval"]["high"] <= 1
    assert "The embeddings" in (run / "report" / "report.html").read_text(encoding="utf-8")


def test_queries_and_gallery_of_a_list_with_cameras(tiny_run: Path, configured: Configured, tmp_path: Path) -> None:
    paths = save_faces(tmp_path / "shop", 6, 4)
    lines = ["path,identity,split,camera"]
    for row, path in enumerate(paths):
        split = "query" if row % 4 == 0 else "train" if row >= 20 else "gallery"
        lines.append(f"{path.relative_to(tmp_path / 'shop')},item {row // 4},{split},camera {row % 2}")
    (tmp_path / "shop" / "list.csv").write_text("\n".join(lines))
    given = (f"model='{tiny_run}'", "threads=1", "protocol=retrieval_list", "protocol.ranks=[1,2]")
    listed = f"protocol.path='{tmp_path / 'shop' / 'list.csv'}'"
    value = evaluate(configured("evaluate", tmp_path / "out", *given, listed), tmp_path / "out")
    found = metrics(tmp_path / "out" / "report")
    assert (found["queries"], found["without_positives"], found["gallery"], found["people"]) == (5, 1, 15, 5)
    model = load_model(tiny_run)
    embeddings, _ = embed_photos(model.encoder, FolderPhotos(tmp_path / "shop"), FaceCropper(model.encoder.input_spec))
    rows = np.arange(24)
    query, gallery = rows[::4], rows[(rows % 4 > 0) & (rows < 20)]
    expected = retrieval_report(
        embeddings[query], query // 4, embeddings[gallery], gallery // 4, query % 2, gallery % 2, ranks=(1, 2)
    )
    assert value == pytest.approx(expected.mean_average_precision)
    with pytest.raises(InstantiationException, match=r"list.csv has no photos in the split 'probe'"):
        evaluate(configured("evaluate", tmp_path / "no", *given, listed, "protocol.query=probe"), tmp_path / "no")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("protocol=few_shot", "protocol.way=90"), "people have 6 photos or more, but 90-way"),
        (("protocol=few_shot", "protocol.classifier=tree"), "classifier is one of centroid, nearest, got 'tree'"),
        (("protocol=few_shot", "protocol.seed=-1"), "seed is a whole number of 0 or more, got -1"),
        (("protocol=few_shot", "protocol.episodes=0"), "episodes is a whole number of 2 or more, got 0"),
        (("protocol=retrieval", "protocol.ranks=[]"), "protocol.ranks must list whole numbers"),
        (("protocol=retrieval", "protocol.query=query"), "give both, or neither"),
        (("protocol=retrieval", "protocol.query=a", "protocol.gallery=b"), "has no photos in the split 'a'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    asked: tuple[str, ...], sentence: str, tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    save_faces(tmp_path / "album", 3, 6)
    data = ("data=folder", f"data.root='{tmp_path / 'album'}'", "data.crop=whole", "threads=1")
    bundle = tmp_path / "bundle"
    bundle.symlink_to(tiny_run / "bundle")  # outside of its run
    with pytest.raises((InputError, InstantiationException), match=sentence):
        evaluate(configured("evaluate", tmp_path / "out", f"model='{bundle}'", *data, *asked), tmp_path / "out")


def test_people_trained_on_are_refused(trained: Trained, tmp_path: Path) -> None:
    save_faces(tmp_path / "album", 9, 4)
    album = ("data=folder", f"data.root='{tmp_path / 'album'}'", "data.crop=whole", *NETWORK)
    for name in ("few_shot", "retrieval"):
        options = FEW if name == "few_shot" else ()
        with pytest.raises(InputError, match="overlaps with the training set: 9 of its 9 people"):
            trained(tmp_path / name, *album, f"protocol={name}", "protocol.photos=${data.photos}", *options)


def test_photos_of_which_none_can_be_found_are_refused_before_they_are_embedded(tmp_path: Path) -> None:
    save_faces(tmp_path, 3, 1)
    with pytest.raises(InputError, match=r"No photo of .* has another of its person to be found"):
        retrieval(FolderPhotos(tmp_path))
    apart = tmp_path / "apart.csv"
    apart.write_text("path,identity,split\np00/0.png,a,query\np01/0.png,b,gallery\n")
    with pytest.raises(InputError, match=r"No photo of apart.csv has another of its person to be found"):
        retrieval_list(apart)
    one_camera = tmp_path / "one_camera.csv"
    lines = ["path,identity,split,camera", *(f"p00/{row}.png,a,{'query' if row else 'gallery'},c" for row in (0, 1))]
    one_camera.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"has another of its person by another camera .* protocol.same_camera=true"):
        retrieval_list(one_camera)
    with pytest.raises(InputError, match=r"has another of its person by another camera"):
        retrieval(ListedPhotos(one_camera))
    assert isinstance(retrieval_list(one_camera, same_camera=True), Protocol)
    one_camera.write_text("\n".join(lines).replace(",c", ","))  # unknown cameras are not the same
    assert isinstance(retrieval_list(one_camera), Protocol)


def test_a_protocol_of_the_same_photos_has_their_name(tmp_path: Path) -> None:
    save_faces(tmp_path, 4, 4)
    paths = [f"p0{person}/{photo}.png,{person},{'q: 1' if photo else 'g'}" for person in range(4) for photo in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,identity,split", *paths]))
    ranked = retrieval_list(tmp_path / "list.csv", query="q: 1", gallery="g")
    made = few_shot(people=ranked, way=3, queries=2)
    assert isinstance(made, Protocol)
    assert made.name == "list.csv: 3-way 1-shot"


def test_pairs_of_unknown_people_have_no_episodes(tmp_path: Path) -> None:
    save_faces(tmp_path, 2, 2)
    (tmp_path / "pairs.csv").write_text("a,b,same\np00/0.png,p00/1.png,1\np00/0.png,p01/1.png,0\n")
    with pytest.raises(InputError, match="only pairs are known, not who is on the photos"):
        few_shot(people=pair_file(tmp_path / "pairs.csv"))


RECORD = ("experiment=lfw_record", f"data.root={LFW}")


@needs_lfw
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("data.crop=five_point", "label-free outside data \\(the face detector's\\)"),
        ("data.photos.without_fold=4", "people are among those trained on"),
    ],
)
def test_a_record_from_lfw_alone_refuses_what_is_not(wrong: str, why: str, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises((InputError, InstantiationException), match=why):
        trained(tmp_path / "run", *RECORD, wrong)


@pytest.mark.slow
@needs_lfw
def test_folds_of_lfw_are_trained_and_reported_together(command: Command, tmp_path: Path) -> None:
    network = ("encoder.size=32", "encoder.width=8", "encoder.blocks=[1,1]", "encoder.grid=2", "threads=1")
    batches = ("batches=3", "identities_per_batch=8", "singles_per_batch=8")
    short = ("trainer.max_epochs=1", "datamodule.validation_max_identities=50", "baseline=null")
    sampler = tuple(f"sampler.{one}" for one in batches)
    sweep = tmp_path / "sweep"
    ended = command("train", "-m", *RECORD, "fold=0,1", *network, *sampler, *short, f"hydra.sweep.dir={sweep}")
    assert ended.code == 0, ended.err
    accuracies = [metrics(sweep / fold / "report")["at_threshold"]["balanced_accuracy"] for fold in ("0", "1")]
    expected = f"accuracy {np.mean(accuracies):.2%} ± {abs(accuracies[0] - accuracies[1]) / 2:.2%} over 2 folds"
    assert expected in ended.out
    assert "Category of LFW's results page: unrestricted, no outside data." in ended.out
    for fold in (0, 1):
        seen = json.loads((sweep / str(fold) / "people.json").read_text())["seen"]
        tested = set(lfw_pairs(LFW, "pairs.txt", "one fold", fold).photos.people)  # type: ignore[attr-defined]
        assert all(tested.isdisjoint(subset["people"]) for subset in seen)
        assert metrics(sweep / str(fold) / "report")["pairs"] == 600
