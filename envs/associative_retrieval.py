"""Action Associative Retrieval: 3-90 steps; repeat at the end the own action that left the start state, 1-89 steps ago.

There are two states, S0 and S1. The agent starts in S0 and leaves it for S1 by action 0 or 1. In S1 it waits with
action 2. Before an episode's last step a flag is raised, and the agent must return to S0 by the same action that led to
S1. No observation ever shows this action: the agent must remember what it did.

The task follows RATE (Cherepanov et al., 2023, arXiv:2306.09459, appendix D), which trains on 90 steps and tests on
180. States, actions, observation and rewards are RATE's. Three rules are decided here:

- Refusals. RATE's task doesn't require both actions: a memoryless policy that takes action 0 first and last always
  succeeds. The task therefore can't test agents that choose their own actions. Here S0 refuses one of the two actions,
  drawn for each episode. A refused action leaves the agent in S0, and the other action is the way out. Whichever
  action is tried first, each action is the way out in half of the episodes, so no memoryless policy succeeds in more
  than half. `refusals=False` gives RATE's task, for data in which the expert draws the first action.
- A refused action costs a step of the episode's fixed length.
- Action 0 or 1 in S1 before the flag is raised is a return at the wrong time. The episode then ends in failure.

The rules are written once, in `AssociativeRetrievalVector`. `AssociativeRetrieval` wraps one of size 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from rmt_rl.config import Frozen, validated
from rmt_rl.envs._lanes import Lane, Lanes, Ordered, Transition

if TYPE_CHECKING:
    from rmt_rl.data.trajectory import Trajectory

ID = "rmt_rl/AssociativeRetrieval-v0"
HINDSIGHT_CLASSES = 2
"""Number of actions by which an episode can leave S0 and must return."""

WAIT = 2  # the action that stays in S1; actions 0 and 1 leave S0 and return to it
_NONE = -1  # neither action 0 nor action 1

_CELL = 16  # of a picture: pixels per cell
_WALL, _FLOOR, _TIME = (40, 44, 52), (235, 235, 230), (130, 132, 134)
_FLAG, _WAY, _OTHER, _AGENT = (86, 180, 233), (0, 158, 115), (213, 94, 0), (20, 20, 20)

Length = Annotated[int, Field(ge=3, le=10**9)]


class Config(Frozen):
    """Options of Action Associative Retrieval. The defaults are the training task, at most 90 steps long."""

    episode_length: Length | Annotated[tuple[Length, Length], Ordered] = Field(
        (3, 90), description="steps of an episode: a number >= 3, or an inclusive range [low, high] to draw from"
    )
    refusals: bool = Field(
        True,
        description="let S0 refuse action 0 or 1, drawn for each episode, so that agents need both actions",
    )

    @property
    def lengths(self) -> tuple[int, int]:
        """Length of the shortest and of the longest episode, in steps."""
        length = self.episode_length
        return (length, length) if isinstance(length, int) else length


class AssociativeRetrievalVector(Lanes[Config]):
    """Vectorised Action Associative Retrieval in NumPy, with Gymnasium's next-step autoreset.

    Observations: float32 (num_envs, 3): state, 0 or 1; flag, 1 if the next step is the episode's last, else 0;
    noise, uniform in {-1, 0, 1}.

    Actions: 0 and 1 leave S0, unless refused. In S1 the action by which the agent came returns to S0. 2 waits.

    Rewards: float64 (num_envs,): 1 for returning in the last step by the action that left S0, -1 for any other end of
    the episode, else 0.

    An episode terminates with the return in the last step, with action 0 or 1 in S1 before the last step, or after its
    length. The last info holds `is_success`.

    Args:
        num_envs: Number of environments.
        render_mode: None or "rgb_array".
        options: The fields of `Config`.

    Raises:
        UsageError: an argument is invalid.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **options: Any) -> None:
        self.config = validated(Config, options)
        low, high = np.array([[0, 1], [0, 1], [-1, 1]], np.float32).T
        super().__init__(num_envs, render_mode, spaces.Box(low, high, dtype=np.float32), spaces.Discrete(3))
        self._time, self._length, self._way, self._refused = np.zeros((4, num_envs), np.int64)
        self._inside = np.zeros(num_envs, bool)  # in S1

    def _start(self, lanes: NDArray[np.int64]) -> None:
        low, high = self.config.lengths
        bits = self._streams.draw(lanes)
        self._length[lanes] = low + (bits >> 1).astype(np.int64) % (high - low + 1)
        self._refused[lanes] = bits & 1 if self.config.refusals else _NONE
        self._way[lanes], self._inside[lanes], self._time[lanes] = _NONE, False, -1

    def _advance(self, actions: NDArray[np.int64]) -> Transition:
        self._time += 1
        moves = actions < WAIT
        leaves, returns = moves & ~self._inside & (actions != self._refused), moves & self._inside
        by_the_way = returns & (actions == self._way)
        np.copyto(self._way, actions, where=leaves)
        self._inside = (self._inside | leaves) & ~by_the_way

        due = self._time == self._length
        successes, terminations = by_the_way & due, returns | due
        rewards = successes * 2.0 - terminations
        flags = (self._time == self._length - 1) & ~terminations
        return Transition(self._observe(flags), rewards, terminations, np.zeros(self.num_envs, bool), successes)

    def _observe(self, flags: NDArray[np.bool_]) -> NDArray[np.float32]:
        observations = np.empty((self.num_envs, 3), np.float32)
        observations[:, 0], observations[:, 1] = self._inside, flags
        observations[:, 2] = self._streams.draw() % 3
        observations[:, 2] -= 1
        return observations

    def _picture(self, lane: int) -> NDArray[np.uint8]:
        """Draw S0 on the left and S1 on the right, joined by the way of action 0 (above) and of action 1 (below).

        The way to take back is green, and the other way orange. S0 is blue when the agent must return. The agent is
        black. The grey bar grows with time.
        """
        time, length, way, refused = (int(each[lane]) for each in (self._time, self._length, self._way, self._refused))
        if way == _NONE and refused != _NONE:
            way = 1 - refused
        cells = np.full((6, 11, 3), _WALL, np.uint8)
        cells[1:4, [1, 2]] = _FLAG if time == length - 1 else _FLOOR
        cells[1:4, [8, 9]] = _FLOOR
        for action in (0, 1):
            cells[1 + 2 * action, 3:8] = _FLOOR if way == _NONE else _WAY if way == action else _OTHER
        image = cells.repeat(_CELL, 0).repeat(_CELL, 1)
        left = _CELL * (9 if self._inside[lane] else 1)
        image[2 * _CELL + 3 : 3 * _CELL - 3, left + 3 : left + _CELL - 3] = _AGENT
        image[5 * _CELL : -4, _CELL : _CELL + 9 * _CELL * time // length] = _TIME
        return image


class AssociativeRetrieval(Lane[Config]):
    """Single Action Associative Retrieval task: an `AssociativeRetrievalVector` of size 1, without autoreset."""

    vector = AssociativeRetrievalVector


class Expert:
    """Policy that draws its first action, takes the other action if refused, and remembers its last action in S0.

    Args:
        config: Options of the environment to play.
        seed: Seed of these draws.
    """

    def __init__(self, config: Config, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def predict(
        self,
        observation: NDArray[np.float32] | dict[str, NDArray[np.float32]],
        state: NDArray[np.int64] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose an action for each of n environments.

        Args:
            observation: (n, 3), or a Dict with this array under "observation".
            state: The last action in S0 (n,), -1 where there was none. None means all -1.
            episode_start: (n,), True where the observation is an episode's first. The old action is forgotten there.
            deterministic: Unused: the expert always draws an action where it has no reason to prefer one.

        Returns:
            Actions (n,) and the next state. In S1 with the flag raised and no action remembered, the expert guesses.
        """
        observation = observation["observation"] if isinstance(observation, dict) else observation
        inside, flag = observation[:, 0] == 1, observation[:, 1] == 1
        done = np.full(len(observation), _NONE, np.int64) if state is None else state
        if episode_start is not None:
            done = np.where(episode_start, _NONE, done)
        guess = self._random.integers(2, size=len(observation))
        choice = np.where(done == _NONE, guess, np.where(inside, done, 1 - done))
        return np.where(inside & ~flag, WAIT, choice), np.where(inside, done, choice)

    def replace_actions(
        self, state: NDArray[np.int64], actions: NDArray[np.int64], replaced: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Remember what was done in S0 in place of the expert's actions; see `rmt_rl.task.Informed`."""
        return np.where(replaced & (actions != WAIT), actions, state)


def hindsight(trajectory: Trajectory) -> NDArray[np.int64]:
    """Return for each step the action that leads back to S0, int64 (T,): the action that led to S1, else -1."""
    inside = np.asarray(trajectory.observations)[:-1, 0] == 1
    led_there = np.asarray(trajectory.actions)[inside.argmax() - 1] if inside.any() else _NONE
    return np.full(len(trajectory), led_there, np.int64)


def decisive(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the step that must return to S0: the last step, if S1 was reached before."""
    inside, flag = np.asarray(trajectory.observations)[:-1, :2].T == 1
    both: NDArray[np.bool_] = inside & flag
    return both


def idle(trajectory: Trajectory) -> NDArray[np.bool_]:
    """Return the mask, bool (T,), of the steps that wait in S1."""
    observations = np.asarray(trajectory.observations)[:-1]
    waiting: NDArray[np.bool_] = (observations[:, 0] == 1) & (observations[:, 1] == 0)
    return waiting


make = AssociativeRetrieval
make_vec = AssociativeRetrievalVector
