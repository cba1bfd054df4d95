"""Random spaces for property tests: every kind, dtype, start and shape, nested, with odd keys and empty parts.

`usable` spaces can be collected, learnt from and acted in. `UNUSABLE` lists spaces that must be refused.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from rmt_rl.trees import Place, leaves, map_space, nodes, part_at

Space = spaces.Space[Any]
Strategy = st.SearchStrategy[Space]

INTEGERS = [np.dtype(name) for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u2")]
FLOATS = [np.dtype(name) for name in ("f2", "f4", "f8", ">f4", ">f8")]
ODD_KEYS = ["", ".", "..", "/", "a/b", "/a", "a//b/", "a.b", "%2F", "%", "%empty", "it's", '"', "a b", "\0", "\ud800"]
PLAIN_KEYS = ["observation", "return_to_go", "action", "_index_0", "0", "self", "keys", "subspaces"]
BOUNDS = [(-1.0, 1.0), (0.0, 0.0), (-0.1, 0.3), (-np.inf, np.inf), (0.1, np.inf), (-np.inf, -3.0), (-6e4, 6e4)]

keys = st.sampled_from(ODD_KEYS + PLAIN_KEYS) | st.text(max_size=4)
sizes = st.lists(st.integers(1, 3), max_size=3)
# Minari can't read a Box whose first dimension is 0 and not the only one.
shapes = st.builds(lambda first, last: tuple(first + last), sizes, st.sampled_from([[], [], [], [0]]))


@st.composite
def float_boxes(draw: st.DrawFn) -> Space:
    shape = draw(shapes)
    dtype = draw(st.sampled_from(FLOATS))
    count = int(np.prod(shape))
    bounds = draw(st.lists(st.sampled_from(BOUNDS), min_size=count, max_size=count))
    ends = np.array(bounds, dtype).reshape(*shape, 2)
    return spaces.Box(ends[..., 0], ends[..., 1], shape, dtype)


@st.composite
def integer_boxes(draw: st.DrawFn, largest: int) -> Space:
    shape = draw(shapes)
    dtype = draw(st.sampled_from(INTEGERS))
    limits = np.iinfo(dtype)
    lowest, highest = max(int(limits.min), -largest), min(int(limits.max), largest)
    ends = st.integers(lowest, highest) | st.sampled_from([lowest, highest, 0])
    low, high = sorted([draw(ends), draw(ends)])
    box: Any = spaces.Box
    if dtype.kind == "i" and draw(st.booleans()):
        return box(-np.inf, high, shape, dtype)  # type: ignore[no-any-return]
    return box(low, high, shape, dtype)  # type: ignore[no-any-return]


@st.composite
def bool_boxes(draw: st.DrawFn) -> Space:
    shape = draw(shapes)
    count = int(np.prod(shape))
    bounds = draw(st.lists(st.sampled_from([(0, 1), (0, 0), (1, 1)]), min_size=count, max_size=count))
    ends = np.array(bounds, np.bool_).reshape(*shape, 2)
    box: Any = spaces.Box
    return box(ends[..., 0], ends[..., 1], shape, np.bool_)  # type: ignore[no-any-return]


@st.composite
def images(draw: st.DrawFn) -> Space:
    height, width, channels = draw(st.integers(3, 6)), draw(st.integers(3, 6)), draw(st.sampled_from([1, 3]))
    shape = draw(st.sampled_from([(height, width, channels), (channels, height, width)]))
    return spaces.Box(0, 255, shape, np.uint8)


@st.composite
def discretes(draw: st.DrawFn) -> Space:
    dtype = draw(st.sampled_from(INTEGERS))
    size = draw(st.integers(1, 4))
    return spaces.Discrete(size, start=draw(starts(dtype, size)), dtype=dtype)


@st.composite
def multi_discretes(draw: st.DrawFn) -> Space:
    dtype = draw(st.sampled_from(INTEGERS))
    shape = draw(shapes)
    largest = draw(st.sampled_from([3, 120]))
    nvec: Any = np.full(shape, draw(st.integers(1, largest)), dtype)
    start: Any = np.full(shape, draw(starts(dtype, largest)), dtype)
    return spaces.MultiDiscrete(nvec, dtype, start=start)


def starts(dtype: np.dtype[Any], size: int) -> st.SearchStrategy[int]:
    """Return starts from which `size` values fit into a dtype; Gymnasium can't draw from the last values of int64."""
    limits = np.iinfo(dtype)
    last = min(int(limits.max), 2**62) - size + 1
    return st.sampled_from([0, last, int(limits.min), min(5, last)])


binaries = st.sampled_from([spaces.MultiBinary(3), spaces.MultiBinary([2, 2]), spaces.MultiBinary((1,))])
texts: Strategy = st.sampled_from([spaces.Text(3), spaces.Dict(text=spaces.Text(2))])
empties: Strategy = st.sampled_from([spaces.Dict({}), spaces.Tuple(())])


def nested(parts: Strategy, others: Strategy) -> Strategy:
    """Return spaces of up to three levels of Dicts and Tuples, of these leaves and other parts."""

    def inside(inner: Strategy) -> Strategy:
        some = inner | inner | others
        dicts = st.dictionaries(keys, some, min_size=1, max_size=3).map(lambda each: spaces.Dict(list(each.items())))
        return dicts | st.lists(some, min_size=1, max_size=3).map(lambda each: spaces.Tuple(tuple(each)))

    return st.recursive(parts, inside, max_leaves=4).filter(has_leaves)


def has_leaves(space: Space) -> bool:
    return any(not isinstance(leaf, spaces.Text) for _, leaf in leaves(space))


def has_numbers(space: Space) -> bool:
    return has_leaves(space) and any(np.prod(leaf.shape) for _, leaf in leaves(space))


def observation_spaces(largest: int = 2**64, others: Strategy = empties) -> Strategy:
    """Return observation spaces.

    Args:
        largest: the bounds of Boxes of integers are up to this number.
        others: further parts of Dicts and Tuples.
    """
    boxes = st.one_of(float_boxes(), integer_boxes(largest), bool_boxes(), images())
    return nested(boxes | discretes() | multi_discretes() | binaries, others)


def action_spaces(largest: int = 2**64) -> Strategy:
    """Return action spaces; the bounds of their Boxes of integers are up to `largest`."""
    boxes = st.one_of(float_boxes(), integer_boxes(largest), bool_boxes())
    return nested(boxes | discretes() | multi_discretes() | binaries, discretes()).filter(has_numbers)


VECTOR = spaces.Box(-1, 1, (2,))
_ANY: Any = spaces
UNUSABLE: list[Space] = [
    spaces.Dict({}),
    spaces.Dict(a=VECTOR, b=spaces.Sequence(VECTOR)),
    spaces.Text(3),
    spaces.Tuple((spaces.Dict({}),)),
    spaces.Sequence(VECTOR),
    spaces.Graph(VECTOR, None),
    spaces.OneOf([VECTOR, spaces.Discrete(2)]),
    _ANY.Dict({1: VECTOR}),
    _ANY.Dict({("a", "b"): VECTOR}),
    _ANY.Box(0, 1, (2,), np.longdouble),
    spaces.Discrete(10, start=250, dtype=np.uint8),
    spaces.Discrete(3, start=2**63, dtype=np.uint64),
    spaces.MultiDiscrete(np.array([2, 100]), np.int8, start=np.array([0, 100])),
]


class Random(gymnasium.Env[Any, Any]):
    """Random observations, episodes of three steps. It refuses actions that aren't in its space.

    Its spaces are those of the class, which a test sets.
    """

    observations: Space = VECTOR
    actions: Space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.observation_space, self.action_space = self.observations, self.actions
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} isn't in {self.action_space}"
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 3, False, {}


gymnasium.register("random_spaces/Random-v0", entry_point="tests.random_spaces:Random")


def draw_batch(space: Space, count: int) -> Any:
    """Return random values of a space, stacked: arrays (count, ...)."""

    def drawn(place: Place, leaf: Space) -> Any:
        is_integer = isinstance(leaf, spaces.Box) and leaf.dtype.kind in "iu"
        rows = [_draw_integers(leaf) if is_integer else leaf.sample() for _ in range(count)]
        return np.stack(rows).astype(leaf.dtype)

    return map_space(drawn, space)


def draw_value(space: Space) -> Any:
    """Return a random value of a space, as `sample` does."""
    batch = draw_batch(space, 1)
    return map_space(lambda place, leaf: part_at(batch, place)[0, ...], space)


def _draw_integers(space: Any) -> Any:
    """Return bounds and middles of a Box of integers; Gymnasium's samples leave the space if the bounds are huge."""
    low: Any = np.array(space.low, object)
    middle = np.array(low + (np.array(space.high, object) - low) // 2, space.dtype)
    choices = [space.low, space.high, middle]
    picks = space.np_random.integers(3, size=space.shape)
    return np.choose(picks, choices)


def assert_contained(space: Space, batch: Any, count: int) -> None:
    """Fail unless a batch holds `count` values of a space, in the dtypes of the space."""
    for index in range(count):

        def value_at(place: Place, leaf: Space, index: int = index) -> Any:
            value = part_at(batch, place)[index]
            return value if isinstance(leaf, spaces.Discrete) else np.asarray(value)

        value = map_space(value_at, space)
        assert space.contains(value), f"{value!r} isn't in {space}"


def assert_same_space(one: Space, other: Space) -> None:
    """Fail unless two spaces are equal in everything, also in what Gymnasium doesn't compare."""
    assert one == other
    pairs = zip(nodes(one), nodes(other), strict=True)
    for (place, node), (other_place, other_node) in pairs:
        assert (place, type(node)) == (other_place, type(other_node))
        facts, other_facts = vars(node), vars(other_node)
        for name in ("dtype", "_shape", "low", "high", "bounded_below", "bounded_above", "n", "nvec", "start"):
            if name in facts:
                np.testing.assert_array_equal(
                    facts[name], other_facts[name], strict=isinstance(facts[name], np.ndarray)
                )
