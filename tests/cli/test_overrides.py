"""A misspelt override ends in one sentence with the names that are most like it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from siamese_verify.cli import main as cli
from siamese_verify.cli.user_errors import report_user_errors


def refusal(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.filterwarnings("ignore", "'siamese_verify", RuntimeWarning)  # runpy, of modules imported before
        cli.main(command.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("siamese-verify: ") and err.count("\n") == 1
    return err.removeprefix("siamese-verify: ").rstrip("\n")


@pytest.mark.parametrize(
    ("command", "sentence"),
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
    ],
)
def test_a_misspelt_override_is_named_with_those_that_are_like_it(
    command: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert refusal(command, capsys).startswith(sentence)


def test_a_setting_that_was_added_and_is_none_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    from hydra.utils import instantiate

    @report_user_errors
    def make(cfg: object) -> None:
        instantiate(cfg.loss)  # type: ignore[attr-defined]

    loss = {"_target_": "siamese_verify.losses.ContrastiveLoss", "margin": 1.0, "margn": 2.0}
    with pytest.raises(SystemExit):
        make(OmegaConf.create({"loss": loss}))
    assert capsys.readouterr().err == "siamese-verify: There is no setting loss.margn: did you mean loss.margin?\n"
