"""The options of a search: ranges of options, and the metric that is optimised."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from rmt_rl.config import SEED_LIMIT, Frozen
from rmt_rl.sweeps.naming import dotted_names


class Range(Frozen):
    """Values of one option: from `low` to `high`, or one of `choices`. Whole bounds give whole numbers."""

    low: int | float | None = Field(None, description="the least value")
    high: int | float | None = Field(None, description="the largest value")
    log: bool = Field(False, description="draw the logarithm evenly")
    choices: tuple[JsonValue, ...] = Field((), description="the values, if they are no range")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either choices, or low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"low={self.low} and high={self.high} are no range; with log, low must be above 0")
        return self


class SearchConfig(Frozen):
    """A search for good options. Every trial is a run for each environment, agent and seed of the sweep."""

    trials: int = Field(20, ge=1, description="number of trials")
    options: Annotated[dict[str, Range], BeforeValidator(dotted_names)] = Field(
        min_length=1,
        description="the range of each option, e.g. learning-rate = { low = 1e-4, high = 1e-2, log = true }",
    )
    metric: str = Field(
        "eval/mean_return",
        description="the last value of a metric of metrics.jsonl; or success_rate or mean_return, the mean over "
        "the sweep's evaluations",
    )
    direction: Literal["maximize", "minimize"] = Field("maximize", description="maximize or minimize")
    sampler: Literal["tpe", "random"] = Field("tpe", description="Optuna's sampler: tpe or random")
    pruner: Literal["none", "median", "halving"] = Field(
        "none", description="Optuna's pruner, which stops bad trials: none, median or halving"
    )
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description="seed of the sampler")
