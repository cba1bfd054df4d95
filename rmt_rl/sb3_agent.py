"""Stable-Baselines3's on-policy algorithms as agents: their networks act, are saved and are loaded like any other's.

Dimensions: B lanes, N numbers of a vector; an image has C channels, H rows and W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from inspect import signature
from operator import getitem
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatdim
from numpy.typing import NDArray
from pydantic import Field
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rmt_rl.agent import AgentSpec, BaseAgent, check_batch_size
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.trees import map_leaves

Array = NDArray[Any]


class SB3Config(Frozen):
    """What all these agents have. Each option is one of the algorithm or of its policy, with its name and default."""

    n_steps: int = Field(2048, ge=2, description="steps of each environment in a round")
    learning_rate: float = Field(3e-4, gt=0, description="learning rate of Adam")
    net_arch: tuple[int, ...] | None = Field(
        None, description="widths of hidden layers, the same for policy and value (unset: 64 64; for images none)"
    )
    activation_fn: Literal["Tanh", "ReLU", "ELU", "GELU"] = Field("Tanh", description="activation of hidden layers")
    ortho_init: bool = Field(True, description="orthogonal initial weights")


class SB3Agent(BaseAgent):
    """An agent whose network a Stable-Baselines3 algorithm trains; `policy` is that network.

    Raises:
        UsageError: the observation space has a part that is no Box, Discrete, MultiDiscrete or MultiBinary, or
            Stable-Baselines3 has no distribution for the action space.
    """

    Config: ClassVar[type[SB3Config]] = SB3Config
    learner = "rmt_rl.training.online:OnlineLearner"
    Algorithm: ClassVar[type[OnPolicyAlgorithm]]
    policy_kind: ClassVar[str] = "Policy"  # how the names of its policies end: MlpPolicy, MlpLstmPolicy

    def __init__(self, config: SB3Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        _check_actions(spec.action_space)
        self.view = View(spec.observation_space)
        self.policy = self._policy_class(
            self.view.space, spec.action_space, lambda _: config.learning_rate, **self._options(of_policy=True)
        )
        self.random = np.random.default_rng()  # of sampled actions

    @property
    def _policy_class(self) -> Any:
        return self.Algorithm.policy_aliases[self.view.network + self.policy_kind]

    def _options(self, of_policy: bool) -> dict[str, Any]:
        """The options that are the policy's, or else those that are the algorithm's."""
        options = dict(self.config)
        options["activation_fn"] = getattr(nn, options["activation_fn"])
        options["net_arch"] = None if options["net_arch"] is None else list(options["net_arch"])
        known = signature(self.Algorithm).parameters
        return {name: value for name, value in options.items() if (name not in known) == of_policy}

    def make_algorithm(self, env: VecEnv, device: str) -> OnPolicyAlgorithm:
        """Return the algorithm that from now on trains this agent's network.

        Args:
            env: observes what `view` shows.
            device: where the network is moved to.
        """
        policy_options = self._options(of_policy=True)
        algorithm = self.Algorithm(
            self._policy_class, env, policy_kwargs=policy_options, device=device, **self._options(of_policy=False)
        )
        algorithm.policy.load_state_dict(self.policy.state_dict())
        self.policy = algorithm.policy
        return algorithm

    def set_random_seed(self, seed: int | None) -> None:
        self.random = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        seen, lanes, single = self.view.batch(self.unwrap(observation)[0])
        if episode_start is not None:
            check_batch_size("episode_start", np.size(episode_start), lanes)
            episode_start = np.atleast_1d(episode_start)
        if state is not None:  # hidden and cell state of an LSTM, each (layers, B, width)
            check_batch_size("state", state[0].shape[1], lanes)
        policy: BasePolicy = self.policy
        devices = [policy.device] if policy.device.type == "cuda" else []
        # Its distributions draw from PyTorch's global generator.
        with torch.random.fork_rng(devices, enabled=not deterministic):
            if not deterministic:
                torch.manual_seed(int(self.random.integers(2**63)))
            actions, state = policy.predict(seen, state, episode_start, deterministic)
        actions = actions.astype(self.spec.action_space.dtype, copy=False)
        return actions[0] if single else actions, state


Place = tuple[Any, ...]  # the keys and indices that lead to a part of a Dict or Tuple


class View:
    """What a network sees of an observation: images with channels first, and one vector of all the rest.

    The numbers are those that Stable-Baselines3's networks make of the spaces they know (categories one-hot, pixels
    from 0 to 1), but from Tuples and nested Dicts too. An image that is too small for its convolutions is part of the
    vector. `space` is the Box of the vector or image, or a Dict where there is more than one.

    Raises:
        UsageError: the space has a part that is no Box, Discrete, MultiDiscrete or MultiBinary.
    """

    def __init__(self, space: Space[Any]) -> None:
        self.leaves = dict(_leaves(space))
        self.images = [path for path, leaf in self.leaves.items() if _is_large_image(leaf)]
        self.rest = [path for path in self.leaves if path not in self.images]
        shown: list[spaces.Box] = []
        if self.rest:
            numbers = sum(flatdim(self.leaves[path]) for path in self.rest)
            shown.append(spaces.Box(-np.inf, np.inf, (numbers,), np.float32))
        for path in self.images:
            pixels = np.zeros((1, *_shape(self.leaves[path])), np.uint8)
            shown.append(spaces.Box(0, 255, _channels_first(self.leaves[path], pixels).shape[1:], np.uint8))
        self.space = shown[0] if len(shown) == 1 else spaces.Dict(_named(shown))

    @property
    def network(self) -> str:
        """Which of Stable-Baselines3's networks `space` is for."""
        if isinstance(self.space, spaces.Dict):
            return "MultiInput"
        return "Cnn" if self.images else "Mlp"

    def single(self, observation: Any) -> Any:
        """What is seen of one value of the space: a value of `View.space`."""
        seen, _, _ = self.batch(observation)
        return map_leaves(lambda part: part[0], seen)

    def batch(self, observation: Any) -> tuple[Any, int, bool]:
        """What is seen of a value of the space, or of a batch (B, ...) of them.

        Returns:
            Values of `View.space`, with a dimension B in front; B; and whether the observation came without it.

        Raises:
            UsageError: the observation's shape isn't the space's.
        """
        values = {path: np.asarray(reduce(getitem, path, observation)) for path in self.leaves}
        path, leaf = next(iter(self.leaves.items()))
        given, expected = values[path].shape, _shape(leaf)
        if expected not in (given, given[1:]) or len(given) > len(expected) + 1:
            raise UsageError(f"observation has shape {given}; give one of shape {expected}, or a batch of them")
        if single := given == expected:
            values = {path: value[None] for path, value in values.items()}
        shown = [_channels_first(self.leaves[path], values[path]) for path in self.images]
        if self.rest:
            shown.insert(0, np.concatenate([_numbers(self.leaves[path], values[path]) for path in self.rest], 1))
        return shown[0] if len(shown) == 1 else _named(shown), len(values[path]), single


def _named(parts: list[Any]) -> dict[str, Any]:
    return {f"part{index}": part for index, part in enumerate(parts)}


def _leaves(space: Space[Any], path: Place = ()) -> Iterator[tuple[Place, Space[Any]]]:
    """The parts of a space that have no parts themselves, a Dict's sorted: their order isn't part of the space."""
    parts: list[tuple[Any, Space[Any]]]
    match space:
        case spaces.Dict():
            parts = [(key, space[key]) for key in sorted(space)]
        case spaces.Tuple():
            parts = list(enumerate(space.spaces))
        case spaces.Box() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            yield path, space
            return
        case _:
            raise UsageError(
                f"space={space} has no encoder; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these "
                "(a gymnasium.wrappers.TransformObservation can turn it into one)"
            )
    for key, part in parts:
        yield from _leaves(part, (*path, key))


def _shape(leaf: Space[Any]) -> tuple[int, ...]:
    return leaf.shape or ()


def _is_large_image(leaf: Space[Any]) -> bool:
    """Whether Stable-Baselines3's convolutions fit it: 36 pixels a side, and channels, the least, first or last."""
    sizes = _shape(leaf)
    return is_image_space(leaf) and sorted(sizes)[1] >= 36 and int(np.argmin(sizes)) != 1


def _channels_first(leaf: Space[Any], values: Array) -> Array:
    """Images (B, H, W, C) or (B, C, H, W) as (B, C, H, W)."""
    first = isinstance(leaf, spaces.Box) and is_image_space_channels_first(leaf)
    return values if first else np.moveaxis(values, -1, 1)


def _numbers(leaf: Space[Any], values: Array) -> Array:
    """Values (B, ...) as float32 (B, N)."""
    flat = values.reshape(len(values), -1)
    match leaf:
        case spaces.Discrete():
            return _one_hot(flat - leaf.start, np.array([leaf.n]))
        case spaces.MultiDiscrete():
            return _one_hot(flat - leaf.start.ravel(), leaf.nvec.ravel())
        case _:
            return flat.astype(np.float32) / (255 if is_image_space(leaf) else 1)


def _one_hot(categories: Array, sizes: Array) -> Array:
    """Categories (B, M), counted from 0, of M sizes as (B, N), N their sum."""
    numbers = np.zeros((len(categories), sizes.sum()), np.float32)
    np.put_along_axis(numbers, categories.astype(np.int64) + np.cumsum(sizes) - sizes, 1, 1)
    return numbers


def _check_actions(space: Space[Any]) -> None:
    match space:
        case spaces.Discrete():
            known = space.start == 0
        case spaces.MultiDiscrete():
            known = space.nvec.ndim == 1 and not space.start.any()
        case spaces.MultiBinary():
            known = isinstance(space.n, int)
        case spaces.Box():
            known = space.dtype.kind == "f" and space.is_bounded()
        case _:
            known = False
    if not known:
        raise UsageError(
            f"action_space={space}: Stable-Baselines3 has no distribution for it. It has for Discrete, MultiDiscrete "
            "and MultiBinary of one dimension counted from 0, and a Box of floats with finite bounds; or choose an "
            "agent that learns from data sets (rmt-rl list)"
        )
