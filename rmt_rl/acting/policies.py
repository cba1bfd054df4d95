"""Policies that play the episodes of a data set: the expert of a task, trained agents, random actions, or a mix."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rmt_rl.categories import categories
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.export import RuntimeName
from rmt_rl.nn.scaling import has_bounds
from rmt_rl.runs.find import find_run
from rmt_rl.space_fit import fit_actions
from rmt_rl.task import Options, Policy, Task, divided, is_informed, is_privileged, takes_masks, task_config
from rmt_rl.trees import Place, leaves, map_space, part_at

EXPERT, RANDOM, HISTORIES = "expert", "random", "histories"  # policies that need no training run


class Share(NamedTuple):
    """One policy of a mix, and its part of the episodes."""

    policy: str  # `expert`, `random`, `histories`, or a training run, see `rmt_rl.runs.find`
    parts: float = 1.0

    @property
    def trained(self) -> bool:
        """True if the policy is the agent of a training run."""
        return self.policy not in (EXPERT, RANDOM, HISTORIES)

    @property
    def name(self) -> str:
        """The policy's name in the id of a data set; of a training run, the name of its folder."""
        return find_run(self.policy).name if self.trained else self.policy

    @property
    def folder(self) -> Path:
        """The folder of the training run."""
        return find_run(self.policy).folder


class Behaviour(NamedTuple):
    """The policies that play the episodes of a data set."""

    shares: tuple[Share, ...] = (Share(EXPERT),)
    sample: bool = False  # trained agents sample their actions; otherwise they take the most likely ones
    target_return: float | None = None  # for agents conditioned on a return; None: the best return of their own data
    checkpoint: str = "last"  # of trained agents
    noise: float = 0.0  # highest level of noise; see `Disturbed`
    runtime: RuntimeName = "torch"  # computes the steps of trained agents

    def episodes_by_share(self, episodes: int) -> list[int]:
        """Divide a number of episodes by the parts of the shares; the numbers sum to `episodes`.

        Raises:
            UsageError: `episodes` is less than 1, or a policy would play none.
        """
        if episodes < 1:
            raise UsageError(f"episodes = {episodes}: at least 1 is needed")
        parts = [share.parts for share in self.shares]
        borders = np.rint(np.cumsum([0.0, *parts]) / sum(parts) * episodes)
        counts = [int(count) for count in np.diff(borders)]
        for share, count in zip(self.shares, counts, strict=True):
            if count == 0:
                raise UsageError(
                    f"policy {share.policy!r} would play none of {episodes} episodes with {share.parts} of "
                    f"{sum(parts)} parts; collect more episodes or give it more parts"
                )
        return counts


EXPERT_ALONE = Behaviour()


def parse_share(text: str) -> Share:
    """Read `runs/ppo-0`, or `runs/ppo-0=2` for two parts of the episodes.

    Raises:
        UsageError: the number of parts is not positive, or is no number.
    """
    policy, equals, parts = text.rpartition("=")
    if not equals or Path(text).is_dir():
        return Share(text)
    try:
        share = Share(policy, float(parts))
    except ValueError:
        share = Share(policy, 0)
    if not 0 < share.parts < float("inf"):
        raise UsageError(f"policy {text!r}: give POLICY, or POLICY=PARTS with a number of parts above 0")
    return share


class RandomPolicy:
    """Acts uniformly at random."""

    def __init__(self, action_space: gymnasium.Space[Any], seed: int) -> None:
        """Draw from `action_space`, the action space of one environment, with a generator seeded by `seed`."""
        self._action_space = copy.deepcopy(action_space)
        # A separate stream: an environment with the same seed would draw the very same numbers.
        stream = np.random.SeedSequence(seed).spawn(1)[0]
        self._action_space.seed(int(stream.generate_state(1)[0]))

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Draw an action for every environment; `episode_start` has one entry for each.

        Raises:
            UsageError: the bounds of the action space are too far apart to draw between them.
        """
        if state is None:
            state = batch_space(self._action_space, len(episode_start))
        try:
            actions = fit_actions(state.sample(), state)  # Gymnasium rounds those of 64-bit integers to floats
            return actions, state
        except (OverflowError, ValueError):  # NumPy's, of bounds like the largest float64 or uint64
            raise UsageError(
                f"no random action can be drawn from action_space={self._action_space}, since its bounds are too far "
                "apart; use infinite or narrower bounds"
            ) from None


class _Around:
    """Base of policies that act by another one.

    Args:
        policy: the other policy.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """See `Privileged`; of no effect on other policies."""
        if is_privileged(self._policy):
            self._policy.attach(env)

    def _predicted(
        self, observation: Any, state: Any, starts: Any, deterministic: bool, masks: NDArray[Any] | None
    ) -> tuple[Any, Any]:
        """Return what the policy predicts, which gets the action masks if it takes masks."""
        policy = self._policy
        if masks is not None and takes_masks(policy):
            return policy.predict(observation, state, starts, deterministic, masks)
        return policy.predict(observation, state, starts, deterministic)


class Disturbed(_Around):
    """Acts as another policy, but with noise, so that the policy shows how to recover.

    Numbers between bounds get normal noise, whose standard deviation is the level of noise times half their range.
    Other actions are drawn from the action space in place of the policy's, with the level as probability. Each episode
    draws its own level, evenly between 0 and `noise`. So some episodes are nearly as the policy plays them, and show
    what is best. The policy is informed of what was done if it has the method of `Informed`.
    Random actions are among those that action masks allow.

    Args:
        policy: the policy.
        action_space: the action space of one environment.
        noise: the highest level.
        seed: seed of all draws.
    """

    takes_masks = True

    def __init__(self, policy: Policy, action_space: gymnasium.Space[Any], noise: float, seed: int) -> None:
        super().__init__(policy)
        self._action_space, self._noise = action_space, noise
        self._bounded = any(has_bounds(leaf) for _, leaf in leaves(action_space))
        # Separate streams: a random policy and an environment with the same seed draw from others.
        _, own, of_actions = np.random.SeedSequence(seed).spawn(3)
        self._generator = np.random.default_rng(own)
        self._random = RandomPolicy(action_space, int(of_actions.generate_state(1)[0]))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[Any, Any]:
        """Choose actions as the policy does, and disturb them; `episode_start` has one entry for each environment."""
        count = len(episode_start)
        inner, drawing, levels = (None, None, np.zeros(count)) if state is None else state
        levels = np.where(episode_start, self._generator.uniform(0, self._noise, count), levels)
        actions, inner = self._predicted(observation, inner, episode_start, deterministic, action_masks)
        random, drawing = self._random.predict(observation, drawing, episode_start)
        if action_masks is not None:
            random = _among_allowed(random, self._action_space, action_masks, self._generator)
        is_random = self._generator.random(count) < levels
        done = self._done(actions, random, is_random, levels)
        changed = levels > 0 if self._bounded else is_random
        if changed.any() and is_informed(self._policy):
            inner = self._policy.replace_actions(inner, done, changed)
        return done, (inner, drawing, levels)

    def _done(self, actions: Any, random: Any, is_random: NDArray[np.bool_], levels: NDArray[np.float64]) -> Any:
        """Return the actions (N, ...) with noise: random ones where `is_random`, bool (N,), but for bounded numbers."""

        def of_leaf(place: Place, leaf: gymnasium.Space[Any]) -> NDArray[Any]:
            chosen: NDArray[Any] = np.asarray(part_at(actions, place))
            if not has_bounds(leaf):
                return np.where(_column(is_random, chosen), part_at(random, place), chosen)
            assert isinstance(leaf, spaces.Box)
            half = (leaf.high.astype(np.float64) - leaf.low) / 2
            noise = half * self._generator.normal(size=chosen.shape) * _column(levels, chosen)
            disturbed: NDArray[Any] = chosen + noise
            return disturbed

        return fit_actions(map_space(of_leaf, self._action_space), self._action_space)


def _among_allowed(
    actions: Any, space: gymnasium.Space[Any], masks: NDArray[Any], generator: np.random.Generator
) -> Any:
    """Return random actions (N, ...) among those that are allowed.

    Args:
        actions: random actions, returned as they are if the masks aren't one flag for each choice.
        space: the action space of one environment.
        masks: bool (N, P), True for each choice that is allowed.
        generator: draws the actions.
    """
    variables = categories(space)
    if variables is None or masks.shape[1] != variables.sizes.sum():
        return actions
    scores = np.where(masks, generator.random(masks.shape), -1)
    ends = variables.sizes.cumsum()
    by_variable = np.split(scores, ends[:-1], axis=1)
    indices = np.stack([each.argmax(1) for each in by_variable], 1)
    return (indices + variables.starts).reshape(np.shape(actions))


def _column(values: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """Return values (N,) with as many dimensions as actions (N, ...), to be broadcast over them."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class EachEpisodeAnew(_Around):
    """Plays lives as another policy plays single episodes: each episode starts with an empty memory, as a life does.

    The reward that ended the episode before isn't shown either.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.takes_masks = takes_masks(policy)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: NDArray[Any] | None = None,
    ) -> tuple[Any, Any]:
        """Choose actions; `observation` is one of lives, or holds one beside a return-to-go."""
        inner = observation if "episode_start" in observation else observation["observation"]
        starts = inner["episode_start"] == 1
        view = self._view(observation, starts)
        return self._predicted(view, state, starts, deterministic, action_masks)

    def replace_actions(self, state: Any, actions: Any, replaced: NDArray[np.bool_]) -> Any:
        """See `Informed`; of no effect on other policies."""
        if is_informed(self._policy):
            return self._policy.replace_actions(state, actions, replaced)
        return state

    def _view(self, observation: Any, starts: NDArray[np.bool_]) -> Any:
        """Return what the policy observes."""
        if "episode_start" not in observation:
            return {**observation, "observation": self._view(observation["observation"], starts)}
        rewards = np.where(starts[:, None], np.float32(0), observation["previous_reward"])
        return {**observation, "previous_reward": rewards}


class OfEpisodes(EachEpisodeAnew):
    """Plays lives as a policy that knows only single episodes, and so observes what the environment shows in these."""

    def _view(self, observation: Any, starts: NDArray[np.bool_]) -> Any:
        return observation["observation"]


def make_expert(task: Task, options: Options, seed: int) -> Policy:
    """Return the task's expert.

    Raises:
        UsageError: the task has none, or an option doesn't fit it.
    """
    expert = getattr(task, "Expert", None)
    if expert is None:
        raise UsageError(
            f"{task.ID} has no expert to collect data from; name a data set with --dataset, or collect one with "
            "rmt-rl collect --policy"
        )
    config = task_config(task, options)
    if hasattr(task, "LIFETIME"):
        of_lives: Policy = expert(config, seed=seed)
        return of_lives
    arguments, lifetime = divided(task, config)
    policy: Policy = expert(validated(task.Config, arguments), seed=seed)
    return policy if lifetime is None else OfEpisodes(policy)


def has_expert(task: Task, options: Options) -> bool:
    """Return True if the task has an expert for these options."""
    try:
        make_expert(task, options, seed=0)
    except UsageError:
        return False
    return True
