"""Runs that learn by acting: as a user starts them, repeated, stopped and resumed; and whether they learn."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.runs.folder import read_config, write_config
from rmt_rl.runs.options import OnlineRun, make_config
from rmt_rl.training.loop import resume, train
from rmt_rl.training.online import checked_env
from tests.recall import Recall
from tests.tiny import Values, assert_same_run, header, in_process, metrics, tensors, weights

ROUND = 64  # steps, of 4 environments together
TINY = [
    *("--agent.n-steps", "16", "--agent.batch-size", "32", "--agent.n-epochs", "2", "--n-envs", "4"),
    *("--env.corridor-length", "1", "4", "--eval-episodes", "4", "--eval-every", "128", "--save-every", "128"),
]
OPTIONS: dict[str, Values] = {
    "ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
    "recurrent_ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "lstm_hidden_size": 8},
}


def tiny(agent: str = "ppo", /, **changes: Any) -> OnlineRun:
    """A config of 5 rounds; dictionaries are sections, to be changed."""
    values: Values = {
        "env": "tmaze",
        "agent": agent,
        "env_options": {"corridor_length": [1, 4]},
        "agent_options": OPTIONS[agent],
        "online": {"total_timesteps": 5 * ROUND, "n_envs": 4, "save_every": 2 * ROUND},
        "evaluation": {"eval_every": 2 * ROUND, "eval_episodes": 4},
    }
    for name, change in changes.items():
        values[name] = values[name] | change if isinstance(change, dict) else change
    config = make_config(values)
    assert isinstance(config, OnlineRun)
    return config


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("agent", OPTIONS)
def test_train_evaluate_and_plot(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps are rounded up to whole rounds."""
    more = ["--agent.lstm-hidden-size", "8"] if agent == "recurrent_ppo" else []
    run = Path("runs", f"tmaze-{agent}-3")
    assert main(["train", "tmaze", agent, *TINY, *more, "--total-timesteps", "300", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{run}\n"
    assert "at 128: success rate" in shown.err
    assert "at 320: success rate" in shown.err
    files = {path.name.partition("tfevents")[0] for path in run.iterdir()}
    assert files == {"config.toml", "metrics.jsonl", "events.out.", "last.safetensors", "best.safetensors"}
    config = read_config(run)
    assert isinstance(config, OnlineRun)
    assert (config.seed, config.online.total_timesteps) == (3, 300)
    assert config.agent_options.model_dump()["batch_size"] == 32
    assert rmt_rl.load(run).config == config.agent_options
    assert main(["evaluate", str(run), "--vary", "corridor_length=2,9", "--episodes", "3", "--sample"]) == 0
    record = json.loads((run / "evaluation.json").read_text())
    assert record["checkpoint"] == "last, update 320"
    capsys.readouterr()
    assert main(["plot", str(run)]) == 0
    assert f"| {agent} |" in capsys.readouterr().out


def test_metrics_have_the_names_of_stable_baselines3(folder: Path) -> None:
    made = []
    assert train(tiny(), folder, lambda update, metrics: made.append((update, metrics))) == 5 * ROUND
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"update": update, **metrics} for update, metrics in made]
    assert [line["update"] for line in lines] == [ROUND * count for count in (1, 2, 3, 4, 5)]
    evaluated = [line["update"] for line in lines if "eval/mean_return" in line]
    assert evaluated == [2 * ROUND, 4 * ROUND, 5 * ROUND]
    assert {
        *("train/loss", "train/policy_gradient_loss", "train/value_loss", "train/entropy_loss", "train/approx_kl"),
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate", "time/fps"),
        *("eval/success_rate", "eval/mean_return", "eval/mean_length"),
    } <= lines[-1].keys()
    board = EventAccumulator(str(folder)).Reload()
    assert set(board.Tags()["scalars"]) == {key for line in lines for key in line} - {"update"}
    losses = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert losses == [(line["update"], pytest.approx(line["train/loss"])) for line in lines]


@pytest.mark.parametrize("agent", OPTIONS)
def test_a_run_repeated_with_its_seed_is_the_same(agent: str, folder: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(len(name))  # is no matter
        train(tiny(agent, seed=seed), folder / name)
    assert_same_run(folder / "one", folder / "two")
    assert not torch.equal(weights(folder / "one"), weights(folder / "three"))


@pytest.mark.parametrize("agent", OPTIONS)
def test_a_stopped_run_goes_on(agent: str, folder: Path) -> None:
    """And whenever it goes on from the same checkpoint, it makes the same."""
    made: list[int] = []
    config = tiny(agent, online={"save_every": 10**9}, evaluation={"eval_every": ROUND})
    stopped = train(config, folder / "run", lambda update, _: made.append(update), lambda: len(made) == 3)
    assert stopped == header(folder / "run" / "last.safetensors")["update"] == 3 * ROUND
    before = tensors(folder / "run" / "last.safetensors")
    steps = [value for key, value in before.items() if key.startswith("optimizer/") and key.endswith("/step")]
    assert {int(step) for step in steps} == {3 * 2 * 2}, "rounds, epochs, minibatches"
    shutil.copytree(folder / "run", folder / "copy")
    for run in (folder / "run", folder / "copy"):
        assert resume(run) == 5 * ROUND
    assert_same_run(folder / "run", folder / "copy")
    assert [line["update"] for line in metrics(folder / "run")] == [ROUND * count for count in (1, 2, 3, 4, 5)]
    after = tensors(folder / "run" / "last.safetensors")
    assert {int(after[key]) for key in after if key.endswith("/step")} == {5 * 2 * 2}
    best = max(line["eval/success_rate"] for line in metrics(folder / "run"))
    assert header(folder / "run" / "last.safetensors")["progress"]["best"] == best


def killed(values: Values, run: Path, update: int) -> None:
    def report(made: int, metrics: Any) -> None:
        if made == update:
            os.kill(os.getpid(), signal.SIGKILL)

    train(make_config(values), run, report)


def test_a_killed_run_goes_on_from_its_last_checkpoint(folder: Path) -> None:
    values = tiny().model_dump(mode="json", exclude_none=True)
    assert in_process(killed, values, folder / "early", ROUND) == -signal.SIGKILL
    assert not (folder / "early" / "last.safetensors").exists()
    assert resume(folder / "early") == 5 * ROUND
    train(tiny(), folder / "whole")
    assert_same_run(folder / "whole", folder / "early")

    assert in_process(killed, values, folder / "late", 3 * ROUND) == -signal.SIGKILL
    assert header(folder / "late" / "last.safetensors")["update"] == 2 * ROUND
    assert resume(folder / "late") == 5 * ROUND
    assert [line["update"] for line in metrics(folder / "late")] == [ROUND * count for count in (1, 2, 3, 4, 5)]


def test_a_finished_run_is_prolonged(folder: Path) -> None:
    train(tiny(), folder)
    assert resume(folder, lambda *_: pytest.fail("a round was played")) == 5 * ROUND
    write_config(tiny(online={"total_timesteps": 6 * ROUND}), folder)
    assert resume(folder) == 6 * ROUND
    with pytest.raises(UsageError, match="holds a run already; resume it"):
        train(tiny(), folder)


@pytest.mark.parametrize("agent", [*OPTIONS, "dlstm"])
def test_the_learning_rate_falls_with_the_steps_made(agent: str, folder: Path) -> None:
    config = decaying(agent, 4 * ROUND)
    train(config, folder)
    assert rates(folder) == pytest.approx([0.4, 0.4, 0.4, 0.25])
    write_config(decaying(agent, 5 * ROUND), folder)
    resume(folder)
    cosine = 0.5 * (1 + math.cos(math.pi * (4 - 2.5) / 2.5))
    assert rates(folder)[4] == pytest.approx(0.4 * (0.25 + 0.75 * cosine))


def decaying(agent: str, steps: int) -> OnlineRun:
    """A config whose learning rate begins at 0.4 and falls from half of the steps on."""
    online: Values = {"total_timesteps": steps, "n_envs": 4, "decay_from": 0.5, "final_rate": 0.25}
    values: Values = {"env": "tmaze", "agent": agent, "online": online, "evaluation": {"eval_episodes": 0}}
    if agent in OPTIONS:
        values["agent_options"] = OPTIONS[agent] | {"learning_rate": 0.4}
    else:
        values["learner"] = "ppo"
        values["agent_options"] = {"width": 8, "segment_length": 4}
        online |= {"n_steps": 16, "batch_size": 32, "learning_rate": 0.4}
    config = make_config(values)
    assert isinstance(config, OnlineRun)
    return config


def rates(folder: Path) -> list[float]:
    """The learning rates of a run's rounds."""
    return [json.loads(line)["train/learning_rate"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "started with seed=0, but would go on with 1"),
        ({"env_options": {"corridor_length": 5}}, r"env_options=.*\[1, 4\].* but would go on with .*5"),
        ({"agent_options": {"gamma": 0.5}}, "agent_options=.*'gamma': 0.99.* but would go on with .*'gamma': 0.5"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_what_it_was_started_with(change: Values, message: str, folder: Path) -> None:
    train(tiny(online={"total_timesteps": 1}), folder)
    write_config(tiny(**change), folder)
    with pytest.raises(UsageError, match=message):
        resume(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent_options": {"batch_size": 21}}, "batch_size=21 leaves one step of the 64 of a round"),
        ({"online": {"device": "cud"}}, "device='cud' can't be used: .*; choose cpu"),
        ({"env": "Humanoid-v99", "env_options": {}}, "Humanoid"),
    ],
    ids=str,
)
def test_what_can_not_be_trained_leaves_no_folder(change: Values, message: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny(**change), folder / "run")
    assert not (folder / "run").exists()


@pytest.mark.parametrize("agent", OPTIONS)
def test_weights_that_diverge_are_never_saved(agent: str, folder: Path) -> None:
    options = {"learning_rate": 1e30, "max_grad_norm": 1e30}
    with pytest.raises(UsageError, match=r"NaN or infinite after \d+ steps; .*lower --agent.learning-rate"):
        train(tiny(agent, agent_options=options), folder)
    for path in folder.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in tensors(path).values())


def test_a_tuple_of_actions_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "TupleOfActions-v0", "ppo", "--out", "run"]) == 2
    assert (
        "action_space=Tuple(Discrete(2), Discrete(2)): Stable-Baselines3 has no distribution" in capsys.readouterr().err
    )
    assert not Path("run").exists()


def test_options_are_flags_with_the_names_of_stable_baselines3(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "tmaze", "recurrent_ppo", "--help"])
    text = capsys.readouterr().out
    flags = (
        "--agent.gae-lambda --agent.clip-range --agent.net-arch --agent.lstm-hidden-size --total-timesteps --eval-every"
    )
    assert all(flag in text for flag in flags.split())
    assert "--updates" not in text
    Path("config.toml").write_text('env = "tmaze"\nagent = "ppo"\n[agent_options]\nent_koef = 0.1\n')
    assert main(["train", "--config", "config.toml"]) == 2
    assert re.search("unknown option agent_options.ent_koef=0.1 .*did you mean 'ent_coef'", capsys.readouterr().err)


class TupleOfActions(Recall):
    def __init__(self) -> None:
        super().__init__()
        self.action_space: Any = gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(2),) * 2)


@pytest.fixture(autouse=True, scope="module")
def _environments() -> Iterator[None]:
    gymnasium.register("Recall3-v0", lambda **_: Recall(3, cues=3))
    gymnasium.register("TupleOfActions-v0", lambda **_: TupleOfActions())
    yield
    for name in ("Recall3-v0", "TupleOfActions-v0"):
        del gymnasium.registry[name]


@pytest.mark.parametrize("agent", OPTIONS)
def test_what_has_a_memory_learns_to_recall(agent: str, folder: Path) -> None:
    """One of three cues, which a memoryless policy guesses; each seed alone."""
    lstm = {"lstm_hidden_size": 16, "batch_size": 128} if agent == "recurrent_ppo" else {}
    options = {"n_steps": 64, "n_epochs": 4, "learning_rate": 3e-3, "net_arch": [16], "gamma": 0.9} | lstm
    for seed in (0, 1):
        values = {"env": "Recall3-v0", "agent": agent, "agent_options": options, "seed": seed}
        schedule = {"online": {"total_timesteps": 8_000}, "evaluation": {"eval_every": 8_000, "eval_episodes": 200}}
        train(make_config({**values, **schedule}), folder / str(seed))
        success = metrics(folder / str(seed))[-1]["eval/success_rate"]
        assert success > 0.95 if agent == "recurrent_ppo" else 0.2 < success < 0.5


@pytest.mark.parametrize(("truncation", "is_limit"), [("bootstrap", True), ("end", False)])
def test_a_time_limit_ends_an_episode_if_it_is_part_of_the_task(truncation: str, is_limit: bool) -> None:
    config = tiny(env_options={"corridor_length": 3}, online={"truncation": truncation})
    env = checked_env(config)
    env.reset(seed=0)
    flags = [env.step(2)[2:4] for _ in range(5)]
    assert flags == [(False, False)] * 4 + [(not is_limit, is_limit)]
