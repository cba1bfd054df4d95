"""Every agent as `model` of Stable-Baselines3's own evaluation, and in a plain Gymnasium loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import rmt_rl  # noqa: F401  (registers the environments)
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.wrappers import ReturnToGo
from tests.agents.examples import SMALL, agents

EPISODES, SEED = 3, 11
every_agent = pytest.mark.parametrize("cls", agents())


def tmaze() -> gymnasium.Env[Any, Any]:
    """With a penalty, so that the return still to come changes on the way."""
    return gymnasium.make("rmt_rl/TMaze-v0", corridor_length=10, penalty=-0.25)


def tmaze_with_returns() -> gymnasium.Env[Any, Any]:
    return ReturnToGo(tmaze(), target_return=1.0)


def agent_for_tmaze(cls: type[Agent]) -> Agent:
    """Random weights, large at the observation and orthogonal at the end, which makes it try several actions."""
    env = tmaze()
    torch.manual_seed(0)
    agent = cls(cls.Config.model_validate(SMALL), AgentSpec(env.observation_space, env.action_space, target_return=1))
    torch.nn.init.normal_(agent.encoders["observation"].get_parameter("linear.weight"), std=5)
    torch.nn.init.orthogonal_(agent.to_action.weight)
    torch.nn.init.zeros_(agent.to_action.bias)
    return agent


class Played(NamedTuple):
    """All actions, one after the other, and each episode's return and length."""

    actions: list[int]
    episodes: list[tuple[float, int]]


def play(agent: Agent, env: gymnasium.Env[Any, Any], seed: int, deterministic: bool = True) -> Played:
    """A plain loop, one observation at a time."""
    actions, episodes, state, observation = [], [], None, env.reset(seed=seed)[0]
    for _ in range(EPISODES):
        rewards: list[float] = []
        over = False
        while not over:
            action, state = agent.predict(observation, state, np.array([not rewards]), deterministic)
            observation, reward, terminated, truncated, _ = env.step(action)
            actions.append(int(action))
            rewards.append(float(reward))
            over = terminated or truncated
        episodes.append((sum(rewards), len(rewards)))
        observation, _ = env.reset()
    return Played(actions, episodes)


@every_agent
@pytest.mark.parametrize(("make_env", "lanes"), [(tmaze, 1), (tmaze_with_returns, 3)])
def test_evaluate_policy_plays_what_a_plain_loop_plays(cls: type[Agent], make_env: Any, lanes: int) -> None:
    agent = agent_for_tmaze(cls)
    vec_env = DummyVecEnv([make_env] * lanes)
    vec_env.seed(SEED)  # lane i gets SEED + i
    actions: list[list[int]] = [[] for _ in range(lanes)]

    def record(locals_: dict[str, Any], _: dict[str, Any]) -> None:
        actions[locals_["i"]].append(int(locals_["actions"][locals_["i"]]))

    returns, lengths = evaluate_policy(
        agent, vec_env, EPISODES * lanes, callback=record, return_episode_rewards=True, warn=False
    )
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    alone = [play(agent, make_env(), SEED + lane) for lane in range(lanes)]
    assert actions == [each.actions for each in alone]
    assert sorted(zip(returns, lengths, strict=True)) == sorted(pair for each in alone for pair in each.episodes)
    assert len(set(actions[0])) > 1


@every_agent
def test_sampling_follows_the_seed(cls: type[Agent]) -> None:
    agent, runs = agent_for_tmaze(cls), []
    for seed in (3, 3, 4):
        agent.set_random_seed(seed)
        runs.append(play(agent, tmaze_with_returns(), SEED, deterministic=False))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
