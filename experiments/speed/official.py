"""The official code of RATE and ELMUR, run from a checkout; none of it is part of this project.

Training and acting do what the official trainer and validation do with the model, and nothing else: no metrics, no
logging, no loading of data. Environments are ours.

Dimensions: B batch elements or environments, K steps of a segment.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.speed.sizes import Size
from rmt_rl.acting.rollout import VecEnv
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.errors import UsageError

PADDING = -10  # the official mark of an action that is no action
OBSERVATION, ACTIONS = 4, 4  # of T-Maze
VALVE_HEADS = 2
TOKENS = 3  # of a step


class Steps(NamedTuple):
    """Consecutive steps of T-Maze as the official models take them."""

    states: Tensor  # (B, K, 4)
    actions: Tensor | None  # (B, K, 1), in acting one fewer; None: no action yet
    returns: Tensor  # (B, K, 1)


class Official(ABC):
    """An official model with its training step and its acting.

    Args:
        checkout: folder of a clone of https://github.com/CognitiveAISystems/RATE.
        size: sizes of the model.

    Raises:
        UsageError: the folder doesn't hold the model.
    """

    def __init__(self, checkout: Path, size: Size) -> None:
        self.segment_length = size.segment_length
        torch.manual_seed(0)
        self.model = self.build(checkout, size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.01)

    @abstractmethod
    def build(self, checkout: Path, size: Size) -> nn.Module:
        """Return the official model."""

    @abstractmethod
    def initial_memory(self, batch_size: int) -> Any:
        """Return the memory of a first segment."""

    @abstractmethod
    def detached(self, memory: Any) -> Any:
        """Return the memory without its graph."""

    @abstractmethod
    def forward(self, steps: Steps, targets: Tensor | None, memory: Any, segment: int) -> tuple[Tensor, Any]:
        """Return the logits (B, K, 4) of a segment's actions, and the memory for the next segment."""

    def train(self, segments: Sequence[Steps]) -> None:
        """Step the optimiser once a segment; no gradient passes from one to the segment before."""
        self.model.train()
        memory = self.initial_memory(len(segments[0].states))
        for index, steps in enumerate(segments):
            if index:
                memory = self.detached(memory)
            targets = steps.actions
            assert targets is not None
            logits, memory = self.forward(steps, targets, memory, index)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), ignore_index=PADDING)
            self.optimizer.zero_grad()
            loss.backward(retain_graph=True)  # as the official trainer has it
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    @torch.no_grad()
    def play(self, env: VecEnv, segments: int) -> int:
        """Act from the start of an episode, encoding the segment anew at each step; return the environment steps."""
        self.model.eval()
        observations, _ = env.reset(seed=0)
        memory = written = self.initial_memory(env.num_envs)
        steps = _first(observations)
        count = segments * self.segment_length
        for index in range(count):
            segment, place = divmod(index, self.segment_length)
            if segment and not place:
                memory, steps = written, Steps(steps.states[:, -1:], None, steps.returns[:, -1:])
            logits, written = self.forward(steps, None, memory, segment)
            actions = logits[:, -1].argmax(-1)
            observations, rewards, *_ = env.step(actions.numpy())
            steps = _longer(steps, actions, observations, rewards)
        return count * env.num_envs


def counted(model: nn.Module) -> dict[str, int]:
    """Count all parameters, and those that a training step has given a gradient."""
    parameters = list(model.parameters())
    trained = [parameter.numel() for parameter in parameters if parameter.grad is not None]
    return {"all": sum(parameter.numel() for parameter in parameters), "trained": sum(trained)}


def _first(observations: Any) -> Steps:
    states = torch.as_tensor(observations)[:, None]
    return Steps(states, None, torch.ones(len(states), 1, 1))


def _longer(steps: Steps, actions: Tensor, observations: Any, rewards: Any) -> Steps:
    """Return the steps with the action taken and the next observation."""
    states = torch.cat((steps.states, torch.as_tensor(observations)[:, None]), 1)
    action = actions[:, None, None].float()
    taken = action if steps.actions is None else torch.cat((steps.actions, action), 1)
    rest = steps.returns[:, -1:] - torch.as_tensor(rewards).float()[:, None, None]
    return Steps(states, taken, torch.cat((steps.returns, rest), 1))


def padded(batch: Batch, segment_length: int) -> list[Steps]:
    """Return the segments of a batch, each padded to its full length."""
    return [_padded(segment, segment_length) for segment in batch.segments]


def _padded(segment: Segment, segment_length: int) -> Steps:
    states, actions = segment.observations, segment.actions
    assert isinstance(states, Tensor)
    assert isinstance(actions, Tensor)
    missing = segment_length - states.shape[1]
    targets = torch.where(segment.mask, actions, PADDING)
    return Steps(
        F.pad(states, (0, 0, 0, missing)),
        F.pad(targets, (0, missing), value=PADDING)[..., None].float(),
        F.pad(segment.returns_to_go, (0, missing))[..., None],
    )


class OfficialRATE(Official):
    """The official RATE: memory tokens that see each other before and behind the segment, and relative positions."""

    def build(self, checkout: Path, size: Size) -> nn.Module:
        options = size.options
        model: nn.Module = _imported(checkout, "RATE.RATE_model").RATE(
            env_name="tmaze",
            state_dim=OBSERVATION,
            act_dim=ACTIONS,
            n_layer=options["layers"],
            n_head=options["heads"],
            n_head_ca=VALVE_HEADS,
            d_model=options["width"],
            d_head=options["head_width"],
            d_inner=size.official_hidden,
            skip_dec_ffn=size.official_hidden is None,
            dropout=options["dropout"],
            dropatt=0,
            mem_len=0,
            ext_len=0,
            num_mem_tokens=options["memory_tokens"],
            mem_at_end=True,
            mrv_act="relu",
            padding_idx=PADDING,
        )
        for bias in (model.r_w_bias, model.r_r_bias):  # which the official trainer draws
            assert isinstance(bias, Tensor)
            nn.init.xavier_uniform_(bias)
        return model

    def initial_memory(self, batch_size: int) -> Tensor:
        tokens = self.model.mem_tokens
        assert isinstance(tokens, Tensor)
        return tokens.repeat(1, batch_size, 1)

    def detached(self, memory: Tensor) -> Tensor:
        return memory.detach()

    def forward(self, steps: Steps, targets: Tensor | None, memory: Tensor, segment: int) -> tuple[Tensor, Tensor]:
        output = self.model(steps.states, steps.actions, steps.returns, targets, None, mem_tokens=memory)
        return output["logits"], output["mem_tokens"]


class OfficialELMUR(Official):
    """The official ELMUR: memory slots in every layer, written anew by each segment, and relative positions."""

    def build(self, checkout: Path, size: Size) -> nn.Module:
        options = size.options
        model: nn.Module = _imported(checkout, "offline_rl_baselines.ELMUR.model").ELMURModel(
            env_name="tmaze",
            state_dim=OBSERVATION,
            act_dim=ACTIONS,
            n_layer=options["layers"],
            n_head=options["heads"],
            d_model=options["width"],
            d_ff=size.official_hidden,
            memory_size=options["slots"],
            lru_blend_alpha=options["blend"],
            max_seq_len=options["distances"],
            dropout=options["dropout"],
            dropatt=0,
            padding_idx=PADDING,
        )
        return model

    def initial_memory(self, batch_size: int) -> list[Any]:
        memory: list[Any] = self.model.init_memory(batch_size, torch.device("cpu"))  # type: ignore[operator]
        return memory

    def detached(self, memory: list[Any]) -> list[Any]:
        return [slots._replace(vec=slots.vec.detach()) for slots in memory]

    def forward(
        self, steps: Steps, targets: Tensor | None, memory: list[Any], segment: int
    ) -> tuple[Tensor, list[Any]]:
        place = segment * self.segment_length * TOKENS
        output = self.model(
            steps.states, steps.actions, steps.returns, targets, None, memory_states=memory, pos_offset=place
        )
        return output["logits"], output["memory_states"]


def _imported(checkout: Path, name: str) -> Any:
    """Import a module of a checkout, whose folder joins the end of the search path."""
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"--official={checkout} has no module {name} that can be imported ({error}): give the folder of a clone of "
            "https://github.com/CognitiveAISystems/RATE"
        ) from error


MODELS: dict[str, type[Official]] = {"rate": OfficialRATE, "elmur": OfficialELMUR}
"""Official models by the name of our agent."""


def official(checkout: Path, size: Size) -> Official:
    """Return the official model at a size."""
    return MODELS[size.agent](checkout, size)


def check(checkout: Path, sizes: Iterable[Size]) -> None:
    """Raise UsageError if a checkout lacks a model of these sizes, before anything is measured."""
    for size in sizes:
        official(checkout, size)
