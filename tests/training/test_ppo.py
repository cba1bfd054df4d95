"""PPO on segments: what acting computed is what learning computes, and the losses are Stable-Baselines3's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGTERM
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import rmt_rl
from rmt_rl import signals
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.data.segment import Segment
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import detach
from rmt_rl.registry import agent_class, load_task, names
from rmt_rl.runs.checkpoint import read_checkpoint
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.options import learner_class
from rmt_rl.training.learners.ppo import PPOLearner, PPORun
from rmt_rl.training.ppo.algorithm import SegmentPPO
from rmt_rl.training.ppo.policy import SegmentPolicy
from tests.tiny import known_options, work_folder

AGENTS = [name for name in names("agents") if agent_class(name).learner == Agent.learner]
SMALL = {"segment_length": 4, "width": 16, "heads": 2, "layers": 1}
TINY = "--n-envs 2 --n-steps 8 --batch-size 16 --agent.segment-length 4 --agent.width 16 --eval-episodes 0"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        yield folder


def algorithm(
    agent: str = "rate",
    env: str = "tmaze",
    env_options: dict[str, Any] | None = None,
    chain: int = 2,
    burn_in: int = 0,
    replay: bool = False,
    **options: Any,
) -> SegmentPPO:
    """Return PPO with four environments, 13 steps a round, and a small agent."""
    task = load_task(env)
    chosen = validated(task.Config, {"corridor_length": (1, 9)} if env_options is None else env_options)
    vec_env = make_vec_env(lambda: make_env(task, chosen), 4, seed=0)
    cls = agent_class(agent)
    torch.manual_seed(0)
    model = cls(
        validated(cls.Config, known_options(agent, SMALL)),
        AgentSpec(vec_env.observation_space, vec_env.action_space),
    )
    assert isinstance(model, Agent)
    model.set_random_seed(0)
    policy = SegmentPolicy(model, learning_rate=1e-2, replay=replay)
    given = {"n_steps": 13, "batch_size": 26, "n_epochs": 2} | options
    made = SegmentPPO(policy, vec_env, chain, burn_in, **given)
    made.set_logger(Logger(None, []))
    return made


def play(made: SegmentPPO) -> None:
    """Play one round and learn nothing from it."""
    _, callback = made._setup_learn(10_000, reset_num_timesteps=False)
    assert made.env is not None
    made.collect_rollouts(made.env, callback, made.rollout_buffer, made.n_steps)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("burn_in", [0, 1])
def test_segments_give_the_probabilities_and_values_that_acting_had(agent: str, burn_in: int) -> None:
    made = algorithm(agent, burn_in=burn_in)
    for _ in range(3):  # in later rounds, episodes go on that began under other weights
        play(made)
        made.policy.set_training_mode(False)
        steps = 0
        for samples in made.rollout_buffer.get(20):
            values, log_probabilities, entropy = made.policy.evaluate_actions(samples.observations, samples.actions)  # type: ignore[arg-type]
            torch.testing.assert_close(log_probabilities, samples.old_log_prob, atol=1e-5, rtol=0)
            torch.testing.assert_close(values, samples.old_values, atol=1e-5, rtol=0)
            assert entropy is not None
            assert (entropy >= 0).all()
            steps += len(values)
        assert steps == 4 * 13  # each step is learnt from once
        made.train()


def gradients(made: SegmentPPO) -> list[Tensor]:
    """Return the gradient of one minibatch of all steps."""
    made.n_epochs, made.batch_size = 1, 52
    made.lr_schedule = lambda _: 0.0
    np.random.seed(0)  # of the order of chains
    made.train()
    return [torch.zeros(1) if each.grad is None else each.grad.clone() for each in made.policy.parameters()]


def test_replay_gives_the_gradient_of_all_segments_and_a_shorter_chain_another_one() -> None:
    found = {}
    for name, chain, replay in [("full", 4, False), ("replay", 4, True), ("cut", 1, False)]:
        made = algorithm(env_options={"corridor_length": 12}, chain=chain, replay=replay)
        play(made)
        found[name] = gradients(made)
    for full, replayed in zip(found["full"], found["replay"], strict=True):
        torch.testing.assert_close(replayed, full, atol=1e-6, rtol=1e-4)
    assert any(not torch.allclose(full, cut, atol=1e-6) for full, cut in zip(found["full"], found["cut"], strict=True))


class EachStep(nn.Module):
    """The policy of an agent without a memory, one step at a time, as Stable-Baselines3 evaluates it."""

    def __init__(self, policy: SegmentPolicy) -> None:
        super().__init__()
        self.inner = policy
        self.optimizer = torch.optim.SGD(policy.parameters(), 0.0)

    def set_training_mode(self, mode: bool) -> None:
        self.train(mode)

    def evaluate_actions(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        agent, count = self.inner.agent, len(observations)
        nothing = torch.zeros(count, 1)
        segment = Segment(
            observations=observations[:, None],
            actions=actions[:, None],
            returns_to_go=nothing,
            rewards=nothing,
            terminations=nothing.bool(),
            truncations=nothing.bool(),
            lengths=torch.ones(count, dtype=torch.long),
            full=True,
        )
        y, logits, _ = self.inner.unroller.run(segment, agent.initial_state(count))
        log_probabilities = -agent.head.loss(logits[:, 0], actions)
        return self.inner.critic(y[:, 0]), log_probabilities, agent.head.entropy(logits[:, 0])


def test_without_a_memory_losses_and_gradients_are_those_of_stable_baselines3() -> None:
    made = algorithm("bc", "CartPole-v1", env_options={})
    play(made)
    ours = made.rollout_buffer
    plain = RolloutBuffer(13, made.observation_space, made.action_space, "cpu", made.gae_lambda, made.gamma, 4)
    for step in range(13):
        plain.add(
            ours.played.observations[step],
            ours.played.actions[step].reshape(-1, 1),
            ours.rewards[step],
            ours.episode_starts[step],
            torch.from_numpy(ours.values[step]),
            torch.from_numpy(ours.log_probs[step]),
        )
    assert made._last_obs is not None
    last_values = made.policy.critic(made.policy.agent.attend(made._last_obs).features)
    plain.compute_returns_and_advantage(last_values.detach(), np.asarray(made._last_episode_starts))
    np.testing.assert_allclose(ours.advantages, plain.advantages, atol=1e-5)
    assert made.env is not None
    peer = PPO("MlpPolicy", made.env, n_steps=13, batch_size=52, n_epochs=1, ent_coef=made.ent_coef)
    peer.set_logger(Logger(None, []))
    peer.lr_schedule = lambda _: 0.0
    peer.policy = EachStep(made.policy)  # type: ignore[assignment]
    peer.rollout_buffer = plain
    of_ours = gradients(made)
    ours_logged = dict(made.logger.name_to_value)
    made.policy.zero_grad()
    peer.train()
    expected = [torch.zeros(1) if each.grad is None else each.grad for each in made.policy.parameters()]
    for own, other in zip(of_ours, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=0)
    for name in ["train/policy_gradient_loss", "train/value_loss", "train/entropy_loss", "train/loss"]:
        assert ours_logged[name] == pytest.approx(peer.logger.name_to_value[name], abs=1e-5)


def test_a_state_of_older_weights_is_carried_and_burn_in_computes_it_anew() -> None:
    carried = {}
    for burn_in in (0, 3):
        made = algorithm(env_options={"corridor_length": 40}, burn_in=burn_in)
        play(made)
        made.train()
        play(made)
        carried[burn_in] = detach(made.memory)
        assert len(made.kept) <= 4 * (burn_in + 1)
    leaves = [list(torch.utils._pytree.tree_leaves(state)) for state in carried.values()]
    assert any(not torch.equal(one, other) for one, other in zip(*leaves, strict=True))


def test_the_command_trains_resumes_and_the_agent_is_evaluated(work: Path) -> None:
    options = f"--total-timesteps 32 {TINY} --normalize-reward always"
    assert main(f"train tmaze rate --learner ppo {options} --out a".split()) == 0
    config = Path("a/config.toml")
    assert 'learner = "ppo"' in config.read_text()
    agent = rmt_rl.load("a")
    assert agent.tokens == ("observation", "action")
    config.write_text(config.read_text().replace("total_timesteps = 32", "total_timesteps = 48"))
    assert main(["train", "--resume", "a"]) == 0
    assert read_checkpoint(Path("a/last.safetensors")).header.update == 48
    assert main(["evaluate", "a", "--vary", "corridor_length=3,9", "--episodes", "3"]) == 0
    assert main(["plot", "a", "--out", "a.png"]) == 0


def test_a_round_that_is_undone_leaves_the_scale_of_rewards(work: Path) -> None:
    options = {"learner": "ppo", "normalize_reward": "always", "agent_options": SMALL | {"heads": 4}}
    config = named_config("tmaze", "rate", options)
    with closing(learner_class("rate", "ppo")(config)) as learner:
        assert isinstance(learner, PPOLearner)
        before = learner.progress()

        def stopped_round() -> None:
            with learner._whole_or_not():
                assert isinstance(learner.env, VecNormalize)
                learner.env.ret_rms.update(np.arange(3.0))
                assert learner.progress() != before
                raise signals.Stopped(SIGTERM)

        with pytest.raises(signals.Stopped):
            stopped_round()
        assert learner.progress() == before


def test_large_rewards_are_divided_and_small_ones_are_left() -> None:
    def played(env: str, normalized: str) -> tuple[Any, Any]:
        options = {"learner": "ppo", "normalize_reward": normalized, "n_envs": 2, "agent_options": SMALL | {"heads": 4}}
        with closing(learner_class("rate", "ppo")(named_config(env, "rate", options))) as learner:
            assert isinstance(learner, PPOLearner)
            learner.env.seed(0)
            learner.env.reset()
            space = learner.env.action_space
            space.seed(0)
            rewards = [learner.env.step(np.stack([space.sample(), space.sample()]))[1] for _ in range(60)]
            return np.stack(rewards), learner._moments()

    raw, moments = played("CartPole-v1", "never")
    assert moments is None
    assert (raw == 1).all()
    divided, moments = played("CartPole-v1", "large")
    assert moments.var > 1
    assert divided[-1] == pytest.approx(1 / moments.var**0.5)
    assert divided[0] == pytest.approx(1)  # returns don't differ yet
    assert (divided <= 1).all()
    always, _ = played("CartPole-v1", "always")
    assert always[-1] == pytest.approx(divided[-1])
    assert (always[0] > 1).all()
    small, moments = played("tmaze", "large")
    assert 0 < moments.var < 1
    assert np.array_equal(small, played("tmaze", "never")[0])


def test_flags_of_earlier_configs_are_understood() -> None:
    for flag, meaning in ((True, "always"), (False, "never")):
        config = named_config("tmaze", "rate", {"learner": "ppo", "normalize_reward": flag})
        assert isinstance(config, PPORun)
        assert config.online.normalize_reward == meaning


def test_a_run_repeated_with_its_seed_has_the_same_weights(work: Path) -> None:
    for out in ("b", "c"):
        assert main(f"train tmaze dlstm --learner ppo --total-timesteps 32 {TINY} --out {out}".split()) == 0
    first, second = (read_checkpoint(Path(out, "last.safetensors")).group("agent") for out in ("b", "c"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_has_no_core_or_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="'ppo' has losses of its own"):
        named_config("tmaze", "ppo", {"learner": "ppo"})
    assert main(["train", "tmaze", "rate", "--learner", "pppo"]) == 2
    assert "unknown learner 'pppo'" in capsys.readouterr().err
