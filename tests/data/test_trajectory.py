from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.data.trajectory import Trajectory, conform
from rmt_rl.errors import UsageError
from tests.data.episodes import ACTIONS, SPACE, episode, tree_episode

_ANY: Any = spaces  # Gymnasium's types of a Box leave bool out
BOOLS = _ANY.Box(0, 1, (2,), np.bool_)


def fields(length: int) -> dict[str, Any]:
    made = episode(0, length)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    return {name: np.array(getattr(made, name)) for name in names}


def test_returns_to_go_sum_the_rewards_from_each_step_on() -> None:
    assert episode(0, 3).returns_to_go.tolist() == [6, 5, 3]
    assert episode(0, 3).returns_to_go.dtype == np.float32
    assert replace(episode(0, 3), later=4.0).returns_to_go.tolist() == [10, 9, 7]


def test_returns_to_go_of_a_long_episode_keep_their_precision() -> None:
    length = 100_000
    changed = fields(length) | {"rewards": np.full(length, 0.1)}
    assert Trajectory(**changed).returns_to_go[0] == pytest.approx(length * 0.1, rel=1e-7)


def test_arrays_are_read_only_and_the_callers_stay_writeable() -> None:
    given = fields(4)
    made = Trajectory(**given)
    with pytest.raises(ValueError, match="read-only"):
        made.rewards[0] = 7
    given["rewards"][0] = 7


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("observations", np.zeros((4, 2)), "observations has 4 entries, not 5"),
        ("actions", {"arm": (np.zeros(4), np.zeros(3))}, r"actions.arm\[1\] has 3 entries, not 4"),
        ("actions", np.float32(1), "actions has no entries"),
        ("truncations", np.zeros(5), "truncations has 5 entries"),
        ("rewards", np.zeros((4, 1)), r"rewards has shape \(4, 1\)"),
        ("rewards", np.zeros(0), r"T >= 1"),
        ("rewards", np.array([0, np.nan, 0, 0]), "rewards is not finite at step 1"),
        ("observations", np.array([[0, 0]] * 3 + [[0, np.inf]] * 2), "observations is not finite at step 3"),
        ("truncations", np.array([False, True, False, False]), "ends at step 1"),
    ],
)
def test_a_malformed_episode_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Trajectory(**fields(4) | {field: value})


def test_conform_orders_keys_and_sets_dtypes_by_the_space() -> None:
    tree = tree_episode(3, 4)
    observations = conform(tree.observations, SPACE, "observations")
    assert isinstance(observations, dict)
    assert list(observations) == list(SPACE.spaces)


@pytest.mark.parametrize(
    ("array", "space"),
    [
        (np.array([1, 2], np.uint8), spaces.Discrete(5)),
        (np.array([1, 2]), spaces.Discrete(5, dtype=np.uint8)),
        (np.array([7, 8], ">i4"), spaces.Discrete(5, start=6, dtype=np.int8)),
        (np.array([255, 254], np.uint64), spaces.Discrete(2, start=254, dtype=np.uint8)),
        (np.array([[254, 9]]), spaces.MultiDiscrete(np.array([5, 9]), np.uint8, start=np.array([250, 5]))),
        (np.array([[True, False]]), spaces.MultiBinary(2)),
        (np.array([[0, 1]], np.int8), BOOLS),
        (np.array([[0, 255]]), spaces.Box(0, 255, (2,), np.uint8)),
        (np.array([[0.5, 1.5]], ">f8"), spaces.Box(0, 9, (2,), np.float16)),
        (np.array([[3, 4]], np.int32), spaces.Box(0, 9, (2,), np.float32)),
        (np.zeros((1, 3, 4))[:, ::-1, ::-2], spaces.Box(0, 9, (3, 2), np.float32)),
    ],
)
def test_conform_takes_other_dtypes_whose_values_fit(array: Any, space: spaces.Space[Any]) -> None:
    fitting = conform(array, space, "x")
    assert isinstance(fitting, np.ndarray)
    assert fitting.dtype == space.dtype
    np.testing.assert_array_equal(fitting, array)


@pytest.mark.parametrize(
    ("tree", "space", "message"),
    [
        ({"place": np.zeros((2, 2))}, SPACE, r"holds the keys \['place'\]; its space asks for the keys \['image'"),
        ((np.zeros(2),), ACTIONS, "a tuple of 1; its space asks for a tuple of 2"),
        (np.zeros(2), ACTIONS, "asks for a tuple of 2"),
        ((np.zeros(2, int), np.zeros((2, 3))), ACTIONS, r"x\[1\] holds an array \(2, 3\)"),
        (np.array([0, 4, 5]), spaces.Discrete(5), "holds 5, which is not in Discrete"),
        (np.array([-1]), spaces.Discrete(5), "holds -1"),
        (np.array([[0, 3]]), spaces.MultiDiscrete([4, 3]), "holds 3"),
        (np.zeros(2), spaces.Discrete(5), "dtype float64; its space asks for int64"),
        (np.zeros((2, 2)), BOOLS, "dtype float64; its space asks for bool"),
        (np.array([[0, 2]]), BOOLS, r"holds 2, which is not in Box\(False, True"),
        (np.array([[0, 2]]), spaces.MultiBinary(2), "holds 2, which is not in MultiBinary"),
        (np.array([[1, 256]]), spaces.Box(0, 255, (2,), np.uint8), "holds 256, which is not in Box"),
        (np.array([[-1, 0]]), spaces.Box(0, 255, (2,), np.uint8), "holds -1, which is not in Box"),
        (np.array([253]), spaces.Discrete(2, start=254, dtype=np.uint8), "holds 253, which is not in Discrete"),
        (np.array([2**64 - 1], np.uint64), spaces.Discrete(5), "holds 18446744073709551615, which"),
        ({1: np.zeros((2, 2)), "a": 2}, SPACE, r"holds the keys \['1', 'a'\]"),
        (["find the key"], spaces.Text(20), "Text space.*FilterObservation"),
    ],
)
def test_conform_names_what_does_not_fit(tree: Any, space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        conform(tree, space, "x")
