from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, RandomPolicy, Share, parse_share
from rmt_rl.acting.provenance import dataset_id
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import Step, rollout
from rmt_rl.agent import AgentSpec
from rmt_rl.cli import main
from rmt_rl.data.references import read_references
from rmt_rl.data.root import data_root
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.runs.folder import read_config, write_config
from rmt_rl.runs.options import OfflineRun
from rmt_rl.training.loop import resume, train
from rmt_rl.training.needs import bytes_of_step
from tests.recall import Config, Expert, Recall
from tests.tiny import tiny

OPTIONS = {"corridor_length": [2, 9]}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def test_the_experts_episodes_are_all_there_and_all_right() -> None:
    identity = collect("tmaze", OPTIONS, episodes=150, seed=3)
    store = EpisodeStore(identity)
    assert len(store) == 150
    assert set(store.lengths) == set(range(3, 11)), "every corridor, one more step to the goal"
    for index in range(len(store)):
        episode = store.episode(index)
        assert episode.rewards.sum() == episode.rewards[-1] == 1.0
        assert episode.terminations[-1]
        observations = np.asarray(episode.observations)
        hints = observations[:, 1]
        assert abs(hints[0]) == 1, "each episode begins with its hint, not within a neighbour's episode"
        assert not hints[1:].any()
        assert episode.actions[-1] == (1 if hints[0] > 0 else 3)  # type: ignore[index]
        assert observations[-1, 0] == hints[0], "the last observation is the one at the goal"


def test_it_opens_in_plain_minari_and_recovers_the_environment() -> None:
    identity = collect("tmaze", OPTIONS, episodes=5, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = minari.load_dataset(identity)
        env = dataset.recover_environment()
    assert env.unwrapped.config.corridor_length == (2, 9)
    facts = dataset.storage.metadata
    assert facts["ref_max_score"] == 1.0
    assert 0 <= facts["ref_min_score"] < 0.5
    assert json.loads(facts["options"])["corridor_length"] == [2, 9]
    assert json.loads(facts["seed"]) == 0


def test_the_same_request_gives_the_same_data_and_another_seed_others(root: Path) -> None:
    def data(identity: str) -> list[NDArray[Any]]:
        store = EpisodeStore(identity)
        return [np.asarray(store.episode(index).observations) for index in range(len(store))]

    identity = collect("tmaze", OPTIONS, 20, seed=0)
    first, other = data(identity), data(collect("tmaze", OPTIONS, 20, seed=1))
    minari.delete_dataset(identity)
    assert collect("tmaze", OPTIONS, 20, seed=0) == identity
    again = data(identity)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_data_that_are_there_are_not_made_again(root: Path) -> None:
    identity = collect("tmaze", OPTIONS, 5, seed=0)
    file = root / identity / "data" / "main_data.hdf5"
    before = file.stat().st_mtime_ns
    assert collect("tmaze", OPTIONS, 5, seed=0) == identity
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("task", "options", "episodes", "message"),
    [
        ("tmase", {}, 5, "did you mean 'tmaze'"),
        ("tmaze", {"coridor_length": 5}, 5, "did you mean 'corridor_length'"),
        ("tmaze", {"corridor_length": 0}, 5, "corridor_length=0"),
        ("tmaze", {}, 0, "episodes = 0"),
    ],
)
def test_bad_requests_are_refused(root: Path, task: str, options: dict[str, Any], episodes: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collect(task, options, episodes, seed=0)
    assert not [path for path in root.rglob("*") if path.is_file()], "nothing is left behind"


class Trees(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observations and actions that are trees."""

    def __init__(self, length: int) -> None:
        super().__init__(Recall(length))
        self.observation_space = spaces.Dict({"a": spaces.Tuple([self.env.observation_space, spaces.Discrete(99)])})
        self.action_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))])

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**settings)
        return {"a": (observation, 0)}, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action[0])
        return {"a": (observation, int(observation[1]))}, *rest  # type: ignore[return-value]


def test_trees_are_cut_lane_by_lane() -> None:
    lengths = (2, 3, 11)
    env = SyncVectorEnv([lambda length=length: Trees(length) for length in lengths])  # type: ignore[misc]
    policy = RandomPolicy(env.single_action_space, seed=0)
    episodes = list(trajectories(rollout(policy, env, 9, seed=0), env.num_envs))
    assert sorted(map(len, episodes)) == [2, 2, 2, 3, 3, 3, 11, 11, 11]
    for episode in episodes:
        observations: Any = episode.observations
        actions: Any = episode.actions
        vector, count = observations["a"]
        assert count.tolist() == vector[:, 1].tolist() == list(range(len(episode) + 1))
        assert [action.shape for action in actions] == [(len(episode),), (len(episode), 2)]
        right = actions[0][-1] == vector[0, 0]
        assert episode.rewards[-1] == right, "actions, rewards and observations are of the same lane"


def test_steps_are_held_no_longer_than_an_open_episode_needs() -> None:
    env = SyncVectorEnv([lambda: Recall(2), lambda: Recall(11)])
    seen: list[weakref.ref[NDArray[Any]]] = []

    def watched() -> Iterator[Step]:
        for step in rollout(Expert(Config()), env, 80, seed=0):
            seen.append(weakref.ref(step.rewards))
            yield step

    most = max(sum(reward() is not None for reward in seen) for _ in trajectories(watched(), env.num_envs))
    assert len(seen) > 400
    assert most <= 12


LARGEST = float(np.finfo(np.float64).max)
WIDEST = spaces.Box(-LARGEST, LARGEST, (2,), np.float64)


class Widest(gymnasium.Env[Any, Any]):
    """Observations and, if asked for, actions with the largest bounds there are, as of old environments."""

    observation_space = WIDEST

    def __init__(self, acts: bool = False) -> None:
        self.action_space = WIDEST if acts else spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(2), 1.0, True, False, {}


def test_bounds_between_which_nothing_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    collecting = ["collect", f"{__name__}:Widest", "--policy", "random", "--episodes", "3"]
    assert main(collecting) == 0
    identity = capsys.readouterr().out.strip()
    store = EpisodeStore(identity)
    assert bytes_of_step(AgentSpec(store.observation_space, store.action_space)) == 12
    assert main([*collecting, "--env.acts"]) == 2
    assert "no random action can be drawn from action_space=Box(" in capsys.readouterr().err


def test_random_actions_are_seeded_and_spread() -> None:
    def draw(seed: int) -> NDArray[Any]:
        policy, state, drawn = RandomPolicy(spaces.Discrete(4), seed), None, []
        for _ in range(100):
            actions, state = policy.predict(None, state, np.zeros(10, bool))
            drawn.append(actions)
        return np.array(drawn)

    np.testing.assert_array_equal(draw(1), draw(1))
    counts = np.bincount(draw(1).ravel(), minlength=4)
    assert (abs(counts - 250) < 60).all()


def test_policies_are_mixed_by_their_shares() -> None:
    behaviour = Behaviour((Share("expert", 3), Share("random", 1)))
    identity = collect("tmaze", OPTIONS, episodes=40, seed=0, behaviour=behaviour)
    assert identity.startswith("tmaze/expert-random-40-seed0-")
    store = EpisodeStore(identity)
    won = [bool(store.episode(index).rewards.sum()) for index in range(len(store))]
    assert won[:30] == [True] * 30
    assert sum(won[30:]) < 5
    metadata = minari.load_dataset(identity).storage.metadata
    assert [share["parts"] for share in json.loads(metadata["behaviour"])["shares"]] == [3, 1]
    assert (metadata["ref_max_score"], metadata["algorithm_name"]) == (1.0, "expert + random")
    assert metadata["ref_min_score"] < 0.5
    assert identity != dataset_id("tmaze", OPTIONS, 40, 0, Behaviour((Share("expert"), Share("random"))))


def test_a_trained_agent_plays_and_its_weights_are_part_of_the_id() -> None:
    train(tiny("rate", updates=1, evaluation={"eval_episodes": 0}), Path("run"))
    options = {"corridor_length": [1, 10]}
    behaviour = Behaviour((Share("run"),), sample=True)
    identity = collect("tmaze", options, episodes=8, seed=0, behaviour=behaviour)
    store = EpisodeStore(identity)
    assert np.asarray(store.episode(0).observations).shape[1:] == (4,), "without the return-to-go"
    before = dataset_id("tmaze", options, 8, 0, behaviour)
    assert before == identity
    resumable = read_config(Path("run"))
    assert isinstance(resumable, OfflineRun)
    write_config(
        resumable.model_copy(update={"training": resumable.training.model_copy(update={"updates": 2})}), Path("run")
    )
    resume(Path("run"))
    assert dataset_id("tmaze", options, 8, 0, behaviour) != identity
    with pytest.raises(UsageError, match=r"policy 'run' has observation_space .* choose another run"):
        collect("tmaze", {"ambiguous_position": False}, episodes=8, seed=0, behaviour=behaviour)


@pytest.mark.parametrize("text", ["run=0", "run=-1", "run=x", "run=inf"])
def test_bad_shares_are_explained(text: str) -> None:
    with pytest.raises(UsageError, match="a number of parts above 0"):
        parse_share(text)


def test_an_unknown_policy_is_explained() -> None:
    with pytest.raises(
        UsageError, match="policy 'nobody' is neither 'expert' nor 'random' nor 'histories' nor the folder"
    ):
        collect("tmaze", OPTIONS, episodes=8, seed=0, behaviour=Behaviour((Share("nobody"),)))


def test_an_environment_of_gymnasium_by_its_id() -> None:
    identity = collect("CartPole-v1", {}, episodes=3, seed=0, behaviour=Behaviour((Share("random"),)))
    assert identity.startswith("CartPole-v1/random-3-seed0-")
    assert minari.load_dataset(identity).recover_environment().spec.id == "CartPole-v1"
    with pytest.raises(UsageError, match=r"has no expert.*--policy"):
        collect("CartPole-v1", {}, episodes=3, seed=0)


def test_a_game_without_an_expert_can_be_played_by_others() -> None:
    pytest.importorskip("ale_py")
    options = {"game": "Pong", "max_steps": 5}
    identity = collect("atari", options, episodes=2, seed=0, behaviour=Behaviour((Share("random"),)))
    assert len(EpisodeStore(identity)) == 2


def test_every_policy_of_a_mix_plays() -> None:
    with pytest.raises(UsageError, match=r"policy 'random' would play none of 3 episodes with 1 of 1001 parts"):
        collect("tmaze", OPTIONS, 3, 0, Behaviour((Share("expert", 1000), Share("random", 1))))


def test_options_of_trained_agents_need_one() -> None:
    with pytest.raises(UsageError, match="sample, target_return and runtime are for trained agents"):
        collect("tmaze", OPTIONS, 3, 0, Behaviour(sample=True))


def test_the_path_of_a_run_may_hold_what_shares_are_written_with(tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").mkdir()
    assert parse_share(str(tmp_path / "lr=0.1")) == Share(str(tmp_path / "lr=0.1"))
    assert parse_share(str(tmp_path / "lr=0.1=2")) == Share(str(tmp_path / "lr=0.1"), 2)


def test_references_that_are_damaged_or_upside_down_are_none() -> None:
    identity = collect("tmaze", OPTIONS, episodes=5, seed=0)
    assert read_references([identity]) is not None
    assert read_references(["tmaze/absent-v0"]) is None
    path = data_root() / identity / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"ref_min_score": 2.0}))
    assert read_references([identity]) is None
    path.write_text("{")
    with pytest.warns(UserWarning, match="is damaged .* aren't normalised"):
        assert read_references([identity]) is None
