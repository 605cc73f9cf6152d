"""Search by Optuna: each trial of a study is a run of a sweep, started by whichever launcher is configured."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import optuna
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from siamese_verify.atomic_write import atomic_write
from siamese_verify.errors import InputError
from siamese_verify.run_lock import ALIVE, TAKEN, claim, is_claimed, one_at_a_time
from siamese_verify.run_record import record_of
from siamese_verify.sweeps.check_runs import composed, refusal
from siamese_verify.sweeps.search_space import SearchSpace, parse_search_space
from siamese_verify.sweeps.sweep_task import SweepTask, gave_up_file, stop_file
from siamese_verify.sweeps.trial_pruning import TRIAL, open_storage, refuse_password

ATTEMPTS = 100  # draws for one trial, of which all may be combinations that cannot work
TRIES = 5  # of other numbers with the same choices, which are then not checked again
JOURNAL = "study.journal"
SEARCHED = "searched"  # attribute of a study: what all that share it must agree on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchSettings:
    """Settings of `hydra/sweeper=optuna`.

    Attributes:
        n_trials: of the study, by all processes that share it.
        n_jobs: trials that a launcher gets at once; hydra/launcher=local takes one whenever one ends instead.
        storage: file of the study, or the URL of a database, whose password is in a variable; None for a file in the
            folder of the sweep.
        study_name: in the storage.
        sampler: with a `_target_` such as optuna.samplers.TPESampler. Its `seed` makes that of each trial, which
            depends on neither the process that draws it nor the number of processes.
        pruner: with a `_target_` such as optuna.pruners.HyperbandPruner, whose steps are epochs.
        max_failure_rate: share of failed trials above which the search ends.
        params: see `parse_search_space`.
        conditional: see `parse_search_space`.
    """

    n_trials: int
    n_jobs: int
    storage: str | None
    study_name: str
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    max_failure_rate: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    conditional: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"hydra.sweeper.{name} must be a whole number of 1 or more, got {value!r}.")
        if not 0 <= self.max_failure_rate <= 1:
            raise InputError(f"hydra.sweeper.max_failure_rate must be from 0 to 1, got {self.max_failure_rate!r}.")


class GridOfSpace(BaseSampler):
    """Optuna sampler of all combinations of a search space in their order, one for each trial by its number.

    Attributes:
        rows: values by the names of parameters, for each trial.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is sampled jointly."""
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Nothing is sampled jointly."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Value of the combination with the number of the trial."""
        return self.rows[trial.number][param_name]


class SharedStudy:
    """A study in a storage that several processes share: no trial is drawn twice, and a dead process's are taken over.

    Args:
        settings: of the search.
        space: searched.
        folder: of the sweep; trials get folders in it by their numbers.
        metric: that is optimised.
        mode: min or max.
        refusal: why overrides cannot work, in words; None if they can.
        named: the storage as the configuration names it, such as by a variable, see `refuse_password`.

    Raises:
        InputError: the storage holds a study of this name with another search space, metric or mode; a grid over an
            interval, or one of which nothing can work.
    """

    def __init__(
        self,
        settings: SearchSettings,
        space: SearchSpace,
        folder: Path,
        metric: str,
        mode: str,
        refusal: Callable[[Sequence[str]], str | None] = lambda overrides: None,
        named: str | None = None,
    ) -> None:
        self.settings, self.space, self.refusal = settings, space, refusal
        self.refused: Counter[tuple[str, ...]] = Counter()  # how often choices were refused, whatever the numbers
        self.reason = ""  # of the last
        self.folder = folder.absolute()
        self.metric = metric
        location = settings.storage or str(self.folder / JOURNAL)
        self.location = location if "://" in location else str(Path(location).absolute())
        refuse_password(self.location, named)
        self.named = named if named and "${oc.env:" in named else self.location  # what files and messages may show
        self.turn = Path(f"{self.location}.turn") if "://" not in location else self.folder / f"{JOURNAL}.turn"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.held: dict[int, BinaryIO | None] = {}  # runs of this process's trials
        self.taken: set[int] = set()  # a run that is stopped by hand is not started again at once
        self.pruner = instantiate(settings.pruner)
        described = {"settings": list(space.fixed), "search space": space.describe(), "metric": metric, "mode": mode}
        with one_at_a_time(self.turn):
            self.storage = open_storage(self.location)
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=settings.study_name,
                direction="maximize" if mode == "max" else "minimize",
                pruner=self.pruner,
                load_if_exists=True,
            )
            if SEARCHED not in self.study.user_attrs:
                self.study.set_user_attr(SEARCHED, described)
        for name, earlier in self.study.user_attrs[SEARCHED].items():
            if earlier != described[name]:
                raise InputError(
                    f"The study {settings.study_name} in {self.named} has the {name} {earlier}, not "
                    f"{described[name]}: search with the same, or set another hydra.sweep.dir."
                )
        self.sampler: BaseSampler = instantiate(settings.sampler)
        self.n_trials = settings.n_trials
        if isinstance(self.sampler, GridOfSpace):
            self.sampler.rows = self.grid()
            self.n_trials = min(settings.n_trials, len(self.sampler.rows))

    def grid(self) -> list[dict[str, Any]]:
        """Combinations that can work: values by the names of parameters.

        Raises:
            InputError: there are none.
        """
        rows, reason = [], None
        for texts in tqdm(list(self.space.grid()), "Checking", delay=2, leave=False, disable=None):
            if found := self.refusal(self.space.overrides(texts)):
                reason = found
            else:
                rows.append(self.space.values(texts))
        if not rows:
            raise InputError(f"No combination of the search space can work: {reason}")
        return rows

    def next_trial(self) -> tuple[int, list[str]] | None:
        """Number and overrides of a trial to run: one whose process died, else a new one; None if none is left."""
        with one_at_a_time(self.turn):
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                run = self.folder / str(trial.number)
                ours = trial.user_attrs.get("sweep") == str(self.folder) and trial.number not in self.taken
                if not ours or trial.state != TrialState.RUNNING or is_claimed(run / ALIVE) or is_claimed(run / TAKEN):
                    continue
                record = record_of(run)
                if "overrides" not in trial.user_attrs or (record and record.status in ("finished", "failed")):
                    self.tell(trial.number, None)  # it ended after the search had died, or never began
                    continue
                self._take(trial.number)
                return trial.number, list(trial.user_attrs["overrides"])
            if len(trials) >= self.n_trials:
                return None
            number, overrides = self.create_trial(trials)
            self._take(number)
        self.write_trial(number)
        return number, overrides

    def create_trial(self, trials: Sequence[FrozenTrial]) -> tuple[int, list[str]]:
        """Create a trial whose number is what the storage gives it, and draw its combination."""
        texts, drawn = self.draw(trials)
        study_id = self.storage.get_study_id_from_name(self.settings.study_name)
        template = optuna.create_trial(state=TrialState.RUNNING, user_attrs={"sweep": str(self.folder)})
        trial_id = self.storage.create_new_trial(study_id, template)
        number = self.storage.get_trial_number_from_id(trial_id)
        if number != len(trials):  # a search in another folder, which shares a database, was faster
            texts, drawn = self.draw(self.study.get_trials(deepcopy=False)[:number])
        for name, value in self.space.values(texts).items():
            found = drawn.distributions[name]
            self.storage.set_trial_param(trial_id, name, found.to_internal_repr(value), found)
        for key, attribute in drawn.system_attrs.items():
            self.storage.set_trial_system_attr(trial_id, key, attribute)
        overrides = self.space.overrides(texts)
        self.storage.set_trial_user_attr(trial_id, "overrides", overrides)
        return number, overrides

    def _take(self, number: int) -> None:
        self.taken.add(number)
        self.held[number] = claim(self.folder / str(number) / TAKEN)

    def draw(self, trials: Sequence[FrozenTrial]) -> tuple[dict[str, str], FrozenTrial]:
        """Draw a combination that can work, see `SearchSpace.draw`, for a trial of a copy of the study.

        Raises:
            InputError: none of `ATTEMPTS` can.
        """
        for attempt in range(ATTEMPTS):
            copy = optuna.create_study(
                study_name=self.settings.study_name,
                direction=self.study.direction,
                sampler=self.sampler_of(len(trials), attempt),
                pruner=self.pruner,
            )
            copy.add_trials(trials)
            trial = copy.ask()
            texts = self.space.draw(trial)
            choices = self.space.choices(texts)
            if self.refused[choices] < TRIES:
                reason = self.refusal(self.space.overrides(texts))
                if reason is None:
                    self.refused[choices] = 0
                    return texts, copy.get_trials(deepcopy=False)[-1]
                self.refused[choices] += 1
                self.reason = reason
        raise InputError(f"None of {ATTEMPTS} combinations drawn of the search space can work: {self.reason}")

    def sampler_of(self, number: int, attempt: int) -> BaseSampler:
        """The sampler, with a seed of its own for each trial and attempt where it has one."""
        seed = self.settings.sampler.get("seed")
        if isinstance(self.sampler, GridOfSpace) or seed is None:
            return self.sampler
        own = int(np.random.SeedSequence([int(seed), number, attempt]).generate_state(1)[0])
        return cast(BaseSampler, instantiate(self.settings.sampler, seed=own))

    def write_trial(self, number: int) -> None:
        """Write what a run needs to report to the study, unless no trial is ever pruned."""
        if isinstance(self.pruner, optuna.pruners.NopPruner):
            return
        trial = {
            "storage": self.named,
            "study_name": self.settings.study_name,
            "number": number,
            "metric": self.metric,
            "pruner": dict(self.settings.pruner),
        }
        atomic_write(self.folder / str(number) / TRIAL, json.dumps(trial, indent=1).encode())

    def tell(self, number: int, job: JobReturn | None, stopping: bool = False) -> FrozenTrial:
        """Record how the run of a trial ended; one that was stopped remains to be resumed.

        Args:
            number: of the trial.
            job: what the launcher returned; None if only the record of the run is known.
            stopping: whether the sweep is being stopped, so that a run without a record never started.
        """
        run = self.folder / str(number)
        record = record_of(run)
        value = job.return_value if job is not None and job.status == JobStatus.COMPLETED else None
        if record is not None and record.status == "finished":
            value = record.metrics.get(self.metric, value)
        elif record is not None and record.status == "failed":
            value = None
        cut = stopping if record is None else record.status in ("stopped", "running")
        pruned = "pruned" in self.storage.get_trial(self._trial_id(number)).user_attrs
        if not cut:
            if pruned:
                self.study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
            elif isinstance(value, int | float) and math.isfinite(value):
                self.study.tell(number, float(value), skip_if_finished=True)
            else:
                self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        if held := self.held.pop(number, None):
            held.close()
        return self.storage.get_trial(self._trial_id(number))

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.settings.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def refuse_failures(self) -> None:
        """Raise InputError if too many trials failed."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED))
        failed = sum(trial.state == TrialState.FAIL for trial in trials)
        if trials and failed > self.settings.max_failure_rate * len(trials):
            raise InputError(
                f"{failed} of {len(trials)} trials failed, more than hydra.sweeper.max_failure_rate="
                f"{self.settings.max_failure_rate:g} allows: see the run.json of each in {self.folder}."
            )


def search(
    settings: SearchSettings,
    config: DictConfig,
    context: HydraContext,
    launcher: Launcher,
    task: SweepTask,
    arguments: Sequence[str],
) -> list[Sequence[JobReturn]]:
    """Run the trials of a study that are left.

    Args:
        settings: of the sweeper.
        config: of the sweep, composed by Hydra.
        context: of Hydra.
        launcher: called as Hydra's sweepers do; one with `launch_each` gets a new trial whenever one has ended.
        task: the launcher's task function; its `check` raises InputError for a configuration that cannot work.
        arguments: overrides of the command line, of which some may be searched.

    Returns:
        What the launcher returned, batch by batch.

    Raises:
        InputError: see `SharedStudy` and `parse_search_space`; nothing can work. Once there are trials, a search that
            gives up ends without another one.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = OverridesParser.create(config_loader=context.config_loader)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    named = {str(group): choice for group, choice in choices.items()}
    space = parse_search_space(settings.params, settings.conditional, arguments, named, parser)
    if not space.parameters:
        raise InputError("There is nothing to search: give settings as KEY='interval(0.1,0.6)' or KEY=choice(a,b).")
    folder = Path(config.hydra.sweep.dir)

    def refused(overrides: Sequence[str]) -> str | None:
        [run] = composed(cast(ConfigLoaderImpl, context.config_loader), config, [overrides])
        return refusal(task.check, run)

    written = str(OmegaConf.to_container(config.hydra.sweeper)["storage"])  # type: ignore[call-overload, index]
    shared = SharedStudy(settings, space, folder, config.sweep.metric, config.sweep.mode, refused, written)
    atomic_write(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())
    sentinel, gave_up = stop_file(folder, task.parent), gave_up_file(folder)
    gave_up.unlink(missing_ok=True)

    def next_job() -> tuple[int, list[str]] | None:
        if sentinel.exists() or gave_up.exists():
            return None
        try:
            shared.refuse_failures()
            found = shared.next_trial()
        except InputError as error:
            if not shared.study.get_trials(deepcopy=False):
                raise  # nothing has run that is to be shown
            atomic_write(gave_up, str(error).encode())
            return None
        return found and (found[0], [*found[1], f"hydra.sweep.subdir={found[0]}"])

    def tell(number: int, job: JobReturn) -> None:
        shared.tell(number, job, stopping=sentinel.exists())

    returned: list[Sequence[JobReturn]] = []
    if launch_each := getattr(launcher, "launch_each", None):
        returned.append(launch_each(next_job, tell))
    else:
        while jobs := [job for _ in range(settings.n_jobs) if (job := next_job())]:
            batch = launcher.launch([overrides for _, overrides in jobs], initial_job_idx=jobs[0][0])
            for (number, _), end in zip(jobs, batch, strict=True):
                tell(number, end)
            returned.append(batch)
    return returned
