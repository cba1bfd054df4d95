"""Several processes in one folder, signals, pipes that are closed, and what killed processes leave behind."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import minari
import pytest
import torch

from rmt_rl import signals
from rmt_rl.agent import Agent
from rmt_rl.cli import main
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.writing import is_made, making
from rmt_rl.errors import UsageError
from rmt_rl.locks import Busy, held, holder_of, this_host
from rmt_rl.runs.evaluation import EpisodeResult, Evaluation, read_results, write_evaluation
from rmt_rl.runs.folder import claimed, write_config
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training import loop
from rmt_rl.training.segments import SegmentLearner
from tests.processes import Command, kill_all
from tests.tiny import assert_same_run, header, in_process, metrics, start_process, started, tiny, weights, work_folder

AGENT = ("--agent.width", "16", "--agent.segment-length", "4", "--env.corridor-length", "1", "10")
DATA = ("--collect-episodes", "40", "--batch-size", "8", "--accelerator", "cpu")
TRAIN = ("train", "tmaze", "bc", *AGENT, *DATA, "--log-every", "2", "--save-every", "4", "--eval-episodes", "4")
FOREVER = ("--updates", "1000000", "--eval-every", "1000000")
ENDLESS = "1000000"  # episodes of an evaluation or a collection
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}

Snapshot = dict[str, bytes]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a data set and a run of 4 updates."""
    with work_folder(tmp_path_factory) as folder:
        assert main([*TRAIN, "--updates", "4", "--out", "runs/short"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    kill_all()


def begun(run: Path) -> bool:
    """Return True once a run has saved a checkpoint."""
    return (run / "last.safetensors").exists()


def content(run: Path) -> Snapshot:
    """Return the files of a folder that isn't written to."""
    return {path.name: path.read_bytes() for path in sorted(run.iterdir())}


def prolonged(name: str, updates: int) -> Path:
    """Return a copy of the short run with more updates to make."""
    run = Path("runs", name)
    run.mkdir()
    for path in Path("runs/short").iterdir():
        text = path.read_bytes().replace(b"\nupdates = 4\n", f"\nupdates = {updates}\n".encode())
        (run / path.name).write_bytes(text)
    return run


# Two processes, one folder


def test_a_second_process_in_a_run_is_refused_until_the_first_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    run = prolonged("shared", 1_000_000)
    first = Command(["train", "--resume", str(run)])
    first.until(lambda: holder_of(run / ".lock") and len(metrics(run)) > 3)
    first.pause()
    before = content(run)
    for arguments in (["train", "--resume", str(run)], [*TRAIN, "--recipe", "none", "--out", str(run)]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{run} is in use by process {first.process.pid} on {this_host()} since 20" in error
    assert content(run) == before
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0, "of the last checkpoint, beside training"
    first.kill()
    third = Command(["train", "--resume", str(run)])
    third.until(lambda: (holder := holder_of(run / ".lock")) and holder.process == third.process.pid)
    third.send(signal.SIGTERM)
    assert third.status() == 143, third.error
    assert not list(run.glob(".*"))


def resume_both(runs: Path) -> list[int]:
    """Resume a run in two processes at once; return their exit statuses."""
    commands = [Command(["train", "--resume", str(runs)]) for _ in range(2)]
    return sorted(command.status() for command in commands)


def test_of_a_pair_one_proceeds() -> None:
    whole, shared = prolonged("alone", 60), prolonged("pair", 60)
    assert main(["train", "--resume", str(whole)]) == 0
    statuses = resume_both(shared)
    assert statuses in ([0, 2], [0, 0]), "or the second came after the end of the first, and had nothing to do"
    assert_same_run(whole, shared)


@pytest.mark.slow
def test_of_many_pairs_one_proceeds() -> None:
    whole = prolonged("alone-slow", 600)
    assert main(["train", "--resume", str(whole)]) == 0
    for number in range(6):
        shared = prolonged(f"pair-{number}", 600)
        assert resume_both(shared) == [0, 2]
        assert_same_run(whole, shared)


def test_a_folder_is_left_as_it_was_when_no_run_is_begun(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    with claimed(run):
        assert run.is_dir()
    assert not run.parent.exists()
    run.mkdir(parents=True)
    with pytest.raises(UsageError, match="in use by process"), claimed(run), claimed(run):
        pass
    assert run.exists(), "since it was there before"
    assert not list(run.iterdir())


def test_a_lock_follows_no_link_and_repeats_no_strangers_text(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (run / ".lock").symlink_to(precious)
    with (
        pytest.raises(UsageError, match=r"\.lock can't be written: Too many levels of symbolic links; remove it"),
        claimed(run),
    ):
        pass
    assert precious.read_text() == "mine"
    (run / ".lock").unlink()
    with held(run / ".lock"):
        (run / ".lock").write_text("process 1 on \x1b]0;evil\x07 since 2026")
        with pytest.raises(Busy, match=r"^another process$"), held(run / ".lock"):
            pass


def evaluation(number: int) -> Evaluation:
    return Evaluation({"length": number}, 0, True, None, 1, 0.1, (EpisodeResult(0, 1.0, 3, True),))


def write_evaluations(run: str, first: int, count: int) -> None:
    done: list[Evaluation] = []
    for number in range(first, first + count):
        done.append(evaluation(number))
        write_evaluation(Path(run), done, "last, update 4")


def test_results_of_two_evaluations_at_once_are_all_kept(tmp_path: Path) -> None:
    writers = [start_process(write_evaluations, str(tmp_path), first, 20) for first in (0, 100)]
    for writer in writers:
        writer.join()
    lengths = sorted(result["options"]["length"] for result in read_results(tmp_path))
    assert lengths == [*range(20), *range(100, 120)]
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_of_two_that_collect_the_same_one_waits_for_the_other() -> None:
    collect = ["collect", "tmaze", "--episodes", "1500", "--env.corridor-length", "30"]
    first, second = (Command(collect) for _ in range(2))
    assert (first.status(), second.status()) == (0, 0)
    assert first.output == second.output
    identity = first.output.strip()
    assert f"data set {identity!r} is being made by process" in first.error + second.error
    assert len(EpisodeStore(identity)) == 1500
    assert not list(Path("data").glob(".*"))


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_collection_ends_at_a_signal_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    command = Command(["collect", "tmaze", "--episodes", ENDLESS, "--seed", "5"])
    built = Path("data/.unfinished-")
    command.until(lambda: list(built.parent.glob(f"{built.name}*/dataset/data/*.hdf5")))
    began = time.monotonic()
    command.send(number)
    command.send(number)  # as shells do that end with their terminal
    assert command.status() == STATUS[number]
    print(f"{number.name} while collecting: {time.monotonic() - began:.2f} s")
    assert command.error == command.output == ""
    assert not list(Path("data").glob(".*"))


class Finalised:
    """An object whose finaliser a signal comes into."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


def by_finaliser(number: int) -> None:
    Finalised(number)


def by_weak_reference(number: int) -> None:
    kept: set[int] = set()
    _reference = weakref.ref(kept, lambda _: signal.raise_signal(number))
    del kept


def by_callback_of_c(number: int) -> None:
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(number))()


def ignored_once(signal_in: Callable[[int], None], number: int, is_training: bool) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in what they run in the background
    with signals.heard():
        try:
            signal_in(number)
            with signals.deferred() if is_training else nullcontext():
                time.sleep(0.2 if is_training else 20)
            with signals.interruptible():
                sys.exit(1)
        except signals.Stopped as stopped:
            sys.exit(stopped.status)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("signal_in", [by_finaliser, by_weak_reference, by_callback_of_c])
def test_a_signal_is_heard_that_comes_where_python_ignores_exceptions(
    signal_in: Callable[[int], None], number: signal.Signals, is_training: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    status = in_process(ignored_once, signal_in, number, is_training)
    assert status == (1 if is_training else STATUS[number]), capfd.readouterr().err
    assert "ignored" not in capfd.readouterr().err


def second_is_ignored(signal_in: Callable[[int], None]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with signals.heard(), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        signal_in(signal.SIGINT)
        try:
            time.sleep(20)
        except KeyboardInterrupt as interrupt:
            sys.exit(7 if type(interrupt) is KeyboardInterrupt else 1)


def test_a_second_ctrl_c_is_heard_that_comes_where_python_ignores_exceptions() -> None:
    assert in_process(second_is_ignored, by_finaliser) == 7


def test_other_ignored_exceptions_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("a lost value")

    told: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with signals.heard():
            ctypes.CFUNCTYPE(None)(fail)()
        assert sys.unraisablehook == told.append
    finally:
        sys.unraisablehook = before
    assert [str(each.exc_value) for each in told] == ["a lost value"]


def test_data_collected_by_training_end_at_a_signal() -> None:
    run = Path("runs/collecting")
    command = Command([*TRAIN, "--recipe", "none", "--collect-episodes", ENDLESS, "--out", str(run)])
    command.until(lambda: list(Path("data").glob(".unfinished-*/dataset")))
    command.send(signal.SIGUSR1)
    assert command.status() == STATUS[signal.SIGUSR1]
    assert command.error == "stopped\n"
    assert not run.exists()


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_saves_the_update_under_way(number: signal.Signals) -> None:
    run = prolonged(f"stopped-{number.name}", 1_000_000)
    command = Command(["train", "--resume", str(run)])
    command.until(lambda: len(metrics(run)) > 4)
    command.send(number)
    assert command.status() == STATUS[number]
    made = header(run / "last.safetensors")["update"]
    assert made > 4
    assert metrics(run)[-1]["update"] in (made - 1, made)
    assert f"stopped at {made}; go on with: rmt-rl train --resume {run}\n" in command.error
    assert "Traceback" not in command.error


def test_a_signal_that_is_ignored_from_the_start_stays_ignored() -> None:
    run = prolonged("nohup", 60)
    command = Command(["train", "--resume", str(run)], ignored=[signal.SIGHUP])
    command.until(lambda: len(metrics(run)) > 4)
    command.send(signal.SIGHUP)
    assert command.status() == 0, command.error


def stopped_in_evaluation(values: dict[str, Any], folder: Path) -> None:
    """Train; the process gets a signal in the evaluation after update 8."""
    config = make_config(values)
    assert isinstance(config, OfflineRun)
    write_config(config, folder)
    learner: Any = started(config, folder)
    run = loop._loop(config, folder, learner, SegmentLearner.origin(config))
    evaluate = run.evaluate
    assert evaluate

    def stopped(agent: Agent) -> Evaluation:
        if learner.made == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(agent)

    run.evaluate = stopped
    with signals.heard():
        made = run.run(should_stop=signals.stop_requested)
    sys.exit(made)


def test_an_interrupted_evaluation_is_made_up_for(tmp_path: Path) -> None:
    config = tiny(evaluation={"eval_every": 4, "eval_episodes": 4})
    loop.train(config, tmp_path / "whole")
    run = tmp_path / "stopped"
    assert in_process(stopped_in_evaluation, config, run) == 8
    assert header(run / "last.safetensors")["update"] == 8
    assert [line["update"] for line in metrics(run)] == [3, 4, 6], "the line of update 8 follows with its evaluation"
    loop.resume(run)
    assert_same_run(tmp_path / "whole", run)


def test_an_endless_evaluation_ends_at_a_signal_and_loses_nothing() -> None:
    run = prolonged("evaluating", 9)
    text = (run / "config.toml").read_text().replace("eval_episodes = 4", f"eval_episodes = {ENDLESS}")
    (run / "config.toml").write_text(text)
    command = Command(["train", "--resume", str(run)])
    command.until(lambda: metrics(run)[-1]["update"] == 8)
    time.sleep(0.5)  # now in an evaluation of hours, after the last update
    began = time.monotonic()
    command.send(signal.SIGTERM)
    assert command.status() == 143
    print(f"SIGTERM while evaluating in training: {time.monotonic() - began:.2f} s")
    assert header(run / "last.safetensors")["update"] == 9
    assert f"stopped at 9; go on with: rmt-rl train --resume {run}\n" in command.error


def test_an_evaluation_ends_at_a_signal_with_its_results_written() -> None:
    vary = ["--vary", "corridor_length=2,1000000", "--episodes", "3"]
    run = prolonged("evaluated", 4)
    command = Command(["evaluate", str(run), *vary])
    command.until(lambda: (run / "evaluation.json").exists())
    began = time.monotonic()
    command.send(signal.SIGHUP)
    assert command.status() == 129
    print(f"SIGHUP while evaluating: {time.monotonic() - began:.2f} s")
    assert command.error == ""
    assert [result["options"] for result in read_results(run)] == [{"corridor_length": 2}]


ONLINE = ["train", "CartPole-v1", "ppo", "--total-timesteps", "1000000", "--eval-episodes", "0"]
ACTING = ["--agent.n-steps", "50000", "--agent.batch-size", "50000"]
LEARNING = ["--agent.n-steps", "64", "--agent.batch-size", "64", "--agent.n-epochs", "1000000"]


def test_an_online_round_that_is_stopped_is_undone() -> None:
    commands = {}
    for name, options in {"acting": ACTING, "learning": LEARNING}.items():
        commands[name] = Command([*ONLINE, *options, "--out", f"runs/{name}"])
        commands[name].until(Path("runs", name, "metrics.jsonl").exists)
    time.sleep(1)  # now in a round of hours
    for name, command in commands.items():
        began = time.monotonic()
        command.send(signal.SIGTERM)
        assert command.status() == 143, command.error
        print(f"SIGTERM while {name} in an online round: {time.monotonic() - began:.2f} s")
        assert header(Path("runs", name, "last.safetensors"))["update"] == 0
    assert torch.equal(weights(Path("runs/acting")), weights(Path("runs/learning"))), "nothing was learnt"


# Closed pipes and terminals


def test_a_full_or_lost_standard_error_ends_no_training() -> None:
    run = prolonged("full", 30)
    command = Command(["train", "--resume", str(run)], error="/dev/full")
    assert command.status() == 0
    assert header(run / "last.safetensors")["update"] == 30


def test_a_full_standard_output_is_told() -> None:
    run = prolonged("full-output", 30)
    command = Command(["train", "--resume", str(run)], output="/dev/full")
    assert command.status() == 1
    assert "error: the output can't be written (No space left on device)" in command.error
    assert header(run / "last.safetensors")["update"] == 30


def test_a_pipe_that_is_closed_stops_training_with_its_work_saved() -> None:
    run = prolonged("piped", 1_000_000)
    text = (run / "config.toml").read_text().replace("eval_every = 250", "eval_every = 5")
    (run / "config.toml").write_text(text)
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    command = Command(["train", "--resume", str(run)], error="pipe", output="pipe")
    command.until(lambda: len(metrics(run)) > 4)
    os.close(reader)
    assert command.status() == 141
    assert header(run / "last.safetensors")["update"] > 4


def test_closed_streams_are_no_trouble() -> None:
    run = prolonged("closed", 8)
    command = [sys.executable, "-m", "rmt_rl", "train", "--resume", str(run)]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [line["update"] for line in metrics(run)] == [2, 4, 6, 8], "with nothing of standard error in between"


# What killed processes leave behind


def unfinished() -> list[Path]:
    return list(Path("data").glob(".unfinished-*"))


def test_the_next_collection_sweeps_what_killed_ones_left(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(["collect", "tmaze", "--episodes", ENDLESS, "--seed", "6"])
    command.until(lambda: list(Path("data").glob(".unfinished-*/dataset/data/*.hdf5")))
    command.kill()
    assert len(unfinished()) == 1
    old, young = Path("data/.unfinished-x1y2"), Path("data/.unfinished-elsewhere")
    for path in (old, young):
        (path / "dataset").mkdir(parents=True)
    (young / "lock").write_text("process 1 on another-host since 2026-01-31 12:00:00+01:00")
    two_days_ago = time.time() - 2 * 86_400
    for path in (old, old / "dataset"):
        os.utime(path, (two_days_ago, two_days_ago))
    other = making("wood/being-made-v0")
    with other as building:
        assert building
        assert main(["collect", "tmaze", "--episodes", "3", "--seed", "7"]) == 0
        assert set(unfinished()) == {young, Path("data", building.name)}, "which may still be made"
    assert unfinished() == [young]
    (young / "lock").unlink()
    (young / "dataset").rmdir()
    young.rmdir()


@pytest.mark.parametrize("inside", ["", "data"])
def test_an_empty_data_set_is_made_anew(inside: str, capsys: pytest.CaptureFixture[str]) -> None:
    seed = str(20 + len(inside))
    collect = ["collect", "tmaze", "--episodes", "3", "--seed", seed]
    assert main(collect) == 0
    identity = capsys.readouterr().out.strip()
    minari.delete_dataset(identity)
    Path("data", identity, inside).mkdir(parents=True)
    assert not is_made(identity)
    assert main(collect) == 0
    assert len(EpisodeStore(identity)) == 3


def test_a_lock_file_is_no_run_and_no_obstacle(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text("process 1 on elsewhere since 2026-01-31 12:00:00+01:00")
    loop.train(tiny(), run)
    assert begun(run)
    assert not (run / ".lock").exists()
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["update"] == 10
