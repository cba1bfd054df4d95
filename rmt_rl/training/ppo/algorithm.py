"""Stable-Baselines3's PPO with the rollout of an agent that has a memory.

Acting goes on with the agent's state, a rollout is kept as segments, and minibatches are chains of consecutive
segments that begin with the states that acting had there. Losses, advantages, clipping, the optimiser and logs are
Stable-Baselines3's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from rmt_rl.agent import ActingState
from rmt_rl.recurrence import Tree
from rmt_rl.training.ppo.leash import Leash
from rmt_rl.training.ppo.masks import Masks
from rmt_rl.training.ppo.played import Place, Played, Step, Stretch
from rmt_rl.training.ppo.policy import Chains, SegmentPolicy
from rmt_rl.training.ppo.unrolling import States
from rmt_rl.trees import map_leaves

Array = NDArray[Any]
NOWHERE = spaces.Box(0, 0, (1,))
"""The space of the observations and actions in Stable-Baselines3's buffer, which ours aren't in."""


class Chain(NamedTuple):
    """Consecutive segments of an episode.

    Attributes:
        place: the indices of the part and of its segment that is the first one here.
        segments: their steps.
        steps: number of steps to learn from.
    """

    place: Place
    segments: Sequence[Stretch]
    steps: int


class SegmentRollout(RolloutBuffer):
    """A rollout: rewards, values and advantages as Stable-Baselines3 keeps them, and the steps in segments.

    Attributes:
        played: the steps, those before the rollout first.
        first: number of steps before the rollout.
        chains: the chains of segments that minibatches are drawn from.
        states: the core's states before all segments.
        start: the logits (T, B, P) that the agent had at its start; None without a leash.
    """

    played: Played
    first: int
    chains: Sequence[Chain]
    states: States
    start: Array | None

    def __init__(self, n_steps: int, device: torch.device, gae_lambda: float, gamma: float, n_envs: int) -> None:
        super().__init__(n_steps, NOWHERE, NOWHERE, device, gae_lambda, gamma, n_envs)

    def put(self, rewards: Array, starts: Array, values: Tensor, log_probabilities: Tensor) -> None:
        """Add a step of all lanes."""
        nothing = np.zeros((self.n_envs, 1), np.float32)
        self.add(nothing, nothing, rewards, starts, values, log_probabilities)

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Yield minibatches of chains in a random order, of `batch_size` steps or somewhat more."""
        wanted = batch_size or self.n_envs * self.buffer_size
        chosen: list[Chain] = []
        steps = 0
        for index in np.random.permutation(len(self.chains)):
            chain = self.chains[index]
            chosen.append(chain)
            steps += chain.steps
            if steps >= wanted:
                yield self._samples(chosen)
                chosen, steps = [], 0
        if chosen:
            yield self._samples(chosen)

    def _samples(self, chosen: Sequence[Chain]) -> RolloutBufferSamples:
        """Return the steps of these chains, in the order in which the policy evaluates them."""
        device = torch.device(self.device)
        played = self.played
        length = max(len(chain.segments) for chain in chosen)
        segments = []
        for place in range(length):
            stretches = [_at(chain.segments, place) for chain in chosen]
            segment, places = played.segment(stretches, device)
            segments.append((segment, places.since(self.first)))
        state = self.states.select([chain.place for chain in chosen], device)
        steps = np.concatenate([places.steps[places.real] for _, places in segments]) - self.first
        lanes = np.concatenate([places.lanes[places.real] for _, places in segments])

        def of(array: Array) -> Tensor:
            return self.to_torch(array[steps, lanes])

        start = None if self.start is None else of(self.start)
        allowed = None if played.allowed is None else of(played.allowed[self.first :]).bool()
        return RolloutBufferSamples(
            Chains(segments, state, start, allowed),  # type: ignore[arg-type] # which `SegmentPolicy.evaluate_actions` takes
            of(played.chosen[self.first :]),
            of(self.values),
            of(self.log_probs),
            of(self.advantages),
            of(self.returns),
        )


def _at(segments: Sequence[Stretch], place: int) -> Stretch:
    """Return a chain's segment, one without steps behind its last."""
    if place < len(segments):
        return segments[place]
    lane, start, _ = segments[0]
    return Stretch(lane, start, start)


class SegmentPPO(PPO):
    """PPO of a `SegmentPolicy`.

    Args:
        policy: the agent with its critic.
        env: the environments, whose spaces are the agent's.
        chain: segments that the gradient crosses.
        burn_in: closed segments before the open one from which, after each change of the weights, the state is computed
            anew (R2D2's burn-in, Kapturowski et al., ICLR 2019). Further back it is that of older weights.
        leash: keeps the agent near to its start; None doesn't.
        value_warmup: steps, rounded up to whole rounds, in which only the critic learns.
        options: arguments of Stable-Baselines3's PPO.
    """

    policy: SegmentPolicy  # type: ignore[assignment]
    rollout_buffer: SegmentRollout

    def __init__(
        self,
        policy: SegmentPolicy,
        env: VecEnv,
        chain: int,
        burn_in: int,
        leash: Leash | None = None,
        value_warmup: int = 0,
        **options: Any,
    ) -> None:
        device = policy.agent.device
        super().__init__("MlpPolicy", None, device=device, _init_setup_model=False, **options)  # type: ignore[arg-type]
        self.env = env
        self.n_envs = env.num_envs
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.policy = policy
        self.chain = chain
        self.burn_in = burn_in
        self.leash = leash
        self.value_warmup = value_warmup
        self._setup_lr_schedule()
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)
        self.rollout_buffer = SegmentRollout(self.n_steps, device, self.gae_lambda, self.gamma, self.n_envs)
        self.kept: list[Step] = []  # of open segments, and of `burn_in` ones before
        self.opened = np.zeros(self.n_envs, np.int64)  # (B,) the first of these steps in each lane
        self.memory: Tree = policy.agent.initial_state(self.n_envs)  # before that step
        self.last_infos: Sequence[dict[str, Any]] = [{}] * self.n_envs
        self.collected = np.zeros(self.n_envs)  # (B,) rewards of the open episodes

    @property
    def segment_length(self) -> int:
        """Steps of a full segment."""
        length: int = self.policy.agent.config.segment_length
        return length

    def train(self) -> None:
        """Learn from the rollout."""
        policy = self.policy
        before = self.num_timesteps - self.n_steps * self.n_envs
        only_critic = before < self.value_warmup
        policy.agent.requires_grad_(not only_critic)
        policy.leash_weight = self._leash_weight(before)
        policy.divergences.clear()
        super().train()
        if policy.divergences:
            self.logger.record("train/start_kl", np.mean(policy.divergences))
            self.logger.record("train/kl_coef", policy.leash_weight)

    def _leash_weight(self, step: int) -> float:
        return 0.0 if self.leash is None else self.leash.options.at(step)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play `n_rollout_steps` in every environment."""
        assert self._last_episode_starts is not None
        policy, buffer = self.policy, self.rollout_buffer
        policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        first = len(self.kept)
        state = self._acting_state()
        masks = Masks(env)
        infos = self.last_infos
        for _ in range(n_rollout_steps):
            starts = np.asarray(self._last_episode_starts, bool)
            returns = self._returns_to_go(starts)
            allowed = masks.next(infos, starts)
            choice = policy.choose(self._last_obs, returns, state, starts, allowed)
            state = choice.state
            self.kept.append(
                Step(map_leaves(np.copy, self._last_obs), choice.actions, choice.chosen, returns, starts, allowed)
            )
            seen, rewards, dones, infos = env.step(_by_lane(choice.actions, self.n_envs))
            self.collected += _raw(env, rewards)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            rewards = rewards + self.gamma * self._values_at_limits(infos, state)
            buffer.put(rewards, starts, choice.values, choice.log_probabilities)
            self._last_obs, self._last_episode_starts = seen, dones  # type: ignore[assignment] # a tuple is fine, too
        self.last_infos = infos
        assert state is not None
        every = np.arange(self.n_envs)
        last = policy.values(self._last_obs, self._returns_to_go(dones), state, every)
        buffer.compute_returns_and_advantage(last, dones)
        self._cut(first, dones)
        callback.on_rollout_end()
        return True

    def _returns_to_go(self, starts: NDArray[np.bool_]) -> Array:
        self.collected[starts] = 0
        target = self.policy.agent.spec.target_return
        return (target - self.collected).astype(np.float32)

    def _values_at_limits(self, infos: Sequence[dict[str, Any]], state: ActingState) -> Array:
        """Return the values (B,) of the observations at which a limit cut episodes off; 0 elsewhere."""
        values = np.zeros(self.n_envs, np.float32)
        cut = [lane for lane, info in enumerate(infos) if info.get("TimeLimit.truncated") is True]
        if cut:
            first, *others = [infos[lane]["terminal_observation"] for lane in cut]
            observations = map_leaves(lambda *leaves: np.stack(leaves), first, *others)
            lanes = np.array(cut)
            returns = (self.policy.agent.spec.target_return - self.collected[lanes]).astype(np.float32)
            values[lanes] = self.policy.values(observations, returns, state, lanes).cpu().numpy()
        return values

    def _acting_state(self) -> ActingState | None:
        """Return the state of acting behind the kept steps, computed with today's weights."""
        if not self.kept:
            return None
        played = Played.of(self.kept)
        parts = played.parts(self.opened, self.segment_length)
        stretches = [Stretch(lane, 0, 0) for lane in range(self.n_envs)]  # of lanes where an episode begins
        chosen: list[Place] = [(0, 0)] * self.n_envs
        for index, part in enumerate(parts):
            last = part.segments[-1]
            stretches[last.lane] = last
            chosen[last.lane] = index, len(part.segments) - 1
        states = self.policy.unroller.states(played, parts, self.memory)
        return self.policy.unroller.opened(played, stretches, states.select(chosen, self.policy.agent.device))

    def _cut(self, first: int, dones: Array) -> None:
        """Cut the steps into chains to learn from, and keep what the next rollout needs of them."""
        buffer = self.rollout_buffer
        played = Played.of(self.kept)
        parts = played.parts(self.opened, self.segment_length)
        states = self.policy.unroller.states(played, parts, self.memory)
        chains = []
        opened = np.full(self.n_envs, len(self.kept))
        chosen: list[Place] = [(0, 0)] * self.n_envs
        for index, part in enumerate(parts):
            for place, segments in part.chains(self.chain):
                steps = segments[-1].stop - max(segments[0].start, first)
                if steps > 0:
                    chains.append(Chain((index, place), segments, steps))
            earliest = max(0, len(part.segments) - 1 - self.burn_in)
            lane, start, _ = part.segments[earliest]
            if part.segments[-1].stop == len(self.kept) and not dones[lane]:
                opened[lane] = start
                chosen[lane] = index, earliest
        buffer.played, buffer.first, buffer.chains, buffer.states = played, first, chains, states
        self.memory = states.select(chosen, self.policy.agent.device)
        is_leashed = self._leash_weight(self.num_timesteps - self.n_steps * self.n_envs) > 0
        buffer.start = self.leash.logits(played, parts, first, chosen) if self.leash and is_leashed else None
        begin = int(opened.min())
        self.kept = self.kept[begin:]
        self.opened = opened - begin


def _by_lane(actions: Any, count: int) -> Any:
    """Return the actions of the lanes one by one."""
    return [map_leaves(lambda leaf, lane=lane: leaf[lane], actions) for lane in range(count)]


def _raw(env: VecEnv, rewards: Array) -> Array:
    """Return rewards as the environments gave them."""
    return env.get_original_reward() if isinstance(env, VecNormalize) else rewards
