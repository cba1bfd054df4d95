import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt_rl.data.feed import FeedConfig, PickedFeed, make_feed
from rmt_rl.data.fillers import Fillers
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from tests.data.episodes import InMemory

FEEDS = ["episodes", "windows", "streams"]
many_lengths = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def feed_of(
    lengths: list[int], feed: str = "episodes", seed: int = 0, segment_length: int = 4, **options: Any
) -> PickedFeed:
    config = FeedConfig.model_validate({"feed": feed, "batch_size": 4} | options)
    made = make_feed(InMemory(lengths), config, segment_length, seed)
    assert isinstance(made, PickedFeed)
    return made


def tensors(batch: Batch) -> list[torch.Tensor]:
    segments = (*batch.burn_in, *batch.segments)
    parts = [(s.observations, s.actions, s.returns_to_go, s.lengths) for s in segments]
    return [*(t for part in parts for t in part if isinstance(t, torch.Tensor)), batch.fresh]


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def steps(segment: Segment, lane: int) -> list[list[int]]:
    """(episode, step), both counted from 0, of the lane's real steps."""
    assert isinstance(segment.observations, torch.Tensor)
    return (segment.observations[lane, : segment.lengths[lane]].long() - 1).tolist()


def lane_steps(batch: Batch, lane: int) -> list[list[int]]:
    return [step for segment in batch.segments for step in steps(segment, lane)]


@settings(deadline=None, max_examples=50)
@given(many_lengths, st.sampled_from(["episodes", "windows"]), st.integers(1, 5), st.integers(0, 5), st.integers(1, 5))
def test_every_item_appears_once_an_epoch(
    lengths: list[int], feed: str, batch_size: int, seed: int, bucket_batches: int
) -> None:
    made = feed_of(lengths, feed, seed, batch_size=batch_size, bucket_batches=bucket_batches, segments=2)
    span = 8
    expected = Counter(  # how often an epoch shows each window: those that overhang are moved into the episode
        (number, min(max(0, last - span + 1), max(0, length - span)))
        for number, length in enumerate(lengths)
        for last in range(1 if feed == "episodes" else length + span - 1)
    )
    if feed == "windows":
        read = Counter((number, step) for number, start in expected.elements() for step in range(start, start + span))
        assert all(span <= read[number, step] < 3 * span for number, n in enumerate(lengths) for step in range(n))
    items = expected.total()
    pool_batches = max(1, min(bucket_batches, items // batch_size))  # no pool is larger than the data
    batches = items * pool_batches  # a whole number of pools and of epochs
    count: Counter[tuple[int, int]] = Counter()
    for update in range(batches):
        batch = made.batch(update)
        assert batch.fresh.all()
        for lane in range(batch_size):
            seen = lane_steps(batch, lane)
            number, start = seen[0]
            assert seen == [[number, step] for step in range(start, min(start + span, lengths[number]))]
            count[number, start] += 1
    assert count == {window: times * batch_size * pool_batches for window, times in expected.items()}


@pytest.mark.parametrize("bucket_batches", [1, 4])
def test_a_whole_number_of_pools_shows_every_episode_once(bucket_batches: int) -> None:
    made = feed_of(list(range(1, 33)), bucket_batches=bucket_batches)
    numbers = [lane_steps(made.batch(update), lane)[0][0] for update in range(8) for lane in range(4)]
    assert sorted(numbers) == list(range(32))
    assert numbers != sorted(numbers)


@settings(deadline=None)
@given(many_lengths, st.integers(1, 5), st.integers(1, 3), st.integers(0, 5))
def test_streams_keep_the_order_of_steps_and_mark_starts(
    lengths: list[int], batch_size: int, segments: int, seed: int
) -> None:
    made = feed_of(lengths, "streams", seed, batch_size=batch_size, segments=segments)
    expected_next: list[list[int] | None] = [None] * batch_size
    begun: Counter[int] = Counter()
    for update in range(30):
        batch = made.batch(update)
        for lane in range(batch_size):
            seen = lane_steps(batch, lane)
            assert bool(batch.fresh[lane]) == (expected_next[lane] is None)
            number, first = seen[0]
            assert seen[0] == (expected_next[lane] or [number, 0])
            begun[number] += first == 0
            last = min(first + segments * 4, lengths[number])
            assert seen == [[number, step] for step in range(first, last)]
            expected_next[lane] = None if last == lengths[number] else [number, last]
    assert max(begun.values()) - min(begun[number] for number in range(len(lengths))) <= 1  # dealt out evenly


@settings(deadline=None)
@given(many_lengths, st.integers(0, 3), st.integers(1, 3), st.integers(0, 5))
def test_burn_in_are_the_steps_before_the_window(lengths: list[int], burn_in: int, segments: int, update: int) -> None:
    batch = feed_of(lengths, "windows", segments=segments, burn_in=burn_in).batch(update)
    plain = feed_of(lengths, "windows", segments=segments).batch(update)
    assert equal(replace(batch, burn_in=()), plain), "the windows are the same"
    assert batch.fresh.all()
    for lane in range(4):
        number, start = lane_steps(batch, lane)[0]
        before = [step for segment in batch.burn_in for step in steps(segment, lane)]
        first = max(0, start - burn_in * 4)
        assert before == [[number, step] for step in range(first, start)]


@pytest.mark.parametrize("feed", ["episodes", "streams"])
def test_burn_in_comes_before_windows_alone(feed: str) -> None:
    with pytest.raises(
        ValueError, match=f"burn_in=2 computes the states of windows, but feed='{feed}' .* feed='windows'"
    ):
        feed_of([5], feed, burn_in=2)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_batch_depends_on_nothing_but_seed_and_update(feed: str) -> None:
    lengths = list(range(1, 60, 3))
    first = [feed_of(lengths, feed).batch(update) for update in range(30)]
    made = feed_of(lengths, feed)
    for update in [7, 3, 29, 29, 0, 16]:
        assert equal(made.batch(update), first[update])
    assert not all(equal(feed_of(lengths, feed, seed=1).batch(update), first[update]) for update in range(3))


DIGEST = """
import sys
from tests.data.test_feeds import digest
print(digest(sys.argv[1]))
"""


def digest(feed: str) -> str:
    made = feed_of(list(range(6, 40)), feed, seed=5)
    fillers = Fillers(InMemory(list(range(6, 40))), 4, seed=5).draw(3, 2, 4)
    both = [*tensors(made.batch(41)), *(part.returns_to_go for part in fillers)]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in both)).hexdigest()


@pytest.mark.parametrize("feed", FEEDS)
def test_another_process_draws_the_same(feed: str) -> None:
    other = subprocess.run([sys.executable, "-c", DIGEST, feed], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(feed)


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(0, 9))
def test_fillers_are_full_and_leave_out_first_and_last_steps(lengths: list[int], update: int) -> None:
    made = Fillers(InMemory([*lengths, 6]), 4, seed=0)
    segments = made.draw(update, count=3, batch_size=5)
    assert len(segments) == 3
    for segment in segments:
        assert segment.lengths.tolist() == [4] * 5
        for lane in range(5):
            seen = steps(segment, lane)
            number, first = seen[0]
            assert seen == [[number, first + offset] for offset in range(4)]
            assert first > 0
            assert first + 4 < [*lengths, 6][number]


def test_fillers_reach_every_place_that_is_allowed() -> None:
    made = Fillers(InMemory([7, 6, 3]), 4, seed=0)
    drawn = {tuple(steps(part, lane)[0]) for part in made.draw(0, 20, 5) for lane in range(5)}
    assert drawn == {(0, 1), (0, 2), (1, 1)}
    assert made.draw(0, 0, 5) == ()


def test_fillers_are_of_steps_that_the_task_calls_idle() -> None:
    class Declared(InMemory):
        def episode(self, index: int) -> Trajectory:
            whole = super().episode(index)
            return replace(whole, idle=np.arange(len(whole)) % 7 > 1)

    made = Fillers(Declared([20, 9, 3]), 4, seed=0)
    drawn = {tuple(steps(part, lane)[0]) for part in made.draw(0, 20, 5) for lane in range(5)}
    assert drawn == {(0, 2), (0, 3), (0, 9), (0, 10), (0, 16), (1, 2), (1, 3)}


def test_fillers_say_when_no_episode_is_long_enough() -> None:
    with pytest.raises(UsageError, match=r"segment_length is 4, but no episode \(the longest has 5 steps\)"):
        Fillers(InMemory([2, 5]), 4, seed=0).draw(0, 1, 1)


def test_episodes_that_are_never_read_to_their_end_are_told() -> None:
    told = feed_of([3, 12, 13, 41], segments=3).unread()
    assert told is not None
    assert told.startswith("2 of 4 episodes have more steps (up to 41) than the 12 that an update reads (segments=3 ")
    assert told.endswith("give --segments 11, or --feed windows or streams")
    assert feed_of([3, 12, 13, 41], segments=11).unread() is None
    assert [feed_of([3, 41], feed).unread() for feed in ("windows", "streams")] == [None, None]


@pytest.mark.parametrize("feed", FEEDS)
def test_fewer_episodes_than_lanes_fill_a_batch_by_repetition(feed: str) -> None:
    made = feed_of([5, 9], feed, batch_size=7, bucket_batches=4)
    batches = [made.batch(update) for update in range(4)]
    assert all(batch.fresh.shape == (7,) for batch in batches)
    assert {number for batch in batches for lane in range(7) for number, _ in lane_steps(batch, lane)} == {0, 1}


def test_sorting_by_length_leaves_less_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 90, 2000).tolist()
    padding = {}
    for bucket_batches in (1, 4, 8, 16):
        made = feed_of(lengths, segment_length=30, batch_size=64, bucket_batches=bucket_batches)
        batches = [made.batch(update) for update in range(32)]
        real = sum(int(segment.mask.sum()) for batch in batches for segment in batch.segments)
        computed = sum(segment.mask.numel() for batch in batches for segment in batch.segments)
        assert real == sum(batch.steps for batch in batches)
        padding[bucket_batches] = 1 - real / computed
    assert padding[1] > 0.4
    assert padding[8] < 0.12
    assert padding[1] > padding[4] > padding[8] > padding[16]


@pytest.mark.parametrize(("segment_length", "seed", "message"), [(0, 0, "segment_length is 0"), (4, -1, "seed is -1")])
def test_values_out_of_range_are_named(segment_length: int, seed: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        feed_of([5], segment_length=segment_length, seed=seed)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("rows", [slice(0, None, 3), slice(2, None, 3)])
def test_a_share_of_a_batch_is_that_of_the_whole(feed: str, rows: slice) -> None:
    options = {"burn_in": 2} if feed == "windows" else {}
    lengths = list(range(1, 60, 3))
    whole, own = (feed_of(lengths, feed, **options) for _ in range(2))
    own.rows = rows
    for update in range(12):
        drawn, batch = own.batch(update), whole.batch(update)
        wanted = batch.select(torch.arange(4)[rows])
        assert equal(drawn, wanted)
        assert drawn.steps == batch.steps
        assert [segment.full for segment in drawn.segments] == [segment.full for segment in batch.segments]


def test_a_share_of_fillers_is_that_of_the_whole() -> None:
    made = Fillers(InMemory([7, 6, 30]), 4, seed=0)
    for whole, own in zip(made.draw(3, 2, 5), made.draw(3, 2, 5, slice(1, None, 2)), strict=True):
        assert torch.equal(whole.returns_to_go[1::2], own.returns_to_go)
