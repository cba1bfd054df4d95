"""A run: its config, and the files of its folder.

config.toml           everything that made it, enough to make it again
metrics.jsonl         one JSON object a line, as logged
events.out.tfevents*  the same for TensorBoard
last.safetensors      the newest checkpoint, to resume from
best.safetensors      the checkpoint of the best evaluation during training
evaluation.json       what `rmt-rl evaluate` found
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tomli_w
import tyro
from pydantic import Field, model_validator

from rmt_rl.agent import Learning
from rmt_rl.backprop import Gradient
from rmt_rl.config import APART, SEEDS, Frozen, validated
from rmt_rl.data.sampler import SamplerConfig
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.flags import with_options
from rmt_rl.registry import load_agent, load_task

CONFIG = "config.toml"


class DataConfig(SamplerConfig):
    """Where training data come from and how batches are drawn."""

    dataset: tuple[str, ...] = Field((), description="Minari data sets to train on; none: the env's expert collects")
    collect_episodes: int | None = Field(
        None, ge=1, description="episodes that the expert collects where no data set is named (unset: mostly 4000)"
    )
    collect_seed: int = Field(0, ge=0, lt=SEEDS, description=f"seed of that collection{APART}")
    cache_mb: int = Field(1024, ge=1, description="episodes kept in memory, MB")


class TrainingConfig(Frozen):
    """How the weights are learnt."""

    updates: int = Field(500, ge=1, description="optimiser steps")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    warmup: int = Field(20, ge=0, description="updates of linear warm-up")
    decay_from: float = Field(0.5, ge=0, le=1, description="share of the updates after which cosine decay begins")
    final_rate: float = Field(0.05, ge=0, le=1, description="learning rate at the end, as a share of the peak")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    gradient: Gradient = Field("full", description="backpropagation through segments")
    depth: int = Field(1, ge=1, description="segments that a truncated gradient reaches")
    curriculum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="accuracy (where actions are decisive, if the env tells) at which updates read one segment more, "
        "from 1 to `segments`; streams begin where the last length is learnt; 0: all from the start",
    )
    ageing: int = Field(0, ge=0, description="memory ageing: at most so many filler segments after the first; 0: none")
    ageing_updates: int = Field(
        0,
        ge=0,
        description="memory ageing: for how many of the updates that age memories, on average, a batch is kept beside "
        "the new ones and its memories are aged further; 0: none is kept",
    )
    hindsight: float = Field(
        0.0, ge=0, description="weight of the auxiliary loss on the env's hindsight classes, where it declares them"
    )
    ageing_from: int = Field(150, ge=0, description="update from which on memories are aged")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="number format")
    accelerator: str = Field("auto", description="auto, cpu, cuda, mps: see lightning-fabric")
    devices: int = Field(1, ge=1, description="devices for data parallel training")
    log_every: int = Field(10, ge=1, description="updates between two lines of metrics")
    save_every: int = Field(100, ge=1, description="updates between two checkpoints")


class EvaluationConfig(Frozen):
    """Evaluation during training, in the training task, on seeds of its own."""

    eval_every: int = Field(100, ge=1, description="updates between two evaluations")
    eval_episodes: int = Field(50, ge=0, description="episodes of each; 0: none")
    eval_seed: int = Field(1_000_000, ge=0, lt=SEEDS, description=f"seed of these episodes{APART}")


class OnlineConfig(Frozen):
    """How an agent learns by acting; what belongs to its algorithm stands in `agent_options`, by its own names."""

    total_timesteps: int = Field(
        100_000, ge=1, description="steps of all environments together, rounded up to whole rounds"
    )
    n_envs: int = Field(8, ge=1, description="environments played at once")
    device: str = Field("cpu", description="where the networks are, e.g. cpu or cuda")
    save_every: int = Field(10_000, ge=1, description="steps between two checkpoints, rounded up to whole rounds")


class OnlineEvaluationConfig(EvaluationConfig):
    """The same, by environment steps."""

    eval_every: int = Field(10_000, ge=1, description="steps between two evaluations, rounded up to whole rounds")


class RunConfig(Frozen):
    """What every run has. `env_options` and `agent_options` have the classes that the named env and agent define."""

    unit: ClassVar[str]  # what `length` counts
    env: Annotated[str, tyro.conf.Suppress] = Field(description="environment, see rmt-rl list")
    agent: Annotated[str, tyro.conf.Suppress] = Field(description="agent, see rmt-rl list")
    seed: int = Field(0, ge=0, lt=SEEDS, description="seed of all that is random")
    env_options: Any = None
    agent_options: Any = None
    evaluation: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = EvaluationConfig()

    @property
    def length(self) -> int:
        """Where the run ends: updates, or environment steps of an agent that learns by acting."""
        raise NotImplementedError


class OnlineRun(RunConfig):
    """A run that learns by acting (`rmt_rl.training.online`)."""

    unit: ClassVar[str] = "environment step"
    data: ClassVar[None] = None  # there are no data sets
    online: Annotated[OnlineConfig, tyro.conf.arg(name="")] = OnlineConfig()
    evaluation: Annotated[OnlineEvaluationConfig, tyro.conf.arg(name="")] = OnlineEvaluationConfig()

    @property
    def length(self) -> int:
        return self.online.total_timesteps


class OfflineRun(RunConfig):
    """A run that learns from data sets (`rmt_rl.training.offline`)."""

    unit: ClassVar[str] = "update"
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = DataConfig()
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = TrainingConfig()

    @property
    def length(self) -> int:
        return self.training.updates

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        lanes, devices = self.data.batch_size, self.training.devices
        if lanes % devices:
            raise ValueError(f"devices={devices} can't share batch_size={lanes}: choose a multiple of {devices}")
        if self.training.depth != 1 and self.training.gradient != "truncated":
            raise ValueError(
                f"depth={self.training.depth} is that of a truncated gradient, but gradient={self.training.gradient!r} "
                "crosses all segments: choose gradient='truncated', or leave depth out"
            )
        if self.training.ageing and self.data.segments < 2:
            raise ValueError(f"ageing={self.training.ageing} comes between segments: choose segments=2 or more")
        if self.training.ageing_updates and not self.training.ageing:
            raise ValueError(
                f"ageing_updates={self.training.ageing_updates} keeps memories that age: choose ageing=1 or more too"
            )
        return self


_KINDS: dict[Learning, type[RunConfig]] = {"offline": OfflineRun, "online": OnlineRun}


def run_kind(agent: str) -> type[RunConfig]:
    """Return the kind of `RunConfig` that this agent needs, without options of environment and agent.

    Raises:
        UsageError: no agent has this name, or it needs a package that isn't installed.
    """
    return _KINDS[load_agent(agent).learning]


@cache  # one class, so that equal configs are equal
def run_config_class(env: str, agent: str) -> type[RunConfig]:
    """The kind of `RunConfig` that this agent needs, the options' classes of environment and agent filled in.

    Raises:
        UsageError: no env or agent has this name, or it needs a package that isn't installed.
    """
    return with_options(run_kind(agent), env=load_task(env).Config, agent=load_agent(agent).Config)


def make_config(values: Mapping[str, Any], source: str = "the config") -> Any:
    """Check the values of a run's config; returns an `OfflineRun` or an `OnlineRun`, as the agent learns.

    Raises:
        UsageError: a field is missing, unknown or out of range.
    """
    for name in ("env", "agent"):
        if not isinstance(values.get(name), str):
            raise UsageError(f'{source} names no {name}: add {name} = "..." (rmt-rl list shows them)')
    return validated(run_config_class(values["env"], values["agent"]), values)


def read_config(path: Path) -> Any:
    """Read a `config.toml`, or that of a run's folder; returns what `make_config` does.

    Raises:
        UsageError: there is none, or it isn't valid.
    """
    path = path / CONFIG if path.is_dir() else path
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"config {path} can't be read ({error.strerror}); name a config.toml or a run's folder"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} isn't valid TOML: {error}") from None
    return make_config(values, str(path))


def check_new(run: Path) -> None:
    """Refuse to train in a folder that holds a run.

    Raises:
        UsageError: it does.
    """
    if (run / CONFIG).exists():
        raise UsageError(f"out={run} holds a run already; resume it (--resume {run}) or choose another folder")


def offline_origin(config: OfflineRun, ids: Sequence[str]) -> dict[str, Any]:
    """What must be the same when a run is resumed, as JSON."""
    return {
        "seed": config.seed,
        "agent": config.agent,
        "env": config.env,
        "env_options": config.env_options.model_dump(mode="json"),
        "dataset": list(ids),
    }


def check_origin(run: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Refuse to resume a run with another seed, agent, environment or data than it was started with.

    Raises:
        UsageError: one of them differs, or the checkpoint tells none of them.
    """
    if before is None:
        raise UsageError(f"{run} can't be resumed: its last checkpoint holds weights alone, as a best one does")
    for name, value in before.items():
        if now[name] != value:
            raise UsageError(
                f"{run} was started with {name}={value}, but would go on with {now[name]}; undo what was changed in "
                f"{run / CONFIG} or in the environment, or start a new run"
            )


def write_config(config: RunConfig, run: Path) -> None:
    """Write `config.toml` into a run's folder; options that are unset are left out, as TOML has no null."""
    values = config.model_dump(mode="json", exclude_none=True)
    write_atomically(run / CONFIG, tomli_w.dumps(values).encode())
