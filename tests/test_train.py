from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.serialization import serialize_space
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import rmt_rl
from rmt_rl.acting import env_source
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.analysis.sizes import SPEC
from rmt_rl.data.curriculum import CurriculumFeed
from rmt_rl.data.feed import make_feed
from rmt_rl.data.segment import Batch
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.folder import write_config
from rmt_rl.runs.options import OfflineRun, TrainingConfig, make_config
from rmt_rl.training.datasets import large_actions
from rmt_rl.training.loop import Loop, resume, train
from rmt_rl.training.measures import Counts, mean_square
from rmt_rl.training.optimization import decay_groups, learning_rate
from rmt_rl.training.segments import SegmentLearner
from tests.nodes import on_two_nodes
from tests.test_checkpoint import edit
from tests.tiny import Values, assert_same_run, header, in_process, metrics, started, tensors, tiny, weights


@pytest.fixture(autouse=True, scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("data")))
        yield


def killed(values: Values, run: Path, update: int) -> None:
    def report(made: int, metrics: Any) -> None:
        if made == update:
            os.kill(os.getpid(), signal.SIGKILL)

    train(make_config(values), run, report)


DROPOUT = {"segment_length": 4, "width": 16, "heads": 2, "layers": 1, "dropout": 0.2}
INTERRUPTED = {
    "episodes with dropout and ageing": tiny(agent_options=DROPOUT, ageing=3, ageing_from=0.2),
    "memories kept, by a curriculum": tiny(curriculum=0.05, ageing=3, ageing_from=0.1, ageing_updates=10**9),
    "streams and memories kept": tiny(data={"feed": "streams"}, ageing=3, ageing_from=0.1, ageing_updates=4),
    "memories of any segment kept": tiny(ageing=3, ageing_at="any", ageing_from=0.1, ageing_updates=4),
    "streams": tiny(data={"feed": "streams", "segments": 2}),
    "streams in bf16": tiny(data={"feed": "streams"}, precision="bf16-mixed"),
    "curriculum": tiny(curriculum=0.05),
    "a curriculum, then streams, and memories kept": tiny(
        data={"feed": "streams", "segments": 2}, curriculum=0.01, ageing=3, ageing_from=0.1, ageing_updates=10**9
    ),
    "replay with dropout": tiny(agent_options=DROPOUT, gradient="replay"),
    "windows, truncated, no memory": tiny("dt", data={"feed": "windows"}, gradient="truncated"),
}


@pytest.mark.parametrize("config", INTERRUPTED.values(), ids=INTERRUPTED)
def test_killed_and_resumed_is_as_if_never_killed(config: OfflineRun, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(config, whole)
    assert in_process(killed, config, run, 7) == -signal.SIGKILL
    assert header(run / "last.safetensors")["update"] == 4
    assert metrics(run)[-1]["update"] == 6, "logged after the checkpoint, to be dropped"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 7, "train/lo')  # as if killed in the middle of a line
    assert resume(run) == 10
    assert_same_run(whole, run)
    assert [line["update"] for line in metrics(run)] == [3, 4, 6, 8, 9, 10]


@pytest.mark.slow
def test_killed_at_300_of_600(tmp_path: Path) -> None:
    config = tiny(updates=600, save_every=100, ageing=2, ageing_from=0.25)
    train(config, tmp_path / "whole")
    assert in_process(killed, config, tmp_path / "run", 300) == -signal.SIGKILL
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    config = tiny("bc")
    train(config, tmp_path / "whole")
    assert in_process(killed, config, tmp_path / "run", 3) == -signal.SIGKILL
    assert not (tmp_path / "run" / "last.safetensors").exists()
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("update", [0, 5])
def test_stopped_anywhere_and_resumed_is_as_if_never_stopped(update: int, tmp_path: Path) -> None:
    config, made = tiny(data={"feed": "streams"}), []
    train(config, tmp_path / "whole")
    stopped = train(config, tmp_path / "run", lambda n, _: made.append(n), lambda: len(made) == update)
    assert stopped == header(tmp_path / "run" / "last.safetensors")["update"] == update
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(tiny("bc"), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if "tfevents" not in path.name}
    assert resume(tmp_path / "run", lambda *_: pytest.fail("an update was made")) == 10
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": {"seed": 1}}, "seed=0, but would go on with 1; undo what was changed in .*config.toml"),
        ({"data": {"collect_seed": 5}}, "dataset=.*expert-40-seed0-.* but would go on with .*expert-40-seed5-"),
        ({"data": {"dataset": ["other/data-v0"]}}, "dataset=.*expert-40-seed0-.* but would go on with .*other/data-v0"),
        ({"env_options": {"corridor_length": [1, 9]}}, "env_options=.*10.* but would go on with .*9"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_what_it_was_started_with(change: Values, message: str, tmp_path: Path) -> None:
    train(tiny("bc"), tmp_path)
    before = minari.list_local_datasets().keys()
    write_config(tiny("bc", updates=12, **change), tmp_path)
    with pytest.raises(UsageError, match=message):
        resume(tmp_path)
    assert minari.list_local_datasets().keys() == before, "nothing is collected for it"


def test_a_run_does_not_go_on_on_data_of_a_changed_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny("bc"), tmp_path / "run")
    (identity,) = header(tmp_path / "run" / "last.safetensors")["progress"]["origin"]["dataset"]
    monkeypatch.setattr(env_source, "version", lambda package: "99.0")
    write_config(tiny("bc", updates=12), tmp_path / "run")
    with pytest.raises(UsageError, match=f"was started with dataset=.*{identity}.* or in the environment"):
        resume(tmp_path / "run")
    write_config(tiny("bc", updates=12, data={"dataset": [identity]}), tmp_path / "run")
    assert resume(tmp_path / "run") == 12, "it is the old data set that counts, however it is named"


def test_a_run_does_not_go_on_on_data_of_other_spaces(tmp_path: Path) -> None:
    train(tiny("bc"), tmp_path)
    space = serialize_space(gymnasium.spaces.Box(-9, 9, (4,), np.int64))
    edit(tmp_path / "last.safetensors", observation_space=space)
    with pytest.raises(UsageError, match=r"has observation_space .* but checkpoint .*last\.safetensors has Box.-9"):
        resume(tmp_path)


def test_more_updates_prolong_a_run(tmp_path: Path) -> None:
    train(tiny("bc"), tmp_path)
    write_config(tiny("bc", updates=14), tmp_path)
    assert resume(tmp_path) == 14
    assert [line["update"] for line in metrics(tmp_path)][-2:] == [12, 14]


def test_episodes_that_are_cut_are_told_at_the_start(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    train(tiny("bc", updates=2, evaluation={"eval_episodes": 0}), tmp_path / "whole")
    assert not any("have more steps" in str(warning.message) for warning in recwarn.list)
    with pytest.warns(UserWarning, match=r"than the 8 that an update reads .*give --segments 3, or --feed") as told:
        train(tiny("bc", updates=2, data={"segments": 2}), tmp_path / "cut")
    assert sum("have more steps" in str(warning.message) for warning in told) == 1


def test_the_norm_of_no_memory_is_on_the_device_of_the_others() -> None:
    assert mean_square((), torch.device("meta")).device.type == "meta"
    assert mean_square((torch.tensor([3.0, 1.0]),), torch.device("cpu")) == 5


def test_what_has_no_state_does_not_age(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ageing=2: agent 'bc' carries no state that could age; give 0"):
        train(tiny("bc", ageing=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_kept_memories_teach_and_give_way_to_others(tmp_path: Path) -> None:
    found = {}
    for updates in (0, 1, 3, 10**9):
        config = tiny(ageing=2, ageing_from=0.2, ageing_updates=updates, data={"bucket_batches": 1})
        learner = started(config, tmp_path / str(updates))
        Loop(learner, tmp_path / str(updates), config.schedule, {}).run()
        found[updates] = learner.ageing.kept and learner.ageing.kept.update
    assert found[0] is None
    assert (found[1], found[10**9]) == (9, 2), "each in turn, and the first one for good"
    assert found[3] is not None
    assert 2 < found[3] < 9
    assert (weights(tmp_path / "0") - weights(tmp_path / f"{10**9}")).abs().max() > 1e-3


def test_memories_kept_of_other_data_options_are_left(tmp_path: Path) -> None:
    kept = {"ageing": 2, "ageing_from": 0.2, "ageing_updates": 10**9}
    train(tiny(**kept), tmp_path)
    assert header(tmp_path / "last.safetensors")["progress"]["kept"]["update"] < 9
    write_config(tiny(**kept, updates=12, data={"bucket_batches": 1, "batch_size": 4}), tmp_path)
    assert resume(tmp_path) == 12
    assert header(tmp_path / "last.safetensors")["progress"]["kept"]["update"] >= 10


def test_memories_are_kept_where_an_option_changes_that_draws_nothing(tmp_path: Path) -> None:
    kept = {"ageing": 2, "ageing_from": 0.2, "ageing_updates": 10**9}
    train(tiny(**kept), tmp_path)
    update = header(tmp_path / "last.safetensors")["progress"]["kept"]["update"]
    write_config(tiny(**kept, updates=12, data={"cache_mb": 7}), tmp_path)
    resume(tmp_path)
    assert header(tmp_path / "last.safetensors")["progress"]["kept"]["update"] == update


def test_streams_do_not_go_on_with_states_of_other_steps(tmp_path: Path) -> None:
    train(tiny(data={"feed": "streams", "segments": 1}), tmp_path)
    write_config(tiny(updates=12, data={"feed": "streams", "segments": 2}), tmp_path)
    with pytest.raises(UsageError, match=r"segments=2, but the streams of this run were read with segments=1"):
        resume(tmp_path)


def test_a_best_checkpoint_in_the_last_one_s_place_is_told(tmp_path: Path) -> None:
    train(tiny("bc", evaluation={"eval_episodes": 2, "eval_every": 5}), tmp_path)
    shutil.copy(tmp_path / "best.safetensors", tmp_path / "last.safetensors")
    with pytest.raises(UsageError, match="can't be resumed: its last checkpoint holds weights alone"):
        resume(tmp_path)


def test_ageing_that_never_begins_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="ageing=2 begins after the share ageing_from=1 .* so never in"):
        train(tiny(ageing=2, ageing_from=1), tmp_path / "run")


@pytest.mark.parametrize("gradient", ["full", "replay"])
def test_kept_memories_age_from_update_to_update(gradient: str, tmp_path: Path) -> None:
    frozen = {"learning_rate": 1e-12, "ageing": 3, "ageing_from": 0.2, "ageing_updates": 10**9, "gradient": gradient}
    config = tiny(**frozen, log_every=1)
    learner = started(config, tmp_path)
    Loop(learner, tmp_path, config.schedule, {}).run()
    kept = learner.ageing.kept
    assert kept is not None
    assert kept.age > 3, "older than one update makes them"
    agent = learner.model.eval()
    with torch.no_grad():
        _, state = agent(kept.batch.segments[0], agent.initial_state(8))
        age = 0
        for update in range(kept.update, 10):
            for filler in learner.ageing.fillers(update, len(learner.feed.batch(update).segments)) or ():
                _, state = agent(filler, state)
                age += 1
        assert kept.age == age
        loss = torch.zeros(())
        for segment in kept.batch.segments[1:]:
            numbers, state = agent(segment, state)
            loss += agent.losses(numbers, segment)[0].sum() / kept.batch.steps
    last = metrics(tmp_path)[-1]
    assert last["data/age"] == kept.age
    assert last["train/aged_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_seeds_repeat_and_differ(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        train(tiny("bc", run={"seed": seed}), tmp_path / name)
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert not torch.equal(weights(tmp_path / "one"), weights(tmp_path / "other"))


def test_replay_and_deep_truncation_learn_what_full_backpropagation_does(tmp_path: Path) -> None:
    depths = {"full": ("full", 1), "replay": ("replay", 1), "truncated": ("truncated", 3), "short": ("truncated", 1)}
    for name, (gradient, depth) in depths.items():
        train(tiny(gradient=gradient, depth=depth, ageing=2, ageing_from=0.3, ageing_updates=2), tmp_path / name)
    full = weights(tmp_path / "full")
    torch.testing.assert_close(weights(tmp_path / "replay"), full, rtol=1e-3, atol=2e-4)
    assert torch.equal(weights(tmp_path / "truncated"), full)
    assert (weights(tmp_path / "short") - full).abs().max() > 1e-3
    accuracies = [metrics(tmp_path / name)[0]["train/accuracy"] for name in ("full", "replay")]
    assert accuracies[0] == pytest.approx(accuracies[1]), "replay's first pass isn't counted"


def losses_of_segments(learner: SegmentLearner) -> list[float]:
    """Make an update; return the loss of each segment."""
    losses: dict[int, float] = {}
    compute = learner.runner.loss

    def noted(batch: Batch, counts: Counts, index: int, state: Tree) -> tuple[Tensor, Tree]:
        loss, state = compute(batch, counts, index, state)
        losses[index] = loss.item()
        return loss, state

    learner.runner.loss = noted  # type: ignore[method-assign]
    learner.advance()
    learner.runner.loss = compute  # type: ignore[method-assign]
    return [losses[index] for index in sorted(losses)]


@pytest.mark.parametrize("gradient", ["full", "replay", "truncated"])
def test_memories_behind_any_segment_age(gradient: str) -> None:
    """One step without a learning rate: losses before the fillers are those without ageing, and later ones aren't."""
    values: Values = {"gradient": gradient, "learning_rate": 1e-12, "env_options": {"corridor_length": 14}}
    values["data"] = {"segments": 4, "bucket_batches": 1}
    losses = {}
    chosen: Values = {"young": {"ageing": 0}, "aged": {"ageing": 3, "ageing_at": "any", "ageing_from": 0}}
    for name, options in chosen.items():
        learner = SegmentLearner(tiny(**values, **options))
        learner.start()
        losses[name] = [losses_of_segments(learner) for _ in range(8)]
    borders = [learner.ageing.border(update, 4) for update in range(8)]
    assert set(borders) == {0, 1, 2}
    for update, border in enumerate(borders):
        young, aged = losses["young"][update], losses["aged"][update]
        assert aged[: border + 1] == pytest.approx(young[: border + 1])
        has_fillers = bool(learner.ageing.fillers(update, 4))
        assert (aged[border + 1] != pytest.approx(young[border + 1], rel=1e-6)) == has_fillers


@pytest.mark.parametrize("gradient", ["full", "replay"])
def test_bf16(gradient: str, tmp_path: Path) -> None:
    options = {"gradient": gradient, "data": {"feed": "streams"}, "ageing": 2, "ageing_from": 0}
    train(tiny(**options), tmp_path / "fp32")
    train(tiny(**options, precision="bf16-mixed"), tmp_path / "bf16")
    exact, mixed = weights(tmp_path / "fp32"), weights(tmp_path / "bf16")
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    losses = [metrics(tmp_path / name)[0]["train/loss"] for name in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert all(parameter.isfinite().all() for parameter in rmt_rl.load(tmp_path / "bf16").parameters())


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    options = {"data": {"feed": "streams"}, "ageing": 2, "ageing_from": 0, "ageing_updates": 4, "hide_actions": 0.5}
    train(tiny(**options), tmp_path / "one")
    write_config(tiny(**options, devices=2), tmp_path)
    command = [sys.executable, "-m", "rmt_rl", "train", "--config", "config.toml", "--out", "two"]
    slurm_script = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    of_others = {"LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | slurm_script | of_others
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "two\n"), done.stderr
    one, two = (tensors(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-4)
    assert len(metrics(tmp_path / "one")) == len(metrics(tmp_path / "two"))
    for line, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert other == pytest.approx(line, rel=1e-3)


def test_two_nodes_learn_what_one_process_does(tmp_path: Path) -> None:
    options = {"data": {"feed": "streams"}, "ageing": 2, "ageing_from": 0, "ageing_updates": 4, "updates": 5}
    train(tiny(**options), tmp_path / "one")
    write_config(tiny(**options, num_nodes=2), tmp_path)
    outputs = on_two_nodes(["train", "--config", "config.toml", "--out", "two"], tmp_path)
    assert sorted(outputs) == ["", "two\n"], "the first process reports, whichever node has it"
    one, two = (tensors(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-4)
    assert len(metrics(tmp_path / "one")) == len(metrics(tmp_path / "two"))


def test_several_nodes_need_a_launcher_of_as_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"num_nodes=2: no launcher has started this process; .* torchrun --nnodes 2"):
        train(tiny(num_nodes=2), tmp_path / "run")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    with pytest.raises(UsageError, match=r"2 processes are needed, but .* started 3 \(SLURM_STEP_NUM_TASKS=3\)"):
        train(tiny(num_nodes=2), tmp_path / "run")
    with pytest.raises(UsageError, match="num_nodes=2 can't share batch_size=5: choose a multiple of 2"):
        tiny(num_nodes=2, data={"batch_size": 5})
    assert not (tmp_path / "run").exists()


def test_learning_rate_warms_up_stays_and_decays() -> None:
    options = TrainingConfig(updates=100, learning_rate=2.0, warmup=10, decay_from=0.5, final_rate=0.1)
    rates = [learning_rate(options, update) for update in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[9:51] == [2.0] * 42
    assert rates[75] == pytest.approx(2.0 * 0.55), "half-way down the cosine"
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[99] == pytest.approx(0.2, rel=0.01)
    constant = TrainingConfig(updates=5, learning_rate=2.0, warmup=0, decay_from=1.0)
    assert [learning_rate(constant, update) for update in range(5)] == [2.0] * 5


@pytest.mark.parametrize("name", ["titans_mac", "gtrxl", "dmamba", "dgru"])
def test_weight_decay_leaves_gates_and_time_constants_alone(name: str) -> None:
    """Other parameters lose a fifth here. The order is the model's, as checkpoints need it."""
    torch.manual_seed(0)
    cls: Any = agent_class(name)
    agent = cls(cls.Config(segment_length=4, width=16), SPEC)
    groups = decay_groups(agent, weight_decay=0.1)
    assert [id(each) for group in groups for each in group["params"]] == [id(each) for each in agent.parameters()]
    before = {key: parameter.detach().clone() for key, parameter in agent.named_parameters()}
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for parameter in agent.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        optimizer.step()
    kept = {key for key, parameter in agent.named_parameters() if torch.equal(parameter, before[key])}
    kept -= {key for key, value in before.items() if not value.any()}
    named = (
        "to_gates.bias",
        "residual.bias",
        "log_a_EN",
        "skip_E",
        "to_delta.bias",
        "rnn.bias_ih_l0",
        "rnn.bias_hh_l0",
    )
    assert kept
    assert kept == {key for key in kept if key.endswith(named)}


def test_evaluation_has_seeds_of_its_own_and_leaves_training_alone(tmp_path: Path) -> None:
    dropout = {"segment_length": 4, "width": 16, "dropout": 0.3}
    config = tiny("bc", agent_options=dropout, evaluation={"eval_every": 3, "eval_seed": 77})
    train(config, tmp_path / "with")
    train(tiny("bc", agent_options=dropout, evaluation={"eval_episodes": 0}), tmp_path / "without")
    assert torch.equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert not any(key.startswith("eval") for line in metrics(tmp_path / "without") for key in line)
    assert [line["update"] for line in metrics(tmp_path / "with") if "eval/mean_return" in line] == [3, 6, 9, 10]
    agent, options = rmt_rl.load(tmp_path / "with"), config.env_options.model_dump()
    again = evaluate(agent, load_task("tmaze"), options, 4, seed=77, target_return=agent.spec.target_return)
    last = metrics(tmp_path / "with")[-1]
    assert (last["eval/success_rate"], last["eval/mean_length"]) == (again.success_rate, again.mean_length)


def test_the_best_agent_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluation = {"eval_every": 1, "eval_episodes": 20}
    corridor = {"corridor_length": [1, 3]}
    train(tiny("bc", updates=20, learning_rate=0.1, evaluation=evaluation, env_options=corridor), run)
    scores = {line["update"]: line["eval/success_rate"] for line in metrics(run)}
    best = max(scores.values())
    assert min(scores.values()) < best, "else this tests nothing"
    assert header(run / "best.safetensors")["update"] == max(update for update in scores if scores[update] == best)
    agent = rmt_rl.load(run, "best")
    again = evaluate(agent, load_task("tmaze"), corridor, 20, 1_000_000, target_return=agent.spec.target_return)
    assert again.success_rate == best


def test_tensorboard_holds_the_metrics_once_after_a_kill_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    in_process(killed, tiny(), run, 7)
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which tell seconds
    resume(run)
    board = EventAccumulator(str(run)).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(board.Tags()["scalars"]) == {
        "train/loss",
        "train/accuracy",
        "train/decisive_accuracy",
        "train/learning_rate",
        "train/gradient_norm",
        "train/state_norm",
        "data/segments",
        "data/padding",
        "time/steps_per_second",
        "eval/success_rate",
        "eval/mean_return",
        "eval/mean_length",
    }
    for tag in board.Tags()["scalars"]:
        shown = [(event.step, event.value) for event in board.Scalars(tag)]
        logged = [(line["update"], line[tag]) for line in lines if tag in line]
        assert [step for step, _ in shown] == [update for update, _ in logged]
        assert [value for _, value in shown] == pytest.approx([value for _, value in logged])


def test_metrics_are_means_over_the_updates_since_the_last_line(tmp_path: Path) -> None:
    train(tiny("bc", log_every=1), tmp_path / "each")
    train(tiny("bc", log_every=5), tmp_path / "five")
    each, five = metrics(tmp_path / "each"), [line for line in metrics(tmp_path / "five") if "train/loss" in line]
    assert [line["update"] for line in five] == [5, 10]
    for key in ("train/loss", "train/accuracy", "data/padding", "train/state_norm"):
        assert five[1][key] == pytest.approx(sum(line[key] for line in each[5:]) / 5)
    assert each[0]["train/state_norm"] == 0, "no memory"
    assert 0 < five[0]["data/padding"] < 0.5


@pytest.mark.parametrize(
    ("low", "high", "warned"),
    [(-1, 1, False), (-2, 2, False), (0, 255, True), (-900, 5, True), (-float("inf"), float("inf"), False)],
)
def test_large_actions_are_told(low: float, high: float, warned: bool) -> None:
    space = spaces.Dict(a=spaces.Discrete(99), b=spaces.Box(low, high, (2,)))
    assert bool(large_actions(space)) == warned


def test_what_can_not_be_trained_here_leaves_no_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UsageError, match="attention='flex' has no gradient on a CPU"):
        train(tiny(agent_options={"attention": "flex"}, accelerator="cpu"), run)
    assert not run.exists()
    train(tiny(updates=1), run)


@pytest.mark.parametrize("rate", [1e38, 1e40])
def test_divergence_stops_the_run_and_keeps_finite_weights(rate: float, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", []
    config = tiny("bc", updates=8, learning_rate=1e-3, save_every=1)
    train(config, run, lambda update, _: seen.append(update), lambda: len(seen) == 5)
    write_config(tiny("bc", updates=8, learning_rate=rate, save_every=1), run)
    with pytest.raises(UsageError) as caught:
        resume(run)
    message = str(caught.value)
    assert "update" in message
    assert "--learning-rate" in message
    assert f"the last good checkpoint is {run / 'last.safetensors'}" in message
    assert weights(run).isfinite().all()
    assert header(run / "last.safetensors")["update"] >= 5
    assert not list(run.glob(".*")), "no half-written file"


def full(values: Values, run: Path, limit: int) -> None:
    import resource

    def report(update: int, metrics: Any) -> None:
        if update == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    try:
        train(make_config(values), run, report)
    except UsageError as error:
        sys.exit(2 if str(run) in str(error) and "File too large" in str(error) else 1)


@pytest.mark.parametrize("limit", [100, 8000], ids=["metrics", "checkpoint"])
def test_a_disk_that_is_full_stops_the_run_and_leaves_it_resumable(limit: int, tmp_path: Path) -> None:
    config = tiny(log_every=1)
    train(config, tmp_path / "whole")
    assert in_process(full, config, tmp_path / "run", limit) == 2
    assert header(tmp_path / "run" / "last.safetensors")["update"] == 4
    assert not list((tmp_path / "run").glob(".*")), "no half-written file"
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_run_learns(tmp_path: Path) -> None:
    train(tiny(updates=60, learning_rate=1e-2, log_every=10), tmp_path / "run")
    losses = [line["train/loss"] for line in metrics(tmp_path / "run") if "train/loss" in line]
    assert losses[-1] < 0.3 * losses[0]
    assert losses[0] < 2 * math.log(4), "nats an action of four"


def test_a_curriculum_reads_as_far_as_the_first_decisive_action(tmp_path: Path) -> None:
    config = tiny(updates=3, log_every=1, curriculum=0.9, env_options={"corridor_length": [5, 5]}, data={"segments": 3})
    length = config.agent_options.segment_length
    train(config, tmp_path / "run")
    segments = {line["data/segments"] for line in metrics(tmp_path / "run") if "data/segments" in line}
    assert segments == {-(-6 // length)}


def test_a_curriculum_leads_to_streams(tmp_path: Path) -> None:
    """Once the last length is learnt all lanes begin an episode, and go on in it from update to update."""
    every = {"feed": "streams", "segments": 2, "bucket_batches": 1}
    config = tiny(data=every, curriculum=0.5, updates=60, learning_rate=1e-2, log_every=1, save_every=1000)
    learner = started(config, tmp_path)
    Loop(learner, tmp_path, config.schedule, {}).run()
    feed, store = learner.feed, learner.store
    assert isinstance(feed, CurriculumFeed)
    begun = feed.state()["streams_from"]
    assert isinstance(begun, int)
    assert (feed.progress.length, feed.progress.accuracy >= 0.5) == (2, True)
    assert header(tmp_path / "last.safetensors")["progress"]["feed"]["streams_from"] == begun < 55
    episodes = make_feed(store, config.data.model_copy(update={"feed": "episodes"}), 4, config.seed)
    streams = make_feed(store, config.data, 4, config.seed)
    for update in range(60):
        expected = episodes.batch(update) if update < begun else streams.batch(update - begun)
        same_steps(feed.batch(update), expected)
    assert streams.batch(0).fresh.all()
    assert not streams.batch(1).fresh.all()
    lengths = [line["data/segments"] for line in metrics(tmp_path) if "data/segments" in line]
    assert set(lengths[:begun]) == {1, 2}


@pytest.mark.parametrize(
    ("curriculum", "later", "begun"),
    [(0.01, 0.01, None), (0.01, 0, None), (0.99, 0, 10), (0, 0.99, 0)],
    ids=["through", "through and off", "broken off", "switched on"],
)
@pytest.mark.filterwarnings("ignore:curriculum=0.99")
def test_streams_go_on_where_their_curriculum_changes(
    curriculum: float, later: float, begun: int | None, tmp_path: Path
) -> None:
    """States are of the steps before those that lanes read, and kept memories of the batch that they are asked for."""
    every = {"data": {"feed": "streams", "segments": 2}, "ageing": 3, "ageing_from": 0.1, "ageing_updates": 10**9}
    train(tiny(**every, curriculum=curriculum), tmp_path)
    begun = begun if begun is not None else header(tmp_path / "last.safetensors")["progress"]["feed"]["streams_from"]
    config = tiny(**every, curriculum=later, updates=12)
    learner = started(config, tmp_path)
    store = learner.store
    streams = make_feed(store, config.data, 4, config.seed)
    episodes = make_feed(store, config.data.model_copy(update={"feed": "episodes"}), 4, config.seed)
    assert begun is not None
    same_steps(learner.feed.batch(10), streams.batch(10 - begun))
    kept = learner.ageing.kept
    assert kept is not None
    expected = episodes.batch(kept.update) if kept.update < begun else streams.batch(kept.update - begun)
    same_steps(kept.batch, expected.first(len(kept.batch.segments)))


def test_segments_may_change_until_streams_begin(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"curriculum=0.99: the last length, segments=2, .* streams never began"):
        train(tiny(data={"feed": "streams", "segments": 2}, curriculum=0.99), tmp_path)
    for options in ({"curriculum": 0.99}, {}):
        started(tiny(data={"feed": "streams", "segments": 3}, updates=12, **options), tmp_path)
    assert {line["data/streams"] for line in metrics(tmp_path) if "data/streams" in line} == {0}


def same_steps(batch: Batch, other: Batch) -> None:
    assert torch.equal(batch.fresh, other.fresh)
    for segment, like in zip(batch.segments, other.segments, strict=True):
        torch.testing.assert_close(segment.actions, like.actions)
        assert torch.equal(segment.lengths, like.lengths)


def test_a_curriculum_reads_more_segments_when_the_present_ones_are_learnt(tmp_path: Path) -> None:
    every = {"log_every": 1, "data": {"bucket_batches": 1}, "updates": 60, "learning_rate": 1e-2}
    train(tiny(**every, curriculum=0.5), tmp_path / "run")
    lines = [line for line in metrics(tmp_path / "run") if "data/segments" in line]
    segments = [line["data/segments"] for line in lines]
    assert segments[0] == 1
    assert set(segments) == {1, 2, 3}
    assert all(count <= before + 1 for before, count in pairwise(accumulate(segments, max))), "one more at a time"
    before = [line.get("train/decisive_accuracy", 0) for line in lines[: segments.index(2)]]
    assert max(before[-5:]) > 0.5, "not before they are"
    assert len(before) > 5, "nor by one lucky batch"
    train(tiny(**every | {"updates": 2}, curriculum=0.99), tmp_path / "strict")
    assert [line["data/segments"] for line in metrics(tmp_path / "strict") if "data/segments" in line] == [1, 1]
    train(tiny(**every | {"updates": 1}), tmp_path / "without")
    assert metrics(tmp_path / "without")[0]["data/segments"] == 3


def test_a_kept_batch_is_found_again_whole_if_a_curriculum_is_switched_on(tmp_path: Path) -> None:
    every = {"data": {"segments": 3}, "ageing": 2, "ageing_from": 0.2, "ageing_updates": 10**9}
    train(tiny(**every, updates=4), tmp_path)
    kept = header(tmp_path / "last.safetensors")["progress"]["kept"]
    learner = started(tiny(**every, updates=6, curriculum=0.5), tmp_path)
    assert learner.ageing.kept is not None
    assert len(learner.ageing.kept.batch.segments) == kept["segments"] > 1


def test_a_run_may_go_on_with_another_feed(tmp_path: Path) -> None:
    train(tiny("bc", updates=4), tmp_path)
    write_config(tiny("bc", updates=6, data={"feed": "streams"}), tmp_path)
    assert resume(tmp_path) == 6


@pytest.mark.parametrize("log_every", [1, 3])
def test_a_failed_evaluation_loses_no_line(log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("bc", updates=4, log_every=log_every, evaluation={"eval_every": 4})
    train(config, tmp_path / "whole")

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the simulator crashed")

    with monkeypatch.context() as patch:
        patch.setattr("rmt_rl.training.loop.evaluate", fail)
        with pytest.raises(RuntimeError):
            train(config, tmp_path / "run")
    assert resume(tmp_path / "run") == 4
    whole = [
        {name: line[name] for name in line if not name.startswith("eval/")} for line in metrics(tmp_path / "whole")
    ]
    assert metrics(tmp_path / "run") == whole


def test_a_checkpoint_with_impossible_progress_is_named(tmp_path: Path) -> None:
    train(tiny(updates=4, ageing=2, ageing_from=0.25, ageing_updates=2), tmp_path)
    path = tmp_path / "last.safetensors"
    progress = header(path)["progress"]
    edit(path, progress=progress | {"kept": progress["kept"] | {"update": -5}})
    with pytest.raises(UsageError, match=r"checkpoint .*last\.safetensors can't be used: kept=.*'update': -5"):
        resume(tmp_path)
