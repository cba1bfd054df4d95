"""Recipes: every environment has one, which fits every agent and names its experiment; flags override it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.registry import NotInstalled, load_task, names
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.options import OfflineRun, RunConfig
from rmt_rl.runs.recipes import find_recipe, recipe_names
from rmt_rl.sweeps.matrix import SweepConfig, cells_of
from tests.wheels import ROOT

RECIPE = """
source = "experiments/tmaze"

[training]
updates = 7

[data]
segments = 2
collect_episodes = 12

[agent_options]
width = 16

[agents.rate.agent_options]
memory_tokens = 3

[agents.ppo.online]
n_envs = 3
"""
QUICK = ["--env.corridor-length", "3", "--agent.segment-length", "3", "--eval-episodes", "0", "--logger"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    Path("own.toml").write_text(RECIPE)
    return "own.toml"


def offline(config: RunConfig) -> OfflineRun:
    assert isinstance(config, OfflineRun)
    return config


def test_every_environment_has_a_recipe_of_an_experiment() -> None:
    assert recipe_names() == names("envs")
    for env in names("envs"):
        source = find_recipe(env, "bc").source if usable(env) else "experiments/tmaze"
        assert (ROOT / source / "README.md").exists()


@pytest.mark.parametrize("env", names("envs"))
def test_a_recipe_fits_every_agent(env: str) -> None:
    if not usable(env):
        pytest.skip("not installed")
    for agent in names("agents"):
        recipe = find_recipe(env, agent)
        config = named_config(env, agent, recipe=recipe)
        if isinstance(config, OfflineRun):
            assert recipe.title == f"recipe {env} ({recipe.source})"
        named = {line.split()[0] for line in recipe.flags(config)}
        assert len(named) == len(recipe.flags(config)) <= sum(map(len, recipe.sections.values()))


def usable(env: str) -> bool:
    try:
        load_task(env)
    except NotInstalled:
        return False
    return True


def test_tables_of_an_agent_come_before_shared_sections_and_learning_by_acting_takes_its_own_alone(file: str) -> None:
    rate, bc, ppo = (find_recipe("tmaze", agent, file).sections for agent in ("rate", "bc", "ppo"))
    assert rate["agent_options"] == {"width": 16, "memory_tokens": 3}
    assert bc["agent_options"] == {"width": 16}
    assert ppo == {"online": {"n_envs": 3}}
    assert find_recipe("tmaze", "recurrent_ppo", file).title == ""


def test_single_options_override_a_recipe_one_by_one(file: str) -> None:
    recipe = find_recipe("tmaze", "rate", file)
    config = offline(named_config("tmaze", "rate", {"updates": 9, "agent_options": {"memory_tokens": 4}}, recipe))
    assert (config.training.updates, config.data.segments) == (9, 2)
    agent = config.agent_options.model_dump()
    assert (agent["width"], agent["memory_tokens"]) == (16, 4)
    assert recipe.flags(config) == ["--segments 2", "--collect-episodes 12", "--agent.width 16"]


def test_train_begins_with_the_recipe_and_says_so(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tmaze", "rate", *QUICK, "--recipe", file, "--updates", "1", "--out", "run"]) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    tuned = "--segments 2 --collect-episodes 12 --agent.width 16 --agent.memory-tokens 3"
    assert first == f"recipe own.toml (experiments/tmaze): {tuned}"
    written = offline(read_config(Path("run")))
    assert (written.data.segments, written.training.updates, written.agent_options.width) == (2, 1, 16)
    assert main(["train", "tmaze", "bc", *QUICK, "--recipe", "none", "--collect-episodes", "12", "--updates", "1"]) == 0
    assert "recipe" not in capsys.readouterr().err
    (dataset,) = Path("data/tmaze").glob("expert-*")
    taken = ["train", "--dataset", f"tmaze/{dataset.name}", "rate", *QUICK, "--updates", "1", "--out", "again"]
    assert main([*taken, "--recipe", file]) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == f"recipe own.toml (experiments/tmaze): {tuned.replace('--collect-episodes 12 ', '')}"
    with pytest.raises(SystemExit):
        main(["train", "minigrid_memory", "rate", "--help"])
    shown = capsys.readouterr().out
    assert "with the defaults of recipe minigrid_memory (experiments/minigrid_memory)" in shown
    assert "--recipe" in shown


def test_sweeps_begin_with_recipes() -> None:
    both: dict[str, Any] = {"envs": ("minigrid_memory", "tmaze"), "agents": ("rate", "ppo"), "train": {"updates": 3}}
    with pytest.raises(UsageError, match=r"run minigrid_memory-ppo-0: unknown option updates"):
        cells_of(SweepConfig(**both))
    tuned, plain = (
        offline(cells_of(SweepConfig(**both | {"agents": ("rate",), "recipe": recipe}))[0].config)
        for recipe in ("default", "none")
    )
    assert (tuned.data.segments, plain.data.segments) == (7, 3)
    assert (tuned.training.updates, plain.training.updates) == (3, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[training]\nupdate = 3", "recipe own.toml: unknown option training.update=3 .*did you mean 'updates'"),
        ("[agent_options]\nmemory_tokens = 3", "recipe own.toml: unknown option agent_options.memory_tokens=3"),
        ("[agents.rat.training]\nupdates = 3", r"recipe own.toml: agents=.*\[agents.rat\]: unknown agent.*'rate'"),
        ("[agents.rate.online]\nn_envs = 3", "recipe own.toml: unknown option online="),
        ("[agents.rate]\nupdates = 3", "recipe own.toml: agents=.*expected tables of single agents"),
        ("[env_options]\ncorridor_length = 3", "recipe own.toml: unknown option env_options="),
        ("[training]\nageing = 2\n[data]\nsegments = 1", "recipe own.toml: ageing=2 comes between segments"),
        ("[training", "recipe own.toml isn't valid TOML"),
        ("", ""),
    ],
)
def test_a_bad_recipe_is_one_line(content: str, message: str, file: str) -> None:
    Path(file).write_text(content)
    if not message:
        assert find_recipe("tmaze", "rate", file).title == ""
        return
    with pytest.raises(UsageError, match=message):
        find_recipe("tmaze", "rate", file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tmaze rate --recipe tmase", "recipe='tmase' is none of .*did you mean 'tmaze'"),
        ("tmaze rate --recipe missing.toml", r"recipe missing.toml can't be read \(No such file"),
        ("--config own.toml --recipe tmaze", "--recipe tmaze: config own.toml has all options"),
        ("--resume run --recipe tmaze", "--resume run takes no other options"),
    ],
)
def test_a_bad_choice_is_one_line(arguments: str, message: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
