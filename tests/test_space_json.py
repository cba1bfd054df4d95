"""Spaces as JSON: what Minari loses is kept, and what Minari wrote is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from minari.serialization import deserialize_space, serialize_space

from rmt_rl.data.keys import escaped, unescaped
from rmt_rl.errors import UsageError
from rmt_rl.space_json import space_from_json, space_to_json
from rmt_rl.trees import nodes, with_keys
from tests.random_spaces import ODD_KEYS, Space, assert_same_space, keys, observation_spaces

VECTOR = spaces.Box(-1, 1, (2,))


@given(space=observation_spaces())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_nothing_is_lost(space: Space) -> None:
    text = space_to_json(space)
    assert text.isascii()
    assert_same_space(space_from_json(text), space)


@pytest.mark.parametrize(
    ("space", "kept"),
    [
        (spaces.Discrete(3, dtype=np.int32), "dtype"),
        (spaces.Dict([("b", VECTOR), ("a", VECTOR)]), "order"),
        (spaces.Box(-np.inf, 3, (2,), np.int64), "bounded_below"),
    ],
)
def test_minari_reads_it_and_loses_what_it_loses_of_its_own(space: Space, kept: str) -> None:
    theirs = deserialize_space(space_to_json(space))
    facts = {"dtype": theirs.dtype, "order": list(getattr(theirs, "spaces", ()))}
    facts |= {"bounded_below": getattr(theirs, "bounded_below", np.array(0)).tolist()}
    ours = space_from_json(space_to_json(space))
    own = {"dtype": ours.dtype, "order": list(getattr(ours, "spaces", ()))}
    own |= {"bounded_below": getattr(ours, "bounded_below", np.array(0)).tolist()}
    assert facts[kept] != own[kept]


@given(space=observation_spaces())
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_minaris_own_json_is_read(space: Space) -> None:
    """Older checkpoints hold it."""
    text = serialize_space(space)
    assert isinstance(text, str)
    read, theirs = space_from_json(text), deserialize_space(text)
    for (place, node), (_, their_node) in zip(nodes(read), nodes(with_same_order(theirs, read)), strict=True):
        assert type(node) is type(their_node), place
    assert read == theirs


def with_same_order(space: Space, other: Space) -> Space:
    """Return a space with its keys in another's order."""
    if isinstance(space, spaces.Dict) and isinstance(other, spaces.Dict):
        return spaces.Dict([(key, with_same_order(space[key], other[key])) for key in other])
    if isinstance(space, spaces.Tuple) and isinstance(other, spaces.Tuple):
        return spaces.Tuple([with_same_order(one, two) for one, two in zip(space, other, strict=True)])
    return space


def test_a_subclass_is_stored_as_its_kind() -> None:
    class Mine(spaces.Box):
        """A kind of a laboratory."""

    space: Any = Mine(-1, 1, (2,))
    assert type(space_from_json(space_to_json(space))) is spaces.Box


@pytest.mark.parametrize("space", [spaces.Sequence(VECTOR), spaces.Dict(a=spaces.Graph(VECTOR, None))])
def test_other_kinds_are_named(space: Space) -> None:
    with pytest.raises(UsageError, match=r"space=(Sequence|Graph).* can't be stored; use Box"):
        space_to_json(space)


@pytest.mark.parametrize("text", ["{}", "[]", '{"type": "Sphere"}', '{"type": "Box"}', "1", '{"type": "Discrete"}'])
def test_damage_is_an_error_of_its_reader(text: str) -> None:
    with pytest.raises(ValueError, match="is no space of Gymnasium"):
        space_from_json(text)


@given(key=keys)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_keys_are_escaped_and_back(key: str) -> None:
    name = escaped(key)
    assert unescaped(name) == key
    assert name.strip(".")
    assert not set(name) & set("/\0")
    name.encode()


def test_no_two_keys_have_one_name_and_plain_ones_keep_theirs() -> None:
    names = {escaped(key) for key in ODD_KEYS}
    assert len(names) == len(ODD_KEYS)
    for plain in ("image", "a.b", "_index_0", "it's", 'a "b"', "é", ".hidden"):
        assert escaped(plain) == plain
    assert escaped("walker/height") == "walker%2Fheight"
    space = spaces.Dict({"a/b": spaces.Tuple((spaces.Dict({"": VECTOR}),))})
    stored = with_keys(escaped, space)
    assert [place for place, _ in nodes(stored)][-1] == ("a%2Fb", 0, "%empty")
    assert_same_space(with_keys(unescaped, stored), space)


def test_names_that_are_no_escapes_are_keys_as_they_are() -> None:
    for name in ("100%", "%zz", "%41", "%2f", "%u0041", "%"):
        assert unescaped(name) == name
