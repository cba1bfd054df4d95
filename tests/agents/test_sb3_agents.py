"""The agents that Stable-Baselines3 trains: their networks are its own, in any space, and act like every agent's."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatten
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given, settings
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import rmt_rl  # noqa: F401  (registers the environments)
from rmt_rl import registry
from rmt_rl.agent import AgentSpec
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import load_agent, path_of, save_agent
from rmt_rl.sb3_agent import SB3Agent, View
from rmt_rl.wrappers import ReturnToGo
from tests.agents.examples import MIXED, VECTOR, draw
from tests.agents.test_agent_checkpoint import NESTED
from tests.agents.test_agent_spaces import Space, observation_spaces

BOOL: Any = np.bool_  # which Gymnasium's types of a Box leave out
PLAIN = spaces.Discrete(4)
IMAGE = spaces.Box(0, 255, (84, 84, 4), np.uint8)
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 8, "batch_size": 8},
    "recurrent_ppo": {"n_steps": 8, "batch_size": 8, "lstm_hidden_size": 8},
}
every_agent = pytest.mark.parametrize("name", SMALL)


def make(name: str, observations: Space = VECTOR, actions: Space = PLAIN, **options: Any) -> SB3Agent:
    torch.manual_seed(0)
    cls = cast("type[SB3Agent]", registry.agent_class(name))
    agent = cls(validated(cls.Config, SMALL[name] | options), AgentSpec(observations, actions))
    return agent


class Noise(gymnasium.Env[Any, Any]):
    """Random observations of a space, episodes of 5 steps; rewards follow the first observation."""

    def __init__(self, observations: Space, actions: Space) -> None:
        self.observation_space, self.action_space, self.steps = observations, actions, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(seed) if seed is not None else None
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        assert action in self.action_space
        return self.observation_space.sample(), float(np.sum(action)), self.steps == 5, False, {}


@every_agent
@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (VECTOR, PLAIN),
        (IMAGE, PLAIN),
        (spaces.Discrete(5), spaces.MultiDiscrete([3, 2])),
        (spaces.MultiDiscrete([3, 2, 4]), spaces.MultiBinary(3)),
        (spaces.MultiBinary([2, 3]), spaces.Box(-2, 3, (2,), np.float32)),
        (spaces.Dict(a=VECTOR, b=spaces.Discrete(3)), spaces.Box(-1, 1, (1, 2), np.float32)),
    ],
    ids=str,
)
def test_its_network_is_that_of_stable_baselines3(name: str, observations: Space, actions: Space) -> None:
    """Trained without this toolkit, then put in here: the same actions, batched and alone."""
    if name == "recurrent_ppo" and isinstance(observations, spaces.MultiDiscrete):
        pytest.skip("sb3-contrib gives its LSTM a NumPy number as width there, which PyTorch refuses")
    agent = make(name, observations, actions)
    algorithm: Any = agent.Algorithm
    theirs: OnPolicyAlgorithm = algorithm(
        ("MultiInput" if isinstance(observations, spaces.Dict) else agent.view.network) + agent.policy_kind,
        make_vec_env(lambda: Noise(observations, actions), 2, seed=1),
        n_steps=8,
        batch_size=8,
        policy_kwargs={"lstm_hidden_size": 8} if name == "recurrent_ppo" else {},
        seed=1,
    ).learn(16)
    agent.policy.load_state_dict(theirs.policy.state_dict())
    state = other = None
    for step in range(4):
        seen, starts = draw(observations, 2), np.array([step == 0, step in (0, 2)])
        action, state = agent.predict(seen, state, starts)
        expected, other = theirs.predict(seen, other, starts, deterministic=True)
        np.testing.assert_array_equal(action, expected)
    seen = observations.sample()
    np.testing.assert_allclose(agent.predict(seen)[0], theirs.predict(seen, deterministic=True)[0], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*Casting input x")  # a number of a Box () is no array
@every_agent
@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (spaces.Dict(image=IMAGE, goal=spaces.Discrete(2)), PLAIN),
        (spaces.Tuple((VECTOR, spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])))), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Box(-1, 1, (), np.float64)),
        (spaces.Discrete(3, start=-2, dtype=np.int8), spaces.Discrete(3, start=1, dtype=np.int32)),
        (
            spaces.MultiDiscrete(np.array([200, 100]), np.uint8),
            spaces.MultiDiscrete(np.array([[2, 200]]), np.uint8, start=np.array([[0, 9]])),
        ),
        (spaces.Tuple((VECTOR, spaces.Tuple(()), spaces.Box(-1, 1, (0,)))), spaces.MultiBinary([2, 2])),
        (spaces.Box(0, 1, (2,), BOOL), spaces.Box(np.array([0, 1]), np.array([1, 1]), dtype=BOOL)),
        (spaces.Box(-1, 1, (2,), np.float16), spaces.Box(-0.1, 0.1, (2, 1), np.float16)),
    ],
    ids=str,
)
def test_it_learns_in_spaces_that_stable_baselines3_lacks(name: str, observations: Space, actions: Space) -> None:
    """And then acts as the algorithm does that trained it."""
    agent = make(name, observations, actions)
    before = [parameter.clone() for parameter in agent.parameters()]
    env = make_vec_env(lambda: agent.viewed(Noise(observations, actions)), 2)
    algorithm = agent.make_algorithm(env, "cpu").learn(16)
    assert not all(torch.equal(old, new) for old, new in zip(before, agent.parameters(), strict=True))
    seen = draw(observations, 3)
    expected, _ = algorithm.predict(agent.view.batch(seen)[0], deterministic=True)
    np.testing.assert_array_equal(agent.predict(seen)[0], agent.actions.originals(expected))
    assert agent.predict(observations.sample())[0] in actions


@every_agent
def test_options_are_those_of_stable_baselines3(name: str) -> None:
    """By name and default."""
    agent = make(name)
    known = {**signature(type(agent.policy)).parameters, **signature(agent.Algorithm).parameters}
    unlike = {"activation_fn"}  # a class, which is named here
    fields = registry.agent_class(name).Config.model_fields
    assert {key: field.default for key, field in fields.items() if key not in unlike} == {
        key: known[key].default for key in fields if key not in unlike
    }
    assert known["activation_fn"].default is torch.nn.Tanh


@every_agent
def test_options_reach_the_network(name: str) -> None:
    policy = make(name, net_arch=(5, 6), activation_fn="ReLU", learning_rate=0.5).policy
    layers = list(policy.mlp_extractor.policy_net)
    assert [type(layer) for layer in layers] == [torch.nn.Linear, torch.nn.ReLU] * 2
    assert [layers[0].out_features, layers[2].out_features] == [5, 6]
    assert policy.optimizer.param_groups[0]["lr"] == 0.5
    if name == "recurrent_ppo":
        policy = make(name, n_lstm_layers=2, enable_critic_lstm=False).policy
        assert (policy.lstm_actor.num_layers, policy.lstm_actor.hidden_size, policy.lstm_critic) == (2, 8, None)


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="shared_lstm=True and enable_critic_lstm=True exclude each other"):
        make("recurrent_ppo", shared_lstm=True)
    with pytest.raises(UsageError, match=r"unknown option clip_rang=0\.1 .* did you mean 'clip_range'"):
        make("ppo", clip_rang=0.1)


@pytest.mark.filterwarnings("ignore:.*Casting input x")
@every_agent
@given(observations=observation_spaces)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
def test_acts_in_any_space(name: str, observations: Space) -> None:
    observations.seed(0)
    agent, state = make(name, observations), None
    batch = draw(observations, 3)
    for step in range(3):
        actions, state = agent.predict(batch, state, deterministic=step == 1)
        assert all(action in PLAIN for action in iterate(batch_space(PLAIN, 3), actions))
    assert agent.predict(observations.sample())[0] in PLAIN
    alone = [agent.view.single(each) for each in iterate(batch_space(observations, 3), batch)]
    seen, lanes, single = agent.view.batch(batch)
    assert (lanes, single) == (3, False)
    assert all(each in agent.view.space for each in alone)
    np.testing.assert_array_equal(seen, alone)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple((spaces.Discrete(3, start=-1), spaces.MultiBinary([2, 2]))),
        spaces.Dict(a=spaces.Box(-1, 1, (2, 2)), b=spaces.Tuple((spaces.Box(0, 1, ()), spaces.Discrete(2)))),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    ],
    ids=str,
)
def test_a_vector_is_that_of_gymnasium(space: Space) -> None:
    """The space's own flattening has the same order."""
    space.seed(0)
    for _ in range(10):
        value: Any = space.sample()
        np.testing.assert_allclose(View(space).single(value), np.asarray(flatten(space, value)), rtol=1e-6)


def test_what_is_seen_of_images() -> None:
    view = View(spaces.Dict(small=spaces.Box(0, 255, (7, 7, 3), np.uint8), large=IMAGE, goal=spaces.Discrete(2)))
    assert view.network == "MultiInput"
    seen = view.single(
        {
            "small": np.full((7, 7, 3), 51, np.uint8),
            "large": np.eye(84, dtype=np.uint8)[..., None].repeat(4, 2),
            "goal": 1,
        }
    )
    np.testing.assert_allclose(seen["part0"], [0, 1] + [0.2] * 147)
    np.testing.assert_array_equal(seen["part1"], np.eye(84)[None].repeat(4, 0))
    assert seen in view.space
    first = View(spaces.Box(0, 255, (4, 84, 84), np.uint8))
    assert (first.network, first.space) == ("Cnn", View(IMAGE).space)


@every_agent
@pytest.mark.parametrize(
    "actions",
    [
        MIXED,
        spaces.Dict(a=PLAIN),
        spaces.Box(-np.inf, 1, (2,)),
        spaces.Box(0, 5, (2,), np.int64),
    ],
    ids=str,
)
def test_actions_without_a_distribution_are_named(name: str, actions: Space) -> None:
    with pytest.raises(UsageError, match=rf"action_space={type(actions).__name__}\(.*has no distribution"):
        make(name, VECTOR, actions)


@every_agent
@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Tuple((VECTOR, spaces.Sequence(VECTOR)))], ids=str)
def test_an_unknown_kind_of_space_is_named(name: str, space: Space) -> None:
    with pytest.raises(UsageError, match=r"space=(Text|Sequence).*use Box, Discrete"):
        make(name, space)


@every_agent
def test_wrong_shapes_and_numbers_of_lanes_are_named(name: str) -> None:
    agent = make(name)
    for shape in ((2,), (2, 2), (1, 2, 3)):
        with pytest.raises(UsageError, match=r"observation has shape .*; give one of shape \(3,\)"):
            agent.predict(np.zeros(shape))
    with pytest.raises(UsageError, match="episode_start is of 2 environments, the observation of 3"):
        agent.predict(np.zeros((3, 3)), None, np.zeros(2, bool))
    if name == "recurrent_ppo":
        _, state = agent.predict(np.zeros((2, 3)))
        with pytest.raises(UsageError, match="state is of 2 environments, the observation of 3"):
            agent.predict(np.zeros((3, 3)), state)


@every_agent
def test_a_return_to_go_is_left_out(name: str) -> None:
    agent, observations, to_go = make(name), draw(VECTOR, 5), np.ones((5, 1), np.float32)
    actions = agent.predict(observations)[0]
    np.testing.assert_array_equal(agent.predict({"observation": observations, "return_to_go": to_go})[0], actions)
    own = make(name, spaces.Dict(observation=VECTOR, return_to_go=VECTOR))
    assert own.predict({"observation": observations, "return_to_go": observations})[0].shape == (5,)


def test_the_state_is_a_value_and_lanes_restart_alone() -> None:
    VECTOR.seed(0)
    agent = make("recurrent_ppo", actions=spaces.Box(-9, 9, (2,)))
    with torch.no_grad():
        agent.policy.action_net.weight.mul_(100)  # so that actions tell states apart
    one, two = draw(VECTOR, 3), draw(VECTOR, 3)
    fresh, _ = agent.predict(two)
    _, state = agent.predict(one)
    before = [part.copy() for part in state]
    later, _ = agent.predict(two, state)
    mixed, _ = agent.predict(two, state, np.array([False, True, False]))
    np.testing.assert_array_equal(state, before)
    assert np.abs(later - fresh).min() > 1e-4
    np.testing.assert_allclose(mixed, np.where([[False], [True], [False]], fresh, later), rtol=1e-5)


@every_agent
def test_sampling_follows_its_own_seed(name: str) -> None:
    agent, observations = make(name), draw(VECTOR, 40)
    runs: list[list[list[int]]] = []
    for seed in (3, 3, 4):
        agent.set_random_seed(seed)
        torch.manual_seed(seed + len(runs))  # which is no matter
        before = torch.get_rng_state()
        runs.append([agent.predict(observations, deterministic=False)[0].tolist() for _ in range(2)])
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


@every_agent
@pytest.mark.parametrize(
    ("observations", "actions"), [(NESTED, PLAIN), (IMAGE, spaces.Box(-1, 1, (2,)))], ids=["nested", "image"]
)
def test_a_loaded_agent_is_as_it_was(name: str, observations: Space, actions: Space, tmp_path: Path) -> None:
    agent = make(name, observations, actions, net_arch=(8,))
    save_agent(path_of(tmp_path), agent, name, update=3)
    loaded = load_agent(tmp_path)
    assert (type(loaded), loaded.config, loaded.spec) == (type(agent), agent.config, agent.spec)
    torch.testing.assert_close(loaded.state_dict(), agent.state_dict(), rtol=0, atol=0)
    state = other = None
    for _ in range(3):
        observation = draw(observations, 2)
        action, state = agent.predict(observation, state)
        again, other = loaded.predict(observation, other)
        np.testing.assert_array_equal(again, action)


@every_agent
@pytest.mark.parametrize("to_go", [False, True])
def test_evaluate_policy_takes_it_as_model(name: str, to_go: bool) -> None:
    def tmaze() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("rmt_rl/TMaze-v0", corridor_length=5, penalty=-0.25)
        return ReturnToGo(env, 1.0) if to_go else env

    env = tmaze()
    agent = make(name, gymnasium.make("rmt_rl/TMaze-v0").observation_space, env.action_space)
    vec_env: Any = make_vec_env(tmaze, 3, seed=5)
    returns, _ = evaluate_policy(agent, vec_env, 6, return_episode_rewards=True)
    assert isinstance(returns, list)
    alone = []
    for lane in range(3):
        seed: int | None = 5 + lane
        for _ in range(2):
            state, total, over, start = None, 0.0, False, True
            observation, _ = env.reset(seed=seed)
            while not over:
                action, state = agent.predict(observation, state, np.array([start]))
                observation, reward, terminated, truncated, _ = env.step(action)
                total, over, start, seed = total + float(reward), terminated or truncated, False, None
            alone.append(total)
    np.testing.assert_allclose(sorted(returns), sorted(alone))
