"""Bandit: 1 step an episode, 100 episodes a life; find out which of 5 arms pays most often, and keep to this arm.

An arm pays 1 with a probability of its own, else 0. The probabilities are uniform in [0, 1] and stay during a life. The
observation never changes: all that can be known comes from the agent's own actions and rewards.

The rules are written once, in `BanditVector`. `Bandit` wraps one of size 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._lanes import Lane, Lanes, Transition
from rmt_rl.envs._lives import seen_of

ID = "rmt_rl/Bandit-v0"
LIFETIME = 100

_WIDTH, _HEIGHT = 24, 96  # pixels of an arm in a picture
_PAYS, _REST, _EDGE, _CHOSEN = (0, 158, 115), (235, 235, 230), (40, 44, 52), (213, 94, 0)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_UNKNOWN = -1


class Config(Frozen):
    """Options of the bandit. The defaults are the training task."""

    arms: int = Field(5, ge=2, le=1000, description="arms, 2 to 1,000")


class BanditVector(Lanes[Config]):
    """Vectorised bandits in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 1), always 1.

    Actions: the arm to pull.

    Rewards: float64 (num_envs,): 1 with the arm's probability, else 0.

    An episode is a single pull, after which it terminates. `is_success` is True if no arm pays more often.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        arms = self.config.arms
        space = spaces.Box(0, 1, (1,), np.float32)
        super().__init__(num_envs, render_mode, space, spaces.Discrete(arms))
        self.probabilities = np.zeros((num_envs, arms))
        """The probability of each arm to pay, (num_envs, arms)."""
        self._pulled = np.full(num_envs, arms)

    def _start(self, lanes: Ints) -> None:
        for arm in range(self.config.arms):
            self.probabilities[lanes, arm] = _shares(self._streams.draw(lanes))

    def _start_again(self, lanes: Ints) -> None:
        """Keep the arms. The streams go on, so that pulls stay random."""

    def _advance(self, actions: Ints) -> Transition:
        begins = actions == self.config.arms
        self._pulled[:] = actions
        padded = np.column_stack([self.probabilities, np.zeros(self.num_envs)])
        chances = padded[np.arange(self.num_envs), actions]
        rewards = _shares(self._streams.draw()) < chances
        best = chances == self.probabilities.max(1)
        never = np.zeros(self.num_envs, bool)
        observations = np.ones((self.num_envs, 1), np.float32)
        return Transition(observations, rewards.astype(np.float64), ~begins, never, best)

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw a column for each arm, green up to its probability, with an orange foot if it was pulled last."""
        arms = self.config.arms
        image = np.full((_HEIGHT + 12, arms * _WIDTH, 3), _REST, np.uint8)
        for arm, probability in enumerate(self.probabilities[lane]):
            columns = slice(arm * _WIDTH, (arm + 1) * _WIDTH)
            image[_HEIGHT - int(probability * _HEIGHT) : _HEIGHT, columns] = _PAYS
            if arm == self._pulled[lane]:
                image[_HEIGHT:, columns] = _CHOSEN
        image[:, ::_WIDTH] = image[_HEIGHT] = _EDGE
        return image


def _shares(draws: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1) of 64 random bits each."""
    return (draws >> np.uint64(11)) / 2.0**53


class Bandit(Lane[Config]):
    """Single bandit: a `BanditVector` of size 1, without batch axis and autoreset."""

    vector = BanditVector


class Known(NamedTuple):
    """State of the expert in n environments.

    Attributes:
        pulls: pulls of each arm (n, arms).
        paid: sums of each arm's rewards (n, arms).
        last: the arm pulled last (n,); -1 before the first pull.
    """

    pulls: NDArray[np.float64]
    paid: NDArray[np.float64]
    last: Ints


class Expert:
    """Policy that pulls each arm once, and then the one of the highest upper confidence bound.

    The bound is mean + sqrt(ln(t) / (8 n)) after t pulls, n of the arm. It is a quarter as wide as that of UCB1 (Auer
    et al., 2002), which would still explore at the end of a life of 100 pulls. The expert acts on observations alone.

    Args:
        config: Options of the environment to play.
        seed: Unused, since the expert is deterministic.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._arms = config.arms

    def predict(
        self, observation: Any, state: Known | None = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Ints, Known]:
        """Choose an arm for each of n environments.

        Args:
            observation: Observations of lives. Those of single episodes show no reward, so nothing is learnt.
            state: What is known; None means nothing.
            episode_start: (n,), True where a life starts. All is forgotten there.
            deterministic: Unused, since the expert is deterministic.
        """
        rewards = seen_of(observation, episode_start).rewards
        known = self._initial(len(rewards))
        if state is not None:
            known = state if episode_start is None else _forgotten(state, np.asarray(episode_start, bool))
        known = _counted(known, rewards)
        tries = np.maximum(known.pulls, 1)
        total = np.maximum(known.pulls.sum(1, keepdims=True), 1)
        bounds = known.paid / tries + np.sqrt(np.log(total) / (8 * tries))
        arms = np.where(known.pulls == 0, np.inf, bounds).argmax(1)
        return arms, known._replace(last=arms)

    def replace_actions(self, state: Known, actions: Ints, replaced: Bools) -> Known:
        """Return the state after other actions than the chosen ones, see `Informed`."""
        return state._replace(last=np.where(replaced, actions, state.last))

    def _initial(self, count: int) -> Known:
        nothing = np.zeros((count, self._arms))
        return Known(nothing, nothing, np.full(count, _UNKNOWN))


def _counted(known: Known, rewards: NDArray[Any]) -> Known:
    """Return what is known after the last pulls paid these rewards."""
    arms = np.arange(known.pulls.shape[1])
    is_last = arms == known.last[:, None]
    return known._replace(pulls=known.pulls + is_last, paid=known.paid + is_last * rewards[:, None])


def _forgotten(known: Known, starts: Bools) -> Known:
    """Return what is known, without anything where a life starts."""
    keeps = ~starts[:, None]
    return Known(known.pulls * keeps, known.paid * keeps, np.where(starts, _UNKNOWN, known.last))


make = Bandit
make_vec = BanditVector
