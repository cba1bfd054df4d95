"""Action masks as sb3-contrib's MaskablePPO has them: the same probabilities, and no masked action is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableCategoricalDistribution,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
)
from stable_baselines3.common.env_util import make_vec_env as make_vec_env_of_sb3

import rmt_rl
from rmt_rl.acting.rollout import action_masks, make_vec_env
from rmt_rl.environments import stacked_masks
from rmt_rl.errors import UsageError
from rmt_rl.nn.heads import head
from rmt_rl.registry import load_task
from rmt_rl.training.ppo.masks import Masks
from tests.masked import SIZES
from tests.tiny import known_options
from tests.training.test_ppo import SMALL, algorithm, play

MASKED = "tests.masked:MaskedTask"


@pytest.mark.parametrize("sizes", [[5], SIZES])
def test_probabilities_and_entropies_are_those_of_sb3_contrib(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(50, sum(sizes), generator=generator)
    allowed = torch.rand(logits.shape, generator=generator) < 0.5
    for variable in allowed.split(sizes, -1):
        variable[:, 0] |= ~variable.any(-1)
    space: spaces.Space[Any]
    peer: MaskableDistribution
    if len(sizes) == 1:
        space = spaces.Discrete(sizes[0])
        peer = MaskableCategoricalDistribution(sizes[0]).proba_distribution(logits)
    else:
        space = spaces.MultiDiscrete(sizes)
        peer = MaskableMultiCategoricalDistribution(sizes).proba_distribution(logits)
    peer.apply_masking(allowed.numpy())
    ours = head(space)
    masked = ours.masked(logits, allowed)
    chosen = ours.choose(masked, generator)
    actions = chosen[:, 0] if len(sizes) == 1 else chosen
    torch.testing.assert_close(-ours.chosen_loss(masked, chosen), peer.log_prob(actions))
    torch.testing.assert_close(ours.entropy(masked), peer.entropy())
    torch.testing.assert_close(ours.divergence(masked, masked), torch.zeros(50))


def test_no_masked_action_is_played_and_learning_has_the_probabilities_of_acting() -> None:
    made = algorithm("rate", MASKED, env_options={})
    for _ in range(2):
        play(made)  # the environment raises at a masked action
        made.policy.set_training_mode(False)
        for samples in made.rollout_buffer.get(20):
            _, log_probabilities, _ = made.policy.evaluate_actions(samples.observations, samples.actions)  # type: ignore[arg-type]
            torch.testing.assert_close(log_probabilities, samples.old_log_prob, atol=1e-5, rtol=0)
        made.train()


def test_masks_in_infos_count_for_the_next_action_also_behind_an_episode() -> None:
    made = algorithm("dlstm", "Taxi-v4", env_options={}, n_steps=205)  # of 200 an episode
    play(made)
    played = made.rollout_buffer.played
    assert played.allowed is not None
    assert not played.allowed.all()
    taxi = gymnasium.make("Taxi-v4").unwrapped
    for observation, allowed in zip(played.observations.ravel(), played.allowed.reshape(-1, 6), strict=True):
        np.testing.assert_array_equal(allowed, taxi.action_mask(int(observation)))  # type: ignore[attr-defined]
    assert np.take_along_axis(played.allowed, played.actions[..., None].astype(int), -1).all()


def test_an_agent_is_evaluated_among_the_actions_that_are_allowed(tmp_path: Path) -> None:
    small = known_options("rate", SMALL)
    agent = rmt_rl.train(
        MASKED,
        "rate",
        tmp_path / "run",
        learner="ppo",
        n_envs=2,
        n_steps=8,
        batch_size=16,
        total_timesteps=16,
        agent_options=small,
        eval_episodes=4,
    )
    assert len(rmt_rl.evaluate(agent, MASKED, episodes=4, deterministic=False).episodes) == 4
    vector = make_vec_env(load_task("Taxi-v4"), {}, 2)
    _, infos = vector.reset(seed=0)
    masks = action_masks(vector, infos, from_method=False)
    assert masks is not None
    assert masks.shape == (2, 6)
    assert not masks.all()
    one = np.zeros(5, bool)
    one[[1, 4]] = True
    action, _ = agent.predict(np.zeros(1, np.float32), action_masks=one)  # type: ignore[call-arg]
    assert action.tolist() == [1, 1]


def test_an_ended_episode_may_allow_no_action() -> None:
    task = "tests.masked:ExhaustedTask"
    agent = algorithm("dlstm", task, env_options={}).policy.agent
    assert len(rmt_rl.evaluate(agent, task, episodes=3, num_envs=2, deterministic=False).episodes) == 3


def test_masks_that_fit_nothing_are_refused() -> None:
    ours = head(spaces.Discrete(3))
    with pytest.raises(UsageError, match="asks for 3 flags"):
        ours.masked(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match="allows no action"):
        ours.masked(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match="action masks are for Discrete"):
        head(spaces.Box(-1, 1, (1,))).masked(torch.zeros(1, 41), torch.ones(1, 41, dtype=torch.bool))
    with pytest.raises(UsageError, match="'action_mask' in its infos"):
        head(spaces.Box(-1, 1, (1,))).masked(torch.zeros(1, 41), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"masks have 2, 3 flags"):
        stacked_masks([np.ones(3), None, np.ones(2)])
    assert stacked_masks([None, None]) is None
    masks = stacked_masks([None, [1, 0]])
    assert masks is not None
    assert masks.tolist() == [[True, True], [True, False]]


def test_an_attribute_that_is_no_method_gives_no_masks() -> None:
    env = make_vec_env_of_sb3(lambda: gymnasium.make("CartPole-v1"), 2)
    env.set_attr("action_masks", None)
    assert Masks(env).next([{}, {}], np.zeros(2, bool)) is None
