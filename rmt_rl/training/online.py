"""Online learning: Stable-Baselines3's algorithms learn by acting, round after round.

A round is one call of the algorithm's `learn`: `n_steps` steps in every environment, then learning from them. In
metrics and checkpoints, `update` counts environment steps.

The random numbers of a round follow from (seed, steps made before it), so a run that is repeated with its seed makes
the same weights: bit for bit on the CPU. A resumed run isn't the uninterrupted one, since a simulator's state can't be
saved in general: it goes on with the checkpoint's weights and optimiser, but in fresh episodes. It, too, makes the same
weights whenever it is resumed from the same checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from textwrap import shorten
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TransformReward
from pydantic import JsonValue
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import FloatSchedule, set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from rmt_rl import signals
from rmt_rl.acting.record import History, history_of
from rmt_rl.agent import AgentSpec, BaseAgent
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.numbers import Words, check_plain_numbers
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint, agent_header, restore_agent, restore_optimizer
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.init import initial_agent
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.options import LearningRateConfig, OnlineRun
from rmt_rl.sb3_agent import SB3Agent
from rmt_rl.task import check_same_spaces
from rmt_rl.training.learner import Diverged, Resumable
from rmt_rl.training.needs import check_online
from rmt_rl.training.optimization import learning_rate
from rmt_rl.training.parallel import Processes

AnyEnv = gymnasium.Env[Any, Any]
_MEND = Words("mend the environment, or scale its rewards with gymnasium.wrappers.TransformReward")


class OnlineLearner:
    """Trains an agent's network by an algorithm of Stable-Baselines3.

    Args:
        config: the run.
        saved: the checkpoint to resume from, which gives the agent; None begins with a new agent.

    Raises:
        UsageError: the agent can't learn in the environment.
    """

    Run = OnlineRun
    remedy: ClassVar[str] = "Try a lower --agent.learning-rate or --agent.max-grad-norm"
    envs_made = 0

    def __init__(self, config: OnlineRun, saved: Checkpoint[AgentHeader] | None = None) -> None:
        self.config = config
        check_online(config)
        self.processes = Processes()
        self.model = self.restored(saved) if saved else self.initial_agent() or self.new_agent()
        check_device(config.online.device)
        made = saved.header.update if saved else 0
        with ExitStack() as undo:
            self.history = history_of(config, saved)
            undo.callback(self._close_history)
            self.env = self.make_env(seed_of_round(config, made))
            undo.callback(self.env.close)
            self.algorithm = self.make_algorithm()
            undo.pop_all()
        self.algorithm.num_timesteps = made
        if self.history:
            self.history.clock = lambda: self.made
        self.recorder = _Recorder()
        self.algorithm.set_logger(Logger(folder=None, output_formats=[self.recorder]))

    def initial_agent(self) -> BaseAgent | None:
        """Return the agent of the run that a new run begins with, if it begins with one."""
        if self.config.init is None:
            return None
        return initial_agent(self.config, f"env {self.config.env!r}", spec_of_env(self.config))

    def new_agent(self) -> BaseAgent:
        """Return the agent of a new run."""
        torch.manual_seed(self.config.seed)
        make = agent_class(self.config.agent)
        return make(self.config.agent_options, spec_of_env(self.config))

    def restored(self, saved: Checkpoint[AgentHeader]) -> BaseAgent:
        """Return the agent of a checkpoint.

        Raises:
            UsageError: it isn't for this environment.
        """
        agent = restore_agent(saved)
        spec = spec_of_env(self.config)
        env = f"env {self.config.env!r}"
        check_same_spaces(f"checkpoint {saved.path}", agent.spec, env, spec, "start a new run")
        return agent

    def make_env(self, seed: int) -> VecEnv:
        """Return environments that observe what the agent's network sees.

        Raises:
            UsageError: the last minibatch of a round would be of one step, which has no deviation to normalise by.
        """
        agent = cast("SB3Agent", self.model)
        _check_minibatches(self.config, agent)
        return make_vec_env(lambda: agent.viewed(self.one_env()), self.config.online.n_envs, seed)

    def one_env(self) -> AnyEnv:
        """Return one of the environments, whose rewards are checked and whose episodes are recorded if asked for."""
        self.envs_made += 1
        return checked_env(self.config, self.history, self.envs_made - 1)

    def make_algorithm(self) -> OnPolicyAlgorithm:
        """Return the algorithm that trains the agent."""
        return cast("SB3Agent", self.model).make_algorithm(self.env, self.config.online.device)

    @staticmethod
    def origin(config: OnlineRun) -> dict[str, JsonValue]:
        """Return what must be the same when the run is resumed."""
        return {
            "seed": config.seed,
            "agent": config.agent,
            "learner": config.learner,
            "agent_options": config.agent_options.model_dump(mode="json"),
            "env": config.env,
            "env_options": config.env_options.model_dump(mode="json"),
        }

    @property
    def made(self) -> int:
        return self.algorithm.num_timesteps

    @property
    def done(self) -> bool:
        return self.made >= self.config.length

    def advance(self) -> Metrics:
        """Act for a round and learn from it; return what Stable-Baselines3 logs of it.

        Raises:
            Stopped: a signal stopped the round; weights, optimiser and number of steps are those before it.
        """
        set_random_seed(seed_of_round(self.config, self.made))
        if self.config.online.decay_from < 1:
            self.algorithm.lr_schedule = FloatSchedule(self._learning_rate())
        try:
            # The interval is longer than the one round: its log is taken below, with what was learnt.
            with self._whole_or_not(), signals.interruptible():
                self.algorithm.learn(self.algorithm.n_steps, log_interval=2, reset_num_timesteps=False)
        except UsageError as error:  # of the environment's numbers
            raise UsageError(f"env {self.config.env!r}, after step {self.made}: {error}") from error
        except ValueError:  # of PyTorch, where a distribution's parameters are NaN
            if self._finite():
                raise
        if not self._finite():
            raise Diverged(f"the weights are NaN or infinite after {self.made} steps")
        if self.history:
            self.history.commit()
        self.algorithm.dump_logs()
        return self.recorder.metrics

    def _learning_rate(self) -> float:
        """Return the learning rate of the next round."""
        online = self.config.online
        course = LearningRateConfig(
            updates=online.total_timesteps,
            learning_rate=cast("float", self.algorithm.learning_rate),
            warmup=0,
            decay_from=online.decay_from,
            final_rate=online.final_rate,
        )
        return learning_rate(course, self.made)

    def check(self, update: int, metrics: Metrics) -> None:
        """There is nothing to check, because `advance` looks at the weights."""

    @contextmanager
    def _whole_or_not(self) -> Iterator[None]:
        """Undo what was learnt inside the block if a signal stops it."""
        policy = self.algorithm.policy
        made = self.made
        weights, optimizer = copy.deepcopy((policy.state_dict(), policy.optimizer.state_dict()))
        try:
            yield
        except signals.Stopped:
            policy.load_state_dict(weights)
            policy.optimizer.load_state_dict(optimizer)
            self.algorithm.num_timesteps = made
            raise

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.algorithm.policy.parameters())

    def rehearse(self) -> list[str]:
        """Return warnings; making the environments has shown that they can be used."""
        return []

    def totals(self) -> Metrics:
        return {}

    def remarks(self, evaluation: Evaluation | None) -> list[str]:
        return []

    def start(self, saved: Checkpoint[AgentHeader] | None = None) -> None:
        if saved is not None:
            restore_optimizer(saved, self.algorithm.policy.optimizer)

    def header(self, progress: dict[str, JsonValue]) -> AgentHeader:
        return agent_header(self.model, self.config.agent, self.made, progress)

    def progress(self) -> dict[str, JsonValue]:
        return {"recorded": self.history.save()} if self.history else {}

    def resumable(self) -> Resumable:
        return Resumable(self.algorithm.policy.optimizer)

    def confirm(self) -> None:
        if self.history:
            self.history.confirm()

    def close(self) -> None:
        self.env.close()
        self._close_history()

    def _close_history(self) -> None:
        if self.history:
            self.history.close()


class _Recorder(KVWriter):
    """Keeps the numbers that an algorithm logs for TensorBoard."""

    def __init__(self) -> None:
        self.metrics: Metrics = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {key: float(value) for key, value in key_values.items() if "tensorboard" not in key_excluded[key]}
        self.metrics = {key: value for key, value in numbers.items() if math.isfinite(value)}

    def close(self) -> None:
        """There is nothing to close."""


def spec_of_env(config: OnlineRun) -> AgentSpec:
    """Return the spaces of a run's environment."""
    with closing(make_env(load_task(config.env), config.env_options)) as env:
        return AgentSpec(env.observation_space, env.action_space)


def _check_minibatches(config: OnlineRun, agent: SB3Agent) -> None:
    """Raise a UsageError if the last minibatch of a round would be of one step, which has no deviation."""
    steps = config.online.n_envs * agent.config.n_steps
    batch_size = getattr(agent.config, "batch_size", steps)
    if steps % batch_size == 1:
        raise UsageError(
            f"batch_size={batch_size} leaves one step of the {steps} of a round (n_envs times n_steps) for a minibatch "
            "of its own; choose a divisor"
        )


def checked_env(config: OnlineRun, history: History | None = None, index: int = 0) -> AnyEnv:
    """Return a run's environment to learn in, whose rewards are checked, and whose episodes a history records."""
    env = make_env(load_task(config.env), config.env_options)
    env = TransformReward(env, _checked_reward)
    if history is not None:
        env = history.recorded(env, index)
    return _TruncationEnds(env) if config.online.truncation == "end" else env


class _TruncationEnds(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose time limit ends an episode as its goal does, so that no value is added behind it."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info


def _checked_reward(reward: Any) -> Any:
    """Return a reward as it is.

    Raises:
        UsageError: the reward breaks the rule of `rmt_rl.numbers`.
    """
    check_plain_numbers(np.asarray(reward), "reward", _MEND)
    return reward


def check_device(name: str) -> None:
    """Raise a UsageError if a device can't be used."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={name!r} can't be used: {shorten(str(error), 200)}; choose cpu") from error


def seed_of_round(config: OnlineRun, made: int) -> int:
    """Return the seed of the round after so many steps."""
    return int(np.random.SeedSequence((config.seed, made)).generate_state(1)[0])
