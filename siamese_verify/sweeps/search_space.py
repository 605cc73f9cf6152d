"""Search space of a study: distributions written in Hydra's syntax, some of them for certain choices only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from siamese_verify.errors import InputError


@dataclass(frozen=True)
class Parameter:
    """A setting to search.

    Attributes:
        key: of its override, such as `loss.margin`.
        distribution: of its values; choices are texts as they stand in overrides.
        condition: a key and those of its values for which the setting is searched; None = always.
    """

    key: str
    distribution: BaseDistribution
    condition: tuple[str, tuple[str, ...]] | None = None

    @property
    def name(self) -> str:
        """Name in the study: a setting under a condition is a parameter of its own, such as a margin of each loss."""
        return f"{self.key} ({self.condition[0]}={','.join(self.condition[1])})" if self.condition else self.key

    def applies(self, values: Mapping[str, str]) -> bool:
        """Whether the setting is searched where other settings have these values."""
        return self.condition is None or values.get(self.condition[0]) in self.condition[1]

    def suggest(self, trial: Trial) -> float | int | str:
        """Draw a value for a trial."""
        match self.distribution:
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.name, low, high, step=step, log=log)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.name, low, high, step=step, log=log)
            case CategoricalDistribution(choices=choices):
                return str(trial.suggest_categorical(self.name, [str(choice) for choice in choices]))
        raise AssertionError(self.distribution)

    def texts(self) -> list[str]:
        """All values as texts of overrides.

        Raises:
            InputError: they cannot be listed.
        """
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return [str(choice) for choice in choices]
            case IntDistribution(low=low, high=high, step=step, log=False):
                return [self.text(value) for value in range(low, high + 1, step)]
            case FloatDistribution(low=low, high=high, step=float(step)):
                return [self.text(low + number * step) for number in range(round((high - low) / step) + 1)]
        raise InputError(
            f"The values of {self.name} cannot be listed: write choice(...) or range(...) instead of an interval."
        )

    def value(self, text: str) -> float | int | str:
        """The value that a text of `texts` stands for."""
        match self.distribution:
            case FloatDistribution():
                return float(text)
            case IntDistribution():
                return int(text)
        return text

    def text(self, value: float | int | str) -> str:
        """A value as the text of an override: a number of an interval with five digits."""
        match self.distribution:
            case FloatDistribution(step=None, low=low, high=high):
                short = f"{value:.5g}"
                return short if low <= float(short) <= high else str(value)
            case FloatDistribution():
                return f"{value:.12g}"  # 0.1 + 0.2 is 0.3
        return str(value)


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches.

    Attributes:
        parameters: settings to search, those of a condition behind the setting that it names.
        fixed: overrides of every trial.
        chosen: values that conditions are compared with where a setting is not searched.
    """

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]
    chosen: Mapping[str, str]

    def draw(self, trial: Trial) -> dict[str, str]:
        """Draw a combination for a trial: texts by the names of the parameters that apply."""
        values, drawn = dict(self.chosen), {}
        for parameter in self.parameters:
            if parameter.applies(values):
                values[parameter.key] = drawn[parameter.name] = parameter.text(parameter.suggest(trial))
        return drawn

    def overrides(self, texts: Mapping[str, str]) -> list[str]:
        """Overrides of a trial with a combination of `draw` or `grid`."""
        return [*self.fixed, *(f"{one.key}={texts[one.name]}" for one in self.parameters if one.name in texts)]

    def values(self, texts: Mapping[str, str]) -> dict[str, float | int | str]:
        """Values of a combination by the names of parameters."""
        return {one.name: one.value(texts[one.name]) for one in self.parameters if one.name in texts}

    def choices(self, texts: Mapping[str, str]) -> tuple[str, ...]:
        """The choices of a combination, without its numbers."""
        categorical = (one for one in self.parameters if isinstance(one.distribution, CategoricalDistribution))
        return tuple(f"{one.name}={texts[one.name]}" for one in categorical if one.name in texts)

    def grid(self) -> Iterator[dict[str, str]]:
        """List all combinations: texts by the names of the parameters that apply.

        Raises:
            InputError: the values of a parameter cannot be listed.
        """
        for parameter in self.parameters:
            parameter.texts()

        def extend(rest: Sequence[Parameter], values: dict[str, str]) -> Iterator[dict[str, str]]:
            if not rest:
                yield {}
            elif rest[0].applies(values):
                for text in rest[0].texts():
                    for others in extend(rest[1:], {**values, rest[0].key: text}):
                        yield {rest[0].name: text, **others}
            else:
                yield from extend(rest[1:], values)

        return extend(self.parameters, dict(self.chosen))

    def describe(self) -> dict[str, str]:
        """Distributions by the names of their parameters, as texts: two studies of one space describe it alike."""
        return {parameter.name: str(parameter.distribution) for parameter in self.parameters}


def parse_search_space(
    params: Mapping[str, Any],
    conditional: Mapping[str, Mapping[str, Any]],
    arguments: Sequence[str] = (),
    choices: Mapping[str, str | None] = {},
    parser: OverridesParser | None = None,
) -> SearchSpace:
    """Search space of a configuration and a command line, which counts where both name a setting.

    Args:
        params: values in Hydra's syntax by setting, such as `tag(log, interval(1e-4, 1e-2))`; `tag(int, ...)` and
            `int(...)` give whole numbers.
        conditional: such by condition: `loss=triplet` or `loss=arc_face,cos_face`.
        arguments: overrides of the command line.
        choices: of the groups of the configuration, which conditions may name too.
        parser: Hydra's, with its configurations.

    Raises:
        InputError: a condition that cannot be met; a setting that is searched in two places; values that are no
            distribution.
    """
    parser = parser or OverridesParser.create()
    given = {one.get_key_element(): one for one in parser.parse_overrides(list(arguments))}
    base = {**_parsed(params, parser), **given}
    chosen = {key: str(choice) for key, choice in choices.items() if choice is not None}
    chosen |= {key: one.get_value_element_as_str() for key, one in base.items() if not one.is_sweep_override()}
    fixed = [_text(one) for one in base.values() if not one.is_sweep_override()]
    parameters = [Parameter(key, distribution(one)) for key, one in base.items() if one.is_sweep_override()]
    places: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for condition, group in conditional.items():
        key, _, after = condition.partition("=")
        values = tuple(value.strip() for value in after.split(","))
        searched = {text for one in parameters if one.key == key for text in one.texts()}
        possible = searched or {chosen.get(key, "")}
        if possible == {""}:
            raise InputError(
                f"{key} of the condition {condition} is not searched: name a setting of hydra.sweeper.params."
            )
        if searched and key not in given and not possible.issuperset(values):
            raise InputError(
                f"The condition {condition} cannot be met: {key} is searched among {', '.join(sorted(possible))}."
            )
        if possible.isdisjoint(values):
            continue  # another choice was given on the command line
        for name, one in _parsed(group, parser).items():
            if name in given:
                continue
            earlier = places.setdefault(name, [])
            if name in base or any(other != key or {*values} & {*others} for other, others in earlier):
                raise InputError(f"{name} is searched twice where {condition}: leave one of the two.")
            earlier.append((key, values))
            parameters.append(Parameter(name, distribution(one), (key, values)))
    return SearchSpace(tuple(parameters), tuple(fixed), chosen)


def distribution(override: Override) -> BaseDistribution:
    """Distribution of an override in Hydra's syntax; a plain value is the only one.

    Raises:
        InputError: it has none, such as that of a logarithm of zero.
    """
    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    try:
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            assert low is not None and high is not None
            if "int" in tags or (isinstance(low, int) and isinstance(high, int)):
                return IntDistribution(int(low), int(high), log="log" in tags)
            return FloatDistribution(low, high, log="log" in tags)
        if isinstance(value, RangeSweep):
            numbers = sorted(value.range())
            if not numbers:
                raise ValueError("the range is empty")
            if "log" not in tags and isinstance(value.step, int) and isinstance(numbers[0], int):
                return IntDistribution(int(numbers[0]), int(numbers[-1]), step=abs(value.step))
            if "log" not in tags:
                return FloatDistribution(numbers[0], numbers[-1], step=abs(value.step))
        texts = (
            override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
        )
        return CategoricalDistribution(list(dict.fromkeys(texts)))
    except ValueError as error:
        raise InputError(f"{override.input_line} cannot be searched ({error}): correct its values.") from None


def _parsed(settings: Mapping[str, Any], parser: OverridesParser) -> dict[str, Override]:
    """Overrides of a configuration by their keys."""
    texts = [f"{key}={'null' if value is None else value}" for key, value in settings.items()]
    return {one.get_key_element(): one for one in parser.parse_overrides(texts)}


def _text(override: Override) -> str:
    """An override that is not searched, as on the command line."""
    if override.is_delete():
        return override.input_line or override.get_key_element()
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"
