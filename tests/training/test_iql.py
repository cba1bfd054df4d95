"""Implicit Q-learning: its targets across borders, the values that it converges to, and exact resumption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.agent import Agent
from rmt_rl.data.segment import Batch, Segment, Span, cut
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, names
from rmt_rl.runs.checkpoint import read_checkpoint
from rmt_rl.runs.options import OfflineRun, learner_class, make_config
from rmt_rl.training.iql import IQLLearner, one_step_more
from rmt_rl.training.loop import resume, train
from tests.agents.examples import MIXED, VECTOR, make, trajectory
from tests.tiny import assert_same_run, started, tiny, work_folder

LENGTH = 3
MEMORIES = [name for name in names("agents") if name != "iql" and issubclass(agent_class(name), Agent)]


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with work_folder(tmp_path_factory):
        yield


def agent_with(memory: str, **options: Any) -> Any:
    cls: Any = agent_class("iql")
    return make(cls, cls.Config(memory=memory, segment_length=LENGTH, width=32, **options)).double()


def batch_of(episodes: Sequence[Trajectory], steps: Sequence[int]) -> Batch:
    """Return the first steps of each episode as a batch."""
    spans = [Span(episode, 0, stop) for episode, stop in zip(episodes, steps, strict=True)]
    return Batch(cut(spans, LENGTH), torch.ones(len(spans), dtype=torch.bool), sum(steps))


@pytest.mark.parametrize("steps", [[1, 2, 3, 4, 6, 7], [6, 9, 3], [1, 1], [2, 5], [3]])
def test_the_value_after_each_step_is_that_of_the_next_one(steps: list[int]) -> None:
    """Over borders of segments, behind what an update reads, and at an episode's last observation."""
    learner = IQLLearner(tiny("iql", agent_options={"memory": "rate", "segment_length": LENGTH}))
    agent = agent_with("rate")
    learner.model = learner.bootstrapping = agent
    for more in (0, 2):  # the episode's end, or steps that the update doesn't read
        episodes = [trajectory(VECTOR, MIXED, count + more) for count in steps]
        batch = batch_of(episodes, steps)
        prepared = learner.prepared(batch, agent.initial_state(len(steps)))
        for row, (episode, count) in enumerate(zip(episodes, steps, strict=True)):
            expected = values_after(agent, episode, count)
            found = [
                segment.next_values[row, : segment.lengths[row]]
                for segment in prepared.segments
                if segment.next_values is not None
            ]
            torch.testing.assert_close(torch.cat(found), expected)


def values_after(agent: Any, episode: Any, count: int) -> torch.Tensor:
    """Return the values after the first steps of an episode, from one more of its steps, of any action."""
    repeated = tuple(np.concatenate((part[:count], part[:1])) for part in episode.actions)
    ends = np.zeros(count + 1, np.bool_)
    observations = np.concatenate((episode.observations[: count + 1], episode.observations[:1]))
    longer = Trajectory(observations, repeated, np.zeros(count + 1), ends, ends)
    state = agent.initial_state(1)
    values = []
    with torch.no_grad():
        for segment in cut([Span(longer, 0, count + 1)], LENGTH):
            outputs, state = agent(segment, state)
            values.append(agent.values(outputs)[0])
    return torch.cat(values)[1:]


def test_only_what_was_terminated_is_worth_nothing_afterwards() -> None:
    agent = agent_with("bc", discount=0.5)
    goals = []
    for terminated in (True, False):
        episode = trajectory(VECTOR, MIXED, 2)
        ends = np.array([False, True])
        flags: Any = {"terminations": ends & terminated, "truncations": ends & (not terminated)}
        (segment,) = cut([Span(replace(episode, **flags), 0, 2)], LENGTH)
        goal, known = agent._goal(torch.zeros(1, 2), replace(segment, next_values=torch.full((1, 2), 8.0)))
        assert known.all()
        goals.append((goal - segment.rewards / agent.spec.return_scale).tolist())
    assert goals == [[[4.0, 0.0]], [[4.0, 4.0]]]


def test_without_values_after_the_segment_its_last_step_teaches_no_action_value() -> None:
    agent = agent_with("bc")
    episodes = [trajectory(VECTOR, MIXED, count) for count in (5, 2)]
    first, second = batch_of(episodes, [5, 2]).segments
    for segment, learns in (
        (first, [[True, True, False], [True, True, False]]),
        (second, [[True, True], [False, False]]),
    ):
        outputs, _ = agent(segment, agent.initial_state(2))
        assert (agent.loss_parts(outputs, segment).action_value != 0).tolist() == learns


def test_segments_without_the_observation_behind_them_are_refused() -> None:
    (segment,) = batch_of([trajectory(VECTOR, MIXED, 2)], [2]).segments
    with pytest.raises(UsageError, match="the feed's segments lack `following`"):
        one_step_more([replace(segment, following=None)], LENGTH)


@pytest.mark.parametrize("memory", MEMORIES)
def test_any_memory_acts_as_it_was_trained(memory: str) -> None:
    agent = agent_with(memory)
    episode = trajectory(VECTOR, MIXED, 2 * LENGTH)
    outputs: list[torch.Tensor] = []
    hook = agent.to_action.register_forward_hook(lambda module, inputs, output: outputs.append(output[0].clone()))
    state, actions = None, []
    for observation in np.asarray(episode.observations)[:-1]:
        action, state = agent.predict(observation, state)
        actions.append(action)
    hook.remove()
    played = tuple(np.stack(part) for part in zip(*actions, strict=True))
    parts = batch_of([replace(episode, actions=played)], [2 * LENGTH]).segments
    carried, found = agent.initial_state(1), []
    with torch.no_grad():
        for segment in parts:
            output, carried = agent(segment, carried)
            found.append(output[0])
    torch.testing.assert_close(torch.cat(found), torch.stack(outputs))


class Chain(gymnasium.Env[np.int64, np.int64]):
    """Three states in a row: action 1 goes on, action 0 ends the episode; going on from the last one pays 1."""

    observation_space = spaces.Discrete(3)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return np.int64(0), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        went = bool(action)
        arrived = went and self.place == 2
        self.place = min(self.place + went, 2)
        return np.int64(self.place), float(arrived), arrived or not went, False, {}


def learnt(dataset: str, updates: int, observations: Sequence[int], **options: Any) -> Any:
    """Return a memoryless agent's values of observations, after training on a data set of `Chain`'s spaces."""
    values = {
        "env": f"{__name__}:Chain",
        "agent": "iql",
        "env_options": {},
        "agent_options": {"memory": "bc", "segment_length": 2, "width": 16, "hidden": 32, "target_rate": 0.1} | options,
        "data": {"dataset": [dataset], "batch_size": 8, "segments": 2},
        "training": {"updates": updates, "learning_rate": 5e-3, "accelerator": "cpu"},
    }
    config = make_config(values)
    assert isinstance(config, OfflineRun)
    learner = started(config, Path("no run"))
    for _ in range(updates):
        learner.advance()
    seen = torch.tensor(observations)[None]
    nothing = torch.zeros(seen.shape)
    no = nothing.bool()
    segment = Segment(seen, torch.zeros_like(seen), nothing, nothing, no, no, torch.tensor([len(observations)]))
    agent: Any = learner.model.eval()
    with torch.no_grad():
        outputs, _ = agent(segment, agent.initial_state(1))
        return agent.values(outputs)[0].numpy() * agent.spec.return_scale


def written(name: str, episodes: Sequence[Trajectory]) -> str:
    """Write a data set of `Chain`'s spaces; return its id."""
    identity = f"chain/{name}-v0"
    write_dataset(
        identity,
        episodes,
        env_spec=None,
        observation_space=Chain.observation_space,
        action_space=Chain.action_space,
        algorithm_name="none",
        description="States in a row.",
    )
    return identity


def walk(actions: list[int]) -> Trajectory:
    """Return the episode of these actions in `Chain`."""
    env = Chain()
    places = [env.reset()[0]]
    rewards = []
    ends = []
    for action in actions:
        place, reward, ended, _, _ = env.step(np.int64(action))
        places.append(place)
        rewards.append(reward)
        ends.append(ended)
    return Trajectory(
        np.array(places), np.array(actions), np.array(rewards), np.array(ends), np.zeros(len(ends), np.bool_)
    )


def test_values_are_the_behaviours_or_nearer_to_the_best() -> None:
    """With expectile 0.5 a value is the behaviour's; with a high one nearer to that of always going on."""
    as_if_by_coin = [[0]] * 4 + [[1, 0]] * 2 + [[1, 1, 0], [1, 1, 1]]
    identity = written("coin", [walk(actions) for actions in as_if_by_coin])
    mean = learnt(identity, 150, [0, 1, 2], expectile=0.5, discount=0.8)
    np.testing.assert_allclose(mean, [0.5**3 * 0.8**2, 0.5**2 * 0.8, 0.5], atol=0.05)
    high = learnt(identity, 100, [0, 1, 2], expectile=0.95, discount=0.8)
    best = np.array([0.8**2, 0.8, 1.0])
    assert (high > mean + 0.15).all()
    assert (high < best + 0.05).all()


@pytest.mark.parametrize(("truncated", "expected"), [(True, 2.0), (False, 1.5)])
def test_a_truncated_end_is_bootstrapped(truncated: bool, expected: float) -> None:
    """A reward of 1 a step for ever is worth 1 / (1 - 0.5), seen for two steps; less if the second one ends it."""
    ends, none = np.array([False, True]), np.zeros(2, np.bool_)
    flags = (none, ends) if truncated else (ends, none)
    places = np.array([0, 1, 0])  # the state behind a truncated end is known, too
    episode = Trajectory(places, np.array([0, 1]), np.ones(2), *flags)
    identity = written(f"truncated{truncated}", [episode] * 8)
    first, _ = learnt(identity, 100, [0, 1], discount=0.5)
    assert first == pytest.approx(expected, abs=0.15)


AGED = {"ageing": 2, "ageing_from": 0, "ageing_updates": 2}


@pytest.mark.parametrize(
    "options",
    [{"data": {"feed": "streams"}, **AGED}, {"gradient": "replay", "data": {"feed": "windows", "burn_in": 1}}],
)
def test_a_run_is_repeated_and_resumed_exactly(options: dict[str, Any], tmp_path: Path) -> None:
    config = tiny("iql", evaluation={"eval_episodes": 2, "eval_every": 10}, **options)
    train(config, tmp_path / "whole")
    calls = iter(range(100))
    train(config, tmp_path / "parts", should_stop=lambda: next(calls) >= 4)
    stopped = read_checkpoint(tmp_path / "parts" / "last.safetensors")
    assert 0 < stopped.header.update < 10
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    final = read_checkpoint(tmp_path / "parts" / "last.safetensors").group("model")
    name = "critic.target_first_layers_0_weight"
    learnt_weight, copied = final["critic.twins.first.layers.0.weight"], final[name]
    assert not torch.equal(copied, learnt_weight)
    assert not torch.equal(copied, stopped.group("model")[name])


def test_the_target_network_follows_by_its_rate() -> None:
    agent = agent_with("bc", target_rate=0.25)
    (weight,) = [each for name, each in agent.critic.twins.named_parameters() if name == "first.layers.2.bias"]
    with torch.no_grad():
        weight += 8
    before = agent.critic.get_buffer("target_first_layers_2_bias").clone()
    agent.follow()
    torch.testing.assert_close(agent.critic.get_buffer("target_first_layers_2_bias"), before + 2)


def test_better_actions_weigh_more() -> None:
    """By the exponential of the advantage, up to 100; by temperature 0 all weigh 1, as in behaviour cloning."""
    agent = agent_with("bc", temperature=2.0)
    (segment,) = batch_of([trajectory(VECTOR, MIXED, 2)], [2]).segments
    outputs, _ = agent(segment, agent.initial_state(1))
    for advantage, weight in ((0.5, np.exp(1.0)), (-1.0, np.exp(-2.0)), (50.0, 100.0)):
        agent.critic.target_value = lambda y, action, by=advantage: agent.critic.value(y).detach() + by
        nll = Agent.losses(agent, outputs[..., : agent.to_action.out_features], segment)[0]
        torch.testing.assert_close(agent.loss_parts(outputs, segment).actor, weight * nll, check_dtype=False)


@pytest.mark.parametrize("memory", ["ppo", "iql", "nobody"])
def test_a_memory_must_be_that_of_an_agent_with_a_core(memory: str) -> None:
    with pytest.raises(UsageError, match=r"memory='(ppo|iql)' has no core of its own|unknown agent 'nobody'"):
        tiny("iql", agent_options={"memory": memory})


def test_the_defaults_of_a_memory_must_fit() -> None:
    with pytest.raises(UsageError, match=r"context=90 is less than segment_length=200"):
        tiny("iql", agent_options={"memory": "dt", "segment_length": 200})


def test_divided_weights_are_refused() -> None:
    config = tiny("iql", strategy="fsdp")
    with pytest.raises(UsageError, match="strategy='fsdp': agent 'iql' can't be divided"):
        learner_class("iql")(config)
