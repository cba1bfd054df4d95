"""`rmt-rl import`: files of the described formats become data sets that are trained on; bad ones are told."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given, settings

from rmt_rl.cli import main
from rmt_rl.data.fitting import fitted
from rmt_rl.data.layout import Layout
from rmt_rl.data.opening import open_dataset
from rmt_rl.data.root import has_dataset
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.trees import Place, leaves, map_space, part_at
from tests.random_spaces import Space, discretes, draw_batch, observation_spaces

Columns = dict[str, Any]
TRAIN = "--updates 2 --batch-size 2 --eval-episodes 0 --accelerator cpu --logger jsonl --out run"
SMALL = "--agent.width 8 --agent.heads 2 --agent.layers 1 --agent.segment-length 4 --segments 2"


class Views(gymnasium.Env[Any, Any]):
    """Images of 8 x 8 pixels, six actions, 5 steps."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space: Space = spaces.Discrete(6)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 0.0, False, self.steps == 5, {}


class Parts(Views):
    """A Dict of a position and an image."""

    def __init__(self) -> None:
        super().__init__()
        position = spaces.Box(-1, 1, (2,), np.float32)
        image = self.observation_space
        self.observation_space = spaces.Dict(image=image, position=position)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return tmp_path


def imported(command: str) -> Any:
    """Import, train two updates on the result by its id alone, and return the data set."""
    assert main(["import", *command.split(), "--id", "me/it-v0"]) == 0
    modules = [word for word in command.split() if word.startswith(f"{__name__}:")]
    more = ["--import", *modules] if modules else []
    assert main(["train", "--dataset", "me/it-v0", "rate", *TRAIN.split(), *SMALL.split(), *more]) == 0
    return EpisodeStore("me/it-v0")


def metadata() -> dict[str, Any]:
    return dict(open_dataset("me/it-v0").storage.metadata)


# The formats


def test_files_of_rate(here: Path) -> None:
    """POPGym's parts of a Tuple are columns there; files are in the order of their numbers."""
    pytest.importorskip("popgym")
    for number in range(11):
        obs = np.stack([np.arange(104) % 2, np.arange(104) % 4], 1)
        reward = np.zeros(104)
        reward[-1] = number
        done = np.arange(104) == 103
        action = np.full(104, number % 4)
        np.savez(here / f"train_data_{number}.npz", obs=obs, action=action, reward=reward, done=done.astype(int))
    store = imported(f"rate {here} --env popgym --env.task autoencode --reference-episodes 2")
    returns = [float(store.episode(index).rewards.sum()) for index in range(11)]
    assert returns == list(range(11))
    first = store.episode(3)
    assert first.terminations[-1]
    assert first.actions.tolist() == [3] * 104
    np.testing.assert_array_equal(first.observations[1], [*np.arange(104) % 4, 3])
    facts = metadata()
    assert facts["ref_min_score"] < 0
    assert facts["ref_max_score"] == pytest.approx(1)  # the expert's, of this environment


def d4rl(ends: list[int], timeouts: list[int], rows: int = 12) -> Columns:
    """Return columns of Pendulum-v1 as D4RL's, in which the reward counts the rows."""
    observations = np.linspace(-1, 1, 3 * rows, dtype=np.float32).reshape(rows, 3)
    return {
        "observations": observations,
        "actions": np.full((rows, 1), 0.5, np.float32),
        "rewards": np.arange(rows, dtype=np.float32),
        "terminals": np.isin(np.arange(rows), ends),
        "timeouts": np.isin(np.arange(rows), timeouts),
    }


def write_hdf5(path: Path, columns: Columns) -> None:
    with h5py.File(path, "w") as file:
        for key, array in columns.items():
            file[key] = array


def test_files_of_d4rl(here: Path) -> None:
    columns = d4rl([3], [7])
    columns |= {"infos/qpos": np.zeros((12, 9)), "metadata/algorithm": np.bytes_(b"SAC")}
    write_hdf5(here / "a.hdf5", columns | {"next_observations": columns["observations"] + 0.25})
    store = imported("d4rl a.hdf5 --env Pendulum-v1 --reference-episodes 2 --algorithm sac")
    episodes = [store.episode(index) for index in range(3)]
    assert [each.rewards.tolist() for each in episodes] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [bool(each.terminations[-1]) for each in episodes] == [True, False, False]
    assert all(each.terminations[-1] != each.truncations[-1] for each in episodes)
    for index, each in enumerate(episodes):
        rows = columns["observations"][4 * index : 4 * index + 4]
        np.testing.assert_array_equal(each.observations[:-1], rows)
        np.testing.assert_array_equal(each.observations[-1], rows[-1] + 0.25)
    facts = metadata()
    assert facts["algorithm_name"] == "sac"
    assert facts["ref_min_score"] < facts["ref_max_score"] == 38  # without an expert, the best of the data


def test_d4rl_without_timeouts_is_cut_at_the_time_limit(here: Path) -> None:
    columns = d4rl([399], [], rows=500)
    del columns["timeouts"]
    write_hdf5(here / "a.h5", columns)
    store = imported("d4rl a.h5 --env Pendulum-v1 --reference-episodes 0")
    assert [len(store.episode(index)) for index in range(3)] == [200, 200, 100]
    assert "ref_min_score" not in metadata()


@pytest.mark.parametrize("one_hot", [True, False])
def test_files_of_memory_maze(here: Path, one_hot: bool) -> None:
    """Each row holds the action that led to its image; the first row's is none."""
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    chosen = np.array([0, 5, 4, 3, 2, 1])
    action = np.eye(6)[chosen] if one_hot else chosen
    if one_hot:
        action[0] = 0
    reward = np.array([0, 0, 1, 0, 0, 2.0])
    flags = {"terminal": np.zeros(6, bool), "reset": np.arange(6) == 0, "maze_layout": np.zeros((6, 9, 9))}
    for name in ("a-r3-0005.npz", "b-r3-0005.npz"):
        np.savez_compressed(here / name, image=image, action=action, reward=reward, **flags)
    store = imported(f"memory_maze a-r3-0005.npz b-r3-0005.npz --env {__name__}:Views --reference-episodes 0")
    episode = store.episode(1)
    np.testing.assert_array_equal(episode.observations, image)
    assert episode.actions.tolist() == [5, 4, 3, 2, 1]
    assert episode.rewards.tolist() == [0, 1, 0, 0, 2]
    assert episode.truncations[-1]


def test_any_file_by_a_stated_mapping(here: Path) -> None:
    """Parts of a Dict, channels first and from 0 to 1, numbers of episodes, columns in groups, another unit."""
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8))
    where = np.linspace(-1, 1, 14).reshape(7, 2)
    numbers = np.array([3, 3, 3, 8, 8, 8, 8])
    columns = {"obs/pixels": images / 255, "obs/where": where, "a": np.arange(7)[:, None] % 6, "r": np.ones((7, 1))}
    write_hdf5(here / "any.hdf5", columns | {"number": numbers, "cut": numbers * 0})
    roles = "observations.image=obs/pixels observations.position=obs/where actions=a rewards=r episodes=number"
    command = f"mapping any.hdf5 --map {roles} truncations=cut --env {__name__}:Parts --reference-episodes 0"
    scales = "--scale rewards=10"
    with pytest.raises(AssertionError):
        imported(f"{command} {scales}")  # the images aren't whole numbers
    write_hdf5(here / "any.hdf5", columns | {"obs/pixels": images, "number": numbers, "cut": numbers * 0})
    store = imported(f"{command} {scales}")
    episode = store.episode(1)
    np.testing.assert_array_equal(episode.observations["image"][:-1], np.moveaxis(images[3:], 1, -1))
    np.testing.assert_allclose(episode.observations["position"][:-1], where[3:])
    assert episode.rewards.tolist() == [10] * 4
    assert episode.actions.tolist() == [3, 4, 5, 0]


def test_images_from_0_to_1_are_scaled(here: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8))
    np.savez(here / "a.npz", obs=(image / 255).astype(np.float32), action=np.zeros(5, int), reward=np.ones(5))
    command = f"rate a.npz --env {__name__}:Views --scale observations=255 --reference-episodes 0"
    episode = imported(command).episode(0)
    np.testing.assert_array_equal(episode.observations[:-1], np.moveaxis(image, 1, -1))


def test_one_episode_is_in_memory_at_a_time(here: Path) -> None:
    steps, size = 100, 10_000  # 4 MB an episode, 120 MB in all
    with h5py.File(here / "large.hdf5", "w") as file:
        file.create_dataset("observations", (30 * steps, size), np.float32, fillvalue=1)
        file["actions"] = file["rewards"] = np.zeros(30 * steps)
        file["terminals"] = np.arange(30 * steps) % steps == steps - 1
    layout = Layout({"observations": "observations", "actions": "actions", "rewards": "rewards"})
    tracemalloc.start()
    count = sum(1 for _ in layout.mapped({"terminations": "terminals"}).episodes(here / "large.hdf5"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30
    assert peak < 5 * 4 * steps * size


# What is refused


class Danger:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def spoilt(**changes: Any) -> Callable[[Path], None]:
    """Return a function that writes a file with some columns changed, left out where they are None."""

    def write(path: Path) -> None:
        columns = {"obs": np.zeros((4, 3)), "action": np.zeros((4, 1)), "reward": np.zeros(4), "done": np.zeros(4)}
        columns["done"][-1] = 1
        kept = {key: array for key, array in (columns | changes).items() if array is not None}
        np.savez(path, **kept)

    return write


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing column": (spoilt(reward=None), "a.npz has no 'reward' .it has: obs, action, done.; name it by --map"),
    "other name": (spoilt(reward=None, rewards=np.zeros(4)), "did you mean 'rewards'"),
    "lengths": (spoilt(reward=np.zeros(5)), "a.npz: 'reward' has 5 rows, but a.npz: 'action' 4"),
    "many observations": (spoilt(obs=np.zeros((7, 3))), "a.npz: 'obs' has 7 rows"),
    "no step": (spoilt(**{key: np.zeros((0, 1)) for key in ("obs", "action", "reward", "done")}), "has no step"),
    "shape": (spoilt(obs=np.zeros((4, 5))), r"a.npz: observations has the shape \(5,\) a step"),
    "nan": (spoilt(obs=np.full((4, 3), np.nan)), "a.npz: observations is not finite at step 0: nan"),
    "nan reward": (spoilt(reward=np.full(4, np.nan)), "a.npz: rewards is not finite"),
    "outside": (spoilt(action=np.full((4, 1), 3.0)), "actions holds 3, which is not in Box.*--scale actions=FACTOR"),
    "far outside": (spoilt(obs=np.full((4, 3), 1e9)), "observations at step 0 holds 1e.09, far outside"),
    "flags": (spoilt(done=np.full(4, 2)), "a.npz: 'done' holds 2 at row 0; give 0 or 1"),
    "texts": (spoilt(obs=np.array(["a", "b", "c", "d"])), "a.npz: 'obs' is no column of numbers"),
    "scalar": (spoilt(reward=np.float64(3)), "a.npz: 'reward' is no column of numbers"),
    "pickled": (spoilt(obs=np.array([Danger()] * 4)), "a.npz: 'obs' can't be read .Object arrays cannot be loaded"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Danger())), "a.npz can't be read"),
    "one array": (lambda path: np.save(path.open("wb"), np.zeros(3)), "a.npz can't be read .File is not a zip file"),
    "cut off": (lambda path: path.write_bytes(b"PK\3\4nothing"), "a.npz can't be read"),
    "folder": (lambda path: path.mkdir(), "folder a.npz holds no file that ends in .npz, .hdf5, .h5"),
    "absent": (lambda path: None, "a.npz doesn't exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_with_one_line(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, message = BAD[name]
    good = here / "0.npz"
    spoilt()(good)
    write(here / "a.npz")
    command = "import rate 0.npz a.npz --env Pendulum-v1 --id me/it-v0 --reference-episodes 0"
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert not has_dataset("me/it-v0")
    assert not list(here.glob("data/.unfinished*"))
    assert not (here / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rate 0.npz --env Pendulum-v1 --id me", "dataset id 'me' is malformed"),
        ("rat 0.npz --env Pendulum-v1 --id me/it-v0", "unknown data format 'rat'"),
        ("rate 0.npz --id me/it-v0", "name a format, files or folders, and the environment"),
        ("rate --env Pendulum-v1 --id me/it-v0", "name a format, files or folders, and the environment"),
        ("rate 0.npz 0.npz --env Pendulum-v1 --id me/it-v0", "0.npz is named twice"),
        ("rate 0.npz --env Pendulum-v1 --id me/it-v0 --map rewads=r", "unknown role 'rewads' .*did you mean 'rewards'"),
        ("rate 0.npz --env Pendulum-v1 --id me/it-v0 --map rewards", "--map 'rewards': give it as ROLE=COLUMN"),
        ("mapping 0.npz --env Pendulum-v1 --id me/it-v0 --map actions=action", "there is no column for observations"),
        ("rate 0.npz --env Pendulum-v1 --id me/it-v0 --scale done=2", "--scale done: only observations, actions"),
        ("rate 0.npz --env Pendulum-v1 --id me/it-v0 --scale actions=x", "--scale actions=x: give a number other"),
        ("rate notes.txt --env Pendulum-v1 --id me/it-v0", "imported from files that end in .npz, .hdf5, .h5"),
    ],
)
def test_bad_options_end_with_one_line(
    options: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt()(here / "0.npz")
    (here / "notes.txt").write_text("notes")
    assert main(["import", *options.split(), "--reference-episodes", "0"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not has_dataset("me/it-v0")


def test_a_data_set_that_exists_is_left(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt()(here / "0.npz")
    command = ["import", "rate", "0.npz", "--env", "Pendulum-v1", "--id", "me/it-v0", "--reference-episodes", "0"]
    assert main(command) == 0
    assert main(command) == 2
    assert "data set 'me/it-v0' exists already; choose another --id" in capsys.readouterr().err


def test_unsorted_numbers_of_episodes_are_told(here: Path) -> None:
    numbers = np.array([1, 1, 2, 1])
    spoilt(number=numbers)(here / "a.npz")
    layout = Layout({"observations": "obs", "actions": "action", "rewards": "reward", "episodes": "number"})
    with pytest.raises(UsageError, match=r"a.npz: 'number' falls from 2 to 1 at row 3; sort the rows by episode"):
        list(layout.episodes(here / "a.npz"))


def test_hdf5_that_leads_elsewhere_is_refused(here: Path) -> None:
    write_hdf5(here / "other.hdf5", {"observations": np.zeros((4, 3))})
    columns = d4rl([], [])
    del columns["observations"]
    write_hdf5(here / "a.hdf5", columns)
    with h5py.File(here / "a.hdf5", "a") as file:
        file["observations"] = h5py.ExternalLink("other.hdf5", "/observations")
    assert main(["import", "d4rl", "a.hdf5", "--env", "Pendulum-v1", "--id", "me/it-v0"]) == 2
    assert not has_dataset("me/it-v0")


# Values of spaces


@given(observation_spaces(largest=1000, others=discretes()))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_what_gymnasium_flattens_comes_back(space: Space) -> None:
    parts = [part for _, part in leaves(space)]
    flat = [spaces.flatdim(part) for part in parts]
    assume(sum(flat) > 0)
    is_category = [isinstance(part, spaces.Discrete | spaces.MultiDiscrete) for part in parts]
    sizes = [int(np.prod(part.shape or ())) for part in parts]
    ambiguous = [category and size == plain for category, size, plain in zip(is_category, flat, sizes, strict=True)]
    assume(not any(ambiguous))  # of a single category there is nothing to tell
    values = draw_batch(space, 3)
    assume(all((np.abs(np.float64(leaf)) < 2**50).all() for _, leaf in leaves(values)))  # flattened values are floats
    try:
        rows: list[Any] = [spaces.flatten(space, one) for one in _rows(space, values, 3)]
    except IndexError:  # Gymnasium's, of categories in uint64
        return
    found = fitted(np.stack(rows), space, "observations")
    for place, _ in leaves(space):
        np.testing.assert_array_equal(part_at(found, place), part_at(values, place))


def _rows(space: Space, values: Any, count: int) -> list[Any]:
    """Return the single values of a batch."""
    rows = []
    for index in range(count):

        def value_at(place: Place, leaf: Space, index: int = index) -> Any:
            return part_at(values, place)[index]

        rows.append(map_space(value_at, space))
    return rows


@pytest.mark.parametrize(
    ("space", "given_shape"),
    [
        (spaces.Box(-1, 1, (2,)), (1, 2)),
        (spaces.Box(-1, 1, ()), (1,)),
        (spaces.Box(-1, 1, (1,)), ()),
        (spaces.Discrete(4), (1,)),
        (spaces.MultiDiscrete([3] * 5), (1, 5)),
        (spaces.MultiBinary((2, 2)), (4,)),
        (spaces.Box(-1, 1, (3, 4)), (12,)),
    ],
)
def test_dimensions_of_size_1_and_flattened_values_fit(space: Space, given_shape: tuple[int, ...]) -> None:
    values = draw_batch(space, 5)
    np.testing.assert_array_equal(fitted(values.reshape(5, *given_shape), space, "actions"), values)


@pytest.mark.parametrize(
    ("space", "values", "message"),
    [
        (spaces.Discrete(3), [[0, 1, 1]], r"at step 0 is \[0, 1, 1\], which is no one-hot vector of 3"),
        (spaces.Discrete(3), [0.5], "holds 0.5, but Discrete.3. has whole numbers"),
        (spaces.Discrete(3), [3], "holds 3, which is not in Discrete"),
        (
            spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2))),
            [[0, 0, 0]],
            "has 3 numbers a step; the space .* has 5",
        ),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.Discrete(2)), [[0, 0]], "has 2 numbers a step; the space .* has 5"),
        (spaces.Dict(a=spaces.Discrete(3)), {"b": [0]}, r"has the parts \['b'\]; the space asks for \['a'\]"),
        (spaces.Discrete(3), {"b": [0]}, r"has the parts \['b'\]; the space Discrete\(3\) has none"),
        (spaces.Box(0, 255, (2, 2, 3), np.uint8), np.zeros((1, 2, 3, 2)), r"the space Box.* asks for \(2, 2, 3\)"),
        (spaces.Discrete(3), [1j], "has dtype complex128; save numbers"),
    ],
)
def test_values_of_another_space_are_told(space: Space, values: Any, message: str) -> None:
    arrays = {key: np.array(each) for key, each in values.items()} if isinstance(values, dict) else np.array(values)
    with pytest.raises(UsageError, match=message):
        fitted(arrays, space, "values")
