"""A run's options, its model, and its file: weights and what resuming needs, as safetensors with a header of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor

from experiments.long_context.tasks import TaskName
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.recurrence import Tree
from rmt_rl.runs.tensors import group_of, named_tensors, read_tensors, write_tensors

Memory = Literal["valve", "tokens", "gate", "hard-gate", "mac", "mag", "mal", "armt", "none"]
_MODELS: dict[Memory, dict[str, Any]] = {
    "valve": {"valve": "ca-2", "causal": False},  # RATE's valve around the memory tokens of an encoder
    "tokens": {"causal": False},  # RMT in the form of its paper to two million tokens
    "gate": {"valve": "gate", "causal": False},
    "hard-gate": {"valve": "hard-gate", "causal": False},
    "mac": {"memory": "titans_mac"},
    "mag": {"memory": "titans_mag"},
    "mal": {"memory": "titans_mal"},
    "armt": {"memory": "armt"},
    "none": {"memory": "none", "causal": False},  # sees the whole text at once
}
FILE = "last.safetensors"
_KEY = "rmt_rl.long_context"


class Options(Frozen):
    """Everything that makes a run."""

    task: TaskName
    memory: Memory = Field("valve", description="none sees the whole text at once; see the README")
    feed: Literal["streams", "curriculum", "full"] = Field(
        "streams", description="what is trained on; streams begin as curriculum"
    )
    seed: int = Field(0, ge=0, description="seed of all that is random")
    tokens: int = Field(20_000_000, ge=1, description="tokens to train on; the budget, and the learning rate's clock")
    segment: int = Field(32, ge=24, description="tokens of a segment")
    lanes: int = Field(96, ge=1, description="sequences of a batch")
    width: int = Field(64, ge=2, description="width of a token")
    layers: int = Field(2, ge=1, description="layers")
    heads: int = Field(4, ge=1, description="attention heads")
    memory_tokens: int = Field(10, ge=1, description="memory tokens; Titans: persistent tokens")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW, after 1% of warm-up")
    decay_from: float = Field(0.3, ge=0, le=1, description="share of the tokens after which it falls, to 2% of it")
    segments: int = Field(7, ge=1, description="the longest sequence; of streams, before they begin")
    threshold: float = Field(0.95, gt=0, lt=1, description="curriculum: running accuracy at which to add a segment")
    review: float = Field(0.2, ge=0, lt=1, description="curriculum: share of updates on a shorter length")
    depths: tuple[int, int] = Field((2, 4), description="streams: fewest and most segments that a gradient reaches")
    reset: tuple[float, float] = Field(
        (0.003, 0.3), description="streams: lowest and highest probability of a lane to begin anew after an update"
    )
    reset_wrong: float = Field(0.5, ge=0, le=1, description="streams: added to it as far as answers are wrong of late")
    start: str | None = Field(None, description="folder of a run to begin with the weights of")
    log_every: int = Field(50, ge=1, description="updates between two lines of metrics")
    save_every: int = Field(500, ge=1, description="updates between two saves")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.memory == "none" and self.feed == "streams":
            raise ValueError(
                "memory='none' carries nothing from segment to segment; choose feed='curriculum' or 'full'"
            )
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")
        if not 1 <= self.depths[0] <= self.depths[1]:
            raise ValueError(f"depths={self.depths} must be rising numbers from 1 on")
        if not 0 < self.reset[0] <= self.reset[1] <= 1:
            raise ValueError(f"reset={self.reset} must be rising probabilities above 0")
        return self


def new_model(options: Options, vocabulary: int) -> RecurrentMemoryTransformer:
    """The model of a run, with random weights."""
    return RecurrentMemoryTransformer(
        options.width,
        num_tokens=vocabulary,
        depth=options.layers,
        num_memory_tokens=options.memory_tokens,
        seq_len=1 << 20 if options.memory == "none" else options.segment,
        heads=options.heads,
        dim_head=options.width // options.heads,
        **_MODELS[options.memory],
    )


class Saved(NamedTuple):
    """What a run's file holds."""

    options: Options
    vocabulary: tuple[str, ...]
    progress: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of `model`, `optimizer` or `state` by their names in it."""
        return group_of(self.tensors, name)

    def model(self) -> RecurrentMemoryTransformer:
        """The model with its weights."""
        model = new_model(self.options, len(self.vocabulary))
        model.load_state_dict(self.group("model"))
        return model


def save_run(
    run: Path,
    options: Options,
    vocabulary: Sequence[str],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Tree,
    progress: dict[str, Any],
) -> None:
    """Write a run's file; `state` is what lanes carry, `progress` a JSON value to resume with."""
    header = {"options": options.model_dump(mode="json"), "vocabulary": list(vocabulary), "progress": progress}
    write_tensors(run / FILE, named_tensors(model, optimizer, state), _KEY, json.dumps(header))


def read_run(run: Path) -> Saved:
    """Read a run's file; nothing of it is ever executed.

    Raises:
        UsageError: there is none, or it isn't one of ours.
    """
    try:
        text, tensors = read_tensors(run / FILE, _KEY)
        header = json.loads(text or "{}")
        options = validated(Options, header["options"])
        return Saved(options, tuple(header["vocabulary"]), header["progress"], tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{run} holds no run of experiments.long_context that can be read: {error}") from None
