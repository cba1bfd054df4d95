"""Episodes for the tests of this folder. Their numbers tell of which episode and step they are."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from rmt_rl.data.segment import Segment, Span, Tensors
from rmt_rl.data.trajectory import Arrays, Trajectory
from rmt_rl.data.writing import write_dataset

SPACE = spaces.Dict({"image": spaces.Box(0, 255, (32, 32, 3), np.uint8), "place": spaces.Box(-1e6, 1e6, (2,))})
ACTIONS = spaces.Tuple((spaces.Discrete(5), spaces.Box(-1, 1, (1,))))


def episode(number: int, length: int) -> Trajectory:
    """Return an episode of nonzero values: observation t is (number + 1, t + 1), action t % 4 + 1, reward t + 1."""
    ends = np.arange(length) == length - 1
    places = np.stack([np.full(length + 1, number + 1), np.arange(length + 1) + 1], axis=1).astype(np.float32)
    steps = np.arange(length)
    return Trajectory(places, steps % 4 + 1, steps + 1.0, ends, np.zeros(length, np.bool_), seed=number)


def tree_episode(number: int, length: int) -> Trajectory:
    """Return an episode whose observations are values of `SPACE` and whose actions are values of `ACTIONS`."""
    flat = episode(number, length)
    generator = np.random.default_rng(number)
    image = generator.integers(0, 256, (length + 1, 32, 32, 3), dtype=np.uint8)
    observations: Arrays = {"place": flat.observations, "image": image}
    actions: Arrays = (flat.actions, generator.random((length, 1), np.float32))
    return Trajectory(observations, actions, flat.rewards, flat.terminations, flat.truncations)


def segment_of(
    observations: Tensors, actions: Tensors, returns: Tensor, lengths: Tensor, full: bool = False
) -> Segment:
    """Return a segment from inside an episode, with rewards of 0."""
    no = torch.zeros(returns.shape, dtype=torch.bool)
    return Segment(observations, actions, returns, torch.zeros(returns.shape), no, no, lengths, full)


class InMemory:
    """Episodes of these lengths in memory: the source that feeds read from (`rmt_rl.data.feed.Episodes`)."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths: npt.NDArray[np.int64] = np.array(lengths, dtype=np.int64)
        self._episodes = [episode(number, length) for number, length in enumerate(lengths)]

    def span(self, index: int, start: int, stop: int) -> Span:
        return Span(self.episode(index), start, stop)

    def episode(self, index: int) -> Trajectory:
        return self._episodes[index]


def write(dataset_id: str, episodes: Iterable[Trajectory]) -> None:
    """Write episodes that `episode` made as a data set."""
    write_dataset(
        dataset_id,
        episodes,
        env_spec=None,
        observation_space=spaces.Box(-1e6, 1e6, (2,)),
        action_space=spaces.Discrete(5),
        algorithm_name="counting",
        description="Numbers that tell where they came from.",
    )
