"""Stable-Baselines3's on-policy algorithms as agents: their networks act, are saved and are loaded like all agents.

Dimensions: B environments, N numbers of a vector; an image has C channels, H rows and W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from operator import itemgetter
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatdim
from gymnasium.wrappers import TransformAction, TransformObservation
from numpy.typing import NDArray
from pydantic import Field
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rmt_rl.agent import AgentSpec, BaseAgent
from rmt_rl.categories import categories
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.learnable import LeafSpace
from rmt_rl.nn.outputs import not_finite
from rmt_rl.nn.sampling import BatchPart
from rmt_rl.observations import ObservedBatch, check_batch_size, observed_batch, only_value
from rmt_rl.trees import Place, leaves, map_leaves, part_at

Array = NDArray[Any]
AnySpace = Space[Any]


class SB3Config(Frozen):
    """Options of all these agents, with the names and defaults that the algorithm or its policy gives them."""

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
    policy_kind: ClassVar[str] = "Policy"  # last part of its policies' names: MlpPolicy, MlpLstmPolicy

    def __init__(self, config: SB3Config, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.actions = ActionView(spec.action_space)
        self.view = View(spec.observation_space)
        self.policy = self._policy_class(
            self.view.space,
            self.actions.space,
            lambda _: config.learning_rate,
            **self._options(of_policy=True),
        )
        self.random = np.random.default_rng()  # seeds the sampling of actions
        self.part: BatchPart | None = None  # of a larger batch, whose random numbers are drawn

    @property
    def _policy_class(self) -> Any:
        return self.Algorithm.policy_aliases[self.view.network + self.policy_kind]

    @property
    def options_of_learning(self) -> frozenset[str]:
        return frozenset(signature(self.Algorithm).parameters)

    def _options(self, of_policy: bool) -> dict[str, Any]:
        """Return the options of the policy, or else those of the algorithm."""
        options = dict(self.config)
        options["activation_fn"] = getattr(nn, options["activation_fn"])
        if options["net_arch"] is not None:
            options["net_arch"] = list(options["net_arch"])
        chosen = {}
        for name, value in options.items():
            is_of_policy = name not in self.options_of_learning
            if is_of_policy == of_policy:
                chosen[name] = value
        return chosen

    def make_algorithm(self, env: VecEnv, device: str) -> OnPolicyAlgorithm:
        """Return the algorithm that trains this agent's network from now on.

        Args:
            env: its observations are values of `view.space`, its actions of `actions.space`; see `viewed`.
            device: the network is moved there.
        """
        algorithm = self.Algorithm(
            self._policy_class,
            env,
            policy_kwargs=self._options(of_policy=True),
            device=device,
            **self._options(of_policy=False),
        )
        algorithm.policy.load_state_dict(self.policy.state_dict())
        self.policy = algorithm.policy
        return algorithm

    def viewed(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """Return an environment that observes and acts in the spaces of the network."""
        observing = TransformObservation(env, self.view.single, self.view.space)
        return TransformAction(observing, self.actions.single, self.actions.space)

    def set_random_seed(self, seed: int | None) -> None:
        self.random = np.random.default_rng(seed)

    def sample_part(self, part: BatchPart) -> None:
        self.part = part

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        original, _ = self.unwrap(observation)
        batch = self.view.batch(original)
        if episode_start is not None:
            check_batch_size("episode_start", np.size(episode_start), batch.size)
            episode_start = np.atleast_1d(episode_start)
        if state is not None:  # hidden and cell state of an LSTM, each (layers, B, width)
            hidden = state[0]
            check_batch_size("state", hidden.shape[1], batch.size)
        with self._seeded(deterministic):
            try:
                actions, state = self._choose(batch.values, state, episode_start, deterministic)
            except ValueError as error:  # PyTorch's distributions refuse parameters that aren't finite
                raise not_finite() from error
        if not np.isfinite(actions).all():  # of a deviation that is infinite
            raise not_finite()
        originals = self.actions.originals(actions)
        return only_value(originals, self.spec.action_space) if batch.is_single else originals, state

    def _choose(self, values: Any, state: Any, episode_start: Array | None, deterministic: bool) -> tuple[Array, Any]:
        """Return actions of `actions.space` and the next state.

        The policy's distributions draw for all rows of a batch. A part of a larger batch is therefore filled up with
        copies of its first row, whose actions are dropped.
        """
        policy: BasePolicy = self.policy
        if deterministic or self.part is None:
            return policy.predict(values, state, episode_start, deterministic)
        rows = np.zeros(self.part.whole, np.int64)
        rows[self.part.rows] = np.arange(self.part.size)
        whole_values = map_leaves(itemgetter(rows), values)
        whole_state = None if state is None else tuple(part[:, rows] for part in state)
        whole_start = None if episode_start is None else episode_start[rows]
        actions, following = policy.predict(whole_values, whole_state, whole_start, deterministic)
        if following is not None:
            following = tuple(part[:, self.part.rows] for part in following)
        return actions[self.part.rows], following

    @contextmanager
    def _seeded(self, deterministic: bool) -> Iterator[None]:
        """Seed PyTorch's global generator, from which the policy's distributions draw, and restore it afterwards."""
        policy: BasePolicy = self.policy
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=not deterministic):
            if not deterministic:
                seed = int(self.random.integers(2**63))
                torch.manual_seed(seed)
            yield


class View:
    """An observation as a network sees it: images with channels first, and one vector of all the rest.

    The numbers are those that Stable-Baselines3's networks make of the spaces that they know: categories one-hot,
    pixels from 0 to 1. Tuples and nested Dicts work too. An image that is too small for the convolutions is part of the
    vector. If there is no number at all, the vector is one zero: networks need an input. `space` is the Box of the
    vector or image, or a Dict if there are several.

    Raises:
        UsageError: the space has a part that is no Box, Discrete, MultiDiscrete or MultiBinary.
    """

    def __init__(self, space: AnySpace) -> None:
        self.original = space
        self.leaves = _sorted_leaves(space)
        self.images: dict[Place, AnySpace] = {}
        self.rest: dict[Place, AnySpace] = {}
        for place, leaf in self.leaves.items():
            if _is_large_image(leaf):
                self.images[place] = leaf
            elif flatdim(leaf) > 0:
                self.rest[place] = leaf
        self.has_vector = bool(self.rest) or not self.images
        boxes: list[spaces.Box] = []
        if self.has_vector:
            numbers = sum(flatdim(leaf) for leaf in self.rest.values())
            vector = spaces.Box(-np.inf, np.inf, (max(numbers, 1),), np.float32)
            boxes.append(vector)
        for leaf in self.images.values():
            image = spaces.Box(0, 255, _image_shape(leaf), np.uint8)
            boxes.append(image)
        self.space = boxes[0] if len(boxes) == 1 else spaces.Dict(_by_name(boxes))

    @property
    def network(self) -> str:
        """Stable-Baselines3's name for the networks that `space` is for."""
        if isinstance(self.space, spaces.Dict):
            return "MultiInput"
        return "Cnn" if self.images else "Mlp"

    def single(self, observation: Any) -> Any:
        """Return the value of `View.space` for one value of the original space."""
        batch = self.batch(observation)
        return map_leaves(itemgetter(0), batch.values)

    def batch(self, observation: Any) -> ObservedBatch:
        """Return the values of `View.space` for one value of the original space, or for a batch (B, ...) of them.

        Raises:
            UsageError: the observation isn't one of the space, see `observed_batch`.
        """
        batch = observed_batch(observation, self.original)
        parts = []
        if self.has_vector:
            vectors = [_as_vector(leaf, part_at(batch.values, place)) for place, leaf in self.rest.items()]
            zero = np.zeros((batch.size, 1), np.float32)
            vector = np.concatenate(vectors, 1) if vectors else zero
            parts.append(vector)
        for place, leaf in self.images.items():
            pixels = part_at(batch.values, place)
            image = _channels_first(leaf, pixels.astype(np.uint8))
            parts.append(image)
        values = parts[0] if len(parts) == 1 else _by_name(parts)
        return batch._replace(values=values)


def _by_name(parts: list[Any]) -> dict[str, Any]:
    """Return the parts as a value of a Dict space, or as the Dict's spaces."""
    named = {}
    for index, part in enumerate(parts):
        named[f"part{index}"] = part
    return named


def _sorted_leaves(space: AnySpace) -> dict[Place, AnySpace]:
    """Return the leaves of a space by place, sorted, since the order of a Dict's keys isn't part of the space.

    Raises:
        UsageError: a leaf is no Box, Discrete, MultiDiscrete or MultiBinary.
    """
    found = sorted(leaves(space), key=itemgetter(0))
    for _, leaf in found:
        if not isinstance(leaf, LeafSpace):
            raise UsageError(
                f"space={leaf} has no encoder; use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple of these "
                "(a gymnasium.wrappers.TransformObservation can turn it into one)"
            )
    return dict(found)


def _shape(leaf: AnySpace) -> tuple[int, ...]:
    return leaf.shape or ()


def _is_large_image(leaf: AnySpace) -> bool:
    """Return True for images that fit Stable-Baselines3's convolutions: 36 pixels a side, channels first or last."""
    if not is_image_space(leaf):
        return False
    sizes = _shape(leaf)
    channels, smallest_side, _ = sorted(sizes)  # the number of channels is smaller
    channels_in_the_middle = int(np.argmin(sizes)) == 1
    return channels > 0 and smallest_side >= 36 and not channels_in_the_middle


def _image_shape(leaf: AnySpace) -> tuple[int, ...]:
    """Return the shape (C, H, W) of a space's images."""
    shape = _shape(leaf)
    example = np.zeros((1, *shape), np.uint8)
    images = _channels_first(leaf, example)
    return images.shape[1:]


def _channels_first(leaf: AnySpace, images: Array) -> Array:
    """Return images (B, H, W, C) or (B, C, H, W) as (B, C, H, W)."""
    if isinstance(leaf, spaces.Box) and is_image_space_channels_first(leaf):
        return images
    return np.moveaxis(images, -1, 1)


def _as_vector(leaf: AnySpace, values: Array) -> Array:
    """Return values (B, ...) as float32 (B, N)."""
    numbers = int(np.prod(_shape(leaf)))
    flat = values.reshape(len(values), numbers)
    variables = categories(leaf)
    if variables is None or isinstance(leaf, spaces.MultiBinary | spaces.Box):
        largest = 255 if is_image_space(leaf) else 1
        return flat.astype(np.float32) / largest
    return _one_hot(flat - variables.starts, variables.sizes)


def _one_hot(chosen: Array, sizes: Array) -> Array:
    """Return M categories (B, M), counted from 0, as (B, N); `sizes` are their numbers of values, and N is the sum."""
    shape = (len(chosen), sizes.sum())
    numbers = np.zeros(shape, np.float32)
    offsets = np.cumsum(sizes) - sizes
    places = chosen + offsets
    np.put_along_axis(numbers, places, 1, 1)
    return numbers


class ActionView:
    """Actions as a network chooses them: of one dimension, counted from 0, in dtypes that PyTorch computes with.

    Stable-Baselines3 has distributions for such actions alone. `space` is a Discrete, MultiDiscrete, MultiBinary or a
    Box of floats with finite bounds.

    Raises:
        UsageError: Stable-Baselines3 has no distribution for the action space.
    """

    def __init__(self, space: AnySpace) -> None:
        self.original = space
        variables = categories(space)
        self.starts = None if variables is None else variables.starts
        match space:
            case spaces.Discrete():
                self.space: AnySpace = spaces.Discrete(int(space.n))
            case spaces.MultiBinary():
                self.space = spaces.MultiBinary(int(np.prod(space.shape)))
                # RecurrentPPO keeps actions in this dtype, and its loss refuses a MultiBinary's int8.
                vars(self.space)["dtype"] = np.dtype(np.float32)
            case spaces.Box() if space.dtype.kind == "f" and space.is_bounded():
                self.space = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype)
            case _ if variables is not None:
                self.space = spaces.MultiDiscrete(variables.sizes)
            case _:
                raise UsageError(
                    f"action_space={space}: Stable-Baselines3 has no distribution for it; it has distributions for "
                    "Discrete, MultiDiscrete and MultiBinary, and for a Box of bools or of floats with finite bounds. "
                    "Or choose an agent that learns from data sets (rmt-rl list)"
                )

    def originals(self, actions: Array) -> Array:
        """Return actions (B, ...) of the original space for actions of `space`."""
        shape = (len(actions), *_shape(self.original))
        counted = actions if self.starts is None else actions + self.starts
        return counted.reshape(shape).astype(self.original.dtype, copy=False)

    def single(self, action: Any) -> Any:
        """Return one action of the original space for one action of `space`."""
        batch = np.asarray(action)[None]
        return only_value(self.originals(batch), self.original)
