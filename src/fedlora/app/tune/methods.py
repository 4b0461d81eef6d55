# SPDX-License-Identifier: Apache-2.0
"""Which methods may race on somebody's config, by their facts, and by which score they are ranked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fedlora.app.build.method import make_method, make_pipeline
from fedlora.app.config.paths import class_name, short_class_name
from fedlora.app.config.schema import Config, MethodSection
from fedlora.core.adapter import BOTH
from fedlora.errors import ConfigError, UserError
from fedlora.methods import BUILT_IN
from fedlora.methods.base import Method

Judge = Literal["global", "personal"]
"""global: candidates have one model for all; personal: a client's model may have parts of its own."""

_FIRST = ("fedit", "lora-a2", "flora", "ffa", "flexlora", "fedex", "rolora", "fedsvd")
"""The built-in methods that are raced first: where time is short the others are left out."""
_FEDIT_AT_ONE_RANK = ("replicate", "zeropad")
"""With one rank for all and their fields at the defaults these compute what fedit does."""


def usual_judge(config: Config) -> Judge:
    """How the config's own method is judged: by its one model, where it has one."""
    return "global" if _has_global_model(config, _method(config, config.method.name)) else "personal"


def with_method(config: Config, name: str) -> Config:
    """The config with another method; its own one keeps its fields."""
    options = config.method.options if name == config.method.name else {}
    return replace(config, method=MethodSection(name, options))


def enter(config: Config, named: Sequence[str] | None, judge: Judge) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods that race, the config's own first, and those that do not, each with the reason.

    Args:
        config: the user's.
        named: what the user wants; None: every built-in method that fits.
        judge: by which score they are ranked.

    Raises:
        UserError: a method that was named does not fit, or none does.
    """
    if judge == "global" and config.adapter.head == "private":
        raise ConfigError(
            "The race is to be judged by global models, but adapter.head is 'private', so that every client has a "
            "model of its own: judge it by personal models, or set adapter.head to 'shared' or 'frozen'."
        )
    if named is not None:
        names = tuple(dict.fromkeys(class_name(name, Path.cwd()) for name in named))
        for name in names:
            why = _unfit(config, name, judge)
            if why is not None:
                raise ConfigError(f"The method {short_class_name(name)} cannot race: {why}")
        return names, {}
    order = list(dict.fromkeys([config.method.name, *_FIRST, *BUILT_IN]))
    reasons = {name: _unfit(config, name, judge) or _needless(config, name) for name in order}
    names = tuple(name for name in order if reasons[name] is None)
    if not names:
        raise ConfigError(f"No method fits the config: {next(filter(None, reasons.values()))}")
    return names, {name: why for name, why in reasons.items() if why is not None}


def trains_both_sides(config: Config, name: str) -> bool:
    """Whether a method trains A and B, so that the ratio of their rates says something."""
    method = _method(config, name)
    sides = method.trains(1) | method.trains(2)  # some train one in odd rounds and the other in even ones
    return sides == BOTH and config.adapter.kind == "lora" and "lora" in method.facts.kinds


def usual_ratio(config: Config, name: str) -> float:
    """B's rate divided by A's where no candidate says it."""
    return config.train.lr_b_ratio or _method(config, name).facts.lr_b_ratio


def _method(config: Config, name: str) -> Method:
    section = with_method(config, name).method
    return make_method(section.name, section.options)


def _has_global_model(config: Config, method: Method) -> bool:
    return not method.facts.private_sides and config.adapter.head != "private"


def _unfit(config: Config, name: str, judge: Judge) -> str | None:
    """Why a method cannot race, as a sentence."""
    try:
        facts = make_pipeline(with_method(config, name)).method.facts
    except UserError as error:
        return str(error)
    if facts.centralized or not facts.trains:
        return "it is a bound, and nothing that a federation could run."
    if facts.kinds != {"dense"} and config.adapter.kind not in facts.kinds:
        return f"adapter.kind is {config.adapter.kind!r}, and it takes {', '.join(sorted(facts.kinds))}."
    if judge == "global" and facts.private_sides:
        return "it has no global model, by which this race is judged; judge by personal models to let it race."
    return None


def _needless(config: Config, name: str) -> str | None:
    """Why a method that nobody named is not worth its time, as a sentence."""
    if name == config.method.name:
        return None
    facts = _method(config, name).facts
    if facts.kinds == {"dense"} and config.adapter.kind != "dense":
        return "it trains every parameter and no adapter."
    if config.clients.ranks is not None and not facts.mixed_ranks:
        return "it takes one rank for all, and clients.ranks has several."
    if config.clients.ranks is None and name in _FEDIT_AT_ONE_RANK and config.method.name not in _FEDIT_AT_ONE_RANK:
        return "with one rank for all it is fedit."
    return None
