"""Training that starts from another model: what comes along, what is refused, what is recorded, and how it resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.configuration import make_encoder
from siamese_verify.cli.initialization import earlier_people, initialized_configuration, take_weights
from siamese_verify.cli.measure import find_lfw_category
from siamese_verify.cli.training_checks import check_run
from siamese_verify.data import FaceDataModule
from siamese_verify.datasets import FolderPhotos, LFWPhotos
from siamese_verify.encoders import MirroredEncoder
from siamese_verify.errors import InputError
from siamese_verify.models import PRETRAINED, FaceModel, load_model, open_bundle, save_bundle
from siamese_verify.models.registry import describe_bundle
from siamese_verify.protocols import HeldOutShare, TrainingSubset, all_pairs, find_leak, save_people
from siamese_verify.run_record import RunRecord
from siamese_verify.samplers import IdentityBatchSampler
from siamese_verify.structures import Crop, InputSpec
from siamese_verify.verification.adaptation import with_head
from tests.cli.conftest import Command, save_faces
from tests.cli.test_train import TRUSTED, equal, signal_at, weights
from tests.conftest import SMALL_BATCHES, TINY

Configured = Callable[..., DictConfig]
Trained = Callable[..., Path]

SECOND = (*(one for one in TINY if not one.startswith("encoder.")), *SMALL_BATCHES, "trainer.max_epochs=1")
ALL_LAYERS = 6  # of the tiny run's encoder


def initialized(configured: Configured, folder: Path, *overrides: str) -> DictConfig:
    return initialized_configuration(configured("train", folder, *overrides), overrides)


@pytest.fixture(scope="module")
def moved(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the tiny run without its run, so that nothing says whom it was trained on."""
    folder = tmp_path_factory.mktemp("moved") / "first"
    shutil.copytree(tiny_run / "bundle", folder)
    return folder


# What comes along


@pytest.mark.parametrize("form", ["run", "bundle", "checkpoints/best.ckpt"])
def test_the_encoder_of_the_model_comes_along_whatever_the_composed_one_is(
    form: str, tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    model = tiny_run if form == "run" else tiny_run / form
    cfg = initialized(configured, tmp_path, f"initialize_from='{model}'", "experiment=demo")
    assert (cfg.encoder.width, cfg.encoder.size, cfg.encoder.blocks) == (8, 32, [1, 1, 1, 1])
    assert cfg.encoder.crop.kind == "whole"
    assert [stage["data"] for stage in cfg.earlier_stages] == ["synthetic"]
    assert initialized_configuration(cfg, ["encoder=resnet18"]) is cfg, "once"


def test_settings_that_weights_do_not_depend_on_may_be_given(
    tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    free = ("encoder.dropout=0.25", "encoder.size=48", "encoder.crop.margin=4", "encoder.width=8")
    cfg = initialized(
        configured, tmp_path, f"initialize_from='{tiny_run}'", "data=lfw", "encoder=small", *free[3:], *free
    )
    assert (cfg.encoder.dropout, cfg.encoder.size, cfg.encoder.crop.margin) == (0.25, 48, 4)
    assert cfg.encoder.crop.kind == "box", "photos are cropped as the data are"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["encoder.width=16"], "encoder.width is 8 there and 16 here"),
        (["encoder=resnet18"], "encoder._target_ is siamese_verify.encoders.SmallResNet there and"),
        (["encoder=tiny"], "encoder.blocks is"),
        (["+encoder.pretrained=vggface2"], "encoder.pretrained is None there and vggface2 here"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(
    overrides: list[str], told: str, tiny_run: Path, configured: Configured, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        initialized(configured, tmp_path, f"initialize_from='{tiny_run}'", *overrides)
    with pytest.raises(InputError, match=told):  # in a sweep before any run starts
        check_run(configured("train", tmp_path, f"initialize_from='{tiny_run}'", *overrides))


def test_published_weights_can_be_started_from_by_name(configured: Configured, tmp_path: Path) -> None:
    cfg = initialized(configured, tmp_path, "initialize_from=casia-webface", "encoder.dropout=0.1", "data=lfw")
    assert cfg.encoder == {
        "_target_": "siamese_verify.encoders.InceptionResNet",
        "pretrained": "casia-webface",
        "size": 160,
        "dropout": 0.1,
        "crop": {"_target_": "siamese_verify.structures.Crop", "kind": "box", "margin": 32},
        "normalize": True,
    }
    (stage,) = cfg.earlier_stages
    assert (stage.data, stage.model) == ("casia-webface", "casia-webface")


def test_code_of_others_is_not_imported_unasked(configured: Configured, tmp_path: Path) -> None:
    target = "tests.own_networks.OwnNet"
    torch.save({"hyper_parameters": {"encoder": {"_target_": target}}, "state_dict": {}}, tmp_path / "own")
    with pytest.raises(InputError, match=f"is code of others, {target}, .* add trust_code={target}"):
        initialized(configured, tmp_path, f"initialize_from='{tmp_path}/own'")
    cfg = initialized(configured, tmp_path, f"initialize_from='{tmp_path}/own'", f"trust_code={target}")
    assert cfg.encoder._target_ == target


@pytest.mark.parametrize(
    "hidden", ["${oc.decode:'{_target_: os.makedirs, name: made}'}", "${oc.env:HOME}", "\\${oc.env:HOME}"]
)
def test_a_model_whose_settings_are_computed_is_refused(hidden: str, configured: Configured, tmp_path: Path) -> None:
    encoder = {"_target_": "siamese_verify.encoders.InceptionResNet", "pretrained": hidden}
    torch.save({"hyper_parameters": {"encoder": encoder}, "state_dict": {}}, tmp_path / "theirs")
    with pytest.raises(InputError, match="has a setting that is computed"):
        initialized(configured, tmp_path, f"initialize_from='{tmp_path}/theirs'")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "There is no model nowhere"),
        ("text", "is not a checkpoint"),
        ("bare", "does not say how its encoder"),
    ],
)
def test_what_is_no_model_is_refused(name: str, told: str, configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    torch.save({"state_dict": {}}, tmp_path / "bare")
    place = name if name == "nowhere" else tmp_path / name
    with pytest.raises(InputError, match=told):
        initialized(configured, tmp_path, f"initialize_from='{place}'")


# Training


def test_frozen_layers_have_the_weights_of_the_model_and_the_bundle_records_both_stages(
    tiny_run: Path, trained: Trained, tmp_path: Path
) -> None:
    run = trained(
        tmp_path / "run",
        *SECOND,
        f"initialize_from='{tiny_run}'",
        "loss=arc_face",
        f"trainer.frozen_layers={ALL_LAYERS}",
        "data.photos.seed=1",
        "name=second",
    )
    first = load_model(tiny_run).encoder.state_dict()
    assert equal(load_model(run).encoder.state_dict(), first)
    assert "loss.weights" in weights(run)
    composed = OmegaConf.load(run / ".hydra" / "config.yaml")
    assert (composed.encoder.width, composed.initialize_from) == (8, str(tiny_run))
    record = RunRecord.read(run)
    assert record.configuration["encoder"]["width"] == 8
    assert record.tested_people == "held out from training"

    stages = open_bundle(run / "bundle").metadata.training["stages"]
    assert [(stage["method"], stage["loss"], stage["data"]) for stage in stages] == [
        ("supervised", "TripletLoss", "synthetic"),
        ("supervised", "ArcFaceLoss", "synthetic"),
    ]
    earlier = RunRecord.read(tiny_run)
    assert [stage["data_sha256"] for stage in stages] == [earlier.data, record.data]
    assert [stage["command"] for stage in stages] == [earlier.command, record.command]
    assert [stage["started"] for stage in stages] == [earlier.started, record.started]
    assert all(stage["seconds"] > 0 for stage in stages)
    assert stages[0]["weights_sha256"] == open_bundle(tiny_run / "bundle").metadata.weights_sha256
    card = (run / "bundle" / "README.md").read_text()
    words = "TripletLoss on synthetic, then ArcFaceLoss on synthetic"
    assert f"| stages of training | {words} |" in card
    assert earlier.command in card
    assert describe_bundle(run / "bundle", "second").stages == words

    third = load_model(run / "checkpoints" / "best.ckpt").metadata.training["stages"]
    assert [stage["loss"] for stage in third] == ["TripletLoss", "ArcFaceLoss"]


def test_training_goes_on_from_an_adapted_model_with_its_head(moved: Path, trained: Trained, tmp_path: Path) -> None:
    model = load_model(moved)
    head = np.random.default_rng(0).normal(size=(model.encoder.embedding_size,) * 2).astype(np.float32)
    adapted = with_head(model, head)
    assert adapted is not None
    save_bundle(tmp_path / "mine", adapted, network=False)
    frozen = f"trainer.frozen_layers={ALL_LAYERS}"
    run = trained(tmp_path / "run", *SECOND, f"initialize_from='{tmp_path / 'mine'}'", frozen, "optimizer.lr=1e-2")
    first, second = (load_model(one).encoder.state_dict() for one in (moved, run))
    assert equal({name.removeprefix("backbone."): second[name] for name in second if name != "head.weight"}, first)
    assert not np.allclose(second["head.weight"].numpy(), head.T), "the head learns behind the frozen encoder"
    np.testing.assert_allclose(second["head.weight"].numpy(), head.T, atol=0.5, err_msg="from where it was")


@pytest.mark.parametrize("name", PRETRAINED)
def test_published_weights_say_how_their_photos_were_cropped(
    name: str, configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    initialized(configured, tmp_path, f"initialize_from={name}", "data=lfw", "data.crop=center")
    kind = {"sface": "five_point", "openface": "eyes_and_nose"}.get(name, "box")
    assert f"Photos are cropped as center; those of {name} were cropped as {kind}." in caplog.text


def test_a_centered_model_is_cropped_as_the_data_say(
    moved: Path, configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(moved)
    configuration = {
        "_target_": "siamese_verify.encoders.MirroredEncoder",
        "encoder": {**model.metadata.configuration, "crop": asdict(model.encoder.input_spec.crop)},
        "mirror": True,
    }
    encoder = MirroredEncoder(model.encoder, True).eval()
    metadata = replace(model.metadata, configuration=configuration, embedding_size=encoder.embedding_size)
    save_bundle(tmp_path / "mine", FaceModel(encoder, metadata), network=False)
    cfg = initialized(configured, tmp_path, f"initialize_from='{tmp_path / 'mine'}'", "data=lfw")
    assert "Photos are cropped as box; those of" in caplog.text
    found = make_encoder(cfg)
    assert found.input_spec.crop.kind == "box"
    take_weights(found, cfg)


def test_free_settings_of_an_adapted_model_are_those_of_the_encoder_before_its_head(
    moved: Path, configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(moved)
    adapted = with_head(model, np.eye(model.encoder.embedding_size, dtype=np.float32))
    assert adapted is not None
    save_bundle(tmp_path / "mine", adapted, network=False)
    free = ("encoder.dropout=0.25", "encoder.size=48", "encoder.mirror=true", "encoder.width=8")
    start = f"initialize_from='{tmp_path / 'mine'}'"
    cfg = initialized(configured, tmp_path, start, "data=lfw", "encoder=small", *free[3:], *free)
    assert "Photos are cropped as box; those of" in caplog.text
    inner = cfg.encoder.encoder
    assert (inner.crop.kind, inner.dropout, inner.size, inner.mirror) == ("box", 0.25, 48, True)
    encoder = make_encoder(cfg)
    assert encoder.input_spec.crop.kind == "box"
    take_weights(encoder, cfg)
    with pytest.raises(InputError, match=r"encoder\.width is 8 there and 16 here"):
        initialized(configured, tmp_path, start, "encoder.width=16")


def test_people_of_the_first_stage_are_no_test_people_of_the_second(
    tiny_run: Path, moved: Path, fitted: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = ("data.photos.seed=1", "data.test.photos.seed=0", "data.test.photos.first=0")
    with pytest.raises(InputError, match="overlaps with the training set: 6 of its 6 people"):
        fitted(tmp_path / "refused", *SECOND, *seen, f"initialize_from='{tiny_run}'")
    run = fitted(tmp_path / "marked", *SECOND, *seen, f"initialize_from='{tiny_run}'", "allow_leakage=true")
    assert RunRecord.read(run).tested_people.startswith("trained on in part: 6 of its 6 people")
    third = (*SECOND, "data.photos.seed=2", *seen[1:], f"initialize_from='{run}/checkpoints/best.ckpt'")
    with pytest.raises(InputError, match="overlaps with the training set: 6 of its 6 people"):
        fitted(tmp_path / "third", *third)  # of the first stage
    fitted(tmp_path / "split", *SECOND, "datamodule.split_seed=5", f"initialize_from='{tiny_run}'")
    assert "The validation, which measures the thresholds, overlaps with an earlier stage: " in caplog.text
    unknown = fitted(tmp_path / "unknown", *SECOND, *seen, f"initialize_from='{moved}'")
    told = "held out from training, but the model that it started from has no record of its people"
    assert RunRecord.read(unknown).tested_people == told
    assert json.loads((unknown / "people.json").read_text())["earlier stages are known"] is False


def test_photos_of_the_first_stage_under_another_name_are_no_test_photos_of_the_second(tmp_path: Path) -> None:
    paths = save_faces(tmp_path / "album", 12, 3)
    shutil.copyfile(paths[0], paths[-1])
    photos = FolderPhotos(tmp_path / "album")
    first, run = TrainingSubset.from_photos(photos, np.arange(6)), tmp_path / "first"
    run.mkdir()
    save_people(run, [first, TrainingSubset.from_photos(photos, np.arange(6, 9))], all_pairs(photos, "album"))
    RunRecord().write(run)
    cfg = OmegaConf.create({"initialize_from": str(run), "resume": None})
    sampler = partial(IdentityBatchSampler, identities_per_batch=2, samples_per_identity=2)
    share = HeldOutShare(share=0.25, seed=1)  # the people 4, 8 and 11
    spec = InputSpec(32, crop=Crop("whole"))
    data = FaceDataModule(photos, spec, sampler, labeled_identities=2, validation_share=0.2, test=share)
    assert 0 not in [*data.split.train, *data.split.validation, *data.split.test]
    data.earlier, known = earlier_people(cfg, photos)
    assert known
    assert len(photos) - 1 not in data.test_photos.rows
    assert len(data.test_photos) == len(data.split.test) - 1
    assert find_leak(data.earlier, photos).rows == [*range(9), len(photos) - 1]
    again = FaceDataModule(photos, spec, sampler, validation_share=0.4, test=HeldOutShare(share=0.6))
    again.earlier = data.earlier
    both = {0, 1, 2} & {*photos.identities[again.split.test].tolist()}
    assert both
    assert len(find_leak(data.earlier, again.test_photos).people) == len(both), "refused later, not left out"


def test_a_resumed_second_stage_needs_nothing_of_the_first_and_ends_bit_for_bit(
    tiny_run: Path, fitted: Trained, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    shutil.copytree(tiny_run, first)
    more = ("sampler.batches=3", "trainer.max_epochs=3", "trainer.frozen_layers=2", "trainer.layer_decay=0.6")
    settings = (*SECOND[:-1], "encoder.dropout=0.3", *more, f"initialize_from='{first}'")
    whole = fitted(tmp_path / "whole", *settings)
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        fitted(run, *settings, signal_at(4))
    shutil.rmtree(first)
    fitted(run, f"resume='{run}'", TRUSTED)
    assert equal(weights(run), weights(whole))
    assert equal(weights(run, "best.ckpt"), weights(whole, "best.ckpt"))
    assert RunRecord.read(run).history == RunRecord.read(whole).history
    people = [json.loads((one / "people.json").read_text())["seen"] for one in (run, whole)]
    assert people[0] == people[1]
    assert len(people[0]) == 4
    start = load_model(tiny_run).encoder.state_dict()
    frozen = [name for name in start if name.split(".")[1] in ("0", "1", "2", "3")]
    assert equal({name: weights(run)[f"encoder.{name}"] for name in frozen}, {name: start[name] for name in frozen})


def test_a_run_without_a_checkpoint_starts_again_from_the_same_model_only(
    moved: Path, fitted: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        fitted(run, *SECOND, f"initialize_from='{moved}'", signal_at(-1))
    saved = run / ".hydra" / "config.yaml"
    digest = open_bundle(moved).metadata.weights_sha256
    assert digest in saved.read_text()
    saved.write_text(saved.read_text().replace(digest, "f" * 64))  # as if the model had been another then
    with pytest.raises(InputError, match="is not the one that the run was started with"):
        fitted(run, f"resume='{run}'", TRUSTED)


def test_the_command_line_refuses_in_one_sentence(tiny_run: Path, command: Command) -> None:
    ended = command("train", *SECOND, f"initialize_from={tiny_run}", "encoder.width=16", "hydra.run.dir=run")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "encoder.width is 8 there and 16 here" in ended.err
    assert RunRecord.read(Path("run")).status == "failed"


@pytest.mark.parametrize(
    ("stages", "category"),
    [
        (("lfw",), "none: training saw people of these pairs"),
        (("lfw", "lfw"), "none: training saw people of these pairs"),
        (("casia", "lfw"), "none: training saw people of these pairs"),
        (("casia", "casia"), "unrestricted, labeled outside data"),
    ],
)
def test_a_result_on_lfw_is_of_the_category_of_all_stages(
    stages: tuple[str, ...], category: str, tmp_path: Path
) -> None:
    (tmp_path / "lfw").mkdir()
    training = {"data": stages[-1], "pretrained": None, "stages": [{"data": one} for one in stages]}
    protocol = all_pairs(LFWPhotos(tmp_path, [("Ann", 1), ("Ann", 2), ("Bob", 1)]), "LFW")
    assert str(find_lfw_category(training, protocol, InputSpec(64, crop=Crop("whole")))).startswith(category)
