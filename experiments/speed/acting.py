"""Speed of acting: rollouts of an untrained agent in the real vector environment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from experiments.speed.measures import Effort, Result, repeats_of
from experiments.speed.sizes import Size
from rmt_rl.acting.rollout import Step, make_vec_env, rollout
from rmt_rl.agent import AgentSpec
from rmt_rl.registry import agent_class, load_task
from rmt_rl.wrappers import VectorReturnToGo

RIGHT = 0  # the action


def walking(
    size: Size,
    environments: int,
    corridor_length: int | tuple[int, int],
) -> Iterator[Step]:
    """Roll out without end: an untrained agent that walks right, so that episodes last corridor + 2 steps."""
    env = make_vec_env(load_task("tmaze"), {"corridor_length": corridor_length}, environments)
    config = size.config(episodes=1)
    spec = AgentSpec(env.single_observation_space, env.single_action_space, 1.0, 1.0)
    agent: Any = agent_class(config.agent)(config.agent_options, spec)
    with torch.no_grad():
        agent.to_action.bias[RIGHT] = 1e3
    return rollout(agent, VectorReturnToGo(env, 1.0), 10**9, seed=0)


def play(steps: Iterator[Step], count: int) -> int:
    """Make `count` steps of all environments; return the number of environment steps."""
    return sum(int(step.counted.sum()) for step in islice(steps, count))


def acting(size: Size, effort: Effort, environments: int, mixed: bool) -> Result:
    """Measure environment steps a CPU second of a rollout through several segments.

    Environments of one corridor length go in lock-step. With lengths drawn from a range they stand, once the longest
    episode's time has passed, at unlike places of their segments.
    """
    longest = size.longest_corridor
    steps = walking(size, environments, (1, longest) if mixed else longest)
    episode = longest + 3  # and the reset
    play(steps, episode)
    episodes = -(-effort.vector_steps // episode)
    speeds = []
    for _ in range(repeats_of(size, effort)):
        began = time.process_time()
        counted = play(steps, episodes * episode)
        speeds.append(counted / (time.process_time() - began))
    return {"steps_per_second": speeds}


def late(size: Size, effort: Effort, early: int, far: int) -> Result:
    """Measure milliseconds a step behind these two steps of a long episode, averaged over three segments a repeat.

    The two are measured in turns, so that a change of the machine's speed meets both.
    """
    window = 3 * size.segment_length
    rollouts = {}
    for place in (far, early):
        rollouts[place] = walking(size, 1, far + window * effort.repeats)
        play(rollouts[place], place)
    places = (early, far)
    milliseconds: Result = {str(place): [] for place in places}
    for _ in range(effort.repeats):
        for place in places:
            milliseconds[str(place)].append(_milliseconds(rollouts[place], window))
    return {"milliseconds_per_step": milliseconds}


def _milliseconds(steps: Iterator[Step], count: int) -> float:
    began = time.process_time()
    play(steps, count)
    return 1e3 * (time.process_time() - began) / count
