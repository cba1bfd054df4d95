"""The door of `predict`: observations of any source, and one line that names the part that doesn't fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.errors import UsageError
from rmt_rl.observations import observed_batch
from tests.test_spaces import make

IMAGE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
VECTOR = spaces.Box(-9, 9, (3,), np.float32)
PLAIN = spaces.Discrete(2)
NESTED = spaces.Dict(
    {
        "a": spaces.Discrete(3, start=1),
        "walker/speed": VECTOR,
        "both": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Box(0, 1, (2,), np.int8))),
    }
)
FIRST = {"a": 2, "walker/speed": [0.0, 0.5, 1.0], "both": ([1, 2], np.ones(2, np.int8))}
NUMBERS = np.array([1.5, -2.0, 3.0], np.float32)
PIXELS = np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)
both_agents = pytest.mark.parametrize("name", ["bc", "ppo"])


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize(
    ("space", "value", "plain"),
    [
        (IMAGE, PIXELS[::-1], PIXELS[::-1].copy()),
        (IMAGE, PIXELS[:, ::-1], PIXELS[:, ::-1].copy()),
        (IMAGE, np.stack([PIXELS] * 2)[:, ::-1], np.stack([PIXELS[::-1]] * 2)),
        (IMAGE, np.asfortranarray(PIXELS), PIXELS),
        (IMAGE, read_only(PIXELS), PIXELS),
        (IMAGE, PIXELS.astype(np.float64), PIXELS),
        (IMAGE, PIXELS.astype(">i4"), PIXELS),
        (IMAGE, torch.from_numpy(PIXELS), PIXELS),
        (VECTOR, NUMBERS.astype(">f4"), NUMBERS),
        (VECTOR, NUMBERS.astype(np.float64), NUMBERS),
        (VECTOR, NUMBERS.astype(np.longdouble), NUMBERS),
        (VECTOR, NUMBERS.astype(np.float16), NUMBERS),
        (VECTOR, NUMBERS[::-1], NUMBERS[::-1].copy()),
        (VECTOR, NUMBERS.repeat(2)[::2], NUMBERS),
        (VECTOR, [1.5, -2, 3], NUMBERS),
        (VECTOR, tuple(NUMBERS), NUMBERS),
        (VECTOR, torch.tensor(NUMBERS, requires_grad=True), NUMBERS),
        (VECTOR, torch.tensor(NUMBERS, dtype=torch.bfloat16), NUMBERS),
        (VECTOR, [list(NUMBERS), list(NUMBERS)], np.stack([NUMBERS] * 2)),
        (spaces.Box(-1, 1, (1,)), np.ones(1, np.float32)[::-1], np.ones(1, np.float32)),
        (spaces.Box(-1, 1, ()), 0.5, np.array(0.5)),
        (PLAIN, 1, np.int64(1)),
        (PLAIN, True, np.int64(1)),
        (PLAIN, [True, False], np.array([1, 0])),
        (PLAIN, 1.0, np.int64(1)),
        (PLAIN, torch.tensor([1, 0]), np.array([1, 0])),
        (spaces.Discrete(4, start=-2, dtype=np.int8), np.array([1, -2], ">i8"), [1, -2]),
        (spaces.MultiDiscrete([300, 200], np.uint16), np.array([299, 199], ">u2"), np.array([299, 199])),
        (spaces.MultiBinary(2), [True, False], np.array([1, 0], np.int8)),
        (spaces.Tuple((PLAIN, VECTOR)), [1, NUMBERS], (1, NUMBERS)),
    ],
)
@both_agents
def test_any_array_is_taken(name: str, space: spaces.Space[Any], value: Any, plain: Any) -> None:
    agent = make(name, space, spaces.Box(-1, 1, (2,)))
    np.testing.assert_array_equal(agent.predict(value)[0], agent.predict(plain)[0])


def test_arrays_are_of_the_dtypes_of_tensors() -> None:
    space = spaces.Dict(
        {
            "half": spaces.Box(-1, 1, (2,), np.float16),
            "large": spaces.Box(0, 2**64 - 1, (2,), np.uint64),
            "pixels": IMAGE,
            "small": spaces.Discrete(3, dtype=np.int8),
        }
    )
    observation = {
        "small": np.int8(2),
        "pixels": PIXELS[::-1],
        "large": np.array([1, 2**64 - 1], np.uint64),
        "half": np.ones(2, np.float16),
    }
    batch = observed_batch(observation, space)
    assert (batch.size, batch.is_single, list(batch.values)) == (1, True, list(space))
    assert [part.dtype.name for part in batch.values.values()] == ["float32", "int64", "uint8", "int64"]
    assert all(part.flags.c_contiguous and part.flags.writeable for part in batch.values.values())
    assert batch.values["large"].tolist() == [[1, 2**63 - 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            np.zeros(3),
            r"observation holds an array \(3,\); its space asks for the keys \['a', 'both', 'walker/speed'\]",
        ),
        (5, "observation holds a value of type int; its space asks for the keys"),
        (None, "observation holds a value of type NoneType; its space asks for the keys"),
        ([FIRST], "observation holds a list of 1; its space asks for the keys"),
        ({"a": 1}, r"observation holds the keys \['a'\]; its space asks"),
        (FIRST | {"c": 1}, r"observation holds the keys \['a', 'both', 'c', 'walker/speed'\]; its space asks"),
        (FIRST | {1: 1}, r"observation holds the keys \['1', 'a', .*; its space asks"),
        (FIRST | {"both": (1,)}, "observation.both holds a tuple of 1; its space asks for a tuple of 2"),
        (FIRST | {"both": {"x": 1}}, r"observation.both holds the keys \['x'\]; its space asks for a tuple of 2"),
        (
            FIRST | {"walker/speed": np.zeros(4)},
            r"observation\['walker/speed'\] has shape \(4,\); give one of shape \(3,\)",
        ),
        (
            FIRST | {"walker/speed": np.zeros((2, 3))},
            r"\['walker/speed'\] is a batch of 2, but observation.a is a single",
        ),
        (FIRST | {"a": [1, 1]}, r"is a single value, but observation.a is a batch of 2"),
        (FIRST | {"walker/speed": np.zeros((0, 3))}, r"\['walker/speed'\] has shape \(0, 3\)"),
        (
            FIRST | {"walker/speed": ["x", "y", "z"]},
            r"\['walker/speed'\] has dtype <U1; give integers, floats or bools",
        ),
        (FIRST | {"walker/speed": [None, 1, 2]}, r"\['walker/speed'\] has dtype object"),
        (FIRST | {"walker/speed": [[1], [2, 3], 4]}, r"\['walker/speed'\] can't be made an array"),
        (FIRST | {"walker/speed": np.zeros(3, complex)}, r"\['walker/speed'\] has dtype complex128"),
        (FIRST | {"walker/speed": np.zeros(3, "M8[s]")}, r"\['walker/speed'\] has dtype datetime64"),
        (FIRST | {"a": 1.5}, "observation.a has dtype float64; its space asks for int64"),
        (FIRST | {"a": np.nan}, "observation.a has dtype float64; its space asks for int64"),
        (FIRST | {"a": 1e30}, "observation.a has dtype float64; its space asks for int64"),
        (FIRST | {"a": 0}, r"observation.a holds 0, which is not in Discrete\(3, start=1\)"),
        (FIRST | {"a": np.uint64(2**64 - 1)}, r"observation.a holds 18446744073709551615, which is not in Discrete"),
        (
            FIRST | {"both": ([1, 3], np.ones(2, np.int8))},
            r"observation.both\[0\] holds 3, which is not in MultiDiscrete",
        ),
        (FIRST | {"both": ([1, 2], np.array([0, 300]))}, r"observation.both\[1\] holds 300, which is not in Box"),
    ],
)
@both_agents
def test_the_part_that_does_not_fit_is_named(name: str, change: Any, message: str) -> None:
    agent = make(name, NESTED, PLAIN)
    agent.predict(FIRST)
    with pytest.raises(UsageError, match=message):
        agent.predict(change)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"return_to_go": np.ones(1)}, "observation holds"),
        ({"observation": NUMBERS, "return_to_go": np.ones(1), "more": 1}, "keys .*'more'.*; beside return_to_go only"),
        (
            {"observation": NUMBERS, "return_to_go": np.ones(2)},
            r"return_to_go has shape \(2,\); give one number for each",
        ),
        (
            {"observation": NUMBERS, "return_to_go": "much"},
            "return_to_go has dtype <U4; give integers, floats or bools",
        ),
        ({"observation": NUMBERS, "return_to_go": [[1], [2, 3]]}, "return_to_go can't be made an array"),
    ],
)
def test_a_return_to_go_that_does_not_fit_is_named(observation: Any, message: str) -> None:
    agent = make("dt", VECTOR, PLAIN)
    agent.predict({"observation": NUMBERS, "return_to_go": 1})
    with pytest.raises(UsageError, match=message):
        agent.predict(observation)


def test_an_array_in_place_of_a_dict_with_a_return_to_go() -> None:
    agent = make("bc", spaces.Dict(observation=VECTOR, return_to_go=VECTOR), PLAIN)
    with pytest.raises(UsageError, match="observation holds an array"):
        agent.predict(NUMBERS)
