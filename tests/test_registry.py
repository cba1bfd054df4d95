"""The registry finds files by name, reads them without running them, and explains what it can't load.

Entry points and `module:Name` are in test_plugins.py.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import pytest

from rmt_rl import registry
from rmt_rl.cli import main
from rmt_rl.errors import UsageError, nearest

TASK = "from rmt_rl.config import Frozen\nclass Config(Frozen): ...\ndef make(**options): ...\n"
AddFile = Callable[[registry.Kind, str, str], None]


@pytest.fixture
def add_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddFile]:
    """Add a real file to one of the packages, from a folder outside the tree."""
    before = set(sys.modules)

    def add(kind: registry.Kind, name: str, text: str) -> None:
        folder = tmp_path / kind
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        package = importlib.import_module(registry.KINDS[kind].home)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()

    yield add
    for name in set(sys.modules) - before:
        if name.endswith("_on_trial"):
            del sys.modules[name]


def test_a_new_file_is_found_and_read_without_being_run(add_file: AddFile) -> None:
    add_file(
        "envs", "maze_on_trial", '"""A maze.\n\nMore."""\nID: str = "rmt_rl/Trial-v0"\nEXTRA = 3\nraise SystemExit\n'
    )
    add_file("envs", "_hidden_on_trial", "raise SystemExit\n")
    names = registry.names("envs")
    assert names == sorted(names)
    assert "maze_on_trial" in names
    assert not [name for name in names if name.startswith("_")]
    assert registry.summary("envs", "maze_on_trial") == "A maze."
    assert registry.constant("envs", "maze_on_trial", "ID") == "rmt_rl/Trial-v0"
    assert registry.constant("envs", "maze_on_trial", "EXTRA") is None  # not a string
    assert registry.constant("envs", "maze_on_trial", "ABSENT") is None
    assert "rmt_rl.envs.maze_on_trial" not in sys.modules


def test_tasks_and_agents_are_loaded(add_file: AddFile) -> None:
    add_file("envs", "maze_on_trial", f'ID = "rmt_rl/Trial-v0"\n{TASK}')
    add_file(
        "agents",
        "agent_on_trial",
        "from rmt_rl.agents.bc import AGENT as Base\nclass Trial(Base): ...\nAGENT = Trial\n",
    )
    assert registry.load_task("maze_on_trial").ID == "rmt_rl/Trial-v0"
    assert registry.agent_class("agent_on_trial").__name__ == "Trial"


@pytest.mark.parametrize(
    ("kind", "base", "given"),
    [("feeds", "rmt_rl.data.feeds.windows", "FEED"), ("loggers", "rmt_rl.runs.loggers.jsonl", "LOGGER")],
)
def test_a_feed_and_a_logger_are_one_file(add_file: AddFile, kind: registry.Kind, base: str, given: str) -> None:
    add_file(kind, "it_on_trial", f'"""Tried."""\nfrom {base} import {given} as Base\nclass {given}(Base): ...\n')
    assert registry.summary(kind, "it_on_trial") == "Tried."
    cls = registry.load(kind, "it_on_trial")
    assert isinstance(cls, type)
    assert cls.__module__ == f"{registry.KINDS[kind].home}.it_on_trial"


def test_a_command_is_one_file(add_file: AddFile, capsys: pytest.CaptureFixture[str]) -> None:
    add_file(
        "commands",
        "greet_on_trial",
        '"""Greet."""\ndef COMMAND(arguments):\n    print("hello", *arguments)\n    return 7\n',
    )
    assert main(["--help"]) == 0
    assert re.search(r"^  greet_on_trial +Greet\.$", capsys.readouterr().out, re.MULTILINE)
    assert "rmt_rl.cli.commands.greet_on_trial" not in sys.modules
    assert main(["greet_on_trial", "you", "--loud"]) == 7
    assert capsys.readouterr().out == "hello you --loud\n"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            "envs",
            'ID = "x/Trial-v0"\n',
            "env 'it_on_trial' is <module .* must be a module or class with ID, Config and make",
        ),
        ("agents", "", "agent 'it_on_trial': rmt_rl.agents.it_on_trial has no 'AGENT'; it must be a subclass of"),
        (
            "agents",
            "class AGENT: ...\n",
            "agent 'it_on_trial' is <class .* must be a subclass of rmt_rl.agent.BaseAgent",
        ),
        ("agents", "from rmt_rl.agent import BaseAgent as AGENT\n", "must be .* without abstract methods"),
        ("commands", "COMMAND = 1\n", "command 'it_on_trial' is 1, but must be a function"),
    ],
)
def test_a_file_that_gives_no_such_thing_is_explained(
    add_file: AddFile, kind: registry.Kind, text: str, message: str
) -> None:
    add_file(kind, "it_on_trial", text)
    with pytest.raises(UsageError, match=message):
        registry.load(kind, "it_on_trial")


def test_an_unknown_name_gets_the_nearest_and_the_list(add_file: AddFile) -> None:
    add_file("envs", "maze_on_trial", "")
    with pytest.raises(UsageError, match=r"unknown env 'mase_on_trail' .*did you mean 'maze_on_trial'\?"):
        registry.load_task("mase_on_trail")
    with pytest.raises(UsageError, match=r"unknown agent 'qqqqqq' \(known: .*\)$"):
        registry.agent_class("qqqqqq")
    with pytest.raises(UsageError, match="unknown memory mechanism 'qqqqqq'"):
        registry.summary("memory", "qqqqqq")


@pytest.mark.parametrize("name", ["", ".", "..", "tmaze.py", "os.path", "__init__", "_private", "../envs/tmaze"])
def test_a_name_that_is_no_name_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="unknown env"):
        registry.load_task(name)


def test_a_missing_extra_gives_the_pip_command(add_file: AddFile) -> None:
    add_file("envs", "needy_on_trial", 'EXTRA = "mazes"\nimport absent_mazes.small\n')
    with pytest.raises(UsageError, match=r"env 'needy_on_trial' needs 'absent_mazes'.*pip install 'rmt-rl\[mazes\]'"):
        registry.load_task("needy_on_trial")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ale_py:ALE/Pong-v5", "ale_py-ALE-Pong-v5"),
        ("mylab.maze:Maze", "mylab-maze-Maze"),
        (r"a\b c*?<>|.", "a-b-c------"),
        ("..", "--"),
        ("con", "con_"),
        ("LPT1", "LPT1_"),
        ("console", "console"),
        ("läufe", "läufe"),
        ("a" * 120, "a" * 120),
    ],
)
def test_every_system_allows_the_names_of_files(name: str, expected: str) -> None:
    assert registry.slug(name) == expected


def test_a_long_name_ends_in_a_hash() -> None:
    long = "ü" * 61
    shortened = registry.slug(long)
    assert len(shortened.encode()) <= 120
    assert shortened.startswith("ü" * 55)
    assert registry.slug(f"{long}1") != shortened
    assert registry.slug(shortened) == shortened


def test_an_extra_without_a_release_for_this_python_says_so(add_file: AddFile) -> None:
    text = 'EXTRA = "mazes"\nBEFORE_PYTHON = "3.{}"\nimport absent_mazes\n'
    add_file("envs", "old_on_trial", text.format(11))
    add_file("envs", "new_on_trial", text.format(sys.version_info.minor + 1))
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(registry.NotInstalled, match=f"needs 'mazes', which has no release for Python {this}; use one"):
        registry.load_task("old_on_trial")
    with pytest.raises(registry.NotInstalled, match=r"not installed: pip install 'rmt-rl\[mazes\]'"):
        registry.load_task("new_on_trial")


def test_a_missing_package_without_an_extra_gives_the_pip_command(add_file: AddFile) -> None:
    add_file("agents", "needy_on_trial", "import absent_agents\n")
    with pytest.raises(UsageError, match=r"agent 'needy_on_trial' needs .*: pip install absent_agents$"):
        registry.agent_class("needy_on_trial")


def test_a_missing_file_of_ours_is_a_bug_not_a_missing_extra(add_file: AddFile) -> None:
    add_file("envs", "broken_on_trial", 'EXTRA = "mazes"\nimport rmt_rl.absent\n')
    with pytest.raises(ModuleNotFoundError, match=r"rmt_rl\.absent"):
        registry.load_task("broken_on_trial")


def test_a_broken_file_hurts_only_who_names_it(add_file: AddFile) -> None:
    add_file("envs", "broken_on_trial", "ID = (\n")
    registry.register_envs()
    assert registry.summary("envs", "broken_on_trial") == ""
    with pytest.raises(SyntaxError):
        registry.load_task("broken_on_trial")


@pytest.mark.filterwarnings("error")
def test_environments_are_registered_once_and_made_only_when_asked_for(add_file: AddFile) -> None:
    add_file("envs", "single_on_trial", 'ID = "rmt_rl/SingleTrial-v0"\ndef make(): ...\n')
    add_file("envs", "vector_on_trial", 'ID = "rmt_rl/VectorTrial-v0"\nclass Trial: ...\nmake = make_vec = Trial\n')
    add_file("envs", "helper_on_trial", "")
    try:
        registry.register_envs()
        registry.register_envs()
        single, vector = gymnasium.spec("rmt_rl/SingleTrial-v0"), gymnasium.spec("rmt_rl/VectorTrial-v0")
    finally:
        gymnasium.registry.pop("rmt_rl/SingleTrial-v0", None)
        gymnasium.registry.pop("rmt_rl/VectorTrial-v0", None)
    assert (single.entry_point, single.vector_entry_point) == ("rmt_rl.envs.single_on_trial:make", None)
    assert vector.vector_entry_point == "rmt_rl.envs.vector_on_trial:make_vec"
    assert "rmt_rl.envs.vector_on_trial" not in sys.modules


def test_nearest_ignores_case_and_stays_silent_when_nothing_is_near() -> None:
    assert nearest("RAET", ["rate", "dt"]) == "; did you mean 'rate'?"
    assert nearest("learning-rte", ["batch_size", "learning_rate"]) == "; did you mean 'learning_rate'?"
    assert nearest("zzz", ["rate", "dt"]) == ""
    assert nearest("rate", []) == ""
