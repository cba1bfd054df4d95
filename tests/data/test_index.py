import json
import multiprocessing
import os
import pickle
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.data.index import INDEX_FILE
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from tests.data.episodes import episode, write

COUNT = 30  # episodes, of which an index's reader compares a few with the data


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def settle(folder: Path) -> None:
    """Let the data's file be an hour old, so that its time of change tells later changes."""
    path = folder / "main_data.hdf5"
    earlier = path.stat().st_mtime - 3600
    os.utime(path, (earlier, earlier))


def foreign(root: Path, name: str = "theirs-v0") -> Path:
    """Write a data set as Minari does, and return its folder; episode 7 has a reward that isn't finite."""
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    buffers = []
    for number in range(COUNT):
        made = episode(number, number % 5 + 2)
        buffers.append(minari.data_collector.EpisodeBuffer(**{each: getattr(made, each) for each in names}))
    with warnings.catch_warnings(action="ignore"):  # of facts left out
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=spaces.Box(-1e6, 1e6, (2,)), action_space=spaces.Discrete(5)
        )
    folder = root / name / "data"
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_7/rewards"][1] = np.nan
    settle(folder)
    return folder


def facts(name: str, cache_bytes: int = 1 << 30) -> tuple[list[int], list[int], float, float]:
    """Return what a store knows of a data set: lengths, numbers of the episodes, extremes of returns."""
    with warnings.catch_warnings(action="ignore"):  # of the odd episode
        store = EpisodeStore(name, cache_bytes)
    places = [np.asarray(store.episode(index).observations) for index in range(len(store))]
    numbers = [int(place[0, 0]) - 1 for place in places]
    return store.lengths.tolist(), numbers, store.max_return, store.best_return


def header_and_numbers(path: Path) -> tuple[dict[str, object], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    line, _, numbers = path.read_bytes().partition(b"\n")
    return json.loads(line), np.frombuffer(numbers, "<i8").copy()


def rewrite(path: Path, header: object, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    path.write_bytes(json.dumps(header).encode() + b"\n" + numbers.tobytes())


def test_our_data_sets_are_written_with_an_index(root: Path) -> None:
    write("ours-v0", [episode(number, number + 1) for number in range(COUNT)])
    header, numbers = header_and_numbers(root / "ours-v0" / "data" / INDEX_FILE)
    assert numbers.tolist() == list(range(1, COUNT + 1))
    assert header["screenings"] == {}
    written = (root / "ours-v0" / "data" / INDEX_FILE).read_bytes()
    lengths, found, *returns = facts("ours-v0")
    assert (lengths, found) == (numbers.tolist(), list(range(COUNT)))
    assert (root / "ours-v0" / "data" / INDEX_FILE).read_bytes() == written
    (root / "ours-v0" / "data" / INDEX_FILE).unlink()
    assert facts("ours-v0") == (lengths, found, *returns)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 1])
def test_data_sets_of_others_get_one_when_they_are_opened_first(root: Path, cache_bytes: int) -> None:
    folder = foreign(root)
    warned = "'theirs-v0': 1 of 30 episodes is left out; episode 7: rewards is not finite at step 1: nan"
    with pytest.warns(UserWarning, match=warned):
        EpisodeStore("theirs-v0", cache_bytes)
    first = (folder / INDEX_FILE).read_bytes()
    with pytest.warns(UserWarning, match=warned):
        EpisodeStore("theirs-v0", cache_bytes)
    assert (folder / INDEX_FILE).read_bytes() == first
    known = facts("theirs-v0", cache_bytes)
    (folder / INDEX_FILE).unlink()
    assert facts("theirs-v0", cache_bytes) == known
    assert 7 not in known[1]


def test_a_search_of_outcomes_alone_does_not_stand_for_one_of_whole_episodes(root: Path) -> None:
    folder = foreign(root)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_11/observations"][3] = np.inf
    settle(folder)
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of 30"):
            assert len(EpisodeStore("theirs-v0", cache_bytes=1)) == COUNT - 1
        with pytest.warns(UserWarning, match="2 of 30"):
            assert len(EpisodeStore("theirs-v0")) == COUNT - 2
    assert len(header_and_numbers(folder / INDEX_FILE)[0]["screenings"]) == 2  # type: ignore[arg-type]


def test_an_index_of_data_that_were_changed_is_made_again(root: Path) -> None:
    folder = foreign(root)
    before = facts("theirs-v0")
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_7/rewards"][1] = 2.0
        file["episode_3/rewards"][0] = 1000.0
    assert 7 not in before[1]
    assert facts("theirs-v0")[1:] == (list(range(COUNT)), 1014.0, 1014.0)
    settle(folder)
    assert facts("theirs-v0")[1:] == (list(range(COUNT)), 1014.0, 1014.0)
    minari.load_dataset("theirs-v0").update_dataset_from_buffer(
        [minari.data_collector.EpisodeBuffer(**{k: v for k, v in vars(episode(40, 4)).items() if k in _COLUMNS})]
    )
    assert facts("theirs-v0")[1] == [*range(COUNT), 40]


_COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")


def other_format(path: Path) -> None:
    header, numbers = header_and_numbers(path)
    rewrite(path, header | {"format": 2}, numbers)


def replaced(content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(content)

    return change


def half_a_number(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def fewer(path: Path) -> None:
    header, numbers = header_and_numbers(path)
    rewrite(path, header, numbers[:-1])


def other_last_length(path: Path) -> None:
    header, numbers = header_and_numbers(path)
    numbers[-1] += 1
    rewrite(path, header, numbers)


def odd_screening(odd: list[int], returns: dict[str, object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        header, numbers = header_and_numbers(path)
        screening = {"odd": odd, "fault": "x", "returns": {"episodes": 28, "largest": 1.0, "best": 1.0} | returns}
        keys = header["screenings"]
        assert isinstance(keys, dict)
        rewrite(path, header | {"screenings": dict.fromkeys(keys, screening)}, numbers)

    return change


WRONG: dict[str, Callable[[Path], None]] = {
    "empty": replaced(b""),
    "noise": replaced(bytes(range(256)) * 40),
    "a list": replaced(b"[1]\n"),
    "deep": replaced(b"[" * 100_000),
    "half a number": half_a_number,
    "other format": other_format,
    "fewer": fewer,
    "other last length": other_last_length,
    "odd out of range": odd_screening([3, 10**9], {}),
    "odd twice": odd_screening([3, 3], {}),
    "too many returns": odd_screening([3, 4], {"episodes": 29}),
    "huge returns": odd_screening([3, 4], {"best": 1e300}),
    "no numbers": odd_screening([3, 4], {"best": "best"}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_index_that_does_not_hold_is_made_again(root: Path, wrong: str) -> None:
    folder = foreign(root)
    known = facts("theirs-v0")
    right = (folder / INDEX_FILE).read_bytes()
    WRONG[wrong](folder / INDEX_FILE)
    assert (folder / INDEX_FILE).read_bytes() != right
    assert facts("theirs-v0") == known
    assert (folder / INDEX_FILE).read_bytes() == right


def test_a_wrong_length_that_is_not_noticed_is_an_error_when_the_episode_is_read(root: Path) -> None:
    write("ours-v0", [episode(number, 5) for number in range(COUNT)])
    path = root / "ours-v0" / "data" / INDEX_FILE
    header, numbers = header_and_numbers(path)
    numbers[2] = 4
    rewrite(path, header, numbers)
    store = EpisodeStore("ours-v0")
    with pytest.raises(UsageError, match=r"'ours-v0', episode 2 is damaged \(/episode_2/observations has 6 .*not 5"):
        store.span(2, 0, 1)


def test_an_index_that_cannot_be_written_is_done_without(root: Path) -> None:
    folder = foreign(root)
    (folder / INDEX_FILE).mkdir()
    assert facts("theirs-v0") == facts("theirs-v0")
    assert list(folder.glob(".*")) == []


def test_nothing_is_written_outside_of_the_folder_of_data_sets(root: Path, tmp_path: Path) -> None:
    folder = foreign(root)
    outside = tmp_path / "outside"
    shutil.move(folder, outside)
    folder.symlink_to(outside)
    facts("theirs-v0")
    assert not (outside / INDEX_FILE).exists()


def test_two_at_once_write_the_same_index(root: Path) -> None:
    folder = foreign(root)
    found = []
    workers = [threading.Thread(target=lambda: found.append(facts("theirs-v0"))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [facts("theirs-v0")] * 2
    assert sorted(path.name for path in folder.iterdir()) == ["main_data.hdf5", "metadata.json", INDEX_FILE]


def test_a_store_reads_on_when_its_file_was_deleted(root: Path) -> None:
    write("ours-v0", [episode(number, 5) for number in range(3)])
    store = EpisodeStore("ours-v0")
    shutil.rmtree(root / "ours-v0")
    assert store.episode(2).seed == 2
    store.close()
    with pytest.raises(UsageError, match="'ours-v0', episode 1 can't be read: No such file"):
        store.episode(1)


def test_a_closed_store_lets_others_write_and_reads_again(root: Path) -> None:
    write("ours-v0", [episode(number, 5) for number in range(3)])
    store = EpisodeStore("ours-v0")
    store.close()
    with h5py.File(root / "ours-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_2/rewards"][0] = 7
    assert store.episode(2).rewards[0] == 7


def seed_of(store: EpisodeStore, index: int) -> int | None:
    return store.episode(index).seed


def test_a_pickled_store_opens_its_own_files() -> None:
    write("ours-v0", [episode(number, 5) for number in range(4)])
    store = EpisodeStore("ours-v0")
    assert pickle.loads(pickle.dumps(store)).episode(1).seed == 1
    assert store.episode(3).seed == 3


def test_a_forked_process_opens_files_of_its_own() -> None:
    def read(seeds: "multiprocessing.SimpleQueue[int | None]") -> None:
        seeds.put(store.episode(1).seed)

    write("ours-v0", [episode(number, 5) for number in range(4)])
    store = EpisodeStore("ours-v0", cache_bytes=1)
    context = multiprocessing.get_context("fork")
    seeds = context.SimpleQueue()
    child = context.Process(target=read, args=(seeds,))
    with warnings.catch_warnings(action="ignore"):  # of forking a process with threads
        child.start()
    child.join()
    assert child.exitcode == 0
    assert seeds.get() == 1
    assert store.episode(3).seed == 3
