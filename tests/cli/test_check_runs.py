"""Runs of a sweep that can never work are found before the first starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from siamese_verify.cli.configuration import CONF
from siamese_verify.errors import InputError
from siamese_verify.run_record import RunRecord, Status
from siamese_verify.sweeps.check_runs import composed, refuse_invalid
from tests.cli.conftest import Command

LOST = "cannot use the tuples of PairSampler: set sampler=identity."


def test_all_runs_that_can_never_work_are_named_and_none_is_started(command: Command, tmp_path: Path) -> None:
    ended = command("train", "-m", "loss=triplet,contrastive", "sampler=identity,pairs", "hydra.sweep.dir=sweep")
    first = "siamese-verify: 1 of 4 runs can never work: correct them, or leave them out by sweep.skip_invalid=true."
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"{first}\n  loss=triplet sampler=pairs: TripletLoss {LOST}\n"
    assert not list(tmp_path.iterdir())


def test_ten_of_them_are_named(command: Command, tmp_path: Path) -> None:
    ended = command("train", "-m", "loss=triplet", "sampler=pairs", "loss.margin=range(13)")
    assert ended.code == 2
    lines = ended.err.splitlines()
    assert len(lines) == 12
    assert lines[10:] == [f"  loss.margin=9: TripletLoss {LOST}", "  and 3 more"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "reasons"),
    [
        ("loss.margin=0.1,x", ["loss.margin=x: loss.margin must be a number, got 'x'."]),
        ("loss.margin=-1,0.2,x", ["loss.margin=-1: ", "loss.margin=x: loss.margin must be a number, got 'x'."]),
        (
            "data=folder data.root=/no/such/folder,.",
            ["data.root=/no/such/folder: There is no /no/such/folder: correct data.root."],
        ),
        (
            "protocol=held_out,pair_file,folder",
            [
                "protocol=pair_file: protocol.path is required: add protocol.path=... to the command.",
                "protocol=folder: protocol.root is required: add protocol.root=... to the command.",
            ],
        ),
        (
            "trainer.sync_batchnorm=true,false",
            ["trainer.sync_batchnorm=True: trainer.sync_batchnorm=true needs GPUs: set it to false on CPUs."],
        ),
        ("loss=arc_face,triplet miner=batch_hard", ["loss=arc_face: ArcFaceLoss takes no triplets, which BatchHard"]),
        (
            "trainer.max_epochs=-2,0,1",
            [
                "trainer.max_epochs=-2: The trainer cannot be created as configured (`max_epochs` must be ",
                "trainer.max_epochs=0: trainer.max_epochs=0 trains nothing: set it to 1 or more.",
            ],
        ),
        (
            "optimizer.lr=-1",
            ["no overrides: The optimizer cannot be created as configured (Invalid learning rate: -1)"],
        ),
        ("scheduler.warmup=0.1,2", ["scheduler.warmup=2: The scheduler cannot be created as configured ("]),
        (
            "sampler=identity,images sampler.batches=0",
            [f"sampler={one}: batches must be a whole number of 1 or more, got 0." for one in ("identity", "images")],
        ),
        (
            "datamodule.validation_share=0.1,1.5",
            ["datamodule.validation_share=1.5: The share of identities to hold out must lie between 0 and 1, got 1.5."],
        ),
        ("datamodule.multi_view=0", ["no overrides: multi_view must be 1 or more views of an image, got 0."]),
        ("augmentation.flip=2,1", ["augmentation.flip=2: flip of an augmentation must be in 0 ... 1, got 2."]),
        ("encoder=timm encoder.name=resnet18,no_such", ["encoder.name=no_such: timm has no network 'no_such'"]),
        (
            "encoder.size=32,-1 encoder.embedding_size=64,0",
            [
                "encoder.size=32 encoder.embedding_size=0: encoder.embedding_size must be 1 or more, got 0.",
                "encoder.size=-1 encoder.embedding_size=64: ",
                "encoder.size=-1 encoder.embedding_size=0: ",
            ],
        ),
        (
            "method=simclr +method.foo=1 method.layers=2,0",
            [
                "method.layers=2: The method cannot be created as configured (SimCLR.__init__() got an unexpected",
                "method.layers=0: The method cannot be created as configured (SimCLR.__init__() got an unexpected",
            ],
        ),
        ("method=moco method.momentum=0.9,3", ["method.momentum=3: momentum is 3, but is a share that is kept"]),
        ("method=simclr method.hidden_size=8,-3", ["method.hidden_size=-3: The layers of a head have 1 or more"]),
        ("method=memory_bank method.negatives=null,0", ["method.negatives=0: negatives must be a whole number of 1"]),
        (
            "method=semi datamodule.labeled_identities=2,1 method.threshold=0.5,2",
            [
                "datamodule.labeled_identities=2 method.threshold=2: threshold is 2, but is a probability",
                *(
                    f"datamodule.labeled_identities=1 method.threshold={one}: Impostor pairs need labeled_identities "
                    for one in ("0.5", "2")
                ),
            ],
        ),
        ("method=simclr datamodule.local_views=0,1", ["datamodule.local_views=1: local_views must be 0 or more views"]),
        (
            "trainer.frozen_layers=1,9999 trainer.layer_decay=0.7,7",
            [
                "trainer.frozen_layers=1 trainer.layer_decay=7: layer_decay must be above 0 and at most 1",
                *(f"trainer.frozen_layers=9999 trainer.layer_decay={one}: " for one in ("0.7", "7")),
            ],
        ),
        ("trainer.frozen_layers=4 encoder=tiny loss=triplet,arc_face", ["loss=triplet: Nothing is trained"]),
        ("miner=batch_hard,no_such", []),  # Hydra's own answer
    ],
)
def test_what_can_be_known_without_the_data_is_checked(overrides: str, reasons: list[str], command: Command) -> None:
    ended = command("train", "-m", *overrides.replace("trainer.sync", "+trainer.sync").split())
    assert ended.code == 2
    lines = [line.strip().removeprefix("+") for line in ended.err.splitlines()]
    assert len(lines) == 1 + len(reasons)
    assert all(line.startswith(reason) for line, reason in zip(lines[1:], reasons, strict=True)), ended.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_gpus_that_do_not_exist_are_refused_except_for_other_machines(command: Command) -> None:
    ended = command("train", "-m", "trainer=cpu,gpu")
    assert ended.code == 2
    assert ended.err.endswith("trainer=gpu: trainer.devices=1 asks for GPUs, but this machine has 0.\n")


def test_invalid_runs_can_be_left_out(command: Command, tmp_path: Path) -> None:
    overrides = ("loss=triplet", "sampler=pairs", "loss.margin=0.1,0.2", "sweep.skip_invalid=true")
    ended = command("train", "-m", *overrides, "hydra.sweep.dir=sweep")
    nothing = "All 2 runs can never work, so nothing was trained: see the reasons above.\n"
    assert (ended.code, ended.err) == (1, nothing)
    assert ended.out.startswith("2 of 2 runs can never work and are left out:\n  loss.margin=0.1: TripletLoss ")
    for number in range(2):
        record = RunRecord.read(tmp_path / "sweep" / str(number))
        assert (record.status, record.error) == ("skipped", f"TripletLoss {LOST}")
        assert not (tmp_path / "sweep" / str(number) / "output.log").exists()


def test_records_of_what_runs_have_done_stay_and_a_skipped_run_that_can_work_now_runs(tmp_path: Path) -> None:
    overrides = [f"hydra.sweep.dir={tmp_path}", "sweep.skip_invalid=true", "seed=0,1,2,3"]
    runs = [tmp_path / str(number) for number in range(4)]
    statuses: tuple[Status, ...] = ("finished", "stopped", "skipped")
    for run, status in zip(runs, statuses, strict=False):
        run.mkdir()
        RunRecord(status, overrides=["sweep.skip_invalid=true", f"seed={run.name}"], metrics={"val/eer": 0.1}).write(
            run
        )
    before = [(run / "run.json").read_bytes() for run in runs[:2]]

    def unmounted(cfg: DictConfig) -> None:
        raise InputError(f"There is no folder for seed {cfg.seed}.")

    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        sweep = loader.load_configuration("train", overrides, run_mode=RunMode.MULTIRUN)
        refuse_invalid(loader, sweep, unmounted)
        assert [(run / "run.json").read_bytes() for run in runs[:2]] == before
        assert [RunRecord.read(run).error for run in runs[2:]] == [f"There is no folder for seed {n}." for n in (2, 3)]
        refuse_invalid(loader, sweep, lambda cfg: None)
    assert [(run / "run.json").read_bytes() for run in runs[:2]] == before
    assert not any((run / "run.json").exists() for run in runs[2:])


def test_a_changed_grid_does_not_take_over_the_results_in_its_folder(command: Command, tmp_path: Path) -> None:
    record = RunRecord("finished", overrides=["loss.margin=0.1", "trainer.max_epochs=9"], metrics={"val/eer": 0.25})
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    record.write(tmp_path / "sweep" / "0")
    ended = command("train", "-m", "loss.margin=0.05", "hydra.sweep.dir=sweep")
    holds = f"siamese-verify: {tmp_path}/sweep/0 holds another run (overrides loss.margin=0.1)"
    assert (ended.code, ended.err) == (2, f"{holds}: set another hydra.sweep.dir.\n")
    assert command("train", "-m", "loss.margin=0.1", "hydra.sweep.dir=sweep").code == 0  # nothing is left to train
    assert command("train", "resume=sweep", "hydra/launcher=local").code == 0
    ended = command("train", "-m", "loss.margin=0.1,0.05", "hydra.sweep.dir=sweep")
    holds = "siamese-verify: sweep holds another sweep (loss.margin=0.1)"
    assert (ended.code, ended.err) == (2, f"{holds}: set another hydra.sweep.dir.\n")
    assert [path.name for path in (tmp_path / "sweep").glob("[0-9]*")] == ["0"]
    assert RunRecord.read(tmp_path / "sweep" / "0") == record


def test_runs_are_composed_as_hydra_composes_them() -> None:
    common = ["~scheduler", "+trainer.accumulate_grad_batches=2", "trainer.max_epochs=3", "name='a, b'"]
    runs = [
        [*common, f"loss={loss}", f"sampler={sampler}", f"seed={seed}", *settings]
        for loss, *settings in (("triplet", "loss.margin=0.3"), ("contrastive", "loss.margin=0.5"), ("arc_face",))
        for sampler in ("identity", "hard")
        for seed in (1, 2)
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        sweep = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)
        sweep.hydra.sweep.dir, sweep.hydra.runtime.output_dir = "sweep", "sweep"
        for overrides, config in zip(runs, composed(loader, sweep, runs), strict=True):
            expected = loader.load_sweep_config(sweep, overrides)
            for one in (config, expected):
                del one.hydra
            assert OmegaConf.to_container(config, resolve=False) == OmegaConf.to_container(expected, resolve=False)
