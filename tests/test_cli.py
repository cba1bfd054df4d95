"""The commands of the README, as a user types them; what goes wrong is in test_bad_input.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import rmt_rl
import rmt_rl.agents
from rmt_rl.agent import AgentSpec
from rmt_rl.cli import main
from rmt_rl.cli.progress import EvaluationProgress
from rmt_rl.registry import KINDS, agent_class, names
from rmt_rl.runs.find import zoo_names
from rmt_rl.runs.folder import read_config
from tests.tiny import assert_same_run, header, metrics, work_folder

TINY = [
    *("--agent.width", "16", "--agent.segment-length", "4", "--env.corridor-length", "1", "10"),
    *("--collect-episodes", "40", "--batch-size", "8", "--eval-episodes", "4", "--eval-every", "4"),
    *("--log-every", "2", "--save-every", "4", "--accelerator", "cpu"),
]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with data sets and a run of their own."""
    with work_folder(tmp_path_factory) as folder:
        assert main(["train", "tmaze", "bc", *TINY, "--updates", "6", "--seed", "0", "--out", "runs/bc-0"]) == 0
        yield folder


def test_list_shows_everything_in_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    everything = [name for kind in KINDS for name in names(kind)]
    everything += [f"zoo:{name}" for name in zoo_names()]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == everything
    assert all(len(line) <= 165 for line in lines)
    assert all(len(line.split()) > 3 for line in lines if line.startswith("  ")), "each has a summary"


def sizes(lines: list[str]) -> dict[str, str]:
    """Return the text before the summary of each agent."""
    found = (re.match(r"  (\w+) +(\S+ {1,10}\S+)  ", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_list_shows_how_large_agents_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert (
        "agents (parameters, bytes of state per environment; float32, default options, 4 numbers observed, 4 actions):"
        in text
    )
    shown = {name: size.split() for name, size in sizes(text.splitlines()).items()}
    spec = AgentSpec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(4))
    for name in ("bc", "rate", "dt"):
        agent = agent_class(name)(agent_class(name).Config(), spec)
        assert int(shown[name][0].replace(",", "")) == sum(weights.numel() for weights in agent.parameters())
    assert shown["bc"][1] == "0"
    assert shown["rate"][1] == f"{5 * 64 * 4:,}", "memory tokens x width x float32"
    assert shown["dt"][1] == f"{60 * 3 * 64 * 4 + 8:,}", "the 60 steps before, of 3 tokens, and how many there are"
    assert shown["ppo"] == ["-", "-"], "learns from no segments"


def test_no_agent_breaks_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {
        "needy": '"""Needs a package."""\nEXTRA = "trial"\nimport absent_agents\n',
        "broken": "AGENT = (\n",
        "empty": '"""Has no agent."""\n',
    }
    for name, text in files.items():
        (tmp_path / f"{name}_on_trial.py").write_text(text)
    monkeypatch.setattr(rmt_rl.agents, "__path__", [*rmt_rl.agents.__path__, str(tmp_path)])
    invalidate_caches()
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0].removesuffix("_on_trial"): " ".join(line.split()[1:]) for line in lines}
    assert shown["needy"] == "not installed Needs a package. (rmt-rl[trial])"
    assert shown["broken"] == "SyntaxError"
    assert shown["empty"] == "not usable Has no agent."
    assert "rate" in shown


def test_collect_prints_the_id_of_the_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--episodes", "5", "--seed", "3", "--env.corridor-length", "4"]
    assert main(["collect", "tmaze", *flags]) == 0
    identity = capsys.readouterr().out.strip()
    assert identity.startswith("tmaze/expert-5-seed3-")
    assert Path("data", identity).is_dir()
    train = ["train", "tmaze", "bc", *TINY, "--dataset", identity, "--env.corridor-length", "4", "--updates", "1"]
    assert main([*train, "--out", "runs/from-data"]) == 0


def test_train_writes_a_run_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tmaze", "rate", *TINY, "--agent.heads", "2", "--updates", "5", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "runs/tmaze-rate-3\n"
    assert "5/5" in shown.err
    assert "at 4: success rate" in shown.err
    files = {path.name.partition("tfevents")[0] for path in Path("runs/tmaze-rate-3").iterdir()}
    assert files == {"config.toml", "metrics.jsonl", "events.out.", "last.safetensors", "best.safetensors"}
    config = read_config(Path("runs/tmaze-rate-3"))
    assert (config.seed, config.length, config.agent_options.model_dump()["heads"]) == (3, 5, 2)
    agent = rmt_rl.load("runs/tmaze-rate-3")
    assert agent.config == config.agent_options


def test_a_run_is_made_again_from_its_config_with_another_seed_and_options() -> None:
    assert main(["train", "--config", "runs/bc-0/config.toml", "--seed", "1", "--out", "runs/bc-1"]) == 0
    first, second = read_config(Path("runs/bc-0")), read_config(Path("runs/bc-1"))
    assert second == first.model_copy(update={"seed": 1})
    assert main(["train", "--config", "runs/bc-0", "--seed", "0", "--out", "runs/bc-again"]) == 0
    assert_same_run(Path("runs/bc-0"), Path("runs/bc-again"))
    flags = ["--updates", "1", "--agent.width", "8", "--env.corridor-length", "1", "9"]
    assert main(["train", "--config", "runs/bc-0", *flags, "--out", "runs/other"]) == 0
    other = read_config(Path("runs/other"))
    assert (other.length, other.agent_options.model_dump()["width"]) == (1, 8)
    assert other.env_options.model_dump()["corridor_length"] == (1, 9)
    assert other.data_options == first.data_options


@contextmanager
def interrupted_after_lines(run: Path, count: int) -> Iterator[None]:
    """Send SIGINT to this process once a run has so many lines of metrics, from a process that nothing here delays."""
    metrics_file = (run / "metrics.jsonl").absolute()
    until = 'until [ "$(cat "$1" 2>/dev/null | wc -l)" -ge "$2" ]; do sleep 0.01; done; kill -INT "$3"'
    watcher = subprocess.Popen(["sh", "-c", until, "sh", str(metrics_file), str(count), str(os.getpid())])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may ignore SIGINT
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        watcher.kill()
        watcher.wait()


def test_ctrl_c_saves_and_says_how_to_resume(capfd: pytest.CaptureFixture[str]) -> None:
    train = ["train", "tmaze", "bc", *TINY, "--updates", "300", "--eval-episodes", "0"]
    assert main([*train, "--out", "runs/whole"]) == 0
    capfd.readouterr()
    with interrupted_after_lines(Path("runs/stopped"), 3):
        assert main([*train, "--out", "runs/stopped"]) == 130
    made = header(Path("runs/stopped/last.safetensors"))["update"]
    assert 6 <= made < 300
    text = capfd.readouterr().err
    assert f"stopped at {made}; go on with: rmt-rl train --resume runs/stopped" in text
    assert "Traceback" not in text
    assert main(["train", "--resume", "runs/stopped"]) == 0
    assert capfd.readouterr().out == "runs/stopped\n"
    assert metrics(Path("runs/whole")) == metrics(Path("runs/stopped"))
    assert header(Path("runs/whole/last.safetensors")) == header(Path("runs/stopped/last.safetensors"))


def test_evaluate_varies_an_option_and_writes_every_episode(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--vary", "corridor_length=4,90", "--episodes", "6", "--seed", "5"]
    assert main(["evaluate", "runs/bc-0", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["corridor_length=4", "corridor_length=90"]
    assert "6 episodes" in lines[0]
    record = json.loads(Path("runs/bc-0/evaluation.json").read_text())
    assert record["checkpoint"] == "last, update 6"
    assert [result["options"] for result in record["results"]] == [{"corridor_length": 4}, {"corridor_length": 90}]
    assert [len(result["episodes"]) for result in record["results"]] == [6, 6]


def test_evaluate_takes_several_options_and_the_best_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--vary", "corridor_length=3,4", "--vary", "penalty=0,-1", "--episodes", "2", "--checkpoint", "best"]
    assert main(["evaluate", "runs/bc-0", *flags, "--sample", "--num-envs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"corridor_length={length} penalty={penalty}" for length in (3, 4) for penalty in (0, -1)
    ]
    assert json.loads(Path("runs/bc-0/evaluation.json").read_text())["checkpoint"].startswith("best, update")


def test_a_return_to_aim_at_needs_an_agent_that_aims(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/bc-0", "--target-return", "0.5"]) == 2
    assert "target_return=0.5: this agent isn't conditioned on returns; leave it out" in capsys.readouterr().err


def test_a_sampled_result_does_not_depend_on_those_before_it() -> None:
    def episodes(lengths: str) -> object:
        flags = ["--vary", f"corridor_length={lengths}", "--vary", "penalty=-1", "--sample", "--episodes", "20"]
        assert main(["evaluate", "runs/bc-0", *flags]) == 0
        results = json.loads(Path("runs/bc-0/evaluation.json").read_text())["results"]
        return next(result["episodes"] for result in results if result["options"]["corridor_length"] == 7)

    assert episodes("7") == episodes("3,7")


def test_an_evaluation_shows_on_a_terminal_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = ["evaluate", "runs/bc-0", "--vary", "corridor_length=3,9", "--episodes", "6", "--num-envs", "2"]
    monkeypatch.setattr(EvaluationProgress, "INTERVAL", 0.0)
    Path("runs/bc-0/evaluation.json").unlink(missing_ok=True)  # other tests' results would be dropped with a warning
    assert main(evaluate) == 0
    piped = capsys.readouterr()
    assert piped.err == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(evaluate) == 0
    shown = capsys.readouterr()
    assert re.search(r"[1-9]\d* steps .*4/6.* episodes", shown.err)
    assert [line.rpartition(",")[0] for line in shown.out.splitlines()] == [
        line.rpartition(",")[0] for line in piped.out.splitlines()
    ]


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "tmaze", "bc", *TINY, "--updates", "1", "--segments", "2", "--eval-episodes", "0"]
    train += ["--recipe", "none"]
    assert main([*train, "--out", "runs/cut"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "━" not in line]
    assert len(lines) == 2
    assert lines[1].startswith("warning: the agent acts as if it had no memory")
    assert re.fullmatch(r"warning: \d+ of 40 episodes have more steps .* --feed windows or streams", lines[0])


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rmt-rl {rmt_rl.__version__}\n"


def test_plot_draws_runs_with_and_without_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("0", "1"):
        assert main(["train", "--config", "runs/bc-0", "--seed", seed, "--out", f"runs/plot-{seed}"]) == 0
    capsys.readouterr()
    assert main(["plot", "runs/plot-0", "runs/plot-1", "--out", "curves.png"]) == 0
    assert capsys.readouterr().out == "curves.png\n"
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    for seed in ("0", "1"):
        assert main(["evaluate", f"runs/plot-{seed}", "--vary", "corridor_length=4,9", "--episodes", "2"]) == 0
    capsys.readouterr()
    assert main(["plot", "runs/plot-0", "runs/plot-1", "--out", "pictures/both.png"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| success rate at corridor_length |")
    assert table[2].startswith("| bc |")
    assert table[-1] == "pictures/both.png"


def test_inspect_prints_tables_and_writes_a_picture_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "tmaze", "rate", *TINY, "--agent.heads", "2", "--updates", "1", "--eval-episodes", "0"]
    assert main([*train, "--out", "runs/memory"]) == 0
    capsys.readouterr()
    assert main(["inspect", "runs/memory", "--segments", "12", "--episodes", "8", "--memories", "4"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "", "the progress is for terminals"
    lines = shown.out.splitlines()
    assert lines[0].startswith("tmaze rate, last, update 1: ")
    assert lines[-2:] == ["runs/memory/inspection.json", "runs/memory/inspection.png"]
    assert json.loads(Path(lines[-2]).read_text())["retained"][-1]["fillers"] == 12
    assert Path(lines[-1]).read_bytes().startswith(b"\x89PNG")
    flags = ["--segments", "1", "--seed", "3", "--out", "elsewhere"]
    assert main(["inspect", "runs/memory", *flags]) == 0
    assert json.loads(Path("elsewhere/inspection.json").read_text())["seed"] == 3
    assert main(["inspect", "runs/memory", "--checkpoint", "best"]) == 2
    assert "best.safetensors doesn't exist" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("list", "collect", "train", "evaluate", "plot", "inspect", "flops"))
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("--config FILE", "--resume RUN", "--out RUN", "ENV AGENT"))
    assert main(["collect", "-h"]) == 0
    capsys.readouterr()
    options = {
        ("train", "tmaze", "rate"): "--updates --learning-rate --env.corridor-length --agent.valve --dataset --out",
        ("collect", "tmaze"): "--episodes --seed --env.corridor-length",
        ("evaluate",): "--vary --episodes --checkpoint --device",
        ("flops",): "--segments --tokens --memory-tokens --counting --plot",
        ("plot",): "--out",
        ("inspect",): "--out --segments --episodes --memories --import --seed --checkpoint --device",
    }
    for command, flags in options.items():
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert all(flag in text for flag in flags.split()), command


@pytest.mark.parametrize(
    "command",
    [
        [str(Path(sys.executable).with_name("rmt-rl"))],
        [sys.executable, "-m", "rmt_rl"],
    ],
)
def test_as_a_process(command: list[str]) -> None:
    done = subprocess.run([*command, "list"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rate" in done.stdout
    done = subprocess.run([*command, "lst"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown command 'lst'")
    assert "did you mean 'list'" in done.stderr


def test_a_reader_that_has_enough_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "rmt_rl", "train", "tmaze", "bc", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE
