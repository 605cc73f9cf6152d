from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from omegaconf import DictConfig

from siamese_verify import encoders
from siamese_verify.cli.evaluate import evaluate
from siamese_verify.datasets import SyntheticFaces
from siamese_verify.encoders import SmallResNet
from siamese_verify.errors import InputError
from siamese_verify.evaluation import read_scores, verification_report
from siamese_verify.models import load_model
from siamese_verify.structures import Crop
from tests.cli.conftest import save_faces

Configured = Callable[..., DictConfig]
PROTOCOL = (
    "threads=1",
    "data=synthetic",
    "protocol=synthetic",
    "protocol.photos.identities=6",
    "protocol.photos.images=3",
)
FIGURES = ("eer", "auc", "at_threshold")


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report" / "metrics.json").read_text())
    return found


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_evaluation_of_a_bundle_leaves_a_report_and_the_bundle_as_it_was(
    tiny_run: Path, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(tiny_run / "bundle")
    eer = evaluate(configured("evaluate", tmp_path, *PROTOCOL, f"model='{tiny_run / 'bundle'}'"), tmp_path)
    assert content(tiny_run / "bundle") == before
    left = {path.name for path in (tmp_path / "report").iterdir()}
    assert left >= {"report.html", "metrics.json", "roc.png", "det.png", "histogram.png"}
    found, after_training = metrics(tmp_path), metrics(tiny_run)
    assert [found[name] for name in FIGURES] == [after_training[name] for name in FIGURES]
    assert found["eer"] == eer
    assert found["details"]["configuration"]["model"] == str(tiny_run / "bundle")
    assert "held out from synthetic training" in found["details"]["threshold chosen on"]
    fixed = found["at_threshold"]  # accuracy over all pairs is balanced
    assert fixed["balanced_accuracy"] == 1 - (fixed["far"] + fixed["frr"]) / 2
    shown = f"{100 * fixed['balanced_accuracy']:.2f}"
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Accuracy" not in page
    assert f"<b>{shown}" in page.split("<h3>Balanced accuracy")[1]
    assert f"{shown}%" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["", "checkpoints/best.ckpt"])
def test_a_run_and_its_checkpoint_measure_as_after_training(
    model: str, tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    evaluate(configured("evaluate", tmp_path, *PROTOCOL, f"model='{tiny_run / model}'"), tmp_path)
    found, after_training = metrics(tmp_path), metrics(tiny_run)
    assert [found[name] for name in FIGURES] == [after_training[name] for name in FIGURES]


def test_one_evaluation_stores_the_thresholds_of_a_pretrained_model_without(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    crop = Crop("whole")
    monkeypatch.setattr(encoders, "InceptionResNet", lambda pretrained: SmallResNet(size=16, width=4, crop=crop))
    with pytest.raises(InputError, match="evaluate model=vggface2"):
        load_model("vggface2").metadata.operating_point()
    evaluate(configured("evaluate", tmp_path / "run", *PROTOCOL, "model=vggface2"), tmp_path / "run")
    assert "stored for verify" in capsys.readouterr().out
    model = load_model("vggface2")
    assert model.metadata.operating_point(0.1).impostors == metrics(tmp_path / "run")["impostors"]
    assert model.metadata.measured_on == "synthetic faces, all pairs of unseen people"


def test_photos_without_a_face_are_failures_to_acquire(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(encoders, "InceptionResNet", lambda pretrained: SmallResNet(size=16, width=4))  # a box crop
    evaluate(configured("evaluate", tmp_path, *PROTOCOL, "model=vggface2"), tmp_path)
    found = metrics(tmp_path)["acquisition"]  # few drawn faces are found
    assert (found["photos"], found["genuine"], found["impostors"]) == (18, 18, 18 * 17 // 2 - 18)
    assert found["failure_rate"] == found["failures"] / 18 > 0
    compared = found["impostors"] - found["impostor_failures"]
    assert load_model("vggface2").metadata.operating_point(0.1).impostors == compared
    assert f"No face could be selected in {found['failures']} of 18 photos" in capsys.readouterr().out
    assert "Failures to acquire" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "report" / "left_out.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["no face was found"] * found["failures"]


def test_scores_from_elsewhere_get_the_whole_report(configured: Configured, tmp_path: Path) -> None:
    lines = [f"{row % 7 / 7 + row % 2},{row % 2},{row % 4},{'old' if row % 3 else 'young'}" for row in range(80)]
    (tmp_path / "scores.csv").write_text("\n".join(["score,same,fold,group", *lines]))
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "theirs.txt").write_text("0 0\n0.1 0.9\n1 1\n")
    options = (f"scores='{tmp_path / 'scores.csv'}'", f"published='{tmp_path / 'published'}'")
    eer = evaluate(configured("evaluate", tmp_path, *options, "far=[0.25]"), tmp_path)
    found = metrics(tmp_path)
    assert found["eer"] == eer
    assert found["kfold"] is not None
    assert [point["target"] for point in found["operating_points"]] == [0.25, 0.1, 0.01, 0.001]
    assert [group["name"] for group in found["groups"]] == ["old", "young"]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "theirs" in page
    assert "<h2>Groups</h2>" in page


@pytest.mark.parametrize("far", ["[2]", "-0.1", "[0.1,abc]", "[null]"])
def test_an_invalid_rate_is_refused(far: str, configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("score,same\n0.5,1\n0.1,0\n")
    cfg = configured("evaluate", tmp_path, f"scores='{tmp_path / 'scores.csv'}'", f"far={far}")
    with pytest.raises(InputError, match="far must list rates between 0 and 1, such as far="):
        evaluate(cfg, tmp_path)


def test_listed_pairs_leave_scores_intervals_and_robustness(
    tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    save_faces(photos, 6, 3, 48)
    options = ("threads=1", "protocol=folder", f"protocol.root='{photos}'", "protocol.pairs=30", f"model='{tiny_run}'")
    evaluate(configured("evaluate", tmp_path, *options, "robustness=20", "resamples=50"), tmp_path)
    found = metrics(tmp_path)
    assert set(found["intervals"]) >= {"eer", "auc", "accuracy"}
    assert len(found["robustness"]) == 31
    assert found["calibration"]["cllr"] > 0
    scores = read_scores(tmp_path / "report" / "scores.csv")
    assert verification_report(scores.scores, scores.same).eer == found["eer"]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    for heading in ("Under bad conditions", "Score calibration", "Finding a person among many"):
        assert heading in page


def test_without_identities_the_report_has_no_figures_about_people(
    tiny_run: Path, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = SyntheticFaces(identities=6, images=2, size=48)
    for row in range(12):
        faces[row].save(tmp_path / f"{row}.png")
    lines = [f"{row}.png,{(row + step) % 12}.png,{int(step == 1)}" for row in range(0, 12, 2) for step in (1, 2)]
    tables = {
        "unnamed": ["a,b,same,group", *(f"{line},old" for line in lines)],
        "named": [
            "a,b,same,identity_a,identity_b",
            *(f"{line},{int(line.split('.')[0]) // 2},{int(line.split(',')[1][:-4]) // 2}" for line in lines),
        ],
    }
    options = ("threads=1", "protocol=pair_file", f"model='{tiny_run}'", "resamples=20")
    for name, table in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(table))
        folder = tmp_path / name
        evaluate(configured("evaluate", folder, *options, f"protocol.path='{tmp_path / name}.csv'"), folder)
        known = name == "named"
        found, page = metrics(folder), (folder / "report" / "report.html").read_text(encoding="utf-8")
        assert (found["identification"] is not None, bool(found["intervals"])) == (known, known)
        assert ("Finding a person among many" in page) == known
        assert ("rank-1" in capsys.readouterr().out) == known
        assert (read_scores(folder / "report" / "scores.csv").identities is not None) == known
    groups = metrics(tmp_path / "unnamed")["groups"]
    assert groups[0]["far"] is not None
    assert groups[0]["far_difference"] is None


def test_distances_draw_a_hint(configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{row % 7 / 7 - row % 2},{row % 2}" for row in range(80)]
    (tmp_path / "scores.csv").write_text("\n".join(["score,same", *lines]))
    evaluate(configured("evaluate", tmp_path, f"scores='{tmp_path / 'scores.csv'}'"), tmp_path)
    said = capsys.readouterr().out
    assert "as distances do: replace each number of the column score by its negative." in said
    assert "a rough estimate" not in said
    assert "as distances do: negate the scores" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    generator = np.random.default_rng(0)
    assert verification_report(generator.random(2000), np.arange(2000) % 2).hint is None


def test_few_errors_are_a_rough_estimate(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.csv").write_text("score,same\n0.9,1\n0.1,0\n")
    evaluate(configured("evaluate", tmp_path, f"scores='{tmp_path / 'scores.csv'}'"), tmp_path)
    assert "Fewer than ten errors decide the EER: a rough estimate." in capsys.readouterr().out


def test_a_claim_about_lfw_is_refused_elsewhere(tiny_run: Path, configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="may not claim 'unrestricted, no outside data'"):
        evaluate(
            configured("evaluate", tmp_path, *PROTOCOL, f"model='{tiny_run}'", "claim='unrestricted, no outside data'"),
            tmp_path,
        )


def test_groups_of_a_table_are_compared_within_and_across(
    tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "people.csv").write_text(
        "identity,sex,age\n" + "".join(f"{1000000 + n},{'fm'[n % 2]},{n}\n" for n in range(6))
    )
    groups = (f"groups='{tmp_path / 'people.csv'}'", "group=sex")
    evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *PROTOCOL, *groups, "resamples=20"), tmp_path)
    found = metrics(tmp_path)["differentials"]
    assert (found["groups"], found["column"]) == (["f", "m"], "sex")
    assert [(cell["groups"], cell["impostors"], cell["genuine"]) for cell in found["cells"]] == [
        (["f", "f"], 27, 9),
        (["f", "m"], 81, 0),
        (["m", "m"], 27, 9),
    ]
    assert [one["name"] for one in found["inequalities"]][-1] == "GARBE"
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Within and across groups" in page
    for text, message in (
        ("identity,sex\nnobody,f\n", "lists none of the 18 photos"),
        ("sex\nf\n", "neither a column"),
        ("identity,sex\n1000000,f\n1000001,f\nnobody,m\n", "All 6 photos of .* have one sex"),
    ):
        (tmp_path / "people.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *PROTOCOL, *groups), tmp_path)


def test_tables_that_no_protocol_takes_raise(tiny_run: Path, configured: Configured, tmp_path: Path) -> None:
    photos = "protocol.photos={_target_: siamese_verify.datasets.SyntheticFaces,identities: 5,images: 5,first: 1000000}"
    options = ("threads=1", "data=synthetic", "protocol=templates", "protocol.size=2", photos)
    for setting in ("groups", "doubtful", "quality"):
        with pytest.raises(InputError, match=f"{setting}=some.csv is of no use to .*: leave it out"):
            evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *options, f"{setting}=some.csv"), tmp_path)


def test_groups_of_either_photo_in_a_table_of_scores(configured: Configured, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.array([f"p{n}" for n in range(20)])
    left, right = np.triu_indices(40, 1)
    same = left // 2 == right // 2
    lines = [
        f"{score},{int(genuine)},{people[a // 2]},{people[b // 2]},{'xy'[a // 20]},{'xy'[b // 20]}"
        for score, genuine, a, b in zip(rng.normal(size=len(left)) + 2 * same, same, left, right, strict=True)
    ]
    header = "score,same,identity_a,identity_b,kind_a,kind_b"
    (tmp_path / "scores.csv").write_text("\n".join([header, *lines]))
    evaluate(configured("evaluate", tmp_path, f"scores='{tmp_path / 'scores.csv'}'", "group=kind"), tmp_path)
    found = metrics(tmp_path)["differentials"]
    assert (found["groups"], found["cells"][1]["impostors"], found["cells"][1]["fnmr"]) == (["x", "y"], 400, None)
    assert (
        found["cells"][0]["fmr_interval"]["low"] < found["cells"][0]["fmr"] < found["cells"][0]["fmr_interval"]["high"]
    )


def test_qualities_of_a_table_have_curves_of_errors_and_discards(
    tiny_run: Path, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = SyntheticFaces(identities=6, images=3, size=32, seed=0, first=1000000).names
    (tmp_path / "quality.csv").write_text("path,mine\n" + "".join(f"{name},{n % 5}\n" for n, name in enumerate(names)))
    quality = f"quality='{tmp_path / 'quality.csv'}'"
    evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *PROTOCOL, quality), tmp_path)
    found = {curve["name"]: curve for curve in metrics(tmp_path)["discard"]}
    assert "mine" in found
    assert len(found["mine"]["fnmr"]) == 101
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Error versus discard" in page
    assert page.index("Definitions") < page.index("How this was measured")
    (tmp_path / "quality.csv").write_text(f"path,mine\n{names[0]},good\n")
    monkeypatch.setattr("siamese_verify.cli.measure.embed_photos", Mock(side_effect=AssertionError))
    with pytest.raises(InputError, match="has 'good' as mine: write a number"):
        evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *PROTOCOL, quality), tmp_path)
    (tmp_path / "quality.csv").write_text("path,mine\nanother.jpg,1\n")
    with pytest.raises(InputError, match="lists none of the 18 photos, such as"):
        evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *PROTOCOL, quality), tmp_path)


@pytest.mark.parametrize("combine", ["mean", "best"])
def test_templates_of_several_photos_have_a_whole_report(
    combine: str, tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    photos = {"identities": 5, "images": 5, "size": 32, "seed": 0, "first": 1000000}
    given = [f"+protocol.photos.{name}={value}" for name, value in photos.items()]
    options = ("threads=1", "data=synthetic", "protocol=templates", "protocol.size=2", f"protocol.combine={combine}")
    target = "protocol.photos={_target_: siamese_verify.datasets.SyntheticFaces}"
    evaluate(configured("evaluate", tmp_path, f"model='{tiny_run}'", *options, target, *given), tmp_path)
    found = metrics(tmp_path)
    assert (found["genuine"], found["impostors"]) == (5, 40)
    assert "templates of 2 photos" in found["title"]
