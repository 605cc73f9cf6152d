"""Pruning of hopeless trials: the run of a trial reports each validation to its study and asks whether to go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese_verify.errors import InputError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from optuna.storages import BaseStorage

TRIAL = "trial.json"  # in the folder of a run that may be pruned

log = logging.getLogger(__name__)


def open_storage(location: str) -> BaseStorage:
    """Optuna's storage at the URL of a database, or in a file that several processes may append to."""
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    return get_storage(location) if "://" in location else JournalStorage(JournalFileBackend(location))


def refuse_password(location: str, named: str | None = None) -> None:
    """Check that the URL of a database brings no password into files and messages.

    Args:
        location: of a study.
        named: the same as the configuration has it: with a variable such as ${oc.env:STUDY}, which only is written.

    Raises:
        InputError: it has a password of its own.
    """
    parts = urlsplit(location)
    secret = parts.password or {"password", "passwd"} & parse_qs(parts.query).keys()
    if secret and "${oc.env:" not in (named or ""):
        raise InputError(
            "hydra.sweeper.storage has a password, which files of the sweep would show: put the URL into a variable, "
            "and set hydra.sweeper.storage='${oc.env:VARIABLE}'."
        )


def trial_of(folder: Path) -> ReportedTrial | None:
    """The trial with a pruner that a run's folder is of; None for any other run, which never imports Optuna."""
    path = folder / TRIAL
    if not path.is_file():
        return None
    trial = json.loads(path.read_bytes())
    try:
        trial["storage"] = str(OmegaConf.create({"storage": trial["storage"]}).storage)
    except OmegaConfBaseException:
        log.warning("The study %s of this run is unknown here: it will not be pruned.", trial["storage"])
        return None
    if "://" not in trial["storage"] and not Path(trial["storage"]).is_file():
        log.warning("The study %s of this run is missing: it will not be pruned.", trial["storage"])
        return None
    return ReportedTrial(**trial)


class ReportedTrial:
    """A trial that this process reports to a study.

    The step of a report is the epoch; where an epoch is validated several times, its first validation counts.

    Args:
        storage: of the study, see `open_storage`.
        study_name: in the storage.
        number: of the trial.
        metric: reported.
        pruner: with a `_target_` such as optuna.pruners.MedianPruner.

    Attributes:
        pruned: whether the pruner gave the trial up.
    """

    def __init__(self, storage: str, study_name: str, number: int, metric: str, pruner: dict[str, Any]) -> None:
        self.location, self.study_name, self.number = storage, study_name, number
        self.metric, self.configured = metric, pruner
        self.pruned = False
        self._study: Any = None

    def stop_if_hopeless(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Report a validation of Lightning's trainer; stop all ranks behind it if the pruner says so."""
        if trainer.sanity_checking:
            return
        hopeless = False
        if trainer.is_global_zero:
            hopeless = self.report(float(trainer.callback_metrics[self.metric]), trainer.current_epoch)
        if trainer.strategy.broadcast(hopeless):
            self.pruned = trainer.should_stop = True

    def report(self, value: float, epoch: int) -> bool:
        """Report the metric of an epoch; return whether the pruner gives the trial up."""
        import optuna
        from hydra.utils import instantiate
        from optuna.trial import TrialState

        if self._study is None:
            storage = open_storage(self.location)
            pruner = instantiate(self.configured)
            self._study = optuna.load_study(study_name=self.study_name, storage=storage, pruner=pruner)
            self._storage = storage
            study_id = storage.get_study_id_from_name(self.study_name)
            self._trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, self.number)
        trial = self._storage.get_trial(self._trial_id)
        if "pruned" in trial.user_attrs:  # but stopped before it could end
            return True
        if trial.state != TrialState.RUNNING or epoch in trial.intermediate_values:  # repeated, or resumed
            return False
        self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
        hopeless = bool(self._study.pruner.prune(self._study, self._storage.get_trial(self._trial_id)))
        if hopeless:
            self._storage.set_trial_user_attr(self._trial_id, "pruned", epoch)
        return hopeless
