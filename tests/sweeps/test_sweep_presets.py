from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from siamese_verify.cli.configuration import CONF
from siamese_verify.cli.training_checks import check_settings
from siamese_verify.errors import InputError
from siamese_verify.sweeps.search_space import parse_search_space
from tests.sweeps.written_runs import PROTOCOL, write_run

PRESETS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml") if path.stem != "default")
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "sweeps.md").read_text(encoding="utf-8")
COMPARING = (DOCS / "comparing_losses.md").read_text(encoding="utf-8")


def composed(*overrides: str) -> tuple[DictConfig, DictConfig]:
    """The configuration of a training, and Hydra's."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train", [*overrides, "hydra.runtime.output_dir=out", "hydra.job.num=0"], return_hydra_config=True
        )
    HydraConfig.instance().set_config(cfg)
    hydra = cfg.hydra
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, hydra


def grid(sweeper: DictConfig) -> Iterator[tuple[str, ...]]:
    """Overrides of each run of a grid."""
    if "conditional" in sweeper:
        space = parse_search_space(sweeper.params, sweeper.conditional)
        yield from (tuple(space.overrides(texts)) for texts in space.grid())
        return
    settings = sweeper.params.items()
    yield from product(*([f"{name!s}={value}" for value in str(values).split(",")] for name, values in settings))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_three_seeds_and_runs_that_can_work(name: str) -> None:
    cfg, hydra = composed(f"sweep={name}")
    assert (cfg.sweep.metric, cfg.sweep.mode, cfg.name) == ("val/eer", "min", name)
    assert re.findall(r"\d+", str(hydra.sweeper.params.seed)) == ["0", "1", "2"]
    assert cfg.baseline is None
    refused: list[tuple[str, ...]] = []
    everything = list(grid(hydra.sweeper))
    assert hydra.sweeper.get("n_trials") in (None, len(everything))
    runs = [overrides for overrides in everything if "seed=0" in overrides]
    for overrides in runs:
        try:
            check_settings(composed(f"sweep={name}", *overrides)[0])
        except InputError:
            refused.append(overrides)
    assert len(runs) - len(refused) >= 4
    assert not refused or cfg.sweep.skip_invalid
    ready = [run[:3] for run in runs if run not in refused and {"sampler=pairs", "sampler=triplets"} & {*run}]
    can = [("contrastive", "pairs"), ("contrastive", "triplets"), ("triplet", "triplets"), ("nt_xent", "triplets")]
    expected = [(f"loss={loss}", "miner=none", f"sampler={sampler}") for loss, sampler in can]
    assert ready == (expected if name == "loss_miner_sampler" else [])
    assert name != "loss_miner_sampler" or len(runs) - len(refused) == 22, "the 66 runs of three seeds"


def test_every_preset_is_on_the_page() -> None:
    assert set(re.findall(r"\bsweep=(\w+)", PAGE)) - {"NAME"} <= set(PRESETS)
    assert all(f"`{name}`" in PAGE for name in PRESETS)


@pytest.mark.parametrize("command", re.findall(r"^\$ siamese-verify train (.+)$", PAGE + COMPARING, re.MULTILINE))
def test_the_first_run_of_every_command_composes(command: str) -> None:
    arguments = [one for one in shlex.split(command, comments=True) if one != "-m"]
    if any(one.startswith("resume=") for one in arguments):
        return
    composed(*map(first_of, OverridesParser.create().parse_overrides(arguments)))


def first_of(override: Override) -> str:
    """An override with the first of its values."""
    if override.is_interval_sweep():
        return f"{override.get_key_element()}={cast('Any', override.value()).start}"
    if override.is_sweep_override():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def test_the_table_and_the_chart_of_losses_are_of_each_losss_best_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"one_shot": {"accuracy": 0.8}, "five_shot": {"accuracy": 0.9}}
    kinds = [("TripletLoss", 0.001, 0.2), ("TripletLoss", 0.003, 0.1), ("NTXentLoss", 0.003, 0.08)]
    for (kind, rate, eer), seed in product(kinds, (0, 1)):
        folder = tmp_path / f"{kind}-{rate}-{seed}"
        batches = {"sampler.identities_per_batch": 4, "sampler.samples_per_identity": 2}
        target = {"loss._target_": f"siamese_verify.losses.{kind}", "optimizer.lr": rate, "seed": seed}
        tested = {PROTOCOL: {"eer": eer + 0.02 * seed, "eer_interval": [eer, eer + 0.1], "auc": 0.9}, **few}
        write_run(folder, eer + 0.01 * seed, {**target, **batches}, test=tested)
        (folder / "metrics").mkdir()
        rows = [f"{step},{1 - step / 40},0.5,{eer}" for step in (9, 19)]
        table = "\n".join(["step,train/loss,train/fraction_nonzero,val/eer", *rows])
        (folder / "metrics" / "metrics.csv").write_text(table)
    picture = tmp_path / "chart.png"
    monkeypatch.setattr(sys, "argv", ["draw_convergence.py", str(tmp_path), str(picture)])
    script = runpy.run_path(str(DOCS / "draw_convergence.py"))
    script["main"]()
    _, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("| `NTXentLoss` | 0.003 | 8.50% ")
    assert second.startswith("| `TripletLoss` | 0.003 | 10.50% ")
    assert "| 11.00% " in second
    assert picture.stat().st_size > 5_000
    run = script["chosen_runs"](script["read_sweep"](tmp_path))["TripletLoss"][0]
    images, values = script["curve"](run, "train/loss")
    assert images.tolist() == [80, 160]  # 10 and 20 steps of 4 x 2
    assert values.tolist() == pytest.approx([1, 21 / 31])
