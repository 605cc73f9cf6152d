"""Searches without training: runs are stood in for by a function that writes their records."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.trial import TrialState

from siamese_verify.errors import InputError
from siamese_verify.run_record import RunRecord
from siamese_verify.sweeps.optuna_sweeper import SearchSettings, SharedStudy, search
from siamese_verify.sweeps.search_space import parse_search_space
from siamese_verify.sweeps.sweep_task import SweepTask, end_of_sweep
from siamese_verify.sweeps.trial_pruning import trial_of

METRIC = "val/eer"
RANDOM = {"_target_": "optuna.samplers.RandomSampler", "seed": 3}
TPE = {"_target_": "optuna.samplers.TPESampler", "seed": 3, "n_startup_trials": 4}
GRID = {"_target_": "siamese_verify.sweeps.optuna_sweeper.GridOfSpace"}
NONE = {"_target_": "optuna.pruners.NopPruner"}
SPACE = parse_search_space(
    {"loss": "choice(triplet, contrastive)", "margin": "interval(0, 1)"}, {"loss=triplet": {"miner": "choice(a, b, c)"}}
)


def shared(folder: Path, sampler: dict[str, Any] = RANDOM, n_trials: int = 8, **others: Any) -> SharedStudy:
    """A study in a folder."""
    pruner, storage = others.pop("pruner", NONE), others.pop("storage", None)
    settings = SearchSettings(n_trials, 1, storage, "test", sampler, pruner)
    return SharedStudy(settings, others.pop("space", SPACE), folder, METRIC, "min", **others)


def end(run: Path, value: float | None = None, status: Any = "finished") -> None:
    """Write the record of a run that has ended."""
    metrics = {} if value is None else {METRIC: value}
    run.mkdir(parents=True, exist_ok=True)
    RunRecord(status=status, metrics=metrics).write(run)


def value_of(overrides: Sequence[str]) -> float:
    """What a run measures: best at a margin of 0.3."""
    return abs(float(dict(text.split("=") for text in overrides)["margin"]) - 0.3)


def run_all(study: SharedStudy) -> dict[int, list[str]]:
    """Run the trials that are left; return their overrides by number."""
    ran = {}
    while job := study.next_trial():
        number, ran[job[0]] = job
        end(study.folder / str(number), value_of(ran[number]))
        study.tell(number, None)
    return ran


def worker(folder: Path, queue: Any) -> None:
    """Take part in a study."""
    study = shared(folder, n_trials=30)
    while job := study.next_trial():
        queue.put((os.getpid(), *job))
        time.sleep(0.01)
        end(folder / str(job[0]), value_of(job[1]))
        study.tell(job[0], None)


def test_two_processes_share_a_study_without_a_trial_twice(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    taken = [queue.get(timeout=60) for _ in range(30)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert queue.empty()
    assert sorted(number for _, number, _ in taken) == list(range(30))
    assert sorted(int(path.name) for path in tmp_path.glob("*/run.json") for path in [path.parent]) == list(range(30))
    assert len({tuple(overrides) for _, _, overrides in taken}) == 30
    trials = shared(tmp_path, n_trials=30).study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 30
    for _, number, overrides in taken:
        assert trials[number].value == pytest.approx(value_of(overrides))


def test_searches_in_two_folders_that_share_a_database_draw_different_trials(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/studies.db"
    first, second = (shared(tmp_path / name, storage=database) for name in ("first", "second"))
    seen = first.study.get_trials()
    jobs = [first.create_trial(seen), second.create_trial(seen)]  # both saw no trial before they created one
    assert [number for number, _ in jobs] == [0, 1]
    assert [list(trial.user_attrs["overrides"]) for trial in first.study.trials] == [jobs[0][1], jobs[1][1]]
    assert [overrides for _, overrides in jobs] == [*run_all(shared(tmp_path / "alone", n_trials=2)).values()]
    job = second.next_trial()
    assert job is not None and job[0] == 1, "its own that was not begun, not that of another folder"


@pytest.mark.filterwarnings("ignore:Query string argument")  # SQLite has no passwords
def test_a_password_is_taken_from_a_variable_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY", f"sqlite:///{tmp_path}/studies.db?password=secret")
    pruner = {"_target_": "optuna.pruners.MedianPruner"}
    with pytest.raises(
        InputError, match=r"has a password, .* set hydra.sweeper.storage='\$\{oc.env:VARIABLE\}'"
    ) as told:
        shared(tmp_path / "sweep", storage="postgresql://me:secret@server/studies", pruner=pruner)
    assert "secret" not in str(told.value)
    study = shared(tmp_path / "sweep", storage=os.environ["STUDY"], named="${oc.env:STUDY}", pruner=pruner)
    assert study.next_trial() is not None
    for path in (tmp_path / "sweep").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()
    trial = trial_of(tmp_path / "sweep" / "0")
    assert trial is not None and trial.location == os.environ["STUDY"] and not trial.report(0.5, 0)


@pytest.mark.parametrize("sampler", [RANDOM, TPE])
def test_a_continued_study_draws_what_an_uninterrupted_one_draws(tmp_path: Path, sampler: dict[str, Any]) -> None:
    whole = run_all(shared(tmp_path / "whole", sampler, 10))
    first = run_all(shared(tmp_path / "parts", sampler, 4))
    rest = run_all(shared(tmp_path / "parts", sampler, 10))
    assert sorted(rest) == list(range(4, 10))
    assert {**first, **rest} == whole
    assert len({tuple(overrides) for overrides in whole.values()}) == 10


def test_what_cannot_work_is_never_a_trial(tmp_path: Path) -> None:
    def refusal(overrides: Sequence[str]) -> str | None:
        return "contrastive cannot" if "loss=contrastive" in overrides or "miner=b" in overrides else None

    ran = run_all(shared(tmp_path / "random", n_trials=12, refusal=refusal))
    assert sorted(ran) == list(range(12))
    assert not any(refusal(overrides) for overrides in ran.values())
    discrete = parse_search_space(
        {"loss": "choice(triplet, contrastive)", "margin": "range(0, 1, 0.5)"},
        {"loss=triplet": {"miner": "choice(a, b, c)"}},
    )
    ran = run_all(shared(tmp_path / "grid", GRID, 99, space=discrete, refusal=refusal))
    assert sorted(ran.values()) == [
        ["loss=triplet", f"margin={margin}", f"miner={miner}"] for margin in ("0", "0.5") for miner in "ac"
    ]
    with pytest.raises(InputError, match=r"None of 100 combinations .* nothing does"):
        run_all(shared(tmp_path / "none", refusal=lambda _: "nothing does"))


TAKE_ONE = """
import sys, time
from pathlib import Path
from tests.sweeps.test_optuna_sweeper import shared
study = shared(Path(sys.argv[1]), n_trials=3)
print(*study.next_trial(), flush=True)
time.sleep(600)
"""


def test_the_trial_of_a_killed_search_is_taken_over_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    study = shared(tmp_path, n_trials=3)
    with subprocess.Popen([sys.executable, "-c", TAKE_ONE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            line = other.stdout.readline()
            mine = study.next_trial()
        finally:
            other.send_signal(signal.SIGKILL)
    assert mine is not None and mine[0] == 1
    taken = study.next_trial()
    assert taken is not None and line.strip() == f"0 {taken[1]}"
    end(tmp_path / "0", 0.5)
    study.tell(0, None)
    last = study.next_trial()
    assert last is not None and last[0] == 2
    assert study.next_trial() is None


def test_runs_end_as_trials_of_their_kind(tmp_path: Path) -> None:
    study = shared(tmp_path, n_trials=4)
    ended: list[tuple[int, float | None, str]] = [
        (0, 0.2, "finished"),
        (1, None, "failed"),
        (2, 0.4, "stopped"),
        (2, 0.3, "finished"),  # resumed by another search, before anything new
        (3, float("nan"), "finished"),
    ]
    overrides = []
    for row, (number, value, status) in enumerate(ended):
        if row == 3:
            study = shared(tmp_path, n_trials=4)
        job = study.next_trial()
        assert job is not None and job[0] == number
        overrides.append(job[1])
        end(tmp_path / str(number), value, status)
        study.tell(number, None)
    assert study.next_trial() is None
    assert overrides[2] == overrides[3]
    trials = study.study.trials
    assert [trial.value for trial in trials] == [0.2, None, 0.3, None]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]


def test_a_run_that_ended_after_its_search_had_died_is_not_repeated(tmp_path: Path) -> None:
    died = shared(tmp_path, n_trials=2)
    assert died.next_trial() is not None
    end(tmp_path / "0", 0.25)
    died.held.clear()  # as its end would
    study = shared(tmp_path, n_trials=2)
    job = study.next_trial()
    assert job is not None and job[0] == 1
    assert study.study.trials[0].value == 0.25


def test_a_study_is_not_continued_with_another_search_space(tmp_path: Path) -> None:
    shared(tmp_path)
    other = parse_search_space({"margin": "interval(0, 2)"}, {})
    with pytest.raises(InputError, match=r"has the search space .* set another hydra.sweep.dir"):
        shared(tmp_path, space=other)


def test_too_many_failed_trials_end_a_search(tmp_path: Path) -> None:
    settings = SearchSettings(8, 1, None, "test", RANDOM, NONE, max_failure_rate=0.5)
    study = SharedStudy(settings, SPACE, tmp_path, METRIC, "min")
    for value in (0.1, None):
        job = study.next_trial()
        assert job is not None
        end(tmp_path / str(job[0]), value)
        study.tell(job[0], None)
        study.refuse_failures()
    job = study.next_trial()
    assert job is not None
    end(tmp_path / str(job[0]), None, "failed")
    study.tell(job[0], None)
    with pytest.raises(InputError, match=r"2 of 3 trials failed, more than hydra.sweeper.max_failure_rate=0.5"):
        study.refuse_failures()


def learning_curve(margin: float, epoch: int) -> float:
    """Error of a trial, whose curve may cross those of others."""
    return abs(margin - 0.3) + 0.5 / (1 + epoch) * (1 + 0.5 * math.sin(40 * margin + epoch))


@pytest.mark.parametrize(
    "pruner",
    [
        {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 3, "n_warmup_steps": 1},
        {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 1, "max_resource": 9, "reduction_factor": 3},
    ],
)
def test_runs_are_pruned_where_optuna_prunes_within_one_process(tmp_path: Path, pruner: dict[str, Any]) -> None:
    study = shared(tmp_path, n_trials=24, pruner=pruner)
    margins, pruned_at = [], {}
    while job := study.next_trial():
        number, overrides = job
        run = tmp_path / str(number)
        margins.append(float(dict(text.split("=") for text in overrides)["margin"]))
        reported = trial_of(run)
        assert reported is not None
        for epoch in range(9):
            if reported.report(learning_curve(margins[-1], epoch), epoch):
                pruned_at[number] = epoch
                break
        end(run, learning_curve(margins[-1], epoch))
        study.tell(number, None)

    expected = {}

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("margin", 0, 1)
        for epoch in range(9):
            trial.report(learning_curve(margins[trial.number], epoch), epoch)
            if trial.should_prune():
                expected[trial.number] = epoch
                raise optuna.TrialPruned
        return learning_curve(margins[trial.number], epoch)

    alone = optuna.create_study(study_name="test", pruner=instantiate(pruner))
    alone.optimize(objective, n_trials=24)
    assert pruned_at == expected and 5 < len(expected) < 24
    assert [trial.value for trial in study.study.trials] == [trial.value for trial in alone.trials]
    assert {trial.number for trial in study.study.trials if trial.state == TrialState.PRUNED} == set(expected)


def test_a_run_without_a_pruner_reports_nothing(tmp_path: Path) -> None:
    assert trial_of(tmp_path) is None
    study = shared(tmp_path)  # without a pruner
    assert study.next_trial() is not None
    assert trial_of(tmp_path / "0") is None


class Recorded(Launcher):
    """Launcher that writes the record of each run instead of training."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.batches = folder, list[list[list[str]]]()

    def setup(self, **_: Any) -> None:
        """Nothing to set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Let runs measure their learning rate."""
        self.batches.append([list(overrides) for overrides in job_overrides])
        returned = []
        for row, overrides in enumerate(job_overrides):
            values = dict(text.split("=", 1) for text in overrides)
            assert values["hydra.sweep.subdir"] == str(initial_job_idx + row)
            end(self.folder / values["hydra.sweep.subdir"], float(values.get("optimizer.lr", "1")))
            returned.append(JobReturn(overrides=overrides, status=JobStatus.COMPLETED))
            returned[-1].return_value = 0.0
        return returned


def run_search(folder: Path, *overrides: str) -> list[list[list[str]]]:
    """Search as `siamese-verify train -m hydra/sweeper=optuna OVERRIDES` does; return the batches launched."""
    from siamese_verify.cli.configuration import CONF
    from siamese_verify.cli.training_checks import check_run

    with initialize_config_dir(str(CONF), version_base="1.3"):
        named = [text for text in overrides if not set("(,") & set(text)]
        config = compose("train", [*named, f"hydra.sweep.dir='{folder}'"], return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(config))
        settings = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        assert isinstance(settings, dict)
        known = {
            str(key): value for key, value in settings.items() if key not in ("_target_", "_convert_", "_recursive_")
        }
        launcher = Recorded(folder)
        task = [text for text in overrides if not text.startswith("hydra")]
        search(SearchSettings(**known), config, context, launcher, SweepTask(lambda _: 0.0, check_run), task)
    return launcher.batches


@pytest.mark.parametrize("name", sorted(path.stem for path in Path("conf/hparams_search").glob("*.yaml")))
def test_every_ready_search_draws_what_can_work(tmp_path: Path, name: str) -> None:
    sampler = "hydra/sweeper/sampler=random"
    [*batches, last] = run_search(
        tmp_path, f"hparams_search={name}", sampler, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=3"
    )
    assert [len(batch) for batch in batches] == [3] and len(last) == 1
    runs = [overrides for batch in [*batches, last] for overrides in batch]
    assert all(any(text.startswith("optimizer.lr=") for text in overrides) for overrides in runs)
    assert all(f"hparams_search={name}" in overrides for overrides in runs)
    assert len({tuple(overrides) for overrides in runs}) == 4


def test_combinations_that_can_never_work_are_left_out_of_a_grid(tmp_path: Path) -> None:
    batches = run_search(
        tmp_path,
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.n_trials=99",
        "loss=contrastive,triplet",
        "miner=hard_pairs,semi_hard",  # a triplet loss takes no pairs
        "optimizer.lr=range(1,3)",
    )
    ran = sorted(" ".join(overrides[:-1]) for [overrides] in batches)
    assert ran == [
        f"{pair} optimizer.lr={rate}"
        for pair in (
            "loss=contrastive miner=hard_pairs",
            "loss=contrastive miner=semi_hard",
            "loss=triplet miner=semi_hard",
        )
        for rate in (1, 2)
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "There is nothing to search"),
        (("loss=contrastive", "loss.margin=interval(-3, -1)"), r"None of 100 combinations .*: margin is -[\d.]+, but"),
        (
            ("loss=triplet", "miner=choice(hard_pairs)"),
            r"None of 100 combinations .* which HardPairs chooses",
        ),
    ],
)
def test_a_search_of_which_nothing_can_work_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_search(tmp_path, "hydra/sweeper=optuna", *overrides)
    assert not list(tmp_path.glob("*/run.json"))


def test_a_search_that_gives_up_ends_with_status_1_and_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(study: SharedStudy) -> None:
        if len(study.study.get_trials()) == 2:
            raise InputError("2 of 2 trials failed.")

    monkeypatch.setattr(SharedStudy, "refuse_failures", refuse)
    batches = run_search(
        tmp_path, "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "optimizer.lr=interval(0.1, 1)"
    )
    assert [len(batch) for batch in batches] == [1, 1]
    with pytest.raises(SystemExit) as end:
        end_of_sweep(tmp_path)
    assert end.value.code == 1
    assert "The search ended early: 2 of 2 trials failed." in capsys.readouterr().err
