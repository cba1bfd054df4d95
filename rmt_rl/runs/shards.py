"""Checkpoints in shards: each process writes its part of the tensors into a safetensors file of its own. Never pickle.

The checkpoint's own path holds the part of the first process and the run's header, and names the other files. These
have the hash of their content in their names, and are written before. So the file at the path always belongs to whole
shards: a checkpoint that was half written when its run was killed is named by no file.

Tensors are divided along their first dimension, so a checkpoint can be read by any number of processes.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.machine import memory_bytes
from rmt_rl.reading import check_regular, parse_json
from rmt_rl.runs.tensors import NamedTensors, encoded, read_tensors

_KEY = "rmt_rl_shards"
_DIGITS = 32  # of the SHA-256 in a shard's name
_NAME = re.compile(rf"\w+\.\d+-of-\d+\.[0-9a-f]{{{_DIGITS}}}\.safetensors")
_TRIES = 3  # readings of a checkpoint that its run replaces meanwhile


class Piece(NamedTuple):
    """A process's part of a tensor.

    Attributes:
        tensor: consecutive rows of the whole tensor.
        start: the first of these rows.
        shape: the shape of the whole tensor.
    """

    tensor: Tensor
    start: int
    shape: tuple[int, ...]


Pieces = Mapping[str, Piece]


class _Places(Frozen):
    """The JSON of a shard: the places of its tensors in the whole tensors.

    Attributes:
        shapes: of the whole tensors, by name.
        starts: the first row of each piece.
        files: names of the other shards, in the first one.
    """

    shapes: dict[str, tuple[int, ...]]
    starts: dict[str, int]
    files: tuple[str, ...] = ()


class Shards(NamedTuple):
    """The tensors of a checkpoint's file, and where they belong."""

    places: _Places
    tensors: NamedTensors


def write_further_shard(path: Path, rank: int, processes: int, pieces: Pieces) -> str:
    """Write the part of a process that isn't the first; return the name of its file, beside the checkpoint's path.

    Raises:
        UsageError: the file can't be written.
    """
    content = _encoded(pieces, (), {})
    name = f"{path.stem}.{rank + 1}-of-{processes}.{_hash(content)}.safetensors"
    write_atomically(path.with_name(name), content)
    return name


def write_first_shard(path: Path, pieces: Pieces, metadata: Mapping[str, str], files: tuple[str, ...]) -> None:
    """Write the first process's part, which makes the checkpoint whole; remove the shards of older ones.

    Args:
        path: the checkpoint's path.
        pieces: the first process's.
        metadata: the checkpoint's header, under its key.
        files: names of the other processes' files, which are written already.

    Raises:
        UsageError: the file can't be written; the older checkpoint at the path is untouched.
    """
    write_atomically(path, _encoded(pieces, files, metadata))
    remove_other_shards(path, files)


def remove_other_shards(path: Path, files: tuple[str, ...] = ()) -> None:
    """Remove the shards beside a checkpoint's path that don't belong to it."""
    for other in path.parent.glob(f"{glob.escape(path.stem)}.*.safetensors"):
        if _NAME.fullmatch(other.name) and other.name not in files:
            with suppress(OSError):
                other.unlink()


def read_whole(path: Path, key: str) -> tuple[str | None, NamedTensors]:
    """Return the header under a key, and all tensors, of a checkpoint in one file or in shards.

    Raises:
        SafetensorError, OSError: a file is damaged or missing.
        ValueError: the shards don't fit together.
    """
    for attempt in range(_TRIES):
        metadata, tensors = read_tensors(path)
        header = metadata.get(key)
        if _KEY not in metadata:
            return header, tensors
        first = Shards(_places(metadata), tensors)
        try:
            return header, _joined([first, *_further(path, first.places.files)])
        except FileNotFoundError as error:  # its run has saved another one meanwhile, or the shard was lost
            if attempt + 1 == _TRIES:
                raise ValueError(f"its shard {Path(error.filename).name} is missing") from None
    raise AssertionError


def _further(path: Path, files: tuple[str, ...]) -> Iterator[Shards]:
    for name in files:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a shard")
        shard = path.with_name(name)
        check_regular(shard, memory_bytes())
        if _hash(shard.read_bytes()) not in name:
            raise ValueError(f"its shard {name} was changed")
        metadata, tensors = read_tensors(shard)
        yield Shards(_places(metadata), tensors)


def _places(metadata: Mapping[str, str]) -> _Places:
    values = parse_json(metadata.get(_KEY, "{}"))
    try:
        return validated(_Places, values)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _joined(shards: list[Shards]) -> NamedTensors:
    """Return the whole tensors.

    Raises:
        ValueError: rows are missing or doubled.
    """
    pieces: dict[str, list[Piece]] = {}
    for places, tensors in shards:
        if not places.shapes.keys() == places.starts.keys() == tensors.keys():
            raise ValueError("a shard holds other tensors than it names")
        for name, tensor in tensors.items():
            piece = Piece(tensor, places.starts[name], places.shapes[name])
            pieces.setdefault(name, []).append(piece)
    return {name: _whole(name, found) for name, found in pieces.items()}


def _whole(name: str, pieces: list[Piece]) -> Tensor:
    shape = pieces[0].shape
    row = 0
    for piece in pieces:
        fits = piece.shape == shape and piece.start == row and piece.tensor.shape[1:] == shape[1:]
        if not fits:
            raise ValueError(f"the shards of tensor {name} don't fit together")
        row += len(piece.tensor) if shape else 0
    whole = torch.cat([piece.tensor for piece in pieces]) if shape else pieces[0].tensor
    if whole.shape != shape:
        raise ValueError(f"rows of tensor {name} are missing")
    return whole


def _encoded(pieces: Pieces, files: tuple[str, ...], metadata: Mapping[str, str]) -> bytes:
    shapes, starts, tensors = {}, {}, {}
    for name, piece in sorted(pieces.items()):  # the same content whatever order the optimiser's state has
        shapes[name], starts[name], tensors[name] = piece.shape, piece.start, piece.tensor
    places = _Places(shapes=shapes, starts=starts, files=files)
    return encoded(tensors, {**metadata, _KEY: places.model_dump_json()})


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
