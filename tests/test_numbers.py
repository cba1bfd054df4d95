"""Numbers that mean nothing are told in one line, wherever they come in; nothing is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file

import rmt_rl
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy
from rmt_rl.agent import AgentSpec
from rmt_rl.cli import main
from rmt_rl.data.references import read_references
from rmt_rl.data.root import data_root
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import conform
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.nn.outputs import on_host
from rmt_rl.numbers import ACTING, STEPS, check_box, check_plain_numbers
from rmt_rl.reading import parse_json
from rmt_rl.registry import agent_class, load_task
from rmt_rl.wrappers import ReturnToGo
from tests.data.episodes import episode
from tests.odd_numbers import Odd
from tests.test_cli import TINY
from tests.tiny import tensors, work_folder

Capture = pytest.CaptureFixture[str]
ODD = "tests.odd_numbers:Odd"
ONLINE = ["--agent.n-steps", "8", "--agent.batch-size", "8", "--n-envs", "2", "--total-timesteps", "32"]
EVALUATED = {"options": {}, "success_rate": 0.5, "success_interval": [0.1, 0.9], "mean_return": -3.0}
RECORD = EVALUATED | {"return_interval": [-4.0, -2.0], "seed": 1, "lanes": 2, "mean_length": 3.0, "seconds": 0.5}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a run that learnt from data in streams, and one that learnt by acting."""
    with work_folder(tmp_path_factory) as folder:
        streams = ["--feed", "streams", "--updates", "2", "--eval-episodes", "0", "--agent.heads", "2"]
        assert main(["train", "tmaze", "rate", *TINY, *streams, "--out", "offline"]) == 0
        assert main(["train", ODD, "ppo", *ONLINE, "--eval-episodes", "0", "--out", "online"]) == 0
        yield folder


def complaint(arguments: list[str], capsys: Capture) -> str:
    """Return the one line that a command fails with, but for the line that says which recipe a run begins with."""
    capsys.readouterr()
    assert main(arguments) == 2
    told = capsys.readouterr().err.splitlines()
    lines = [line for line in told if line.strip() and not line.startswith("recipe ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def copied(run: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


# The rule

BOX = spaces.Box(np.array([-1, 0, -np.inf, 1e9], np.float32), np.array([1, 1e5, np.inf, 2e9], np.float32))


@pytest.mark.parametrize("number", [[1.5, -3, 1e30, 0], [-999, 9e7, -3e38, -1e11], [0, 0, 0, 1.5e9]])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numbers_near_their_box_are_accepted(number: list[float], dtype: type[Any]) -> None:
    check_box(np.array(number, dtype), BOX, "x", ACTING)
    check_box(np.array([number, number], dtype), BOX, "x", ACTING)


@pytest.mark.parametrize(
    ("place", "number", "message"),
    [
        (0, np.nan, "x is not finite: nan; give numbers"),
        (2, -np.inf, "x is not finite: -inf"),
        (0, 1e20, r"x holds 1e\+20, far outside Box"),
        (0, -1001, "x holds -1001, far outside"),
        (1, 1e9, r"x holds 1e\+09, far outside"),
        (2, 1e39, r"x holds 1e\+39, more than float32 can hold"),
        (3, -1e13, r"x holds -1e\+13, far outside"),
    ],
)
def test_numbers_far_from_their_box_are_refused(place: int, number: float, message: str) -> None:
    numbers = np.array([0, 0, 0, 1.5e9])
    numbers[place] = number
    with pytest.raises(UsageError, match=message):
        check_box(numbers, BOX, "x", ACTING)
    batch = np.stack([np.zeros(4), numbers])
    with pytest.raises(UsageError, match=r"x.* in environment 1"):
        check_box(batch, BOX, "x", ACTING)


@pytest.mark.parametrize(
    ("array", "is_fine"),
    [
        (np.array([250], np.uint8), True),
        (np.array([10**6]), False),
        (np.array([-(2**63)]), False),
        (np.zeros(0), True),
        (np.array([np.nan], np.float16), False),
        (np.array([1e39], np.longdouble), False),
    ],
)
def test_numbers_of_any_dtype_are_checked(array: Any, is_fine: bool) -> None:
    space = spaces.Box(0, 255, array.shape, np.uint8)
    if is_fine:
        check_box(array, space, "x", STEPS)
    else:
        with pytest.raises(UsageError, match=r"^x"):
            check_box(array, space, "x", STEPS)


def test_a_number_inside_its_box_is_never_far_outside() -> None:
    for size in (1e-30, 1.0, 1e3, 1e7, 3e38):
        space = spaces.Box(-size, size, (2,), np.float32)
        check_box(space.high, space, "x", STEPS)
        check_box(space.low, space, "x", STEPS)


def test_rewards_may_be_as_large_as_float32() -> None:
    check_plain_numbers(np.array([3e38, -3e38]), "rewards", STEPS)
    for number in (1e39, np.nan, -np.inf):
        with pytest.raises(UsageError, match=r"rewards.*at step 1"):
            check_plain_numbers(np.array([0, number]), "rewards", STEPS)


@pytest.mark.parametrize("text", ["NaN", "[1, Infinity]", '{"a": -Infinity}', "1e999", "nonsense"])
def test_json_has_no_infinite_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"number of JSON|Expecting value"):
        parse_json(text)
    assert parse_json('{"a": [1, 2.5e3]}') == {"a": [1, 2500.0]}


# predict

OBSERVATIONS = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(3)})
AGENTS = ["bc", "dt", "rate", "bc_lstm", "ppo"]


def make_agent(name: str, **config: Any) -> Any:
    torch.manual_seed(0)
    cls = agent_class(name)
    return cls(cls.Config.model_validate(config), AgentSpec(OBSERVATIONS, spaces.Box(-2, 2, (1,)))).eval()


@pytest.mark.parametrize("name", AGENTS)
def test_predict_tells_numbers_that_mean_nothing(name: str) -> None:
    agent = make_agent(name)
    for number, message in [(np.nan, "not finite"), (np.inf, "not finite"), (1e20, "far outside"), (1e39, "float32")]:
        single = {"a": np.array([0, number, 0]), "b": np.int64(1)}
        with pytest.raises(UsageError, match=rf"observation\.a.*{message}.*; give numbers"):
            agent.predict(single)
        batch = {"a": np.array([[0, 0, 0], [0, number, 0]]), "b": np.ones(2, np.int64)}
        with pytest.raises(
            UsageError, match=rf"observation\.a.* in environment 1.*{message}|{message}.* environment 1"
        ):
            agent.predict(batch)


@pytest.mark.parametrize("name", AGENTS)
def test_predict_accepts_numbers_slightly_outside_their_box(name: str) -> None:
    action, _ = make_agent(name).predict({"a": np.array([1.01, -40, 300]), "b": np.int64(0)})
    assert np.isfinite(action).all()


@pytest.mark.parametrize("name", ["dt", "rate"])
@pytest.mark.parametrize("returns", [np.nan, np.inf, 1e39])
def test_predict_tells_returns_that_mean_nothing(name: str, returns: float) -> None:
    observation = {"a": np.zeros(3), "b": np.int64(0)}
    with pytest.raises(UsageError, match="return_to_go"):
        make_agent(name).predict({"observation": observation, "return_to_go": np.array([returns])})


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("name", "weight"), [("bc", 1e38), ("dt", 1e38), ("rate", 1e38), ("ppo", np.nan)])
def test_outputs_that_are_not_finite_are_told(name: str, weight: float, deterministic: bool) -> None:
    agent = make_agent(name)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.fill_(weight)
    with pytest.raises(UsageError, match="outputs are NaN or infinite"):
        agent.predict({"a": np.ones(3), "b": np.int64(0)}, deterministic=deterministic)


def test_every_size_of_output_is_checked() -> None:
    chosen = torch.tensor([[1], [2]])
    assert on_host(chosen, torch.zeros(2, 3)).tolist() == chosen.tolist()
    for number in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(UsageError):
            on_host(chosen, torch.tensor([[0.0, number]]))


@pytest.mark.parametrize("target_return", [np.nan, np.inf, -1e39])
def test_wrappers_tell_returns_that_mean_nothing(target_return: float) -> None:
    with pytest.raises(UsageError, match=r"target_return.*give a return that an episode can reach"):
        ReturnToGo(Odd(), target_return)
    with pytest.raises(UsageError, match=r"target_return.*give a return that an episode can reach"):
        evaluate(make_agent("dt"), load_task(ODD), {}, 1, seed=0, target_return=target_return)


# Checkpoints


def spoil(run: Path, group: str, number: float) -> str:
    """Put a number into the first tensor of floats of a group; return the tensor's name."""
    path = run / "last.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    values = tensors(path)
    name = next(name for name, tensor in sorted(values.items()) if name.startswith(group) and tensor.ndim)
    values[name].view(-1)[-1] = number
    save_file(values, path, metadata)
    return name


READERS = {
    "load": None,
    "evaluate": ["evaluate", "{run}", "--episodes", "2"],
    "inspect": ["inspect", "{run}"],
    "collect": ["collect", "{env}", "--policy", "{run}", "--episodes", "2"],
    "resume": ["train", "--resume", "{run}"],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("source", ["offline", "online"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(
    reader: str, source: str, number: float, tmp_path: Path, capsys: Capture
) -> None:
    if (reader, source) == ("inspect", "online"):
        pytest.skip("such a run has no segments to inspect")
    run = copied(source, tmp_path)
    name = spoil(run, "model/", number)
    message = rf"checkpoint {run}/last.safetensors can't be used: tensor {name} holds numbers that are NaN or infinite"
    arguments = READERS[reader]
    if arguments is None:
        with pytest.raises(UsageError, match=message):
            rmt_rl.load(run)
        return
    env = "tmaze" if source == "offline" else ODD
    filled = [argument.format(run=run, env=env) for argument in arguments]
    before = sorted(run.iterdir()), sorted(data_root().rglob("*"))
    assert re.search(message, complaint(filled, capsys))
    assert (sorted(run.iterdir()), sorted(data_root().rglob("*"))) == before, "nothing is written"


@pytest.mark.parametrize(
    ("source", "group"), [("offline", "optimizer/"), ("offline", "state/"), ("online", "optimizer/")]
)
def test_what_only_resuming_needs_is_checked_when_a_run_is_resumed(
    source: str, group: str, tmp_path: Path, capsys: Capture
) -> None:
    run = copied(source, tmp_path)
    name = spoil(run, group, np.nan)
    rmt_rl.load(run)
    assert f"tensor {name} holds numbers that are NaN" in complaint(["train", "--resume", str(run)], capsys)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("return_scale", 0, "return_scale=0.*greater than 0"),
        ("return_scale", -1.5, "return_scale=-1.5.*greater than 0"),
        ("return_scale", float("nan"), "is damaged .NaN is no number of JSON"),
        ("target_return", float("inf"), "is damaged .Infinity is no number of JSON"),
        ("target_return", [1], "target_return=.*valid number"),
        ("hindsight_classes", -2, "hindsight_classes=-2.*greater than or equal to 0"),
        ("hindsight_classes", 1.5, "hindsight_classes=1.5.*integer"),
        ("update", -1, "update=-1.*greater than or equal to 0"),
        ("observation_space", "{}", "{} is no space of Gymnasium"),
        ("observation_space", "[" * 100_000, "is no space of Gymnasium .*nested too deeply"),
        ("action_space", f'{{"type": "Discrete", "n": {10**30}, "start": 0, "dtype": "int64"}}', "is no space"),
        ("action_space", '{"type": "Dict", "subspaces": {"a": 3}}', "is no space"),
    ],
)
def test_headers_are_checked(field: str, value: Any, message: str, tmp_path: Path) -> None:
    run = copied("offline", tmp_path)
    path = run / "last.safetensors"
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["rmt_rl"])
    save_file(tensors(path), path, {"rmt_rl": json.dumps(header | {field: value})})
    with pytest.raises(UsageError, match=message):
        rmt_rl.load(run)


# Environments and policies

ODDITIES = [
    ("observation", "nan", r"observations?\.a is not finite"),
    ("observation", "-inf", r"observations?\.a is not finite"),
    ("observation", "1e20", r"observations?\.a.* holds 1e\+20, far outside"),
    ("observation", "1e39", r"observations?\.a.* holds 1e\+39, more than float32"),
    ("reward", "nan", "rewards? is not finite"),
    ("reward", "inf", "rewards? is not finite"),
    ("reward", "1e39", r"rewards?.* holds 1e\+39, more than float32"),
]


@pytest.mark.parametrize(("field", "number", "message"), ODDITIES)
@pytest.mark.parametrize("how", ["random", "trained", "evaluate", "online"])
def test_environments_whose_numbers_mean_nothing_are_told(
    how: str, field: str, number: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    options = [f"--env.field={field}", f"--env.number={number}"]
    before = sorted(data_root().rglob("*"))
    if how == "evaluate":
        task = load_task(ODD)
        policy = RandomPolicy(spaces.Box(-2, 2, (1,)), 0)
        with pytest.raises(UsageError) as caught:
            evaluate(policy, task, {"field": field, "number": number}, 3, seed=0, max_lanes=2)
        line = str(caught.value)
    elif how == "online":
        out = str(tmp_path / "run")
        line = complaint(["train", ODD, "ppo", *options, *ONLINE, "--eval-episodes", "0", "--out", out], capsys)
    else:
        policy_name = "random" if how == "random" else "online"
        line = complaint(["collect", ODD, *options, "--policy", policy_name, "--episodes", "3"], capsys)
    assert re.search(message, line), line
    assert re.search("env '.*Odd.*'", line)
    assert "step" in line
    assert sorted(data_root().rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize("action", [np.nan, np.inf, 1e6])
def test_actions_outside_their_space_are_told(action: float) -> None:
    class Wild(RandomPolicy):
        def predict(self, *arguments: Any) -> tuple[Any, Any]:
            actions, state = super().predict(*arguments)
            return np.full_like(actions, action), state

    with pytest.raises(UsageError, match=r"step 0 .*actions.* in environment 0.*; mend the policy"):
        evaluate(Wild(spaces.Box(-2, 2, (1,)), 0), load_task(ODD), {}, 2, seed=0)


def test_categories_outside_their_space_are_told() -> None:
    class Wild(RandomPolicy):
        def predict(self, *arguments: Any) -> tuple[Any, Any]:
            actions, state = super().predict(*arguments)
            return actions + 7, state

    with pytest.raises(UsageError, match=r"actions holds 1?\d, which is not in Discrete\(4\); mend the policy"):
        evaluate(Wild(spaces.Discrete(4), 0), load_task("tmaze"), {}, 2, seed=0)


# Success


@pytest.mark.parametrize(
    ("number", "rate"),
    [
        ("True", 1.0),
        ("False", 0.0),
        ("1", 1.0),
        ("0.0", 0.0),
        ("np.bool_(True)", 1.0),
        ("np.float32(1)", 1.0),
        ("np.int64(0)", 0.0),
        ("np.array([True])", 1.0),
        ("np.array([[0]])", 0.0),
        ("None", None),
        ("np.array([None])", None),
    ],
)
def test_success_is_read_from_truth_values(number: str, rate: float | None) -> None:
    policy = RandomPolicy(spaces.Box(-2, 2, (1,)), 0)
    found = evaluate(policy, load_task(ODD), {"field": "is_success", "number": number, "at": 1}, 3, seed=0, max_lanes=2)
    assert found.success_rate == rate


@pytest.mark.parametrize(
    "number", ["'yes'", "0.7", "nan", "2", "-1", "np.array([True, False])", "[1]", "np.array('no')"]
)
@pytest.mark.parametrize("agent", ["bc", "ppo"])
def test_other_values_of_success_are_told(number: str, agent: str, tmp_path: Path, capsys: Capture) -> None:
    options = ["--env.field=is_success", f"--env.number={number}", "--out", str(tmp_path / "run")]
    if agent == "ppo":
        line = complaint(["train", ODD, "ppo", *options, *ONLINE], capsys)
    else:
        policy = RandomPolicy(spaces.Box(-2, 2, (1,)), 0)
        with pytest.raises(UsageError) as caught:
            evaluate(policy, load_task(ODD), {"field": "is_success", "number": number}, 1, seed=0)
        line = str(caught.value)
    assert re.search("is_success=.* says neither success nor failure; report True or False, or None", line)


def test_an_unknown_success_beside_a_known_one_is_no_failure() -> None:
    number = "None if np.random.default_rng().random() < 0.5 else True"
    policy = RandomPolicy(spaces.Box(-2, 2, (1,)), 0)
    found = evaluate(policy, load_task(ODD), {"field": "is_success", "number": number}, 30, seed=0)
    assert {one.success for one in found.episodes} == {None, True}
    assert found.success_rate is None


# Data sets


def test_an_episode_whose_returns_float32_cannot_hold_is_refused() -> None:
    good = episode(0, 4)
    assert np.isfinite(replace(good, rewards=np.array([3e38, -3e38, 3e38, 0])).returns_to_go).all()
    with pytest.raises(UsageError, match=r"rewards at step 1 holds 1e\+39, more than float32"):
        replace(good, rewards=np.array([0, 1e39, 0, 0]))
    with pytest.raises(UsageError, match="rewards of the episode add up to more than float32 can hold"):
        replace(good, rewards=np.full(4, 3e38))


@pytest.mark.parametrize(
    ("space", "numbers", "message"),
    [
        (spaces.Box(-2, 2, (1,)), [[0], [1e6]], r"x at step 1 holds 1e\+06, far outside Box"),
        (spaces.Box(-1, 1, (1,), np.float64), [[1e20], [0]], r"x at step 0 holds 1e\+20, far outside Box"),
        (spaces.Box(-np.inf, np.inf, (1,), np.float64), [[1e39], [0]], "more than float32 can hold"),
        (spaces.Box(-1, 1, (1,)), [[0], [np.nan]], "x is not finite at step 1"),
    ],
)
def test_steps_far_outside_their_space_are_refused(space: Any, numbers: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        conform(np.array(numbers), space, "x")
    accepted: Any = conform(np.array([[1.5], [-30]]), spaces.Box(-1, 1, (1,)), "x")
    assert accepted.tolist() == [[1.5], [-30]]


def write(identity: str, **metadata: Any) -> Path:
    """Write a small data set with these metadata beside its own; return its folder."""
    write_dataset(
        identity,
        [episode(number, 6) for number in range(4)],
        env_spec=None,
        observation_space=spaces.Box(-1e6, 1e6, (2,)),
        action_space=spaces.Discrete(5),
        algorithm_name="counting",
        description="Numbers.",
    )
    folder = data_root() / identity / "data"
    path = folder / "metadata.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | metadata))
    return folder


def put_rewards(file: Any, number: float) -> None:
    for episode_group in file.values():
        episode_group["rewards"][1:3] = number


@pytest.mark.parametrize("number", [1e39, 2.5e38, np.inf])
def test_rewards_of_a_data_set_are_told_before_training(number: float, capsys: Capture) -> None:
    identity = f"huge/rewards{abs(hash(number))}-v0"
    assert main(["collect", "tmaze", "--episodes", "8", "--env.corridor-length", "3", "3"]) == 0
    source = capsys.readouterr().out.strip()
    shutil.copytree(data_root() / source, data_root() / identity)
    data = data_root() / identity / "data"
    with h5py.File(data / "main_data.hdf5", "a") as file:
        put_rewards(file, number)
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps(metadata | {"dataset_id": identity}))
    line = complaint(["train", "tmaze", "bc", *TINY, "--dataset", identity, "--out", "never"], capsys)
    assert re.search("rewards", line)
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"largest": -1.0}, "largest=-1.0.*greater than or equal to 0"),
        ({"largest": [1.0]}, "largest=.*valid number"),
        ({"best": 1e39}, "best=1e.39.*less than or equal"),
        ({"episodes": 2.5}, "episodes=2.5.*valid integer"),
    ],
)
def test_returns_in_metadata_are_checked(change: dict[str, Any], message: str) -> None:
    identity = f"noted/returns{abs(hash(message))}-v0"
    write(identity, rmt_rl_returns={"episodes": 4, "largest": 21.0, "best": 21.0} | change)
    with pytest.raises(UsageError, match=rf"{identity}.*rmt_rl_returns.*{message}.*; remove it there"):
        _ = EpisodeStore(identity).best_return


@pytest.mark.parametrize("bad", [[1], "5", "nan", float("nan"), float("inf"), True, {"a": 1}])
def test_references_that_are_no_numbers_are_told_and_passed_over(bad: Any) -> None:
    bad_id = f"bad/references{abs(hash(str(bad)))}{type(bad).__name__}-v0"
    write(bad_id, ref_min_score=0.0, ref_max_score=bad)
    if not (data_root() / "good/references-v0").exists():
        write("good/references-v0", ref_min_score=-1200, ref_max_score=-150.5)
    with pytest.warns(UserWarning, match=f"{bad_id}.*ref_max_score=.*; returns aren't normalised"):
        found = read_references([bad_id, "good/references-v0"])
    assert found == (-1200, -150.5)


@pytest.mark.parametrize(("low", "high"), [(3.0, 3.0), (5.0, 3.0), (None, 3.0)])
def test_references_without_a_scale_normalise_nothing(low: float | None, high: float) -> None:
    identity = f"flat/references{str(low).replace('.', '')}-v0"
    write(identity, ref_min_score=low, ref_max_score=high)
    assert read_references([identity]) is None


# Results and metrics


def record_results(run: Path, results: list[dict[str, Any]]) -> None:
    record = {"format": 1, "checkpoint": "last, update 2", "results": results}
    (run / "evaluation.json").write_text(json.dumps(record))


def test_results_that_mean_something_are_drawn(tmp_path: Path) -> None:
    run = copied("offline", tmp_path)
    picture = tmp_path / "picture.svg"
    record_results(run, [RECORD | {"options": {"corridor_length": length}} for length in (5, 9)])
    assert main(["plot", str(run), "--out", str(picture)]) == 0
    assert "success rate" in picture.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        {"success_rate": 1.5},
        {"success_rate": -0.1},
        {"success_rate": True},
        {"success_interval": [0.9, 0.1]},
        {"success_interval": [0.5, 1.5]},
        {"return_interval": [2.0, 1.0]},
        {"mean_return": [1]},
        {"mean_return": "1"},
        {"mean_return": float("nan")},
        {"mean_return": float("-inf")},
        {"mean_return": -1e200},
        {"return_interval": [-1e308, 1e308]},
        {"mean_length": -3.0},
        {"lanes": 2.5},
        {"seed": -1},
        {"options": {"penalty": float("nan")}},
        {"episodes": [{"lane": 0, "return": 1.0, "length": -3, "success": None}]},
        {"episodes": [{"lane": 0, "return": 1.0, "length": 3, "success": 2}]},
    ],
    ids=str,
)
def test_results_that_mean_nothing_are_told(change: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    run = copied("offline", tmp_path)
    picture = tmp_path / "picture.png"
    record_results(run, [RECORD | change])
    line = complaint(["plot", str(run), "--out", str(picture)], capsys)
    assert "evaluation.json is damaged" in line
    assert not picture.exists()


@pytest.mark.parametrize(
    "text",
    [
        '{"update": 1, "eval/success_rate": NaN}',
        '{"update": 1, "eval/success_rate": 1.5}',
        '{"update": 1, "rollout/success_rate": -0.5}',
        '{"update": 1, "eval/mean_length": -4}',
        '{"update": 1, "eval/mean_return": Infinity}',
        '{"update": 1, "eval/mean_return": 1e999}',
        '{"update": 1, "eval/mean_return": 1e308}',
        f'{{"update": 1, "eval/mean_return": {10**400}}}',
        f'{{"update": {2**63}, "eval/mean_return": 3}}',
        '{"update": 1, "eval/mean_return": "3"}',
        '{"update": 1, "eval/mean_return": [3]}',
        '{"update": 1, "eval/mean_return": true}',
        '{"update": 1.5, "eval/mean_return": 3}',
        '{"update": -1, "eval/mean_return": 3}',
        '{"update": true, "eval/mean_return": 3}',
        '{"update": "1", "eval/mean_return": 3}',
    ],
)
def test_metrics_that_mean_nothing_are_told(text: str, tmp_path: Path, capsys: Capture) -> None:
    run = copied("offline", tmp_path)
    (run / "metrics.jsonl").write_text(f"{text}\n")
    assert "metrics.jsonl, line 1, is damaged" in complaint(["plot", str(run)], capsys)


def test_a_run_whose_metrics_mean_nothing_is_not_resumed(tmp_path: Path, capsys: Capture) -> None:
    run = copied("offline", tmp_path)
    for text in ('{"update": 1, "eval/success_rate": NaN}', '{"update": -1, "eval/mean_return": 3}'):
        (run / "metrics.jsonl").write_text(f"{text}\n")
        assert "metrics.jsonl is damaged" in complaint(["train", "--resume", str(run)], capsys)


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "tmaze", "bc", "--learning-rate", "nan"], "learning_rate=nan: .*finite"),
        (["train", "tmaze", "bc", "--weight-decay", "inf"], "weight_decay=inf: .*finite"),
        (["train", "tmaze", "bc", "--clip", "nan"], "clip=nan: .*finite"),
        (["train", "tmaze", "rate", "--agent.dropout", "nan"], "agent_options.dropout=nan: .*finite"),
        (["train", "tmaze", "ppo", "--agent.learning-rate", "inf"], "agent_options.learning_rate=inf: .*finite"),
        (["train", "tmaze", "ppo", "--agent.gamma", "nan"], "agent_options.gamma=nan: .*finite"),
        (["train", "tmaze", "bc", "--env.penalty", "nan"], "env_options.penalty=nan: .*finite"),
        (["collect", "tmaze", "--env.penalty", "-inf"], "env_options.penalty=-inf: .*finite"),
        (["collect", "tmaze", "--target-return", "nan"], "target_return=nan: .*finite"),
        (["collect", "tmaze", "--policy", "expert=nan"], "policy 'expert=nan': give POLICY"),
        (["evaluate", "offline", "--target-return", "inf"], "target_return=inf: .*finite"),
        (["evaluate", "offline", "--vary", "penalty=NaN"], "penalty=nan: .*finite"),
        (["train", "tmaze", "bc", "--dataset"], "--dataset is given without a value; name data sets: --dataset ID"),
        (["train", "tmaze", "bc", "--dataset="], "--dataset is given without a value"),
        (["train", "tmaze", "bc", "--dataset", "--updates", "3"], "--dataset is given without a value"),
        (["train", "--config", "offline", "--dataset", "--out", "x"], "--dataset is given without a value"),
        (["collect", "tmaze", "--policy"], "--policy is given without a value; name policies: --policy random"),
        (["collect", "tmaze", "--policy", "--episodes", "3"], "--policy is given without a value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_mean_nothing_are_told(arguments: list[str], message: str, capsys: Capture) -> None:
    assert re.search(message, complaint(arguments, capsys))


def test_an_empty_list_of_data_sets_in_python_is_no_data_set(tmp_path: Path) -> None:
    options: dict[str, Any] = {"collect_episodes": 8, "updates": 1, "eval_episodes": 0, "accelerator": "cpu"}
    agent = rmt_rl.train("tmaze", "bc", tmp_path / "run", dataset=[], batch_size=4, **options)
    assert agent.spec.target_return == 1.0


def test_no_logger_is_asked_for_by_an_option_without_a_value(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        main(["train", "tmaze", "bc", *TINY, "--updates", "1", "--eval-episodes", "0", "--out", str(run), "--logger"])
        == 0
    )
    assert not list(run.glob("events*"))
