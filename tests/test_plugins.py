"""Names from outside the tree: entry points of installed distributions, and `module:Name`; none from a file imports.

The distributions are real: folders with metadata and a package, on `sys.path`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import rmt_rl
from rmt_rl import registry
from rmt_rl.acting.collect import collect
from rmt_rl.cli import main
from rmt_rl.cli.arguments import option_values
from rmt_rl.data.opening import open_dataset
from rmt_rl.errors import UsageError
from rmt_rl.plugins import import_user_module
from rmt_rl.runs.checkpoint import read_checkpoint
from rmt_rl.runs.options import run_config_class
from tests.test_cli import TINY

Install = Callable[..., None]
Capture = pytest.CaptureFixture[str]

AGENT = '''
"""Agents of a laboratory."""

from rmt_rl.agents.bc import AGENT as Base


class Mine(Base):
    """Behaviour cloning, renamed."""


AGENT = Mine
'''
FEED_AND_LOGGER = '''
from rmt_rl.data.feeds.windows import FEED as Windows


class Reversed(Windows):
    """The batches of windows, the last first."""

    def picks(self, update):
        return super().picks(1000 - update)


class Lines:
    """Write the updates to a file."""

    def __init__(self, run, settings, update):
        self.path = run / "logged.txt"

    def write(self, update, metrics):
        with self.path.open("a") as file:
            file.write(f"{update}\\n")

    def close(self):
        pass
'''
ENVS = '''
"""Mazes of a laboratory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pydantic import BaseModel

if TYPE_CHECKING:
    from absent import Absent


class Steps(gymnasium.Env):
    """Count to a number; the longer, the better."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(
        self, steps: int = 4, scale=2.0, absent: Absent = None, *, kind="a", space=spaces.Discrete(3), render_mode=None,
        **more,
    ):
        assert not more
        self.steps, self.scale = steps, scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.made = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        self.made += 1
        return self.observation_space.sample() * 0, self.scale, self.made >= self.steps, False, {}


class Needy(gymnasium.Env):
    def __init__(self, size, colour="red"): ...


class Expert:
    def __init__(self, config, seed=0): ...

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.zeros(len(episode_start), np.int64), state


class Task:
    """Count to a number, with an expert."""

    ID = "mylab_on_trial/Task-v0"
    Expert = Expert

    class Config(BaseModel, frozen=True, extra="forbid"):
        steps: int = 4

    @staticmethod
    def make(render_mode=None, **options):
        return Steps(**options)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, data sets of its own, and no trace of its modules afterwards."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules, ids = set(sys.modules), set(gymnasium.registry)
    yield tmp_path / "work"
    for name in set(sys.modules) - modules:
        if "on_trial" in name:
            del sys.modules[name]
    run_config_class.cache_clear()
    for identity in set(gymnasium.registry) - ids:
        del gymnasium.registry[identity]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with these entry points (groups to lines) and files."""

    def installed(distribution: str, points: dict[str, str], files: dict[str, str]) -> None:
        site = tmp_path / distribution
        metadata = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"[rmt_rl.{group}]\n{point}\n" for group, point in points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        for name, text in files.items():
            (site / name).parent.mkdir(exist_ok=True)
            (site / name).write_text(text)
        monkeypatch.syspath_prepend(site)

    return installed


# Entry points

MAZES = '''
"""A maze.

More."""
ID = "lab/Maze-v0"

class Task:
    """A task."""
    ID = "lab/T-v0"
'''


def test_entry_points_are_found_and_read_without_an_import(install: Install, capsys: Capture) -> None:
    install(
        "mylab-on-trial",
        {
            "envs": "trial_maze = mylab_on_trial.mazes\ntrial_task = mylab_on_trial.mazes:Task",
            "commands": "trial_report = mylab_on_trial.mazes",
        },
        {"mylab_on_trial/__init__.py": "raise SystemExit('was imported')\n", "mylab_on_trial/mazes.py": MAZES},
    )
    assert {"trial_maze", "trial_task", "tmaze"} <= set(registry.names("envs"))
    assert registry.summary("envs", "trial_maze") == "A maze."
    assert registry.constant("envs", "trial_maze", "ID") == "lab/Maze-v0"
    assert registry.summary("envs", "trial_task") == "A task."
    assert registry.constant("envs", "trial_task", "ID") == "lab/T-v0"
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "A maze. (mylab-on-trial)" in shown
    assert "A task. (mylab-on-trial)" in shown
    assert main(["--help"]) == 0
    assert "trial_report A maze." in capsys.readouterr().out
    assert not [name for name in sys.modules if name.startswith("mylab_on_trial")]


def test_entry_points_are_loaded_by_name(install: Install) -> None:
    points = {"agents": "trial_file = lab_on_trial.agents\ntrial_class = lab_on_trial.agents:Mine"}
    install("lab-on-trial", points, {"lab_on_trial/__init__.py": "", "lab_on_trial/agents.py": AGENT})
    file, cls = registry.agent_class("trial_file"), registry.agent_class("trial_class")
    assert file is cls
    assert file.__name__ == "Mine"
    assert registry.summary("agents", "trial_file") == "Agents of a laboratory."
    assert registry.summary("agents", "trial_class") == "Behaviour cloning, renamed."


def test_a_command_of_a_package_runs(install: Install, capsys: Capture) -> None:
    text = "def hello(arguments):\n    print('hello', *arguments)\n    return 3\n"
    install("lab-on-trial", {"commands": "trial_hello = lab_on_trial:hello"}, {"lab_on_trial.py": text})
    assert main(["trial_hello", "--to", "you"]) == 3
    assert capsys.readouterr().out == "hello --to you\n"


def test_our_names_win(install: Install) -> None:
    install("lab-on-trial", {"agents": "rate = lab_on_trial"}, {"lab_on_trial.py": "raise SystemExit\n"})
    assert registry.agent_class("rate").__module__ == "rmt_rl.agents.rate"
    assert "(lab-on-trial)" not in registry.summary("agents", "rate")


def test_two_distributions_of_one_name_are_an_error_only_for_who_names_it(install: Install, capsys: Capture) -> None:
    for name in ("one-on-trial", "two-on-trial"):
        module = name.replace("-", "_")
        install(name, {"agents": f"trial_twin = {module}:Mine"}, {f"{module}.py": AGENT})
    with pytest.raises(
        UsageError, match=r"agent 'trial_twin' is declared by several distributions \(.*two-on-trial.*\)"
    ):
        registry.agent_class("trial_twin")
    assert registry.agent_class("one_on_trial:Mine").__module__ == "one_on_trial", "a declared module may be imported"
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "declared by several: two-on-trial, one-on-trial" in shown


BROKEN = {
    "absent module": "absent_on_trial.agents",
    "absent object": "lab_on_trial:Absent",
    "no name": "",
    "nonsense": "what is this?",
    "another thing": "lab_on_trial:NUMBER",
    "exit": "exit_on_trial",
    "syntax": "syntax_on_trial",
}


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_a_broken_package_breaks_no_list(install: Install, capsys: Capture, value: str) -> None:
    files = {
        "lab_on_trial.py": "NUMBER = 1\n",
        "exit_on_trial.py": "raise SystemExit(1)\n",
        "syntax_on_trial.py": "AGENT = (\n",
    }
    points = {kind: f"broken_on_trial = {value}" for kind in registry.KINDS}
    install("lab-on-trial", points, files)
    registry.register_envs()
    assert main(["list"]) == main(["--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("broken_on_trial ") == len(registry.KINDS) + 1
    assert shown.err == ""
    assert registry.summary("agents", "broken_on_trial") == ""


def test_a_missing_package_of_a_package_gives_the_pip_command(install: Install) -> None:
    text = 'EXTRA = "maze"\nimport absent_mazes\n'
    install("lab-on-trial", {"envs": "trial_maze = lab_on_trial"}, {"lab_on_trial.py": text})
    with pytest.raises(UsageError, match=r"env 'trial_maze' needs 'absent_mazes'.*pip install 'lab-on-trial\[maze\]'"):
        registry.load_task("trial_maze")


def test_environments_of_packages_are_registered_with_gymnasium(install: Install) -> None:
    points = {"envs": "trial_task = lab_on_trial:Task\ntrial_steps = lab_on_trial:Steps"}
    install("lab-on-trial", points, {"lab_on_trial.py": ENVS})
    registry.register_envs()
    assert "lab_on_trial" not in sys.modules
    for identity in ("mylab_on_trial/Task-v0", "lab_on_trial/Steps-v0"):
        with closing(gymnasium.make(identity, steps=2)) as env:
            env.reset(seed=0)
            assert [env.step(0)[2] for _ in range(2)] == [False, True]
            assert env.spec is not None
            name, options = registry.task_of_spec(env.spec)
        assert (name, options) == (f"trial_{identity.split('/')[1][:-3].lower()}", {"steps": 2})


def test_the_module_of_a_gymnasium_id_is_imported_if_its_package_is_declared(install: Install) -> None:
    text = (
        "import gymnasium\ngymnasium.register('Other-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    install("lab-on-trial", {"envs": "trial = lab_on_trial.mazes"}, {"lab_on_trial/__init__.py": text})
    with closing(registry.load_task("lab_on_trial:Other-v0").make()) as env:
        assert env.observation_space.shape == (4,)


# module:Name


@pytest.fixture
def mine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules in the current folder that nothing declares."""
    (folder / "mine_on_trial.py").write_text(ENVS + AGENT + FEED_AND_LOGGER)
    return folder


def test_an_object_is_found_once_its_module_is_imported(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(mine)
    for load, name in ((registry.agent_class, "Mine"), (registry.load_task, "Task"), (registry.load_task, "Steps")):
        with pytest.raises(
            UsageError, match=r"module 'mine_on_trial' isn't imported, .* name it yourself behind --import \(in Py"
        ):
            load(f"mine_on_trial:{name}")
    assert "mine_on_trial" not in sys.modules
    registry.import_named("mine_on_trial:Mine")
    assert registry.agent_class("mine_on_trial:Mine").__name__ == "Mine"
    with pytest.raises(UsageError, match="module 'mine_on_trial' has no 'Absent'; correct the name"):
        registry.agent_class("mine_on_trial:Absent")
    with pytest.raises(UsageError, match=r"agent 'mine_on_trial:Steps' is <class .*>, but must be a subclass of"):
        registry.agent_class("mine_on_trial:Steps")
    with pytest.raises(UsageError, match=r"can't be imported .*; name an installed module or one in the current"):
        registry.import_named("absent_on_trial:Mine")


def test_what_anything_imported_may_not_be_called_by_a_name_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being imported isn't enough for kinds that any class or function with the right methods is of."""
    for load in (registry.logger_class, registry.command):
        with pytest.raises(UsageError, match=r"module 'shutil' isn't imported|unknown"):
            load("shutil:rmtree")
    for load_class in (registry.agent_class, registry.feed_class):
        with pytest.raises(UsageError, match="must be a subclass"):
            load_class("shutil:rmtree")
    with pytest.raises(UsageError, match="must be a module or class with ID"):
        registry.load_task("shutil:rmtree")
    monkeypatch.setattr("rmt_rl.plugins._named", set())
    import_user_module("shutil")
    with pytest.raises(UsageError, match="must be a class with the methods of"):
        registry.logger_class("shutil:rmtree")
    assert registry.command("shutil:rmtree").__name__ == "rmtree"


def test_a_class_of_environments_is_a_task(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(mine)
    import_user_module("mine_on_trial")
    task = registry.load_task("mine_on_trial:Steps")
    assert task.ID == "mine_on_trial/Steps-v0"
    fields = task.Config.model_fields
    assert {name: field.default for name, field in fields.items()} == {
        "steps": 4,
        "scale": 2.0,
        "absent": None,
        "kind": "a",
    }, "without render_mode, **more, and a default that no file can hold"
    with pytest.raises(UsageError, match=r"unknown option step=3 .*did you mean 'steps'"):
        task.make(step=3)
    with closing(gymnasium.make(task.ID, steps=1)) as env:
        env.reset(seed=0)
        assert env.step(0)[1:3] == (2.0, True)
    with pytest.raises(UsageError, match="env 'mine_on_trial:Needy' can't be made without size; give these parameters"):
        registry.load_task("mine_on_trial:Needy")


@pytest.mark.parametrize("name", ["Task", "Steps"])
def test_a_data_set_knows_the_object_that_it_is_from(mine: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from rmt_rl.acting.policies import Behaviour, Share

    monkeypatch.syspath_prepend(mine)
    import_user_module("mine_on_trial")
    who = Behaviour((Share("expert" if name == "Task" else "random"),))
    identity = collect(f"mine_on_trial:{name}", {"steps": 3}, episodes=4, seed=0, behaviour=who)
    spec = open_dataset(identity).env_spec
    task, options = registry.task_of_spec(spec)
    assert (task, options["steps"]) == (f"mine_on_trial:{name}", 3)
    with closing(registry.load_task(task).make(**options)) as env:
        assert env.observation_space.shape == (2,)
    (mine / "mine_on_trial.py").write_text(ENVS + "\nCHANGED = True\n")
    assert collect(f"mine_on_trial:{name}", {"steps": 3}, episodes=4, seed=0, behaviour=who) != identity


# The command line


def rmt_rl_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed `rmt-rl` in the current folder, which isn't on its path."""
    command = [str(Path(sys.executable).with_name("rmt-rl")), *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(rmt_rl.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


SMALL = ["--agent.width", "8", "--agent.segment-length", "4", "--batch-size", "4", "--collect-episodes", "8"]
SMALL += ["--updates", "1", "--eval-episodes", "2", "--accelerator", "cpu", "--out", "run"]


def test_objects_in_the_current_folder_train_and_evaluate(mine: Path) -> None:
    trained = rmt_rl_command("train", "mine_on_trial:Task", "mine_on_trial:Mine", *SMALL, "--env.steps", "6")
    assert trained.returncode == 0, trained.stderr
    evaluated = rmt_rl_command("evaluate", "run", "--episodes", "2", "--vary", "steps=3,5", "--import", "mine_on_trial")
    assert evaluated.returncode == 0, evaluated.stderr
    assert [line.split(":")[0] for line in evaluated.stdout.splitlines()] == ["steps=3", "steps=5"]


@pytest.fixture
def imported(mine: Path) -> Callable[..., None]:
    """Run a command in this process with the module imported, and forget the module again."""

    def run(*arguments: str) -> None:
        import_user_module("mine_on_trial")
        assert main([*arguments]) == 0
        del sys.modules["mine_on_trial"]

    sys.path.append(str(mine))
    return run


def test_a_feed_and_a_logger_are_named_by_their_options(imported: Callable[..., None], capsys: Capture) -> None:
    tiny = ["train", "tmaze", "bc", *TINY, "--updates", "2", "--out", "run"]
    imported(*tiny, "--feed", "mine_on_trial:Reversed", "--logger", "tensorboard", "mine_on_trial:Lines")
    logged = Path("run/logged.txt")
    assert logged.read_text() == "2\n"
    config = Path("run/config.toml")
    config.write_text(config.read_text().replace("updates = 2", "updates = 4"))
    run_config_class.cache_clear()
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 2
    assert "module 'mine_on_trial' isn't imported" in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--import", "mine_on_trial"]) == 0
    assert logged.read_text() == "2\n4\n"


def test_every_command_that_makes_a_run_s_agent_takes_import(imported: Callable[..., None], capsys: Capture) -> None:
    imported("train", "tmaze", "mine_on_trial:Mine", *TINY, "--updates", "2", "--out", "run")
    commands = {
        "evaluate": ["evaluate", "run", "--episodes", "2"],
        "collect": ["collect", "tmaze", "--policy", "run", "--episodes", "4"],
        "flops": ["flops", "run"],
        "resume": ["train", "--resume", "run"],
        "config": ["train", "--config", "run", "--out", "again"],
    }
    for command in commands.values():
        sys.modules.pop("mine_on_trial", None)
        run_config_class.cache_clear()
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "module 'mine_on_trial' isn't imported" in error
        assert "--import mine_on_trial" not in error, "a stranger's name is no command to type"
        assert "mine_on_trial" not in sys.modules
        assert main([*command, "--import", "mine_on_trial"]) == 0
        capsys.readouterr()
    sys.modules.pop("mine_on_trial")
    assert main(["plot", "run"]) == 0, "which reads no options and so needs no module"
    assert "mine_on_trial" not in sys.modules
    inspect = ["inspect", "run", "--import"]
    assert main([*inspect, "absent_on_trial"]) == 2
    assert "module 'absent_on_trial' can't be imported" in capsys.readouterr().err
    assert main([*inspect, "mine_on_trial"]) == 2
    assert "carries nothing from segment to segment" in capsys.readouterr().err


def test_a_checkpoint_is_loaded_once_the_module_of_its_agent_is_imported(imported: Callable[..., None]) -> None:
    imported("train", "tmaze", "mine_on_trial:Mine", *TINY, "--updates", "1", "--out", "run")
    with pytest.raises(UsageError, match=r"module 'mine_on_trial' isn't imported, .* import the module before"):
        rmt_rl.load("run")
    assert "mine_on_trial" not in sys.modules
    import mine_on_trial  # type: ignore[import-not-found]

    agent = rmt_rl.load("run")
    assert type(agent) is mine_on_trial.Mine
    assert np.shape(agent.predict(np.zeros(4, np.float32))[0]) == ()


@pytest.mark.parametrize("name", ["planted_on_trial:Thing", "planted_on_trial:Thing-v0"])
@pytest.mark.parametrize("key", ["env", "agent"])
def test_nothing_in_a_received_run_imports(folder: Path, capsys: Capture, key: str, name: str) -> None:
    assert main(["train", "tmaze", "bc", *TINY, "--updates", "1", "--out", "run"]) == 0
    (folder / "planted_on_trial.py").write_text("raise SystemExit('was imported')\n")
    sys.path.append(str(folder))
    config = folder / "run/config.toml"
    text = config.read_text()
    value = {"env": "tmaze", "agent": "bc"}[key]
    assert f'{key} = "{value}"' in text
    config.write_text(text.replace(f'{key} = "{value}"', f'{key} = "{name}"'))
    for command in ("evaluate run", "train --resume run", "train --config run --out x", "inspect run", "plot run"):
        main(command.split())
        assert "planted_on_trial" not in sys.modules, command


def test_nothing_in_a_received_checkpoint_imports(folder: Path, capsys: Capture) -> None:
    assert main(["train", "tmaze", "bc", *TINY, "--updates", "1", "--out", "run"]) == 0
    (folder / "planted_on_trial.py").write_text("raise SystemExit('was imported')\n")
    sys.path.append(str(folder))
    path = folder / "run/last.safetensors"
    planted = read_checkpoint(path).header.model_copy(update={"agent": "planted_on_trial:Thing"})
    save_file(load_file(path), path, {"rmt_rl": planted.model_dump_json()})
    with pytest.raises(UsageError, match="module 'planted_on_trial' isn't imported"):
        rmt_rl.load("run")
    for command in ("evaluate run", "train --resume run", "flops run", "collect tmaze --policy run --episodes 1"):
        capsys.readouterr()
        assert main(command.split()) == 2
        assert "module 'planted_on_trial' isn't imported" in capsys.readouterr().err


def test_the_values_of_an_option_are_found_however_they_are_written() -> None:
    line = ["--logger", "a:A", "b:B", "--seed", "3", "--feed=c:C", "--logger=d:D", "--loggers", "e:E", "--feed"]
    assert option_values("--logger", line) == ["a:A", "b:B", "d:D"]
    assert option_values("--feed", line) == ["c:C"]
