"""The measures of `rmt-rl inspect`, checked by hand on cores whose state is known, and on runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from matplotlib.image import imread
from torch import Tensor

from rmt_rl.agent import Agent, AgentConfig, AgentSpec
from rmt_rl.analysis.inspection.cues import read_cues
from rmt_rl.analysis.inspection.inspect_run import FILE, Inspection, inspect_run, milestones, write_inspection
from rmt_rl.analysis.inspection.picture import PICTURE, draw_inspection
from rmt_rl.analysis.inspection.retention import Question, retention
from rmt_rl.analysis.inspection.states import ALL, distance, named_leaves, with_all
from rmt_rl.analysis.inspection.tables import inspection_tables
from rmt_rl.analysis.inspection.writing import writing
from rmt_rl.cli import main
from rmt_rl.data.segment import Segment
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.nn.decoder import Block
from rmt_rl.recurrence import SegmentRecurrent
from rmt_rl.registry import agent_class
from rmt_rl.runs.folder import write_config
from rmt_rl.runs.options import make_config
from rmt_rl.training.loop import train
from tests.agents import examples
from tests.data.episodes import InMemory, episode, segment_of
from tests.tiny import tiny, work_folder

STEPS = 4


class Halving(SegmentRecurrent[Tensor, Tensor]):
    """The state (B, 2) halves with each segment, whose first token is added; it's the output at every token."""

    width = 2

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 2)

    def forward(self, x_BLD: Tensor, state: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return state[:, None].expand_as(x_BLD), state / 2 + x_BLD[:, 0]


class Weighing(Halving):
    """The state is the sum of all tokens, times 1, 2, 3 ... by their places."""

    def forward(self, x_BLD: Tensor, state: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        places = torch.arange(1.0, x_BLD.shape[1] + 1)[:, None]
        return x_BLD, (x_BLD * places).sum(1)


class Constant(Halving):
    """Nothing that is seen gets into the state."""

    def forward(self, x_BLD: Tensor, state: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x_BLD, torch.ones_like(state)


def agent_of(core: SegmentRecurrent[Any, Any]) -> Agent:
    """An agent around a core of width 2 that sees two numbers as they are, and prefers action 0 by the first output."""

    class Plain(Agent):
        tokens = ("observation",)

        def build_core(self, config: AgentConfig) -> SegmentRecurrent[Any, Any]:
            return core

    agent = Plain(AgentConfig(segment_length=STEPS, width=2), AgentSpec(spaces.Box(-9, 9, (2,)), spaces.Discrete(2)))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.zero_()
        agent.encoders["observation"].linear.weight.copy_(torch.eye(2))  # type: ignore[union-attr, operator]
        agent.to_action.weight[0, 0], agent.to_action.weight[1, 0] = 1, -1
    return agent.eval()


def segment(firsts: list[tuple[float, float]], action: int = 0) -> Segment:
    """A full segment a lane, whose first observation is given; the others are zero."""
    observations = torch.zeros(len(firsts), STEPS, 2)
    observations[:, 0] = torch.tensor(firsts)
    actions = torch.full((len(firsts), STEPS), action)
    lengths = torch.full((len(firsts),), STEPS)
    return segment_of(observations, actions, torch.zeros(len(firsts), STEPS), lengths, full=True)


NOISE = segment([(0, 0)])
CUES = segment([(1, 0.25), (1, -0.25), (-1, 0.25), (-1, -0.25)])
GROUPS = torch.tensor([0, 0, 1, 1])


def test_what_halves_is_seen_to_halve() -> None:
    (start, *rest) = retention(agent_of(Halving()), CUES, GROUPS, (), repeat(NOISE), [0, 1, 2, 5])
    assert start.norm == {"state": pytest.approx(math.hypot(1, 0.25))}
    assert start.between == {"state": 1.0}
    assert start.within == {"state": 0.25}
    assert start.apart("state") == pytest.approx((1 / math.hypot(1, 0.25), 0.25 / math.hypot(1, 0.25)))
    assert [each.fillers for each in rest] == [1, 2, 5]
    for each in rest:
        assert each.between["state"] == 0.5**each.fillers
        assert each.within["state"] == 0.25 * 0.5**each.fillers
        assert each.apart("state") == pytest.approx(start.apart("state"))
    assert {each.margin for each in [start, *rest]} == {None}


def test_the_margin_is_a_difference_of_log_likelihoods() -> None:
    """Logits are s and -s, so log p(0 | s) - log p(0 | -s) = 2s; s is 1 and halves."""
    questions = [Question(NOISE, 2, 0), Question(segment([(0, 0)], action=1), 3, 1)]
    for each in retention(agent_of(Halving()), CUES, GROUPS, questions, repeat(NOISE), [0, 1, 3]):
        assert each.margin == pytest.approx(2 * 0.5**each.fillers)
        assert each.right == 1
    wrong = [Question(NOISE, 2, 1)]
    (only,) = retention(agent_of(Halving()), CUES, GROUPS, wrong, repeat(NOISE), [0])
    assert only.margin == pytest.approx(-2)
    assert only.right == 0


def test_a_state_of_zero_is_nowhere_apart() -> None:
    (only,) = retention(agent_of(Halving()), segment([(0, 0), (0, 0)]), torch.tensor([0, 1]), (), repeat(NOISE), [0])
    assert only.apart("state") == (0, 0)


def test_the_change_of_a_state() -> None:
    one = torch.tensor([[3.0, 4.0], [1, 0], [1, 0], [3, 4], [0, 0], [0, 0]])
    other = torch.tensor([[3.0, 4.0], [0, 1], [-1, 0], [6, 8], [1, 0], [0, 0]])
    expected = [0, math.sqrt(2), 2, 5 / math.sqrt((25 + 100) / 2), math.sqrt(2), 0]
    torch.testing.assert_close(distance(one, other), torch.tensor(expected))
    # (0, 0) -> (2, 0) -> (1, 0) + (0, 0) -> (0.5, 0) + (0, 0.5)
    parts = [segment([(2, 0)]), segment([(0, 0)]), segment([(0, 0.5)])]
    changes = [each.change["state"] for each in writing(agent_of(Halving()), parts)]
    assert changes == pytest.approx([math.sqrt(2), 1 / math.sqrt(2.5), math.sqrt(0.5) / math.sqrt((1 + 0.5) / 2)])


def test_lanes_without_steps_do_not_count() -> None:
    ended = replace(segment([(2, 0), (9, 9)]), lengths=torch.tensor([STEPS, 0]), full=False)
    (only,) = writing(agent_of(Halving()), [ended])
    (alone,) = writing(agent_of(Halving()), [segment([(2, 0)])])
    assert only == alone
    assert only.lanes == 1


def test_influence_is_where_the_state_comes_from() -> None:
    for core, expected in ((Halving(), [1, 0, 0, 0]), (Weighing(), [0.1, 0.2, 0.3, 0.4]), (Constant(), [0] * 4)):
        for each in writing(agent_of(core), [CUES, CUES]):
            assert each.influence == pytest.approx(expected)
            assert each.attention == ()


def test_influence_sums_over_the_tokens_of_a_step() -> None:
    """The recurrent agents see several tokens a step; none of them is beyond the segment."""
    cls: Any = agent_class("rate")
    agent = examples.make(cls, cls.Config(**examples.SMALL, heads=2))
    parts = examples.segments([examples.trajectory(examples.VECTOR, examples.MIXED, steps) for steps in (8, 6)], 4)
    first, second = writing(agent, parts)
    assert (first.lanes, second.lanes) == (2, 2)
    assert all(share > 0 for share in first.influence)
    assert [sum(first.influence), sum(second.influence)] == pytest.approx([1, 1])
    assert second.influence[3] < second.influence[1], "the second lane has two steps only"


class Pair(NamedTuple):
    one_BMD: Tensor
    count_B: Tensor
    rest: tuple[Tensor, ...]


def test_leaves_are_named_by_their_place() -> None:
    ones = torch.ones(3, 2, 5)
    state = Pair(ones, torch.zeros(3, dtype=torch.long), (ones[:, 0], ones[:, :0]))
    leaves = named_leaves((state, ones))
    assert {name: tuple(leaf.shape) for name, leaf in leaves.items()} == {
        "0.one": (3, 10),
        "0.rest.0": (3, 5),
        "1": (3, 10),
    }
    assert list(named_leaves(ones)) == ["state"]
    assert named_leaves(((), state.count_B)) == {}


def test_every_leaf_counts_alike_in_the_whole() -> None:
    """Norms are sqrt(mean of 1, 4) over the lanes of both states, a hundredth of that, and 0."""
    one, other = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 2], [0, 2]])
    states = [{"large": state, "small": state.flip(1)[:, :, None] / 100, "none": 0 * state} for state in (one, other)]
    states = [{name: leaf.flatten(1) for name, leaf in state.items()} for state in states]
    for state, whole in zip(states, with_all(*states), strict=True):
        assert list(whole) == [ALL, "large", "small", "none"]
        expected = torch.cat((state["large"], 100 * state["small"], state["none"]), 1) / math.sqrt(2.5)
        torch.testing.assert_close(whole[ALL], expected)
    assert with_all({"state": one}) == [{"state": one}]


class TwoScales(SegmentRecurrent[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]):
    """A large leaf: the segment's first token; and a small one, which halves and is added half a second token."""

    width = 2

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch_size, 2), torch.zeros(batch_size, 2)

    def forward(
        self, x_BLD: Tensor, state: tuple[Tensor, Tensor], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return x_BLD, (x_BLD[:, 0], (state[1] + x_BLD[:, 1] * 1e-6) / 2)


def test_a_leaf_of_small_numbers_counts_in_all_measures() -> None:
    """Noise replaces what the large leaf holds at once; it halves the small one, in all lanes alike."""
    cues = segment([(1, 0), (-1, 0)])
    assert isinstance(cues.observations, Tensor)
    cues.observations[:, 1] = torch.tensor([[0.0, 2], [0, -2]])
    noise = segment([(1, 0)])
    start, end = retention(agent_of(TwoScales()), cues, torch.tensor([0, 1]), (), repeat(noise), [0, 3])
    assert start.apart(ALL) == pytest.approx((1, 0))
    assert end.apart("0") == pytest.approx((0, 0))
    assert end.apart("1") == pytest.approx((1, 0)), "it's small, and nothing else"
    assert end.apart(ALL) == pytest.approx((math.sqrt(1 / 2), 0)), "half of the leaves"
    first, second = writing(agent_of(TwoScales()), [cues, cues])
    assert first.influence == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=0.03), "Jacobians 1 and 0.5e-6, norms 1, 1e-6"
    assert first.change == pytest.approx(dict.fromkeys((ALL, "0", "1"), math.sqrt(2)))
    halves = 0.5 / math.sqrt((1 + 1.5**2) / 2)
    assert second.change == pytest.approx({"0": 0, "1": halves, ALL: halves / math.sqrt(2)}, rel=1e-5)


def uniform(agent: Agent) -> Agent:
    """Every query looks at all that it may see alike."""
    for block in agent.modules():
        if isinstance(block, Block):
            torch.nn.init.zeros_(block.to_queries_keys.weight)
    return agent


@pytest.mark.parametrize("options", [{}, {"reads": "free"}, {"attention": "flex"}])
def test_attention_of_write_tokens_counts_what_they_see(options: dict[str, Any]) -> None:
    """With M = 3 and n steps of 3 tokens, write token m sees 3 + 3n + m + 1 tokens."""
    sizes = {**examples.SMALL, "heads": 2, "layers": 2, "memory_tokens": 3, **options}
    cls: Any = agent_class("rate")
    agent = uniform(examples.make(cls, cls.Config(**sizes)))
    parts = examples.segments([examples.trajectory(examples.VECTOR, examples.MIXED, steps) for steps in (4, 2)], 4)
    before = [block.attend for block in agent.modules() if isinstance(block, Block)]
    (only,) = writing(agent, parts)
    assert [look.layer for look in only.attention] == [1, 2]
    seen = {steps: np.mean([1 / (3 + 3 * steps + m + 1) for m in range(3)]) for steps in (4, 2)}
    both, long = 3 * (seen[4] + seen[2]) / 2, 3 * seen[4] / 2
    for look in only.attention:
        assert look.cached == 0
        assert look.read == pytest.approx(both)
        assert look.steps == pytest.approx([both, both, long, long])
        assert look.read + sum(look.steps) + look.write == pytest.approx(1)
    assert [block.attend for block in agent.modules() if isinstance(block, Block)] == before, "left as it was"
    assert not agent.core._forward_pre_hooks


def test_attention_to_a_cache_is_apart() -> None:
    sizes = {**examples.SMALL, "heads": 2, "layers": 1, "memory_tokens": 1, "cached": 5}
    cls: Any = agent_class("rate")
    agent = uniform(examples.make(cls, cls.Config(**sizes)))
    parts = examples.segments([examples.trajectory(examples.VECTOR, examples.MIXED, 8)], 4)
    first, second = (each.attention[0] for each in writing(agent, parts))
    assert (first.cached, first.read) == pytest.approx((0, 1 / 14)), "of [read, 12 tokens, itself]"
    assert (second.cached, second.read) == pytest.approx((5 / 19, 1 / 19))
    assert second.steps == pytest.approx([3 / 19] * 4)


def test_milestones_are_spaced_evenly_by_their_logarithm() -> None:
    assert milestones(1) == [0, 1]
    assert milestones(7) == [0, 1, 2, 4, 7]
    assert milestones(100) == [0, 1, 2, 3, 6, 10, 18, 32, 56, 100]
    assert milestones(10_000)[-2:] == [5623, 10_000]


# Which episodes


def observed(segment: Segment) -> Tensor:
    assert isinstance(segment.observations, Tensor)
    return segment.observations


def test_lanes_are_of_all_kinds_alike_and_questions_show_no_cue() -> None:
    """The last action of `episode` is (length - 1) % 4 + 1, and its observation t is (number, t + 1)."""
    store = InMemory([3, 4, *[9] * 20, *[12] * 3, 5])
    cues = read_cues(store, 4, 6, np.random.default_rng(0))
    assert cues.grouped_by == "last action"
    # Kinds: 20 + 1 episodes end with action 1, 3 with action 4; a segment or less has nothing to carry along.
    assert sorted(np.bincount(cues.groups)) == [3, 3]
    assert cues.first.full
    assert cues.first.returns_to_go.shape == (6, 4)
    assert observed(cues.first)[:, 0, 1].tolist() == [1.0] * 6
    assert len(cues.questions) == 6
    for question, number, group in zip(cues.questions, observed(cues.first)[:, 0, 0], cues.groups, strict=True):
        steps = observed(question.segment)[0, :, 1]
        length = int(store.lengths[int(number) - 1])
        assert steps[question.at] == length, "the last step"
        assert steps[0] == max(5, length - 3), "not of the first segment"
        assert question.group == group


class Annotated(InMemory):
    """Episodes of 12 steps, which are decisive from step 2, 6 and 9 on; even ones have another class."""

    def __init__(self, hindsight: bool) -> None:
        super().__init__([12] * 8)
        self.hindsight = hindsight

    def episode(self, index: int) -> Trajectory:
        decisive = np.isin(np.arange(12), (2, 6, 9))
        classes = np.full(12, index % 2) if self.hindsight else None
        return replace(episode(index, 12), decisive=decisive, hindsight=classes)


def test_lanes_are_grouped_as_the_task_says() -> None:
    cues = read_cues(Annotated(hindsight=True), 4, 8, np.random.default_rng(0))
    assert cues.grouped_by == "hindsight class"
    numbers = observed(cues.first)[:, 0, 0].long() - 1
    same = (numbers[:, None] % 2) == (numbers % 2)
    assert torch.equal(same, cues.groups[:, None] == cues.groups)
    for question in cues.questions:  # the first decisive step that isn't in the first segment
        assert observed(question.segment)[0, question.at, 1] == 6 + 1
        assert observed(question.segment)[0, 0, 1] == 4 + 1
    alike = read_cues(Annotated(hindsight=False), 4, 8, np.random.default_rng(0))
    assert (alike.grouped_by, alike.questions, set(alike.groups.tolist())) == (None, (), {0}), "all do the same there"


def test_episodes_of_a_segment_need_no_memory() -> None:
    with pytest.raises(UsageError, match=r"segment_length=9, but no episode of its data has more steps.*shorter seg"):
        read_cues(InMemory([9, 3]), 9, 8, np.random.default_rng(0))


# Runs


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with data sets and a run of their own."""
    with work_folder(tmp_path_factory) as folder:
        train(tiny(updates=2, evaluation={"eval_episodes": 0}), Path("rate"))
        yield folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Inspection:
    return inspect_run(Path("rate"), segments=20, episodes=12, lanes=4)


def test_a_run_is_inspected(found: Inspection) -> None:
    assert (found.env, found.agent, found.checkpoint) == ("tmaze", "rate", "last, update 2")
    assert found.grouped_by == "decisive action"
    assert [each.segment for each in found.written] == [1, 2]
    assert 12 == found.written[0].lanes > found.written[1].lanes > 0
    assert all(len(each.influence) == len(each.attention[0].steps) == 4 for each in found.written)
    assert [each.fillers for each in found.retained] == milestones(20)
    assert found.sizes.state_bytes == 5 * 16 * 4


def test_an_inspection_repeats_itself_and_follows_its_seed(found: Inspection) -> None:
    again = inspect_run(Path("rate"), segments=20, episodes=12, lanes=4)
    assert again == found
    other = inspect_run(Path("rate"), segments=20, episodes=12, lanes=4, seed=1)
    assert other.retained != found.retained
    assert other.written != found.written


def test_lost_data_are_collected_anew(found: Inspection) -> None:
    shutil.rmtree("data")
    assert inspect_run(Path("rate"), segments=20, episodes=12, lanes=4) == found


def test_one_lane_has_nobody_to_be_apart_from(found: Inspection) -> None:
    alone = inspect_run(Path("rate"), segments=2, episodes=1, lanes=1)
    assert alone.grouped_by is None
    assert [each.apart("memory") for each in alone.retained] == [(0, 0)] * 3
    assert "| distance |" in inspection_tables(alone)


def test_numbers_are_json_and_the_picture_shows_them(found: Inspection, tmp_path: Path) -> None:
    path = write_inspection(found, tmp_path / "new")
    assert path == tmp_path / "new" / FILE
    record = json.loads(path.read_text())
    assert record.pop("format") == 1
    assert record.pop("sizes") == {"parameters": found.sizes.parameters, "state_bytes": 320}
    expected = json.loads(json.dumps(asdict(found)))
    del expected["sizes"]
    assert record == expected
    with_attention = imread(draw_inspection(found, tmp_path))
    plain = replace(found, grouped_by=None, written=tuple(replace(each, attention=()) for each in found.written))
    without = imread(draw_inspection(plain, tmp_path))
    assert with_attention.shape[1] > without.shape[1], "a panel more"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [FILE, PICTURE, "new"], "nothing half written"


def test_tables_hold_what_was_found(found: Inspection) -> None:
    lines = inspection_tables(found).splitlines()
    assert lines[0].startswith("tmaze rate, last, update 2: ")
    assert lines[0].endswith(" parameters, 320 bytes of state for each environment")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    first = found.written[0]
    assert set("".join(rows.pop(1))) == set("-:")
    assert rows[1][:3] == ["1", "12", f"{first.change['memory']:.3f}"]
    assert rows[1][3].startswith(f"{np.argmax(first.influence) + 1} (")
    last = found.retained[-1]
    assert rows[-1][0] == "20"
    assert float(rows[-1][1]) == pytest.approx(last.apart("memory")[0], rel=0.06)
    assert float(rows[-1][-1]) == pytest.approx(last.right, abs=0.006)


def with_leaves(found: Inspection, between: dict[str, float]) -> Inspection:
    """The same with other leaves, so far apart after any noise."""
    norm, within = dict.fromkeys(between, 1.0), dict.fromkeys(between, 0.1)
    retained = tuple(replace(each, norm=norm, between=between, within=within) for each in found.retained)
    return replace(found, retained=retained, written=tuple(replace(each, change=between) for each in found.written))


def test_leaves_are_shown_where_the_memory_is(found: Inspection, tmp_path: Path) -> None:
    between = {ALL: 0.5} | {f"{place}.leaf": place / 10 for place in (1, 2, 9, 3, 4, 5, 6, 7)}
    many = with_leaves(found, between)
    lines = inspection_tables(many).splitlines()
    assert any(line.startswith("- 9.leaf: ") for line in lines)
    header, row = ([cell.strip() for cell in lines[place].split("|")] for place in (-len(found.retained) - 2, -1))
    assert row[header.index("9.leaf")] == "0.9"
    assert float(row[header.index("distance between groups")]) == 0.5
    pictures = [imread(draw_inspection(many, tmp_path))]
    for others in ({"1.leaf": 0.15, "2.leaf": 0}, {"9.leaf": 0.8}, {"0.leaf": 0}):
        pictures.append(imread(draw_inspection(with_leaves(found, between | others), tmp_path)))
    assert np.array_equal(pictures[0], pictures[1]), "2 leaves are left out: those least far apart"
    assert not np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[3]), "it says that there are 3"
    ungrouped = replace(with_leaves(found, between), grouped_by=None)
    assert "0.1" in inspection_tables(ungrouped).splitlines()[-1]


def test_old_memory_that_nothing_attends_to_has_no_column(found: Inspection) -> None:
    assert "attention to old memory" in inspection_tables(found)
    unread = tuple(
        replace(each, attention=tuple(replace(look, read=0.0) for look in each.attention)) for each in found.written
    )
    lines = inspection_tables(replace(found, written=unread))
    assert "attention to old memory" not in lines
    assert "most attended step" in lines


def complaint(run: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["inspect", run, "--segments", "5"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    return shown.err


def test_what_has_no_memory_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny("bc", updates=1, evaluation={"eval_episodes": 0}), Path("bc"))
    assert "run bc is of agent 'bc', which carries nothing from segment to segment" in complaint("bc", capsys)
    write_config(make_config({"env": "tmaze", "agent": "ppo"}), Path("ppo"))
    assert "run ppo is of agent 'ppo', which learns by acting and has no segments" in complaint("ppo", capsys)
    assert not list(Path("bc").glob("inspection*"))


def test_data_that_cannot_be_had_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("rate", "lost")
    config = Path("lost", "config.toml")
    config.write_text(config.read_text().replace("dataset = []", 'dataset = ["nobody/nothing-v0"]'))
    assert "data set 'nobody/nothing-v0' is not below" in complaint("lost", capsys)
    assert "empty/config.toml can't be read" in complaint("empty/config.toml", capsys)
    unfinished = Path("unfinished")
    write_config(tiny(), unfinished)
    assert "unfinished/last.safetensors doesn't exist" in complaint("unfinished", capsys)
