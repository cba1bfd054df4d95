"""The report's parts that need no browser: what is played, memory over an episode, and what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.analysis.report.charts import chart_text
from rmt_rl.analysis.report.played import PlayedEpisode, PlayedEpisodes, drawn_episode, play
from rmt_rl.analysis.report.seen import action_text, seen_parts
from rmt_rl.analysis.report.trace import choose_episode, find_copies, trace
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, load_task
from rmt_rl.training.datasets import labelled
from tests.test_cli import TINY
from tests.test_plot import make_run
from tests.tiny import known_options, work_folder

ROOT = Path(__file__).parents[1]
TASK = load_task("tmaze")
LENGTH = 4  # steps of a segment
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a run."""
    with work_folder(tmp_path_factory) as folder:
        assert main(["train", "tmaze", "rate", *TINY, "--updates", "4", "--agent.heads", "2", "--out", "run"]) == 0
        yield folder


def agent_of(name: str) -> Agent:
    """Return an agent that has learnt nothing."""
    cls = agent_class(name)
    options = known_options(name, {"segment_length": LENGTH, "width": 16, "heads": 2, "layers": 1})
    env = TASK.make()
    spec = AgentSpec(env.observation_space, env.action_space, target_return=1.0)
    agent = cls(cls.Config(**options), spec).eval()
    assert isinstance(agent, Agent)
    return agent


def expert_episodes(length: int, count: int = 8) -> PlayedEpisodes:
    """Return episodes of the expert, all successful."""
    config = validated(TASK.Config, {"corridor_length": length})
    env = make_vec_env(TASK, config, count)
    steps = rollout(TASK.Expert(config), env, count, seed=0)
    played = [labelled(TASK, each) for each in trajectories(steps, count)]
    return PlayedEpisodes([PlayedEpisode(place, each, None, True) for place, each in enumerate(played)])


def last_action(episode: PlayedEpisode) -> int:
    return int(np.asarray(episode.trajectory.actions)[-1])


@pytest.mark.parametrize("name", ["rate", "dt", "dlstm", "bc"])
def test_the_traced_logits_are_those_of_acting(name: str) -> None:
    agent = agent_of(name)
    episodes = play(agent, TASK, validated(TASK.Config, {"corridor_length": 9}), seed=3)
    for shown in (0, 5):
        episode = episodes.episodes[shown]
        assert episode.environment == shown
        traced = trace(agent, episodes, shown, steps=100)
        chosen = traced.logits[:, : agent.head.size].argmax(-1)
        assert chosen.tolist() == np.asarray(episode.trajectory.actions).tolist()
        assert (traced.segments[0].change is None) == (name == "bc")


def test_copies_with_the_same_cue_and_with_another_are_told_apart() -> None:
    episodes = expert_episodes(10)
    copies = find_copies(episodes, 0, LENGTH)
    cue = np.asarray(episodes.episodes[0].trajectory.observations)[0, 1]
    assert {float(np.asarray(each.observations)[0, 1]) for each in copies.same} == {cue}
    assert {float(np.asarray(each.observations)[0, 1]) for each in copies.other} == {-cue}
    traced = trace(agent_of("rate"), episodes, 0, steps=100)
    assert [(segment.start, segment.stop) for segment in traced.segments] == [(0, 4), (4, 8), (8, 11)]
    first = traced.segments[0]
    assert first.same is not None
    assert first.other is not None
    assert sum(first.influence) == pytest.approx(1)
    assert traced.other_logits is not None
    assert len(traced.other_logits[0]) == 11


def test_a_copy_of_the_episode_itself_is_at_no_distance() -> None:
    episodes = expert_episodes(10)
    own = episodes.episodes[0]
    other = next(each for each in episodes.episodes if last_action(each) != last_action(own))
    traced = trace(agent_of("rate"), PlayedEpisodes([own, own, other]), 0, steps=100)
    assert [segment.same for segment in traced.segments] == [0, 0, 0]
    assert all(segment.other is not None and segment.other > 0 for segment in traced.segments)


def test_without_anything_to_compare_the_reason_is_told() -> None:
    long = expert_episodes(10)
    cue = np.asarray(long.episodes[0].trajectory.observations)[0, 1]
    alike = [each for each in long.episodes if np.asarray(each.trajectory.observations)[0, 1] == cue]
    failed = PlayedEpisodes([replace(each, success=False) for each in long.episodes])
    silent = [replace(each, trajectory=replace(each.trajectory, decisive=None)) for each in long.episodes]
    for episodes, reason in (
        (expert_episodes(2), "not longer than a segment"),
        (failed, "the episode failed"),
        (PlayedEpisodes(alike), "all have the same cue"),
        (PlayedEpisodes(silent), "declares no steps"),
    ):
        traced = trace(agent_of("rate"), episodes, 0, steps=100)
        assert reason in traced.compared
        assert traced.other_logits is None
        assert traced.segments[0].other is None


def test_an_episode_longer_than_a_segment_is_chosen() -> None:
    assert choose_episode(expert_episodes(10), LENGTH) == 0
    short = expert_episodes(2).episodes
    assert choose_episode(PlayedEpisodes([*short, *expert_episodes(10).episodes]), LENGTH) == len(short)
    assert choose_episode(PlayedEpisodes(short), 100) == 0


def test_pictures_are_those_of_the_episode() -> None:
    config = validated(TASK.Config, {"corridor_length": 5})
    episodes = play(agent_of("rate"), TASK, config, seed=7)
    episode = episodes.episodes[2]
    frames = list(drawn_episode(TASK, config, episode, 7, steps=4))
    assert len(frames) == min(4, len(episode.trajectory)) + 1
    with pytest.raises(UsageError, match="doesn't play an episode again as it was"):
        list(drawn_episode(TASK, config, episode, 8, steps=100))


OBSERVATIONS: list[tuple[Any, Any, dict[str, Any]]] = [
    (spaces.Box(-2, 2, (2,)), np.array([1, 0], np.float32), {"values": ["1", "0"], "strengths": [0.5, 0]}),
    (spaces.Box(-np.inf, np.inf, (1,)), np.array([1e-9]), {"values": ["1e-09"], "strengths": [0]}),
    (spaces.Discrete(5), 4, {"values": ["4"], "strengths": [1]}),
    (spaces.MultiBinary(2), np.array([1, 0]), {"values": ["1", "0"], "strengths": [1, 0]}),
    (spaces.Box(0, 255, (8, 9, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), {"images": 1}),
    (spaces.Box(0, 255, (4, 84, 84), np.uint8), np.zeros((4, 84, 84), np.uint8), {"images": 1}),
    (spaces.MultiDiscrete(np.full((7, 7, 3), 9)), np.zeros((7, 7, 3), np.int64), {"images": 3}),
    (spaces.Box(-np.inf, np.inf, (60,)), np.zeros(60), {"images": 1}),
]


@pytest.mark.parametrize(("space", "value", "shown"), OBSERVATIONS, ids=lambda value: type(value).__name__)
def test_any_observation_is_shown(space: Any, value: Any, shown: dict[str, Any]) -> None:
    (part,) = seen_parts(value, space)
    if "images" in shown:
        assert len(part["images"]) == shown["images"]
        assert all(uri.startswith("data:image/png;base64,") for uri in part["images"])
    else:
        assert {"name": "observation", **shown} == part
    nested = spaces.Dict({"a": space, "b": spaces.Tuple([space])})
    assert [each["name"] for each in seen_parts({"a": value, "b": (value,)}, nested)] == ["a", "b[0]"]


def test_actions_are_written_in_one_line() -> None:
    assert action_text(np.int64(3)) == "3"
    assert action_text({"go": np.array([0.25, -1]), "jump": np.int64(1)}) == ".go 0.25 -1; .jump 1"


def test_texts_of_charts_hold_no_markup() -> None:
    assert chart_text("<a href='x'>") == "&lt;a href='x'&gt;"
    assert chart_text("word " * 20).count("<br>") == 2
    assert len(chart_text("x" * 10_000)) < 200


# The command


def data_of(page: Path) -> dict[str, Any]:
    """Return what the page holds for its script."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    data: dict[str, Any] = json.loads(text)
    return data


def test_files_of_others_bring_no_markup_into_the_page(capsys: Capture) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'
    quoted = evil.replace('"', '\\"')
    run = make_run(Path("evil"), curve={0: 0.5}, results={90: 50, quoted: 5}, agent=quoted, env=quoted, option=evil)
    assert main(["report", str(run), "--out", "evil.html"]) == 0
    page = Path("evil.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert len(re.findall("<script", page)) == 3
    shown = capsys.readouterr()
    assert shown.out == "evil.html\n"
    assert "warning: no episode of evil is in the report: unknown agent" in shown.err


def test_runs_without_evaluations_say_so(capsys: Capture) -> None:
    run = make_run(Path("fresh"))
    assert main(["report", str(run), "--no-play", "--out", "fresh.html"]) == 0
    page = Path("fresh.html").read_text(encoding="utf-8")
    assert "These runs logged no metrics." in page
    assert "None of these runs was evaluated" in page
    assert "No episode was played." in page
    assert data_of(Path("fresh.html")) == {"charts": {}, "players": []}


def test_the_played_episode_is_the_evaluation_s(capsys: Capture) -> None:
    assert main(["report", "run", "--at", "corridor_length=6", "--steps", "5", "--out", "played.html"]) == 0
    (player,) = data_of(Path("played.html"))["players"]
    assert main(["evaluate", "run", "--vary", "corridor_length=6", "--episodes", "16", "--out", "evaluated"]) == 0
    (result,) = json.loads(Path("evaluated/evaluation.json").read_text(encoding="utf-8"))["results"]
    first = result["episodes"][0]
    assert f"return {first['return']:.3g} in {first['length']} steps" in player["title"]
    assert player["steps"] == min(5, first["length"])
    assert len(player["frames"]) == player["steps"] + 1
    assert len(player["seen"]) == len(player["taken"]) == len(player["choices"]) == player["steps"]
    assert player["seen"][0][1] == {"name": "return-to-go", "values": ["1"], "strengths": [0.0]}


def test_what_is_wrong_is_named_and_nothing_is_left(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/config.toml").write_text("agent = ", encoding="utf-8")
    for arguments, message in (
        ([], "no runs were given"),
        (["empty"], "empty is no run"),
        (["run", "broken"], "config.toml is damaged"),
        (["run", "--out", "page.pdf"], "the name must end in .html"),
        (["run", "--out", "https://host/page.html"], "name a local file by --out"),
        (["run", "--out", "run/config.toml/page.html"], "can't be written to"),
        (["run", "--at", "corridor_length=1,2"], "give one value"),
        (["run", "--at", "corridor=3"], "--at corridor: no environment of these runs has this option; they have corr"),
    ):
        capsys.readouterr()
        assert main(["report", *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["report", "run"]) == 2
    assert (
        "rmt-rl report needs 'plotly', which is not installed: pip install 'rmt-rl[report]'" in capsys.readouterr().err
    )
    assert not Path("report.html").exists()


def test_a_run_that_cannot_be_played_is_noted(capsys: Capture) -> None:
    Path("foreign").mkdir()
    text = Path("run/config.toml").read_text(encoding="utf-8")
    Path("foreign/config.toml").write_text(text.replace("seed = 0", "seed = 1", 1), encoding="utf-8")
    assert main(["report", "foreign", "--out", "noted.html"]) == 0
    assert "warning: no episode of foreign is in the report: " in capsys.readouterr().err
    page = Path("noted.html").read_text(encoding="utf-8")
    assert "class='note'" in page
    assert "foreign/last.safetensors" in page
    assert data_of(Path("noted.html"))["players"] == []


def test_options_count_for_the_environments_that_have_them(capsys: Capture) -> None:
    other = make_run(Path("other-env"), env="associative_retrieval")
    assert main(["report", "run", str(other), "--at", "corridor_length=6", "--out", "two.html"]) == 0
    (player,) = data_of(Path("two.html"))["players"]
    assert "warning: no episode of other-env" in capsys.readouterr().err
    assert player["steps"] <= 8


def test_the_commands_of_the_page_run(capsys: Capture) -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    rmt-rl ([^#\n]*)", text, re.MULTILINE)
    assert [line.split()[0] for line in commands] == ["report", "report", "report", "evaluate"]
    for name in ("rate-0", "rate-1", "dt-0"):
        shutil.copytree("run", Path("runs") / name)
        config = Path("runs", name, "config.toml")
        changed = config.read_text(encoding="utf-8").replace("seed = 0", f"seed = {name[-1]}", 1)
        config.write_text(changed.replace("clip = 1.0", "clip = 2.0") if name == "dt-0" else changed, encoding="utf-8")
    for line in commands:
        assert main(line.split()) == 0, line
    assert len(data_of(Path("report.html"))["charts"]["learning-0"]) > 2
    assert sorted(Path("runs/rate-0/videos").iterdir())[0].name == "corridor_length=20-env-0-episode-0.mp4"
