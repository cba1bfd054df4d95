"""Values belong to their space at every point: in data sets, in checkpoints, and when agents act.

The examples of these tests are drawn by Hypothesis. The long form draws others in every run:

    python -m pytest tests/test_spaces.py -m slow                         # 2,000 examples of parts, 300 whole ways
    SPACES_EXAMPLES=9000 python -m pytest tests/test_spaces.py -m slow    # of each
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, event, given, settings

import rmt_rl
from rmt_rl.acting.policies import RandomPolicy
from rmt_rl.agent import Agent, AgentSpec, BaseAgent
from rmt_rl.cli import main
from rmt_rl.data.segment import Span, cut
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class
from rmt_rl.runs.checkpoint import load_agent, path_of, save_agent
from rmt_rl.sb3_agent import ActionView
from rmt_rl.space_json import space_from_json, space_to_json
from rmt_rl.training.standards import standardise
from rmt_rl.trees import leaves, part_at
from tests.random_spaces import (
    UNUSABLE,
    VECTOR,
    Random,
    Space,
    action_spaces,
    assert_contained,
    assert_same_space,
    draw_batch,
    draw_value,
    empties,
    observation_spaces,
    texts,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Casting input x", "ignore:.*precision lowered", "ignore:.*second dimension was smallest"
)
PLAIN = spaces.Discrete(2)
TINY = ["--agent.width", "8", "--agent.segment-length", "2", "--updates", "2", "--batch-size", "2"]
QUICK = [*TINY, "--eval-episodes", "2", "--accelerator", "cpu"]
TINY_PPO = ["--total-timesteps", "16", "--n-envs", "2", "--agent.n-steps", "4", "--agent.batch-size", "8"]


def few(examples: int) -> settings:
    """Return settings of the same few examples in every run."""
    return settings(settings.get_profile("default"), max_examples=examples, derandomize=True, **_COMMON)


def many(examples: int) -> settings:
    """Return settings of other examples in every run."""
    count = int(os.environ.get("SPACES_EXAMPLES", examples))
    return settings(settings.get_profile("default"), max_examples=count, **_COMMON)


_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),  # shrinking takes minutes
}


@contextmanager
def data_folder() -> Iterator[Path]:
    """Yield a new folder, which is the current one and holds Minari's data sets."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        patch.setenv("MINARI_DATASETS_PATH", str(Path(folder, "data")))
        yield Path(folder)


def make(name: str, observations: Space, actions: Space) -> BaseAgent:
    options = {"n_steps": 4, "batch_size": 4} if name == "ppo" else {"width": 8, "segment_length": 2}
    cls = agent_class(name)
    torch.manual_seed(0)
    spec = AgentSpec(observations, actions, standardised=name == "bc")
    agent: BaseAgent = cls(cls.Config.model_validate(options), spec)
    return agent


def episode(observations: Space, actions: Space, steps: int) -> Trajectory:
    ends = np.arange(steps) == steps - 1
    never = np.zeros(steps, np.bool_)
    return Trajectory(draw_batch(observations, steps + 1), draw_batch(actions, steps), np.ones(steps), ends, never)


def assert_acts(agent: BaseAgent) -> None:
    """Fail unless all actions of an agent are in its space: of batches and single observations, likeliest and drawn."""
    observations, actions = agent.spec.observation_space, agent.spec.action_space
    state: Any = None
    for deterministic in (True, False, True):
        chosen, state = agent.predict(draw_batch(observations, 3), state, None, deterministic)
        assert_contained(actions, chosen, 3)
    single, _ = agent.predict(draw_value(observations), None, None, deterministic=False)
    assert actions.contains(single), f"{single!r} isn't in {actions}"
    for place, leaf in leaves(actions):
        value = part_at(single, place)
        is_number = isinstance(leaf, spaces.Discrete)
        assert isinstance(value, np.number if is_number else np.ndarray)
        assert value.dtype == (leaf.dtype.newbyteorder("=") if is_number else leaf.dtype)


def written(observations: Space, actions: Space, episodes: list[Trajectory]) -> EpisodeStore:
    write_dataset(
        "random/spaces-v0",
        episodes,
        env_spec=None,
        observation_space=observations,
        action_space=actions,
        algorithm_name="random",
        description="Random values.",
    )
    return EpisodeStore("random/spaces-v0")


def check_parts(observations: Space, actions: Space) -> None:
    """Take values of spaces through JSON, a data set, an agent's training step, acting and a checkpoint."""
    for space in (observations, actions):
        space.seed(0)
        assert_same_space(space_from_json(space_to_json(space)), space)
    with data_folder() as folder:
        episodes = [episode(observations, actions, steps) for steps in (3, 1)]
        store = written(observations, actions, episodes)
        assert_same_space(store.observation_space, observations)
        assert_same_space(store.action_space, actions)
        for index, original in enumerate(episodes):
            read = store.episode(index)
            np.testing.assert_equal(read.observations, original.observations)
            np.testing.assert_equal(read.actions, original.actions)
            assert_contained(observations, read.observations, len(read) + 1)
            assert_contained(actions, read.actions, len(read))
        theirs = minari.load_dataset("random/spaces-v0")
        assert [len(each) for each in theirs.iterate_episodes()] == [3, 1]

        agent = make("bc", store.observation_space, store.action_space)
        assert isinstance(agent, Agent)
        standardise(agent, store)
        spans = [Span(store.episode(index), 0, len(store.episode(index))) for index in range(2)]
        state: Any = agent.initial_state(2)
        for segment in cut(spans, 2):
            logits, state = agent(segment, state)
            loss, correct = agent.losses(logits, segment)
            assert loss.isfinite().all()
            assert correct.isfinite().all()
            loss.sum().backward()
        assert_acts(agent)
        save_agent(path_of(folder), agent, "bc", update=0)
        loaded = load_agent(folder)
        assert_same_space(loaded.spec.observation_space, observations)
        assert_same_space(loaded.spec.action_space, actions)
        observation = draw_value(observations)
        np.testing.assert_equal(loaded.predict(observation)[0], agent.predict(observation)[0])


def check_online(observations: Space, actions: Space) -> None:
    """Make an agent of Stable-Baselines3 and act with it, if it knows the action space."""
    observations.seed(0)
    actions.seed(0)
    try:
        ActionView(actions)
    except UsageError:
        event("no distribution")
        return
    assert_acts(make("ppo", observations, actions))


def check_whole_way(observations: Space, actions: Space) -> None:
    """Collect data, train an agent on them, train another by acting, and evaluate both, by the commands."""
    with data_folder(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Random, "observations", observations)
        patch.setattr(Random, "actions", actions)
        assert main(["collect", ENV, "--policy", "random", "--episodes", "3"]) == 0
        (identity,) = minari.list_local_datasets()
        assert main(["train", ENV, "bc", "--dataset", identity, "--out", "run", *QUICK]) == 0
        assert main(["evaluate", "run", "--episodes", "2", "--sample"]) == 0
        assert_acts(rmt_rl.load("run"))
        try:
            ActionView(actions)
        except UsageError:
            return
        assert main(["train", ENV, "ppo", "--out", "online", *TINY_PPO, "--eval-episodes", "2"]) == 0
        assert_acts(rmt_rl.load("online"))


ENV = "tests.random_spaces:random_spaces/Random-v0"
of_parts = given(observations=observation_spaces(), actions=action_spaces())
of_whole_ways = given(observations=observation_spaces(1000, empties | texts), actions=action_spaces(1000))


@of_parts
@few(100)
def test_values_are_of_their_space(observations: Space, actions: Space) -> None:
    check_parts(observations, actions)


@of_parts
@few(50)
def test_online_agents_act_in_their_space(observations: Space, actions: Space) -> None:
    check_online(observations, actions)


@of_whole_ways
@few(8)
def test_the_commands_take_values_of_any_space(observations: Space, actions: Space) -> None:
    check_whole_way(observations, actions)


@pytest.mark.slow
@of_parts
@many(2000)
def test_values_are_of_their_space_long(observations: Space, actions: Space) -> None:
    check_parts(observations, actions)
    check_online(observations, actions)


@pytest.mark.slow
@of_whole_ways
@many(300)
def test_the_commands_take_values_of_any_space_long(observations: Space, actions: Space) -> None:
    check_whole_way(observations, actions)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete(np.array([1, 2]), np.uint64, start=np.array([2**63 - 3, 0], np.uint64)),
        spaces.Box(2**62, 2**63 - 1025, (2,), np.int64),
        spaces.Box(2**53, 2**53 + 3, (2,), np.int64),
    ],
    ids=str,
)
def test_random_actions_are_in_their_space(space: Space) -> None:
    """Gymnasium's own samples of such a batch aren't."""
    policy = RandomPolicy(space, seed=0)
    for _ in range(20):
        actions, _ = policy.predict(None, None, np.ones(4, np.bool_))
        assert_contained(space, actions, 4)


@pytest.mark.parametrize("space", UNUSABLE, ids=str)
@pytest.mark.parametrize("of_actions", [False, True], ids=["observations", "actions"])
def test_what_cannot_be_used_is_refused_at_the_first_door(
    space: Space, of_actions: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    observations, actions = (VECTOR, space) if of_actions else (space, PLAIN)
    for name in ("bc", "ppo"):
        with pytest.raises(UsageError):
            make(name, observations, actions)
    with data_folder() as folder, pytest.MonkeyPatch.context() as patch:
        with pytest.raises(UsageError):
            written(observations, actions, [])
        patch.setattr(Random, "observations", observations)
        patch.setattr(Random, "actions", actions)
        assert main(["collect", ENV, "--policy", "random", "--episodes", "3"]) == 2
        assert not list((folder / "data").rglob("*"))
    *warnings, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert all(line.startswith("warning: ") for line in warnings)
