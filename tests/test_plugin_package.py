"""A package outside this tree adds one thing of each kind by entry points; so does one file of each kind inside it.

The package is `tests/plugin`. Its wheel is installed beside this project's into an environment of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from rmt_rl import registry
from tests.wheels import ROOT, Environment, build_wheel, copy_tree, run

PLUGIN = ROOT / "tests" / "plugin"
NAMES: dict[registry.Kind, tuple[str, str]] = {  # the name of each kind's thing, and the file that it is in
    "envs": ("lab_cue", "cue"),
    "agents": ("lab_trace", "agent"),
    "memory": ("lab_trace", "trace"),
    "encoders": ("lab_wave", "wave"),
    "feeds": ("lab_endings", "endings"),
    "formats": ("lab_columns", "columns"),
    "loggers": ("lab_csv", "csv_log"),
    "engines": ("lab_here", "here"),
    "learners": ("lab_sgd", "sgd"),
    "commands": ("lab_show", "show"),
}
TRAIN = ["train", "lab_cue", "lab_trace", "--feed", "lab_endings", "--logger", "lab_csv", "--agent.width", "16"]
TRAIN += ["--agent.encoder", "lab_wave", "--learner", "lab_sgd"]
TRAIN += ["--agent.segment-length", "2", "--agent.heads", "2", "--agent.layers", "1", "--batch-size", "8"]
TRAIN += ["--collect-episodes", "40", "--updates", "4", "--eval-every", "2", "--eval-episodes", "4"]
TRAIN += ["--accelerator", "cpu", "--out", "run"]
TOKEN_MODEL = """
import torch
from rmt_rl import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper

model = RecurrentMemoryTransformer(
    dim=16, num_tokens=11, depth=1, num_memory_tokens=0, seq_len=4, dim_head=8, heads=2, memory="lab_trace"
)
loss = RecurrentMemoryTransformerWrapper(model)(torch.arange(20).remainder(11).view(2, 10), return_loss=True)
assert loss.isfinite()
"""
COMMANDS = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO
from rmt_rl.cli import main

said = []
for command in json.loads(sys.argv[1]):
    with redirect_stdout(StringIO()) as output:
        assert main(command) == 0, command
    said.append(output.getvalue())
print(json.dumps(said))
"""
LOAD = """
import sys
import memlab, rmt_rl
from rmt_rl.registry import load_task

for module in (memlab, rmt_rl):
    assert module.__file__.startswith(sys.prefix), module.__file__
agent = rmt_rl.load("run")
assert type(agent).__module__ == "memlab.agent"
assert rmt_rl.evaluate("run", delay=3, episodes=2).success_rate is not None
observation, _ = load_task("lab_cue").make().reset(seed=0)
action, state = agent.predict(observation)
"""
UNINSTALLED = """
import sys
import rmt_rl
from rmt_rl import registry
from rmt_rl.cli import main

found = [name for kind in registry.KINDS for name in registry.names(kind) if name.startswith("lab_")]
assert not found, found
assert main(["evaluate", sys.argv[1]]) == 2
try:
    rmt_rl.load(sys.argv[1])
except rmt_rl.errors.UsageError as error:
    assert "unknown agent 'lab_trace'" in str(error), error
assert "memlab" not in sys.modules
import memlab  # which could have been imported
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheels of this project and of the package, and a run trained there."""
    folder = tmp_path_factory.mktemp("lab")
    source = folder / "plugin"  # a copy, as setuptools writes into a source tree
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    ours = build_wheel(copy_tree(folder / "tree"), folder / "ours")
    lab = Environment(folder, ours, build_wheel(source, folder / "theirs"))
    assert lab("rmt-rl", *TRAIN).stdout == "run\n"
    return lab


@pytest.fixture(scope="module")
def said(lab: Environment) -> dict[str, str]:
    """Return what further commands print, by their names; one process runs all of them."""
    commands = [
        ["list"],
        ["collect", "lab_cue", "--episodes", "4", "--env.delay", "2"],
        ["evaluate", "run", "--vary", "delay=2,30", "--episodes", "4"],
        ["inspect", "run", "--segments", "4", "--episodes", "4", "--memories", "2"],
        ["lab_show", "run"],
    ]
    texts = json.loads(lab("python", "-c", COMMANDS, json.dumps(commands)).stdout)
    return {name: text for (name, *_), text in zip(commands, texts, strict=True)}


def listed(text: str) -> dict[str, list[str]]:
    """Return the lines of `rmt-rl list` that show things of the package, by the title that they stand below."""
    lines: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("  lab_"):
            lines.setdefault(title, []).append(line)
        elif not line.startswith("  "):
            title = re.split(r" \(|:", line)[0]
    return lines


def assert_all_listed(text: str, ending: str) -> None:
    shown = listed(text)
    assert list(shown) == [info.plural for info in registry.KINDS.values()]
    for lines, (name, _) in zip(shown.values(), NAMES.values(), strict=True):
        (line,) = lines
        mark = r"\* " if name == "lab_cue" else ""
        assert re.fullmatch(rf"  {name} +{mark}.*\S{ending}", line)


def test_all_is_listed_with_its_distribution(said: dict[str, str]) -> None:
    assert_all_listed(said["list"], r"\. \(memlab\)")


def test_data_are_collected(lab: Environment, said: dict[str, str]) -> None:
    identity = said["collect"].strip()
    assert identity.startswith("lab_cue/expert-4-seed0-")
    assert (lab.work.parent / "data" / identity).is_dir()


def test_a_run_is_trained_evaluated_and_inspected(lab: Environment, said: dict[str, str]) -> None:
    run = lab.work / "run"
    config = (run / "config.toml").read_text()
    assert 'feed = "lab_endings"' in config
    assert "warmup = 1\n" in config, "of the package's recipe"
    assert "segments = 2\n" in config
    assert "4,eval/success_rate," in (run / "metrics.csv").read_text()
    assert not list(run.glob("events*")), "--logger names all loggers"
    shown = said["evaluate"].splitlines()
    assert [line.split(":")[0] for line in shown] == ["delay=2", "delay=30"]
    assert json.loads((run / "inspection.json").read_text())["retained"][-1]["fillers"] == 4


def test_a_command_runs(said: dict[str, str]) -> None:
    assert said["lab_show"].startswith("eval/success_rate ")


def test_python_finds_it_too(lab: Environment) -> None:
    lab("python", "-c", LOAD + TOKEN_MODEL)


def test_it_passes_the_contract_tests(lab: Environment, tmp_path: Path) -> None:
    """From a copy of the tests, since beside the tree they would import the tree."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "plugin"))
    contracts = ["test_recurrence_contract.py", "envs/test_env_contract.py", "agents/test_agent_contract.py"]
    files = [tmp_path / "tests" / name for name in contracts]
    chosen = "lab_cue or lab_trace or Trace- or test_every_mechanism"
    shown = lab("python", "-m", "pytest", "-q", "-rA", "-k", chosen, *files, cwd=tmp_path).stdout
    passed = set(re.findall(r"PASSED tests/(\w+/)?test_(\w+)_contract\.py::\w+\[([-\w]+)\]", shown))
    held = {(contract, name) for _, contract, name in passed}
    assert {("env", "lab_cue"), ("agent", "lab_trace"), ("agent", "lab_trace-default")} <= held
    assert {("recurrence", "Trace-0"), ("recurrence", "Trace-1")} <= held


def test_a_package_that_is_not_installed_does_not_exist(lab: Environment) -> None:
    """Though Python could import it, and a run's files name it."""
    paths = {"PYTHONPATH": f"{ROOT}:{PLUGIN}"}
    run([sys.executable, "-c", UNINSTALLED, lab.work / "run"], variables=lab.variables | paths)


def test_each_is_one_file_in_a_copy_of_the_tree(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    for kind, (name, file) in NAMES.items():
        home = registry.KINDS[kind].home.replace(".", "/")
        text = (PLUGIN / "memlab" / f"{file}.py").read_text()
        (tree / home / f"{name}.py").write_text(text.replace("from .trace", "from rmt_rl.memory.lab_trace"))
    shutil.copy(PLUGIN / "memlab" / "lab_cue.toml", tree / "rmt_rl" / "recipes")
    variables = {"OMP_NUM_THREADS": "1", "MINARI_DATASETS_PATH": str(tmp_path / "data")}

    def python(*arguments: str) -> str:
        return run([sys.executable, *arguments], tree, variables).stdout

    assert_all_listed(python("-m", "rmt_rl", "list"), r"\.")
    assert python("-m", "rmt_rl", *TRAIN) == "run\n"
    assert python("-m", "rmt_rl", "lab_show", "run").startswith("eval/success_rate ")
    assert python("-c", TOKEN_MODEL + "import rmt_rl; print(rmt_rl.__file__)") == f"{tree}/rmt_rl/__init__.py\n"
