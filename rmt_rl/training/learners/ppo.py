"""PPO for any agent with a recurrent core: learns by acting (arXiv 1707.06347)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
import tyro
from pydantic import Field, JsonValue, field_validator, model_validator
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rmt_rl import signals
from rmt_rl.agent import Agent, AgentConfig, BaseAgent
from rmt_rl.config import SavedState, validated
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import tree_leaves
from rmt_rl.registry import agent_class
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint, about, restore_optimizer, restore_state
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.options import OnlineConfig, OnlineRun
from rmt_rl.training.learner import Resumable
from rmt_rl.training.online import OnlineLearner, seed_of_round, spec_of_env
from rmt_rl.training.ppo.algorithm import SegmentPPO
from rmt_rl.training.ppo.leash import Leash, LeashOptions
from rmt_rl.training.ppo.policy import SegmentPolicy
from rmt_rl.training.ppo.rewards import LEAST, Normalized, NormalizedRewards

OPTIONS_OF_PPO = (
    "n_steps",
    "batch_size",
    "n_epochs",
    "gamma",
    "gae_lambda",
    "clip_range",
    "clip_range_vf",
    "normalize_advantage",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "target_kl",
)
"""Options that Stable-Baselines3's PPO takes as they are."""

VALUE_WARMUP = 10_000
KL_COEF = 0.1
KL_DECAY = 100_000
"""Defaults of runs that begin with an agent, see experiments/online/finetune.md."""


class PPOOptions(OnlineConfig):
    """Options of learning by acting with PPO; the names are Stable-Baselines3's."""

    n_steps: int = Field(128, ge=2, description="steps of each environment in a round")
    batch_size: int = Field(256, ge=2, description="steps of a minibatch at least, in whole chains of segments")
    n_epochs: int = Field(4, ge=1, description="number of epochs over each rollout")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam")
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    clip_range: float = Field(0.2, gt=0, description="clipping range of the ratio of new to old probability")
    clip_range_vf: float | None = Field(None, gt=0, description="clipping range of value updates (unset: no clipping)")
    normalize_advantage: bool = Field(True, description="normalise advantages in each minibatch")
    normalize_reward: Normalized = Field(
        "large", description="divide rewards by the deviation of discounted returns; large: where it is above 1"
    )
    ent_coef: float = Field(0.01, ge=0, description="weight of the entropy bonus")
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, description="gradient norm above which gradients are clipped")
    target_kl: float | None = Field(None, gt=0, description="KL divergence that ends a rollout's epochs (unset: never)")
    segments: int = Field(4, ge=1, description="consecutive segments that the gradient crosses")
    gradient: Literal["full", "replay"] = Field(
        "full", description="hold the activations of these segments, or of one and compute the others anew"
    )
    burn_in: int = Field(
        0, ge=0, description="segments before the open one from which a changed network computes its state anew"
    )
    value_warmup: int | None = Field(
        None,
        ge=0,
        description="steps in which only the critic learns (unset: "
        f"{VALUE_WARMUP} after --init, but at most a tenth of the run, else 0)",
    )
    kl_coef: float | None = Field(
        None,
        ge=0,
        description="weight of the KL divergence from the agent as it was at its start, for --init "
        f"(unset: {KL_COEF} after --init, else 0)",
    )
    kl_decay: int = Field(
        KL_DECAY, ge=1, description="steps over which this weight falls to 0, from the end of value_warmup on"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="number format of the agent's core")

    @field_validator("normalize_reward", mode="before")
    @classmethod
    def _of_earlier_configs(cls, value: object) -> object:
        if isinstance(value, bool):
            return "always" if value else "never"
        return value


class PPORun(OnlineRun):
    """Options of a run in which an agent with a core learns by acting."""

    agent_options: AgentConfig
    online: Annotated[PPOOptions, tyro.conf.arg(name="")] = PPOOptions()

    @model_validator(mode="after")
    def _has_no_other_losses(self) -> Self:
        cls = agent_class(self.agent)
        if not issubclass(cls, Agent) or cls.learner != Agent.learner:
            raise UsageError(
                f"learner={self.learner!r} trains agents whose own learner is behaviour cloning, such as rate, but "
                f"agent {self.agent!r} has losses of its own; leave --learner out"
            )
        return self

    @model_validator(mode="after")
    def _has_start(self) -> Self:
        if self.online.kl_coef and self.init is None:
            raise UsageError(
                f"kl_coef={self.online.kl_coef} keeps an agent near to its start: name a run to begin with by --init"
            )
        if self.online.kl_decay != KL_DECAY and not self.leash.weight:
            raise UsageError(
                f"kl_decay={self.online.kl_decay} has no effect without a leash; set kl_coef, or leave kl_decay out"
            )
        return self

    @model_validator(mode="after")
    def _has_rounds_behind_the_warmup(self) -> Self:
        online = self.online
        last_round = (online.total_timesteps - 1) // self._round * self._round
        if self.value_warmup > last_round:
            raise UsageError(
                f"value_warmup={online.value_warmup} leaves no round in which the agent learns: the last one begins "
                f"after {last_round} steps (total_timesteps={online.total_timesteps}, n_envs * n_steps={self._round}); "
                f"choose at most {last_round}"
            )
        return self

    @property
    def _round(self) -> int:
        """Environment steps of a round."""
        return self.online.n_envs * self.online.n_steps

    @property
    def value_warmup(self) -> int:
        """Steps in which only the critic learns."""
        if self.online.value_warmup is not None:
            return self.online.value_warmup
        if self.init is None:
            return 0
        tenth = self.online.total_timesteps // 10
        whole_rounds = tenth - tenth % self._round
        return min(VALUE_WARMUP, whole_rounds)

    @property
    def leash(self) -> LeashOptions:
        """The course of the leash's weight."""
        unset = 0.0 if self.init is None else KL_COEF
        weight = unset if self.online.kl_coef is None else self.online.kl_coef
        return LeashOptions(weight, self.value_warmup, self.online.kl_decay)


class PPOLearner(OnlineLearner):
    """Trains an agent by PPO.

    Without a return-to-go among its `tokens`, as the agent is made if they aren't chosen, nothing tells it what return
    to aim at: it aims at the highest. An agent that sees it is given its target return minus the rewards so far. The
    target is 0 of a new agent, and that of its spec if the run begins with an agent.

    Raises:
        UsageError: the agent can't learn in the environment.
    """

    Run = PPORun
    remedy: ClassVar[str] = "Try a lower --learning-rate or --max-grad-norm"
    config: PPORun
    algorithm: SegmentPPO

    def new_agent(self) -> BaseAgent:
        options = self.config.agent_options
        tokens = agent_class(self.config.agent).tokens
        changed: dict[str, Any] = {}
        if options.tokens is None and "return_to_go" in tokens:
            changed["tokens"] = tuple(name for name in tokens if name != "return_to_go")
        if options.head == "auto":
            changed["head"] = "gaussian"  # whose samples have exact probabilities
        torch.manual_seed(self.config.seed)
        make = agent_class(self.config.agent)
        return make(options.model_copy(update=changed), spec_of_env(self.config))

    def make_env(self, seed: int) -> VecEnv:
        options = self.config.online
        env = make_vec_env(self.one_env, options.n_envs, seed)
        least = LEAST.get(options.normalize_reward)
        return env if least is None else NormalizedRewards(env, options.gamma, least)

    def make_algorithm(self) -> OnPolicyAlgorithm:
        options = self.config.online
        assert isinstance(self.model, Agent)  # which the config checks
        agent = self.model.to(options.device)
        policy = SegmentPolicy(agent, options.learning_rate, options.gradient == "replay", options.precision)
        leash = self.config.leash
        return SegmentPPO(
            policy,
            self.env,
            options.segments,
            options.burn_in,
            Leash(agent, options.n_envs, options.precision, leash) if leash.weight else None,
            self.config.value_warmup,
            learning_rate=options.learning_rate,
            **{name: getattr(options, name) for name in OPTIONS_OF_PPO},
        )

    def advance(self) -> Metrics:
        self.algorithm.policy.agent.sampler.restart(seed_of_round(self.config, self.made))
        return super().advance()

    @contextmanager
    def _whole_or_not(self) -> Iterator[None]:
        before = self._moments()
        try:
            with super()._whole_or_not():
                yield
        except signals.Stopped:
            if before is not None:
                before.put(self.env.ret_rms)  # type: ignore[attr-defined]
            raise

    def _moments(self) -> _Moments | None:
        """Return the moments by which rewards are normalised, if they are."""
        return _Moments.of(self.env.ret_rms) if isinstance(self.env, NormalizedRewards) else None

    def start(self, saved: Checkpoint[AgentHeader] | None = None) -> None:
        if saved is None:
            return
        policy = self.algorithm.policy
        restore_optimizer(saved, policy.optimizer)
        own = self._kept()
        self._check_leash(saved, own.start)
        restored = restore_state(saved, own)
        for tensor, value in zip(tree_leaves(own), tree_leaves(restored), strict=True):
            tensor.copy_(value)
        with about(saved.path):
            progress = validated(_Progress, saved.header.progress)
        if isinstance(self.env, NormalizedRewards) and progress.returns is not None:
            progress.returns.put(self.env.ret_rms)

    def progress(self) -> dict[str, JsonValue]:
        return super().progress() | _Progress(returns=self._moments()).model_dump(mode="json")

    def resumable(self) -> Resumable:
        policy = self.algorithm.policy
        return Resumable(policy.optimizer, self._kept())

    def _kept(self) -> _Kept:
        """Return the tensors to save beside the agent and the optimiser; they share memory with those in use."""
        critic = self.algorithm.policy.critic.state_dict()
        leash = self.algorithm.leash
        start = {} if leash is None else leash.agent.state_dict()
        return _Kept(tuple(critic.values()), tuple(start.values()))

    def _check_leash(self, saved: Checkpoint[AgentHeader], start: Sequence[Tensor]) -> None:
        of_critic = len(self.algorithm.policy.critic.state_dict())
        has_start = len(saved.group("state")) > of_critic
        if has_start != bool(start):
            raise UsageError(
                f"kl_coef={self.config.leash.weight:g}, but checkpoint {saved.path} holds "
                f"{'the' if has_start else 'no'} weights of the start; undo what was changed in the run's config.toml"
            )


class _Kept(NamedTuple):
    """Tensors of a checkpoint beside the agent and the optimiser.

    Attributes:
        critic: weights of the critic.
        start: weights of the agent as it was at its start, if the run has a leash.
    """

    critic: tuple[Tensor, ...]
    start: tuple[Tensor, ...]


class _Moments(SavedState):
    """Moments of the discounted returns, by which rewards are normalised."""

    mean: float
    var: float
    count: float

    @classmethod
    def of(cls, moments: RunningMeanStd) -> _Moments:
        """Return those of Stable-Baselines3's object."""
        return cls(mean=float(moments.mean), var=float(moments.var), count=float(moments.count))

    def put(self, moments: RunningMeanStd) -> None:
        """Write them into Stable-Baselines3's object."""
        moments.mean, moments.var, moments.count = self.mean, self.var, self.count  # type: ignore[assignment]


class _Progress(SavedState):
    """The learner's part of a checkpoint, besides tensors."""

    returns: _Moments | None = None


LEARNER = PPOLearner
