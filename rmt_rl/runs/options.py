"""Options of a run, the content of its `config.toml`, and their checks; see `rmt_rl.runs.folder` for the file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import tyro
from pydantic import Field, field_validator, model_validator

from rmt_rl.agent import AgentConfig
from rmt_rl.backprop import Gradient
from rmt_rl.config import SEED_LIMIT, SEED_SPACING, Frozen, Strings, validated
from rmt_rl.data.feed import FeedConfig
from rmt_rl.errors import UsageError, nearest
from rmt_rl.flags import with_options
from rmt_rl.registry import agent_class, learner_named, load_task, names
from rmt_rl.task import config_class

if TYPE_CHECKING:
    from rmt_rl.training.learner import AgentLearner

AUTOMATIC_AGEING = 12  # filler segments at most, where memories age unasked
AUTOMATIC_HIDING = 0.5  # of a batch's sequences, where actions are hidden unasked
AUTOMATIC_HINDSIGHT = 1.0  # weight of the loss on hindsight classes, where they are learnt unasked


class DataConfig(FeedConfig):
    """Options of training data: their source, and the rule by which batches are drawn from them."""

    dataset: Strings = Field(
        (), description="Minari data sets to train on (left out, or [] in a file: the env's expert collects)"
    )
    collect_episodes: int | None = Field(
        None,
        ge=1,
        description="episodes that the expert collects if no data set is named (unset: mostly 4000)",
    )
    collect_seed: int = Field(0, ge=0, lt=SEED_LIMIT, description=f"seed of that collection{SEED_SPACING}")
    best_episodes: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the episodes to train on, those of the highest returns, with all that tie with them "
        "(unset: 0.1 for filtered_bc, 1 for other agents)",
    )
    collect_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="highest level of noise in that collection, from which the expert shows how to recover; as "
        "--noise of rmt-rl collect",
    )
    strict: bool = Field(False, description="refuse data sets with empty or odd episodes; otherwise these are left out")
    cache_mb: int = Field(1024, ge=1, description="episodes kept in memory, MB")
    standardise: bool = Field(
        True,
        description="scale observations by the data's mean and deviation, and actions from their bounds to [-1, 1]",
    )


class LearningRateConfig(Frozen):
    """Options of the learning rate over a run; see `rmt_rl.training.optimization.learning_rate`."""

    updates: int = Field(500, ge=1, description="optimiser steps")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    warmup: int = Field(20, ge=0, description="updates of linear warm-up")
    decay_from: float = Field(0.5, ge=0, le=1, description="share of the updates after which cosine decay begins")
    final_rate: float = Field(0.05, ge=0, le=1, description="learning rate at the end, as a share of the peak")


class TrainingConfig(LearningRateConfig):
    """Options of learning from segments."""

    EARLIER: ClassVar[Mapping[str, Any]] = {"hide_actions": 0.0, "hindsight": 0.0}

    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    gradient: Gradient = Field("full", description="backpropagation through segments")
    depth: int = Field(1, ge=1, description="segments that a truncated gradient reaches")
    curriculum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="accuracy (of decisive actions, if the env declares them) at which updates read one segment more, "
        "from 1 to `segments`; streams begin once the last length is learnt; 0: all segments from the start",
    )
    ageing: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="memory ageing: most filler segments after a segment; 0: none; auto: "
        f"{AUTOMATIC_AGEING} if the env declares idle steps, the agent's memory can last over any number of segments, "
        "and the data have a filler segment; else 0",
    )
    ageing_at: Literal["first", "any"] = Field(
        "first",
        description="memory ageing: the segment after which fillers come; any: each update draws one, for tasks that "
        "show something new in later segments too",
    )
    ageing_updates: int = Field(
        0,
        ge=0,
        description="memory ageing: mean number of updates for which a batch is kept beside the new ones; each update "
        "ages its memories further; 0: no batch is kept",
    )
    hindsight: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="weight of the auxiliary loss on the env's hindsight classes; 0: none; auto: "
        f"{AUTOMATIC_HINDSIGHT:g} if the env declares them, and an agent of --init has them; else 0",
    )
    ageing_from: float = Field(0.5, ge=0, le=1, description="memory ageing: share of the updates after which it begins")
    hide_actions: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="share of a batch's sequences whose action tokens are hidden, so that the agent acts by what it "
        f"observes and doesn't just repeat itself; auto: {AUTOMATIC_HIDING} if actions are numbers (Box), else 0",
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(
        "32-true", description="number format; bf16-mixed is recommended on a GPU"
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "high",
        description="float32 matrix products on CUDA: high and medium use TF32, highest doesn't; no effect elsewhere",
    )
    compile: bool = Field(
        False,
        description="compile the agent's forward pass by torch.compile (needs a C++ compiler; on CUDA, Triton)",
    )
    accelerator: str = Field("auto", description="auto, cpu, cuda, mps: see lightning-fabric")
    devices: int = Field(1, ge=1, description="devices for data parallel training, on each node")
    num_nodes: int = Field(
        1, ge=1, description="nodes for data parallel training; torchrun or srun starts the processes of several"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="what several processes share: ddp, the batch; fsdp, also weights, gradients and optimiser state, "
        "for agents that are too wide for one device",
    )
    log_every: int = Field(10, ge=1, description="updates between two lines of metrics")
    save_every: int = Field(100, ge=1, description="updates between two checkpoints")

    @property
    def most_fillers(self) -> int:
        """The largest number of filler segments that `ageing` allows."""
        return AUTOMATIC_AGEING if self.ageing == "auto" else self.ageing

    @property
    def first_aged(self) -> int:
        """The first update whose memories may age."""
        return round(self.ageing_from * self.updates)


class EvaluationConfig(Frozen):
    """Evaluation during training, in the training task, on seeds of its own."""

    eval_every: int = Field(100, ge=1, description="updates between two evaluations")
    eval_episodes: int = Field(50, ge=0, description="episodes of each; 0: none")
    eval_seed: int = Field(1_000_000, ge=0, lt=SEED_LIMIT, description=f"seed of these episodes{SEED_SPACING}")


class OnlineConfig(Frozen):
    """Options of learning by acting. The algorithm's own options stand in `agent_options`, under its own names."""

    total_timesteps: int = Field(
        100_000, ge=1, description="steps of all environments together, rounded up to whole rounds"
    )
    n_envs: int = Field(8, ge=1, description="environments played at once")
    decay_from: float = Field(
        1.0, ge=0, le=1, description="share of the steps after which cosine decay of the learning rate begins"
    )
    final_rate: float = Field(0.05, ge=0, le=1, description="learning rate at the end, as a share of the first one")
    truncation: Literal["bootstrap", "end"] = Field(
        "bootstrap",
        description="return behind the last step of a truncated episode: bootstrap, the value of its last observation; "
        "end, 0, for tasks in which the time limit is part of the task",
    )
    device: str = Field("cpu", description="device of the networks, e.g. cpu or cuda")
    save_every: int = Field(10_000, ge=1, description="steps between two checkpoints, rounded up to whole rounds")


class OnlineEvaluationConfig(EvaluationConfig):
    """Evaluation during training that learns by acting; counted in environment steps."""

    eval_every: int = Field(10_000, ge=1, description="steps between two evaluations, rounded up to whole rounds")


class Schedule(NamedTuple):
    """Intervals between two logs, checkpoints and evaluations, in the run's unit: updates or environment steps."""

    log_every: int
    save_every: int
    evaluate_every: int = 1  # without effect if the run has no evaluation


class RunConfig(Frozen):
    """Options of every run. `env_options` and `agent_options` have the classes that the env and the agent define.

    Attributes:
        unit: the unit of the run's length.
    """

    unit: ClassVar[str]

    env: Annotated[str, tyro.conf.Suppress] = Field(description="environment, see rmt-rl list")
    agent: Annotated[str, tyro.conf.Suppress] = Field(description="agent, see rmt-rl list")
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description="seed of all that is random")
    logger: Strings = Field(
        ("tensorboard",),
        description="loggers besides metrics.jsonl, e.g. tensorboard wandb; none: metrics.jsonl alone",
    )
    learner: Annotated[str | None, tyro.conf.Suppress] = Field(None, description="learner (unset: the agent's own)")
    init: str | None = Field(
        None, description="run whose agent to begin with, weights and options: its folder, zoo:NAME or hf://owner/name"
    )
    init_sha256: Annotated[str | None, tyro.conf.Suppress] = Field(
        None, description="hash of that run's checkpoint, which training writes into the run's config"
    )
    env_options: Frozen
    agent_options: Frozen
    evaluation: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = EvaluationConfig()

    @field_validator("logger")
    @classmethod
    def _known(cls, loggers: tuple[str, ...]) -> tuple[str, ...]:
        known = names("loggers")
        for name in loggers:
            if name not in known and ":" not in name:  # `module:Name` is looked up when the run begins
                raise UsageError(f"unknown logger {name!r} (known: {', '.join(known)}){nearest(name, known)}")
        return loggers

    @property
    def data_options(self) -> DataConfig | None:
        """Options of the run's data; None if it learns by acting."""
        return None

    @property
    def devices(self) -> int:
        """Number of devices on each node, each with a process of its own."""
        return 1

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return 1

    @property
    def length(self) -> int:
        """Length of the run, in its unit."""
        raise NotImplementedError

    @property
    def schedule(self) -> Schedule:
        """Intervals between two logs, checkpoints and evaluations."""
        raise NotImplementedError


class OnlineRun(RunConfig):
    """Options of a run that learns by acting (`rmt_rl.training.online`)."""

    unit = "environment step"

    record: str | None = Field(
        None, description="Minari data set to make of what is played while learning, namespace/name"
    )

    online: Annotated[OnlineConfig, tyro.conf.arg(name="")] = OnlineConfig()
    evaluation: Annotated[OnlineEvaluationConfig, tyro.conf.arg(name="")] = OnlineEvaluationConfig()

    @property
    def length(self) -> int:
        return self.online.total_timesteps

    @property
    def schedule(self) -> Schedule:
        every_round = 1
        return Schedule(every_round, self.online.save_every, self.evaluation.eval_every)


class OfflineRun(RunConfig):
    """Options of a run that learns from data sets (`rmt_rl.training.segments`)."""

    unit = "update"

    agent_options: AgentConfig
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = DataConfig()
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = TrainingConfig()

    @property
    def data_options(self) -> DataConfig:
        return self.data

    @property
    def devices(self) -> int:
        return self.training.devices

    @property
    def num_nodes(self) -> int:
        return self.training.num_nodes

    @property
    def length(self) -> int:
        return self.training.updates

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.training.log_every, self.training.save_every, self.evaluation.eval_every)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        processes = self.devices * self.num_nodes
        batch_size = self.data.batch_size
        if batch_size % processes:
            nodes = f" on each of num_nodes={self.num_nodes}" if self.num_nodes > 1 else ""
            raise ValueError(
                f"devices={self.devices}{nodes} can't share batch_size={batch_size}: choose a multiple of {processes}"
            )
        if self.training.compile and self.training.strategy == "fsdp":
            raise ValueError(
                "compile=True isn't tested with strategy='fsdp': choose strategy='ddp', or leave compile out"
            )
        if self.training.depth != 1 and self.training.gradient != "truncated":
            raise ValueError(
                f"depth={self.training.depth} is for a truncated gradient, but gradient={self.training.gradient!r} "
                "crosses all segments: choose gradient='truncated', or leave depth out"
            )
        if self.training.ageing not in (0, "auto") and self.data.segments < 2:
            raise ValueError(f"ageing={self.training.ageing} comes between segments: choose segments=2 or more")
        if self.training.ageing_updates and not self.training.ageing:
            raise ValueError(
                f"ageing_updates={self.training.ageing_updates} keeps memories that age: choose ageing=1 or more too"
            )
        return self


def offline_run(config: RunConfig, run: Path) -> OfflineRun:
    """Return the config of a run that learns from segments of data sets.

    Raises:
        UsageError: the run learns by acting.
    """
    if isinstance(config, OfflineRun):
        return config
    raise UsageError(
        f"run {run} is of agent {config.agent!r}, which learns by acting and has no segments to inspect; choose a run "
        "that learnt from data"
    )


def learner_class(agent: str, learner: str | None = None) -> type[AgentLearner]:
    """Return the class of the learner with a name, or of the one that the agent's class names.

    Raises:
        UsageError: no agent or learner has this name, a package that it needs is not installed,
            or the agent's class names no learner.
    """
    if learner is not None:
        return learner_named(learner)
    named = getattr(agent_class(agent), "learner", None)
    try:
        own: type[AgentLearner] = resolve_name(named or "")
        _ = own.Run
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"agent {agent!r}: learner={named!r} is no learner ({error}); name a class with the interface of "
            "rmt_rl.training.learner.AgentLearner as module:Name"
        ) from error
    return own


@cache  # one class, so that equal configs are equal
def run_config_class(env: str, agent: str, learner: str | None = None) -> type[RunConfig]:
    """Return the class of the run's config: its learner's, with the option classes of environment and agent.

    Raises:
        UsageError: no env, agent or learner has this name, or it needs a package that isn't installed.
    """
    base = learner_class(agent, learner).Run
    return with_options(base, env=config_class(load_task(env)), agent=agent_class(agent).Config)


def make_config(values: Mapping[str, object], source: str = "the config") -> RunConfig:
    """Return the config of a run from its values, e.g. from a TOML file.

    Raises:
        UsageError: a field is missing, unknown or out of range.
    """
    env = _required_name(values, "env", source)
    agent = _required_name(values, "agent", source)
    learner = values.get("learner")
    if learner is not None and not isinstance(learner, str):
        raise UsageError(f"{source}: learner={learner!r} is no name; see rmt-rl list")
    return validated(run_config_class(env, agent, learner), values)


def _required_name(values: Mapping[str, object], kind: str, source: str) -> str:
    name = values.get(kind)
    if not isinstance(name, str):
        raise UsageError(f'{source} names no {kind}: add {kind} = "..." (rmt-rl list shows them)')
    return name
