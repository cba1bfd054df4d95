"""Speed of acting, ours and the official code's: untrained agents in the real vector environment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from experiments.speed.official import Official, official
from experiments.speed.sizes import (
    ALONE,
    LOCK_STEP,
    MIXED,
    OFFICIAL_ALONE,
    OFFICIAL_LOCK_STEP,
    SEGMENTS,
    Size,
)
from experiments.speed.turns import Measure, Result, in_turns
from rmt_rl.acting.rollout import Step, VecEnv, make_vec_env, rollout
from rmt_rl.agent import AgentSpec
from rmt_rl.registry import agent_class, load_task
from rmt_rl.wrappers import VectorReturnToGo

RIGHT = 0  # the action
MANY = 100  # environments
TURNS_ALONE = 4  # repeats with one environment, which are short, for one of the others


def _environments(count: int, corridor_length: int | tuple[int, int]) -> VecEnv:
    return make_vec_env(load_task("tmaze"), {"corridor_length": corridor_length}, count)


def walking(
    size: Size,
    environments: int,
    corridor_length: int | tuple[int, int],
) -> Iterator[Step]:
    """Roll out without end: an untrained agent that walks right, so that episodes last corridor + 2 steps."""
    env = _environments(environments, corridor_length)
    config = size.config()
    spec = AgentSpec(env.single_observation_space, env.single_action_space, 1.0, 1.0)
    agent: Any = agent_class(config.agent)(config.agent_options, spec)
    with torch.no_grad():
        agent.to_action.bias[RIGHT] = 1e3
    return rollout(agent, VectorReturnToGo(env, 1.0), 10**9, seed=0)


def play(steps: Iterator[Step], count: int) -> int:
    """Make `count` steps of all environments; return the number of environment steps."""
    return sum(int(step.counted.sum()) for step in islice(steps, count))


def acting_speed(steps: Iterator[Step], count: int) -> float:
    """Make `count` steps of all environments; return environment steps a CPU second."""
    began = time.process_time()
    return play(steps, count) / (time.process_time() - began)


def acting(size: Size, checkout: Path | None) -> Result:
    """Measure environment steps a CPU second of rollouts, in one environment and in 100.

    Environments of one corridor length go in lock-step. With lengths drawn from a range they stand, once the longest
    episode's time has passed, at unlike places of their segments.
    """
    longest = size.longest_corridor
    episode = longest + 3  # and the reset
    count = episode * -(-size.vector_steps // episode)
    measures: dict[str, Measure] = {}
    rollouts = {
        ALONE: walking(size, 1, longest),
        LOCK_STEP: walking(size, MANY, longest),
        MIXED: walking(size, MANY, (1, longest)),
    }
    for name, steps in rollouts.items():
        play(steps, episode)
        measures[name] = partial(acting_speed, steps, count)
    if checkout:
        measures |= _official_measures(checkout, size)
    alone = {name: measures.pop(name) for name in (ALONE, OFFICIAL_ALONE) if name in measures}
    return {"speeds": in_turns(alone, TURNS_ALONE * size.repeats) | in_turns(measures, size.repeats)}


def _official_measures(checkout: Path, size: Size) -> dict[str, Measure]:
    model = official(checkout, size)
    alone, together = (_environments(count, size.longest_corridor) for count in (1, MANY))
    return {
        OFFICIAL_ALONE: partial(_official_speed, model, alone, SEGMENTS),
        OFFICIAL_LOCK_STEP: partial(_official_speed, model, together, size.official_segments),
    }


def _official_speed(model: Official, env: VecEnv, segments: int) -> float:
    began = time.process_time()
    return model.play(env, segments) / (time.process_time() - began)


def late(size: Size) -> Result:
    """Measure milliseconds a step behind an early and a late step of an episode, averaged over three segments a repeat.

    The two are measured in turns, so that a change of the machine's speed meets both.
    """
    window = 3 * size.segment_length
    early, far = size.late_step // 20, size.late_step
    rollouts = {}
    for place in (far, early):
        rollouts[place] = walking(size, 1, far + window * size.repeats)
        play(rollouts[place], place)
    places = (early, far)
    milliseconds: Result = {str(place): [] for place in places}
    for _ in range(size.repeats):
        for place in places:
            milliseconds[str(place)].append(_milliseconds(rollouts[place], window))
    return {"milliseconds_per_step": milliseconds}


def _milliseconds(steps: Iterator[Step], count: int) -> float:
    began = time.process_time()
    play(steps, count)
    return 1e3 * (time.process_time() - began) / count
