"""The base of all agents: what acts, is saved and is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, TypeAlias

from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import nn

from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.learnable import drop_texts
from rmt_rl.nn.sampling import BatchPart
from rmt_rl.space_checks import check_spaces
from rmt_rl.tokens import TokenName

Array: TypeAlias = NDArray[Any]


class AgentSpec(NamedTuple):
    """Facts of an agent's data that it is made for: spaces, and undiscounted returns to aim at and to scale by."""

    observation_space: Space[Any]
    action_space: Space[Any]
    target_return: float = 0.0
    return_scale: float = 1.0
    hindsight_classes: int = 0  # of its auxiliary loss (see `rmt_rl.task`); 0: it has none
    standardised: bool = False  # the agent scales its observations and actions, see `rmt_rl.nn.scaling`


class BaseAgent(nn.Module, ABC):
    """Base of everything that acts, is saved and is loaded. It is made from its own `Config` and a spec.

    `predict` has Stable-Baselines3's signature, so an agent is a `model` there and a `Policy` here.

    Attributes:
        Config: the class of its options.
        tokens: what it sees of each step, in this order.
        conditions: what only the prediction of the same step's action sees, beside the core's output.
        best_episodes: the share of a data set's episodes, those of the highest returns, that it learns from by default.
        learner: what trains it, as `module:Name`: a `rmt_rl.training.learner.AgentLearner`.
    """

    Config: ClassVar[type[Frozen]]
    tokens: tuple[TokenName, ...] = ("observation",)
    conditions: ClassVar[tuple[TokenName, ...]] = ()
    best_episodes: ClassVar[float] = 1.0
    learner: ClassVar[str]

    def __init__(self, config: Any, spec: AgentSpec) -> None:
        super().__init__()
        check_spaces(spec.observation_space, spec.action_space)
        self.config = config
        self.spec = spec

    @property
    def options_of_learning(self) -> frozenset[str]:
        """Names of options that shape nothing of the network, so that another run with its weights may change them."""
        return frozenset()

    def unwrap(self, observation: Any) -> tuple[Any, Any]:
        """Return the observation, and the return-to-go (B, 1) that `rmt_rl.wrappers` put beside it, if they did."""
        space = self.spec.observation_space
        inner = observation
        space_has_one = isinstance(space, spaces.Dict) and "return_to_go" in space.spaces
        if space_has_one and isinstance(observation, dict):
            inner = observation.get("observation")
        is_wrapped = isinstance(inner, dict) and "return_to_go" in inner
        if not is_wrapped:
            return drop_texts(observation, space), None
        if observation.keys() != {"observation", "return_to_go"}:
            keys = sorted(map(str, observation))
            raise UsageError(f"observation holds the keys {keys}; beside return_to_go only 'observation' is expected")
        return drop_texts(observation["observation"], space), observation["return_to_go"]

    def target_return(self, wanted: float | None) -> float | None:
        """Return the return to aim at: `wanted`, else the spec's; None if the agent isn't conditioned on returns.

        Raises:
            UsageError: a return is wanted, but the agent isn't conditioned on returns.
        """
        if "return_to_go" in (*self.tokens, *self.conditions):
            return self.spec.target_return if wanted is None else wanted
        if wanted is not None:
            raise UsageError(f"target_return={wanted}: this agent isn't conditioned on returns; leave it out")
        return None

    @abstractmethod
    def set_random_seed(self, seed: int | None) -> None:
        """Seed the sampling of actions (`deterministic=False`); None draws a fresh seed."""

    def sample_part(self, part: BatchPart) -> None:
        """Sample as if the rows were a part of a larger batch, with the random numbers that they would have there.

        Raises:
            UsageError: agents of this class can't.
        """
        raise UsageError(
            f"agent {type(self).__name__}: it has no `sample_part`, so its sampled actions can't be drawn in parts; "
            "leave out --shards or --sample"
        )

    def replace_actions(self, state: Any, actions: Any, replaced: Array) -> Any:
        """Return the state after these actions, if it knows the last ones; see `rmt_rl.task.Informed`."""
        return state

    @abstractmethod
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose actions, as Stable-Baselines3's policies do; unlike theirs, the default is the likeliest action.

        Args:
            observation: a value of the observation space, or a batch (B, ...) of them; or a Dict of it under
                `observation` with the `return_to_go` to condition on (see `rmt_rl.wrappers`).
            state: what the last call returned; None at first.
            episode_start: bool (B,), True for environments whose observation is the first of an episode.
            deterministic: choose the likeliest action; otherwise sample (see `set_random_seed`).

        Returns:
            Actions (B, ...), without B where the observation had none, and the state for the next call.

        Raises:
            UsageError: the observation's shape isn't the space's, or the arguments are of different batch sizes.
        """
