"""Online training: Stable-Baselines3's algorithms learn by acting, round after round.

A round is one call of the algorithm's `learn`: `n_steps` steps in every environment, then learning from them. In
metrics and checkpoints, `update` counts the environments' steps.

The random numbers of a round follow from (seed, steps made before it), so a run that is repeated with its seed makes
the same weights: bit for bit on the CPU. A resumed run isn't the uninterrupted one, since a simulator's state can't be
saved in general: it goes on with the checkpoint's weights and optimiser, but in fresh episodes. It, too, makes the same
weights whenever it is resumed from the same checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np
import torch
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.agent import AgentSpec
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs import checkpoint
from rmt_rl.runs.metrics import Log, Metrics, Report
from rmt_rl.runs.options import OnlineRun, check_new, check_origin, read_config, write_config
from rmt_rl.sb3_agent import SB3Agent


def train(
    config: OnlineRun,
    run: Path,
    report: Report = lambda update, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train an agent in a new folder.

    Args:
        config: the run.
        run: its folder, which must not hold a run yet.
        report: called with the number of steps made and whatever was logged then, after every round.
        should_stop: asked before every round; on True a checkpoint is saved and training ends early.

    Returns:
        How many steps were made: whole rounds, so it may be more than `total_timesteps`.

    Raises:
        UsageError: the agent can't learn in the environment, the folder can't be written to, or the weights became
            NaN or infinite.
    """
    check_new(run)
    with closing(Trainer(config, run, _new_agent(config))) as trainer:
        write_config(config, run)
        return trainer.run_rounds(report, should_stop)


def resume(
    run: Path,
    report: Report = lambda update, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Go on with a run from its last checkpoint, or from its start if it had saved none yet.

    Its config may have changed meanwhile in what only says how training goes on, such as `total_timesteps`, by which a
    run is prolonged; see `train` for the rest.

    Raises:
        UsageError: besides what `train` raises: seed, agent, environment or options aren't those it was started with.
    """
    config: OnlineRun = read_config(run)
    path = checkpoint.path_of(run)
    saved = checkpoint.read_checkpoint(path) if path.exists() else None
    if saved:
        check_origin(run, saved.header.progress.get("origin"), _origin(config))
    agent = cast("SB3Agent", checkpoint.restore_agent(saved)) if saved else _new_agent(config)
    if agent.spec != _spec(config):
        raise UsageError(f"checkpoint {path} is of other spaces than env {config.env!r} has now; start a new run")
    with closing(Trainer(config, run, agent, saved)) as trainer:
        return trainer.run_rounds(report, should_stop)


class Trainer:
    """The rounds, and what is carried from one to the next."""

    def __init__(
        self, config: OnlineRun, run: Path, agent: SB3Agent, saved: checkpoint.Checkpoint | None = None
    ) -> None:
        self.config, self.run, self.agent = config, run, agent
        _check_device(config.online.device)
        made = saved.header.update if saved else 0
        self.env = _make_env(config, agent, _seed(config, made))
        self.algorithm = agent.learner(self.env, config.online.device)
        self.algorithm.num_timesteps = made
        self.recorder = _Recorder()
        self.algorithm.set_logger(Logger(folder=None, output_formats=[self.recorder]))
        self.saved: int | None = None  # the step of the last checkpoint
        self.best: float | None = None  # score of the best evaluation
        if saved is not None:
            checkpoint.restore_optimizer(saved, self.algorithm.policy.optimizer)
            self.saved, self.best = made, saved.header.progress["best"]

    @property
    def made(self) -> int:
        """Steps made so far."""
        return self.algorithm.num_timesteps

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def run_rounds(self, report: Report, should_stop: Callable[[], bool]) -> int:
        """Play and learn what is left; see `train`."""
        options, evaluation = self.config.online, self.config.evaluation
        with closing(Log(self.run, self.made)) as log:
            while self.made < options.total_timesteps and not should_stop():
                before = self.made
                metrics = self._round()
                if evaluation.eval_episodes and self._due(evaluation.eval_every, before):
                    metrics |= self._evaluate_safely()
                log.write(self.made, metrics)
                if self._due(options.save_every, before):
                    self._save_last()
                report(self.made, metrics)
            if self.saved != self.made:
                self._save_last()
        return self.made

    def _due(self, every: int, before: int) -> bool:
        """Whether a multiple of `every` steps was reached since `before`, or the end."""
        return self.made // every > before // every or self.made >= self.config.online.total_timesteps

    def _round(self) -> Metrics:
        """Act, learn; returns what Stable-Baselines3 logs of it."""
        set_random_seed(_seed(self.config, self.made))
        try:
            # The interval is longer than the one round: its log is taken below, with what was learnt.
            self.algorithm.learn(self.agent.config.n_steps, log_interval=2, reset_num_timesteps=False)
        except ValueError:  # of PyTorch, where a distribution's parameters are NaN
            if self._finite():
                raise
        if not self._finite():
            raise UsageError(
                f"the weights are NaN or infinite after {self.made} steps; the last good checkpoint, if one was saved, "
                f"is {checkpoint.path_of(self.run)}. Try a lower --agent.learning-rate or --agent.max-grad-norm"
            )
        self.algorithm.dump_logs()
        return self.recorder.metrics

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.agent.parameters())

    def _evaluate_safely(self) -> Metrics:
        """Evaluate; where that fails, what was learnt is saved, and goes on without this evaluation."""
        try:
            return self._evaluate()
        except BaseException:
            self._save_last()
            raise

    def _evaluate(self) -> Metrics:
        """Roll out in the training task; keep the best agent."""
        options, task = self.config.evaluation, load_task(self.config.env)
        env_options = self.config.env_options.model_dump()
        result = evaluate(self.agent, task, env_options, options.eval_episodes, options.eval_seed)
        if self.best is None or result.score >= self.best:
            self.best = result.score
            self._save("best")
        return result.metrics

    def _save_last(self) -> None:
        """Save all that resuming needs."""
        progress = {"best": self.best, "origin": _origin(self.config)}
        self._save("last", progress=progress, optimizer=self.algorithm.policy.optimizer)
        self.saved = self.made

    def _save(self, name: str, **resumable: Any) -> None:
        path = checkpoint.path_of(self.run, name)
        checkpoint.save_checkpoint(path, self.agent, self.config.agent, self.made, **resumable)


class _Recorder(KVWriter):
    """Keeps what an algorithm logs for TensorBoard."""

    def __init__(self) -> None:
        self.metrics: Metrics = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {key: float(value) for key, value in key_values.items() if "tensorboard" not in key_excluded[key]}
        self.metrics = {key: value for key, value in numbers.items() if math.isfinite(value)}

    def close(self) -> None:
        """There is nothing to close."""


def _new_agent(config: OnlineRun) -> SB3Agent:
    torch.manual_seed(config.seed)
    return cast("SB3Agent", agent_class(config.agent)(config.agent_options, _spec(config)))


def _spec(config: OnlineRun) -> AgentSpec:
    with closing(load_task(config.env).make(**config.env_options.model_dump())) as env:
        return AgentSpec(env.observation_space, env.action_space)


def _make_env(config: OnlineRun, agent: SB3Agent, seed: int) -> VecEnv:
    """Environments that observe what the agent's network sees.

    Raises:
        UsageError: the last minibatch of a round would be of one step, which has no deviation to normalise by.
    """
    task, options, view = load_task(config.env), config.env_options.model_dump(), agent.view
    steps = config.online.n_envs * agent.config.n_steps
    batch_size = getattr(agent.config, "batch_size", steps)
    if steps % batch_size == 1:
        raise UsageError(
            f"batch_size={batch_size} leaves one step of the {steps} of a round (n_envs times n_steps) for a minibatch "
            "of its own; choose a divisor"
        )
    return make_vec_env(
        lambda: TransformObservation(task.make(**options), view.single, view.space), config.online.n_envs, seed
    )


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={name!r} can't be used: {shorten(str(error), 200)}; choose cpu") from error


def _seed(config: OnlineRun, made: int) -> int:
    """Of what follows after so many steps."""
    return int(np.random.SeedSequence((config.seed, made)).generate_state(1)[0])


def _origin(config: OnlineRun) -> dict[str, Any]:
    """What must be the same when a run is resumed, as JSON."""
    return {
        "seed": config.seed,
        "agent": config.agent,
        "agent_options": config.agent_options.model_dump(mode="json"),
        "env": config.env,
        "env_options": config.env_options.model_dump(mode="json"),
    }
