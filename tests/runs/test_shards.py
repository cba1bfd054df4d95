"""Checkpoints in shards: half of one is never taken for a whole one, nor are shards that don't fit together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import KEY, Header, read_checkpoint_of
from rmt_rl.runs.shards import Piece, remove_other_shards, write_first_shard, write_further_shard

HEADER = Header(update=3, progress={})
WHOLE = {"model/a": torch.arange(14.0).view(7, 2), "model/b": torch.ones(1), "optimizer/0/step": torch.tensor(3.0)}
ROWS = {"model/a": (0, 3, 6, 7), "model/b": (0, 1, 1, 1)}  # the first rows of three processes, and the end


def pieces(rank: int, whole: Mapping[str, Tensor] = WHOLE) -> dict[str, Piece]:
    """Return the pieces of one of three processes; the first one has what isn't divided."""
    found = {}
    for name, tensor in whole.items():
        shape = tuple(tensor.shape)
        if name in ROWS:
            start, stop = ROWS[name][rank : rank + 2]
            found[name] = Piece(tensor[start:stop], start, shape)
        elif rank == 0:
            found[name] = Piece(tensor, 0, shape)
    return found


def write(path: Path, whole: Mapping[str, Tensor] = WHOLE) -> tuple[str, ...]:
    files = tuple(write_further_shard(path, rank, 3, pieces(rank, whole)) for rank in (1, 2))
    write_first_shard(path, pieces(0, whole), {KEY: HEADER.model_dump_json()}, files)
    return files


def read(path: Path) -> dict[str, Tensor]:
    saved = read_checkpoint_of(Header, path)
    assert saved.header == HEADER
    return saved.tensors


def assert_holds(path: Path, whole: Mapping[str, Tensor]) -> None:
    found = read(path)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_shards_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    files = write(tmp_path / "last.safetensors")
    assert_holds(tmp_path / "last.safetensors", WHOLE)
    assert write(tmp_path / "last.safetensors") == files, "named by their content"


def test_a_half_written_checkpoint_leaves_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write(path)
    later = {name: tensor + 1 for name, tensor in WHOLE.items()}
    half = write_further_shard(path, 1, 3, pieces(1, later))
    assert_holds(path, WHOLE)
    files = write(path, later)
    assert half in files
    assert_holds(path, later)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, *files}, "older shards are removed"
    other = tmp_path / "last.2-of-2.mine.safetensors"
    other.touch()
    remove_other_shards(path)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, other.name}


def changed(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize(("harm", "reason"), [(Path.unlink, "its shard .* is missing"), (changed, "was changed")])
def test_a_damaged_shard_is_told(harm: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    files = write(path)
    harm(tmp_path / files[1])
    with pytest.raises(UsageError, match=f"is damaged .*{reason}"):
        read(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": []}, "rows of tensor model/a are missing"),
        ({"files": ["../last.2-of-2.0.safetensors"]}, "is no name of a shard"),
        ({"files": ["last.2-of-2." + "0" * 32 + ".safetensors"]}, "is missing"),
        ({"files": 3}, "files"),
        ({"starts": {"model/a": 1, "model/b": 0, "optimizer/0/step": 0}}, "don't fit together"),
        ({"starts": {}}, "other tensors than it names"),
        ({"shapes": {"model/a": [7, 3], "model/b": [1], "optimizer/0/step": []}}, "don't fit together"),
        ({"shapes": {"model/a": [10**15, 2], "model/b": [1], "optimizer/0/step": []}}, "don't fit together"),
    ],
)
def test_shards_that_do_not_fit_together_are_told(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    files = write(path)
    first = {name: piece.tensor for name, piece in pieces(0).items()}
    shapes = {name: list(tensor.shape) for name, tensor in WHOLE.items()}
    places = {"shapes": shapes, "starts": dict.fromkeys(WHOLE, 0), "files": files} | change
    save_file(first, path, {KEY: HEADER.model_dump_json(), "rmt_rl_shards": json.dumps(places)})
    assert load_file(path).keys() == WHOLE.keys()
    with pytest.raises(UsageError, match=reason):
        read(path)
