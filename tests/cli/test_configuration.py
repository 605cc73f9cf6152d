"""Mistakes in the configuration end in one sentence, before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.configuration import check_values, hydra_form
from siamese_verify.cli.user_errors import report_user_errors
from siamese_verify.errors import InputError
from siamese_verify.run_record import RunRecord
from tests.cli.conftest import CHOICES, SENTENCE, Command
from tests.conftest import TINY

Configured = Callable[..., DictConfig]
GROUPS = ("encoder", "loss", "miner", "sampler", "augmentation", "optimizer", "scheduler", "trainer", "logger", "data")


@pytest.mark.parametrize("group", GROUPS)
def test_every_value_that_ships_has_its_type(group: str, configured: Configured, tmp_path: Path) -> None:
    for choice in CHOICES[group]:
        check_values(configured("train", tmp_path, f"{group}={choice}"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=1.5", "seed must be a whole number from 0 to 4294967295, got 1.5."),
        ("optimizer.lr=abc", "optimizer.lr must be a number, got 'abc'."),
        ("encoder.size=big", "encoder.size must be a whole number, got 'big'."),
        ("encoder.normalize=2", "encoder.normalize must be true or false, got 2."),
        (
            "encoder.crop.kind=x",
            "encoder.crop.kind must be one of whole, center, box, five_point, eyes_and_nose, none, got 'x'.",
        ),
        ("data.photos.identities=many", "data.photos.identities must be a whole number, got 'many'."),
        ("data=folder data.root=2024", "data.root must be text (in quotes: \"'...'\"), got 2024."),
        ("sampler.identities_per_batch=3.5", "sampler.identities_per_batch must be a whole number, got 3.5."),
        ("augmentation.scale=0.5", "augmentation.scale must be a list, got 0.5."),
        ("trainer.max_epochs=abc", "trainer.max_epochs must be a whole number or null, got 'abc'."),
        ("loss.margin=x", "loss.margin must be a number, got 'x'."),
        (
            "datamodule.on_multiple_faces=any",
            "datamodule.on_multiple_faces must be one of error, largest, central, got 'any'.",
        ),
        ("allow_leakage=perhaps", "allow_leakage must be true or false, got 'perhaps'."),
    ],
)
def test_a_value_of_another_type_is_refused(
    override: str, sentence: str, configured: Configured, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        check_values(configured("train", tmp_path, *override.split()))
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train loss.margn=1", "There is no setting loss.margn: did you mean loss.margin?"),
        ("train ~loss.margn", "There is no setting loss.margn: did you mean loss.margin?"),
        ("train --multirun loss.margn=1,2", "There is no setting loss.margn: did you mean loss.margin?"),
        ("train loss=sup_con loss.margin=1", "There is no setting loss.margin: loss has reduction, temperature."),
        ("train trainr.max_epochs=3", "There is no setting trainr.max_epochs: did you mean trainer.max_epochs?"),
        ("train trainer.max_epohcs=3 zz=1", "There is no setting trainer.max_epohcs: did you mean trainer.max_epochs?"),
        ("train los=triplet", "There is no setting los: did you mean loss?"),
        ("train miner.margin=1", "There is no setting miner.margin: miner has none."),
        ("train hydra.run.dri=x", "There is no setting hydra.run.dri: did you mean hydra.run.dir?"),
        ("train loss=triplett", "There is no loss=triplett: did you mean triplet or triplet_lfw?"),
        ("train +loss.margin=1", "loss.margin exists already: leave out the + before it."),
        ("train loss.margin", "loss.margin is not a valid Hydra override: write KEY=VALUE, "),
        ("train seed=1,2", "seed=1,2 has several values: add --multirun to run each"),
        ("preview bathces=1", "There is no setting bathces: did you mean batches?"),
        ("prepare algin=box", "There is no setting algin: did you mean align?"),
        ("evaluate protocol=lfw_view3", "There is no protocol=lfw_view3: did you mean lfw_view2 or lfw_view1"),
        ("center miror=false", "There is no setting miror: did you mean mirror?"),
        ("train -m --cfg job seed=0,1", "-m, --cfg and --info go one at a time: leave out all but one"),
        ("train loss=nonsense", "There is no loss=nonsense: loss has ada_face, arc_face, contrastive"),
        ("train experiment=nonsense", "There is no experiment=nonsense: experiment has att_pretrained"),
        ("train loss=null", "There is no loss=null: loss has ada_face, arc_face, contrastive"),
        ("train sampler=3", "There is no sampler=3: sampler has hard, identity"),
        ("train ~trainer", "There is no training without trainer: leave out ~trainer."),
        ("train data.root=a{b", "data.root=a{b is not a valid Hydra override: write 'data.root=\"a{b\"'."),
        (
            "train trainer.limit_train_batches=1",
            "trainer.limit_train_batches is not in the configuration, but pytorch_lightning.Trainer takes it: write "
            "+trainer.limit_train_batches=1.",
        ),
        ("train =", "Could not override ''."),
        ("train --seed=3", "There is no option --seed: write settings without dashes, seed=3."),
        ("preview batches=1 --max-epochs 3", "There is no option --max-epochs: write settings without dashes, max_ep"),
        ("train experiment=demo -m loss.margn=1,2", "There is no setting loss.margn: did you mean loss.margin?"),
        ("train experiment=demo loss.margin=abc", "loss.margin must be a number, got 'abc'."),
        (
            "train loss._target_=torch.nn.CrossEntropyLoss",
            "torch.nn.CrossEntropyLoss takes no margin, squared, soft: leave out what another choice of loss has by "
            "~loss.margin ~loss.squared ~loss.soft.",
        ),
        ("train loss._target_=tests.own_networks.Nope", "tests.own_networks has no Nope: correct the _target_ that "),
        ("train loss._target_=l2_.Nope", "The configuration names l2_, which cannot be imported: install its package"),
        ("evaluate model=nobody protocol=synthetic", "There is no model nobody: give sface"),
    ],
)
def test_a_wrong_override_is_named_with_those_that_are_like_it(
    arguments: str, sentence: str, command: Command, tmp_path: Path
) -> None:
    ended = command(*arguments.split())
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith(f"siamese-verify: {sentence}")
    assert {"-m", "--multirun"} & {*arguments.split()} or not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("data.root=fotos é/all", "data.root='fotos é/all'"),
        ("data.root=写真", "data.root='写真'"),
        ("data.root=photos", "data.root=photos"),
        ("data.root=é,b", "data.root=é,b"),
        ("data.root='é'", "data.root='é'"),
        ("loss.margin", "loss.margin"),
        ("logger=null", "logger=none"),
        ("loss=null", "loss=null"),
        ("baseline=null", "baseline=null"),
    ],
)
def test_an_override_is_given_to_hydra_in_its_form(given: str, form: str) -> None:
    assert hydra_form(given) == form


def test_a_misspelt_setting_that_was_added_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @report_user_errors
    def make(cfg: object) -> None:
        instantiate(cfg.loss)  # type: ignore[attr-defined]

    loss = {"_target_": "siamese_verify.losses.ContrastiveLoss", "margin": 1.0, "margn": 2.0}
    with pytest.raises(SystemExit):
        make(OmegaConf.create({"loss": loss}))
    assert capsys.readouterr().err == "siamese-verify: There is no setting loss.margn: did you mean loss.margin?\n"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data=lfw", "data.root=/no/such/folder", "protocol=lfw_view1"], "There is no folder /no/such/folder"),
        (["data=lfw", "data.root=.", "protocol=lfw_view1"], "holds none of lfw-deepfunneled"),
        (["data.photos.identities=1"], "4 photos of 1 people"),
        (["data.test.photos.identities=1"], "no impostors"),
        (["sampler.identities_per_batch=100"], "identities_per_batch is 100, but only"),
        (
            ["sweep.metric=test/eer"],
            "must be one of val/eer, val/auc, val/tar_at_far_1e-2, val/knn_accuracy, val/alignment, "
            "val/uniformity, val/effective_rank, got test/eer",
        ),
        (["sweep.metric=val/uniformity", "sweep.mode=max"], "worst val/uniformity: set sweep.mode=min"),
        (["sweep.metric=val/auc"], "sweep.mode=min looks for the worst val/auc: set sweep.mode=max"),
        (["threads=-1"], "threads must be a whole number of 1 or more, got -1"),
        (["seed=-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["trainer.max_epochs=abc"], "trainer.max_epochs must be a whole number or null, got 'abc'"),
        (
            ["sampler.identities_per_batch=4", "optimizer.lr=-1"],
            "The optimizer cannot be created as configured (Invalid learning rate: -1)",
        ),
        (["data=folder"], "data.root is required: add data.root=..."),
        (
            ["sampler.identities_per_batch=4", "trainer=ddp", "trainer.accelerator=cpu"],
            "trainer.sync_batchnorm=true needs GPUs",
        ),
        (["sampler.identities_per_batch=4", "loss.reduction=none"], "loss.reduction is none"),
        (["data.root=null", "protocol=lfw_view1"], "There is no folder None: set data.root"),
        (["encoder._target_=os.system"], "os.system cannot be created as configured"),
        (["encoder.width=0"], "The encoder has a layer without weights"),
        (["encoder.size=100000"], "An input has at most 3 x 4096 x 4096 numbers, got the shape (3, 100000, 100000)"),
        (["data.photos.size=20000"], "size of synthetic faces must be at most 4,096, got 20000"),
        (["data.photos.identities=100000000"], "identities of synthetic faces must be at most 2,500,000"),
        (["loss.margin=inf"], "margin must be a finite number, got inf"),
        (["baseline=foo"], "baseline must be null or have a _target_, got 'foo'"),
        (["baseline._target_=l2_.x"], "names l2_, which cannot be imported"),
        (["trainer.check_val_every_n_epoch=100"], "trainer.check_val_every_n_epoch=100 validates none of 20 epochs"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0 validates none of 20 epochs"),
        (["+trainer.limit_val_batches=0"], "trainer.limit_val_batches=0 validates no epoch, so there is no model"),
        (["+trainer.fast_dev_run=true"], "trainer.fast_dev_run=True validates no epoch, so there is no model"),
        (["datamodule.validation_share=2"], "hold out must lie between 0 and 1, got 2"),
    ],
)
def test_a_training_that_is_not_possible_ends_with_2_and_a_sentence_and_leaves_no_results(
    overrides: list[str], complaint: str, command: Command, tmp_path: Path
) -> None:
    small = [] if {"protocol=lfw_view1", "data=folder"} & {*overrides} else TINY
    ended = command("train", *small, *overrides, "hydra.run.dir=run")
    assert ended.code == 2
    assert SENTENCE.fullmatch(ended.err), ended.err
    assert complaint in ended.err
    left = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left <= {".hydra", ".training", "train.log", "run.json"}
    record = RunRecord.read(tmp_path / "run")
    assert (record.status, record.exit_status) == ("failed", 2)
    assert ended.err == f"siamese-verify: {record.error}\n"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("protocol=pair_file model=RUN", "protocol.path is required: add protocol.path=... to the command."),
        ("protocol=synthetic", "No model is given: set model=sface"),
        (
            "protocol=synthetic protocol.photos.identities=3 protocol.photos.images=2 model=nobody",
            "There is no model nobody",
        ),
    ],
)
def test_an_evaluation_that_is_not_possible_ends_with_2_and_a_sentence(
    overrides: str, sentence: str, command: Command, tiny_run: Path
) -> None:
    ended = command("evaluate", *overrides.replace("RUN", str(tiny_run)).split(), "hydra.run.dir=run")
    assert ended.code == 2
    assert SENTENCE.fullmatch(ended.err), ended.err
    assert ended.err.startswith(f"siamese-verify: {sentence}")


def test_a_missing_setting_that_others_refer_to_is_named(command: Command) -> None:
    ended = command("prepare", "data=list", "output=out")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "siamese-verify: data.path is required: add data.path=... to the command.\n"
