"""Environments that leave Gymnasium's interface, and specs that JSON can't hold work, or one line says why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import Space, spaces
from gymnasium.envs.registration import WrapperSpec
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3.common.monitor import Monitor

import rmt_rl
from rmt_rl.acting.rollout import make_vec_env
from rmt_rl.cli import main
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.gymnasium_task import GymnasiumTask
from rmt_rl.learnable import drop_texts, learnable_space, without_text
from rmt_rl.registry import import_named, load_task
from rmt_rl.runs.folder import read_config
from tests.replicas import write

Capture = pytest.CaptureFixture[str]
TINY = ["--agent.width", "16", "--batch-size", "4", "--updates", "2", "--eval-every", "2", "--accelerator", "cpu"]
QUICK = [*TINY, "--eval-episodes", "2"]
ONLINE = [
    "--total-timesteps",
    "16",
    "--n-envs",
    "2",
    "--agent.n-steps",
    "8",
    "--agent.batch-size",
    "8",
    "--eval-episodes",
    "0",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path


class Odd(gymnasium.Env[Any, Any]):
    """Six steps; `made` replaces parts of what a step returns, `begun` what a reset returns."""

    def __init__(self, **odd: Any) -> None:
        self.odd = odd
        self.observation_space = odd.get("space", spaces.Box(-1, 1, (3,), np.float32))
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.odd.get("begun", (self._observation(), {}))

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.time += 1
        ended = self.time == 6
        ends = {"terminated": ended, "truncated": False}
        values = {"observation": self._observation(), "reward": 1.0, **ends, "info": {}}
        made = (values | self.odd.get("made", {})).values()
        return tuple(made)[: self.odd.get("values", 5)]

    def _observation(self) -> Any:
        self.observation_space.seed(self.time)
        return self.observation_space.sample()


class Unseeded(Odd):
    """A `reset` of old."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset(seed=0)


@pytest.fixture
def registered() -> Iterator[Any]:
    """Yield a function that registers an odd environment with a time limit and returns its id."""
    ids: list[str] = []

    def register(name: str = "Odd", limit: int | None = 20, **kwargs: Any) -> str:
        identity = f"{name}{len(ids)}-v0"
        gymnasium.register(identity, f"{__name__}:{name}", max_episode_steps=limit, kwargs=kwargs)
        ids.append(identity)
        return identity

    yield register
    for identity in ids:
        del gymnasium.registry[identity]


ACCEPTED = [
    {"reward": np.array([1.0])},
    {"reward": np.float32(1)},
    {"reward": np.array(1)},
    {"reward": True},
    {"terminated": np.array([False])},
    {"truncated": np.bool_(False), "terminated": 0},
    {"info": {"odd": object(), "list": [1, "a"], "array": np.zeros((2, 0))}},
]


@pytest.mark.parametrize("limit", [20, None])
@pytest.mark.parametrize("made", ACCEPTED, ids=lambda made: "-".join(made))
def test_one_number_in_any_form_is_accepted(made: dict[str, Any], limit: int | None, registered: Any) -> None:
    with closing(make_env(load_task(registered(limit=limit, made=made)), {})) as env:
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (float(reward), terminated, truncated, info) == (1.0, False, False, {})


SPACE = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple((spaces.Discrete(3),))})
REFUSED = [
    ({"values": 4}, r"step returns 4 values, not observation, reward.*shimmy"),
    ({"begun": np.zeros(3, np.float32)}, r"reset returns an array \(3,\), not an observation and a dict.*shimmy"),
    ({"begun": (np.zeros(3, np.float32), None)}, "reset returns 2 values, not an observation and a dict"),
    ({"made": {"reward": None}}, "step returns the reward None; return one number"),
    ({"made": {"reward": "1"}}, "step returns the reward '1'"),
    ({"made": {"reward": np.zeros(2)}}, r"step returns the reward array\(\[0., 0.\]\)"),
    ({"made": {"terminated": None}}, "step returns terminated = None; return True or False"),
    ({"made": {"truncated": np.zeros(2, bool)}}, r"step returns truncated = array"),
    ({"made": {"info": None}}, "step returns the infos None; return a dict"),
    ({"made": {"observation": np.zeros(4, np.float32)}}, r"observation is an array \(4,\), the space asks for shape"),
    ({"made": {"observation": np.array(["a"] * 3)}}, "observation has dtype <U1, the space asks for float32"),
    ({"made": {"observation": [[1, 2], [3]]}}, r"observation is \[\[1, 2\], \[3\]\], the space asks for shape"),
    (
        {"space": SPACE, "made": {"observation": {"a": np.zeros(2)}}},
        r"the keys \['a'\], the space asks for \['a', 'b'\]",
    ),
    (
        {"space": SPACE, "made": {"observation": {"a": np.zeros(2), "b": 1}}},
        r"observation.b is 1, the space asks for a",
    ),
    ({"space": SPACE, "made": {"observation": {"a": np.zeros(2), "b": (1.5,)}}}, "b.0. has dtype float64, .* int64"),
]


@pytest.mark.parametrize(("kwargs", "message"), REFUSED, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("limit", [20, None])
def test_anything_else_is_named(kwargs: Any, message: str, limit: int | None, registered: Any) -> None:
    with closing(make_env(load_task(registered(limit=limit, **kwargs)), {})) as env:

        def play() -> None:
            env.reset(seed=0)
            env.step(env.action_space.sample())

        with pytest.raises(UsageError, match=rf"env 'Odd0-v0': .*{message}"):
            play()


def test_a_reset_without_a_seed_is_named(registered: Any) -> None:
    with pytest.raises(UsageError, match=r"env 'Unseeded0-v0': reset takes \(\), not seed and options"):
        make_env(load_task(registered("Unseeded")), {})


@pytest.mark.parametrize("command", ["collect {} --policy random --episodes 4", "train {} ppo --out run"])
@pytest.mark.parametrize("kwargs", [{"made": {"reward": np.ones(1)}}, {"values": 4}])
def test_collecting_and_training_online_tell_the_same(
    command: str, kwargs: Any, registered: Any, capsys: Capture
) -> None:
    arguments = command.format(registered(**kwargs)).split()
    works = "made" in kwargs
    assert main([*arguments, *(ONLINE if "ppo" in arguments else [])]) == (0 if works else 2)
    assert works or "step returns 4 values" in capsys.readouterr().err
    assert works or not list(Path("data").glob("*"))


# Arguments that JSON can't hold


KWARGS: dict[str, Any] = {"array": np.ones(3), "int": np.int64(3), "set": {1, 2}, "function": len, "list": [1, 2]}


@pytest.mark.parametrize("name", KWARGS)
def test_registered_arguments_of_any_type_are_those_of_the_registration(
    name: str, registered: Any, capsys: Capture
) -> None:
    env = registered(what=KWARGS[name])
    assert main(["collect", env, "--policy", "random", "--episodes", "8"]) == 0
    identity = capsys.readouterr().out.strip()
    assert main(["train", "--dataset", identity, "bc", *QUICK, "--out", "run"]) == 0
    config = read_config(Path("run"))
    made = load_task(config.env).make(**config.env_options.model_dump(exclude_unset=True)).unwrapped
    assert isinstance(made, Odd)
    assert repr(made.odd["what"]) == repr(KWARGS[name])


class Options(Odd):
    """An environment by its class."""

    def __init__(self, places: set[int] = {1, 2}, anything: Any = 1) -> None:  # noqa: B006
        super().__init__()
        assert isinstance(places, set)


def test_options_of_a_class_are_stored_as_json_has_them(capsys: Capture) -> None:
    name = f"{__name__}:Options"
    import_named(name)
    assert main(["collect", name, "--policy", "random", "--episodes", "8", "--env.places", "3", "4"]) == 0
    identity = capsys.readouterr().out.strip()
    assert main(["train", "--dataset", identity, "bc", *QUICK, "--out", "run"]) == 0
    assert read_config(Path("run")).env_options.model_dump()["places"] == {3, 4}
    with pytest.raises(UsageError, match=r"anything=array.* is of type ndarray, which no file can hold"):
        rmt_rl.train(name, "bc", "other", env_options={"anything": np.ones(2)})
    assert not Path("other").exists()


# Wrappers


def stored(env: gymnasium.Env[Any, Any]) -> str:
    return write("mine/wrapped-v0", env.spec, env.observation_space, env.action_space)


def cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=9)


def pendulum() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Pendulum-v1", max_episode_steps=9)


WRAPPED: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "statistics": lambda: gymnasium.wrappers.RecordEpisodeStatistics(cartpole()),
    "monitor": lambda: Monitor(cartpole()),
    "collector": lambda: minari.DataCollector(cartpole()),
    "limit": lambda: gymnasium.wrappers.TimeLimit(cartpole(), 5),
    "order": lambda: gymnasium.wrappers.OrderEnforcing(cartpole()),
    "checker": lambda: gymnasium.wrappers.PassiveEnvChecker(cartpole()),
    "flatten": lambda: gymnasium.wrappers.FlattenObservation(cartpole()),
    "stack": lambda: gymnasium.wrappers.FrameStackObservation(cartpole(), 3),
    "rescale": lambda: gymnasium.wrappers.RescaleAction(pendulum(), -1, 1),  # type: ignore[arg-type]
    "image": lambda: ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0", max_steps=9)),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("name", WRAPPED)
def test_data_recorded_under_wrappers_are_learnt_from(name: str) -> None:
    assert main(["train", "--dataset", stored(WRAPPED[name]()), "bc", *QUICK, "--out", "run"]) == 0


class Mine(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A wrapper of the user's own, which records its arguments."""

    def observation(self, observation: Any) -> Any:
        return observation


class Needy(Mine):
    def __init__(self, env: gymnasium.Env[Any, Any], needed: int) -> None:
        super().__init__(env)


def test_a_wrapper_that_is_not_made_has_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmt_rl.plugins._named", set())
    spec = gymnasium.spec("CartPole-v1")
    values = json.loads(spec.to_json())
    task = GymnasiumTask("CartPole-v1")

    def make(name: str, kwargs: Any = None) -> gymnasium.Env[Any, Any]:
        wrapper = WrapperSpec(name, f"{__name__}:{name}", kwargs)
        return task.make(spec=json.dumps(values | {"additional_wrappers": [wrapper.__dict__]}))

    with pytest.raises(UsageError, match=r"wrappers \['.*:Mine'\]; .*name its module behind --import; or make the"):
        make("Mine")
    import_named(f"{__name__}:Mine")
    with closing(make("Mine")) as env:
        assert isinstance(env, Mine)
    with pytest.raises(UsageError, match=r"names the wrapper .*:Needy without its needed; make the wrapped"):
        make("Needy")


def test_specs_of_older_versions_are_read() -> None:
    values = json.loads(gymnasium.spec("CartPole-v1").to_json())
    old = values | {"max_episode_steps": 7.0, "autoreset": False, "apply_api_compatibility": False}
    with closing(GymnasiumTask("CartPole-v1").make(spec=json.dumps(old))) as env:
        assert env.spec is not None
        assert env.spec.max_episode_steps == 7


# Texts


MISSION = spaces.Text(20)
NESTED = spaces.Dict(
    {
        "mission": MISSION,
        "image": spaces.Box(0, 255, (3,), np.uint8),
        "inner": spaces.Tuple((MISSION, spaces.Discrete(4), spaces.Dict({"a": MISSION}))),
    }
)


def test_texts_are_left_out_at_every_depth() -> None:
    learnable = learnable_space(NESTED)
    assert learnable == spaces.Dict({"image": NESTED["image"], "inner": spaces.Tuple((spaces.Discrete(4),))})
    value = NESTED.sample()
    assert learnable.contains(without_text(value, NESTED))
    assert learnable.contains(drop_texts(value, learnable))
    batch = {"mission": ("go", "stop"), "image": np.zeros((2, 3)), "inner": (("a", "b"), np.zeros(2), {"a": ("", "")})}
    assert drop_texts(batch, learnable).keys() == {"image", "inner"}
    assert len(drop_texts(batch, learnable)["inner"]) == 1
    assert drop_texts({"other": 1, "image": 2}, learnable).keys() == {"other", "image"}, "not a text"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (MISSION, "observations are text alone"),
        (spaces.Dict({"a": MISSION, "b": spaces.Tuple((MISSION,))}), "observations are text alone"),
        (spaces.Dict({"a": MISSION, "b": spaces.Sequence(MISSION)}), r"observations.b has a Sequence space; only Box"),
    ],
)
def test_text_alone_is_one_line(space: Space[Any], message: str, registered: Any, capsys: Capture) -> None:
    env = registered(space=space)
    for arguments in (["collect", env, "--policy", "random", "--episodes", "4"], ["train", env, "ppo", "--out", "run"]):
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1
    assert not Path("run").exists()


NOTE = "warning: observations.inner[0], observations.inner[2].a, observations.mission are texts, which agents don't"


def test_texts_are_left_out_of_collecting_training_and_acting(registered: Any, capsys: Capture) -> None:
    env = registered(space=NESTED)
    assert main(["collect", env, "--policy", "random", "--episodes", "8"]) == 0
    out, err = capsys.readouterr()
    assert err.count(NOTE) == 1
    assert main(["train", "--dataset", out.strip(), "bc", *QUICK, "--out", "run"]) == 0
    write("mine/texts-v0", None, NESTED, spaces.Discrete(3))
    assert main(["train", env, "bc", "--dataset", "mine/texts-v0", *QUICK, "--out", "other"]) == 0
    assert main(["train", env, "ppo", *ONLINE, "--eval-episodes", "2", "--out", "online"]) == 0
    assert capsys.readouterr().err.count(NOTE) == 3, "once a command"
    with closing(gymnasium.make(env)) as made, closing(make_vec_env(load_task(env), {}, 2)) as lanes:
        observation, _ = made.reset(seed=0)
        batch, _ = lanes.reset(seed=0)
    for run in ("run", "other", "online"):
        agent = rmt_rl.load(run)
        assert made.action_space.contains(agent.predict(observation)[0])
        assert len(agent.predict(batch)[0]) == 2
