import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rmt_rl.data.feed import FeedConfig, make_feed
from rmt_rl.data.segment import cut
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.trees import map_leaves
from tests.data.episodes import ACTIONS, SPACE, episode, tree_episode, write


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def buffer(trajectory: Trajectory) -> minari.data_collector.EpisodeBuffer:
    """As Minari's own writers take it."""
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    return minari.data_collector.EpisodeBuffer(**{name: getattr(trajectory, name) for name in names})


def write_trees(dataset_id: str, episodes: list[Trajectory]) -> None:
    write_dataset(
        dataset_id,
        episodes,
        env_spec=EnvSpec("Trees-v0", entry_point="trees:Trees", kwargs={"height": 3}),
        observation_space=SPACE,
        action_space=ACTIONS,
        algorithm_name="counting",
        description="Trees.",
        ref_min_score=-1.5,
        ref_max_score=10.0,
        metadata={"source": "tests"},
    )


def data_file(root: Path, dataset_id: str) -> Path:
    return root / dataset_id / "data" / "main_data.hdf5"


@contextmanager
def changed(root: Path, dataset_id: str) -> Iterator[h5py.File]:
    """Yield the file of a data set, to change it some time after it was written."""
    path = data_file(root, dataset_id)
    with h5py.File(path, "a") as file:
        yield file
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))


def test_what_was_written_is_read_back_exactly() -> None:
    written = [tree_episode(number, length) for number, length in enumerate([3, 1, 6])]
    write_trees("wood/trees-v0", written)
    store = EpisodeStore("wood/trees-v0")
    assert store.lengths.tolist() == [3, 1, 6]
    assert (store.observation_space, store.action_space) == (SPACE, ACTIONS)
    assert store.env_spec is not None
    assert store.env_spec.kwargs == {"height": 3}
    for number, trajectory in enumerate(written):
        read: Any = store.episode(number)
        wanted: Any = trajectory
        assert isinstance(read.actions, tuple)
        for one, other in [
            *((read.observations[key], wanted.observations[key]) for key in ("image", "place")),
            *zip(read.actions, wanted.actions, strict=True),
            *((getattr(read, key), getattr(wanted, key)) for key in ("rewards", "terminations", "truncations")),
        ]:
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_plain_minari_lists_and_loads_it_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_trees("wood/deep/trees-v0", [tree_episode(0, 3)])
        write("count-v2", [episode(number, 4) for number in range(3)])
        listed = minari.list_local_datasets()
        loaded = minari.load_dataset("wood/deep/trees-v0")
    assert list(listed) == ["count-v2", "wood/deep/trees-v0"]
    assert loaded.total_steps == 3
    assert loaded.storage.metadata["source"] == "tests"
    assert minari.get_normalized_score(loaded, np.array([10.0])) == 1
    assert minari.namespace.list_local_namespaces() == ["wood", os.path.join("wood", "deep")]
    assert next(iter(loaded.storage.get_episode_metadata([0])))["total_steps"] == 3


def test_it_names_no_address_and_minari_shows_it() -> None:
    write_trees("wood/trees-v0", [tree_episode(0, 3)])
    facts = minari.load_dataset("wood/trees-v0").storage.metadata
    assert facts["author"] == {"rmt-rl"}
    assert facts.keys().isdisjoint({"author_email", "code_permalink"})
    minari_command = Path(sys.executable).with_name("minari")
    done = subprocess.run([minari_command, "show", "wood/trees-v0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Total Episodes" in done.stdout
    assert "@" not in done.stdout


def test_several_data_sets_are_one_after_another() -> None:
    write("a-v0", [episode(0, 3), episode(1, 5)])
    write("b-v0", [episode(7, 4)])
    store = EpisodeStore(["a-v0", "b-v0", "a-v0"])
    assert store.lengths.tolist() == [3, 5, 4, 3, 5]
    assert [store.episode(index).seed for index in range(5)] == [0, 1, 7, 0, 1]


def test_largest_returns_of_our_data_and_of_others() -> None:
    def rewarded(rewards: list[float]) -> Trajectory:
        made = episode(0, len(rewards))
        return Trajectory(made.observations, made.actions, np.array(rewards), made.terminations, made.truncations)

    write("a-v0", [rewarded([1.0, -5.0]), rewarded([0.5, 0.25])])
    store = EpisodeStore("a-v0")
    assert (store.max_return, store.best_return) == (5.0, 0.75)
    foreign = minari.load_dataset("a-v0")
    with warnings.catch_warnings(action="ignore"):  # of facts left out
        minari.create_dataset_from_buffers(
            "b-v0",
            [buffer(episode(0, 3))],
            observation_space=foreign.observation_space,
            action_space=foreign.action_space,
        )
    store = EpisodeStore(["a-v0", "b-v0"])
    assert (store.max_return, store.best_return) == (6.0, 6.0)


def test_the_note_of_returns_is_not_trusted_after_episodes_were_added() -> None:
    write("a-v0", [episode(0, 2)])
    added = buffer(episode(0, 4))
    minari.load_dataset("a-v0").update_dataset_from_buffer([added])
    assert EpisodeStore("a-v0").best_return == 10


def test_reading_stays_within_the_cache() -> None:
    write("long-v0", [episode(number, 5_000) for number in range(12)])
    size = episode(0, 5_000).nbytes
    gc.collect()
    tracemalloc.start()
    store = EpisodeStore("long-v0", cache_bytes=3 * size + size // 2)
    before = tracemalloc.get_traced_memory()[0] - store.cached_bytes
    for index in [*range(12), *range(12)]:
        number = store.episode(index).seed
        assert number == index
        assert store.cached_bytes <= 3 * size + size // 2
        assert tracemalloc.get_traced_memory()[0] - before < 4 * size
    tracemalloc.stop()
    assert store.cached_bytes > 3 * size


def test_a_cached_episode_is_not_read_again_and_the_least_used_goes_first() -> None:
    write("a-v0", [episode(number, 100) for number in range(3)])
    store = EpisodeStore("a-v0", cache_bytes=2 * episode(0, 100).nbytes + 4000)
    zero, _ = store.episode(0), store.episode(1)
    assert store.episode(0) is zero
    store.episode(2)
    assert store.episode(0) is zero
    assert store.cached_bytes <= 2 * episode(0, 100).nbytes + 4000


def test_an_episode_larger_than_the_cache_is_read_all_the_same() -> None:
    write("a-v0", [episode(number, 100) for number in range(3)])
    store = EpisodeStore("a-v0", cache_bytes=100)
    assert [store.episode(index).seed for index in (2, 1)] == [2, 1]
    assert store.cached_bytes == 0


def test_a_feed_draws_from_a_store_too_small_to_hold_it() -> None:
    write("a-v0", [episode(number, 9 + number) for number in range(20)])
    config = FeedConfig(feed="windows", segments=2, batch_size=4)
    whole, scarce = (make_feed(EpisodeStore("a-v0", cache_bytes=size), config, 3, 0) for size in (1 << 20, 3000))
    for update in range(4):
        one, other = whole.batch(update).segments[0], scarce.batch(update).segments[0]
        assert (one.returns_to_go == other.returns_to_go).all()


LONG = 400  # steps of `tree_episode` that are too many bytes to be read whole, where the cache is small


def same(one: Any, other: Any) -> bool:
    """Return True if two values are equal, dtypes included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one.dtype == other.dtype and np.array_equal(one, other)


def assert_parts_are_those_of_the_whole(dataset_id: str) -> None:
    whole, scarce = EpisodeStore(dataset_id), EpisodeStore(dataset_id, cache_bytes=1 << 20)
    for start, stop in [(0, 1), (0, LONG), (7, 30), (LONG - 5, LONG), (LONG - 1, LONG)]:
        part = scarce.span(1, start, stop)
        assert (part.start, part.stop, len(part.trajectory)) == (0, stop - start, stop - start)
        (wanted,), (segment,) = cut([whole.span(1, start, stop)], LONG), cut([part], LONG)
        for name in ("observations", "actions", "returns_to_go", "lengths"):
            one, other = (map_leaves(torch.Tensor.numpy, getattr(each, name)) for each in (segment, wanted))
            assert same(one, other), name
        assert same(part.trajectory.terminations, whole.episode(1).terminations[start:stop])


def test_parts_of_a_long_episode_are_those_of_the_whole(root: Path) -> None:
    uneven = np.random.default_rng(0).normal(size=LONG)  # sums depend on their order
    write_trees("a-v0", [replace(tree_episode(number, LONG), rewards=uneven) for number in range(3)])
    assert_parts_are_those_of_the_whole("a-v0")
    with h5py.File(data_file(root, "a-v0")) as file:
        chunks = file["episode_1/observations/image"].chunks
    assert chunks[1:] == (32, 32, 3), "chunks of whole steps"
    assert chunks[0] < 30


def test_parts_of_others_data_with_jpeg_images_are_those_of_the_whole() -> None:
    smooth = np.linspace(0, 255, LONG + 1).astype(np.uint8)[:, None, None, None]
    image = np.broadcast_to(smooth, (LONG + 1, 32, 32, 3))
    places = [tree_episode(number, LONG) for number in range(3)]
    buffers = [buffer(replace(one, observations=one.observations | {"image": image})) for one in places]  # type: ignore[operator]
    with warnings.catch_warnings(action="ignore"):  # of facts left out
        minari.create_dataset_from_buffers("a-v0", buffers, observation_space=SPACE, action_space=ACTIONS)
    assert minari.load_dataset("a-v0").storage.jpeg_encoding
    assert_parts_are_those_of_the_whole("a-v0")
    (theirs,) = minari.load_dataset("a-v0").storage.get_episodes([1])
    assert same(EpisodeStore("a-v0").episode(1).observations, theirs["observations"])


def peak_of(read: Callable[[], Any]) -> int:
    """The most bytes that it takes."""
    gc.collect()
    tracemalloc.start()
    read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("feed", ["windows", "streams"])
def test_a_batch_of_a_long_episode_costs_no_more_than_its_steps(feed: Any) -> None:
    write_trees("a-v0", [tree_episode(number, 2000) for number in range(3)])  # 6 MB each
    config = FeedConfig(feed=feed, segments=2, batch_size=8)
    batch = 8 * 2 * 10 * 32 * 32 * 3
    assert peak_of(lambda: make_feed(EpisodeStore("a-v0", cache_bytes=1 << 20), config, 10, 0).batch(3)) < 3 * batch


def test_the_returns_of_others_data_cost_no_observations() -> None:
    with warnings.catch_warnings(action="ignore"):  # of facts left out
        buffers = [buffer(tree_episode(number, LONG)) for number in range(3)]
        minari.create_dataset_from_buffers("a-v0", buffers, observation_space=SPACE, action_space=ACTIONS)
    store = EpisodeStore("a-v0", cache_bytes=1 << 20)
    assert peak_of(lambda: store.max_return) < LONG * 32 * 32
    assert store.max_return == LONG * (LONG + 1) / 2


def test_what_annotates_sees_whole_episodes() -> None:
    def annotate(trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, hindsight=np.full(len(trajectory), len(trajectory)))

    write_trees("a-v0", [tree_episode(number, LONG) for number in range(3)])
    span = EpisodeStore("a-v0", cache_bytes=1 << 20, annotate=annotate).span(2, 5, 9)
    (segment,) = cut([span], 4)
    assert segment.hindsight is not None
    assert segment.hindsight.tolist() == [[LONG] * 4]
    assert isinstance(segment.actions, tuple)
    assert torch.equal(segment.actions[0], torch.tensor([[2, 3, 4, 1]]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("terminations", True, r"the episode ends at step 101 of 400$"),
        ("rewards", np.inf, r"rewards is not finite at step 101: inf$"),
    ],
)
@pytest.mark.parametrize("cache_bytes", [1 << 20, 1 << 30])
def test_an_odd_long_episode_is_left_out(root: Path, column: str, value: float, message: str, cache_bytes: int) -> None:
    write_trees("a-v0", [tree_episode(number, LONG) for number in range(3)])
    with changed(root, "a-v0") as file:
        file["episode_1"][column][101] = value
    with pytest.warns(UserWarning, match=f"'a-v0': 1 of 3 episodes is left out; episode 1: {message}"):
        store = EpisodeStore("a-v0", cache_bytes)
    assert len(store) == 2
    span = store.span(1, 90, 110)
    assert span.trajectory.rewards[span.start] == 91


def test_nan_in_a_long_episode_is_named_when_it_is_read(root: Path) -> None:
    write_trees("a-v0", [tree_episode(number, LONG) for number in range(3)])
    with changed(root, "a-v0") as file:
        file["episode_1/observations/place"][101] = np.nan
    store = EpisodeStore("a-v0", cache_bytes=1 << 20)
    store.span(0, 90, 110)
    named = "data set 'a-v0', episode 1 from step 90: observations.place is not finite at step 11"
    with pytest.raises(UsageError, match=named):
        store.span(1, 90, 110)
    with pytest.warns(UserWarning, match="1 of 3 episodes is left out; episode 1: observations.place is not finite"):
        assert len(EpisodeStore("a-v0")) == 2, "all data fit into the cache, so all are read before the run"


@pytest.mark.parametrize(("column", "more"), [("observations/image", 1), ("actions/_index_1", 0), ("rewards", 0)])
@pytest.mark.parametrize("length", [LONG, 5])
def test_an_episode_with_a_column_of_another_length_is_left_out(
    root: Path, column: str, more: int, length: int
) -> None:
    write_trees("a-v0", [tree_episode(number, length) for number in range(3)])
    with changed(root, "a-v0") as file:
        file["episode_1"][column].resize(length + 7, axis=0)
    wanted = rf"episode 1: /episode_1/{column} has {length + 7} entries, not {length + more}"
    with pytest.warns(UserWarning, match=wanted):
        assert len(EpisodeStore("a-v0", cache_bytes=1 << 20)) == 2


def empty(group: h5py.Group) -> None:
    """Leave an episode with its first observation alone."""
    for name in ("actions", "rewards", "terminations", "truncations"):
        group[name].resize(0, axis=0)
    group["observations"].resize(1, axis=0)
    group.attrs["total_steps"] = 0


def without_action(group: h5py.Group) -> None:
    del group["actions"]


def without_length(group: h5py.Group) -> None:
    del group.attrs["total_steps"]


ODD: dict[Callable[[h5py.Group], None], str] = {
    empty: "it has no step",
    without_action: "it has no actions",
    without_length: "its number of steps is None",
}


def test_seeds_that_are_no_numbers_are_unknown(root: Path) -> None:
    write("a-v0", [episode(number, 4) for number in range(3)])
    with changed(root, "a-v0") as file:
        for number, seed in enumerate(("None", h5py.Empty("f"), np.uint64(7))):
            file[f"episode_{number}"].attrs["seed"] = seed
    store = EpisodeStore("a-v0")
    assert [store.episode(index).seed for index in range(3)] == [None, None, 7]


@pytest.mark.parametrize("spoil", ODD)
def test_odd_episodes_are_left_out_and_indices_close_up(root: Path, spoil: Callable[[h5py.Group], None]) -> None:
    write("a-v0", [episode(number, 4) for number in range(5)])
    write("b-v0", [episode(number, 6) for number in range(10, 12)])
    with changed(root, "a-v0") as file:
        for number in (0, 3):
            spoil(file[f"episode_{number}"])
    with pytest.warns(UserWarning, match=f"'a-v0': 2 of 5 episodes are left out; episode 0: {ODD[spoil]}$"):
        store = EpisodeStore(["a-v0", "b-v0"])
    assert store.lengths.tolist() == [4, 4, 4, 6, 6]
    assert [store.episode(index).seed for index in range(5)] == [1, 2, 4, 10, 11]
    assert store.best_return == 21
    with pytest.raises(UsageError, match=f"2 of 5 episodes can't be learnt from, and strict=True.*{ODD[spoil]}"):
        EpisodeStore(["a-v0", "b-v0"], strict=True)


def test_a_data_set_of_odd_episodes_alone_is_named(root: Path) -> None:
    write("a-v0", [episode(number, 4) for number in range(3)])
    with changed(root, "a-v0") as file:
        for name in file:
            empty(file[name])
    with pytest.raises(UsageError, match="none of its 3 episodes can be learnt from; episode 0: it has no step"):
        EpisodeStore("a-v0")


def broken(error: Exception) -> Iterator[Trajectory]:
    yield from (episode(number, 5) for number in range(3))
    raise error


@pytest.mark.parametrize("error", [ZeroDivisionError("in the expert"), UsageError("no")])
def test_an_interrupted_write_leaves_nothing(root: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        write("wood/half-v0", broken(error))
    assert raised.value is error
    assert list(root.rglob("*.hdf5")) == []
    assert minari.list_local_datasets() == {}
    write("wood/half-v0", [episode(0, 5)])
    assert list(minari.list_local_datasets()) == ["wood/half-v0"]


KILLED = """
import os
from tests.data.episodes import episode, write
def episodes():
    for number in range(200):
        if number == 150:
            os._exit(9)
        yield episode(number, 5)
write("wood/half-v0", episodes())
"""


def test_a_killed_write_leaves_nothing_that_minari_lists() -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode == 9
    assert minari.list_local_datasets() == {}
    with pytest.raises(UsageError, match="is not below"):
        EpisodeStore("wood/half-v0")
    write("wood/half-v0", [episode(0, 5)])
    assert EpisodeStore("wood/half-v0").lengths.tolist() == [5]


@pytest.mark.filterwarnings("ignore:data set 'a-v0' is being made")
def test_of_two_writers_the_second_waits_and_finds_the_data_set_there() -> None:
    def slow() -> Iterator[Trajectory]:
        other.start()
        time.sleep(0.5)
        yield episode(1, 5)

    def write_too() -> None:
        with pytest.raises(UsageError, match="exists already") as caught:
            write("a-v0", [episode(0, 3)])
        errors.append(caught.value)

    errors: list[BaseException] = []
    other = threading.Thread(target=write_too)
    write("a-v0", slow())
    other.join()
    assert errors
    assert EpisodeStore("a-v0").lengths.tolist() == [5]


def test_a_disk_with_too_little_room_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmt_rl.data.writing._RESERVE_BYTES", 1 << 62)
    with pytest.raises(UsageError, match=r"can't write data set 'a-v0' below .*No space left.*free space"):
        write("a-v0", [episode(0, 3)])
    assert list(root.iterdir()) == []


def test_a_root_that_is_a_file_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root / "file" / "below"))
    for use in (lambda: write("a-v0", [episode(0, 3)]), lambda: EpisodeStore("a-v0")):
        with pytest.raises(UsageError, match=r"MINARI_DATASETS_PATH is '.*/file/below'.*\(Not a directory\)"):
            use()


@pytest.mark.parametrize("dataset_id", ["noversion", "a b-v0", "", "/a-v0"])
def test_a_malformed_id_is_named(dataset_id: str) -> None:
    with pytest.raises(UsageError, match="malformed"):
        write(dataset_id, [episode(0, 3)])


def test_bad_writes_are_named() -> None:
    with pytest.raises(UsageError, match="no episode to write"):
        write("a-v0", [])
    with pytest.raises(UsageError, match="observations holds the keys"):
        write("a-v0", [tree_episode(0, 3)])
    write("a-v0", [episode(0, 3)])
    with pytest.raises(UsageError, match="exists already"):
        write("a-v0", [episode(0, 3)])


def test_a_spec_that_json_cannot_hold_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"env_spec can't be stored .*entry_point like 'module:Class'"):
        write_dataset(
            "a-v0",
            [episode(0, 3)],
            env_spec=EnvSpec("Trees-v0", entry_point=lambda: None),  # type: ignore[arg-type]
            observation_space=SPACE,
            action_space=ACTIONS,
            algorithm_name="counting",
            description="Trees.",
        )
    assert list(root.iterdir()) == []


def test_a_missing_data_set_names_the_nearest() -> None:
    write("wood/trees-v0", [episode(0, 3)])
    with pytest.raises(UsageError, match=r"'wood/tree-v0' is not below .*did you mean 'wood/trees-v0'.*rmt-rl collect"):
        EpisodeStore("wood/tree-v0")
    with pytest.raises(UsageError, match="or fetch it with `minari download D4RL/door/human-v2`"):
        EpisodeStore("D4RL/door/human-v2")
    with pytest.raises(UsageError, match="or give its version too, as in namespace/name-v0"):
        EpisodeStore("D4RL/door/human")
    with pytest.raises(UsageError, match="no id was given"):
        EpisodeStore([])


def test_an_empty_data_set_is_named(root: Path) -> None:
    (root / "empty-v0").mkdir()
    storage = minari.dataset.minari_storage.MinariStorage.new(
        root / "empty-v0" / "data", spaces.Box(0, 1, (2,)), spaces.Discrete(2)
    )
    storage.update_metadata({"dataset_id": "empty-v0", "minari_version": minari.__version__})
    with pytest.raises(UsageError, match="'empty-v0' is empty"):
        EpisodeStore("empty-v0")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(root: Path, keep: float) -> None:
    write("a-v0", [episode(number, 30) for number in range(20)])
    file = data_file(root, "a-v0")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UsageError, match=rf"'a-v0'.* is damaged .*remove {root}/a-v0 and collect or download it"):
        EpisodeStore("a-v0")


@pytest.mark.parametrize("content", ["", "{}", '{"dataset_id": "a-v0"}'])
def test_damaged_metadata_are_named(root: Path, content: str) -> None:
    write("a-v0", [episode(0, 3)])
    (root / "a-v0" / "data" / "metadata.json").write_text(content)
    with pytest.raises(UsageError, match="'a-v0' is damaged"):
        EpisodeStore("a-v0")


def test_a_file_that_lost_its_episodes_is_named(root: Path) -> None:
    write("a-v0", [episode(number, 3) for number in range(5)])
    write("b-v0", [episode(number, 3) for number in range(2)])
    data_file(root, "b-v0").replace(data_file(root, "a-v0"))
    with pytest.raises(UsageError, match=r"'a-v0' is damaged .*episode_2"):
        EpisodeStore("a-v0")


def test_differing_spaces_are_named() -> None:
    write("a-v0", [episode(0, 3)])
    write_trees("b-v0", [tree_episode(0, 3)])
    with pytest.raises(UsageError, match=r"'a-v0' has observation_space .*, but data set 'b-v0' has"):
        EpisodeStore(["a-v0", "b-v0"])
