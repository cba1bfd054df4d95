"""Exported agents act as the agents themselves: the same actions, state and errors, with ends of segments inside."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmt_rl.agent import Agent, AgentSpec, BaseAgent
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.export.formats import FORMATS, to_onnx, to_torch
from rmt_rl.export.graph import acting_program
from rmt_rl.export.runtime import ExportedAgent, onnx_run, torch_run, with_runtime
from rmt_rl.export.saving import export_run
from rmt_rl.export.token_model import export_token_model
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.nn.heads import head
from rmt_rl.recurrence import tree_fill, tree_leaves
from rmt_rl.registry import agent_class, names
from rmt_rl.runs.checkpoint import load_agent, path_of, save_agent
from rmt_rl.runs.evaluation import read_results
from rmt_rl.runs.folder import write_config
from tests.agents.test_sb3_agents import make as make_sb3_agent
from tests.random_spaces import action_spaces
from tests.tiny import known_options, tiny, work_folder

SMALL = {"segment_length": 4, "width": 16, "heads": 2, "layers": 1, "context": 8, "cached": 7, "memory_tokens": 3}
LANES = 3
VECTOR = spaces.Box(-1, 1, (4,), np.float32)
MIXED = spaces.Dict({"image": spaces.Box(0, 255, (6, 6, 3), np.uint8), "two": spaces.MultiDiscrete([2, 3], np.int32)})
PARTS = spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(3, start=-1), spaces.MultiBinary(2)))
TOLERANCE = 2e-5
SLOW = {"rate", "titans_mag"}  # 10,000 steps


def exportable() -> list[str]:
    """Return the names of all agents that act from segments."""
    return [name for name in names("agents") if issubclass(agent_class(name), Agent)]


def make(name: str, observations: spaces.Space[Any] = VECTOR, actions: spaces.Space[Any] | None = None) -> Agent:
    """Return a small agent."""
    cls = agent_class(name)
    torch.manual_seed(0)
    spec = AgentSpec(observations, actions or spaces.Discrete(4), target_return=1.0, return_scale=2.0)
    options = known_options(name, SMALL)
    return cast("Agent", cls(validated(cls.Config, options), spec).eval())


@cache
def in_both_formats(name: str, only: str = "") -> tuple[Agent, dict[str, ExportedAgent]]:
    """Return a small agent, and the agent as its exports act, by format."""
    agent = make(name)
    return agent, dict(exports(agent, only))


def exports(agent: Agent, only: str = "") -> Iterator[tuple[str, ExportedAgent]]:
    """Yield the agent as its exports act, with the names of their formats."""
    program, interface = acting_program(agent)
    inputs, outputs = ([port.name for port in ports] for ports in (interface.inputs, interface.outputs))
    if only != "onnx":
        loaded = torch.export.load(io.BytesIO(to_torch(program, inputs, outputs)))
        yield "torch", ExportedAgent(agent, interface, torch_run(loaded.module()))
    if only != "torch":
        yield "onnx", ExportedAgent(agent, interface, onnx_run(to_onnx(program, inputs, outputs), inputs))


@torch.inference_mode()
def assert_same_acting(agent: Agent, exported: BaseAgent, steps: int, lanes: int = LANES) -> None:
    """Fail unless both choose the same actions and keep the same state, with episodes that end at random."""
    random = np.random.default_rng(0)
    space = agent.spec.observation_space
    space.seed(0)
    state = other_state = None
    for step in range(steps):
        observation = batch([space.sample() for _ in range(lanes)])
        if "return_to_go" in agent.tokens:
            observation = {"observation": observation, "return_to_go": random.random((lanes, 1))}
        start = random.random(lanes) < (0.1 if step else 1)
        actions, state = agent.predict(observation, state, start)
        others, other_state = exported.predict(observation, other_state, start)
        assert_close(actions, others)
        assert (state.steps == other_state.steps).all()
        if not step % 100:  # now and then, as closing a segment takes time
            assert_same_state(agent, state.cache, other_state.cache)


def assert_same_state(agent: Agent, cache: Any, arrays: tuple[Any, ...]) -> None:
    """Fail unless segments that end here leave the same state. Places behind the last token may differ."""
    copied = tree_fill(cache, [leaf.clone() for leaf in tree_leaves(cache)])
    others = tree_fill(cache, [torch.from_numpy(np.array(array)) for array in arrays])
    ended, other_ended = (tree_leaves(agent.core.end(each)) for each in (copied, others))
    for one, other in zip(ended, other_ended, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def batch(values: list[Any]) -> Any:
    """Return values of a space as a batch."""
    first = values[0]
    if isinstance(first, dict):
        return {key: batch([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(batch(list(parts)) for parts in zip(*values, strict=True))
    return np.stack(values)


def assert_close(one: Any, other: Any) -> None:
    """Fail unless two values are of the same form and dtypes, and nearly equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = tuple(one.values()), tuple(other.values())
    if isinstance(one, tuple):
        for part, other_part in zip(one, other, strict=True):
            assert_close(part, other_part)
        return
    assert one.dtype == other.dtype
    np.testing.assert_allclose(other, one, rtol=TOLERANCE, atol=TOLERANCE)


def test_exports_act_as_the_agent() -> None:
    agent, exported = in_both_formats("dgru")
    for each in exported.values():
        assert_same_acting(agent, each, 200)
        assert_same_acting(agent, each, 12, lanes=1)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", exportable())
def test_exports_of_every_agent_act_as_the_agent(name: str, form: str) -> None:
    agent, exported = in_both_formats(name)
    assert_same_acting(agent, exported[form], 10_000 if name in SLOW else 300)
    assert_same_acting(agent, exported[form], 20, lanes=1)


@pytest.mark.slow
def test_observations_and_actions_of_several_parts() -> None:
    agent = make("dgru", MIXED, PARTS)
    for _, exported in exports(agent):
        assert_same_acting(agent, exported, 50)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(action_spaces(2**62), st.integers(0, 9))
def test_heads_give_the_same_actions_as_tensors(space: spaces.Space[Any], seed: int) -> None:
    made = head(space)
    numbers = 3 * torch.randn(5, made.size, generator=torch.Generator().manual_seed(seed))
    chosen = made.choose(numbers, None)
    expected, tensors = made.values(chosen.numpy()), made.tensors(chosen)
    assert_equal_values(expected, tensors)


def assert_equal_values(array: Any, tensor: Any) -> None:
    """Fail unless tensors are the arrays' numbers."""
    if isinstance(array, dict):
        assert array.keys() == tensor.keys()
        array, tensor = tuple(array.values()), tuple(tensor.values())
    if isinstance(array, tuple):
        for part, other in zip(array, tensor, strict=True):
            assert_equal_values(part, other)
        return
    np.testing.assert_array_equal(tensor.numpy().astype(array.dtype), array)


def test_sampled_actions_are_those_of_the_agent() -> None:
    agent, exported = in_both_formats("dgru")
    observation = np.stack([VECTOR.sample() for _ in range(LANES)])
    chosen = []
    for each in (agent, exported["onnx"]):
        each.set_random_seed(3)
        action, state = each.predict(observation, deterministic=False)
        second, _ = each.predict(observation, state, np.zeros(LANES, bool), deterministic=False)
        chosen.append(np.stack((action, second)))
    own, by_graph = chosen
    np.testing.assert_array_equal(own, by_graph)


def test_exported_agents_name_what_is_wrong_with_their_arguments() -> None:
    _, exported = in_both_formats("dgru")
    agent = exported["onnx"]
    with pytest.raises(UsageError, match=r"observation has shape \(3,\)"):
        agent.predict(np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="episode_start is of 2 environments"):
        agent.predict(np.zeros((3, 4), np.float32), None, np.zeros(2, bool))
    _, state = agent.predict(np.zeros((3, 4), np.float32))
    with pytest.raises(UsageError, match="state is of 3 environments"):
        agent.predict(np.zeros((2, 4), np.float32), state)


def test_networks_of_stable_baselines3_are_exported_by_its_own_means() -> None:
    with pytest.raises(UsageError, match="isn't exported: its networks are those of Stable-Baselines3"):
        with_runtime(make_sb3_agent("ppo"), "onnx")


# Commands


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with untrained runs of the T-Maze."""
    with work_folder(tmp_path_factory) as folder:
        for name in ("bc", "rmt"):
            config = tiny(name, env_options={"corridor_length": 5})
            write_config(config, Path(name))
            cls = agent_class(name)
            torch.manual_seed(0)
            spaces_of = AgentSpec(spaces.Box(-1.0, 1.0, (4,), np.float32), spaces.Discrete(4), 1.0)
            save_agent(path_of(name), cls(config.agent_options, spaces_of), name, 10)
        yield folder


def test_export_writes_the_graph_its_description_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "bc"]) == 0
    written = [Path("bc/export") / name for name in ("agent.onnx", "agent.json", "act.py")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    about = json.loads(written[1].read_text())
    assert about["environment"]["id"] == "rmt_rl:rmt_rl/TMaze-v0"
    assert about["environment"]["options"]["corridor_length"] == 5
    assert about["state"] == [{"input": "state.steps", "output": "next_state.steps"}]
    assert about["target_return"] is None
    played = play_example(written[0].parent, "--episodes", "2", "--option", "corridor_length=9")
    assert played == "mean return 0 in 2 episodes\nsuccess rate 0.00\n"


def play_example(folder: Path, *flags: str) -> str:
    """Run the example in a process that can't import PyTorch; return what it prints."""
    code = (
        "import sys, runpy; sys.modules['torch'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    command = [sys.executable, "-c", code, str(folder / "act.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_acts_as_the_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "rmt", "--out", "exported"]) == 0
    played = play_example(Path("exported"), "--episodes", "3", "--seed", "7")
    agent = load_agent("rmt")
    returns = []
    env = gymnasium.make("rmt_rl/TMaze-v0", corridor_length=5)
    for seed in (7, 8, 9):
        observation, _ = env.reset(seed=seed)
        state, total, is_over = None, 0.0, False
        while not is_over:
            given = {"observation": observation, "return_to_go": np.array([1.0 - total], np.float32)}
            action, state = agent.predict(given, state)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            is_over = terminated or truncated
        returns.append(total)
    assert played.startswith(f"mean return {np.mean(returns):.4g} in 3 episodes")


def test_evaluations_and_data_sets_by_onnx_are_those_by_torch() -> None:
    results = []
    for runtime in ("torch", "onnx"):
        assert main(["evaluate", "bc", "--episodes", "3", "--runtime", runtime, "--out", runtime]) == 0
        (evaluation,) = read_results(Path(runtime))
        results.append(evaluation["episodes"])
    assert results[0] == results[1]


@pytest.mark.slow
def test_collect_plays_by_onnx(capsys: pytest.CaptureFixture[str]) -> None:
    ids = []
    for runtime in ("torch", "onnx"):
        command = ["collect", "tmaze", "--policy", "bc", "--episodes", "3", "--env.corridor-length", "5"]
        assert main([*command, "--runtime", runtime]) == 0
        ids.append(capsys.readouterr().out.split()[-1])
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rmt", "--format", "tensorflow"], "invalid choice 'tensorflow'"),
        (["nowhere"], "config nowhere can't be read"),
        (["rmt", "--checkpoint", "best"], "checkpoint rmt/best.safetensors doesn't exist"),
        (["rmt", "--out", "rmt/config.toml"], "rmt/config.toml can't be written to"),
    ],
)
def test_bad_use_gives_one_error_and_writes_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    with suppress(SystemExit):  # of the parser of flags
        assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it weren't installed
    with pytest.raises(UsageError, match=rf"needs '{package}', which is not installed: pip install 'rmt-rl\[export\]'"):
        export_run(Path("bc"), "onnx", Path("nowhere"))
    with pytest.raises(UsageError, match=f"runtime='onnx' needs '{package}'"):
        with_runtime(load_agent("bc"), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["tokens", "armt", "titans_mac", "titans_mag", "titans_mal"])
@pytest.mark.parametrize("form", FORMATS)
def test_exported_token_models_return_logits_and_memories(memory: str, form: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(
        16, num_tokens=9, depth=2, num_memory_tokens=2, seq_len=6, heads=2, dim_head=8, memory=memory
    ).eval()
    path, about_path = export_token_model(model, tmp_path, form, vocabulary=["a", "b"])
    about = json.loads(about_path.read_text())
    inputs = [each["name"] for each in about["inputs"]]
    run = onnx_run(path.read_bytes(), inputs) if form == "onnx" else torch_run(torch.export.load(path).module())
    random = np.random.default_rng(0)
    shapes = [[5, *each["shape"][1:]] for each in about["inputs"]]
    arrays = [np.zeros(shape, each["dtype"]) for shape, each in zip(shapes, about["inputs"], strict=True)]
    memories = None
    for segment in range(4):
        ids = random.integers(0, 9, (5, 6))
        lengths = np.array([6, 3, 0, 6, 1])
        arrays[:3] = [ids, lengths, np.full(5, segment == 0)]
        logits, *arrays[3:] = run(arrays)
        mask = torch.from_numpy(np.arange(6) < lengths[:, None])
        with torch.no_grad():
            expected, memories, _ = model(torch.from_numpy(ids), memories, mask=mask)
        difference = np.abs(logits - expected.numpy())[mask.numpy()]
        assert difference.max() < TOLERANCE
