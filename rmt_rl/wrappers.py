"""Wrappers of environments: the return still to come in the observation, and lives of several episodes.

An agent that is told which return to aim at must hear of rewards as they arrive. With the return-to-go in the
observation, any loop that knows only observations and actions, such as Stable-Baselines3's, needs no special case.

A life is several episodes of one task that are played as one, so that a memory lasts from episode to episode. The same
loops, data sets and agents thus serve lives, see `rmt_rl.lives`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs, seeding
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from rmt_rl.errors import UsageError
from rmt_rl.lives import EPISODE_OF_LIFE, EPISODE_RETURN, EPISODE_SUCCESS, SAME_TASK
from rmt_rl.numbers import Words, check_plain_numbers
from rmt_rl.success import SUCCESS, as_success

Observation: TypeAlias = dict[str, Any]
Info: TypeAlias = dict[str, Any]
Begun: TypeAlias = tuple[Observation, Info]
Step: TypeAlias = tuple[Observation, Any, bool, bool, Info]
VectorStep: TypeAlias = tuple[Observation, Any, Any, Any, Info]
AnyEnv: TypeAlias = gymnasium.Env[Any, Any]
AnyVectorEnv: TypeAlias = VectorEnv[Any, Any, Any]
ACTION_MASK = "action_mask"
"""The info of which actions are allowed next, as in Gymnasium's Taxi: a flag for each."""


def require_next_step(env: AnyVectorEnv) -> None:
    """Refuse a vector environment unless it resets each environment in the step after its episode's end.

    Raises:
        UsageError: the environment's autoreset mode is another one, or isn't declared.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise UsageError(f"{env} has autoreset_mode = {mode}; make it with AutoresetMode.NEXT_STEP")


def _check_target(target_return: float) -> None:
    """Raise a UsageError if a return to aim at is NaN, infinite or too large for float32."""
    words = Words("give a return that an episode can reach")
    check_plain_numbers(np.asarray(target_return), "target_return", words)


def return_to_go_space(observation_space: spaces.Space[Any]) -> spaces.Dict:
    """Return the space of `{"observation": ..., "return_to_go": float32 (1,)}`."""
    return_to_go = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    parts = {
        "observation": observation_space,
        "return_to_go": return_to_go,
    }
    return spaces.Dict(parts)


class ReturnToGo(gymnasium.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """Observes the return still to come: `target_return` at an episode's start, minus the rewards since."""

    def __init__(self, env: AnyEnv, target_return: float) -> None:
        """Wrap `env`; `target_return` is the undiscounted return to aim at.

        Raises:
            UsageError: the target return is NaN, infinite or too large for float32.
        """
        _check_target(target_return)
        RecordConstructorArgs.__init__(self, target_return=target_return)
        super().__init__(env)
        self.observation_space = return_to_go_space(env.observation_space)
        self._target = target_return
        self._to_go = target_return

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Info | None = None,
    ) -> Begun:
        """Begin an episode with the whole return still to come."""
        original, info = self.env.reset(seed=seed, options=options)
        self._to_go = self._target
        observation = self._observe(original)
        return observation, info

    def step(self, action: Any) -> Step:
        """Act, and take the reward off the return still to come."""
        original, reward, terminated, truncated, info = self.env.step(action)
        self._to_go -= float(reward)
        observation = self._observe(original)
        return observation, reward, terminated, truncated, info

    def _observe(self, observation: Any) -> Observation:
        return_to_go = np.array([self._to_go], np.float32)
        return {
            "observation": observation,
            "return_to_go": return_to_go,
        }


class VectorReturnToGo(VectorWrapper[Observation, Any, Any, Any, Any]):
    """`ReturnToGo` for a vector environment with next-step autoreset: `return_to_go` is float32 (N, 1)."""

    def __init__(self, env: AnyVectorEnv, target_return: float) -> None:
        """Wrap `env`; `target_return` is the undiscounted return to aim at.

        Raises:
            UsageError: the environment's autoreset mode is another one, or the target return is NaN, infinite or too
                large for float32.
        """
        _check_target(target_return)
        super().__init__(env)
        require_next_step(env)
        lanes = env.num_envs
        space = return_to_go_space(env.single_observation_space)
        self.single_observation_space = space
        self.observation_space = batch_space(space, lanes)
        self._target = target_return
        self._to_go = np.full(lanes, target_return, np.float64)
        self._resets = np.zeros(lanes, bool)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Info | None = None,
    ) -> Begun:
        """Begin an episode in every environment with the whole return still to come."""
        originals, infos = self.env.reset(seed=seed, options=options)
        self._to_go[:] = self._target
        self._resets[:] = False
        observations = self._observe(originals)
        return observations, infos

    def step(self, actions: Any) -> VectorStep:
        """Act, and take each reward off the return still to come; environments that are reset start anew."""
        originals, rewards, terminations, truncations, infos = self.env.step(actions)
        self._to_go -= rewards
        self._to_go[self._resets] = self._target
        self._resets = terminations | truncations
        observations = self._observe(originals)
        return observations, rewards, terminations, truncations, infos

    def _observe(self, observations: Any) -> Observation:
        returns_to_go = self._to_go.astype(np.float32)
        return {
            "observation": observations,
            "return_to_go": returns_to_go[:, None],
        }


def life_space(observation_space: spaces.Space[Any]) -> spaces.Dict:
    """Return the space of `{"observation": ..., "previous_reward": float32 (1,), "episode_start": 0 or 1}`."""
    parts = {
        "observation": observation_space,
        "previous_reward": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        "episode_start": spaces.Discrete(2),
    }
    return spaces.Dict(parts)


def _check_lifetime(episodes: int) -> None:
    if episodes < 1:
        raise UsageError(f"episodes={episodes}: a life has at least 1 episode")


class Lifetime(gymnasium.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """Makes one episode, a life, of several episodes of the same task.

    The observation tells also the reward of the step before, 0 at a life's start, and whether an episode of the life
    starts. When an episode of the life ends, the next one starts at once: its first observation takes the place of the
    ended one's last. The life ends with its last episode, whose `is_success` is the life's.

    The task stays the same as the environment is reset with the life's seed again. So all that the seed decides stays
    the same, in each episode of the life. If a life is reset without a seed, its seed is drawn. An environment whose
    metadata say `same_task` gets `reset(options={"same_task": True})` instead, and knows best.

    Args:
        env: the environment.
        episodes: the number of episodes of a life.

    Raises:
        UsageError: `episodes` is less than 1.
    """

    def __init__(self, env: AnyEnv, episodes: int) -> None:
        _check_lifetime(episodes)
        RecordConstructorArgs.__init__(self, episodes=episodes)
        super().__init__(env)
        self.observation_space = life_space(env.observation_space)
        self._knows_task = bool(env.metadata.get(SAME_TASK))
        self._episodes = episodes
        self._episode = 0
        self._return = 0.0
        self._seed = 0
        self._seeds: np.random.Generator | None = None

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Info | None = None,
    ) -> Begun:
        """Begin a life."""
        self._episode = 0
        self._return = 0.0
        if not self._knows_task:
            seed = self._seed = self._drawn_seed(seed)
        original, info = self.env.reset(seed=seed, options=options)
        observation = self._observe(original, 0.0, starts=True)
        return observation, info

    def step(self, action: Any) -> Step:
        """Act; begin the next episode of the life if one ends."""
        original, reward, terminated, truncated, info = self.env.step(action)
        self._return += float(reward)
        starts = False
        if terminated or truncated:
            info = self._told(info)
            self._episode += 1
            starts = self._episode < self._episodes
        if starts:
            info.pop(SUCCESS, None)
            original, begun = self._begin_again()
            info = _with_mask_of(begun, info)
            terminated = truncated = False
        observation = self._observe(original, float(reward), starts)
        return observation, reward, terminated, truncated, info

    def _drawn_seed(self, seed: int | None) -> int:
        """Return the seed of a life: the one given, from which the seeds of later lives follow, or one drawn."""
        if seed is None and self._seeds is not None:
            return int(self._seeds.integers(2**31))
        self._seeds, drawn = seeding.np_random(seed)
        return drawn % 2**31 if seed is None else seed

    def _begin_again(self) -> Begun:
        """Begin another episode of the same task."""
        self._return = 0.0
        if self._knows_task:
            return self.env.reset(options={SAME_TASK: True})
        return self.env.reset(seed=self._seed)

    def _told(self, info: Info) -> Info:
        """Return the infos of a step that ends an episode of the life."""
        told = {**info, EPISODE_OF_LIFE: self._episode, EPISODE_RETURN: self._return}
        success = as_success(info.get(SUCCESS))
        return told if success is None else told | {EPISODE_SUCCESS: success}

    def _observe(self, observation: Any, reward: float, starts: bool) -> Observation:
        return {
            "observation": observation,
            "previous_reward": np.array([reward], np.float32),
            "episode_start": np.int64(starts),
        }


def _with_mask_of(begun: Info, info: Info) -> Info:
    """Return the infos of a step that ended an episode with the action mask, if any, of the episode that began."""
    others = {name: value for name, value in info.items() if name != ACTION_MASK}
    return others | {ACTION_MASK: begun[ACTION_MASK]} if ACTION_MASK in begun else others


class VectorLifetime(VectorWrapper[Observation, Any, Any, Any, Any]):
    """`Lifetime` for a vector environment that can begin some of its environments again, without loops over these.

    Args:
        env: has next-step autoreset and a method `begin_again(indices)`, which starts another episode of the same task
            in these environments at once, and returns its first observations.
        episodes: the number of episodes of a life.

    Raises:
        UsageError: the environment's autoreset mode is another one, it can't begin environments again, or `episodes` is
            less than 1.
    """

    def __init__(self, env: AnyVectorEnv, episodes: int) -> None:
        _check_lifetime(episodes)
        super().__init__(env)
        require_next_step(env)
        begin_again = getattr(env.unwrapped, "begin_again", None)
        if begin_again is None:
            raise UsageError(f"{env} has no method begin_again; wrap each of its environments in Lifetime instead")
        lanes = env.num_envs
        space = life_space(env.single_observation_space)
        self.single_observation_space = space
        self.observation_space = batch_space(space, lanes)
        self._begin_again = begin_again
        self._episodes = episodes
        self._episode = np.zeros(lanes, np.int64)
        self._returns = np.zeros(lanes)
        self._resets = np.zeros(lanes, bool)

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Info | None = None,
    ) -> Begun:
        """Begin a life in every environment."""
        originals, infos = self.env.reset(seed=seed, options=options)
        self._resets[:] = True
        self._begin_lives()
        rewards = np.zeros(self.num_envs)
        starts = np.ones(self.num_envs, bool)
        return self._observe(originals, rewards, starts), infos

    def step(self, actions: Any) -> VectorStep:
        """Act; begin the next episode of the life in environments where one ends."""
        originals, rewards, terminations, truncations, infos = self.env.step(actions)
        rewards = np.where(self._resets, 0.0, rewards)
        starts = self._resets.copy()  # of lives
        self._begin_lives()
        self._returns += rewards
        ended = terminations | truncations
        if ended.any():
            infos = self._told(infos, ended)
            self._episode += ended
            again = ended & (self._episode < self._episodes)
            infos.update(_of_lives(infos, ended & ~again))
            originals = self._restarted(originals, again)
            self._returns[ended] = 0
            terminations, truncations = terminations & ~again, truncations & ~again
            starts |= again
            self._resets = ended & ~again
        return self._observe(originals, rewards, starts), rewards, terminations, truncations, infos

    def _begin_lives(self) -> None:
        """Begin to count in environments that are reset."""
        self._episode[self._resets] = 0
        self._returns[self._resets] = 0
        self._resets = np.zeros(self.num_envs, bool)

    def _restarted(self, observations: Any, again: Any) -> Any:
        """Return observations with the first ones of another episode where `again`, bool (N,)."""
        indices = np.flatnonzero(again)
        if not len(indices):
            return observations
        whole = observations.copy()
        whole[indices] = self._begin_again(indices)
        return whole

    def _told(self, infos: Info, ended: Any) -> Info:
        """Return the infos of a step that ends episodes of lives where `ended`, bool (N,)."""
        told = {**infos, EPISODE_OF_LIFE: self._episode.copy(), EPISODE_RETURN: self._returns.copy()}
        if SUCCESS in infos:
            told[EPISODE_SUCCESS] = infos[SUCCESS]
        masks = {f"_{name}": ended for name in told.keys() - infos.keys()}
        return told | masks

    def _observe(self, observations: Any, rewards: Any, starts: Any) -> Observation:
        return {
            "observation": observations,
            "previous_reward": rewards.astype(np.float32)[:, None],
            "episode_start": starts.astype(np.int64),
        }


def _of_lives(infos: Info, ended: Any) -> Info:
    """Return the infos about success for lives that ended, bool (N,); the other episodes go on in their lives."""
    mask = f"_{SUCCESS}"
    return {mask: infos[mask] & ended} if mask in infos else {}
