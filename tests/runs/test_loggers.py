"""Loggers: metrics.jsonl always, others by name; each is read back by the means of its own package."""

from __future__ import annotations

import importlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.runs.metrics import Log, Metrics, Settings, check_loggers
from rmt_rl.runs.options import OfflineRun
from rmt_rl.training.loop import resume, train
from tests.tiny import Values, metrics, tiny, work_folder

AddLogger = Callable[[str, str], None]
SETTINGS: Settings = {"seed": 3, "agent_options": {"width": 16, "lengths": [1, 2]}}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield folder


@pytest.fixture
def add_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddLogger]:
    """Add a real file to the loggers, from a folder outside the tree."""
    before = set(sys.modules)
    package = importlib.import_module("rmt_rl.runs.loggers")

    def add(name: str, text: str) -> None:
        folder = tmp_path / "loggers"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()

    yield add
    for name in set(sys.modules) - before:
        if name.endswith("_on_trial"):
            del sys.modules[name]


def log_updates(run: Path, update: int, names: tuple[str, ...], *updates: int, settings: Settings = SETTINGS) -> None:
    """Log one metric, a tenth of the update, as a process does that begins or resumes at `update`."""
    with closing(Log(run, update, names, settings)) as log:
        for made in updates:
            log.write(made, {"train/loss": made / 10})


def tiny_run(*loggers: str) -> OfflineRun:
    return tiny("bc").model_copy(update={"logger": loggers})


def interrupted_and_resumed(config: OfflineRun, run: Path) -> None:
    """Train to update 7, which is three after a checkpoint; then resume from the checkpoint and train to the end."""

    def fail(update: int, metrics: Metrics) -> None:
        if update == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, run, fail)
    resume(run)


def offline_records(folder: Path) -> list[Any]:
    """Return the records of one `offline-run-*` folder of Weights & Biases.

    The file has a header of 7 bytes, then blocks of 32 KiB of records in LevelDB's log format: checksum (4 bytes),
    length (2), type (1: a whole record), data.
    """
    record_class: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    (path,) = folder.glob("run-*.wandb")
    content, at, records = path.read_bytes(), 7, []
    assert len(content) < 2**15, "one block"
    while at < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, at)
        assert kind == 1
        records.append(record_class.FromString(content[at + 7 : at + 7 + length]))
        at += 7 + length
    return records


def offline_metrics(records: list[Any]) -> list[Values]:
    """Return the logged metrics in the form of metrics.jsonl."""
    lines = []
    for record in records:
        if record.HasField("history"):
            items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            values = {key: json.loads(value) for key, value in items.items() if not key.startswith(("_", "time/"))}
            lines.append({"update": record.history.step.num, **values})
    return lines


def offline_config(records: list[Any]) -> Values:
    (run,) = (record.run for record in records if record.HasField("run"))
    return {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}


def mlflow_run(run: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient().get_run((run / "mlflow_id.txt").read_text().strip())


def mlflow_history(run: Path) -> list[Values]:
    """Return the logged metrics in the form of metrics.jsonl."""
    from mlflow import MlflowClient

    found, lines = mlflow_run(run), dict[int, Values]()
    for key in found.data.metrics:
        for metric in MlflowClient().get_metric_history(found.info.run_id, key):
            line = lines.setdefault(metric.step, {"update": metric.step})
            assert key not in line, "logged once"
            line[key] = metric.value
    return [lines[update] for update in sorted(lines)]


# metrics.jsonl and TensorBoard


@pytest.mark.parametrize(
    ("options", "board"), [([], True), (["--logger"], False), (["--logger", "jsonl"], False)], ids=str
)
def test_metrics_jsonl_is_always_written_and_tensorboard_by_default(
    options: list[str], board: bool, tmp_path: Path
) -> None:
    small = "train tmaze bc --agent.width 8 --updates 2 --eval-episodes 0 --collect-episodes 10 --batch-size 2"
    assert main([*small.split(), "--out", str(tmp_path), *options]) == 0
    assert [line["update"] for line in metrics(tmp_path)] == [2]
    assert bool(list(tmp_path.glob("events.out.tfevents*"))) == board


def test_lines_after_the_checkpoint_and_a_line_cut_short_are_dropped(tmp_path: Path) -> None:
    log_updates(tmp_path, 0, (), 1, 2, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "tra')
    log_updates(tmp_path, 2, (), 3)
    assert metrics(tmp_path) == [{"update": update, "train/loss": update / 10} for update in (1, 2, 3)]


# Weights & Biases


def test_weights_and_biases_holds_config_and_metrics_and_a_resumed_run_has_the_same_id(tmp_path: Path) -> None:
    import wandb

    run = tmp_path / "run"
    config = tiny_run("wandb")
    interrupted_and_resumed(config, run)
    wandb.teardown()  # as at the end of a process: offline files are whole only then
    first, second = map(offline_records, sorted((run / "wandb").glob("offline-run-*")))
    runs = [record.run for record in (*first, *second) if record.HasField("run")]
    run_id = (run / "wandb_id.txt").read_text().strip()
    assert {(one.run_id, one.project) for one in runs} == {(run_id, "rmt-rl")}
    assert runs[0].display_name == "run"
    assert offline_config(first) == config.model_dump(mode="json", exclude_none=True)
    lines, earlier, later = metrics(run), offline_metrics(first), offline_metrics(second)
    assert [line["update"] for line in earlier] == [3, 4, 6]
    assert [line["update"] for line in later] == [6, 8, 9, 10]
    assert [*earlier[:2], *later] == lines


def test_a_run_of_weights_and_biases_that_is_open_is_left_alone(tmp_path: Path) -> None:
    import wandb

    with wandb.init(dir=tmp_path, id="mine") as mine:
        log_updates(tmp_path / "run", 0, ("wandb",), 1)
        assert wandb.run is mine
        assert (tmp_path / "run" / "wandb_id.txt").read_text() != "mine\n"


def test_weights_and_biases_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        wandb.teardown()  # the variable is read once by a process
        log_updates(tmp_path, 0, ("wandb",), 1, 2)
    wandb.teardown()
    assert metrics(tmp_path)
    assert not list(tmp_path.glob("wandb/*run-*"))


def test_a_failure_of_weights_and_biases_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "no/project")
    with pytest.raises(UsageError, match=r"logger 'wandb' failed: .*--resume") as caught:
        log_updates(tmp_path, 0, ("wandb",))
    assert str(tmp_path) in str(caught.value)


# MLflow


def test_mlflow_holds_params_and_metrics_once_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted_and_resumed(tiny_run("mlflow"), run)
    found = mlflow_run(run)
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["agent_options.width"] == "16"
    assert found.data.params["data.collect_episodes"] == "40"
    assert found.data.params["env_options.corridor_length"] == "[1, 10]"
    history = [{key: value for key, value in line.items() if key[:5] != "time/"} for line in mlflow_history(run)]
    assert history == metrics(run)


def test_mlflow_takes_many_params_and_runs_share_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    many: Settings = {str(number): number for number in range(250)}
    for name in ("one", "two"):
        log_updates(tmp_path / name, 0, ("mlflow",), 1, settings=many)
    one, two = mlflow_run(tmp_path / "one"), mlflow_run(tmp_path / "two")
    assert one.data.params == {key: key for key in many}
    assert one.info.run_id != two.info.run_id
    assert one.info.experiment_id == two.info.experiment_id


def test_mlflow_keeps_the_first_values_of_updates_made_twice(tmp_path: Path) -> None:
    log_updates(tmp_path, 0, ("mlflow",), 1, 2, 4)
    with closing(Log(tmp_path, 1, ("mlflow",), {})) as log:
        assert mlflow_run(tmp_path).info.status == "RUNNING"
        for update in (2, 4, 5):
            log.write(update, {"train/loss": 9.0})
    assert [line["train/loss"] for line in metrics(tmp_path)] == [0.1, 9, 9, 9]
    assert [line["train/loss"] for line in mlflow_history(tmp_path)] == [0.1, 0.2, 0.4, 9]


def test_a_server_that_can_not_be_reached_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UsageError, match=r"logger 'mlflow' failed: .*remove 'mlflow' from `logger`.*--resume"):
        log_updates(tmp_path, 0, ("mlflow",))
    assert not (tmp_path / "mlflow_id.txt").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_damaged_id_is_one_error(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"{name}_id.txt").write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}_id.txt is damaged.*; remove it"):
        log_updates(tmp_path, 0, (name,))


# Names, packages, loggers of others


def test_an_unknown_logger_gets_the_nearest_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "tmaze", "bc", "--logger", "tensorboard", "wandbb", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "unknown logger 'wandbb' (known: jsonl, mlflow, tensorboard, wandb); did you mean 'wandb'?" in error
    assert not (tmp_path / "run").exists()


def test_a_logger_of_a_module_is_looked_up_when_the_run_begins() -> None:
    assert tiny_run("mylab.tracking:Mine").logger == ("mylab.tracking:Mine",)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_error_before_a_folder_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"rmt_rl.runs.loggers.{name}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"logger '{name}' needs '{name}', which is not installed: pip install 'rmt-rl\[{name}\]'"
    with pytest.raises(UsageError, match=message):
        check_loggers(["tensorboard", name])
    with pytest.raises(UsageError, match=message):
        train(tiny_run(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_packages_of_loggers_are_imported_only_when_asked_for() -> None:
    check = (
        "import sys; from rmt_rl.runs.metrics import check_loggers; check_loggers(['jsonl'])\n"
        "print({'tensorboard', 'torch', 'wandb', 'mlflow'} & {*sys.modules})"
    )
    listed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert listed.stdout == "set()\n"


RECORDER = '''"""Keeps all it is told in a list."""
TOLD = []
class Recorder:
    def __init__(self, run, settings, update): TOLD.append(("made", run.name, dict(settings), update))
    def write(self, update, metrics): TOLD.append((update, metrics))
    def close(self): TOLD.append("closed")
LOGGER = Recorder
'''
FAILING = """
from rmt_rl.runs.metrics import LoggerError
class Failing:
    def __init__(self, run, settings, update): raise {error}
    def write(self, update, metrics): ...
    def close(self): ...
LOGGER = Failing
"""


def test_a_logger_is_one_file(add_logger: AddLogger, tmp_path: Path) -> None:
    add_logger("recorder_on_trial", RECORDER)
    config = tiny_run("recorder_on_trial")
    train(config, tmp_path / "run")
    told = importlib.import_module("rmt_rl.runs.loggers.recorder_on_trial").TOLD
    assert told[0] == ("made", "run", config.model_dump(mode="json", exclude_none=True), 0)
    assert [update for update, _ in told[1:-1]] == [line["update"] for line in metrics(tmp_path / "run")]
    assert told[-1] == "closed"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("OSError(28, 'No space left on device')", "can't be written: No space left on device; free some space, then"),
        ("ConnectionError('refused')", "can't be written: refused; "),
        ("LoggerError('no key')", "logger 'failing_on_trial' failed: no key; mend that, or remove 'failing_on_trial'"),
    ],
)
def test_a_logger_that_fails_is_one_error_and_the_others_are_closed(
    error: str, message: str, add_logger: AddLogger, tmp_path: Path
) -> None:
    add_logger("recorder_on_trial", RECORDER)
    add_logger("failing_on_trial", FAILING.format(error=error))
    with pytest.raises(UsageError) as caught:
        log_updates(tmp_path, 0, ("recorder_on_trial", "failing_on_trial"))
    assert message in str(caught.value)
    assert f"go on with --resume {tmp_path}" in str(caught.value)
    assert importlib.import_module("rmt_rl.runs.loggers.recorder_on_trial").TOLD[-1] == "closed"
