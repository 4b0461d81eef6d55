# SPDX-License-Identifier: Apache-2.0
"""The keys of a study file besides the sections of a config: [study], [tuning], [axes] and [[variant]]."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fedlora.core.settings import AboveZero, Positive, Range
from fedlora.errors import ConfigError

Draw = Annotated[int, Range(at_least=0)]
"""A value of split.seed."""


@dataclass(frozen=True)
class StudySettings:
    """What is asked, and how often it is looked at."""

    name: str
    """What the study is called; its results go to OUT/NAME-SIZE."""
    reference: str
    """The variant that all others are compared with."""
    description: str = ""
    """What the study asks, in a sentence or two."""
    draws: Annotated[list[Draw], Range(entries=1)] | Positive = 10
    """The partition draws that are reported: values of split.seed, or how many of them from first_draw on."""
    first_draw: Draw = 0
    """The first draw, where draws is a number."""
    seed: Draw = 0
    """The training seed (run.seed) of every cell."""
    extra_seeds: list[Draw] = field(default_factory=list)
    """Further training seeds, for the first `repeated` draws: they tell which part of the variance is the training's,
    and stand in no comparison."""
    repeated: Draw = 0
    """How many draws, from the first one on, are also run with the extra seeds."""
    targets: list[float] = field(default_factory=list)
    """Values of the headline metric; told is what it costs to reach each."""
    budgets: list[Positive] = field(default_factory=list)
    """Bytes up and down together; told is the score within each. The budget of the method that sends least is always
    among them."""

    def __post_init__(self) -> None:
        if isinstance(self.draws, list) and len(set(self.draws)) != len(self.draws):
            raise ConfigError(f"study.draws is {self.draws}, which names a draw twice: name each once.")
        if bool(self.extra_seeds) != bool(self.repeated):
            raise ConfigError(
                f"study.extra_seeds is {self.extra_seeds} and study.repeated is {self.repeated}: give both, the seeds "
                f"and how many draws are run with them, or neither."
            )
        if self.repeated > len(self.reported_draws):
            raise ConfigError(
                f"study.repeated is {self.repeated}, but there are only {len(self.reported_draws)} draws: lower it."
            )
        if len({self.seed, *self.extra_seeds}) != 1 + len(self.extra_seeds):
            raise ConfigError(
                f"study.extra_seeds is {self.extra_seeds}, in which a seed stands twice or is study.seed "
                f"({self.seed}): name other seeds."
            )

    @property
    def reported_draws(self) -> tuple[int, ...]:
        """The draws, one by one."""
        if isinstance(self.draws, list):
            return tuple(self.draws)
        return tuple(range(self.first_draw, self.first_draw + self.draws))


@dataclass(frozen=True)
class TuningSettings:
    """The learning rates that every variant chooses from, on the validation parts of draws that are not reported."""

    draws: Annotated[list[Draw], Range(entries=1)]
    """Values of split.seed, none of them a reported draw."""
    lr: Annotated[list[AboveZero], Range(entries=1)]
    """The learning rates to try (train.lr)."""
    lr_b_ratio: list[AboveZero] = field(default_factory=list)
    """The ratios of B's rate to try with each (train.lr_b_ratio); by default the config's or the method's alone."""
    rounds: Positive | None = None
    """Rounds of a tuning cell; by default half of run.rounds."""
    shared_over: list[str] = field(default_factory=list)
    """Axes that do not choose for themselves: one rate is chosen at the first value and used at all."""


@dataclass(frozen=True)
class AxesSection:
    """What is varied for all variants alike: a key of the config with its values, or named points of several keys."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """`"section.key" = [values]`, or `name = {point = {"section.key" = value, ...}, ...}`."""


@dataclass(frozen=True)
class VariantSection:
    """One of the things compared: a method with its options, and whatever else of the config it needs."""

    name: str
    """What tables call it."""
    bound: bool = False
    """It is told beside the others, such as central training, and stands in no comparison."""
    seed_offset: Draw = 0
    """Added to the training seeds: for a variant that is the same method again, as a control."""
    at: list[str] | None = None
    """Points of axes at which it is run, such as ["mixed ranks"] or ["adapter.rank=4"]; by default all."""
    rate: AboveZero | None = None
    """A learning rate that is given and not chosen, such as a paper's one rate for all methods."""
    lr: list[AboveZero] | None = None
    """Its learning rates to choose from, in place of tuning.lr."""
    lr_b_ratio: list[AboveZero] | None = None
    """Its ratios to choose from, in place of tuning.lr_b_ratio."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the config."""


@dataclass(frozen=True)
class StudySections:
    """All of them."""

    study: StudySettings
    variant: Annotated[list[VariantSection], Range(entries=1)]
    tuning: TuningSettings | None = None
    axes: AxesSection = field(default_factory=AxesSection)
