"""A run's options, and a saved run as it is read from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from experiments.long_context.tasks import TaskName
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.runs.checkpoint import Checkpoint, path_of, read_checkpoint_of
from rmt_rl.training.loop import LoopState
from rmt_rl.training.tokens import TokenHeader, TokenProgress, TokenTraining, restore_model

Memory = Literal["valve", "tokens", "gate", "hard-gate", "mac", "mag", "mal", "armt", "none"]
_MEMORIES: dict[Memory, dict[str, Any]] = {  # options of the model
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


class Options(Frozen):
    """Options of a run."""

    task: TaskName
    memory: Memory = Field("valve", description="none sees the whole text at once; see the README")
    feed: Literal["streams", "curriculum", "full"] = Field(
        "streams", description="what is trained on; streams begin with a curriculum"
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
    decay_from: float = Field(0.3, ge=0, le=1, description="share of the tokens after which the rate falls, to 2%")
    segments: int = Field(7, ge=1, description="the longest sequence; of streams, before they begin")
    threshold: float = Field(0.95, gt=0, lt=1, description="curriculum: running accuracy at which to add a segment")
    review: float = Field(0.2, ge=0, lt=1, description="curriculum: share of updates on a shorter length")
    depths: tuple[int, int] = Field((2, 4), description="streams: fewest and most segments that a gradient reaches")
    reset: tuple[float, float] = Field(
        (0.003, 0.3), description="streams: lowest and highest probability that a sequence is replaced after an update"
    )
    reset_wrong: float = Field(0.5, ge=0, le=1, description="streams: added to it if all answers are wrong of late")
    start: str | None = Field(None, description="folder of a run whose weights to begin with")
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

    def model(self) -> dict[str, Any]:
        """Return the options of the token model."""
        whole_text = 1 << 20
        return {
            "dim": self.width,
            "depth": self.layers,
            "num_memory_tokens": self.memory_tokens,
            "seq_len": whole_text if self.memory == "none" else self.segment,
            "heads": self.heads,
            "dim_head": self.width // self.heads,
            **_MEMORIES[self.memory],
        }

    def training(self) -> TokenTraining:
        """Return the options of the learner."""
        return TokenTraining(
            seed=self.seed,
            tokens=self.tokens,
            learning_rate=self.learning_rate,
            updates=10_000,
            warmup=100,
            decay_from=self.decay_from,
            final_rate=0.02,
            betas=(0.9, 0.99),
        )


class Run(NamedTuple):
    """A run as it was saved last."""

    checkpoint: Checkpoint[TokenHeader]
    options: Options
    progress: TokenProgress

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words of the model, by their ids."""
        return self.checkpoint.header.vocabulary

    def model(self) -> RecurrentMemoryTransformer:
        """Return the model with its weights, ready to be evaluated."""
        return restore_model(self.checkpoint)


def read_run(folder: Path) -> Run:
    """Read the run of a folder.

    Raises:
        UsageError: the folder holds no checkpoint, a damaged one, or one of another experiment.
    """
    checkpoint = read_checkpoint_of(TokenHeader, path_of(folder))
    progress = checkpoint.header.progress
    origin = validated(LoopState, progress).origin
    if origin is None or "memory" not in origin:
        raise UsageError(f"{folder} holds no run of experiments.long_context")
    return Run(checkpoint, validated(Options, origin), validated(TokenProgress, progress))
