"""Evaluation: a policy plays whole episodes, at one or at many settings of the environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rmt_rl.acting.rollout import Step, make_vec_env, rollout
from rmt_rl.config import Frozen
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.lives import ended_episodes
from rmt_rl.reading import parse_json
from rmt_rl.runs.evaluation import EpisodeResult, Evaluation, check_episodes
from rmt_rl.success import success_of
from rmt_rl.task import Options, Policy, Task, check_same_spaces, most_lanes, task_config
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

ProgressReport = Callable[[int, int], None]
"""Called after every step with the steps made and the episodes finished so far."""


def evaluate(
    policy: Policy,
    task: Task,
    options: Options,
    episodes: int,
    seed: int,
    *,
    deterministic: bool = True,
    target_return: float | None = None,
    max_lanes: int = 100,
    progress: ProgressReport | None = None,
) -> Evaluation:
    """Play whole episodes of a task and return their results.

    Args:
        policy: acts in all environments at once.
        task: the environment's module.
        options: options of the environment.
        episodes: number of episodes, in all environments together; each plays a number fixed beforehand.
        seed: seed of the environment's reset.
        deterministic: passed to the policy.
        target_return: the policy observes it as return-to-go, which each reward lowers; None leaves observations alone.
        max_lanes: environments played at once; results depend on it, as each draws its own random numbers.
        progress: called after every step.

    Raises:
        UsageError: `episodes` or `max_lanes` is less than 1, an option doesn't fit the task, or the environment or the
            policy gives numbers that `rollout` refuses.
    """
    if min(episodes, max_lanes) < 1:
        raise UsageError(f"episodes = {episodes}, max_lanes = {max_lanes}: at least 1 of each is needed")
    check_episodes("episodes", episodes)
    env: VectorEnv[Any, Any, Any] = make_vec_env(task, options, most_lanes(task, min(episodes, max_lanes)))
    if target_return is not None:
        env = VectorReturnToGo(env, target_return)
    with closing(env):
        began = time.perf_counter()
        steps = rollout(policy, env, episodes, seed, deterministic)
        results = _summed(steps, env.num_envs, progress)
        seconds = time.perf_counter() - began
    return Evaluation({}, seed, deterministic, target_return, max_lanes, seconds, results)


def evaluate_grid(
    policy: Policy,
    task: Task,
    options: Options,
    vary: Mapping[str, Sequence[Any]],
    episodes: int,
    seed: int,
    *,
    deterministic: bool = True,
    target_return: float | None = None,
    max_lanes: int = 100,
    progress: ProgressReport | None = None,
    begin: Callable[[Mapping[str, Any]], None] = lambda combination: None,
) -> Iterator[Evaluation]:
    """Evaluate lazily at every combination of the varied options' values, one after the other.

    All combinations are checked before the first is played. `begin` is called with each combination before it is
    played, e.g. to seed a policy that samples, so that no result depends on earlier ones. The other arguments are those
    of `evaluate`.

    Raises:
        UsageError: as in `evaluate`; an unknown option names the nearest one. Or an environment with these options has
            other spaces than the agent was made for.
    """
    settings = checked_settings(policy, task, options, vary)
    play = partial(
        evaluate,
        policy,
        task,
        episodes=episodes,
        seed=seed,
        deterministic=deterministic,
        target_return=target_return,
        max_lanes=max_lanes,
        progress=progress,
    )

    def at(setting: Setting) -> Evaluation:
        begin(setting.varied)
        evaluation = play(options=setting.config)
        return replace(evaluation, options=setting.varied)

    return map(at, settings)


class Setting(NamedTuple):
    """One combination of the varied options' values.

    Attributes:
        varied: the varied options.
        config: all options.
    """

    varied: Mapping[str, Any]
    config: Frozen


def checked_settings(policy: Policy, task: Task, options: Options, vary: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Return all combinations of the varied options' values, checked; options that aren't varied are those given.

    Raises:
        UsageError: an option is unknown or its value is out of range, or an environment with these options has other
            spaces than the agent was made for.
    """
    settings = _settings(task, task_config(task, options), vary)
    _check_spaces(policy, task, settings)
    return settings


def _settings(task: Task, config: Frozen, vary: Mapping[str, Sequence[Any]]) -> list[Setting]:
    settings = []
    for values in product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        settings.append(Setting(varied, task_config(task, dict(config) | varied)))
    return settings


def _check_spaces(policy: Policy, task: Task, settings: Iterable[Setting]) -> None:
    """Raise a UsageError if an environment with varied options has other spaces than the agent."""
    spec = getattr(policy, "spec", None)  # of an agent, which was made for certain spaces
    if spec is None:
        return
    for setting in settings:
        if setting.varied:
            words = ", ".join(f"{option}={value!r}" for option, value in setting.varied.items())
            with closing(make_env(task, setting.config)) as env:
                check_same_spaces(f"with {words}, {task.ID}", env, "the agent", spec, "vary another option")


def parse_vary(texts: Iterable[str], flag: str = "--vary") -> dict[str, list[Any]]:
    """Read `corridor_length=90,300`: values are JSON, and strings where they aren't. Errors name the flag.

    Raises:
        UsageError: a text has no name, no values, or the name of an earlier one.
    """
    vary: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name.strip() and equals and values.strip()):
            raise UsageError(f"{flag} {text!r}: give it as NAME=VALUE,VALUE,...")
        if name.strip() in vary:
            raise UsageError(f"{flag} {text!r}: {name.strip()!r} is varied twice; list all its values once")
        vary[name.strip()] = _values(values)
    return vary


def single_values(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Read `NAME=VALUE` texts of a flag; values are JSON, and strings where they aren't.

    Raises:
        UsageError: a text has another form, or several values.
    """
    single = {}
    for name, values in parse_vary(texts, flag).items():
        if len(values) != 1:
            raise UsageError(f"{flag} {name}: give one value, or a list as [1,2]")
        single[name] = values[0]
    return single


def _values(text: str) -> list[Any]:
    try:
        values: list[Any] = parse_json(f"[{text}]", finite=False)  # as a whole first: a value may itself hold commas
    except ValueError:
        values = [_value(item.strip()) for item in text.split(",")]
    return values


def _value(text: str) -> Any:
    try:
        return parse_json(text, finite=False)
    except ValueError:
        return text


def _summed(steps: Iterable[Step], lanes: int, progress: ProgressReport | None) -> tuple[EpisodeResult, ...]:
    """Sum rewards and count steps in each lane, i.e. environment; only running totals of open episodes are held."""
    returns, lengths = np.zeros(lanes), np.zeros(lanes, np.int64)
    results: list[EpisodeResult] = []
    of_lives: list[list[float]] = [[] for _ in range(lanes)]  # returns of the episodes of each open life
    for count, step in enumerate(steps, start=1):
        np.add(returns, step.rewards, out=returns, where=step.counted)
        lengths += step.counted
        for lane, episode_return in ended_episodes(step.infos).items():
            of_lives[lane].append(episode_return)
        if step.ends.any():
            for lane in np.flatnonzero(step.ends).tolist():
                success = success_of(step.infos, lane)
                of_life, of_lives[lane] = tuple(of_lives[lane]), []
                results.append(EpisodeResult(lane, float(returns[lane]), int(lengths[lane]), success, of_life))
            returns[step.ends], lengths[step.ends] = 0, 0
        if progress is not None:
            progress(count, len(results))
    return tuple(sorted(results, key=lambda result: result.lane))
