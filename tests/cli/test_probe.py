"""The command `probe`: what it measures, on whom, and what it says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from siamese_verify.cli.probe import choose_photos, probe
from siamese_verify.data import FaceCropper
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.errors import InputError
from siamese_verify.evaluation.linear_probe import probe_embeddings, split_photos
from siamese_verify.models import embed_photos, load_model
from tests.cli.conftest import Command, save_faces

Configured = Callable[..., DictConfig]


def test_the_people_that_a_run_held_out_are_probed(
    tiny_run: Path, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configured("probe", tmp_path, f"model='{tiny_run}'", "threads=1", "shots=[1,all]", "test_share=0.4", "seed=2")
    accuracy = probe(cfg, tmp_path)
    content = json.loads((tmp_path / "probe.json").read_text())
    faces = SyntheticFaces(6, 3, 112, first=1_000_000)  # the protocol of the tiny run
    encoder = load_model(tiny_run).encoder
    embeddings, _ = embed_photos(encoder, faces, FaceCropper(encoder.input_spec))
    expected = probe_embeddings(embeddings, faces.identities, split_photos(faces.identities, 0.4, 2), (1, None), seed=2)
    for result, wanted in zip(content["results"]["embeddings"], expected, strict=True):
        assert result["linear"] == wanted.linear
        assert result["knn"] == wanted.knn
        assert tuple(result["linear_interval"]) == tuple(wanted.linear_interval)
    assert accuracy == expected[-1].linear
    assert (content["people"], content["test photos"]) == (6, 6)
    assert content["tested people"] == "held out from training"
    assert [result["majority"] for result in content["results"]["raw pixels"]] == pytest.approx([1 / 6] * 2)
    told = capsys.readouterr().out
    assert "Accuracy of 6 photos of 6 people" in told
    assert "95 % intervals over the people tested" in told


def test_people_trained_on_are_said_to_be_and_those_of_a_bundle_alone_are_unknown(
    tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    settings = ("threads=1", "shots=[1]", "baseline=null", "data=synthetic", "data.photos.identities=12")
    faces = (*settings, "data.photos.images=4")
    probe(configured("probe", tmp_path / "seen", f"model='{tiny_run}'", *faces), tmp_path / "seen")
    content = json.loads((tmp_path / "seen" / "probe.json").read_text())
    assert content["tested people"].startswith("trained on in part: 12 of its 12 people")
    assert [*content["results"]] == ["embeddings"]
    moved = tmp_path / "moved"
    shutil.copytree(tiny_run / "bundle", moved)
    probe(configured("probe", tmp_path / "alone", f"model='{moved}'", *faces), tmp_path / "alone")
    unknown = json.loads((tmp_path / "alone" / "probe.json").read_text())
    assert unknown["tested people"] == "not known to be held out, moved has no record of its people"
    assert unknown["results"] == content["results"]
    with pytest.raises(InputError, match=r"No run of .* has held people out: choose data, such as data=lfw"):
        probe(configured("probe", tmp_path / "none", f"model='{moved}'"), tmp_path / "none")


def test_photos_are_drawn_from_people_with_two_or_more() -> None:
    identities = np.array([5] * 7 + [3] * 2 + [9] + [1] * 4)
    rows = choose_photos(identities, None, 3, seed=0)
    assert {name: int((identities[rows] == name).sum()) for name in (5, 3, 9, 1)} == {5: 3, 3: 2, 9: 0, 1: 3}
    assert sorted({*rows}) == rows.tolist()
    few = choose_photos(identities, 2, 50, seed=1)
    assert len(np.unique(identities[few])) == 2
    assert few.tolist() == choose_photos(identities, 2, 50, seed=1).tolist()
    for most, samples in ((1, 50), (None, 1)):
        with pytest.raises(InputError, match="set max_identities and max_samples_per_identity to 2 or more"):
            choose_photos(identities, most, samples, seed=0)


def test_the_command_line_answers_mistakes_in_one_sentence(tiny_run: Path, command: Command, tmp_path: Path) -> None:
    save_faces(tmp_path / "album", 3, 3)
    album = (f"model={tiny_run}", "data=folder", "data.root=album", "data.crop=whole", "threads=1")
    assert command("probe", *album, "shots=[1]", "hydra.run.dir=out").code == 0
    assert (tmp_path / "out" / "probe.json").is_file()
    for wrong, told in (
        (("shots=[some]",), "shots must list whole numbers of 1 or more, or all, got 'some'."),
        (("shots=[]",), "shots is empty: list whole numbers, or all, such as shots=[1,5,all]."),
        (("test_share=2",), "test_share must be above 0 and below 1, got 2."),
        (("neighbors=0",), "neighbors must be a whole number of 1 or more, got 0."),
        (("max_samples_per_identity=abc",), "max_samples_per_identity must be a whole number of 2 or more, got 'abc'."),
    ):
        ended = command("probe", *album, *wrong)
        assert (ended.code, ended.err) == (2, f"siamese-verify: {told}\n")
    assert command("probe").err.startswith("siamese-verify: No model is given: set model=sface")
