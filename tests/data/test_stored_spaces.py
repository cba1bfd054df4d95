"""Spaces of data sets: ours keep what Minari loses, and Minari reads them; those of Minari and of others are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from tests.random_spaces import Space, assert_same_space

VECTOR = spaces.Box(-1, 1, (2,), np.float32)
ARM = spaces.Dict(
    [
        ("walker/height", VECTOR),
        ("", spaces.Discrete(3, start=-1, dtype=np.int8)),
        (".", spaces.Tuple((spaces.Dict({}), spaces.Box(-1, 1, (3, 0))))),
        ("walker", spaces.MultiDiscrete(np.array([2, 200]), np.uint8, start=np.array([1, 50]))),
    ]
)
LEFT = spaces.Discrete(3, start=5, dtype=np.int32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def arm_values(steps: int) -> Any:
    return {
        "walker/height": np.arange(2 * steps, dtype=np.float32).reshape(steps, 2) / 100,
        "": np.arange(steps) % 3 - 1,
        ".": ({}, np.zeros((steps, 3, 0), np.float32)),
        "walker": np.stack([1 + np.arange(steps) % 2, 249 - np.arange(steps)], 1),
    }


def write(observations: Space = ARM, actions: Space = LEFT, values: Any = None) -> None:
    ends = np.array([False, False, True])
    episode = Trajectory(
        arm_values(4) if values is None else values, np.array([5, 7, 6]), np.ones(3), ends, ~ends & False
    )
    write_dataset(
        "lab/arm-v0",
        [episode],
        env_spec=None,
        observation_space=observations,
        action_space=actions,
        algorithm_name="hand",
        description="Steps of an arm.",
    )


def test_a_data_set_keeps_its_spaces_and_values() -> None:
    write()
    store = EpisodeStore("lab/arm-v0")
    assert_same_space(store.observation_space, ARM)
    assert_same_space(store.action_space, LEFT)
    read = store.episode(0)
    np.testing.assert_equal(read.observations, arm_values(4))
    assert isinstance(read.observations, dict)
    assert list(read.observations) == list(ARM)
    assert isinstance(read.actions, np.ndarray)
    assert read.actions.dtype == np.int32
    part = store.span(0, 1, 2).trajectory
    assert isinstance(part.observations, dict)


def test_minari_reads_it_with_escaped_keys() -> None:
    write()
    dataset = minari.load_dataset("lab/arm-v0")
    names = {"walker%2Fheight", "%empty", "%2E", "walker"}
    assert set(dataset.observation_space.spaces) == names
    (episode,) = dataset.iterate_episodes()
    assert set(episode.observations) == names
    np.testing.assert_array_equal(episode.observations["walker"], arm_values(4)["walker"])
    assert episode.observations["%2E"][1].shape == (4, 3, 0)


def theirs(observations: Space, actions: Space, values: Any, acted: Any) -> None:
    """Write a data set as Minari does."""
    folder = Path(minari.storage.get_dataset_path()) / "lab/theirs-v0" / "data"
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, observations, actions, jpeg_encoding=False)
    ends = [False, False, True]
    storage.update_episodes(
        [
            EpisodeBuffer(
                observations=values, actions=acted, rewards=[1.0] * 3, terminations=ends, truncations=[False] * 3
            )
        ]
    )
    storage.update_metadata({"dataset_id": "lab/theirs-v0", "minari_version": minari.__version__})


def test_keys_with_slashes_as_minari_writes_them() -> None:
    """Minari itself can't read them back."""
    space = spaces.Dict({"walker/height": VECTOR, "walker/at/x": spaces.Discrete(9), "%41": VECTOR})
    rows = np.arange(8, dtype=np.float32).reshape(4, 2) / 10
    theirs(space, LEFT, {"walker/height": rows, "walker/at/x": np.arange(4), "%41": rows}, np.array([5, 6, 7]))
    store = EpisodeStore("lab/theirs-v0")
    assert store.observation_space == space
    read: Any = store.episode(0).observations
    np.testing.assert_array_equal(read["walker/height"], rows)
    np.testing.assert_array_equal(read["walker/at/x"], np.arange(4))


@pytest.mark.parametrize("dtype", [">i4", "u1", "i8", "u8", ">f4", ">f8", "f2"])
def test_arrays_of_other_dtypes_and_byte_orders(dtype: str) -> None:
    """Values that fit are taken, in the dtype of the space."""
    is_float = np.dtype(dtype).kind == "f"
    space = VECTOR if is_float else spaces.MultiDiscrete(np.array([9, 9]), np.int16)
    values = np.array([[0, 1]] * 4, dtype)
    theirs(space, spaces.Discrete(3), values, np.array([0, 1, 2], ">i4"))
    with h5py.File(Path(minari.storage.get_dataset_path(), "lab/theirs-v0/data/main_data.hdf5")) as file:
        assert file["episode_0/observations"].dtype == np.dtype(dtype)
    read: Any = EpisodeStore("lab/theirs-v0").episode(0)
    assert (read.observations.dtype, read.actions.dtype) == (space.dtype, np.int64)
    np.testing.assert_array_equal(read.observations, values)


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (spaces.Box(-1, 1, (0, 3)), r"observation_space=Box\(.*can't be stored"),
        (spaces.Sequence(VECTOR), r"observation_space=Sequence\(.*can't be stored"),
        (spaces.Dict(a=spaces.Dict({})), "observation_space=.* has no part"),
    ],
)
def test_what_cannot_be_stored_is_told_before_anything_is_written(
    folder: Path, observations: Space, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write(observations, values=np.zeros((4, 2)))
    assert not list(folder.iterdir())
