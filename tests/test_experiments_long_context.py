from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.long_context import __main__ as experiment
from experiments.long_context import order
from experiments.long_context.evaluate import SEED, SEQUENCES, SEQUENCES_LONG, Result, evaluate, passes, read, streamed
from experiments.long_context.feeds import Sequences, SequencesThenStreams, Streams
from experiments.long_context.options import Memory, Options, read_run
from experiments.long_context.report import row, write_results
from experiments.long_context.tasks import NAMES, OBJECTS, PLACES, STORIES, Task, TaskName, TaskSequence
from experiments.long_context.texts import UNKNOWN, Ids, Part, paragraphs, words_of
from experiments.long_context.train import Command, main, make_learner, train
from rmt_rl.data.curriculum import Curriculum
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.recurrence import clone, select_lanes, tree_leaves
from rmt_rl.runs.metrics import Report
from rmt_rl.runs.options import Schedule
from rmt_rl.training.loop import Loop, no_report
from rmt_rl.training.tokens import IGNORED, TokenBatch, TokenFeed, TokenLearner

TASKS: tuple[TaskName, ...] = ("memorise", "detect", "reason")
SMALL = {"width": 16, "heads": 2, "layers": 1, "lanes": 6, "segment": 32, "memory_tokens": 2}


def words(task: Task, row_L: Ids) -> str:
    return " ".join(task.vocabulary[number] for number in row_L)


def derive(facts: list[str], question: str) -> set[str]:
    """The answers that are possible by what is said, as a reader of English would find them."""
    where = {}
    holder = set(NAMES)
    for fact in facts:
        for clause in fact.removesuffix(" .").split(" and "):
            name, verb, *_, what = clause.split()
            if verb == "went":
                where[name] = what
            else:
                holder = {name}
    about = question.split()[-2]
    holder = {about} if about in NAMES else holder
    return {where[name] for name in holder & set(where)} or set(PLACES)


# Texts


def test_texts_to_train_and_to_test_on_are_apart() -> None:
    train, test = paragraphs("train"), paragraphs("test")
    assert not set(train) & set(test)

    def windows(part: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for paragraph in part:
            found = words_of(paragraph)
            yield from zip(*(found[shift:] for shift in range(12)), strict=False)

    known, asked = set(windows(train)), list(windows(test))
    assert sum(window in known for window in asked) / len(asked) < 0.03  # phrases that documentation repeats


def test_fillers_name_nothing_that_the_tasks_are_about() -> None:
    parts: tuple[Part, Part] = ("train", "test")
    for part in parts:
        task = Task("reason", part, 64)
        assert not np.isin(task.text.ids, task.ids((*NAMES, *PLACES, *OBJECTS))).any()
        assert np.mean(task.text.ids == task.ids([UNKNOWN])[0]) < 0.15
    assert len(Task("reason", "test", 64).text.ids) > 30_000


# Tasks


@pytest.mark.parametrize("name", TASKS)
def test_answers_follow_from_the_facts(name: TaskName) -> None:
    rng = np.random.default_rng(0)
    for index in range(300):
        story = STORIES[name](rng, index % len(PLACES))
        assert story.questions[0].answer == index % len(PLACES)
        for text, answer, facts in story.questions:
            assert derive([story.facts[fact] for fact in facts], text) == {PLACES[answer]}


def test_reasoning_needs_both_facts() -> None:
    rng = np.random.default_rng(0)
    right = []
    for index in range(600):
        story = STORIES["reason"](rng, index % len(PLACES))
        (took, went), question = story.facts, story.questions[0]
        assert derive([took], question.text) == set(PLACES)
        possible = derive([went], question.text)
        assert len(possible) == 2
        right.append(rng.choice(sorted(possible)) == PLACES[question.answer])
    assert np.mean(right) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("name", TASKS)
def test_guessing_is_right_by_chance(name: TaskName) -> None:
    task, rng = Task(name, "train", 32), np.random.default_rng(0)
    drawn = [task.sequence(rng, 4).question.answer for _ in range(3000)]
    assert np.bincount(drawn, minlength=6) / 3000 == pytest.approx(np.full(6, 1 / 6), abs=0.03)


@pytest.mark.parametrize("name", TASKS)
def test_a_sequence_holds_its_facts_once_and_ends_in_its_question(name: TaskName) -> None:
    task, rng = Task(name, "train", 40), np.random.default_rng(1)
    drawn = [task.sequence(rng, 3) for _ in range(40)]
    questions = [sequence.question for sequence in drawn]
    rows = [task.segment_batch(rng, drawn, [number] * 40, questions if number == 2 else None) for number in range(3)]
    assert {batch.shape for batch in rows} == {(40, 40)}
    for sequence, *texts in zip(drawn, *([words(task, one) for one in batch] for batch in rows), strict=True):
        for fact, segment in zip(sequence.story.facts, sequence.segments, strict=True):
            assert [text.count(fact) for text in texts] == [number == segment for number in range(3)]
        assert texts[2].endswith(sequence.question.text)
        if name == "memorise":
            assert texts[0].startswith(sequence.story.facts[0])
    if name != "memorise":
        assert {segment for sequence in drawn for segment in sequence.segments} == {0, 1, 2}


def test_two_facts_of_a_segment_come_in_either_order_and_anywhere() -> None:
    task, rng = Task("reason", "train", 28), np.random.default_rng(2)  # 28 - 5 - 5 - 12: little room
    drawn = [task.sequence(rng, 1) for _ in range(300)]
    questions = [sequence.question for sequence in drawn]
    texts = [words(task, one) for one in task.segment_batch(rng, drawn, [0] * 300, questions)]
    for sequence, text in zip(drawn, texts, strict=True):
        assert all(fact in text for fact in sequence.story.facts)
    first = [text.index("took") < text.index("went") for text in texts]
    assert 0.4 < np.mean(first) < 0.6
    assert len({text.split().index("took") for text in texts}) > 10


@pytest.mark.parametrize("name", TASKS)
def test_segments_follow_from_the_generator(name: TaskName) -> None:
    task = Task(name, "train", 32)

    def drawn(seed: int) -> Ids:
        rng = np.random.default_rng(seed)
        sequences = [task.stream(rng, 1, 4) for _ in range(5)]
        return task.segment_batch(rng, sequences, [0, 1, 2, 3, 4], [sequence.question for sequence in sequences])

    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert (drawn(3) != drawn(4)).any()


def test_facts_of_a_stream_wait_log_uniformly() -> None:
    task, rng = Task("detect", "train", 32), np.random.default_rng(0)
    waits = np.bincount([task.stream(rng, 0, 8).segments[0] for _ in range(4000)], minlength=8) / 4000
    assert waits == pytest.approx(np.log(np.arange(2, 10) / np.arange(1, 9)) / np.log(9), abs=0.03)
    assert Task("memorise", "train", 32).stream(rng, 0, 8).segments == (0,)


# Feeds


def streams(name: TaskName = "detect", count: int = 12, reset: float = 0.2, reset_wrong: float = 0.3) -> Streams:
    return Streams(Task(name, "train", 32), count, 0, (2, 4), (reset, reset), reset_wrong)


def learn(feed: TokenFeed, update: int, right_B: torch.Tensor) -> None:
    feed.learn(update, (right_B[:, None],))


def last_labels(batch: TokenBatch) -> torch.Tensor:
    *before, labels_B1 = batch.labels
    assert [labels.shape for labels in before] == [(len(labels_B1), 0)] * (len(batch.segments) - 1)
    return labels_B1[:, 0]


def test_sequences_go_on_where_they_were_before_the_question() -> None:
    feed = streams(reset=1e-9, reset_wrong=0.0)
    seen = [0] * 12
    for update in range(6):
        batch = feed.batch(update)
        assert batch.aside
        assert feed.ages == seen
        assert batch.fresh.tolist() == [age == 0 for age in seen]
        learn(feed, update, torch.ones(12, dtype=torch.bool))
        seen = [age + len(batch.segments) - 1 for age in seen]
    assert seen[0] >= 6


def test_a_sequence_is_asked_what_its_facts_tell_so_far() -> None:
    feed, task = streams("reason"), Task("reason", "train", 32)
    told, kinds = [""] * 12, set()
    for update in range(40):
        batch = feed.batch(update)
        labels_B = last_labels(batch)
        for index, sequence in enumerate(feed.sequences):
            before = "" if batch.fresh[index] else told[index]
            text = [words(task, segment[index].numpy()) for segment in batch.segments]
            read_so_far = " ".join([before, *text])
            told[index] = " ".join([before, *text[:-1]])
            known = [fact for fact in sequence.story.facts if fact in read_so_far]
            (question,) = (each for each in sequence.story.questions if text[-1].endswith(each.text))
            asked = labels_B[index] != IGNORED
            assert (question == sequence.question) == (len(known) == 2 or not asked)
            if asked:
                assert derive(known, question.text) == {PLACES[labels_B[index]]}
                kinds.add(len(known))
            else:
                assert sequence.story.facts[1] not in known  # who took it says nothing of a place
        learn(feed, update, torch.rand(12) < 0.5)
    assert kinds == {1, 2}


def test_a_sequence_is_replaced_whether_it_was_right_or_wrong_and_keeps_its_answer() -> None:
    feed = streams("memorise", count=600, reset=0.1, reset_wrong=0.8)
    feed.accuracy = 0.5
    answers_B = last_labels(feed.batch(0))
    assert answers_B.bincount().tolist() == [100] * 6
    right = torch.arange(600) < 300
    learn(feed, 0, right)
    batch = feed.batch(1)
    assert float(batch.fresh[right].float().mean()) == pytest.approx(0.5, abs=0.1)  # .1 + .5 * .8
    assert float(batch.fresh[~right].float().mean()) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(last_labels(batch), answers_B)


def test_feeds_go_on_from_their_state() -> None:
    def sequences() -> TokenFeed:
        return Sequences(Task("detect", "train", 32), 4, 0, Curriculum(last=3, threshold=0.1, review=0.3))

    makers: tuple[Callable[[], TokenFeed], ...] = (streams, sequences)
    for make in makers:
        feed, other = make(), make()
        for update in range(8):
            batch = feed.batch(update)
            learn(feed, update, torch.rand(len(batch.fresh)) < 0.5)
        other.restore({"other": 1, **json.loads(json.dumps(feed.state()))}, 8)
        ours, theirs = feed.batch(8), other.batch(8)
        for one, another in zip(tree_leaves(ours[:3]), tree_leaves(theirs[:3]), strict=True):
            assert torch.equal(one, another)


def test_streams_begin_when_the_curriculum_is_finished() -> None:
    sequences = Sequences(Task("detect", "train", 32), 12, 0, Curriculum(last=2, threshold=0.5, smoothing=0))
    feed = SequencesThenStreams(sequences, streams())
    lengths = []
    assert "streams never began" in (feed.unreached() or "")
    for update in range(6):
        lengths.append(len(feed.batch(update).segments))
        learn(feed, update, torch.ones(12, dtype=torch.bool))
    assert lengths[:2] == [1, 2]
    assert feed.now is feed.streams
    assert any(feed.streams.ages)
    assert feed.unreached() is None


def test_a_model_without_memory_reads_all_segments_as_one() -> None:
    curriculum = Curriculum(first=3, last=3)
    parts = Sequences(Task("detect", "train", 32), 4, 0, curriculum).batch(5)
    joined = Sequences(Task("detect", "train", 32), 4, 0, curriculum, joined=True).batch(5)
    (segment,) = joined.segments
    assert torch.equal(segment, torch.cat(parts.segments, 1))
    assert torch.equal(last_labels(joined), last_labels(parts))


# Training


def options(**changed: Any) -> Options:
    settings: dict[str, Any] = {"task": "detect", "tokens": 8000, "segments": 1, "threshold": 0.01}
    return Options.model_validate(settings | SMALL | changed)


def trained(tmp_path: Path, name: str, report: Report = no_report, **changed: Any) -> TokenLearner:
    return train(options(**changed), tmp_path / name, report)


def test_state_is_carried_without_graph_and_fresh_sequences_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = trained(tmp_path, "run", memory="valve")
    assert isinstance(learner.feed, SequencesThenStreams)
    streams = learner.feed.streams
    assert max(streams.ages) > 0
    assert not any(leaf.requires_grad for leaf in tree_leaves(learner.carried))
    streams.ages = [0, 5] * 3
    batch = streams.batch(99)
    before, model = clone(learner.carried), copy.deepcopy(learner.model)
    monkeypatch.setattr(learner.feed, "batch", lambda update: batch)
    learner.advance()
    after = tree_leaves(learner.carried)
    with torch.no_grad():  # by hand, from a new and from the carried state
        for index, fresh in ((0, True), (1, False)):
            state = model.initial_state(1) if fresh else select_lanes(before, torch.tensor([index]))
            for segment in batch.segments[:-1]:
                _, state = model.run(segment[index : index + 1], state)
            assert torch.allclose(tree_leaves(state)[0][0], after[0][index], atol=1e-5)


@pytest.mark.parametrize("update", [6, 22])
def test_a_stopped_run_goes_on_to_the_same_weights(update: int, tmp_path: Path) -> None:
    """By the curriculum (update 6), and in streams (update 22)."""

    def stop(made: int, _: object) -> None:
        if made == update:
            raise KeyboardInterrupt

    longer: dict[str, Any] = {"tokens": 16_000, "segments": 2, "threshold": 0.05, "save_every": 4}
    whole = trained(tmp_path, "whole", **longer)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "stopped", stop, **longer)
    saved = read_run(tmp_path / "stopped")
    assert saved.checkpoint.header.update == update // 4 * 4
    state = json.dumps(saved.checkpoint.header.progress)
    assert ('"ages": [0, 0, 0, 0, 0, 0]' in state) == (update == 6)
    again = trained(tmp_path, "stopped", **longer)
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match="other options"):
        trained(tmp_path, "stopped", **longer, seed=1)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    trained(tmp_path, "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    trained(tmp_path, "run", lambda *_: pytest.fail("an update was made"))
    assert {path: path.read_bytes() for path in before} == before


def test_weights_of_short_segments_serve_longer_ones(tmp_path: Path) -> None:
    first = trained(tmp_path, "short")
    started = make_learner(options(segment=50, start=str(tmp_path / "short")))
    for ours, theirs in zip(first.model.parameters(), started.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match="is a run of width=16, not 8; choose the same"):
        make_learner(options(width=8, start=str(tmp_path / "short")))


@pytest.mark.parametrize("memory", ["tokens", "gate", "hard-gate", "mac", "mag", "mal", "armt", "none"])
def test_every_memory_trains_and_is_tested(memory: Memory, tmp_path: Path) -> None:
    trained(tmp_path, "run", memory=memory, feed="curriculum", segments=2, tokens=600)
    results = evaluate(tmp_path / "run", 2, 6, 3, seed=5)
    assert [result.segments for result in results] == [1, 2]


def test_streams_need_a_memory() -> None:
    with pytest.raises(ValueError, match="memory='none' carries nothing"):
        Options(task="detect", memory="none")


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"last\.safetensors doesn't exist"):
        read_run(tmp_path)
    feed = Sequences(Task("detect", "train", 32), 4, 0, Curriculum())
    other = TokenLearner(options().model(), feed.task.vocabulary, feed, options().training())
    other.start()
    loop = Loop(other, tmp_path, Schedule(1, 1), origin={})
    loop.save()
    with pytest.raises(UsageError, match="holds no run of experiments"):
        read_run(tmp_path)


# Evaluation


def test_lengths_asked_in_one_pass_are_those_asked_alone(tmp_path: Path) -> None:
    trained(tmp_path, "run", task="memorise", tokens=16_000)
    run = read_run(tmp_path / "run")
    together = list(read(run, 40, [1, 2, 8], seed=3))
    task = Task("memorise", "test", 32, run.vocabulary)
    rng, model = np.random.default_rng([3, 1]), run.model()
    sequences = [task.sequence(rng, 1) for _ in range(40)]
    with torch.inference_mode():
        alone = [right_B for each in (1, 2, 8) for _, right_B in streamed(model, task, sequences, [each], 3)]
    assert [result.right for result in together] == [int(right_B.sum()) for right_B in alone]
    assert 0 < sum(result.right for result in together) < 120


def test_as_many_sequences_as_promised() -> None:
    assert passes("memorise", "valve", 1024, 64, 16) == [(64, [1, 2, 4, 8, 16, 32, 64, 128, 256]), (16, [512, 1024])]
    assert passes("detect", "valve", 512, 64, 16)[-2:] == [(64, [256]), (16, [512])]
    assert passes("memorise", "none", 2, 64, 16) == [(64, [1]), (64, [2])]


def test_what_is_measured_adds_up(tmp_path: Path) -> None:
    trained(tmp_path, "run", task="memorise")
    results = list(read(read_run(tmp_path / "run"), 5, [1, 2, 4], seed=0))
    assert [result.tokens for result in results] == [160, 160, 320]  # 5 sequences of 32 tokens a segment
    assert all(isinstance(result, Result) and result.cpu_seconds > 0 and result.resident_mb > 50 for result in results)


# Orders of facts


def test_accuracy_by_the_order_of_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two facts are where their columns say, in sequences that are alike otherwise."""
    run, cases = tmp_path / "run", []
    trained(tmp_path, "run", task="reason", tokens=600)

    def watched(model: RecurrentMemoryTransformer, task: Task, drawn: list[TaskSequence], *rest: Any) -> Any:
        cases.append(drawn)
        return streamed(model, task, drawn, *rest)

    monkeypatch.setattr(order, "streamed", watched)
    found = list(order.rows(run, segments=4, sequences=6, seed=3))
    told = [("0", "0"), ("2", "2"), ("0", "1"), ("1", "0"), ("1", "2"), ("2", "1"), ("0", "2"), ("2", "0")]
    assert [(holder, places) for holder, places, _ in found] == told
    for (holder, places), drawn in zip(told, cases, strict=True):
        assert [sequence.story for sequence in drawn] == [sequence.story for sequence in cases[0]]
        for sequence in drawn:
            where = dict(zip(sequence.story.facts, map(str, sequence.segments), strict=True))
            assert {"took" in fact: segment for fact, segment in where.items()} == {True: holder, False: places}
    assert all(re.fullmatch(r"[01]\.\d\d \[[\d., ]+\]", right) for *_, right in found)
    trained(tmp_path, "other", tokens=600)
    with pytest.raises(UsageError, match="of detect with memory=valve; give one of reason"):
        next(order.rows(tmp_path / "other", 4, 6, 3))
    with pytest.raises(UsageError, match="segments=3"):
        next(order.rows(run, 3, 6, 3))


# The whole experiment


def test_the_experiment_from_command_lines_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    common = [*small, "--tokens", "1500", "--threshold", "0.01", "--segments", "1"]
    run = tmp_path / "runs" / "detect-valve-64"
    main(["detect", *common, "--out", str(run)])
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["data/tokens"] >= 1500
    monkeypatch.setattr(
        experiment,
        "plan",
        lambda: [
            [
                experiment.Cell("detect-valve-64", ("detect", *common), longest=4),
                experiment.Cell("detect-valve-99", ("detect", *common, "--lanes=5"), 4, start="detect-valve-64"),
            ]
        ],
    )
    ran: list[str] = []

    def in_process(module: str, *arguments: str) -> None:
        ran.append(module.rpartition(".")[2])
        if ran[-1] == "train":
            main(arguments)
        else:
            evaluate(Path(arguments[0]), 4, SEQUENCES, SEQUENCES_LONG, SEED)

    monkeypatch.setattr(experiment, "_python", in_process)
    experiment.main(runs=tmp_path / "runs", folder=tmp_path, jobs=1)
    assert ran == ["train", "evaluate"] * 2
    experiment.main(runs=tmp_path / "runs", folder=tmp_path, jobs=1)
    assert ran[4:] == ["train"] * 2  # which find nothing left to do
    evaluate(run, 4, SEQUENCES - 1, SEQUENCES_LONG, SEED)
    experiment.main(("detect-valve-64",), runs=tmp_path / "runs", folder=tmp_path, jobs=1)
    assert ran[6:] == ["train", "evaluate"]  # for it was tested with other sequences
    experiment.main(("detect-valve-99",), runs=tmp_path / "runs", folder=tmp_path, jobs=1)
    assert ran[8:] == ["train"] * 2  # itself and what it begins with
    with pytest.raises(UsageError, match="only=detect-valve: nothing is named so"):
        experiment.main(("detect-valve",), runs=tmp_path / "runs", folder=tmp_path)
    first = (tmp_path / "accuracy.svg").read_bytes()
    experiment.main(folder=tmp_path, draw=True)
    assert (tmp_path / "accuracy.svg").read_bytes() == first
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [one["run"] for one in rows] == ["detect-valve-64", "detect-valve-99"]
    assert rows[0] == json.loads(json.dumps(row(run)))
    text = write_results(rows, tmp_path)
    assert "| detect | memory tokens with RATE's valve | curriculum, then streams | 32 |" in text
    assert "from detect-valve-64" in text


def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, runs = experiment.Cell, tmp_path / "runs"
    after = [cell("bad", (), start="good"), cell("worse", (), start="bad"), cell("fine", (), start="good")]
    monkeypatch.setattr(experiment, "plan", lambda: [[cell("good", ()), *after]])
    for name in ("good", "fine"):
        trained(runs, name, tokens=600)
        evaluate(runs / name, 1, 6, 3, SEED)
    begun: list[str] = []

    def fails_on_bad(module: str, *arguments: str) -> None:
        begun.append(Path(arguments[-1]).name)
        if begun[-1] == "bad":
            raise subprocess.CalledProcessError(1, module)

    monkeypatch.setattr(experiment, "_python", fails_on_bad)
    with pytest.raises(UsageError, match=r"these runs failed, .*: bad, worse$"):
        experiment.main(runs=runs, folder=tmp_path, jobs=1)
    assert "worse" not in begun
    assert [one["run"] for one in json.loads((tmp_path / "results.json").read_text())] == ["good", "fine"]


def test_the_plan_is_valid() -> None:
    cells = [cell for chain in experiment.plan() for cell in chain]
    assert len({cell.name for cell in cells}) == len(cells)
    options = {cell.name: parse(Command, [*cell.arguments, "--out", "x"], "", "") for cell in cells}
    for cell in cells:
        assert cell.start is None or options[cell.start].seed == options[cell.name].seed
        assert (f"-seed-{options[cell.name].seed}" in cell.name) == (options[cell.name].seed > 0)
