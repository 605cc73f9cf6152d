from __future__ import annotations

import itertools

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from siamese_verify.errors import InputError
from siamese_verify.sweeps.search_space import parse_search_space

optuna.logging.set_verbosity(optuna.logging.WARNING)

PARAMS = {"loss": "choice(triplet, contrastive, nt_xent)", "optimizer.lr": "tag(log, interval(1e-4, 1e-2))"}
CONDITIONAL = {
    "loss=triplet": {"loss.margin": "interval(0.1, 0.6)", "miner": "choice(none, semi_hard)"},
    "miner=semi_hard": {"sampler": "identity"},
    "loss=contrastive": {"loss.margin": "interval(0.5, 1.5)"},
    "loss=nt_xent": {"loss.temperature": "tag(log, interval(0.03, 0.5))"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.1, 0.6)", FloatDistribution(0.1, 0.6)),
        ("interval(1, 2)", FloatDistribution(1.0, 2.0)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1, 8))", IntDistribution(1, 8)),
        ("tag(int, interval(1, 8))", IntDistribution(1, 8)),
        ("tag(int, log, interval(1, 64))", IntDistribution(1, 64, log=True)),
        ("range(2, 9, 2)", IntDistribution(2, 8, step=2)),
        ("range(0.1, 0.5, 0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("choice(a, 'b c', 3)", CategoricalDistribution(["a", r"b\ c", "3"])),
        ("a,b", CategoricalDistribution(["a", "b"])),
    ],
)
def test_values_in_hydra_syntax_are_these_distributions(text: str, expected: object) -> None:
    from_config = parse_search_space({"key": text}, {})
    from_command_line = parse_search_space({}, {}, [f"key={text}"])
    assert from_config.parameters[0].distribution == expected
    assert from_command_line.parameters[0].distribution == expected


def test_the_command_line_counts_where_both_name_a_setting() -> None:
    space = parse_search_space(
        PARAMS, CONDITIONAL, ["loss=triplet", "loss.margin=0.3", "optimizer.lr=interval(0.1,0.2)"]
    )
    trial = optuna.create_study().ask()
    values = dict(text.split("=") for text in space.overrides(space.draw(trial)))
    assert values["loss"] == "triplet"
    assert values["loss.margin"] == "0.3"
    assert 0.1 <= float(values["optimizer.lr"]) <= 0.2
    assert values["miner"] in ("none", "semi_hard")


def test_conditional_parameters_are_drawn_in_their_branch_and_in_no_other() -> None:
    space = parse_search_space(PARAMS, CONDITIONAL, ["trainer.max_epochs=3"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    branches = set()
    for _ in range(150):
        drawn = dict(text.split("=") for text in space.overrides(space.draw(study.ask())))
        assert drawn.pop("trainer.max_epochs") == "3"
        assert 1e-4 <= float(drawn.pop("optimizer.lr")) <= 1e-2
        loss = drawn.pop("loss")
        branches.add((loss, drawn.get("miner")))
        if loss == "triplet":
            assert 0.1 <= float(drawn.pop("loss.margin")) <= 0.6
            if drawn.pop("miner") == "semi_hard":
                assert drawn.pop("sampler") == "identity"
        elif loss == "contrastive":
            assert 0.5 <= float(drawn.pop("loss.margin")) <= 1.5
        else:
            assert 0.03 <= float(drawn.pop("loss.temperature")) <= 0.5
        assert not drawn
    assert branches == {("triplet", "none"), ("triplet", "semi_hard"), ("contrastive", None), ("nt_xent", None)}
    margins = {name for trial in study.trials for name in trial.params if name.startswith("loss.margin")}
    assert len(margins) == 2  # one parameter for each loss: their margins do not compare


def test_a_condition_may_name_a_group_that_is_not_searched() -> None:
    conditional = {
        "encoder=small": {"encoder.width": "choice(8, 16)"},
        "encoder=tiny": {"encoder.width": "choice(1, 2)"},
    }
    space = parse_search_space({"seed": "range(2)"}, conditional, choices={"encoder": "small"})
    assert [parameter.key for parameter in space.parameters] == ["seed", "encoder.width"]


def test_a_study_knows_the_values_that_run() -> None:
    space = parse_search_space({"lr": "tag(log, interval(1.234567e-4, 1e-2))", "margin": "range(0.1, 0.5, 0.1)"}, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        texts = space.draw(study.ask())
        assert space.values(texts) == {name: float(text) for name, text in texts.items()}
        assert 1.234567e-4 <= float(texts["lr"]) <= 1e-2
        assert texts["margin"] in ("0.1", "0.2", "0.3", "0.4")


def test_a_grid_has_each_combination_once() -> None:
    conditional = {
        "loss=a,b": {"margin": "range(0.25, 1, 0.25)"},
        "loss=c": {"temperature": "choice(1, 2)"},
    }
    space = parse_search_space({"loss": "choice(a, b, c, d)", "seed": "range(2)"}, conditional)
    expected = [
        *itertools.product("ab", ["0", "1"], ["0.25", "0.5", "0.75"]),
        *itertools.product("c", ["0", "1"], ["1", "2"]),
        *itertools.product("d", ["0", "1"]),
    ]
    assert sorted(tuple(row.values()) for row in space.grid()) == sorted(expected)


def test_a_grid_refuses_an_interval() -> None:
    with pytest.raises(InputError, match=r"margin cannot be listed: write choice"):
        list(parse_search_space({"margin": "interval(0, 1)"}, {}).grid())


@pytest.mark.parametrize(
    ("params", "conditional", "message"),
    [
        ({"a": "choice(1, 2)"}, {"b=1": {"c": "choice(1, 2)"}}, "b of the condition b=1 is not searched"),
        ({"a": "choice(x, y)"}, {"a=z": {"c": "choice(1, 2)"}}, "a is searched among x, y"),
        ({"a": "choice(x, y)", "c": "choice(1)"}, {"a=x": {"c": "choice(1, 2)"}}, "c is searched twice where a=x"),
        (
            {"a": "choice(x, y)"},
            {"a=x,y": {"c": "choice(1, 2)"}, "a=y": {"c": "choice(3, 4)"}},
            "c is searched twice where a=y",
        ),
        ({"a": "tag(log, interval(0, 1))"}, {}, r"a=tag\(log, interval\(0, 1\)\) cannot be searched"),
        ({"a": "range(3, 3)"}, {}, "the range is empty"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(params: dict, conditional: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        parse_search_space(params, conditional)
